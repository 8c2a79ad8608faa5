"""The lanes: threads that carry out `Run` instructions, reading from stores into cache files and slots.

A lane reports events to a sink that is called from its thread; the worker's sink queues them for the trio thread.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol, runtime_checkable

from forebay.cache.disk import files
from forebay.cache.disk.extents import SUM, Extent
from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT
from forebay.cache.disk.policy import allocation
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.messages import NO_TIER, Fetch, Goal, Why
from forebay.cache.stores.base import Body, Changed, Denied, NotFound, Store, StoreError, Unavailable
from forebay.cache.stores.net.ranges import Held

STACK = 512 << 10
"""Stack of a lane: TLS and Python frames fit, and 16 of them are address space, not memory."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRITE_LOCKS = 64
TELL = 16
"""Small files of one exchange that are told of together, at most."""
RESERVE_FROM = 1 << 20
"""Smaller writes are not preallocated: a write alone says ENOSPC as well, and small files are half the price without."""


class Sums(NamedTuple):
    """Beside `Arrived` or `Delivered`: checksums of the blocks from `first` on, for the index."""

    event: m.Arrived | m.Delivered
    first: int
    thing: m.Thing
    tier: int
    sums: bytes


class Source(NamedTuple):
    """Where an object's bytes come from, as the namespace tells."""

    store: Store
    key: bytes
    version: bytes

    def open(self, size: int, offset: int, length: int) -> Body:
        """Bytes [offset, offset + length) of an object of `size` bytes. As `Store.read`."""
        return self.store.read(self.key, self.version, offset, length)


@runtime_checkable
class Together(Protocol):
    """A store that brings many small objects in one exchange."""

    def read_many(
        self, wanted: Sequence[tuple[bytes, bytes, int]]
    ) -> Generator[tuple[int, Body | StoreError] | None, None, None]:
        """Objects (key, version, size), each once, in any order, by their number in `wanted`; None where one takes a while."""
        ...


class Task(NamedTuple):
    """One fetch with what the lane needs: the slot's descriptor (-1: the cache file) and the source."""

    fetch: Fetch
    slot: int
    source: Source
    doubts: dict[int, Extent] | None = None  # checksums of what another boot left in the cache file


