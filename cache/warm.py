"""Warm-up: everything below a path is fetched, with bounded concurrency and progress each half second."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import trio

from forebay.api import wire
from forebay.cache.disk.index import COMPLETE, FILE, UNRESOLVED, Row
from forebay.cache.door import Fault
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.machine import SMALL
from forebay.cache.fetch.messages import Goal, Thing
from forebay.cache.stores.base import StoreError
from forebay.cache.tree.namespace import Namespace

SMALL_AT_ONCE = 96
"""Small files wanted at a time: enough that lanes take several to a hop."""
LARGE_AT_ONCE = 4
REPORT = 0.5
RATE_OVER = 5.0
"""Seconds over which the rate is taken."""
FILE_DEADLINE = 3600.0
"""Seconds for one file: a terabyte at 300 MB/s takes about that, and what came stays for the next warm-up."""


class _Count:
    """What one warm-up did so far."""

    def __init__(self) -> None:
        self.files = self.files_total = self.bytes = self.bytes_total = self.failed = 0
        self.error = ""
        self.walked = False
        self.finished = False
        self.whole = False  # nothing is left to be done
        self.end = trio.Event()
        self._past: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self.fetched = 0

    def fail(self, message: str) -> None:
        self.failed += 1
        self.error = message

    def progress(self) -> wire.Progress:
        now = time.monotonic()
        self._past.append((now, self.fetched))
        while len(self._past) > 2 and now - self._past[0][0] > RATE_OVER:
            self._past.popleft()
        since, had = self._past[0]
        rate = (self.fetched - had) / (now - since) if now > since else 0.0
        left = self.bytes_total - self.bytes
        eta = None
        if self.walked:
            eta = 0.0 if left <= 0 else left / rate if rate > 0 else None
        return wire.Progress(
            self.files, self.files_total, self.bytes, self.bytes_total, rate,
            eta if eta is None or math.isfinite(eta) else None, self.walked, self.finished, self.failed, self.error,
        )  # fmt: skip


class Warming:
    """One warm-up on its way."""

    def __init__(self, warmer: Warmer, number: int, count: _Count, scope: trio.CancelScope) -> None:
        self._warmer = warmer
        self._number = number
        self._count = count
        self._scope = scope
        self.finished = False  # whether the last progress was handed out

    async def progress(self) -> wire.Progress:
        """How far it is, every half second and at the end."""
        with trio.move_on_after(REPORT):
            await self._count.end.wait()
        self.finished = self._count.finished
        return self._count.progress()

    def close(self) -> None:
        """End it; what was fetched stays."""
        self._scope.cancel()
        self._warmer.ended(self._number, finished=self.finished)


class _Bounds:
    """How many files one warm-up wants at a time."""

    def __init__(self) -> None:
        self.small = trio.Semaphore(SMALL_AT_ONCE)
        self.large = trio.Semaphore(LARGE_AT_ONCE)


class Warmer:
    """Runs warm-ups; `running` and `done` are for status."""

    def __init__(self, namespace: Namespace, engine: Engine) -> None:
        self.namespace = namespace
        self.engine = engine
        self.running: dict[int, tuple[str, _Count]] = {}
        self.done = 0
        self.fetched = 0  # bytes, by all of them
        self._next = 0

    def stats(self) -> list[dict[str, object]]:
        return [
            {
                "path": path,
                "files": c.files,
                "files_total": c.files_total,
                "bytes": c.bytes,
                "bytes_total": c.bytes_total,
                "failed": c.failed,
            }
            for path, c in self.running.values()
        ]

    async def warm(self, path: bytes, *, metadata_only: bool) -> AsyncIterator[wire.Progress]:
        """Progress until the last, which has `finished`. Ends early, without harm, when its reader leaves."""
        run = self.begin(path, [await self.namespace.path(path)], metadata_only=metadata_only)
        try:
            while not run.finished:
                yield await run.progress()
        finally:
            run.close()

    def begin(self, label: bytes, tops: Sequence[Row], *, metadata_only: bool) -> Warming:
        """Fetch what is at and below `tops`; `close` what this returns, or it goes on to its end."""
        count = _Count()
        self._next += 1
        number = self._next
        self.running[number] = (label.decode("utf-8", "backslashreplace"), count)
        scope = trio.CancelScope()
        # in the engine's nursery: a generator must not hold one of its own across a yield
        self.engine.spawn(self._work, scope, tops, count, metadata_only)
        return Warming(self, number, count, scope)

    def ended(self, number: int, *, finished: bool) -> None:
        """A warm-up was closed."""
        if self.running.pop(number, None) is not None:
            self.done += finished

    async def _work(self, scope: trio.CancelScope, tops: Sequence[Row], count: _Count, metadata_only: bool) -> None:
        bounds = _Bounds()

        def failed(_ino: int, e: Exception) -> None:
            count.fail(str(e))

        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    for top in tops:
                        if top.kind == FILE:
                            await self._one(nursery, top, count, bounds, metadata_only=metadata_only)
                            continue
                        walk = self.namespace.walk(top.ino, metadata_only=metadata_only, on_error=failed)
                        async with aclosing(walk) as batches:  # type: ignore[type-var]
                            async for batch in batches:
                                for row in batch:
                                    await self._one(nursery, row, count, bounds, metadata_only=metadata_only)
                    count.walked = True
                count.whole = True
        finally:
            if not count.whole:
                count.fail("the warm-up ended before everything was fetched: start it again, what came stays")
            count.walked = count.finished = True
            count.end.set()

    async def _one(self, nursery: trio.Nursery, row: Row, count: _Count, bounds: _Bounds, *, metadata_only: bool) -> None:
        count.files_total += 1
        if metadata_only:
            count.files += 1
            return
        if row.flags & UNRESOLVED:
            try:
                with self.engine.index.env.begin() as txn:
                    parent = self.engine.index.parent(txn, row.ino)
                await self.namespace.resolve(parent, [row.ino])
            except StoreError as e:
                count.fail(str(e))
                return
        try:
            thing = self.engine.thing(row.ino)
        except Fault as e:
            count.fail(str(e))
            return
        if thing is None:
            count.fail(f"inode {row.ino}: its store tells neither size nor version")
            return
        count.bytes_total += thing.size
        o = self.engine.records.object(thing.oid)
        if o is not None and o.state == COMPLETE and o.boot == self.engine.records.boot:
            count.files += 1
            count.bytes += thing.size
            return
        bound = bounds.small if thing.size <= SMALL else bounds.large
        await bound.acquire()
        nursery.start_soon(self._fetch, thing, count, bound)

    async def _fetch(self, thing: Thing, count: _Count, bound: trio.Semaphore) -> None:
        try:
            await self.engine.want(thing, 0, thing.size, Goal.WARM, FILE_DEADLINE)
            count.files += 1
            count.bytes += thing.size
            count.fetched += thing.size
            self.fetched += thing.size
        except Fault as e:
            count.fail(str(e))
        finally:
            bound.release()
