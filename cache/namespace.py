"""The dataset's tree inside the worker: names looked up, listed and kept fresh over the merged stores, in one LMDB index.

Everything runs in the trio thread; only store calls leave it, each through a bounded pool of its mount. A name is absent
only by a definite answer of every source. Promises and refusals: docs/semantics.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from forebay.api import wire
from forebay.api.spec import DatasetSpec
from forebay.cache.freshness import fresh, listed_of, mount_freshness
from forebay.cache.index import DIR, FILE, FIXED, ROOT, UNRESOLVED, Dir, Index, Row
from forebay.cache.listing import STALE_GRACE, Lister
from forebay.cache.merge import Answer, merge, valid_name
from forebay.cache.mounttree import components
from forebay.cache.nscore import Core, Location, NotADirectory
from forebay.cache.stores.base import Entry, NotFound, Store, StoreError, Unavailable
from forebay.cache.tree import Source

ASK_DEADLINE = 40.0
"""Seconds a waiter waits for one name: the store's own deadlines (30 s) are shorter."""
GRACES_KEPT = 10_000


class _Flight:
    """One question about one name under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.row: Row | None = None
        self.error: Exception | None = None


class Namespace:
    """One dataset's tree. `await nursery.start(ns.run)` before anything that asks a store.

    `on_changed` is called in the trio thread after the rows are committed. Raises the stores' errors (`StoreError`), each
    with `errno_name`, and `IndexError_` when the index cannot be written.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        index: Index,
        stores: Sequence[Store],
        *,
        clock: Callable[[], float] = time.time,
        on_changed: Callable[[wire.Changed], None],
    ) -> None:
        self.core = Core(spec, index, stores, clock, on_changed)
        self.lister = Lister(self.core)
        self.index = index
        self.spec = spec
        self._flights: dict[tuple[int, bytes], _Flight] = {}
        self._grace: dict[int, float] = {}  # ino -> trio time until which a stale answer stands
        self._started = False

    def start(self, *, keep_orphans: bool = False) -> None:
        """Root row and directories of mount paths; versions without a name are dropped, unless a mount may hold them."""
        self.core.plant_mounts(self.core.now())
        self._started = True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the work that outlives its first caller; runs until cancelled."""
        if not self._started:
            self.start()
        async with trio.open_nursery() as nursery:
            self.core.nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self.core.nursery = None

    # names

    async def lookup(self, parent: int, name: bytes) -> int:
        """Inode the name has now, from the index while fresh, else from the stores. `NotFound` only by a definite answer."""
        return (await self._lookup(parent, name)).ino

    async def _lookup(self, parent: int, name: bytes) -> Row:
        if not valid_name(name):
            raise NotFound(f"{name!r} is no name a tree can have")
        core = self.core
        with self.index.env.begin() as txn:
            d = self.index.dir(txn, parent)
            row = self.index.find(txn, parent, name)
            if d is None:
                held = self.index.row(txn, parent)
        if d is None:
            if held is None:
                raise NotFound(f"inode {parent} is unknown here: look its path up again")
            raise NotADirectory(f"inode {parent} is a file")
        if row is not None:
            if self._fresh(row, d):
                return row
            until = self._grace.get(row.ino)
            if until is not None and trio.current_time() < until:
                core.stale_answers += 1
                return row
        elif not d.sources or self.lister.fresh(d):
            raise NotFound(f"no {name!r} in directory {parent}")
        return await self._join(parent, name)

    def _fresh(self, row: Row, d: Dir) -> bool:
        freshness = mount_freshness(self.spec.mounts, row.mount)
        return fresh(row, freshness, self.core.clock(), listed_of(d)) is not None

    async def _join(self, parent: int, name: bytes) -> Row:
        """The answer of the stores, one question at a time per name."""
        key = (parent, name)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self.core.spawn(self._fly, key, flight)
        with trio.move_on_after(ASK_DEADLINE) as scope:
            await flight.done.wait()
        if scope.cancelled_caught:
            raise Unavailable(f"{name!r}: no answer within {ASK_DEADLINE:.0f} s: see `forebay status` for its store")
        if flight.error is not None:
            raise flight.error
        if flight.row is None:
            raise NotFound(f"no {name!r} in directory {parent}")
        return flight.row

    async def _fly(self, key: tuple[int, bytes], flight: _Flight) -> None:
        try:
            flight.row = await self._ask(*key)
        except Exception as e:  # noqa: BLE001 - raised again by everyone who waits for it
            flight.error = e
        finally:
            del self._flights[key]
            flight.done.set()

    async def _ask(self, parent: int, name: bytes) -> Row | None:
        core = self.core
        asked = core.now()
        with self.index.env.begin() as txn:
            d = self.index.dir(txn, parent)
            path = core.path_of(txn, parent)
            old = self.index.find(txn, parent, name)
        if d is None or path is None:
            return None
        answers: list[Answer | None] = [None] * len(d.sources)

        async def one(i: int, source: Source) -> None:
            try:
                entry = await self._probe(source, name, old)
            except StoreError as e:
                answers[i] = Answer(source.mount, None, e)
            else:
                answers[i] = Answer(source.mount, entry)

        async with trio.open_nursery() as nursery:
            for i, mount in enumerate(d.sources):
                nursery.start_soon(one, i, core.source(mount, path))
        try:
            shown = merge([a for a in answers if a is not None])
        except Unavailable:
            if old is None or old.flags & UNRESOLVED:
                raise
            core.stale_answers += 1
            if len(self._grace) >= GRACES_KEPT:
                self._grace.clear()
            self._grace[old.ino] = trio.current_time() + STALE_GRACE
            return old
        with core.write() as w:
            source = None if shown is None else core.source(shown.mount, path)
            row = w.confirm(parent, name, shown, source, asked=asked, now=core.now())
        self._grace.pop(old.ino if old is not None else 0, None)
        return row

    async def _probe(self, source: Source, name: bytes, old: Row | None) -> Entry | None:
        """What one store has under a name: a file, a directory, or definitely nothing.

        A known name is first asked for as what it was; an unknown one as both at once. A directory hides a file.
        """
        core = self.core
        store = core.stores[source.mount]
        key = source.prefix + name

        async def as_file() -> Entry | None:
            try:
                entry = await core.ask(source.mount, store.stat, key)
            except NotFound:
                return None
            return entry if entry.name == name else Entry(name, entry.is_dir, entry.size, entry.mtime_ns, entry.version)

        async def as_dir() -> Entry | None:
            try:
                return Entry(name, True) if await core.ask(source.mount, store.is_dir, key) else None
            except NotFound:
                return None

        if old is not None and old.mount == source.mount:
            first, second = (as_file, as_dir) if old.kind == FILE else (as_dir, as_file)
            return await first() or await second()
        results: dict[str, Entry | None] = {}
        errors: dict[str, StoreError] = {}

        async def keep(what: str, fn: Callable[[], Any]) -> None:
            try:
                results[what] = await fn()
            except StoreError as e:
                errors[what] = e

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, "dir", as_dir)
            nursery.start_soon(keep, "file", as_file)
        if results.get("dir") is not None:
            return results["dir"]
        if results.get("file") is not None:
            return results["file"]  # also where the store forbids listing: the key is there
        for error in errors.values():
            raise error
        return None

    # directories

    async def list_dir(self, ino: int, after: int = 0) -> bool:
        """Rows of directory `ino` above `after` are in the index (False), or its listing is complete (True)."""
        return await self.lister.list_dir(ino, after)

    # places

    def locate(self, ino: int) -> Location:
        """Mount, key and row of an inode. `NotFound` when the index does not know it."""
        return self.core.locate(ino)

    async def path(self, path: bytes) -> Row:
        """The row at a path from the dataset's root, looked up name by name; `..` is refused."""
        with self.index.env.begin() as txn:
            row = self.index.row(txn, ROOT)
        if row is None:
            raise RuntimeError("the namespace was not started")
        for name in components(path):
            if row.kind != DIR:
                raise NotADirectory(f"{path!r} goes through a file")
            row = await self._lookup(row.ino, name)
        return row


__all__ = ["FIXED", "Location", "Namespace", "NotADirectory"]
