"""The session against a socket in place of the device: one packet a request, one packet a reply."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlab import FakeDoor, Lab

from forebay.api import wire
from forebay.cache.disk.index import Index
from forebay.fuse import protocol as p
from forebay.fuse.modes import Modes
from forebay.fuse.operations import Backing, Operations
from forebay.fuse.record import Record, create_memfd
from forebay.fuse.session import Session


class Wire:
    """The kernel's side."""

    def __init__(self, base: Path, *, passthrough: bool = True) -> None:
        self.lab = Lab(base)
        (self.lab.model / "whole").write_bytes(b"whole file")
        (self.lab.model / "part").write_bytes(b"partial file")
        self.lab.fill()
        self.index = Index(base / "index" / "live")
        with self.index.env.begin(write=True) as txn:
            row = self.index.find(txn, 1, b"part")
            assert row is not None
            self.index.drop_object(txn, row.oid)
        self.part = row.ino
        with self.index.env.begin() as txn:
            whole = self.index.find(txn, 1, b"whole")
        assert whole is not None
        self.whole = whole.ino
        self.door = FakeDoor()
        self.state = create_memfd()
        self.record = Record(self.state)
        self.closed: list[int] = []
        self.ids = iter(range(101, 200))
        backing = Backing(lambda fd: next(self.ids), self.closed.append) if passthrough else None
        self.ops = Operations(self.lab.spec, self.index, self.door, Modes(self.record), uid=1, gid=2, backing=backing)
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.settimeout(60)
        self.logged: list[str] = []
        self.notices: list[bytes] = []
        agreed = p.Negotiated(45, p.WANTED, 1 << 20, 0)
        notice = self.notices.append
        log = lambda message, **_: self.logged.append(message)  # noqa: E731
        self.session = Session(device.detach(), self.ops, agreed, self.record, log, notice=notice)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.session.run()
        except (OSError, Exception):  # noqa: BLE001 - the socket was closed: an empty packet is no request
            pass

    def close(self) -> None:
        self.session.stop()
        self.kernel.close()
        self.thread.join(60)
        lanes = self.session.pool._lanes.values()  # what they still do after a reply is noted in the record
        self.until(lambda: all(lane._resting == lane._threads for lane in lanes))
        os.close(self.session.fd)
        self.record.close()
        os.close(self.state)
        self.index.close()

    def ask(self, opcode: int, nodeid: int = 1, body: bytes = b"", unique: int = 2, pid: int | None = None) -> None:
        head = p.IN.pack(40 + len(body), opcode, unique, nodeid, 0, 0, os.getpid() if pid is None else pid, 0, 0)
        self.kernel.send(head + body)

    def reply(self) -> tuple[int, int, bytes]:
        """Error, unique and body."""
        raw = self.kernel.recv(2 << 20)
        length, error, unique = p.OUT.unpack_from(raw)
        assert length == len(raw)
        return error, unique, raw[16:]

    def call(self, opcode: int, nodeid: int = 1, body: bytes = b"", unique: int = 2) -> tuple[int, bytes]:
        self.ask(opcode, nodeid, body, unique)
        error, got, out = self.reply()
        assert got == unique
        return error, out

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def silent(self) -> bool:
        self.kernel.settimeout(0.2)
        try:
            self.kernel.recv(100)
        except TimeoutError:
            return True
        finally:
            self.kernel.settimeout(60)
        return False


@pytest.fixture
def w(tmp_path: Path):
    made = Wire(tmp_path)
    yield made
    made.close()


def opening(flags: int = os.O_RDONLY) -> bytes:
    return p.OPEN_IN.pack(flags, 0)


def reading(offset: int, size: int) -> bytes:
    return p.READ_IN.pack(0, offset, size, 0, 0, 0, 0)


def test_lookup_open_read_of_a_partial_file(w: Wire, tmp_path: Path) -> None:
    error, body = w.call(p.LOOKUP, body=b"part\0")
    assert error == 0
    assert p.ENTRY_OUT.unpack(body)[0] == w.part
    assert p.ENTRY_OUT.unpack(body)[17:19] == (1, 2)
    source = tmp_path / "bytes"
    source.write_bytes(b"partial file")
    w.door.on[wire.Open] = lambda _: (wire.Opened(size=12, complete=False), os.open(source, os.O_RDONLY))
    w.door.on[wire.Ensure] = lambda _: None
    error, body = w.call(p.OPEN, w.part, opening())
    assert p.OPEN_REPLY.unpack(bytes(16) + body)[3:] == (w.part, p.FOPEN_KEEP_CACHE | p.FOPEN_NOFLUSH, 0)
    assert w.call(p.READ, w.part, reading(8, 4096)) == (0, b"file")
    assert w.call(p.READ, w.part, reading(12, 4096)) == (0, b"")
    assert [r.offset for r in w.door.asked if isinstance(r, wire.Ensure)] == [8]
    assert w.call(p.RELEASE, w.part, bytes(24)) == (0, b"")
    w.until(lambda: not w.ops.opens.files)


