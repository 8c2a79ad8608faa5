"""The dataset's tree inside the worker: names looked up, listed and kept fresh over the merged stores, in one LMDB index.

Everything runs in the trio thread; only store calls leave it, each through a bounded pool of its mount. A name is absent
only by a definite answer of every source. Promises and refusals: docs/semantics.md.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from forebay.api import wire
from forebay.api.spec import DatasetSpec
from forebay.cache.disk.index import (
    COMPLETE_LIST,
    DIR,
    FILE,
    FIXED,
    ROOT,
    UNRESOLVED,
    Dir,
    Index,
    Row,
)  # fmt: skip
from forebay.cache.stores.base import BadReply, Entry, NotFound, Store, StoreError, Unavailable
from forebay.cache.tree.changes import VERSION_MOST, Source
from forebay.cache.tree.core import Core, Location, NotADirectory
from forebay.cache.tree.forget import Forgetter
from forebay.cache.tree.freshness import fresh, listed_of, mount_freshness, sources_freshness
from forebay.cache.tree.listing import STALE_GRACE, Lister
from forebay.cache.tree.merge import Answer, Shown, merge, valid_name, worth_listing
from forebay.cache.tree.mounts import components
from forebay.cache.tree.orphans import Reaper
from forebay.cache.tree.walk import TRUSTED_AGE, Walker, WalkProgress

log = logging.getLogger("forebay.namespace")

ASK_DEADLINE = 40.0
"""Seconds a waiter waits for one name: the store's own deadlines (30 s) are shorter."""
KEPT = 10_000
"""Bound of each table of moments kept in memory."""
ABSENT_KEPT = 65_536
ABSENT_MOST = 3600.0
RESOLVE_PARALLEL = 16


