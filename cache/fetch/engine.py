"""The shell around the machine: carries its instructions out, in the trio thread, and brings events back to it.

Everything here runs in the trio thread except `sink`, which lanes call. Readers get futures: `want` returns when the
machine released or refused them.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import trio

from forebay.cache.disk import files
from forebay.cache.disk.extents import Extent, block_range
from forebay.cache.disk.index import FILE, UNRESOLVED, Index, IndexError_, Object, Row
from forebay.cache.disk.policy import Lru, Policy, allocation
from forebay.cache.disk.records import COMMIT_AFTER, Records
from forebay.cache.disk.tiers import TierDir
from forebay.cache.door import Fault
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.awaited import Future, Held, Released
from forebay.cache.fetch.awake import Awake
from forebay.cache.fetch.lanes import Lanes, Meter, Source, Sums, Task
from forebay.cache.fetch.machine import LANES, Machine
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing
from forebay.cache.fetch.neighbours import Neighbours
from forebay.cache.log import log
from forebay.cache.stores.base import NotFound, StoreError
from forebay.cache.tree.namespace import Namespace

TICK = 0.25
DOUBTS_KEPT = 1024
ALERT = 50
"""Small files that readers ask for between two ticks from which idle cores are kept awake: each is handed on four times."""
RECOMMIT_AFTER = 1.0
"""Seconds between attempts to write an index whose disk is full."""
THINGS_KEPT = 2048
"""Objects whose rows are remembered between the requests for them: look-ahead finds them, a moment later they are opened."""


class Engine:
    """Bytes of one dataset. `await nursery.start(engine.run)` before the first `want`."""

    def __init__(
        self,
        *,
        machine: Machine,
        tiers: list[TierDir],
        index: Index,
        records: Records,
        namespace: Namespace,
        meters: list[Meter],
        on_evicted: Callable[[list[int]], None],
        policy: Policy | None = None,
        lanes: int = LANES,
        source: type[Source] = Source,
        far_lanes: int = 0,
    ) -> None:
        self.machine = machine
        self.tiers = tiers
        self.index = index
        self.records = records
        self.namespace = namespace
        self.meters = meters
        self.on_evicted = on_evicted
        self.policy = policy or Lru()
        self.opened: Counter[bytes] = Counter()
        self.evictions: Counter[str] = Counter()  # objects and bytes
        self.buffers = files.Buffers()
        self._held = Held(machine, self.opened)
        self._futures: dict[int, Future] = {}
        self._slots: dict[int, int] = {}
        self._leaving: dict[bytes, trio.Event] = {}  # evicted, and their files not unlinked yet
        self._doubts: dict[bytes, dict[int, Extent]] = {}  # checksums of another boot's blocks, until they were compared
        self._neighbours = Neighbours(
            self, index=index, records=records, namespace=namespace, moving=machine, leaving=self._leaving
        )
        self._next = 0
        self._asked = 0  # small files that readers opened since the last tick
        self._alert = Awake()
        self._things: dict[int, Thing] = {}
        self._sources: dict[bytes, Source] = {}
        self._events: deque[m.Event | Sums | list[Sums]] = deque()
        self._todo: deque[m.Instruction] = deque()
        self._working = False
        self._awake = False
        self._dirty = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._source_type = source
        paths = [t.path for t in tiers]
        self._lanes = Lanes(lanes, tiers=paths, sink=self.sink, meters=meters, buffers=self.buffers)
        # buffers of their own as well: lanes that wait for members must not keep those from the stores' lanes
        self._far_buffers = files.Buffers()
        self._far_lanes = Lanes(far_lanes, tiers=paths, sink=self.sink, meters=meters, buffers=self._far_buffers)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out instructions until cancelled; commits what waits at the end."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.sample()
                nursery.start_soon(self._commits)
                nursery.start_soon(self._ticks)
                task_status.started()
        finally:
            self._nursery = None
            self._lanes.close()
            self._far_lanes.close()
            self._alert.close()
            self._drain()
            self.records.commit()

    # --- what readers ask

    def thing(self, ino: int) -> Thing | None:
        """What an inode shows, None while it is unresolved. Raises `Fault` for one that is no file.

        An inode is one version of one object, so what was found stands.
        """
        known = self._things.get(ino)
        if known is not None:
            return known
        with self.index.env.begin() as txn:
            parent = self.index.parent(txn, ino)
            row = self.index.child(txn, parent, ino) or self.index.row(txn, ino)
        if row is None:
            raise Fault(errno.ESTALE, f"inode {ino} is unknown here: look its path up again")
        if row.kind != FILE:
            raise Fault(errno.EISDIR, f"inode {ino} is a directory")
        if row.flags & UNRESOLVED:
            return None
        return self.remember(row, parent)

    def remember(self, row: Row, parent: int) -> Thing:
        """Keep what a row says, and where its bytes come from, for the requests that follow."""
        thing = Thing(row.oid, row.ino, parent, row.mount, row.size)
        if len(self._things) >= THINGS_KEPT:
            self._things.clear()
            self._sources.clear()
        self._things[row.ino] = thing
        core = self.namespace.core
        with self.index.env.begin() as txn:
            path = core.path_of(txn, parent)
        if path is not None and row.mount < len(core.stores):
            key = b"/".join((*path[core.depth[row.mount] :], row.name))
            self._sources[row.oid] = self._source_type(core.stores[row.mount], key, row.version)
        return thing

    def _source(self, thing: Thing) -> Source:
        """Where an object's bytes come from. Raises `NotFound` when the index no longer knows it."""
        known = thing.source or self._sources.get(thing.oid)
        if known is not None:
            return known
        where = self.namespace.locate(thing.ino)
        return self._source_type(self.namespace.core.stores[where.mount], where.key, where.row.version)

    def foreign(self, oid: bytes, mount: int, size: int, key: bytes, version: bytes) -> Thing:
        """An object that another node names, whether the tree here has it or not."""
        return Thing(oid, 0, 0, mount, size, self._source_type(self.namespace.core.stores[mount], key, version))

    async def want(  # noqa: PLR0917 - a range, why, and for how long
        self, thing: Thing, lo: int, hi: int, goal: Goal, timeout: float, span: tuple[int, int] | None = None
    ) -> Released:
        """Wait until bytes [lo, hi) of an object are somewhere; those of `span` are fetched with them. Raises `Fault`."""
        while (left := self._leaving.get(thing.oid)) is not None:
            await left.wait()  # or its new blocks would go into the file that is about to be unlinked
        known = None
        if thing.oid not in self.machine:
            found = self.records.known(thing)
            if found is not None:
                known = self._with_spare(thing.oid, found[0])
                if found[1]:
                    if len(self._doubts) >= DOUBTS_KEPT:
                        self._doubts.clear()  # those are fetched from the store instead
                    self._doubts[thing.oid] = found[1]
        self._next += 1
        waiter = self._next
        future = self._futures[waiter] = Future()
        now = time.monotonic()
        self.tell(m.Want(waiter, thing, lo, hi, goal, now, now + timeout, known, span))
        try:
            await future.event.wait()
        except trio.Cancelled:
            self.tell(m.Cancel(waiter))
            if future.result is not None and future.result.fd is not None:
                os.close(future.result.fd)
            raise
        finally:
            self._futures.pop(waiter, None)
        if future.error is not None:
            raise future.error
        assert future.result is not None
        return future.result

    def _with_spare(self, oid: bytes, known: m.Known) -> m.Known:
        """What the file occupies beyond its recorded blocks (a killed worker's ranges) is its own and not charged again."""
        try:
            allocated = files.occupied(self.tiers[known.tier].path, oid)
        except OSError:
            return known._replace(spare=0)
        return known._replace(spare=max(allocated - known.allocated, 0))

    @contextmanager
    def held(self, oid: bytes) -> Iterator[None]:
        """Keep an object from eviction: what came a moment ago is still there when the one who waited for it opens it."""
        self.opened[oid] += 1
        try:
            yield
        finally:
            self.unhold(oid, 1)

    def unhold(self, oid: bytes, times: int) -> None:
        """So many of those who had it open have it no more."""
        self.opened[oid] -= times
        if self.opened[oid] <= 0:
            del self.opened[oid]

    def note_open(self, thing: Thing, *, missed: bool) -> None:
        """A small file was opened: feeds look-ahead."""
        self._asked += 1
        self._perform(self.machine.opened(thing.parent, thing.ino, missed=missed))

    def drop(self, oid: bytes, *, charged: bool = True) -> None:
        """Take an object out of the cache now: index, commit, mounts, file. Left alone while the index cannot be written.

        `charged`: its tier still counts its bytes, and no longer shall.
        """
        self._doubts.pop(oid, None)
        try:
            rows = self.records.drop([oid])
        except IndexError_:
            return  # said in the log; the next who finds it bad comes here again
        for _, o in rows:
            self.on_evicted([o.ino])
            freed = self._unlink(oid, o)
            if charged:
                self.tell(m.Counted(o.tier, -freed))

    def _unlink(self, oid: bytes, o: Object) -> int:
        """Bytes that a dropped object no longer occupies, its file being there or not."""
        return files.unlink(self.tiers[o.tier].path, oid) or allocation(o.present)

    # --- the machine

    def tell(self, *events: m.Event) -> None:
        self._perform(self.machine.handle(*events))

    def sink(self, event: m.Event | Sums | list[Sums]) -> None:
        """Take an event, or several, from any thread."""
        self._events.append(event)
        token = self._token
        if token is not None and not self._awake:
            self._awake = True  # two lanes may both see False: then the second wake-up finds nothing to do
            try:
                token.run_sync_soon(self._drain)
            except trio.RunFinishedError:
                pass  # the worker is ending; what was written is found by the next one

    def _drain(self) -> None:
        self._awake = False
        while self._events:
            event = self._events.popleft()
            if isinstance(event, list):
                self.tell(*[s.event for s in event if self._recorded(s)])
            elif not isinstance(event, Sums):
                self.tell(event)
            elif self._recorded(event):
                self.tell(event.event)
        self.mark()

    def _recorded(self, s: Sums) -> bool:
        """Note what arrived, unless its fetch no longer counts."""
        if not self.machine.fetching(s.event.fetch):
            return False
        if s.tier != NO_TIER:
            self.records.arrived(s.thing, s.tier, s.first, s.sums)
        return True

    def mark(self) -> None:
        """Records wait: commit them now or soon."""
        if self.records.due() and not self.records.trouble and self.records.commit():
            return
        if self.records.waiting():
            self._dirty.set()

    def _perform(self, instructions: list[m.Instruction]) -> None:
        self._todo.extend(instructions)
        if self._working:
            return  # an instruction led to an event: its instructions come after those before it
        self._working = True
        try:
            while self._todo:
                self._do(self._todo.popleft())
        finally:
            self._working = False

    def _do(self, i: m.Instruction) -> None:
        if isinstance(i, m.Run):
            self._run(i)
        elif isinstance(i, m.Release):
            self._release(i)
        elif isinstance(i, m.Refuse):
            future = self._futures.get(i.waiter)
            if future is not None:
                future.error = Fault(i.errno, i.message)
                future.event.set()
        elif isinstance(i, m.Complete):
            if i.thing.size == 0:
                os.close(files.create(self.tiers[i.tier].path, i.thing.oid, 0))
            self._doubts.pop(i.thing.oid, None)
            self.records.complete(i.thing, i.tier)
            self._dirty.set()
        elif isinstance(i, m.MakeRoom):
            self.spawn(self._make_room, i.tier, i.bytes)
        elif isinstance(i, m.DropSlot):
            fd = self._slots.pop(i.slot, None)
            if fd is not None:
                os.close(fd)
        elif isinstance(i, m.Discard):
            log("cache", "discarded", ino=i.thing.ino, tier=self.tiers[i.tier].path)
            self.drop(i.thing.oid, charged=False)
        elif isinstance(i, m.Validate):
            self.spawn(self._validate, i.ino)
        elif isinstance(i, m.ScanAhead):
            self.spawn(self._scan, i)
        else:
            self.sample()
            log("cache", "tier_full", tier=self.tiers[i.tier].path)

    def _run(self, run: m.Run) -> None:
        hop = []
        for f in run.fetches:
            slot = -1
            try:
                source = self._source(f.thing)
                if f.tier == NO_TIER:
                    slot = self._slots[f.slot] = files.slot(f.thing.size)
            except NotFound as e:
                self.sink(m.Broken(f.fetch, m.Why.CHANGED, str(e), time.monotonic(), 0.0))
                continue
            except OSError as e:
                self.sink(m.Broken(f.fetch, m.Why.LOCAL, str(e), time.monotonic(), 0.0))
                continue
            hop.append(Task(f, slot, source, self._doubts.get(f.thing.oid) if f.tier != NO_TIER else None))
        if hop:
            (self._far_lanes if run.far else self._lanes).run(hop)

    def _release(self, r: m.Release) -> None:
        future = self._futures.get(r.waiter)
        if future is None:
            return
        fd: int | None = None
        try:
            if r.tier == NO_TIER and r.thing.size == 0:
                fd = self.empty()
            elif len(r.pieces) == 1:
                fd = files.readonly(self._slots[r.pieces[0].slot])
            elif r.pieces:
                fd = self._join(r)
            future.result = Released(r.tier, fd, r.upto)
        except OSError as e:
            future.error = Fault(e.errno or errno.EIO, f"the bytes could not be handed over: {e}")
        future.event.set()

    def _join(self, r: m.Release) -> int:
        """A read that crosses slots: its bytes in one file. Rare, and at most 16 MiB."""
        cache = -1
        try:
            parts = []
            for p in r.pieces:
                fd = self._slots.get(p.slot, -1)
                if p.slot < 0:
                    if cache < 0:
                        cache = files.open_read(self.tiers[r.tier].path, r.thing.oid)
                    fd = cache
                last = block_range(r.thing.size, p.last - 1)
                parts.append((fd, block_range(r.thing.size, p.first)[0], last[0] + last[1]))
            return files.assemble(r.thing.size, parts)
        finally:
            if cache >= 0:
                os.close(cache)

    @staticmethod
    def empty() -> int:
        """A file without bytes: what a reader of bytes that were not admitted holds; reading it by mistake gives none."""
        fd = files.slot(0)
        try:
            return files.readonly(fd)
        finally:
            os.close(fd)

    # --- work that outlives an instruction

    def spawn(self, fn: Callable[..., Any], *args: object) -> None:
        """Start a task that outlives its caller, until the engine ends."""
        if self._nursery is not None:
            self._nursery.start_soon(fn, *args)

    async def _make_room(self, tier: int, need: int) -> None:
        """Evict: out of the index, commit, tell the mounts, unlink; never in another order."""
        path = self.tiers[tier].path
        try:
            with self.index.env.begin() as txn:
                victims = self.policy.victims(self.records.oldest(txn, tier), need, self._held)
            rows = self.records.drop([v.oid for v in victims])
        except IndexError_:
            self.tell(m.Freed(tier, 0, False, time.monotonic()))
            return
        if rows:
            self.on_evicted([o.ino for _, o in rows])

        def unlink() -> int:
            return sum(self._unlink(oid, o) for oid, o in rows)

        left = trio.Event()
        self._leaving.update((oid, left) for oid, _ in rows)
        try:
            freed = await trio.to_thread.run_sync(unlink) if rows else 0
        finally:
            for oid, _ in rows:
                del self._leaving[oid]
            left.set()
        self.evictions["objects"] += len(rows)
        self.evictions["bytes"] += freed
        log("cache", "evicted", tier=path, objects=len(rows), bytes=freed, wanted=need)
        self.tell(m.Freed(tier, freed, freed >= need, time.monotonic()))

    async def _validate(self, ino: int) -> None:
        try:
            await self.namespace.validate(ino)
        except StoreError as e:
            log("cache", "validate_failed", ino=ino, error=str(e))

    async def _scan(self, scan: m.ScanAhead) -> None:
        async with aclosing(self._neighbours.find(scan)) as answers:
            async for ahead in answers:
                self.tell(ahead)

    def sample(self) -> None:
        """Take the space of every tier's file system."""
        now = time.monotonic()
        for t in self.tiers:
            try:
                self.tell(m.Sampled(t.number, t.space(), now))
            except OSError as e:
                log("cache", "statvfs_failed", tier=t.path, error=str(e))

    async def _commits(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            await trio.sleep(COMMIT_AFTER)
            if not self.records.commit():
                self._dirty.set()
                await trio.sleep(RECOMMIT_AFTER)

    async def _ticks(self) -> None:
        last = 0.0
        while True:
            await trio.sleep(TICK)
            now = time.monotonic()
            self.tell(m.Tick(now))
            self._alert.hold(wanted=self._asked >= ALERT)
            self._asked = 0
            if now - last >= 1.0:
                last = now
                self.sample()
                if not self.machine.load()["fetching"]:
                    self.buffers.trim()
                    self._far_buffers.trim()
