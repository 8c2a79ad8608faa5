"""Rarer lives of a dataset: two mounts, half of it killed, a daemon that cannot start, a start that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from up_place import FOREBAY, Place, kill_together, make_place

from forebay.api import places
from forebay.api.spec import DatasetSpec, Mount, Tier, encode_spec
from forebay.fuse.supervision import control, leftovers

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root; users: test_up_user.py")]


@pytest.fixture
def place() -> Iterator[Place]:
    yield from make_place()


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of `what`, asked every 50 ms."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def state_of(run: Path) -> dict[str, Any]:
    try:
        return control.ask(str(run / places.SUPERVISOR_SOCK), {"op": "status"}, 30)
    except control.Silence:
        return {"processes": [], "mounts": []}


def pids(run: Path, role: str) -> list[int]:
    return [p["pid"] for p in state_of(run)["processes"] if p["role"] == role]


@pytest.fixture
def two(place: Place) -> Iterator[tuple[Place, Path]]:
    """One dataset on two mount points, started as a controller would: by spec and supervisor."""
    run = place.run / "default" / "data"
    run.mkdir(parents=True)
    spec = DatasetSpec(
        "default",
        "data",
        [Mount(source=f"local://{place.origin}", store="file", path="/", name="m")],
        [Tier("SSD", f"{place.cache}/tier")],
        f"{place.cache}/index",
        floor_ratio=0.0,
        floor_bytes=0,
    )
    (run / places.SPEC).write_bytes(encode_spec(spec))
    argv = [sys.executable, "-P", "-m", "forebay.fuse.supervision.supervisor", "--run-dir", str(run)]
    for name in ("one", "two"):
        argv += ["--mount", str(place.top / name)]
    with open(run / places.SUPERVISOR_LOG, "ab") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        until((run / places.SUPERVISOR_SOCK).exists)
        assert control.ask(str(run / places.SUPERVISOR_SOCK), {"op": "wait"}, 60)["phase"] == "up"
        yield place, run
    finally:
        place("down")
        leftovers.clear(str(run), "default/data")
        child.wait(60)


def read_both(place: Place) -> None:
    expected = (place.origin / "big").read_bytes()
    for name in ("one", "two"):
        assert (place.top / name / "big").read_bytes() == expected


def test_two_mounts_hand_over_to_one_new_supervisor(two: tuple[Place, Path]) -> None:
    place, run = two
    read_both(place)
    before = sorted(pids(run, "mount") + pids(run, "worker"))
    held = [open(place.top / name / "big", "rb") for name in ("one", "two")]  # noqa: SIM115 - held across the kill
    for _ in range(2):
        (old,) = pids(run, "supervisor")
        os.kill(old, signal.SIGKILL)
        until(lambda old=old: pids(run, "supervisor") not in ([], [old]) and len(pids(run, "mount")) == 2)
    assert sorted(pids(run, "mount") + pids(run, "worker")) == before, "adopted, not started anew"
    for file in held:
        with file:
            assert file.read(1000) == (place.origin / "big").read_bytes()[:1000]
    old_mounts = pids(run, "mount")
    for pid in old_mounts:  # what was adopted is watched like what was started
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(pids(run, "mount")) == 2 and not set(pids(run, "mount")) & set(old_mounts))
    read_both(place)


def test_a_mount_lost_with_its_supervisor_is_made_anew(two: tuple[Place, Path]) -> None:
    """Supervisor and one of two daemons: the other daemon saves its own mount, and the lost one comes back empty-handed."""
    place, run = two
    read_both(place)
    victim = next(p["pid"] for p in state_of(run)["processes"] if p.get("mount", "").endswith("/one"))
    (old,) = pids(run, "supervisor")
    kill_together(old, victim)
    until(lambda: len(pids(run, "mount")) == 2 and all(m["state"] == "ready" for m in state_of(run)["mounts"]))
    read_both(place)
    assert any("mounted anew" in r["text"] for r in state_of(run)["reports"])


def test_supervisor_and_daemon_killed_is_dead_and_up_repairs(place: Place) -> None:
    assert place.up().returncode == 0
    kill_together(place.pid("supervisor"), place.pid("mount"))
    assert place.status()["phase"] == "dead"
    assert len(place.processes()) == 1, "the worker lives on, and holds the cache"
    done = place.up()
    assert done.returncode == 0, done.stderr
    assert (place.mnt / "big").read_bytes() == (place.origin / "big").read_bytes()


def test_a_daemon_that_cannot_start_ends_in_an_abort_not_a_hang(place: Place) -> None:
    assert place.up().returncode == 0
    run = place.run / "default" / "data"
    spec = (run / places.SPEC).read_bytes()
    held = open(place.mnt / "sub" / "f03", "rb")  # noqa: SIM115 - held across the abort
    (run / places.SPEC).write_bytes(spec.replace(b'"version":1', b'"version":99'))
    os.kill(pids(run, "mount")[0], signal.SIGKILL)
    until(lambda: state_of(run).get("error"))
    begun = time.monotonic()
    assert not (place.mnt / "sub").exists()
    with held:
        try:  # served by the kernel alone, or refused; never waited for
            held.read()
        except OSError:
            pass
    assert time.monotonic() - begun < 20
    (run / places.SPEC).write_bytes(spec)
    status = place.status()
    assert "upgrade forebay" in status["error"]
    assert [p["role"] for p in status["processes"]] == ["supervisor", "worker"]
    assert place("stat", "data:/sub/f03").returncode == 0, "the door still answers"
    assert place("down").returncode == 0
    place.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(place: Place, number: signal.Signals) -> None:
    interrupted = 0
    for delay in (0.3, 0.5, 0.7, 0.9, 1.2):
        child = subprocess.Popen(
            [*FOREBAY, "up", "-f", str(place.yaml), "--mount", str(place.mnt), "--cache-dir", str(place.cache)],
            env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay)
        child.send_signal(number)
        _, said = child.communicate(timeout=100)
        if child.returncode == 0:
            assert place("down").returncode == 0
        else:
            interrupted += 1
            assert child.returncode in (130, 143, -number), said
            until(lambda: not place.processes())
        place.assert_nothing_left()
        assert not place.mnt.exists()
    assert interrupted


def test_floor_is_told_by_up_status_and_doctor(place: Place) -> None:
    text = place.yaml.read_text().replace(
        "metadata: {name: data}", "metadata: {name: data, annotations: {forebay.io/free-space-floor: 99%}}"
    )
    place.yaml.write_text(text)
    done = place.up()
    assert done.returncode == 0, done.stderr
    assert "nothing more is cached" in done.stderr
    assert (place.mnt / "big").read_bytes() == (place.origin / "big").read_bytes(), "read through"
    status = place.status()
    assert any("nothing more is cached" in note for note in status["notes"])
    assert status["tiers"][0]["admission"] != "open"
    assert status["cached_bytes"] == 0
    done = place("doctor", "-f", str(place.yaml), "--cache-dir", str(place.cache), "-o", "json")
    assert any("nothing more is cached" in f["text"] for f in json.loads(done.stdout)["findings"])


@pytest.mark.long
def test_a_daemon_that_hangs_is_replaced(place: Place) -> None:
    """Stopped, not killed: only a question through the kernel finds out (60 s), and the reader's wait ends."""
    assert place.up().returncode == 0
    daemon = place.pid("mount")
    os.kill(daemon, signal.SIGSTOP)
    done = subprocess.run(["diff", "-r", str(place.origin), str(place.mnt)], timeout=150, check=False)
    assert done.returncode == 0
    assert place.pid("mount") != daemon
