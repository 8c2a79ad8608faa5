"""What this node serves to others: blocks and small files of its cache, fetched first where need be. A `port.Provider`.

Called from the port's threads; what touches the engine is done in the trio thread, one hop for as many blocks as are there.
"""

from __future__ import annotations

import errno
import os
import queue
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import NamedTuple, TypeVar

import trio

from forebay.cache.disk import files
from forebay.cache.disk.extents import block_range, blocks_of, checksum
from forebay.cache.disk.index import BLOCK, COMPLETE, IndexError_, object_id
from forebay.cache.disk.scrub import Scrubber
from forebay.cache.door import Fault
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing
from forebay.cache.log import log
from forebay.cache.members.cluster import Cluster
from forebay.cache.peers import wire
from forebay.cache.peers.desk import Desk
from forebay.cache.peers.port import Piece, Serving, Small, SmallFailed
from forebay.cache.peers.wire import SUM, Batch, Mode, Ref
from forebay.cache.stores.base import Changed, Denied, Store, StoreError, Unavailable

PATIENCE = 40.0
"""Seconds a block may take: above the machine's own patience with a store, below a reader's deadline."""
EVICTED_MOST = 8
SLOT_BLOCKS = 4
"""Blocks of bytes that were not admitted, taken from their buffer at a time."""
_T = TypeVar("_T")


class _Window(NamedTuple):
    """Blocks that lie in one file from `first` on. `sums` is empty where they have to be computed."""

    fd: int
    blocks: int
    sums: bytes


