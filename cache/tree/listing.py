"""Listing of directories: one at a time each, every page committed as it arrives, whoever waits is woken by it."""

from __future__ import annotations

import logging
from typing import Any

import trio

from forebay.cache.disk.index import COMPLETE_LIST, LISTING, ROOT, UNLISTED, Dir, IndexError_
from forebay.cache.stores.base import BadReply, NotFound, Page, StoreError, Unavailable
from forebay.cache.tree.changes import PageApply, Source
from forebay.cache.tree.core import Core, NotADirectory
from forebay.cache.tree.freshness import listing_fresh, sources_freshness
from forebay.cache.tree.merge import EndlessGuard

log = logging.getLogger("forebay.namespace")

PAGE_LIMIT = 1000
PROGRESS_DEADLINE = 40.0
"""Seconds a reader of a directory waits for one page: the store's own deadlines (30 s) are shorter."""
RELIST_WAIT = 10.0
"""Seconds a reader waits for an expired listing to be made again before it is shown as it was, while the new one goes on."""
STALE_GRACE = 5.0
"""Seconds a stale answer stands in for a store that did not answer, so that it is not hammered."""
ERROR_GRACE = 1.0
"""Seconds for which an error of a directory never listed is repeated instead of asking again."""
SWEEP_SLICE = 2000
APPLY_SLICE = 2000
"""Names written in one transaction: 20 ms of the loop. A web server's whole directory is one page."""


class Flight:
    """One listing under way. `pulse` is set and replaced at every page."""

    def __init__(self, ino: int, began: int) -> None:
        self.ino = ino
        self.began = began
        self.pages = 0
        self.void = False  # a refresh came meanwhile: the listing vouches for nothing
        self.done = False
        self.error: Exception | None = None
        self.pulse = trio.Event()

    def wake(self) -> None:
        pulse, self.pulse = self.pulse, trio.Event()
        pulse.set()


