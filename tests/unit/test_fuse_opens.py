"""Opens and reads against a scripted worker: replaced files, damage, what is told of use, evictions found by looking."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from mountlab import FakeDoor, Lab

from forebay.api import wire
from forebay.cache.disk.extents import Extent, blocks_in_segment, checksum
from forebay.cache.disk.index import BLOCK, PARTIAL, Index, object_path
from forebay.fuse.files import OpenFile
from forebay.fuse.modes import Modes
from forebay.fuse.opens import CACHED, PASSTHROUGH, Backing, Opens
from forebay.fuse.record import Record, create_memfd
from forebay.fuse.view import View, WouldBlock

SIZE = 3 * BLOCK + 1000
BYTES = bytes(i * 7 & 0xFF for i in range(256)) * (SIZE // 256 + 1)


class Case:
    def __init__(self, base: Path, *, passthrough: bool, mode: str = "ttl") -> None:
        self.lab = Lab(base, mode=mode)
        (self.lab.model / "f").write_bytes(BYTES[:SIZE])
        self.lab.fill()
        self.index = Index(base / "index" / "live")
        with self.index.env.begin() as txn:
            self.row = self.index.find(txn, 1, b"f")
        assert self.row is not None
        self.ino = self.row.ino
        self.path = Path(object_path(str(self.lab.tier), self.row.oid))
        self.door = FakeDoor()
        self.state = create_memfd()
        self.record = Record(self.state)
        self.ids: dict[int, str] = {}
        backing = Backing(self.register, self.ids.pop) if passthrough else None
        self.opens = Opens(View(self.lab.spec, self.index, self.door), Modes(self.record), backing)
        self.unique = 0
        self.buffer = memoryview(bytearray((1 << 20) + (1 << 19)))

    def register(self, fd: int) -> int:
        self.ids[len(self.ids) + 1] = os.readlink(f"/proc/self/fd/{fd}")
        return len(self.ids)

    def open(self, flags: int = os.O_RDONLY) -> tuple[int, int]:
        self.unique += 2
        with self.opens.lock:
            answer = self.opens.enter(self.ino, flags, self.unique)
        if answer is None:
            file = self.opens.fetch(self.ino, flags)
            with self.opens.lock:
                answer = self.opens.admit(file, self.unique)
        return answer

    def read(self, offset: int, size: int, wait: bool = True) -> bytes:
        return bytes(self.opens.read(self.ino, offset, size, self.buffer, wait))

    def forget_object(self) -> None:
        with self.index.env.begin(write=True) as txn:
            self.index.drop_object(txn, self.row.oid)

    def sums(self) -> None:
        with self.index.env.begin(write=True) as txn:
            extent = Extent(blocks_in_segment(SIZE, 0))
            extent.put(0, b"".join(checksum(BYTES[at : min(at + BLOCK, SIZE)]) for at in range(0, SIZE, BLOCK)))
            txn.put(self.row.oid + bytes(4), extent.pack(), db=self.index.extents)

    def fds(self) -> list[str]:
        out = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                out.append(os.readlink(f"/proc/self/fd/{fd}"))
            except FileNotFoundError:
                continue
        return [name for name in out if name.startswith(str(self.lab.base))]

    def close(self) -> None:
        self.record.close()
        os.close(self.state)
        self.index.close()


@pytest.fixture
def cached(tmp_path: Path):
    made = Case(tmp_path, passthrough=False)
    yield made
    made.close()


@pytest.fixture
def through(tmp_path: Path):
    made = Case(tmp_path, passthrough=True)
    yield made
    made.close()


def test_a_whole_file_is_opened_once_and_keeps_no_descriptor(through: Case) -> None:
    assert through.open() == (PASSTHROUGH, 1)
    assert through.open() == (PASSTHROUGH, 1)
    assert through.ids == {1: str(through.path)}
    assert not [name for name in through.fds() if "objects" in name]
    assert through.door.asked == []


def test_without_passthrough_one_descriptor_lives_as_long_as_the_opens(cached: Case) -> None:
    assert cached.open() == cached.open() == (CACHED, 0)
    assert len([n for n in cached.fds() if "objects" in n]) == 1
    assert cached.read(BLOCK - 5, 100) == BYTES[BLOCK - 5 : BLOCK + 95]
    assert cached.read(SIZE - 3, 100) == BYTES[SIZE - 3 : SIZE]
    assert cached.read(SIZE, 100) == cached.read(SIZE + 10**12, 1) == b""
    cached.opens.release(cached.ino)
    assert cached.opens.files
    cached.opens.release(cached.ino)
    assert not [n for n in cached.fds() if "objects" in n]


@pytest.mark.parametrize("change", ["another boot", "partial", "shorter", "unlinked", "no tier"])
def test_a_doubtful_cache_file_is_the_workers_business(through: Case, change: str) -> None:
    with through.index.env.begin(write=True) as txn:
        o = through.index.object(txn, through.row.oid)
        if change == "another boot":
            o = o._replace(boot=o.boot ^ 1)
        elif change == "partial":
            o = o._replace(state=PARTIAL)
        elif change == "no tier":
            o = o._replace(tier=9)
        through.index.put_object(txn, through.row.oid, o)
    if change == "shorter":
        os.truncate(through.path, 10)
    elif change == "unlinked":
        through.path.unlink()
    with through.opens.lock:
        assert through.opens.enter(through.ino, 0, 2) is None
    assert through.opens.modes.mode(through.ino) == ("none", 0, 0)


def test_a_file_that_completes_under_readers_stays_cached_and_is_then_read_without_asking(through: Case) -> None:
    with through.index.env.begin(write=True) as txn:
        whole = through.index.object(txn, through.row.oid)
        through.index.put_object(txn, through.row.oid, whole._replace(state=PARTIAL))
    through.door.on[wire.Open] = lambda _: (wire.Opened(size=SIZE, complete=False), os.open(through.path, os.O_RDONLY))
    through.door.on[wire.Ensure] = lambda _: None
    assert through.open() == (CACHED, 0)
    with pytest.raises(WouldBlock):
        through.read(0, 10, wait=False)
    assert through.read(0, 10) == BYTES[:10]
    with through.index.env.begin(write=True) as txn:
        through.index.put_object(txn, through.row.oid, whole)
    assert through.read(20, 10, wait=False) == BYTES[20:30]
    assert through.open() == (CACHED, 0)  # the kernel allows no other mode now
    through.opens.release(through.ino)
    through.opens.release(through.ino)
    assert through.open() == (PASSTHROUGH, 1)


def test_an_unlinked_buffer_is_let_go_at_the_last_release(through: Case, tmp_path: Path) -> None:
    through.forget_object()
    (tmp_path / "buffer").write_bytes(BYTES[:SIZE])
    opened = wire.Opened(size=SIZE, complete=True, cached=False)
    through.door.on[wire.Open] = lambda _: (opened, os.open(tmp_path / "buffer", os.O_RDONLY))
    assert through.open() == (PASSTHROUGH, 1)
    through.opens.release(through.ino)
    assert through.ids == {}


@pytest.mark.parametrize("kept", [True, False])
def test_bytes_that_lie_in_another_file(cached: Case, tmp_path: Path, kept: bool) -> None:
    cached.forget_object()
    (tmp_path / "other").write_bytes(BYTES[:SIZE])
    (tmp_path / "empty").touch()
    cached.door.on[wire.Open] = lambda _: (wire.Opened(size=SIZE, complete=False), os.open(tmp_path / "empty", os.O_RDONLY))
    cached.door.on[wire.Ensure] = lambda _: (os.open(tmp_path / "other", os.O_RDONLY), kept)
    cached.open()
    assert cached.read(100, 50) == BYTES[100:150]
    held = [os.path.basename(n) for n in cached.fds() if n.endswith(("other", "empty"))]
    assert held == (["other"] if kept else ["empty"])
    cached.opens.release(cached.ino)
    assert not [n for n in cached.fds() if n.endswith(("other", "empty"))]


def test_a_descriptor_replaced_under_a_read_is_closed_after_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    file = OpenFile(5, os.open(tmp_path / "f", os.O_RDONLY), 3, complete=True)
    assert file.hold()
    file.close()
    assert not file.hold()
    assert bytes(file.fill(0, 3, memoryview(bytearray(10)), True)) == b"old"
    fd = file.fd
    file.let_go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_every_block_is_compared_once_per_open(cached: Case) -> None:
    cached.sums()
    cached.open()
    assert cached.read(BLOCK // 2, BLOCK) == BYTES[BLOCK // 2 : BLOCK // 2 + BLOCK]
    assert cached.opens.files[cached.ino].verified == 0b11
    assert cached.read(0, SIZE) == BYTES[:SIZE]
    assert cached.opens.files[cached.ino].verified == 0b1111


def test_a_damaged_block_is_fetched_anew_and_never_served(cached: Case) -> None:
    cached.sums()
    with open(cached.path, "r+b") as f:
        f.seek(2 * BLOCK + 7)
        f.write(b"\xff\xfe")

    def repair(request: wire.Suspect) -> wire.Done:
        assert (request.ino, request.offset, request.length) == (cached.ino, 2 * BLOCK, BLOCK)
        with cached.index.env.begin(write=True) as txn:
            o = cached.index.object(txn, cached.row.oid)
            cached.index.put_object(txn, cached.row.oid, o._replace(state=PARTIAL))
        return wire.Done()

    def ensure(_: wire.Ensure) -> None:
        cached.path.write_bytes(BYTES[:SIZE])

    cached.door.on = {wire.Suspect: repair, wire.Ensure: ensure}
    cached.open()
    assert cached.read(0, BLOCK) == BYTES[:BLOCK]  # the others are fine
    with pytest.raises(WouldBlock):
        cached.read(2 * BLOCK, 100, wait=False)
    assert cached.read(2 * BLOCK, 100) == BYTES[2 * BLOCK : 2 * BLOCK + 100]
    assert cached.door.forgotten == [cached.ino], "what the door remembers to be there was not doubted"


def test_bytes_that_the_worker_took_away_are_asked_for_again_under_an_open_file(cached: Case) -> None:
    cached.sums()
    cached.open()
    assert cached.read(0, SIZE) == BYTES[:SIZE]
    with cached.index.env.begin(write=True) as txn:  # the scrubber found damage, or the object was evicted
        o = cached.index.object(txn, cached.row.oid)
        cached.index.put_object(txn, cached.row.oid, o._replace(state=PARTIAL))
    cached.opens.evicted([cached.ino])
    asked: list[wire.Ensure] = []
    cached.door.on = {wire.Ensure: asked.append}
    assert cached.read(0, BLOCK) == BYTES[:BLOCK]
    assert len(asked) == 1
    assert cached.door.forgotten == [cached.ino]


def test_damage_that_the_worker_cannot_mend_is_an_error(cached: Case) -> None:
    cached.sums()
    with open(cached.path, "r+b") as f:
        f.write(b"\xff\xfe")
    cached.door.on[wire.Suspect] = lambda _: wire.Failed(errno.EPROTO, "not known")
    cached.open()
    with pytest.raises(OSError, match="damaged") as e:
        cached.read(0, 10)
    assert e.value.errno == errno.EIO


def test_use_is_told_once(through: Case) -> None:
    for _ in range(3):
        through.open()
    told = through.opens.touched()
    assert (told.used, told.opened, told.closed) == ([through.ino], [through.ino], [])
    through.open()
    assert through.opens.touched() == wire.Touch([through.ino], [], [])
    for _ in range(4):
        through.opens.release(through.ino)
    assert through.opens.touched() == wire.Touch([], [], [through.ino])
    through.open()
    through.opens.release(through.ino)
    assert through.opens.touched() == wire.Touch([through.ino], [], [])


def test_what_nobody_took_is_told_again(through: Case) -> None:
    through.open()
    told = through.opens.touched()
    through.opens.untouched(told.opened, told.closed)
    assert through.opens.touched().opened == [through.ino]
    through.opens.worker_restarted()
    assert through.opens.touched().opened == [through.ino]


def test_an_eviction_that_nobody_told_is_found(through: Case) -> None:
    through.open()
    through.opens.release(through.ino)
    through.opens.sweep()
    assert through.ids == {1: str(through.path)}
    through.forget_object()
    through.opens.sweep()
    assert through.ids == {}


def test_a_kernel_that_refuses_backing_files_is_asked_once(through: Case) -> None:
    asked, said = [], []

    def refuse(fd: int) -> int:
        asked.append(fd)
        raise OSError(errno.ELOOP, "stacked")

    through.opens.backing = Backing(refuse, lambda _: None)
    through.opens.no_passthrough = said.append  # type: ignore[method-assign]
    assert through.open() == (CACHED, 0)
    through.opens.release(through.ino)
    assert through.open() == (CACHED, 0)
    assert len(asked) == len(said) == 1
    assert through.read(0, 10) == BYTES[:10]


@pytest.mark.parametrize(("mode", "flags", "asks"), [
    ("immutable", os.O_DIRECT, False), ("ttl", os.O_DIRECT, True), ("ttl", 0, False), ("validate", 0, True), ("event", 0, False),
])  # fmt: skip
def test_who_asks_the_store_at_open(tmp_path: Path, mode: str, flags: int, asks: bool) -> None:
    case = Case(tmp_path, passthrough=True, mode=mode)
    case.door.on[wire.Open] = lambda _: (wire.Opened(size=SIZE, complete=True), os.open(case.path, os.O_RDONLY))
    for _ in range(2):
        assert case.open(flags) == (PASSTHROUGH, 1)
    assert [r.validate for r in case.door.asked] == ([True, True] if asks else [])
    assert case.opens.modes.mode(case.ino) == ("passthrough", 2, 1)
    case.close()


def test_many_threads_open_read_and_release(cached: Case) -> None:
    wrong = []

    def work(seed: int) -> None:
        buffer = memoryview(bytearray(2 << 20))
        for i in range(100):
            with cached.opens.lock:
                if cached.opens.enter(cached.ino, 0, seed * 1000 + i * 2) is None:
                    wrong.append("not whole")
            at = (seed * 7919 + i * 104729) % SIZE
            if bytes(cached.opens.read(cached.ino, at, 5000, buffer, True)) != BYTES[at : min(at + 5000, SIZE)]:
                wrong.append(at)
            cached.opens.release(cached.ino)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 7)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert wrong == []
    assert cached.opens.modes.mode(cached.ino) == ("none", 0, 0)
    assert cached.opens.files == {}