class _Ready:
    """Files of one batch on their way from the trio thread, which alone puts and closes, to the port's."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Small | SmallFailed] = queue.SimpleQueue()
        self._closed = False

    def get(self, timeout: float) -> Small | SmallFailed | None:
        try:
            return self._queue.get(timeout > 0, timeout or None)
        except queue.Empty:
            return None

    def put(self, file: Small | SmallFailed) -> None:
        if not self._closed:
            self._queue.put(file)
        elif isinstance(file, Small):
            os.close(file.fd)

    def close(self) -> None:
        """The caller has everything, or is gone."""
        self._closed = True
        while (file := self.get(0)) is not None:
            if isinstance(file, Small):
                os.close(file.fd)


class EngineProvider:
    """`mounts`: `Mount.identity` -> its number; `stores`: the stores themselves by that name, none for a client tier."""

    def __init__(
        self,
        cluster: Cluster,
        engine: Engine,
        scrubber: Scrubber,
        *,
        mounts: Mapping[str, int],
        stores: Mapping[str, Store],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._cluster = cluster
        self._engine = engine
        self._scrubber = scrubber
        self._mounts = mounts
        self._desk = Desk(stores)
        self._token = token

    def hello(self) -> wire.Hello:
        return self._cluster.hello()

    # --- names

    def ask(self, ask: wire.Ask) -> wire.Answer:
        if ask.op != "suspect":
            return self._desk.answer(ask)
        ref = Ref(ask.mount_source, ask.key, ask.version, ask.size)
        thing = self._thing(ref)
        if 0 <= ask.block < blocks_of(ref.size):
            log("port", "suspect", key=ref.key, block=ask.block)
            try:
                self._do(self._scrubber.recheck, thing, (ask.block, ask.block + 1))
            except IndexError_ as e:
                raise Unavailable(str(e)) from e
        return wire.Answer()

    # --- bytes

    def open_blocks(self, ref: Ref, first: int, count: int, mode: Mode) -> Serving:
        self._cluster.admit(ref, first, count, mode)
        thing = self._thing(ref)
        if mode is Mode.CACHED:
            window = self._do_now(self._held, thing, first, first + count)
            if window is None:
                raise wire.Absent("not here")
            return Serving(window.blocks, self._pieces(thing, window, first, first + window.blocks))
        window = self._await(thing, first, first + count)
        return Serving(count, self._pieces(thing, window, first, first + count))

    def _pieces(self, thing: Thing, window: _Window, at: int, end: int) -> Generator[Piece, None, None]:
        """Blocks of the first window, then of those that follow."""
        while True:
            try:
                for i in range(window.blocks):
                    offset, length = block_range(thing.size, at + i)
                    known = window.sums[i * SUM : (i + 1) * SUM]
                    yield Piece(window.fd, offset, length, known or _computed(window.fd, offset, length))
            finally:
                os.close(window.fd)
            at += window.blocks
            if at >= end:
                return
            window = self._await(thing, at, end)

    def _await(self, thing: Thing, at: int, end: int) -> _Window:
        """Wait for block `at`; it, and those behind it that are there as well."""
        for _ in range(EVICTED_MOST):
            window = self._do_now(self._held, thing, at, end)
            if window is None:
                try:
                    window = self._do(self._want, thing, at, end)
                except Fault as e:
                    raise _store_error(e) from e
            if window is not None:
                return window
        raise Unavailable(f"block {at} was evicted as often as it came: the cache is too small for what is read at once")

    async def _want(self, thing: Thing, at: int, end: int) -> _Window | None:
        """Wait for block `at`. None when it is in the cache file, which is then asked anew."""
        span = at * BLOCK, min(end * BLOCK, thing.size)
        place = self._engine.machine.present(thing.oid)
        blocks = min(SLOT_BLOCKS if place is not None and place[0] == NO_TIER else 1, end - at)
        upto = min((at + blocks) * BLOCK, span[1])
        got = await self._engine.want(thing, span[0], upto, Goal.DEMAND, PATIENCE, span)
        return None if got.fd is None else _Window(got.fd, blocks, b"")

    def _held(self, thing: Thing, at: int, end: int) -> _Window | None:
        """In the trio thread: what the cache file has from block `at` on without a gap."""
        engine, oid = self._engine, thing.oid
        moving = engine.machine.run(oid, at, end)
        if moving is not None:
            tier, count = moving
        else:
            o = engine.records.object(oid)
            if o is None or o.boot != engine.records.boot or o.size != thing.size or o.state != COMPLETE:
                return None  # of a partial one the machine knows more, once it is wanted
            tier, count = o.tier, end - at
            engine.records.touch((oid,))
        if tier == NO_TIER or not count:
            return None
        sums = engine.records.block_sums(oid, thing.size, at, count)
        if sums is None:
            return None
        try:
            return _Window(files.open_read(engine.tiers[tier].path, oid), count, sums)
        except FileNotFoundError:
            if moving is None:
                engine.drop(oid)
            return None

    def open_small(self, batch: Batch) -> Generator[Small | SmallFailed | None, None, None]:
        ready = _Ready()
        left = len(batch.objects)
        todo: list[tuple[int, Thing]] = []
        for number, ref in enumerate(batch.objects):
            try:
                self._cluster.admit(ref, 0, max(blocks_of(ref.size), 1), batch.mode)
                todo.append((number, self._thing(ref)))
            except (StoreError, wire.Absent) as e:
                left -= 1
                yield SmallFailed(number, e)
        self._do_now(self._begin, todo, batch.mode, ready)
        try:
            while left:
                file = ready.get(0)
                if file is None:
                    yield None
                    file = ready.get(2 * PATIENCE)
                if file is None:
                    raise Unavailable("the files of a batch did not come in time")
                left -= 1
                if isinstance(file, SmallFailed):
                    yield file
                    continue
                try:
                    yield file if file.sums or not file.size else file._replace(sums=_all_computed(file.fd, file.size))
                finally:
                    os.close(file.fd)
        finally:
            self._do_now(ready.close)

    def _begin(self, todo: list[tuple[int, Thing]], mode: Mode, ready: _Ready) -> None:
        """In the trio thread: what is here at once, the rest as it comes."""
        for number, thing in todo:
            blocks = blocks_of(thing.size)
            window = self._held(thing, 0, blocks) if blocks else _Window(self._engine.empty(), 0, b"")
            if window is not None and window.blocks == blocks:
                ready.put(Small(number, window.fd, 0, thing.size, window.sums))
                continue
            if window is not None:
                os.close(window.fd)
            if mode is Mode.CACHED:
                ready.put(SmallFailed(number, wire.Absent("not here")))
            else:
                self._engine.spawn(self._small, number, thing, ready)

    async def _small(self, number: int, thing: Thing, ready: _Ready) -> None:
        blocks = blocks_of(thing.size)
        try:
            with self._engine.held(thing.oid):
                got = await self._engine.want(thing, 0, thing.size, Goal.DEMAND, PATIENCE)
                window = self._held(thing, 0, blocks) if got.fd is None else _Window(got.fd, blocks, b"")
            if window is None:
                raise Fault(errno.EIO, "it was evicted as it came: ask again")
            ready.put(Small(number, window.fd, 0, thing.size, window.sums))
        except Fault as e:
            ready.put(SmallFailed(number, _store_error(e)))
        except OSError as e:
            ready.put(SmallFailed(number, Unavailable(f"the cache could not be read: {e}")))

    # --- both

    def _thing(self, ref: Ref) -> Thing:
        mount = self._mounts.get(ref.mount_source)
        if mount is None:
            raise wire.Absent(f"{ref.mount_source[:200]} is no mount of the dataset here: give all nodes the same manifest")
        oid = object_id(ref.mount_source, ref.key, ref.version)
        return self._engine.foreign(oid, mount, ref.size, ref.key, ref.version)

    def _do(self, fn: Callable[..., Awaitable[_T]], *args: object) -> _T:
        try:
            return trio.from_thread.run(fn, *args, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled) as e:
            raise Unavailable("this member is ending") from e

    def _do_now(self, fn: Callable[..., _T], *args: object) -> _T:
        try:
            return trio.from_thread.run_sync(fn, *args, trio_token=self._token)
        except trio.RunFinishedError as e:
            raise Unavailable("this member is ending") from e


def _computed(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) < length:
        raise OSError(errno.EIO, "a buffer ended before its object")
    return checksum(data)


def _all_computed(fd: int, size: int) -> bytes:
    return b"".join(_computed(fd, *block_range(size, b)) for b in range(blocks_of(size)))


def _store_error(e: Fault) -> StoreError:
    kinds: dict[int, type[StoreError]] = {errno.ESTALE: Changed, errno.EACCES: Denied}
    return kinds.get(e.errno or 0, Unavailable)(str(e))
