"""A real worker process on a directory of the test's own, and readers that go through its door as a mount does."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from forebay.api import wire
from forebay.api.spec import DatasetSpec, Freshness, Mount, Tier, encode_spec
from forebay.cache.client import Door, DoorError
from forebay.cache.disk.index import COMPLETE, Index, unpack_object

MIB = 1 << 20
START_DEADLINE = 120.0
TTL = Freshness()


def file_mount(source: Path, path: str = "/", freshness: Freshness = TTL) -> Mount:
    return Mount(source=f"local://{source}", store="file", path=path, name="data", freshness=freshness)


def s3_mount(url: str, path: str = "/", freshness: Freshness = TTL) -> Mount:
    return Mount(
        source="s3://bucket/",
        store="s3",
        path=path,
        name="data",
        options={"endpoint": url, "path_style": "true", "region": "us-east-1"},
        secrets={"access_key": "AKIDEXAMPLE", "secret_key": "wJalrXUtnFEMI"},
        freshness=freshness,
    )


class Lab:
    """One dataset below `root`. `start`, `kill` and `stop` its worker as often as needed; `with` ends whatever runs."""

    def __init__(self, root: Path, mounts: list[Mount], tiers: list[Tier] | None = None, **spec: object) -> None:
        self.root = root
        self.run_dir = root / "run"
        self.index_dir = root / "index"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.tiers = tiers or [Tier("SSD", str(root / "tier0"))]
        defaults: dict[str, object] = {"floor_ratio": 0.001, "floor_bytes": 1 << 20}
        self.spec = DatasetSpec("default", "lab", mounts, self.tiers, str(self.index_dir), **(defaults | spec))  # type: ignore[arg-type]
        (self.run_dir / "spec.json").write_bytes(encode_spec(self.spec))
        self.process: subprocess.Popen[bytes] | None = None
        self.door = Door(self.run_dir / "worker.sock", role="mount")
        self.log = root / "worker.log"
        self._log_at = 0

    def start(self, *args: str, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "forebay.cache.worker", "--run-dir", str(self.run_dir), *args], stderr=log
            )
        if wait:
            self._wait_for_it(self.process)

    def _wait_for_it(self, process: subprocess.Popen[bytes]) -> None:
        """Until it answers; the imports alone take seconds where twelve processes share two cores."""
        until = time.monotonic() + START_DEADLINE
        while True:
            try:
                self.door.call(wire.Stats(), 10)
            except DoorError as e:
                assert process.poll() is None, f"the worker ended with {process.returncode}: {self.text()}"
                if e.errno != errno.ENOTCONN or time.monotonic() > until:
                    raise
            else:
                return

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds until it was gone. Fails the test for another status than 0."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert code == 0, self.text()
        return time.monotonic() - began

    def text(self) -> str:
        return self.log.read_text()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.door.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind is not None:
            print(self.text()[-4000:])

    # --- what a mount would do

    def node(self, path: str) -> wire.Node:
        reply = self.door.call(wire.Stat(os.fsencode(path)))
        assert isinstance(reply, wire.Node)
        return reply

    def stats(self) -> dict[str, object]:
        reply = self.door.call(wire.Stats())
        assert isinstance(reply, wire.Report)
        return reply.values

    def read(self, path: str, *, order: str = "sequential", step: int = MIB, seed: int = 0) -> bytes:
        """Every byte of a file, by the ways a mount has."""
        node = self.node(path)
        opened, fd = self.door.open(node.ino)
        reader = Reader(self.door, node.ino, opened, fd)
        try:
            out = bytearray(opened.size)
            offsets = list(range(0, opened.size, step))
            if order == "random":
                random.Random(seed).shuffle(offsets)
            for offset in offsets:
                data = reader.read(offset, min(step, opened.size - offset))
                out[offset : offset + len(data)] = data
            return bytes(out)
        finally:
            reader.close()

    def whole(self, path: str) -> int:
        """A descriptor of a file that is complete, now or in a moment: when its last byte is there it may still be at work."""
        found: list[int] = []

        def complete() -> bool:
            opened, fd = self.door.open(self.node(path).ino)
            found.append(fd)
            if not opened.complete:
                os.close(fd)
            return opened.complete

        eventually(complete)
        return found[-1]

    def committed(self) -> tuple[int, int]:
        """See the function."""
        return committed(self.index_dir)

    def warm(self, path: bytes = b"/") -> wire.Progress:
        return list(self.door.warm(path))[-1]


class Reader:
    """One open file: reads what it holds, asks before each read while it is not complete."""

    def __init__(self, door: Door, ino: int, opened: wire.Opened, fd: int) -> None:
        self.door = door
        self.ino = ino
        self.opened = opened
        self.fd = fd

    def read(self, offset: int, length: int, timeout: float = 60.0) -> bytes:
        """Exactly these bytes, or an error: a short read of a complete file fails the test."""
        fd, mine = self.fd, True
        if not self.opened.complete:
            moved = self.door.ensure(self.ino, offset, length, self.fd, timeout)
            if moved is not None:
                fd, mine = moved
                if mine:
                    os.close(self.fd)
                    self.fd = fd
        try:
            data = os.pread(fd, length, offset)
        finally:
            if not mine:
                os.close(fd)
        assert len(data) == length, f"{len(data)} of {length} bytes at {offset}"
        return data

    def close(self) -> None:
        os.close(self.fd)


def fill(folder: Path, sizes: dict[str, int], seed: int = 1) -> dict[str, bytes]:
    """Files with bytes of their own; name -> bytes."""
    rng = random.Random(seed)
    out = {}
    for name, size in sizes.items():
        data = b"".join(rng.randbytes(min(64 * MIB, size - at)) for at in range(0, size, 64 * MIB))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        out[name] = data
    return out


def committed(index_dir: Path) -> tuple[int, int]:
    """Objects that an index has as complete, and bytes of all: what a worker that is killed now still has."""
    index = Index(index_dir / "live", readonly=True)
    try:
        with index.env.begin() as txn:
            rows = [unpack_object(raw) for _, raw in txn.cursor(db=index.objects)]
    finally:
        index.close()
    return sum(o.state == COMPLETE for o in rows), sum(o.present for o in rows)


def eventually(condition: object, within: float = 60.0, every: float = 0.05) -> None:
    """Wait until a function returns something true; fails the test after `within` seconds."""
    assert callable(condition)
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(every)
