"""Nodes of several machines, each started by `up --join`; here they share one machine, and nothing but list and secret."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from up_nodes import TOTAL, Nodes
from up_place import Place, make_place

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    for place in make_place():
        yield Nodes(place)


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    from forebay.cli.machine.nodes import free, lowest_ephemeral, pick_ports

    return pick_ports(f"test {os.getpid()}", count, lowest_ephemeral(), free)


def join(place: Place, node: str, mount: Path | None, *more: str) -> subprocess.CompletedProcess[str]:
    """One node by `--join`, with a cache directory of its own, as it would be on a machine of its own."""
    where = ["--mount", str(mount)] if mount else ["--no-mount"]
    return place(
        "up", "-f", str(place.yaml), "--cache-dir", str(place.top / f"cache-{node}"), "--node", node,
        "--join", f"file:{place.top}/members.yaml", "--secret-file", str(place.top / "secret"), *where, *more,
    )  # fmt: skip


def test_nodes_join_by_list_and_secret(nodes: Nodes) -> None:
    place = nodes.place
    a, _, b, _ = free_ports(4)
    listed = place.top / "members.yaml"
    listed.write_text(f"- data: 127.0.0.1:{a}\n- data: 127.0.0.1:{b}\n  weight: 2\n")
    (place.top / "secret").write_text(os.urandom(32).hex())
    done = join(place, "one", nodes.mounts[0], "--listen", f"127.0.0.1:{a}")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr
    place.assert_nothing_left()
    (place.top / "secret").chmod(0o600)
    done = join(place, "one", nodes.mounts[0], "--listen", f"127.0.0.1:{a}")
    assert done.returncode == 0, done.stderr
    done = join(place, "two", None, "--listen", f"127.0.0.1:{b}")
    assert done.returncode == 0, done.stderr
    done = join(place, "far", nodes.mounts[2], "--client")
    assert done.returncode == 0, done.stderr
    done = join(place, "two", nodes.mounts[1], "--listen", f"127.0.0.1:{b}")
    assert done.returncode == 1
    assert "data@two is already up at no mount" in done.stderr
    done = join(place, "three", nodes.mounts[1], "--listen", f"127.0.0.1:{b}")
    assert done.returncode == 1
    assert f"127.0.0.1:{b} is in use" in done.stderr
    deadline = time.monotonic() + 60
    while {len(r["worker"]["cluster"]["members"]) for r in nodes.reports().values()} - {2} and time.monotonic() < deadline:
        time.sleep(0.1)
    nodes.read(0, 2)
    view = nodes.view()
    assert view["store_bytes"] == TOTAL
    by_node = {r["node"]: r for r in view["members"]}
    assert by_node["two"]["weight"] == 2
    assert by_node["far"]["store"] == 0
    assert place("down").returncode == 0
    place.assert_nothing_left()


def test_status_asks_the_members_of_other_machines(nodes: Nodes) -> None:
    place, here = nodes.place, nodes.place.run
    a, _, b, _ = free_ports(4)
    (place.top / "members.yaml").write_text(f"[127.0.0.1:{a}, 127.0.0.1:{b}]\n")
    (place.top / "secret").write_text(os.urandom(32).hex())
    (place.top / "secret").chmod(0o600)
    try:
        for node, port, mount in (("one", a, nodes.mounts[0]), ("two", b, nodes.mounts[1])):
            place.env["FOREBAY_RUN_DIR"] = f"{here}-{node}"  # what another machine has is not seen from here
            done = join(place, node, mount, "--listen", f"127.0.0.1:{port}")
            assert done.returncode == 0, done.stderr
        for node in ("one", "two"):  # until each knows the other, both would fetch what both are asked for
            place.env["FOREBAY_RUN_DIR"] = f"{here}-{node}"
            until(lambda: len(nodes.view()["members"]) == 2)
        nodes.read(0, 1)
        until(lambda: nodes.view()["amplification"] is not None)
        view = nodes.view()
        assert [(r["node"], r["here"], r["asked"]) for r in view["members"]] == [("two", True, True), ("one", False, True)]
        assert view["store_bytes"] == TOTAL
        assert view["amplification"] == 1.0
        place.env["FOREBAY_RUN_DIR"] = f"{here}-one"
        assert place("down").returncode == 0
        place.env["FOREBAY_RUN_DIR"] = f"{here}-two"
        view = nodes.view()
        assert [(r["node"], r["state"]) for r in view["members"] if not r["here"]] == [("one", "listed")]
        assert view["amplification"] is None, "nobody knows what it fetched"
    finally:
        for node in ("one", "two"):
            place.env["FOREBAY_RUN_DIR"] = f"{here}-{node}"
            place("down")
        place.env["FOREBAY_RUN_DIR"] = str(here)
    place.assert_nothing_left()


def test_a_node_that_is_not_in_the_list_says_so(nodes: Nodes) -> None:
    place = nodes.place
    a, _, b, _ = free_ports(4)
    (place.top / "members.yaml").write_text(f"- 127.0.0.1:{a}\n")
    (place.top / "secret").write_text(os.urandom(32).hex())
    (place.top / "secret").chmod(0o600)
    done = join(place, "two", nodes.mounts[0], "--listen", f"127.0.0.1:{b}")
    assert done.returncode == 0, done.stderr
    assert "is not in the member list" in done.stderr
    assert any("two is up and no member" in note for note in nodes.view()["notes"])
    nodes.read(0)
    with socket.create_connection(("127.0.0.1", b), 5):
        pass  # it serves all the same: a list in which it stands may be elsewhere