class _Flight:
    """One question about one name under way."""

    def __init__(self) -> None:
        self.begun = False
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
        self._absent: OrderedDict[tuple[int, bytes], float] = OrderedDict()  # -> unix second until which it is absent
        self._misses: OrderedDict[int, int] = OrderedDict()  # directory -> names asked for one by one
        self._started = False
        self._again: list[int] = []  # directories at and below which nothing is believed any longer
        self.reaper = Reaper(self.core)
        self.forgetter = Forgetter(self.core, self.lister)
        self.walker = Walker(self.core, self.lister, self.resolve)

    def start(self, *, keep_orphans: bool | None = None) -> None:
        """Root row and directories of mount paths. Versions without a name are dropped, unless a mount may hold them:
        by default those of an earlier boot are."""
        self._again = self.core.plant_mounts(self.core.now())
        self.reaper.start(keep=keep_orphans)
        self._started = True

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the work that outlives its first caller; runs until cancelled."""
        if not self._started:
            self.start()
        async with trio.open_nursery() as nursery:
            self.core.nursery = nursery
            nursery.start_soon(self.reaper.run)
            nursery.start_soon(self.reaper.empty_lost)
            nursery.start_soon(self.forgetter.again, self._again)
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
            held = self.index.row(txn, parent) if d is None else None
            orphan = row is None and self.index.orphan(txn, parent)
        if d is None:
            if held is None:
                raise NotFound(f"inode {parent} is unknown here: look its path up again")
            raise NotADirectory(f"inode {parent} is a file")
        if orphan:
            raise NotFound(f"directory {parent} was removed")
        if row is not None:
            if self._fresh(row, d):
                return row
            until = self._grace.get(row.ino)
            if until is not None and trio.current_time() < until:
                core.stale_answers += 1
                return row
        elif not d.sources or self.lister.fresh(d) or self._absent.get((parent, name), 0.0) > core.clock():
            raise NotFound(f"no {name!r} in directory {parent}")
        row = await self._join(parent, name)
        self._missed(parent)
        return row

    def _fresh(self, row: Row, d: Dir) -> bool:
        freshness = mount_freshness(self.spec.mounts, row.mount)
        return fresh(row, freshness, self.core.clock(), listed_of(d)) is not None

    async def _join(self, parent: int, name: bytes, *, since: bool = False) -> Row:
        """The answer of the stores, one question at a time per name; `since`: only one asked from now on."""
        key = (parent, name)
        with trio.move_on_after(ASK_DEADLINE) as scope, self.core.foreground():
            flight = self._flights.get(key)
            while since and flight is not None and flight.begun:
                await flight.done.wait()
                flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                self.core.spawn(self._fly, key, flight)
            await flight.done.wait()
        if scope.cancelled_caught or flight is None:
            raise Unavailable(f"{name!r}: no answer within {ASK_DEADLINE:.0f} s: see `forebay status` for its store")
        if flight.error is not None:
            raise flight.error
        if flight.row is None:
            raise NotFound(f"no {name!r} in directory {parent}")
        return flight.row

    async def _fly(self, key: tuple[int, bytes], flight: _Flight) -> None:
        flight.begun = True
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
            if len(self._grace) >= KEPT:
                self._grace.clear()
            self._grace[old.ino] = trio.current_time() + STALE_GRACE
            return old
        with core.write() as w:
            if w.dir(parent) is None:
                return None  # removed and reaped meanwhile
            source = None if shown is None else core.source(shown.mount, path)
            row = w.confirm(parent, name, shown, source, asked=asked, now=core.now())
        if old is not None:
            self._grace.pop(old.ino, None)
        if row is None:
            self._remember_absent(parent, name, d, asked)
        return row

    def _remember_absent(self, parent: int, name: bytes, d: Dir, asked: int) -> None:
        ttl = min((f.ttl for f in sources_freshness(self.spec.mounts, d) if f.mode in ("ttl", "validate")), default=ABSENT_MOST)
        if ttl > 0:
            self._absent[parent, name] = asked + min(ttl, ABSENT_MOST)
            self._absent.move_to_end((parent, name))
            if len(self._absent) > ABSENT_KEPT:
                self._absent.popitem(last=False)

    def _missed(self, parent: int) -> None:
        """A directory that is asked for name by name is listed, once that is cheaper."""
        misses = self._misses.pop(parent, 0) + 1
        with self.index.env.begin() as txn:
            d = self.index.dir(txn, parent)
        if d is not None and d.sources and worth_listing(misses, d.state == COMPLETE_LIST, d.entries):
            if not self.lister.fresh(d):
                self.lister.begin(parent)
            return
        self._misses[parent] = misses
        if len(self._misses) > KEPT:
            self._misses.popitem(last=False)

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
            if len(entry.version) > VERSION_MOST:
                raise BadReply(f"{source.store}: version of {key!r} has {len(entry.version)} bytes: no store needs over 1024")
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

    async def validate(self, ino: int) -> int:
        """Inode the name of `ino` has now by the stores' word, asked from this call on. `NotFound` when it has none."""
        with self.index.env.begin() as txn:
            row = self.index.row(txn, ino)
            parent = self.index.parent(txn, ino)
        if row is None:
            raise NotFound(f"inode {ino} is unknown here: look its path up again")
        if row.flags & FIXED:
            return ino
        until = self._grace.get(ino)
        if until is not None and trio.current_time() < until:
            self.core.stale_answers += 1
            return ino
        return (await self._join(parent, row.name, since=True)).ino

    def settle(self, ino: int, entry: Entry) -> int:
        """Write what reading an object told of it (`entry.version`, size, time), without asking; the inode its name has now.

        An unresolved row gets its version and keeps its inode; a row of another version gets a new one. 0: no name any more.
        """
        core = self.core
        with core.write() as w:
            row = self.index.row(w.txn, ino)
            if row is None:
                return 0
            parent = self.index.parent(w.txn, ino)
            now = self.index.find(w.txn, parent, row.name)
            if now is None or now.ino != ino or row.kind != FILE:
                return 0 if now is None else now.ino
            path = core.path_of(w.txn, parent)
            if path is None:
                return 0
            entry = Entry(row.name, False, entry.size, entry.mtime_ns, entry.version)
            asked = core.now()
            got = w.confirm(parent, row.name, Shown(row.mount, entry, ()), core.source(row.mount, path), asked=asked, now=asked)
            return 0 if got is None else got.ino

    async def resolve(self, parent: int, inos: Sequence[int]) -> None:
        """Fill size, time and version of children whose listing told names only, at most 16 questions at once.

        A definite 404 removes the child. A child whose question failed stays unresolved (looking it up shows its error);
        `Unavailable` is raised only when every question failed with it.
        """
        index = self.index
        with index.env.begin() as txn:
            rows = [index.child(txn, parent, ino) for ino in inos]
        names = [row.name for row in rows if row is not None and row.kind == FILE and row.flags & UNRESOLVED]
        if not names:
            return
        errors: list[StoreError] = []
        waiting = iter(names)

        async def ask_on() -> None:
            for name in waiting:
                try:
                    await self._join(parent, name)
                except NotFound:
                    continue
                except StoreError as e:
                    errors.append(e)

        async with trio.open_nursery() as nursery:
            for _ in range(min(RESOLVE_PARALLEL, len(names))):
                nursery.start_soon(ask_on)
        if len(errors) == len(names) and all(isinstance(e, Unavailable) for e in errors):
            raise errors[0]

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

    async def refresh(self, path: bytes = b"/") -> None:
        """Forget how fresh everything at and below a path is: the next look asks the stores.

        Below mounts whose kernel entries do not expire (`immutable`, `event`) what was listed is listed again in the
        background, so that changes are told to the mounts.
        """
        start = await self._known(path)
        core = self.core
        self._absent.clear()
        self._grace.clear()
        if start.kind == FILE:
            with self.index.env.begin() as txn:
                parent = self.index.parent(txn, start.ino)
            self.forgetter.rows(parent, start.ino - 1, 1)
            await self._join(parent, start.name, since=True)
            return
        await self.forgetter.below(start.ino)
        if any(m.freshness.mode in ("immutable", "event") for m in self.spec.mounts):
            core.spawn(self.forgetter.relist, start.ino)

    def remount(self) -> None:
        """Take over the mounts of `spec`, which were changed in place and are numbered as before, while readers read.

        Names of mounts that left are gone at the next look; those of a mount that joined others on its path show as the tree is
        asked for again, which goes on in the background.
        """
        core = self.core
        core.grow()
        again = core.plant_mounts(core.now())
        self._absent.clear()
        self._grace.clear()
        for ino in again:
            self.lister.forget(ino)
        core.spawn(self.forgetter.again, again)
        core.new_dirs.set()
        core.on_changed(wire.Changed(0, b"", 0, 0))

    async def _known(self, path: bytes) -> Row:
        """The row at a path, from the index alone where it has all of it."""
        with self.index.env.begin() as txn:
            row = self.index.row(txn, ROOT)
            for name in components(path):
                row = None if row is None else self.index.find(txn, row.ino, name)
        return row if row is not None else await self.path(path)

    # walks and numbers

    def walk(
        self,
        start: int = ROOT,
        *,
        metadata_only: bool = False,
        max_age: float = TRUSTED_AGE,
        on_error: Callable[[int, Exception], None] | None = None,
    ) -> AsyncIterator[list[Row]]:
        """Rows of all files below `start` in batches; see `Walker.files`."""
        return self.walker.files(start, metadata_only=metadata_only, max_age=max_age, on_error=on_error)

    async def run_walk(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background walk: fills the tree once, then new directories as they appear. Until cancelled."""
        await self.walker.run(task_status)

    @property
    def progress(self) -> WalkProgress:
        """How far the background walk is."""
        return self.walker.progress()

    def stats(self) -> dict[str, object]:
        """Numbers for status and metrics. `mounts`: reach of each in declared order, ages in seconds (None = never)."""
        core, now, p = self.core, self.core.clock(), self.progress
        return {
            "dirs": core.counts.dirs,
            "files": core.counts.files,
            "bytes": core.counts.bytes,
            "walk_done": p.done,
            "walk_dirs_listed": p.dirs_listed,
            "walk_failed": p.failed,
            "walk_error": p.error,
            "listings": self.lister.listed,
            "listings_now": len(self.lister.flights),
            "listing_errors": sum(r.listing_errors for r in core.reach),
            "names_skipped": self.lister.skipped,
            "stale_answers": core.stale_answers,
            "mounts": [
                {
                    "path": m.path,
                    "source": m.source,
                    "asked": r.asked,
                    "failed": r.failed,
                    "error": r.error,
                    "error_age": now - r.error_at if r.error_at else None,
                    "ok_age": now - r.ok_at if r.ok_at else None,
                }
                for m, r in zip(self.spec.mounts, core.reach, strict=True)
                if not m.gone
            ],
        }


__all__ = ["Location", "Namespace", "NotADirectory", "WalkProgress"]