class Lister:
    """Keeps directory listings: single-flight per directory, errors remembered for a moment."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.flights: dict[int, Flight] = {}
        self.skipped = 0  # names and keys that no tree can show
        self.listed = 0  # complete listings made
        self._failed: dict[int, tuple[float, Exception]] = {}  # directory -> (trio time, error)

    def state(self, ino: int, after: int = 0) -> tuple[Dir, bool]:
        """Listing state of a directory, and whether it has a row above `after`. Raises `NotFound`, `NotADirectory`."""
        index = self.core.index
        with index.env.begin() as txn:
            d = index.dir(txn, ino)
            if d is None:
                if index.row(txn, ino) is None:
                    raise NotFound(f"inode {ino} is unknown here: look its path up again")
                raise NotADirectory(f"inode {ino} is a file")
            if d.sources and index.orphan(txn, ino):
                d = d._replace(state=COMPLETE_LIST, listed=1, sources=())  # removed: it stays as it was, nobody is asked
            return d, next(index.scan_raw(txn, ino, after), None) is not None

    def fresh(self, d: Dir) -> bool:
        return listing_fresh(d, sources_freshness(self.core.spec.mounts, d), self.core.clock()) is not None

    def forget(self, ino: int) -> None:
        """What was listed or failed before now counts for nothing."""
        self._failed.pop(ino, None)
        flight = self.flights.get(ino)
        if flight is not None:
            flight.void = True

    async def list_dir(self, ino: int, after: int = 0) -> bool:
        """Make rows above `after` available, or finish the listing. True: the listing is complete.

        Raises the store's error, after what arrived before it was given out; `Unavailable` when no page comes in time.
        """
        d, more = self.state(ino, after)
        if d.state == COMPLETE_LIST:
            if after > 0 or self.fresh(d):
                return True
            return await self._again(ino, more)
        if more and d.state == LISTING and self._recent(d):
            if ino not in self.flights and self._remembered(ino, ERROR_GRACE) is None:
                self.begin(ino)
            return False
        error = self._remembered(ino, ERROR_GRACE)
        if error is not None and ino not in self.flights:
            raise error
        flight = self.begin(ino)
        while True:
            await self._page(flight, ino)
            if flight.error is not None:
                raise flight.error
            if flight.done:
                return True
            if self.state(ino, after)[1]:
                return False

    async def complete(self, ino: int) -> None:
        """Wait until a directory is listed to its end, from now on if its listing is not fresh. Raises the store's error."""
        d, _ = self.state(ino)
        if self.fresh(d):
            return
        flight = self.begin(ino)
        pages = -1
        while not flight.done:
            if pages == flight.pages:
                raise Unavailable(f"directory {ino}: no page within {PROGRESS_DEADLINE:.0f} s")
            pages = flight.pages
            with trio.move_on_after(PROGRESS_DEADLINE):
                await flight.pulse.wait()
        if flight.error is not None:
            raise flight.error

    def begin(self, ino: int) -> Flight:
        """The listing under way, or a new one."""
        flight = self.flights.get(ino)
        if flight is None:
            flight = self.flights[ino] = Flight(ino, self.core.now())
            self.core.spawn(self._fly, flight)
        return flight

    def _recent(self, d: Dir) -> bool:
        """Whether an unfinished listing's rows are as fresh as a finished one's would be."""
        return self.fresh(d._replace(state=COMPLETE_LIST))

    def _remembered(self, ino: int, grace: float) -> Exception | None:
        failed = self._failed.get(ino)
        return failed[1] if failed is not None and trio.current_time() - failed[0] < grace else None

    async def _page(self, flight: Flight, ino: int) -> None:
        if flight.done:
            return
        with trio.move_on_after(PROGRESS_DEADLINE) as scope, self.core.foreground():
            await flight.pulse.wait()
        if scope.cancelled_caught:
            raise Unavailable(f"directory {ino}: no page within {PROGRESS_DEADLINE:.0f} s: see `forebay status` for its store")

    async def _again(self, ino: int, more: bool) -> bool:
        """A complete listing has expired: make it again; where the store does not answer, the old one stands, and is counted."""
        if isinstance(self._remembered(ino, STALE_GRACE), Unavailable):
            self.core.stale_answers += 1
            return True
        flight = self.begin(ino)
        with trio.move_on_after(RELIST_WAIT if more else PROGRESS_DEADLINE), self.core.foreground():
            while not flight.done:
                await flight.pulse.wait()
        if flight.error is not None and not isinstance(flight.error, Unavailable):
            raise flight.error
        if flight.error is not None or not flight.done:
            self.core.stale_answers += 1
        return True

    async def _fly(self, flight: Flight) -> None:
        ino = flight.ino
        try:
            await self._list(flight)
            self._failed.pop(ino, None)
            self.listed += 1
        except Exception as e:  # noqa: BLE001 - raised again by everyone who waits for it
            flight.error = e
            if len(self._failed) > 1000:
                self._failed.clear()
            self._failed[ino] = (trio.current_time(), e)
            log.warning("listing of directory %d ended: %s", ino, e)
        finally:
            del self.flights[ino]
            flight.done = True
            flight.wake()

    async def _list(self, flight: Flight) -> None:
        core, ino = self.core, flight.ino
        with core.index.env.begin() as txn:
            d = core.index.dir(txn, ino)
            path = core.path_of(txn, ino)
        if d is None or path is None:
            raise NotFound(f"directory {ino} is gone")
        had_rows = d.entries > len(core.fixed.get(ino, ()))
        apply = PageApply(ino, flight.began, frozenset(core.fixed.get(ino, ())))
        if d.state != COMPLETE_LIST:
            with core.write() as w:
                w.put_dir(ino, d._replace(state=LISTING, listed=flight.began))
        absent = []
        for mount in d.sources:
            source = core.source(mount, path)
            try:
                await self._list_source(flight, apply, source)
            except NotFound:
                if not source.prefix:
                    raise
                absent.append(mount)
        self.skipped += apply.skipped
        after: int | None = 0 if had_rows else None
        while after is not None:
            with core.write() as w:
                after = apply.sweep(w, after, SWEEP_SLICE, core.now())
            await trio.lowlevel.checkpoint()
        self._finish(flight, absent)

    def _finish(self, flight: Flight, absent: list[int]) -> None:
        core, ino = self.core, flight.ino
        with core.write() as w:
            d = w.dir(ino)
            row = core.index.row(w.txn, ino)
            if d is None or row is None:
                raise NotFound(f"directory {ino} is gone")
            sources = tuple(m for m in d.sources if m not in absent)
            if sources or ino in core.fixed:
                keep = d.sources if ino in core.fixed else sources
                w.put_dir(ino, Dir(COMPLETE_LIST, 0 if flight.void else flight.began, d.entries, d.epoch + 1, keep))
                if keep and keep[0] != row.mount and ino not in core.fixed:
                    w.rewrite(core.index.parent(w.txn, ino), row, row._replace(mount=keep[0]))
                return
            parent = core.index.parent(w.txn, ino)
            w.put_dir(ino, d._replace(state=UNLISTED, listed=0))
            if ino != ROOT and core.index.child(w.txn, parent, ino) is not None:
                w.remove(parent, row, core.now())
        raise NotFound(f"directory {ino} is gone from its store")

    async def _list_source(self, flight: Flight, apply: PageApply, source: Source) -> None:
        """Pages of one source, the next one asked for while this one is applied."""
        core = self.core
        store = core.stores[source.mount]
        send, receive = trio.open_memory_channel[tuple[Page, int]](0)
        guard = EndlessGuard()

        async def fetch(sink: Any) -> None:
            token: bytes | None = None
            async with sink:
                while True:
                    asked = core.now()
                    page = await core.ask(source.mount, store.list, source.prefix, token, PAGE_LIMIT, listing=True)
                    token = page.token
                    if token is not None and guard.endless(token, [e.name + b"/" if e.is_dir else e.name for e in page.entries]):
                        raise BadReply(
                            f"{source.store}: listing of {source.prefix!r} goes in circles (page token {token[:80]!r}): "
                            "what is cached stays; check the store"
                        )
                    await sink.send((page, asked))
                    if token is None:
                        return

        failure: Exception | None = None

        async def guarded(sink: Any) -> None:
            nonlocal failure
            try:
                await fetch(sink)
            except Exception as e:  # noqa: BLE001 - raised below, bare instead of in a group
                failure = e

        asked = flight.began
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded, send)
            try:
                async for page, asked in receive:
                    await self._apply(flight, apply, source, (page, asked))
            except (StoreError, IndexError_) as e:
                failure = e
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        with core.write() as w:
            apply.end_of_source(w, source, asked)

    async def _apply(self, flight: Flight, apply: PageApply, source: Source, got: tuple[Page, int]) -> None:
        page, asked = got
        for at in range(0, max(1, len(page.entries)), APPLY_SLICE):
            with self.core.write() as w:
                if w.dir(flight.ino) is None:
                    raise NotFound(f"directory {flight.ino} was removed")
                apply.page(w, source, page.entries[at : at + APPLY_SLICE], asked)
            await trio.lowlevel.checkpoint()
        self.skipped += page.skipped
        flight.pages += 1
        flight.wake()
