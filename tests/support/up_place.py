"""A place of its own for each end-to-end test: run directory, cache, origin, manifest, and a look at what is left."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workerlab import eventually

FOREBAY = [sys.executable, "-P", "-m", "forebay.cli.main"]
BIG = 40 << 20
BYTES = os.urandom(BIG)
"""Of each place's large file; made once: 0.1 s a test otherwise."""


def kill_together(*pids: int) -> None:
    """SIGKILL, so that none sees another die; returns when all are gone, their locks and sockets too."""
    ends = [os.pidfd_open(pid) for pid in pids]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for end in ends:
            signal.pidfd_send_signal(end, number)
    for end in ends:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        assert poll.poll(60_000), "a killed process does not end"
        os.close(end)


def in_the_foreground(child: subprocess.Popen[str]) -> None:
    """Until `up --foreground`, whose stderr is a pipe, says that all is up and that it can be interrupted."""
    assert child.stderr is not None
    said: list[str] = []
    while not said or "in the foreground" not in said[-1]:
        said.append(child.stderr.readline())
        assert said[-1], said


def umount_by_hand(mount: Path) -> None:
    """Busy, too, for the moment in which its supervisor looks whether it answers."""
    eventually(lambda: subprocess.run(["umount", str(mount)], check=False).returncode == 0)


class Place:
    """A run directory, a cache and a file:// dataset of its own; commands run as a person would run them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.origin = top / "origin"
        self.mnt = top / "mnt"
        self.cache = top / "cache"
        self.run = top / "run"
        self.env = {**os.environ, "FOREBAY_RUN_DIR": str(self.run)}
        (self.origin / "sub").mkdir(parents=True)
        for i in range(20):
            (self.origin / "sub" / f"f{i:02d}").write_bytes(os.urandom(3000 + i))
        (self.origin / "big").write_bytes(BYTES)
        self.yaml = top / "d.yaml"
        self.yaml.write_text(self.manifest("data", f"local://{self.origin}"))

    @staticmethod
    def manifest(name: str, point: str, extra: str = "") -> str:
        return (
            "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\n"
            f"metadata: {{name: {name}}}\nspec:\n  mounts:\n  - mountPoint: {point}\n    path: /\n    name: {name}\n{extra}"
        )

    def __call__(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*FOREBAY, *args], env=self.env, capture_output=True, text=True, timeout=timeout, check=False)

    def up(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self("up", "-f", str(self.yaml), "--mount", str(self.mnt), "--cache-dir", str(self.cache), *args)

    def status(self, name: str = "data") -> dict[str, Any]:
        done = self("status", "-o", "json", name)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["datasets"][0]
        return found

    def pid(self, role: str) -> int:
        return next(int(p["pid"]) for p in self.status()["processes"] if p["role"] == role)

    def wait_for_other(self, role: str, old: int, seconds: float = 60) -> int:
        """Pid of the process that took over a role."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for process in self.status()["processes"]:
                if process["role"] == role and process["pid"] != old and process["state"] == "ready":
                    return int(process["pid"])
            time.sleep(0.1)
        raise AssertionError(f"no new {role} within {seconds} s: {self.status()}")

    def processes(self) -> list[str]:
        """Command lines of living processes that belong to this run directory."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.run) in line and "forebay" in line:
                found.append(f"{entry} {line}")
        return found

    def mounted(self) -> bool:
        return str(self.top) in Path("/proc/self/mountinfo").read_text()

    def assert_nothing_left(self) -> None:
        assert not self.mounted()
        assert self.processes() == []
        assert not list(self.run.rglob("*")) if self.run.exists() else True


def make_place() -> Iterator[Place]:
    """One place; whatever a test left behind is removed, and is an error."""
    top = Path(tempfile.mkdtemp(prefix="fb-up-", dir="/tmp"))
    place = Place(top)
    try:
        yield place
    finally:
        place("down")
        left = place.processes()
        for line in left:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        subprocess.run(["umount", "-l", str(place.mnt)], capture_output=True, check=False)
        shutil.rmtree(top, ignore_errors=True)
        assert not left, left