def test_open_of_a_whole_file_is_passthrough_and_its_id_is_kept(w: Wire) -> None:
    for unique in (2, 4):
        _, body = w.call(p.OPEN, w.whole, opening(), unique)
        assert p.OPEN_REPLY.unpack(bytes(16) + body)[3:] == (w.whole, p.FOPEN_PASSTHROUGH | p.FOPEN_NOFLUSH, 101)
        assert w.call(p.RELEASE, w.whole, bytes(24)) == (0, b"")
    assert w.door.asked == []
    w.until(lambda: w.ops.opens.modes.mode(w.whole) == ("passthrough", 0, 101))  # a release is counted after its reply
    w.ops.opens.evicted([w.whole])
    assert w.closed == [101]


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC])
def test_opens_for_writing_are_refused(w: Wire, flags: int) -> None:
    assert w.call(p.OPEN, w.whole, opening(flags)) == (-errno.EROFS, b"")


@pytest.mark.parametrize("opcode", sorted(p.WRITES))
def test_whatever_changes_the_tree_is_refused(w: Wire, opcode: int) -> None:
    assert w.call(opcode, body=bytes(88)) == (-errno.EROFS, b"")


@pytest.mark.parametrize("opcode", [p.FLUSH, p.LSEEK, p.ACCESS, p.IOCTL, p.POLL, p.GETLK, p.STATX, p.BMAP, 999])
def test_what_is_not_served_is_enosys(w: Wire, opcode: int) -> None:
    assert w.call(opcode, body=bytes(64)) == (-errno.ENOSYS, b"")


@pytest.mark.parametrize("opcode", [p.OPEN, p.READ, p.READDIRPLUS, p.RELEASE, p.GETXATTR])
def test_a_short_request_is_answered_and_logged(w: Wire, opcode: int) -> None:
    assert w.call(opcode, body=b"x") == (-errno.EIO, b"")
    assert w.logged == ["malformed request"]
    assert w.call(p.GETATTR, body=bytes(16))[0] == 0  # and the session goes on


