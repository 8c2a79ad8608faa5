"""Several nodes of one dataset on one machine: real workers, real mounts, one origin that each byte should leave once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from up_nodes import TOTAL, Nodes
from up_place import FOREBAY, in_the_foreground, kill_together, make_place
from workerlab import eventually

from forebay.cache.members.roster import parse_members
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    for place in make_place():
        yield Nodes(place)


def test_three_workers_and_a_client_tier_each_byte_leaves_the_store_once(nodes: Nodes) -> None:
    done = nodes.up(3, 4)
    assert done.returncode == 0, done.stderr
    assert "client-1" in done.stdout
    assert "warning" not in done.stderr, "each knows the others when the command returns"
    nodes.read(0, 1, 2, 3)
    view = nodes.view()
    assert view["store_bytes"] == TOTAL
    assert view["amplification"] == 1.0
    assert view["notes"] == []
    assert len(view["epochs"]) == 1
    by_node = {r["node"]: r for r in view["members"]}
    assert list(by_node) == ["node-1", "node-2", "node-3", "client-1"]
    assert by_node["client-1"]["store"] == 0
    assert by_node["client-1"]["peer"] == TOTAL
    identities = {r["identity"] for r in view["members"]}
    assert len(identities) == 4
    for name in by_node:
        assert (nodes.place.cache / name / "default" / "data" / "index" / "identity").read_text().strip() in identities
    shown = nodes.place("status").stdout
    assert "nodes of default/data, epoch" in shown
    assert "client tier" in shown

    done = nodes.place("down", "data")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is down") == 4
    nodes.place.assert_nothing_left()
    assert not any(m.exists() for m in nodes.mounts), "made by up, removed by down"

    nodes.place.origin.rename(nodes.place.top / "elsewhere")  # the caches have to answer now, and the identities are the same
    done = nodes.up(3, 4, "--offline-ok")
    assert done.returncode == 0, done.stderr
    nodes.place.origin = nodes.place.top / "elsewhere"
    nodes.read(0, 1, 2, 3)
    again = nodes.view()
    assert again["store_bytes"] == 0
    assert {r["identity"] for r in again["members"]} == identities
    assert [r["address"] for r in again["members"]] == [r["address"] for r in view["members"]]


def test_a_worker_without_a_mount_serves_the_others_and_comes_back(nodes: Nodes) -> None:
    done = nodes.up(2, 1)
    assert done.returncode == 0, done.stderr
    reports = nodes.reports()
    assert sorted(p["role"] for p in reports["node-2"]["processes"]) == ["guard", "supervisor", "worker"]
    assert reports["node-2"]["mountpoints"] == []
    assert reports["node-2"]["phase"] == "up"
    nodes.read(0)
    by_node = {r["node"]: r for r in nodes.view()["members"]}
    assert by_node["node-2"]["store"] > 0, "it fetched what it owns"
    assert by_node["node-1"]["peer"] == by_node["node-2"]["store"]
    old = nodes.pid("node-2", "worker")
    begun = time.monotonic()
    os.kill(old, signal.SIGKILL)
    while nodes.pid("node-2", "worker") in (0, old) or not nodes.reports()["node-2"]["worker"]:
        assert time.monotonic() - begun < 60
    nodes.read(0)
    assert nodes.place("down").returncode == 0
    nodes.place.assert_nothing_left()


@pytest.mark.parametrize("role", ["supervisor", "guard"])
def test_a_node_without_a_mount_has_a_supervisor_again(nodes: Nodes, role: str) -> None:
    assert nodes.up(2, 1).returncode == 0
    worker = nodes.pid("node-2", "worker")
    for _ in range(2):
        old = nodes.pid("node-2", role)
        os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while sorted(p["role"] for p in nodes.reports()["node-2"]["processes"]) != ["guard", "supervisor", "worker"] or (
            nodes.pid("node-2", role) in (0, old)
        ):
            assert time.monotonic() < deadline, nodes.reports()["node-2"]
    assert nodes.pid("node-2", "worker") == worker, "adopted, not started anew"
    assert nodes.reports()["node-2"]["phase"] == "up"
    os.kill(worker, signal.SIGKILL)  # what was adopted is watched like what was started
    deadline = time.monotonic() + 60
    while nodes.pid("node-2", "worker") in (0, worker) or not nodes.reports()["node-2"]["worker"]:
        assert time.monotonic() < deadline
    nodes.read(0)
    done = nodes.place("down")
    assert done.returncode == 0, done.stderr
    nodes.place.assert_nothing_left()


def test_a_node_without_a_mount_killed_altogether_and_in_part(nodes: Nodes) -> None:
    assert nodes.up(2, 1).returncode == 0
    # supervisor and worker at once: the guard brings both back
    old = {role: nodes.pid("node-2", role) for role in ("supervisor", "worker", "guard")}
    for role in ("supervisor", "worker"):
        os.kill(old[role], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while nodes.reports()["node-2"]["phase"] != "up" or not nodes.reports()["node-2"]["worker"]:
        assert time.monotonic() < deadline
    assert nodes.pid("node-2", "supervisor") == old["guard"], "the guard became it"
    nodes.read(0)
    # supervisor and guard: nobody is left to watch, `down` clears up
    kill_together(*(nodes.pid("node-2", role) for role in ("supervisor", "guard")))
    assert nodes.reports()["node-2"]["phase"] == "dead"
    done = nodes.place("down")
    assert done.returncode == 0, done.stderr
    nodes.place.assert_nothing_left()


def test_names_pick_nodes(nodes: Nodes) -> None:
    assert nodes.up(2, 2).returncode == 0
    cat = subprocess.run(
        [*FOREBAY, "cat", "data@node-2:/sub/f03"], env=nodes.place.env, capture_output=True, timeout=60, check=True
    )
    assert cat.stdout == (nodes.place.origin / "sub" / "f03").read_bytes()
    (only,) = nodes.status("data@node-2")["datasets"]
    assert only["node"] == "node-2"
    done = nodes.place("status", "data@node-7")
    assert done.returncode == 1
    assert "say one of default/data@node-1, default/data@node-2" in done.stderr
    # what is up is not started a second time, in whatever form
    for again in (nodes.up(2, 2), nodes.up(None, 1), nodes.up(3, 1)):
        assert again.returncode == 1
        assert "is already up" in again.stderr
    done = nodes.place("down", "data@node-2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "default/data@node-2 is down"
    assert not nodes.mounts[1].exists()
    assert sorted(nodes.reports()) == ["node-1"]
    nodes.read(0)
    assert nodes.place("down", "data").returncode == 0
    nodes.place.assert_nothing_left()


def test_refresh_tells_all_nodes(nodes: Nodes) -> None:
    told = "metadata: {name: data, annotations: {forebay.io/freshness: event}}"
    nodes.place.yaml.write_text(nodes.place.yaml.read_text().replace("metadata: {name: data}", told))
    assert nodes.up(2, 3).returncode == 0
    seen = [m / "sub" / "f00" for m in nodes.mounts[:3]]
    before = (nodes.place.origin / "sub" / "f00").read_bytes()
    assert [p.read_bytes() for p in seen] == [before] * 3
    (nodes.place.origin / "sub" / "f00").write_text("new")
    assert [p.stat().st_size for p in seen] == [len(before)] * 3, "event: only when it is told"
    assert nodes.place("refresh", "data:/sub").returncode == 0
    for path in seen:
        eventually(lambda path=path: path.read_bytes() == b"new")  # kernels are told by messages of their own


def test_a_drained_node_stays_out_until_the_next_up(nodes: Nodes) -> None:
    assert nodes.up(2, 2).returncode == 0
    nodes.read(1)
    shared = nodes.place.cache / "default" / "data"
    client = ControlClient(Key(load_secret(str(shared / "secret")), "default/data"))
    try:
        listed = parse_members((shared / "members.yaml").read_bytes())
        *_, last = client.drain(next(m.control for m in listed if m.node == "node-2"))
    finally:
        client.close()
    assert last.finished

    def states() -> dict[str, str]:
        return {r["node"]: r["state"] for r in nodes.view()["members"]}

    assert states() == {"node-1": "up", "node-2": "drained"}
    before = nodes.view()["store_bytes"]
    nodes.read(0, 1)
    assert nodes.view()["store_bytes"] == before, "what it owned went to node-1, not back to the store"
    os.kill(old := nodes.pid("node-2", "worker"), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while nodes.pid("node-2", "worker") in (0, old) or not nodes.reports()["node-2"]["worker"]:
        assert time.monotonic() < deadline
    assert states() == {"node-1": "up", "node-2": "drained"}, "a restart does not bring it back"
    assert nodes.place("down").returncode == 0
    assert nodes.up(2, 2).returncode == 0
    assert states() == {"node-1": "up", "node-2": "up"}
    assert all(r["member"] for r in nodes.view()["members"])


def test_a_node_that_cannot_start_takes_all_back(nodes: Nodes) -> None:
    nodes.place.cache.mkdir()
    (nodes.place.cache / "node-2").write_text("in the way")
    done = nodes.up(3, 2)
    assert done.returncode == 1
    assert "data@node-2" in done.stderr
    assert "Traceback" not in done.stderr
    nodes.place.assert_nothing_left()
    assert not any(m.exists() for m in nodes.mounts)
    (nodes.place.cache / "node-2").unlink()
    assert nodes.up(3, 2).returncode == 0
    nodes.read(0, 1)


def test_mounts_that_cannot_stand_side_by_side(nodes: Nodes) -> None:
    nodes.mounts[1] = nodes.mounts[0] / "below"
    done = nodes.up(2, 2)
    assert done.returncode == 1
    assert "inside each other" in done.stderr
    nodes.mounts[1] = nodes.place.cache / "node-1" / "default" / "data" / "tier0-ssd" / "m"
    done = nodes.up(2, 2)
    assert done.returncode == 1
    assert "inside the SSD tier" in done.stderr
    nodes.place.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_of_several_leaves_nothing(nodes: Nodes, number: signal.Signals) -> None:
    interrupted = 0
    for delay in (0.4, 0.6, 0.9):
        child = subprocess.Popen(
            [*FOREBAY, *nodes.words(2, 3)], env=nodes.place.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(delay)
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
        if child.returncode == 0:
            assert nodes.place("down").returncode == 0
        else:
            interrupted += 1
            assert child.returncode in (130, 143, -number), said
        deadline = time.monotonic() + 60
        while nodes.place.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        nodes.place.assert_nothing_left()
        assert not any(m.exists() for m in nodes.mounts)
    assert interrupted


def test_everything_killed_then_fewer_nodes(nodes: Nodes) -> None:
    """`up` clears all that was left, of nodes too that it does not start again."""
    assert nodes.up(3, 3).returncode == 0
    pids = [p["pid"] for r in nodes.reports().values() for p in r["processes"]]
    assert len(pids) == 9, "nobody here needs a guard: each node has a mount"
    kill_together(*pids)
    assert {r["phase"] for r in nodes.reports().values()} == {"dead"}
    done = nodes.up(2, 1)
    assert done.returncode == 0, done.stderr
    assert sorted(nodes.reports()) == ["node-1", "node-2"]
    nodes.read(0)
    assert nodes.place("down").returncode == 0
    nodes.place.assert_nothing_left()


def test_down_right_after_up_waits_for_nobody(nodes: Nodes) -> None:
    for _ in range(4):
        begun = time.monotonic()
        assert nodes.up(2, 2).returncode == 0
        up = time.monotonic()
        assert nodes.place("down").returncode == 0
        took = time.monotonic() - up
        assert took < 3 + up - begun, "0.2 s on an idle machine, where up takes 1; a daemon that does not end is killed after 5 s"


def test_in_the_foreground_ctrl_c_ends_all(nodes: Nodes) -> None:
    child = subprocess.Popen(
        [*FOREBAY, *nodes.words(2, 2), "--foreground"],
        env=nodes.place.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    in_the_foreground(child)
    assert all((m / "big").exists() for m in nodes.mounts[:2])
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    nodes.place.assert_nothing_left()
