"""What the door's requests mean: the dataset's tree and bytes, answered from index, machine and namespace."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from forebay.api import wire
from forebay.api.spec import DatasetSpec
from forebay.cache.disk import files
from forebay.cache.disk.index import COMPLETE, DIR, FILE, Index, Row, unpack_row
from forebay.cache.disk.records import TOUCH_EVERY
from forebay.cache.door import LATER, Answer, Caller, Fault, Later, Service
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.machine import SMALL
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing
from forebay.cache.reopened import Reopened
from forebay.cache.tree.namespace import Namespace
from forebay.cache.warm import Warmer

OPEN_DEADLINE = 55.0
"""Seconds a reader waits for bytes; the door's own deadline is 60."""
ENSURE_MOST = 16 << 20
WHOLE_BUFFER = 1 << 20
"""Files up to this size that are not admitted are handed out whole; of larger ones a reader gets windows."""
EVENTS_MOST = 4096
"""Events a slow subscriber may leave unread before its stream is ended; it subscribes again and knows it missed some."""


class DatasetService(Service):
    """One dataset behind the door."""

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        index: Index,
        namespace: Namespace,
        engine: Engine,
        report: Callable[[], dict[str, object]],
        suspect: Callable[[int, int, int], Awaitable[None]],
    ) -> None:
        self.dataset = spec.id
        self.spec = spec
        self.index = index
        self.namespace = namespace
        self.engine = engine
        self.report = report
        self.suspect = suspect
        self.warmer = Warmer(namespace, engine)
        self.hits = 0
        self.misses = 0
        self.touches = 0
        self.served: Counter[str] = Counter()  # bytes handed out, by where they lay when they were asked for
        self.reopened = Reopened()
        self._opened: dict[int, dict[int, tuple[bytes, int]]] = {}  # pid -> ino -> (oid, times)
        self._subscribers: set[trio.MemorySendChannel[wire.Reply]] = set()

    # --- replies

    def quick(self, caller: Caller, request: wire.AnyRequest) -> Answer | Later:
        """Opens of complete files, and bytes that are there: most requests, answered without a task switch."""
        match request:
            case wire.Open(validate=False):
                thing = self.engine.thing(request.ino)
                return LATER if thing is None else self._open_now(thing)
            case wire.Ensure():
                thing = self.engine.thing(request.ino)
                if thing is None or not 0 <= request.length <= ENSURE_MOST or request.offset < 0:
                    return LATER
                tier = self._complete(thing)
                if tier is None:
                    return LATER
                self._count(thing, tier, request.length)
                return self._ensured(request, thing, tier, thing.size)
            case wire.Touch():
                self._touch(caller, request)
                return None
        return LATER

    async def answer(self, caller: Caller, request: wire.AnyRequest) -> Answer:
        match request:
            case wire.Ensure():
                return await self._ensure(request)
            case wire.Open():
                return await self._open(request)
            case wire.Lookup(parent, name):
                return wire.Found(await self.namespace.lookup(parent, name))
            case wire.ListDir(ino, after):
                return wire.Listed(await self.namespace.list_dir(ino, after))
            case wire.Resolve(parent, inos):
                await self.namespace.resolve(parent, inos)
                return wire.Done()
            case wire.Suspect(ino, offset, length):
                await self.suspect(ino, offset, length)
                return wire.Done()
            case wire.Stat(path):
                return self._node(await self.namespace.path(path))
            case wire.Children():
                return await self._children(request)
            case wire.Refresh(path):
                await self.namespace.refresh(path)
                self.publish(wire.Changed(0, b"", 0, 0))  # the kernel may hold that a name is absent: no row tells of it
                return wire.Done()
            case wire.Stats():
                return self._report(metrics=request.metrics)
            case _:
                raise Fault(errno.EPROTO, f"{type(request).__name__} is not expected here")

    def stream(self, caller: Caller, request: wire.AnyRequest) -> AsyncIterator[wire.Reply] | None:
        if isinstance(request, wire.Subscribe):
            return self._subscribe()
        if isinstance(request, wire.Warm):
            return self.warmer.warm(request.path, metadata_only=request.metadata_only)
        return None

    def gone(self, pid: int) -> None:
        """A mount's process ended: what it held open may be evicted."""
        for oid, times in self._opened.pop(pid, {}).values():
            self._unhold(oid, times)

    # --- bytes

    async def _open(self, request: wire.Open) -> Answer:
        ino = request.ino
        if request.validate:
            new = await self.namespace.validate(ino)
            if new != ino:
                raise Fault(errno.ESTALE, "the object has a newer version in its store: open the name again")
        known = self.engine.thing(ino)
        thing = known or await self._thing(ino)
        if known is None or request.validate:  # otherwise `quick` did this
            answer = self._open_now(thing)
            if answer is not LATER:
                return answer
        self.misses += 1
        if thing.size <= SMALL:
            with self.engine.held(thing.oid):
                got = await self.engine.want(thing, 0, thing.size, Goal.DEMAND, OPEN_DEADLINE)
                self.served["store"] += thing.size
                if got.fd is None:
                    return wire.Opened(thing.size, True), self._reopen(thing, got.tier)
            if thing.size <= WHOLE_BUFFER:
                return wire.Opened(thing.size, True, cached=False), got.fd
            os.close(got.fd)
            return wire.Opened(thing.size, False, cached=False), self.engine.empty()
        got = await self.engine.want(thing, 0, 0, Goal.DEMAND, OPEN_DEADLINE)
        if got.tier == NO_TIER:
            return wire.Opened(thing.size, False, cached=False), self.engine.empty()
        path = self.engine.tiers[got.tier].path

        def make() -> int:
            os.close(files.create(path, thing.oid, thing.size))
            return files.open_read(path, thing.oid)

        return wire.Opened(thing.size, False), await trio.to_thread.run_sync(make)

    async def _ensure(self, e: wire.Ensure) -> Answer:
        if not 0 <= e.length <= ENSURE_MOST or e.offset < 0:
            raise Fault(errno.EINVAL, f"Ensure takes at most {ENSURE_MOST} bytes at an offset of 0 or more")
        thing = await self._thing(e.ino)
        hi = min(e.offset + e.length, thing.size)
        if e.offset >= hi:
            return wire.Ensured(upto=thing.size)
        tier, upto = self._complete(thing), thing.size
        self._count(thing, tier, hi - e.offset)
        with self.engine.held(thing.oid):
            if tier is None:
                got = await self.engine.want(thing, e.offset, hi, Goal.DEMAND, OPEN_DEADLINE)
                if got.fd is not None:
                    return wire.Ensured(fd=True, cached=False, upto=hi), got.fd
                tier, upto = got.tier, got.upto
            return self._ensured(e, thing, tier, upto)

    def _ensured(self, e: wire.Ensure, thing: Thing, tier: int, upto: int) -> Answer:
        path = self.engine.tiers[tier].path
        try:
            if files.identity(path, thing.oid) == (e.dev, e.file):
                return wire.Ensured(upto=upto)
            return wire.Ensured(fd=True, upto=upto), files.open_read(path, thing.oid)
        except FileNotFoundError:
            raise Fault(errno.EIO, "the cache file vanished: read again, and it is made anew") from None

    async def _thing(self, ino: int) -> Thing:
        thing = self.engine.thing(ino)
        if thing is None:
            with self.index.env.begin() as txn:
                parent = self.index.parent(txn, ino)
            await self.namespace.resolve(parent, [ino])
            thing = self.engine.thing(ino)
        if thing is None:
            raise Fault(errno.EIO, f"inode {ino}: its store tells neither size nor version")
        return thing

    def _count(self, thing: Thing, tier: int | None, nbytes: int) -> None:
        if tier is None:
            place = self.engine.machine.present(thing.oid)
            tier = place[0] if place is not None and place[1] else None
        if tier is None or tier == NO_TIER:
            self.served["store"] += nbytes
        else:
            self.served["memory" if self.engine.tiers[tier].medium == "MEM" else "disk"] += nbytes

    def _complete(self, thing: Thing) -> int | None:
        """The tier of a complete object verified in this boot, None when it is not."""
        if thing.oid in self.engine.machine:
            return None
        o = self.engine.records.object(thing.oid)
        if o is None or o.state != COMPLETE or o.boot != self.engine.records.boot:
            return None
        if time.time() - o.used >= TOUCH_EVERY:
            self.engine.records.touch((thing.oid,))
            self.engine.mark()
        return o.tier

    def _open_now(self, thing: Thing) -> Answer | Later:
        """Answer an open of a complete object; note opens of small ones for look-ahead."""
        tier = self._complete(thing)
        if tier is None:
            self.reopened.missed(thing.ino)
        if thing.size <= SMALL:
            self.engine.note_open(thing, missed=tier is None)
        if tier is None:
            return LATER
        try:
            fd = files.open_read(self.engine.tiers[tier].path, thing.oid)
        except FileNotFoundError:
            self.engine.drop(thing.oid)
            return LATER
        self._known_as(thing.oid, thing.ino)
        self.hits += 1
        self._count(thing, tier, thing.size)
        return wire.Opened(thing.size, True), fd

    def _reopen(self, thing: Thing, tier: int) -> int:
        try:
            return files.open_read(self.engine.tiers[tier].path, thing.oid)
        except FileNotFoundError:
            raise Fault(errno.EIO, "the cache file vanished: open again, and it is made anew") from None

    def _report(self, *, metrics: bool) -> wire.Report:
        values = self.report()
        if metrics:
            from forebay.cache.metrics import exposition  # 3 MB and 50 ms of start that most workers never need
        report = wire.Report({"metrics": exposition(values)} if metrics else values)
        if len(wire.encode(report)) <= wire.MAX_PACKET:
            return report
        if metrics:
            raise Fault(errno.EMSGSIZE, "the metrics do not fit one packet: start the worker with --metrics and ask it by HTTP")
        for key in ("mounts", "requests"):  # hundreds of mounts: totals stay
            values[key] = f"{len(values[key])} left out"  # type: ignore[arg-type]
        return wire.Report(values)

    # --- recency

    def _touch(self, caller: Caller, t: wire.Touch) -> None:
        with self.index.env.begin() as txn:
            oids = []
            for ino in t.used:
                row = self.index.row(txn, ino)
                if row is not None and row.kind == FILE:
                    oids.append(row.oid)
                    self.reopened.used(ino, row.size, whole=row.size <= SMALL or self._is_whole(row.oid))
            mine = self._opened.setdefault(caller.pid, {})
            for ino in t.opened:
                row = self.index.row(txn, ino)
                if row is not None and row.kind == FILE:
                    self._known_as(row.oid, ino)
                    oid, times = mine.get(ino, (row.oid, 0))
                    mine[ino] = (oid, times + 1)
                    self.engine.opened[oid] += 1
                    oids.append(oid)
        for ino in t.closed:
            held = mine.pop(ino, None)
            if held is not None:
                self._unhold(held[0], 1)
                if held[1] > 1:
                    mine[ino] = (held[0], held[1] - 1)
        self.touches += len(t.used)
        self.engine.records.touch(oids)
        self.engine.mark()

    def _is_whole(self, oid: bytes) -> bool:
        o = self.engine.records.object(oid)
        return o is not None and o.state == COMPLETE

    def _known_as(self, oid: bytes, ino: int) -> None:
        """Others may have asked for an object before a name here showed it: its row then has no inode to tell mounts of."""
        if self.spec.cluster is not None:
            self.engine.records.adopt(oid, ino)

    def holds(self, ino: int) -> bool:
        """Whether a mount has the inode open: its row must stay even when no name points to it."""
        return any(ino in mine for mine in self._opened.values())

    def _unhold(self, oid: bytes, times: int) -> None:
        self.engine.unhold(oid, times)

    # --- the tree

    def _node(self, row: Row, name: bytes | None = None) -> wire.Node:
        store, key = "", b""
        if row.mount < len(self.spec.mounts):
            store, key = self.spec.mounts[row.mount].source, self.namespace.locate(row.ino).key
        cached = 0
        if row.kind == FILE:
            o = self.engine.records.object(row.oid)
            cached = 0 if o is None else o.present
        kind = "dir" if row.kind == DIR else "file"
        return wire.Node(
            row.ino, kind, row.size, row.mtime_ns, store, key, row.version, cached, row.name if name is None else name
        )

    async def _children(self, c: wire.Children) -> wire.Page:
        top = await self.namespace.path(c.path)
        if top.kind != DIR:
            raise Fault(errno.ENOTDIR, f"{os.fsdecode(c.path)} is a file")
        complete = await self.namespace.list_dir(top.ino, c.after)
        nodes: list[wire.Node] = []
        size = 0
        more = False
        with self.index.env.begin() as txn:
            inos: list[bytes] = []
            for raw in self.index.scan(txn, top.ino, c.after):
                if len(inos) >= min(c.limit, 1000):
                    more = True
                    break
                inos.append(bytes(raw))
        for raw in inos:
            node = self._node(unpack_row(raw))
            size += len(node.name) + len(node.key) + len(node.version) + len(node.store) + 120
            if size > wire.MAX_PACKET - 4096:
                more = True
                break
            nodes.append(node)
        return wire.Page(nodes, complete and not more)

    # --- events

    def publish(self, event: wire.Reply) -> None:
        """Tell every subscriber; one that does not read loses its stream."""
        for channel in list(self._subscribers):
            try:
                channel.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._subscribers.discard(channel)
                channel.close()

    async def _subscribe(self) -> AsyncIterator[wire.Reply]:
        send, receive = trio.open_memory_channel[wire.Reply](EVENTS_MOST)
        self._subscribers.add(send)
        try:
            yield wire.Done()
            async for event in receive:
                yield event
        finally:
            self._subscribers.discard(send)
            send.close()
            receive.close()
