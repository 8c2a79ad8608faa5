"""`up --netns`: nodes that meet over links of their own, and nothing of it left afterwards, however it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from up_place import Place, kill_together, make_place, umount_by_hand

from forebay.cli.machine import netns

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here: apt install iproute2"),
]


def links() -> set[str]:
    done = subprocess.run(["ip", "-o", "-br", "link"], capture_output=True, text=True, check=True)
    return {line.split()[0].partition("@")[0] for line in done.stdout.splitlines()}


def spaces() -> set[str]:
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


class Apart:
    """A place, and what of links and namespaces was there before."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.mounts = [place.top / "m0", place.top / "m1"]
        self.before = links(), spaces()
        # as `up` will name it: the origin has to be known by an address of it before
        self.network = netns.plan("default/data", place.run, ["node-1", "node-2", "node-3"], netns.in_use)

    def up(self, *more: str) -> subprocess.CompletedProcess[str]:
        where = [word for m in self.mounts for word in ("--mount", str(m))]
        return self.place(
            "up", "-f", str(self.place.yaml), "--cache-dir", str(self.place.cache), "--workers", "3", "--netns", *where, *more
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.place("status", "-o", "json").stdout)
        return found

    def pids(self) -> dict[str, list[int]]:
        return {d["node"]: [p["pid"] for p in d["processes"]] for d in self.status()["datasets"]}

    def same(self, mount: Path) -> bool:
        argv = ["diff", "-r", str(self.place.origin), str(mount)]
        return subprocess.run(argv, capture_output=True, timeout=90, check=False).returncode == 0

    def assert_nothing_left(self) -> None:
        self.place.assert_nothing_left()
        assert (links(), spaces()) == self.before


@pytest.fixture
def apart() -> Iterator[Apart]:
    for place in make_place():
        apart = Apart(place)
        if (reason := cannot()) is not None:
            pytest.skip(reason)
        yield apart


def cannot() -> str | None:
    """Why this kernel has no bridge or no namespaces, None when it has."""
    for make, drop in (("link add fbtest type bridge", "link del fbtest"), ("netns add fbtest", "netns del fbtest")):
        done = subprocess.run(["ip", *make.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()
        subprocess.run(["ip", *drop.split()], check=True)
    return None


def test_nodes_meet_over_links_of_their_own(apart: Apart, tmp_path: Path) -> None:
    place, port = apart.place, servers.free_port()
    with servers.nginx(place.origin, tmp_path / "nginx", extra=f"listen 0.0.0.0:{port};"):
        place.yaml.write_text(place.manifest("data", f"http://{apart.network.address}:{port}/"))
        done = apart.up()
        assert done.returncode == 0, done.stderr
        status = apart.status()
        assert [d["network"] for d in status["datasets"]] == [p._asdict() for p in apart.network.nodes]
        own = {p.node: os.stat(f"/run/netns/{p.namespace}").st_ino for p in apart.network.nodes}
        assert len(set(own.values())) == 3
        for node, pids in apart.pids().items():
            assert {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in pids} == {own[node]}
        assert apart.same(apart.mounts[0])
        assert apart.same(apart.mounts[1])
        (view,) = apart.status()["clusters"]
        total = sum(f.stat().st_size for f in place.origin.rglob("*") if f.is_file())
        assert view["store_bytes"] == total, view  # each byte left the store once
        # what node-1 took from the others came over its link, whose near end sends it
        peer = next(r["peer"] for r in view["members"] if r["node"] == "node-1")
        sent = int(Path(f"/sys/class/net/{apart.network.nodes[0].link}/statistics/tx_bytes").read_text())
        assert sent > peer > 0

        old = apart.pids()["node-2"]
        worker = next(p["pid"] for p in status["datasets"][1]["processes"] if p["role"] == "worker")
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not set(apart.pids()["node-2"]) - set(old):
            assert time.monotonic() < deadline
        (new,) = set(apart.pids()["node-2"]) - set(old)
        assert os.stat(f"/proc/{new}/ns/net").st_ino == own["node-2"]
        assert apart.same(apart.mounts[1])

        assert place("down", "data@node-3").returncode == 0
        assert links() > apart.before[0], "the others still meet"
        done = place("down")
        assert done.returncode == 0, done.stderr
        apart.assert_nothing_left()


def test_a_store_on_the_loopback_is_refused(apart: Apart, tmp_path: Path) -> None:
    with servers.nginx(apart.place.origin, tmp_path / "nginx") as url:
        apart.place.yaml.write_text(apart.place.manifest("data", f"{url}/"))
        done = apart.up()
        assert done.returncode == 1
        assert "on this machine's loopback" in done.stderr
        assert apart.network.address in done.stderr
        apart.assert_nothing_left()


def test_a_start_that_fails_takes_links_and_namespaces_back(apart: Apart) -> None:
    apart.place.cache.mkdir()
    (apart.place.cache / "node-2").write_text("in the way")
    done = apart.up()
    assert done.returncode == 1
    assert "data@node-2" in done.stderr
    apart.assert_nothing_left()
    shutil.rmtree(apart.place.cache)
    # a store that is not there is found out after the links were made
    apart.place.yaml.write_text(apart.place.manifest("data", f"http://{apart.network.address}:1/"))
    done = apart.up()
    assert done.returncode == 1
    assert "refused" in done.stderr.lower() or "reached" in done.stderr
    apart.assert_nothing_left()


def test_what_was_killed_or_unmounted_is_cleared_up(apart: Apart) -> None:
    assert apart.up().returncode == 0
    kill_together(*(pid for pids in apart.pids().values() for pid in pids))
    done = apart.up()
    assert done.returncode == 0, done.stderr
    assert apart.same(apart.mounts[1])
    # by hand: `umount` ends a node with a mount, the last one is told by its supervisor to stop
    for mount in apart.mounts:
        umount_by_hand(mount)
    os.kill(next(p["pid"] for p in apart.status()["datasets"][-1]["processes"] if p["role"] == "supervisor"), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while apart.place.processes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert spaces() > apart.before[1], "nobody was there to remove them"
    done = apart.place("down")
    assert done.returncode == 0, done.stderr
    apart.assert_nothing_left()