class Meter:
    """Counters of one mount's store, added to by every lane (single additions under the interpreter lock's protection)."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self.errors = 0
        self.retries = 0
        self.last_error = ""
        self.last_error_at = 0.0
        self._lock = threading.Lock()

    def add(self, *, requests: int = 0, nbytes: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes += nbytes

    def fail(self, message: str) -> None:
        with self._lock:
            self.errors += 1
            self.last_error, self.last_error_at = message, time.time()


class Lanes:
    """`count` threads. `sink` takes events and `Sums`; `tiers` are the tiers' directories, `meters` one a mount."""

    def __init__(
        self,
        count: int,
        *,
        tiers: Sequence[str],
        sink: Callable[[m.Event | Sums | list[Sums]], None],
        meters: Sequence[Meter],
        buffers: files.Buffers,
    ) -> None:
        self._tiers = tiers
        self._sink = sink
        self._meters = meters
        self._buffers = buffers
        self._locks = [threading.Lock() for _ in range(WRITE_LOCKS)]
        self._queue: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        old = threading.stack_size(STACK)
        try:
            self._threads = [threading.Thread(target=self._work, name=f"lane-{i}", daemon=True) for i in range(count)]
            for t in self._threads:
                t.start()
        finally:
            threading.stack_size(old)

    def together(self, hop: list[Task], store: Together) -> None:
        """Carry out a hop of whole small objects of one store.

        What came together is told of together, `TELL` at a time: each telling costs the trio thread a turn.
        """
        began = time.monotonic()
        left = dict(enumerate(hop))
        done: list[Sums] = []
        try:
            wanted = [(t.source.key, t.source.version, t.fetch.thing.size) for t in hop]
            with closing(store.read_many(wanted)) as bodies:
                for answer in bodies:
                    if answer is not None:
                        task = left.pop(answer[0])
                        if isinstance(answer[1], Exception):
                            self._sink(self._broken(task.fetch, answer[1], began))
                            continue
                        self._one(task, answer[1], done)
                    if done and (answer is None or len(done) >= TELL or task.fetch.goal is Goal.DEMAND):
                        self._sink(done)
                        done = []
        except Exception as e:  # noqa: BLE001 - as in `_work`
            for task in left.values():
                self._sink(self._broken(task.fetch, e, began))
        if done:
            self._sink(done)

    def _one(self, task: Task, body: Body | None = None, done: list[Sums] | None = None) -> None:
        """One fetch, told to the sink; of a whole small file to `done`, if that is given."""
        began = time.monotonic()
        try:
            allocated = self._fetch(task, body, done)
        except Exception as e:  # noqa: BLE001 - a lane outlives whatever a store or a disk does, and tells of it
            self._sink(self._broken(task.fetch, e, began))
        else:
            if allocated is not None:
                self._sink(m.Finished(task.fetch.fetch, allocated, time.monotonic()))

    def run(self, hop: list[Task]) -> None:
        """Queue what one lane does in one go."""
        self._queue.put(hop)

    def close(self, timeout: float = 0.3) -> None:
        """Ask the lanes to end after what they do now; daemon threads do not hold up an exit."""
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + timeout
        for t in self._threads:
            t.join(max(until - time.monotonic(), 0))

    def _work(self) -> None:
        while True:
            hop = self._queue.get()
            if hop is None:
                return
            store = hop[0].source.store
            if len(hop) > 1 and isinstance(store, Together) and all(_whole(t) and t.source.store is store for t in hop):
                self.together(hop, store)
                continue
            for task in hop:
                self._one(task)

    def _fetch(self, task: Task, body: Body | None, done: list[Sums] | None) -> int | None:
        """Carry out one fetch; bytes the cache file occupies afterwards, -1 for a slot, None when `Delivered` was told.

        `body`: its bytes, where they are here already.
        """
        f = task.fetch
        if task.doubts is None:
            return self._read(task, f.first, f.count, whole=f.create, body=body, done=done)
        for first, count in self._recheck(task, task.doubts):
            self._read(task, first, count, whole=False)
        fd = files.create(self._tiers[f.tier], f.thing.oid, f.thing.size, make=False)
        try:
            return files.allocated(fd)
        finally:
            os.close(fd)

    def _recheck(self, task: Task, doubts: dict[int, Extent]) -> list[tuple[int, int]]:
        """Compare what another boot left with its checksums; runs (first, count) of blocks that have to be read anew."""
        f = task.fetch
        size = f.thing.size
        bad: list[int] = []
        buffer = self._buffers.take()
        try:
            fd = files.create(self._tiers[f.tier], f.thing.oid, size, make=f.create)
            try:
                with memoryview(buffer) as view:
                    for block in range(f.first, f.first + f.count):
                        extent = doubts.get(block // BLOCKS_PER_SEGMENT)
                        within = block % BLOCKS_PER_SEGMENT
                        known = extent.sum(within) if extent is not None and extent.has(within) else None
                        if known is None or not files.check(fd, size, block, known, view):
                            bad.append(block)
                            continue
                        self._sink(Sums(m.Arrived(f.fetch, block, 1), block, f.thing, f.tier, known))
            finally:
                os.close(fd)
        finally:
            self._buffers.give(buffer)
        return runs_of(bad)

    def _read(
        self, task: Task, first: int, count: int, *, whole: bool, body: Body | None = None, done: list[Sums] | None = None
    ) -> int | None:
        f, slot, source, _ = task
        thing = f.thing
        offset = first * BLOCK
        length = min((first + count) * BLOCK, thing.size) - offset
        if body is None:
            self._meters[thing.mount].add(requests=1)
            try:
                body = source.open(thing.size, offset, length)
            except OSError as e:
                raise Unavailable(f"reading {source.key!r}: {e}") from e
        try:
            if whole and length == thing.size < RESERVE_FROM and f.tier != NO_TIER:
                told = self._small(f, body)
                if done is None:
                    self._sink(told)
                else:
                    done.append(told)
                return None
            if f.tier == NO_TIER:
                fd = slot
            else:
                fd = files.create(self._tiers[f.tier], thing.oid, thing.size, make=f.create)
            try:
                if length >= RESERVE_FROM:
                    files.reserve(fd, offset, length)
                self._receive(f, body, fd, first=first, count=count, arrived=self._arrival(f))
                return -1 if f.tier == NO_TIER else files.allocated(fd)
            finally:
                if fd != slot:
                    os.close(fd)
        finally:
            body.close()

    def _small(self, f: Fetch, body: Body) -> Sums:
        """A whole small file: one write gives it its size, one event tells of it. What came verified is written as it is."""
        got: list[bytes] = []
        fd, beside = files.create_small(self._tiers[f.tier], f.thing.oid)
        try:
            if isinstance(body, Held) and body.sums and len(body.data) == f.thing.size:
                files.write_all(fd, body.data, 0)
                got.append(body.sums)
            else:
                self._receive(f, body, fd, first=0, count=f.count, arrived=lambda _at, sums: got.append(sums))
        finally:
            os.close(fd)
        if beside is not None:
            files.put(self._tiers[f.tier], f.thing.oid, beside)
        self._meters[f.thing.mount].add(nbytes=f.thing.size)
        done = m.Delivered(f.fetch, allocation(f.thing.size), time.monotonic())
        return Sums(done, 0, f.thing, f.tier, b"".join(got))

    def _arrival(self, f: Fetch) -> Callable[[int, bytes], None]:
        meter = self._meters[f.thing.mount]

        def arrived(at: int, sums: bytes) -> None:
            n = len(sums) // SUM
            meter.add(nbytes=min(n * BLOCK, f.thing.size - at * BLOCK))
            self._sink(Sums(m.Arrived(f.fetch, at, n), at, f.thing, f.tier, sums))

        return arrived

    def _receive(self, f: Fetch, body: Body, fd: int, *, first: int, count: int, arrived: Callable[[int, bytes], None]) -> None:
        lock = self._locks[f.thing.oid[0] % len(self._locks)]
        buffer = self._buffers.take()
        try:
            with memoryview(buffer) as view:
                files.receive(body, fd, f.thing.size, first, count, buffer=view, lock=lock, arrived=arrived)
        finally:
            self._buffers.give(buffer)

    def _broken(self, f: Fetch, e: Exception, began: float) -> m.Broken:
        now = time.monotonic()
        why, message = Why.BAD, str(e)
        if isinstance(e, Unavailable):
            why = Why.UNAVAILABLE
        elif isinstance(e, Changed | NotFound):
            why = Why.CHANGED
        elif isinstance(e, Denied):
            why = Why.DENIED
        elif isinstance(e, StoreError):
            why = Why.BAD
        elif isinstance(e, FileNotFoundError) and not f.create:
            why, message = Why.LOST, f"the cache file of inode {f.thing.ino} vanished"
        elif isinstance(e, OSError):
            why = Why.FULL if e.errno in FULL else Why.LOCAL
            message = f"the cache could not take bytes: {e}"
        else:
            message = f"{type(e).__name__}: {e} (a defect: please report it)"
        if why not in (Why.FULL, Why.LOCAL, Why.LOST):
            self._meters[f.thing.mount].fail(message)
        return m.Broken(f.fetch, why, message, now, now - began)


def _whole(t: Task) -> bool:
    """Whether a task is a small object as a whole, with nothing of it here."""
    return t.doubts is None and t.fetch.first == 0 and 0 < t.fetch.thing.size <= t.fetch.count * BLOCK


def runs_of(blocks: list[int]) -> list[tuple[int, int]]:
    """Ascending block numbers as runs (first, count)."""
    out: list[tuple[int, int]] = []
    for b in blocks:
        if out and out[-1][0] + out[-1][1] == b:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((b, 1))
    return out
