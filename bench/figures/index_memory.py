"""What a worker keeps in memory that has a million objects in its index: while it fills, afterwards, and after a restart.

    .venv/bin/python -P bench/figures/index_memory.py FOLDER [OBJECTS]

No mount and no network: the store is a directory of hard links, so that only the worker is measured. FOLDER needs 6 KiB
an object, best on a tmpfs; what is put there is removed. Prints one JSON object; sizes in bytes, times in seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forebay.api import wire
from forebay.api.spec import DatasetSpec, Mount, Tier, encode_spec
from forebay.cache.client import Door, DoorError

OBJECTS = 1_000_000
PER_DIRECTORY = 1000
START_DEADLINE = 60.0
FILL_DEADLINE = 3600.0
BOUND = 120 << 20


class Watched:
    """A worker process, and the most anonymous memory it was seen with."""

    def __init__(self, run_dir: Path) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-P", "-m", "forebay.cache.worker", "--run-dir", str(run_dir)])
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """RssAnon."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            with contextlib.suppress(OSError):
                self.most = max(self.most, self.now())

    def ready(self, door: Door) -> float:
        """Seconds from the start of the process to its first answer."""
        until = time.monotonic() + START_DEADLINE
        while True:
            try:
                door.call(wire.Stats(), 10)
                return time.monotonic() - self.began
            except DoorError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def end(self, number: signal.Signals) -> None:
        self._stop.set()
        self._thread.join()
        self.process.send_signal(number)
        self.process.wait(30)


def stats(door: Door) -> dict[str, Any]:
    reply = door.call(wire.Stats(), 30)
    assert isinstance(reply, wire.Report)
    return reply.values


def tree(root: Path, objects: int) -> None:
    """Directories of links to one file of 64 bytes."""
    root.mkdir()
    one = root.parent / "one"
    one.write_bytes(os.urandom(64))
    for number in range(objects):
        if number % PER_DIRECTORY == 0:
            folder = root / f"{number // PER_DIRECTORY:05}"
            folder.mkdir()
        os.link(one, folder / f"object-{number:08}")


@contextlib.contextmanager
def place(folder: Path, objects: int) -> Iterator[Path]:
    """A run directory, removed with everything beside it."""
    base = Path(tempfile.mkdtemp(prefix="forebay-index-", dir=folder))
    try:
        tree(base / "src", objects)
        mount = Mount(source=f"local://{base}/src", store="file", path="/", name="data")
        spec = DatasetSpec(
            "bench", "index", [mount], [Tier("MEM", str(base / "tier"))], str(base / "index"),
            floor_ratio=0.001, floor_bytes=1 << 20,
        )  # fmt: skip
        (base / "run").mkdir()
        (base / "run" / "spec.json").write_bytes(encode_spec(spec))
        yield base / "run"
    finally:
        shutil.rmtree(base)


def measure(folder: Path, objects: int = OBJECTS) -> dict[str, float]:
    """`fill_most`, `filled`, `restart_most`, `restarted`: RssAnon; `start`: seconds until a killed worker answers again."""
    out: dict[str, float] = {"objects": objects, "bound": BOUND}
    with place(folder, objects) as run, Door(run / "worker.sock", role="mount") as door:
        worker = Watched(run)
        try:
            worker.ready(door)
            out["empty"] = worker.now()
            began = time.monotonic()
            *_, last = door.warm(b"/", timeout=FILL_DEADLINE)
            out["fill"] = time.monotonic() - began
            time.sleep(2)
            held = sum(t["objects"] for t in stats(door)["tiers"])
            if held != objects:
                raise RuntimeError(f"{held} of {objects} objects are in the cache: {last}")
            out["fill_most"], out["filled"] = worker.most, worker.now()
            worker.end(signal.SIGKILL)
            worker = Watched(run)
            out["start"] = worker.ready(door)
            while not (stats(door)["reconciled"]["done"] and stats(door)["tree"]["walk_done"]):
                time.sleep(0.5)
            out["settle"] = time.monotonic() - worker.began
            time.sleep(6)  # a round of the ledger
            out["restart_most"], out["restarted"] = worker.most, worker.now()
        finally:
            worker.end(signal.SIGKILL)
    return out


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(json.dumps(measure(where, int(sys.argv[2]) if len(sys.argv) > 2 else OBJECTS), indent=2))
