"""`forebay warm --node` and `--replicas`, and `forebay drain`, as a person would type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from clusterlab import holds
from up_nodes import TOTAL, Nodes
from up_place import FOREBAY, make_place
from workerlab import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    for place in make_place():
        yield Nodes(place)


def held(nodes: Nodes) -> dict[str, int]:
    """Bytes of whole files in each node's tiers."""
    reports = nodes.reports()
    return {name: sum(t["bytes_used"] for t in reports[name]["worker"]["tiers"]) for name in reports}


def test_named_nodes_and_replicas_are_warmed_from_anywhere(nodes: Nodes) -> None:
    assert nodes.up(3, 4).returncode == 0  # the fourth is a client tier: it has no door of its own
    done = nodes.place("warm", "--replicas", "2", "-o", "json", "data@client-1")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["bytes"], last["failed"], last["finished"]) == (2 * TOTAL, 0, True)
    bytes_held = held(nodes)
    assert 2 * TOTAL <= sum(bytes_held.values()) <= 2 * TOTAL + 50 * 4096
    assert bytes_held["client-1"] == 0

    done = nodes.place("warm", "--node", "node-2", "--node", "node-3", "data:/sub")
    assert done.returncode == 0, done.stderr
    assert "40 files" in done.stdout
    assert nodes.view()["store_bytes"] == TOTAL

    done = nodes.place("warm", "--node", "node-7", "data")
    assert done.returncode == 1
    assert '"node-7" is no member of the cluster: say one of node-' in done.stderr
    done = nodes.place("warm", "--node", "node-1", "--replicas", "2", "data")
    assert done.returncode == 2
    done = nodes.place("warm", "--replicas", "9", "data")
    assert done.returncode == 1
    assert "9 replicas on 3 members" in done.stderr


def test_a_drained_node_goes_down_and_the_others_have_what_it_had(nodes: Nodes) -> None:
    assert nodes.up(3, 3).returncode == 0
    assert nodes.place("warm", "--replicas", "1", "data").returncode == 0
    done = nodes.place("drain", "data")
    assert done.returncode == 1
    assert "default/data@node-2" in done.stderr, "which of three"
    assert nodes.view()["store_bytes"] == TOTAL

    done = nodes.place("drain", "--keep", "data@node-2")
    assert done.returncode == 0, done.stderr
    assert "default/data@node-2 owns nothing any more" in done.stdout
    nodes.read(0, 1, 2)
    assert nodes.view()["store_bytes"] == TOTAL
    done = nodes.place("drain", "data@node-2")
    assert done.returncode == 1
    assert "owns nothing" in done.stderr

    done = nodes.place("drain", "data@node-3")
    assert done.returncode == 0, done.stderr
    assert "default/data@node-3 is down" in done.stdout
    assert set(nodes.reports()) == {"node-1", "node-2"}
    nodes.read(0, 1)
    assert (
        nodes.reports()["node-1"]["worker"]["cluster"]["bytes"].get("store", 0)
        + nodes.reports()["node-2"]["worker"]["cluster"]["bytes"].get("store", 0)
        <= TOTAL
    )
    done = nodes.place("drain", "data@node-1")
    assert done.returncode == 1
    assert "no other member" in done.stderr
    assert nodes.place("down").returncode == 0
    nodes.place.assert_nothing_left()


def test_nodes_are_not_drained_where_there_is_one(nodes: Nodes) -> None:
    assert nodes.place.up().returncode == 0
    for words in (("drain", "data"), ("warm", "--replicas", "1", "data")):
        done = nodes.place(*words)
        assert done.returncode == 1
        assert "has one node" in done.stderr
    assert nodes.place("down").returncode == 0


def test_an_interrupted_drain_ends_and_the_node_stays(nodes: Nodes) -> None:
    assert nodes.up(2, 1).returncode == 0
    assert nodes.place("warm", "--replicas", "1", "data").returncode == 0
    taker = nodes.pid("node-1", "worker")
    os.kill(taker, signal.SIGSTOP)
    try:
        command = subprocess.Popen(
            [*FOREBAY, "drain", "-o", "json", "data@node-2"], env=nodes.place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert command.stdout is not None
        assert not json.loads(command.stdout.readline())["finished"]
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=60)
    finally:
        os.kill(taker, signal.SIGCONT)
    assert command.returncode == 130

    def both_up() -> bool:
        return {r["node"]: r["state"] for r in nodes.view()["members"]} == {"node-1": "up", "node-2": "up"}

    eventually(both_up)
    assert holds(both_up, 1.5), "it went on after its end"
    assert nodes.reports()["node-2"]["worker"]["cluster"]["owns"]
    assert nodes.place("drain", "data@node-2").returncode == 0
    assert nodes.place("down").returncode == 0
