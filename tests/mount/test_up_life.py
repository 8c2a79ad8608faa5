"""`forebay up` to `forebay down` on a real kernel: what a person at one machine sees, and what is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from up_place import BIG, FOREBAY, Place, in_the_foreground, kill_together, make_place, umount_by_hand

pytestmark = [pytest.mark.mount, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")]


@pytest.fixture
def place() -> Iterator[Place]:
    yield from make_place()


def same_tree(left: Path, right: Path) -> bool:
    return subprocess.run(["diff", "-r", str(left), str(right)], capture_output=True, timeout=60, check=False).returncode == 0


def test_up_read_warm_down_and_the_cache_stays(place: Place) -> None:
    done = place.up()
    assert done.returncode == 0, done.stderr
    assert same_tree(place.origin, place.mnt)
    status = place.status()
    assert status["phase"] == "up"
    assert sorted(p["role"] for p in status["processes"]) == ["mount", "supervisor", "worker"]
    for process in status["processes"]:
        os.kill(process["pid"], 0)
    assert status["mountpoints"][0]["path"] == str(place.mnt)
    assert isinstance(status["mountpoints"][0]["passthrough"], bool)

    cat = subprocess.run([*FOREBAY, "cat", "data:/big"], env=place.env, capture_output=True, timeout=60, check=True)
    assert cat.stdout == (place.origin / "big").read_bytes()
    listed = [json.loads(line) for line in place("ls", "-o", "json", "data:/sub").stdout.splitlines()]
    assert sorted(n["name"] for n in listed) == [f"f{i:02d}" for i in range(20)]
    assert json.loads(place("stat", "-o", "json", "data:/sub/f03").stdout)["size"] == 3003
    warmed = [json.loads(line) for line in place("warm", "-o", "json", "data").stdout.splitlines()]
    assert warmed[-1]["finished"]
    assert warmed[-1]["files"] == 21
    assert warmed[-1]["bytes"] == BIG + sum(3000 + i for i in range(20))
    assert warmed[-1]["failed"] == 0

    done = place("down", "data")
    assert done.returncode == 0, done.stderr
    place.assert_nothing_left()
    assert not place.mnt.exists(), "made by up, removed by down"

    moved = place.origin.rename(place.top / "elsewhere")  # the cache has to answer now
    done = place.up("--offline-ok")
    assert done.returncode == 0, done.stderr
    assert (place.mnt / "big").read_bytes() == (moved / "big").read_bytes()
    assert place("down").returncode == 0


def test_a_mount_point_that_existed_stays(place: Place) -> None:
    place.mnt.mkdir()
    assert place.up().returncode == 0
    assert place("down").returncode == 0
    assert place.mnt.is_dir()
    assert list(place.mnt.iterdir()) == []


def test_up_keeps_nothing_of_its_caller(place: Place) -> None:
    """A pipe whose other end only up's processes could hold reaches its end when the command returns."""
    r, w = os.pipe()
    os.set_inheritable(w, True)
    child = subprocess.Popen(
        [*FOREBAY, "up", "-f", str(place.yaml), "--mount", str(place.mnt), "--cache-dir", str(place.cache)],
        env=place.env, stdin=w, stdout=w, stderr=w, close_fds=False,
    )  # fmt: skip
    os.close(w)
    with open(r, "rb") as pipe:
        said = pipe.read()  # the timeout of the test is the deadline
    assert child.wait(60) == 0, said
    worker = place.pid("worker")
    assert os.readlink(f"/proc/{worker}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{worker}/cwd") == "/"


@pytest.mark.parametrize("role", ["mount", "worker", "supervisor"])
def test_kill_under_an_open_reader(place: Place, role: str) -> None:
    """Whoever is killed: open files and new opens go on, the longest pause is within 2 s (on a busy machine 5 and its start)."""
    assert place.up().returncode == 0
    expected = (place.origin / "big").read_bytes()
    small = {f"f{i:02d}": (place.origin / "sub" / f"f{i:02d}").read_bytes() for i in range(20)}
    errors: list[str] = []
    longest, resumed = [0.0], [0.0]
    rounds = [0]
    halt = threading.Event()

    def read() -> None:
        with open(place.mnt / "big", "rb", buffering=0) as f:
            while not halt.is_set():
                begun = time.monotonic()
                try:
                    at = (rounds[0] * 1_300_021) % (BIG - 65536)
                    f.seek(at)
                    if f.read(65536) != expected[at : at + 65536]:
                        errors.append(f"wrong bytes at {at}")
                    name = f"f{rounds[0] % 20:02d}"
                    if (place.mnt / "sub" / name).read_bytes() != small[name]:
                        errors.append(f"wrong bytes in {name}")
                except OSError as e:
                    errors.append(repr(e))
                longest[0] = max(longest[0], time.monotonic() - begun)
                rounds[0] += 1
                time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        time.sleep(0.3)
        for _ in range(3):
            old = place.pid(role)
            before = rounds[0]
            os.kill(old, signal.SIGKILL)
            killed = time.monotonic()
            place.wait_for_other(role, old)
            resumed[0] = max(resumed[0], time.monotonic() - killed)
            deadline = time.monotonic() + 60
            while rounds[0] < before + 20 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert rounds[0] >= before + 20, "the reader came to a halt"
    finally:
        halt.set()
        reader.join(60)
    assert not reader.is_alive()
    assert errors == []
    assert longest[0] < 5 + resumed[0], f"a pause of {longest[0]:.1f} s, and another {role} was there after {resumed[0]:.1f} s"
    assert place.status()["phase"] == "up"
    assert place("down").returncode == 0
    place.assert_nothing_left()


