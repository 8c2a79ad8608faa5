"""Orders to real workers: loads on named nodes and in replicas, pins, evictions, and a drain that no store notices."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab import ClusterLab, NodeLab, holds, random_objects
from servers import ports_for
from workerlab import MIB, eventually, file_mount

from forebay.cache.peers import controlwire as c
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient

pytestmark = pytest.mark.cluster

SIZES = {
    **{f"small/{i:03}": 20_000 + i for i in range(120)},
    "empty": 0,
    "large/a": 66 * MIB + 5,
    "large/b": 20 * MIB,
    "large/.hidden": 70_000,
}
TOTAL = sum(SIZES.values())
OBJECTS = random_objects(SIZES)


class Site:
    """Three workers with control doors over a directory."""

    def __init__(self, root: Path, *, clients: int = 0) -> None:
        store = root / "store"
        self.objects = OBJECTS
        for name, data in self.objects.items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(data)
        (root / "lab").mkdir()
        self.lab = ClusterLab(root / "lab", [file_mount(store)], workers=3, clients=clients)
        for node, port in zip(self.lab.workers, ports_for(3), strict=True):
            node.respec(control=f"127.0.0.1:{port}")
        self.client = ControlClient(Key(load_secret(str(self.lab.secret)), "default/lab"))

    def door(self, number: int) -> str:
        return self.node(number).cluster.control

    def node(self, number: int) -> NodeLab:
        return self.lab.nodes[f"node-{number}"]

    def cached(self, number: int) -> int:
        tiers = self.node(number).stats()["tiers"]
        assert isinstance(tiers, list)
        return int(sum(t["bytes_used"] for t in tiers))

    def drained(self, *numbers: int) -> c.Progress:
        for number in numbers:
            last = list(self.client.drain(self.door(number)))[-1]
        return last


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.lab:
        made.lab.start()
        yield made
        made.client.close()


def last(stream: Any) -> c.Progress:
    found = list(stream)[-1]
    assert isinstance(found, c.Progress)
    assert found.finished
    return found


def test_a_node_loads_for_itself_and_each_byte_leaves_the_store_once(site: Site) -> None:
    p = last(site.client.load(site.door(1), [b"/"]))
    assert (p.files, p.files_total, p.bytes, p.failed, p.error) == (len(SIZES), len(SIZES), TOTAL, 0, "")
    assert site.lab.store_bytes() == TOTAL
    assert site.cached(1) >= TOTAL
    p = last(site.client.load(site.door(1), [b"/small/00?", b"/large/*"]))
    assert (p.files, p.bytes) == (12, sum(v for k, v in SIZES.items() if k[:8] == "small/00" or k in {"large/a", "large/b"}))
    assert last(site.client.load(site.door(2), [b"/**/.hid*"], metadata_only=True)).files == 1
    with pytest.raises(c.ControlError, match="nothing matches"):
        last(site.client.load(site.door(1), [b"/nix*"]))


def test_named_nodes_load_and_others_hold_only_what_they_own(site: Site) -> None:
    p = last(site.client.load(site.door(3), [b"/small"], nodes=["node-1", site.node(2).identity()]))
    assert (p.files, p.bytes, p.failed) == (240, 2 * sum(v for k, v in SIZES.items() if k.startswith("small/")), 0)
    small = sum(-(-v // 4096) * 4096 for k, v in SIZES.items() if k.startswith("small/"))
    assert site.cached(1) == site.cached(2) == small
    assert 0 < site.cached(3) < small
    with pytest.raises(c.ControlError, match=r'"node-9" is no member.*node-1'):
        last(site.client.load(site.door(3), [b"/"], nodes=["node-9"]))
    site.node(2).kill()
    p = last(site.client.load(site.door(3), [b"/small/001"], nodes=["node-1", "node-2"]))
    assert (p.failed, p.files) == (1, 1)
    assert "node-2" in p.error


def test_a_refresh_of_all_shows_what_is_new_in_the_store(site: Site, tmp_path: Path) -> None:
    assert last(site.client.load(site.door(1), [b"/"], replicas=1)).files == len(SIZES)
    sent = site.lab.store_bytes()
    (tmp_path / "store/small/new").write_bytes(b"n" * 5000)
    assert last(site.client.load(site.door(1), [b"/small"], replicas=1)).files == 120, (
        "it is known already: the case is not there"
    )
    for number in (1, 2, 3):
        assert site.client.refresh(site.door(number), b"/small") == c.Changed()
    p = last(site.client.load(site.door(1), [b"/"], replicas=1))
    assert (p.files, p.files_total, p.bytes, p.failed) == (len(SIZES) + 1, len(SIZES) + 1, TOTAL + 5000, 0)
    assert site.lab.store_bytes() == sent + 5000
    with pytest.raises(c.ControlError, match="nix"):
        site.client.refresh(site.door(1), b"/nix")


def test_replicas_put_each_segment_on_so_many_nodes(site: Site) -> None:
    p = last(site.client.load(site.door(2), [b"/"], replicas=1))
    assert (p.files, p.files_total, p.bytes, p.failed, p.error) == (len(SIZES), len(SIZES), TOTAL, 0, "")
    assert site.lab.store_bytes() == TOTAL
    once = sum(site.cached(n) for n in (1, 2, 3))
    assert TOTAL <= once < TOTAL + (len(SIZES) + 8) * 4096
    p = last(site.client.load(site.door(2), [b"/"], replicas=2))
    assert p.bytes == 2 * TOTAL
    assert site.lab.store_bytes() == TOTAL
    assert 2 * TOTAL <= sum(site.cached(n) for n in (1, 2, 3)) <= 2 * once + 8 * 4096
    with pytest.raises(c.ControlError, match="4 replicas on 3 members"):
        last(site.client.load(site.door(2), [b"/"], replicas=4))


def test_a_load_ends_with_its_asker_and_what_came_stays(site: Site) -> None:
    stream = site.client.load(site.door(1), [b"/"], replicas=3)
    next(stream)
    stream.close()
    eventually(lambda: not any(n.stats()["warm"] for n in site.lab.workers))
    assert last(site.client.load(site.door(1), [b"/"])).files == len(SIZES)
    assert site.lab.store_bytes() <= TOTAL * 1.1


def test_pins_evictions_and_stats(site: Site) -> None:
    assert site.client.pin(site.door(1), b"/small") == c.Changed(120, 0, 0)
    last(site.client.load(site.door(1), [b"/"]))
    small = sum(v for k, v in SIZES.items() if k.startswith("small/"))
    assert site.client.pin(site.door(1), b"/small") == c.Changed(120, 120, small)
    assert site.client.unpin(site.door(1), b"/small/00*") == c.Changed(10, 10, sum(SIZES[f"small/{i:03}"] for i in range(10)))
    gone = site.client.evict(site.door(1), b"/")
    assert (gone.files, gone.changed) == (len(SIZES), len(SIZES) - 110)
    pinned = sum(-(-SIZES[f"small/{i:03}"] // 4096) * 4096 for i in range(10, 120))
    eventually(lambda: site.cached(1) == pinned)
    stats = site.client.stats(site.door(1))
    assert stats["cluster"]["node"] == "node-1"
    assert site.node(1).read("/small/000") == site.objects["small/000"]
    with pytest.raises(c.ControlError, match="nix"):
        site.client.evict(site.door(1), b"/nix")


def test_after_a_drain_no_byte_is_asked_of_the_store_again(site: Site) -> None:
    last(site.client.load(site.door(2), [b"/"], replicas=1))
    before = site.lab.store_bytes()
    assert before == TOTAL
    p = site.drained(2)
    assert p.finished
    assert (p.failed, p.error) == (0, "")
    for n in (1, 3):
        eventually(lambda n=n: site.node(n).members() == 2)
    assert not site.node(2).report()["owns"]
    assert (site.node(2).index_dir / "drained").exists()
    site.node(2).stop()
    stores = {n: site.node(n).report()["bytes"].get("store", 0) for n in (1, 3)}
    for name, data in site.objects.items():
        for n in (1, 3):
            assert site.node(n).read(f"/{name}") == data
    assert {n: site.node(n).report()["bytes"].get("store", 0) for n in (1, 3)} == stores
    # a restart does not bring it back; removing the mark, as `up` does, does
    site.node(2).start()
    eventually(lambda: site.node(2).members() == 2)
    assert holds(lambda: site.node(1).members() == 2, 2.5)
    assert site.node(2).members() == 2
    assert site.node(2).read("/small/000") == site.objects["small/000"]
    with pytest.raises(c.ControlError, match="owns nothing"):
        site.drained(2)
    site.node(2).stop()
    os.unlink(site.node(2).index_dir / "drained")
    site.node(2).start()
    for n in (1, 2, 3):
        eventually(lambda n=n: site.node(n).members() == 3)


def test_a_drain_goes_past_a_dead_member_and_says_who_was_not_told(site: Site) -> None:
    last(site.client.load(site.door(1), [b"/small"], replicas=1))
    alone = site.cached(3) // 20_480  # files, of 5 pages each
    assert 0 < alone < 120
    site.node(3).kill()
    p = site.drained(1)
    assert p.failed == 0
    assert "node-3" in p.error
    eventually(lambda: site.node(2).members() == 2)
    site.node(1).stop()
    store = site.node(2).report()["bytes"].get("store", 0)
    for i in range(120):
        assert site.node(2).read(f"/small/{i:03}") == site.objects[f"small/{i:03}"]
    lost = site.node(2).report()["bytes"].get("store", 0) - store
    ahead = SIZES["large/.hidden"]  # look-ahead goes on into the next directory
    assert 20_000 * alone <= lost < 20_120 * alone + ahead  # what the dead one had alone, each once


def test_a_drain_that_cannot_move_everything_leaves_the_node_where_it_was(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.lab.start("node-1", members=1)
    with site.lab:
        last(site.client.load(site.door(1), [b"/small"]))
        with pytest.raises(c.ControlError, match="no other member"):
            site.drained(1)
        for n in (2, 3):
            site.node(n).respec(control="")  # members that cannot be told to take anything
            site.node(n).start()
        eventually(lambda: site.node(1).members() == 3)
        with pytest.raises(c.ControlError, match=r"could not be moved.*control-listen"):
            site.drained(1)
        assert site.node(1).report()["owns"]
        assert not (site.node(1).index_dir / "drained").exists()
        p = list(site.client.drain(site.door(1), force=True))[-1]
        assert p.failed
        assert not site.node(1).report()["owns"]
        site.client.close()
    shutil.rmtree(tmp_path / "store")


def test_a_node_without_a_control_door_loads_nothing_of_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.node(2).respec(control="")
    site.lab.start("node-1", "node-2", members=2)
    with site.lab:
        loaded = {}
        for n in (1, 2):
            process = site.node(n).process
            assert process is not None
            loaded[n] = "grpc" in Path(f"/proc/{process.pid}/maps").read_text()
        assert loaded == {1: True, 2: False}
        site.client.close()


def test_a_node_does_not_leave_because_another_says_so(site: Site) -> None:
    with pytest.raises(c.ControlError, match="when it is drained"):
        site.client.leave(site.door(1), site.node(1).identity())
    assert site.client.leave(site.door(1), "nobody").changed == 0
    other = site.node(2)
    assert other.process is not None
    os.kill(other.process.pid, signal.SIGSTOP)  # it owns, so its greeting brings it back: not before somebody has looked
    assert site.client.leave(site.door(1), other.identity()).changed == 1

    def gone() -> bool:
        """It may have greeted just before, so it is said again."""
        site.client.leave(site.door(1), other.identity())
        return site.node(1).members() == 2

    eventually(gone)
    os.kill(other.process.pid, signal.SIGCONT)
    eventually(lambda: site.node(1).members() == 3)
    assert "control" in site.node(1).report()


def test_a_worker_ends_at_once_whatever_its_door_is_busy_with(site: Site) -> None:
    last(site.client.load(site.door(2), [b"/small"], replicas=1))
    for n in (1, 3):
        process = site.node(n).process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
    try:
        drain = site.client.drain(site.door(2))
        assert not next(drain).finished
        load = site.client.load(site.door(2), [b"/"], nodes=["node-1"])
        assert not next(load).finished
        own = site.client.load(site.door(2), [b"/"])  # much of it is the others'
        assert not next(own).finished
        assert site.node(2).stop() < 10
    finally:
        for n in (1, 3):
            process = site.node(n).process
            assert process is not None
            process.send_signal(signal.SIGCONT)
    for stream in (drain, load, own):
        try:
            assert [p.failed for p in stream][-1], "not all of it was done"
        except c.ControlError:
            continue
    assert not (site.node(2).index_dir / "drained").exists()


def test_readers_go_on_while_a_node_is_drained_and_ends(site: Site) -> None:
    last(site.client.load(site.door(2), [b"/small"], replicas=1))
    wrong: list[str] = []
    stop = threading.Event()
    read = [0, 0]

    def reader(number: int, seed: int) -> None:
        rng = random.Random(seed)
        names = [n for n in SIZES if n.startswith("small/")]
        while not stop.is_set():
            name = rng.choice(names)
            try:
                if site.node(number).read(f"/{name}") != site.objects[name]:
                    wrong.append(f"{name}: other bytes")
            except Exception as e:  # noqa: BLE001 - whatever a reader would see is a failure of the test
                wrong.append(f"{name}: {e!r}")
            read[number // 2] += 1

    threads = [threading.Thread(target=reader, args=(n, n)) for n in (1, 3)]
    for thread in threads:
        thread.start()
    try:
        site.drained(2)
        between = list(read)
        site.node(2).stop()
        for n in (1, 3):
            site.client.evict(site.door(n), b"/small/00*")
        eventually(lambda: all(a > b + 50 for a, b in zip(read, between, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not wrong


def test_a_client_tier_which_nobody_tells_notices_by_itself(tmp_path: Path) -> None:
    site = Site(tmp_path, clients=1)
    site.lab.start()
    with site.lab:
        # the second is what look-ahead brings when the directory ends
        last(site.client.load(site.door(1), [b"/small", b"/large/.hidden"], replicas=1))
        before = [site.node(n).report()["bytes"].get("store", 0) for n in (1, 2)]
        client = site.lab.nodes["client-1"]
        assert client.members() == 3
        site.drained(3)
        for i in range(40):  # not told yet: asked in vain, it is passed by
            assert client.read(f"/small/{i:03}") == site.objects[f"small/{i:03}"]
        eventually(lambda: client.members() == 2)
        site.node(3).stop()
        for i in range(40, 120):
            assert client.read(f"/small/{i:03}") == site.objects[f"small/{i:03}"]
        assert [site.node(n).report()["bytes"].get("store", 0) for n in (1, 2)] == before
        site.client.close()