def test_a_defect_costs_one_request(w: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w.ops, "statfs", lambda: 1 // 0)
    assert w.call(p.STATFS) == (-errno.EIO, b"")
    assert w.logged == ["defect"]
    assert w.call(p.GETATTR, body=bytes(16))[0] == 0


def test_forget_has_no_reply(w: Wire) -> None:
    w.ask(p.FORGET, w.whole, bytes(8))
    w.ask(p.BATCH_FORGET, 0, p.BATCH_FORGET_IN.pack(1, 0) + bytes(16))
    assert w.silent()
    assert w.call(p.GETATTR, body=bytes(16))[0] == 0


def test_xattrs(w: Wire) -> None:
    listed = b"user.forebay.store\0user.forebay.key\0user.forebay.version\0user.forebay.cached\0"
    assert w.call(p.LISTXATTR, w.whole, p.GETXATTR_IN.pack(0, 0)) == (0, p.XATTR_SIZE.pack(len(listed), 0))
    assert w.call(p.LISTXATTR, w.whole, p.GETXATTR_IN.pack(10, 0)) == (-errno.ERANGE, b"")
    assert w.call(p.LISTXATTR, w.whole, p.GETXATTR_IN.pack(200, 0)) == (0, listed)
    get = p.GETXATTR_IN.pack(100, 0)
    assert w.call(p.GETXATTR, w.whole, get + b"user.forebay.key\0") == (0, b"whole")
    assert w.call(p.GETXATTR, w.whole, get + b"user.forebay.cached\0") == (0, b"10")
    assert w.call(p.GETXATTR, w.part, get + b"user.forebay.cached\0") == (0, b"0")
    assert w.call(p.GETXATTR, w.whole, get + b"user.other\0") == (-errno.ENODATA, b"")
    assert w.call(p.GETXATTR, w.whole, get + b"security.selinux\0") == (-errno.EOPNOTSUPP, b"")
    assert w.call(p.GETXATTR, 1, get + b"user.forebay.version\0") == (-errno.ENODATA, b"")


def test_a_waiting_request_does_not_hold_up_others(w: Wire) -> None:
    gate = threading.Event()
    w.door.on[wire.Lookup] = lambda _: gate.wait(60) and wire.Failed(errno.ENOENT, "absent")
    with w.index.env.begin(write=True) as txn:
        txn.delete((1).to_bytes(8, "big"), db=w.index.dirs)  # the directory is not listed: the store must be asked
    w.ask(p.LOOKUP, body=b"absent\0", unique=10)
    assert w.call(p.GETATTR, body=bytes(16), unique=12)[0] == 0
    gate.set()
    assert w.reply() == (-errno.ENOENT, 10, b"")


def test_absence_in_a_whole_listing_is_cached_by_the_kernel(w: Wire) -> None:
    error, body = w.call(p.LOOKUP, body=b"absent\0")
    assert error == 0
    fields = p.ENTRY_OUT.unpack(body)
    assert fields[0] == 0
    assert 3500 < fields[2] <= 3600
    assert w.door.asked == []


def test_interrupt_ends_a_wait_once(w: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, told = threading.Event(), [False]
    monkeypatch.setattr("forebay.fuse.pool.told_to_end", lambda pid: told[0])
    opened = wire.Opened(size=12, complete=False)
    w.door.on[wire.Open] = lambda _: gate.wait(60) and (opened, os.open("/dev/null", os.O_RDONLY))
    w.ask(p.OPEN, w.part, opening(), unique=10)
    w.ask(p.INTERRUPT, 0, p.INTERRUPT_IN.pack(10), unique=11)
    assert w.call(p.GETATTR, body=bytes(16), unique=12)[0] == 0  # what was asked before is in hand
    assert w.silent()  # a signal that programs do not expect to end a read
    told[0] = True
    w.session.pool.check_signals()
    assert w.reply() == (-errno.EINTR, 10, b"")
    gate.set()
    assert w.silent()  # the late answer is not sent, and its open is taken back
    w.until(lambda: w.ops.opens.modes.mode(w.part) == ("none", 0, 0) and w.ops.opens.files == {})
    w.ask(p.INTERRUPT, 0, p.INTERRUPT_IN.pack(10), unique=13)
    assert w.call(p.GETATTR, body=bytes(16), unique=14)[0] == 0


def test_more_waits_than_threads(w: Wire) -> None:
    gate = threading.Event()
    w.door.on[wire.Open] = lambda _: gate.wait(60) and wire.Failed(errno.EIO, "store down")
    for i in range(100):
        w.ask(p.OPEN, w.part, opening(), unique=100 + 2 * i)
    assert w.call(p.GETATTR, body=bytes(16), unique=12)[0] == 0
    gate.set()
    assert sorted(w.reply()[1] for _ in range(100)) == [100 + 2 * i for i in range(100)]
    w.door.on[wire.Open] = lambda _: wire.Failed(errno.ESTALE, "newer")
    assert w.call(p.OPEN, w.part, opening(), 500) == (-errno.ESTALE, b"")


def test_cached_bytes_are_read_while_every_door_thread_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = Wire(tmp_path, passthrough=False)
    gate = threading.Event()
    w.door.on[wire.Open] = lambda _: gate.wait(60) and wire.Failed(errno.EIO, "store down")
    w.call(p.OPEN, w.whole, opening(), 2)
    for i in range(60):
        w.ask(p.OPEN, w.part, opening(), unique=100 + 2 * i)
    first = [True]

    def cold(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        """As after the pages were dropped: not without waiting."""
        if flags and first.pop():
            raise BlockingIOError(errno.EAGAIN, "not in the page cache")
        return real(fd, buffers, offset, 0)

    real = os.preadv
    monkeypatch.setattr(os, "preadv", cold)
    assert w.call(p.READ, w.whole, reading(0, 4096), 50) == (0, b"whole file")
    gate.set()
    assert sorted(w.reply()[1] for _ in range(60)) == [100 + 2 * i for i in range(60)]
    w.close()


def test_a_resent_open_keeps_its_bit_and_is_counted_once(w: Wire) -> None:
    w.call(p.OPEN, w.whole, opening(), 50)
    assert w.call(p.OPEN, w.whole, opening(), 50 | p.RESENT)[0] == 0
    assert w.ops.opens.modes.opens(w.whole) == 1
    w.call(p.OPEN, w.whole, opening(), 52)
    assert w.ops.opens.modes.opens(w.whole) == 2


def test_a_whole_listing_comes_in_order(w: Wire) -> None:
    error, body = w.call(p.READDIRPLUS, body=reading(0, 4096))
    assert error == 0
    assert b"whole" in body
    assert b"part" in body
    last = max(w.whole, w.part) + 2
    assert w.call(p.READDIRPLUS, body=reading(last, 4096)) == (0, b"")
    assert len(w.call(p.READDIR, body=reading(0, 4096))[1]) == 32 * 4


def test_a_root_without_a_row_is_a_directory(w: Wire) -> None:
    error, body = w.call(p.GETATTR, body=bytes(16))
    assert error == 0
    assert p.ATTR.unpack_from(body, 16)[9] == 0o040555
    assert w.call(p.GETATTR, 77, bytes(16)) == (-errno.ESTALE, b"")


class Told:
    """In place of the machine's request: what was asked for, in order."""

    def __init__(self) -> None:
        self.wishes: list[bool] = []

    def hold(self) -> None:
        self.wishes.append(True)

    def release(self) -> None:
        self.wishes.append(False)


def test_idle_cores_may_sleep_again_as_soon_as_requests_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst makes the dispatcher poll; afterwards nobody asks anything, and no core of the machine is kept awake for it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    told = Told()
    monkeypatch.setattr("forebay.fuse.session.Awake", lambda: told)
    w = Wire(tmp_path)
    try:
        until = time.monotonic() + 60
        while True not in told.wishes:
            assert time.monotonic() < until, "no burst was seen as one"
            for unique in range(2, 66, 2):
                w.ask(p.GETATTR, body=bytes(16), unique=unique)
            for _ in range(32):
                w.reply()
        w.until(lambda: told.wishes[-1] is False)
    finally:
        w.close()