def test_supervisor_and_worker_killed_together(place: Place) -> None:
    assert place.up().returncode == 0
    old = {role: place.pid(role) for role in ("supervisor", "worker")}
    os.kill(old["supervisor"], signal.SIGKILL)
    os.kill(old["worker"], signal.SIGKILL)
    place.wait_for_other("supervisor", old["supervisor"])
    place.wait_for_other("worker", old["worker"])
    assert same_tree(place.origin, place.mnt)


def test_everything_killed_then_up_again(place: Place) -> None:
    assert place.up().returncode == 0
    (place.mnt / "big").read_bytes()
    pids = [p["pid"] for p in place.status()["processes"]]
    kill_together(*pids)  # the daemon would make a new supervisor, the supervisor a new daemon
    assert place.status()["phase"] == "dead"
    done = place("status")
    assert done.returncode == 1
    assert "killed" in done.stdout
    done = place.up()
    assert done.returncode == 0, done.stderr
    assert same_tree(place.origin, place.mnt)
    assert place("down").returncode == 0
    place.assert_nothing_left()
    assert not place.mnt.exists(), "made by the first up, and still known"


def test_everything_killed_then_down(place: Place) -> None:
    assert place.up().returncode == 0
    kill_together(*(p["pid"] for p in place.status()["processes"]))
    done = place("down")
    assert done.returncode == 0, done.stderr
    place.assert_nothing_left()


def test_umount_by_hand_is_a_down(place: Place) -> None:
    assert place.up().returncode == 0
    umount_by_hand(place.mnt)
    deadline = time.monotonic() + 60
    while place.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    place.assert_nothing_left()


def test_down_of_a_busy_mount_names_the_user(place: Place) -> None:
    assert place.up().returncode == 0
    with open(place.mnt / "big", "rb") as held:
        held.read(10)
        done = place("down")
        assert done.returncode == 0, done.stderr
        assert f"pid {os.getpid()}" in done.stderr
        assert "big" in done.stderr
    place.assert_nothing_left()


def test_foreground_ends_with_ctrl_c(place: Place) -> None:
    child = subprocess.Popen(
        [*FOREBAY, "up", "--foreground", "-f", str(place.yaml), "--mount", str(place.mnt), "--cache-dir", str(place.cache)],
        env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    in_the_foreground(child)
    assert (place.mnt / "big").exists()
    assert place.status()["phase"] == "up"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    place.assert_nothing_left()


INTERRUPTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "forebay.cli.machine.systemd":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def test_foreground_that_is_interrupted_before_it_waits_leaves_nothing(place: Place) -> None:
    """Everything is up then, and told: the first thing after that is to import how systemd is told."""
    (place.top / "python").mkdir()
    (place.top / "python" / "sitecustomize.py").write_text(INTERRUPTING)
    place.env["PYTHONPATH"] = str(place.top / "python")
    done = place.up("--foreground")
    assert done.returncode == 0, done.stderr
    assert "mounted at" in done.stdout.lower()
    place.assert_nothing_left()


def test_foreground_ends_with_a_down_from_elsewhere(place: Place) -> None:
    child = subprocess.Popen(
        [*FOREBAY, "up", "--foreground", "-f", str(place.yaml), "--mount", str(place.mnt), "--cache-dir", str(place.cache)],
        env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    in_the_foreground(child)
    assert (place.mnt / "big").exists()
    assert place("down").returncode == 0
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said


def test_several_datasets_below_one_directory(place: Place) -> None:
    other = place.top / "other.yaml"
    other.write_text(place.manifest("second", f"local://{place.origin}/sub"))
    done = place(
        "up", "-f", str(place.yaml), "-f", str(other), "--mount", str(place.mnt), "--cache-dir", str(place.cache), "-o", "json"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(d["name"] for d in json.loads(done.stdout)["datasets"]) == ["data", "second"]
    assert same_tree(place.origin, place.mnt / "data")
    assert same_tree(place.origin / "sub", place.mnt / "second")
    assert place("down", "second").returncode == 0
    assert (place.mnt / "data" / "big").exists()
    assert not (place.mnt / "second").exists()
    assert place("down").returncode == 0
    place.assert_nothing_left()
    assert not place.mnt.exists()
