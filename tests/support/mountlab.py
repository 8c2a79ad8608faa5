"""What mount tests need: an index filled by hand, a door that answers from a script, a daemon under a real mount."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from forebay.api import wire
from forebay.api.spec import DatasetSpec, Freshness, Mount, Tier, encode_spec
from forebay.cache.disk.index import (
    COMPLETE,
    COMPLETE_LIST,
    DIR,
    FILE,
    NO_OID,
    Dir,
    Index,
    Object,
    Row,
    boot_id,
    object_id,
    object_path,
)
from forebay.fuse import mounting, record
from forebay.fuse import protocol as p


def parse(data: bytes, plus: bool) -> list[tuple[dict[str, int], int, int, int, bytes]]:
    """(entry, ino, off, type, name) of each record."""
    out, at = [], 0
    while at < len(data):
        entry: dict[str, int] = {}
        if plus:
            v = p.ENTRY_OUT.unpack_from(data, at)
            entry = {
                "nodeid": v[0], "entry_ttl": v[2], "attr_ttl": v[3], "ino": v[6], "size": v[7], "blocks": v[8], "mtime": v[10],
                "nsec": v[13], "mode": v[15], "nlink": v[16], "uid": v[17], "gid": v[18], "blksize": v[20],
            }  # fmt: skip
            at += 128
        ino, off, n, kind = struct.unpack_from("<QQII", data, at)
        name = data[at + 24 : at + 24 + n]
        assert len(name) == n
        at = (at + 24 + n + 7) & ~7
        out.append((entry, ino, off, kind, name))
    assert at == len(data)
    return out


class FakeDoor:
    """Answers from functions set by a test; what has none fails the test."""

    def __init__(self) -> None:
        self.asked: list[wire.Request] = []
        self.forgotten: list[int] = []
        self.on: dict[type[wire.Request], Callable[[object], object]] = {}

    def call(self, request: wire.Request, timeout: float = 0) -> object:
        self.asked.append(request)
        answer = self.on[type(request)](request)
        if isinstance(answer, wire.Failed):
            raise OSError(answer.errno, answer.message)
        return answer

    def open(self, ino: int, *, validate: bool = False, timeout: float = 0) -> tuple[wire.Opened, int]:
        answer = self.call(wire.Open(ino=ino, validate=validate))
        assert isinstance(answer, tuple)
        return answer

    def ensure(self, ino: int, offset: int, length: int, held: int, timeout: float = 0) -> object:
        return self.call(wire.Ensure(ino=ino, offset=offset, length=length))

    def forget(self, ino: int) -> None:
        self.forgotten.append(ino)

    def touch(self, used: list[int], opened: list[int], closed: list[int], timeout: float = 0) -> bool:
        self.asked.append(wire.Touch(used, opened, closed))
        return True


Process = subprocess.Popen[bytes] | multiprocessing.Process
CAN_EXEC = os.access(os.path.realpath(sys.executable), os.X_OK)
"""False for an ordinary user whose interpreter lies under /root: then a fork has to do."""


def spawn(module: str, argv: list[str], log: Path, fds: tuple[int, ...] = (), env: dict[str, str] | None = None) -> Process:
    """Run a module as a program with its stderr appended to `log`."""
    if CAN_EXEC:
        with open(log, "ab") as out:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", module, *argv], pass_fds=fds, env={**os.environ, **(env or {})}, stderr=out,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def run() -> None:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.environ.update(env or {})
        sys.argv = [module, *argv]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process


def ended(process: Process, seconds: float) -> bool:
    if isinstance(process, subprocess.Popen):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    process.join(seconds)
    return process.exitcode is not None


class Lab:
    """A dataset in a directory of its own, its index filled from a model tree, complete cache files included."""

    def __init__(self, base: Path, *, mode: str = "ttl", ttl: float = 3600.0, quota: int = 0) -> None:
        self.base = base
        self.model = base / "model"
        self.tier = base / "tier"
        self.run = base / "run"
        for d in (self.model, self.tier):
            d.mkdir(parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.spec = DatasetSpec(
            "default", "lab", [Mount(f"local://{self.model}", "file", "/", "m", freshness=Freshness(mode, ttl))],
            [Tier("SSD", str(self.tier), quota)], str(base / "index"), floor_ratio=0.0,
        )  # fmt: skip
        (self.run / "spec.json").write_bytes(encode_spec(self.spec))
        self.mount_point = base / "mnt"
        self.device = self.state = -1
        self.daemon: Process | None = None
        self.worker: Process | None = None
        self.options: list[str] = []
        self.env: dict[str, str] = {}

    # --- an index without a worker ---------------------------------------------------------------------------------

    def fill(self) -> None:
        """Rows, listings and complete cache files of everything in the model."""
        index, now = Index(self.base / "index" / "live"), int(time.time())
        with index.env.begin(write=True) as txn:
            index.check_schema(txn)
            todo = [(1, os.fsencode(self.model))]
            while todo:
                ino, folder = todo.pop()
                n = 0
                for e in os.scandir(folder):
                    child, n, st = index.next_ino(txn), n + 1, e.stat(follow_symlinks=False)
                    if e.is_dir(follow_symlinks=False):
                        index.put_row(txn, ino, Row(DIR, 0, 0, now, 0, st.st_mtime_ns, child, NO_OID, e.name, b""))
                        todo.append((child, e.path))
                        continue
                    oid = object_id(self.spec.mounts[0].source, e.path, b"v1")
                    index.put_row(txn, ino, Row(FILE, 0, 0, now, st.st_size, st.st_mtime_ns, child, oid, e.name, b"v1"))
                    size = st.st_size
                    index.put_object(txn, oid, Object(COMPLETE, 0, 0, now, size, size, boot_id(), child))
                    target = Path(object_path(str(self.tier), oid))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(e.path, target)
                index.put_dir(txn, ino, Dir(COMPLETE_LIST, now, n, 1, (0,)))
        index.close()

    # --- processes -------------------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        self.worker = spawn("forebay.cache.worker", ["--run-dir", str(self.run)], self.run / "worker.log")

    def start(self) -> None:
        self.mount_point.mkdir(exist_ok=True)
        self.device = mounting.mount(str(self.mount_point), "forebay:default/lab")
        self.state = record.create_memfd()
        self.start_daemon()

    def start_daemon(self) -> None:
        argv = [
            "--run-dir", str(self.run), "--mount", str(self.mount_point), "--index", "0",
            "--device-fd", str(self.device), "--state-fd", str(self.state), *self.options,
        ]  # fmt: skip
        self.daemon = spawn("forebay.fuse.daemon", argv, self.run / "mount-0.log", (self.device, self.state), self.env)

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        assert ended(self.daemon, 60)

    def granted(self, deadline: float = 120.0) -> dict[str, object]:
        """What the present daemon published."""
        assert self.daemon is not None
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                state = json.loads((self.run / "mount-0.json").read_text())
                if state["pid"] == self.daemon.pid:
                    return state
            time.sleep(0.01)
        raise AssertionError(f"the daemon published nothing: {self.log()}")

    def log(self) -> str:
        return (self.run / "mount-0.log").read_text() if (self.run / "mount-0.log").exists() else ""

    def worker_log(self) -> str:
        return (self.run / "worker.log").read_text() if (self.run / "worker.log").exists() else ""

    def log_lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def halt(self) -> None:
        """Unmount and end every process. Works from any state."""
        with contextlib.suppress(OSError):
            mounting.umount(str(self.mount_point), lazy=True)
        for fd in (self.device, self.state):
            if fd >= 0:
                os.close(fd)
        self.device = self.state = -1
        for process in (self.daemon, self.worker):
            if process is None:
                continue
            if process is self.worker:
                process.terminate()
            if not ended(process, 10):
                process.kill()
                ended(process, 10)

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def lab(**options: object):
    """A `Lab` under /var/tmp (a plain file system, unlike /tmp where that is an overlay)."""
    built = Lab(Path(tempfile.mkdtemp(prefix="forebay-lab-", dir="/var/tmp")), **options)
    try:
        yield built
    finally:
        built.stop()
