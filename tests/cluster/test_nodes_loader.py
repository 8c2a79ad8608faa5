"""A load from outside over real workers: one of them dies in the middle, and nothing is fetched twice for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterlab import ClusterLab, NodeLab, random_objects
from servers import ports_for
from workerlab import MIB, eventually, file_mount

from forebay.api.loadresult import FINAL
from forebay.cache.loader import Loader, LoadError, Order, Target
from forebay.cache.peers import controlwire as c
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient
from forebay.cli.processes.loading import carried_out

pytestmark = pytest.mark.cluster

SIZES = {**{f"small/{i:03}": 20_000 + i for i in range(90)}, **{f"large/{i:03}": MIB for i in range(120)}}
TOTAL = sum(SIZES.values())


class Site:
    """Three workers with control doors over a directory."""

    def __init__(self, root: Path) -> None:
        store = root / "store"
        for name, data in random_objects(SIZES).items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(data)
        (root / "lab").mkdir()
        self.lab = ClusterLab(root / "lab", [file_mount(store)], workers=3)
        for node, port in zip(self.lab.workers, ports_for(3), strict=True):
            node.respec(control=f"127.0.0.1:{port}")
        self.client = ControlClient(Key(load_secret(str(self.lab.secret)), "default/lab"))

    def node(self, number: int) -> NodeLab:
        return self.lab.nodes[f"node-{number}"]

    def doors(self) -> list[str]:
        return [node.cluster.control for node in self.lab.workers]

    def loader(self, *targets: Target, **order: bool) -> Loader:
        return Loader(self.client, self.doors, Order(targets, **order))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.lab:
        made.lab.start()
        yield made
        made.client.close()


@pytest.mark.parametrize("dies", [1, 2], ids=["the one that is asked", "another"])
def test_a_worker_that_dies_in_the_middle_costs_time_and_little_else(site: Site, dies: int) -> None:
    seen: list[c.Progress] = []
    told = threading.Event()

    def run() -> None:
        for p in site.loader(Target(b"/")).run():
            seen.append(p)
            if p.bytes:
                told.set()

    victim = site.node(dies)
    assert victim.process is not None
    if dies != 1:
        os.kill(victim.process.pid, signal.SIGSTOP)  # what it owns stands still: the load is in the middle until it dies
    thread = threading.Thread(target=run)
    thread.start()
    assert told.wait(60)
    assert seen[-1].bytes < TOTAL or dies == 1
    victim.kill()
    victim.start()
    thread.join(120)
    assert not thread.is_alive()
    assert (seen[-1].finished, seen[-1].files, seen[-1].bytes, seen[-1].failed) == (True, len(SIZES), TOTAL, 0)
    assert site.lab.store_bytes() < TOTAL * 1.3


def test_a_worker_that_comes_in_the_middle_gets_its_share(site: Site) -> None:
    lab, late = site.lab, site.node(3)
    late.kill()
    lab.write_list(without="node-3")
    eventually(lambda: site.node(1).members() == 2, 60)
    doors = [node.cluster.control for node in lab.workers[:2]]
    still = site.node(2).process
    assert still is not None
    os.kill(still.pid, signal.SIGSTOP)  # what it owns stands still: the load is in the middle until the late one is there
    try:
        steps = Loader(site.client, lambda: doors, Order((Target(b"/"),))).run()
        first = next(steps)
        assert not first.finished
        lab.write_list()
        late.start()
    finally:
        os.kill(still.pid, signal.SIGCONT)
    for node in lab.workers:
        eventually(lambda node=node: node.members() == 3, 60)  # type: ignore[misc]
    last = [first, *steps][-1]
    assert (last.finished, last.files, last.bytes, last.failed) == (True, len(SIZES), TOTAL, 0)
    came = sum(late.report()["bytes"].values())
    assert came > TOTAL // 8, "of three equal shares one, less what chance takes: of so many files once in a million runs"
    before = [node.report()["bytes"] for node in lab.workers]
    again = list(site.loader(Target(b"/")).run())[-1]
    assert (again.files, again.bytes) == (len(SIZES), TOTAL)
    assert [node.report()["bytes"] for node in lab.workers] == before, "all lies with its owner"


def test_what_is_not_there_is_final_and_named(site: Site) -> None:
    code, result = carried_out(site.loader(Target(b"/small"), Target(b"/nix/*.tar")), lambda _: None)
    assert (code, result.reason) == (FINAL, "TargetNotFound")
    assert "/nix/*.tar" in result.message
    with pytest.raises(LoadError, match="/nix") as caught:
        list(site.loader(Target(b"/nix"), metadata_only=True).run())
    assert caught.value.final


def test_names_alone_are_known_to_all_and_what_is_new_is_found(site: Site, tmp_path: Path) -> None:
    last = list(site.loader(Target(b"/small"), metadata_only=True).run())[-1]
    assert (last.files, last.bytes, site.lab.store_bytes()) == (3 * 90, 0, 0)
    (tmp_path / "store/small/new").write_bytes(b"n" * 5000)
    code, result = carried_out(site.loader(Target(b"/small/n*"), refresh=True), lambda _: None)
    assert (code, result.progress.done_files, result.progress.done_bytes, result.progress.percent) == (0, 1, 5000, 100)
    eventually(lambda: site.lab.store_bytes() == 5000)
