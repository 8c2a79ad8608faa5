"""Believing nothing that is known below a place any longer: after a refresh, and where mounts came or went."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from forebay.api import wire
from forebay.cache.disk.index import DIR, FIXED, UNLISTED, IndexError_, Row, unpack_row
from forebay.cache.stores.base import StoreError
from forebay.cache.tree import numbering
from forebay.cache.tree.changes import PageApply
from forebay.cache.tree.core import Core
from forebay.cache.tree.freshness import sources_freshness
from forebay.cache.tree.listing import Lister
from forebay.cache.tree.walk import known_dirs

log = logging.getLogger("forebay.namespace")

SLICE = 2000
_LATER = 1 << 20
"""Seconds by which the sweep of a directory without sources is ahead of any confirmation."""


class Forgetter:
    """Rows and listings of one tree, a slice at a time, so that readers are answered in between."""

    def __init__(self, core: Core, lister: Lister) -> None:
        self.core = core
        self.lister = lister

    async def below(self, top: int, also: Callable[[int, int, int], int | None] | None = None) -> None:
        """How fresh everything at and below a directory is counts for nothing: the next look asks. `also` sees each first."""
        async for ino in known_dirs(self.core, top):
            self.lister.forget(ino)
            for step in (self.rows,) if also is None else (also, self.rows):
                after: int | None = 0
                while after is not None:
                    after = step(ino, after, SLICE)
                    await trio.lowlevel.checkpoint()
        self.core.new_dirs.set()

    def rows(self, parent: int, after: int, limit: int) -> int | None:
        """Set a slice of a directory's rows, and its listing, to never confirmed; where to go on, None at the end."""
        with self.core.write() as w:
            d = w.dir(parent)
            if d is not None and d.sources and d.listed and limit > 1:
                w.put_dir(parent, d._replace(listed=0))
            return self.core.index.forget_checked(w.txn, parent, after, limit)

    def without(self, parent: int, after: int, limit: int) -> int | None:
        """Take out of a slice of a directory what only mounts show that left; where to go on, None at the end."""
        core = self.core
        left = {n for n, m in enumerate(core.spec.mounts) if m.gone}
        found: list[Row] = []
        at, n = after, 0
        with core.write() as w:
            for ino, raw in core.index.scan_raw(w.txn, parent, after):
                at, n = ino, n + 1
                row = unpack_row(raw)
                if row.mount in left and not row.flags & FIXED:
                    found.append(row)
                if n == limit:
                    break
            for row in found:
                d = w.dir(row.ino) if row.kind == DIR else None
                if d is None or left.issuperset(d.sources):
                    w.remove(parent, row, core.now())
        return at if n == limit else None

    async def again(self, inos: Sequence[int]) -> None:
        """Directories whose mounts changed: what is known at and below each is asked for again, and the mounts are told.

        Of one that has no source any more only mount paths stay. Those that are left after a restart go first.
        """
        core = self.core
        for top in inos:
            with core.index.env.begin() as txn:
                d = core.index.dir(txn, top)
            if d is None:
                continue
            if not d.sources:
                await self._bare(top)
                continue
            await self.below(top, self.without)
            if any(f.mode in ("immutable", "event") for f in sources_freshness(core.spec.mounts, d)):
                await self.relist(top)
        if inos:
            with core.write() as w:
                numbering.remember(core.index, w.txn, [i for i in numbering.pending(core.index, w.txn) if i not in inos])
            core.on_changed(wire.Changed(0, b"", 0, 0))

    async def _bare(self, ino: int) -> None:
        apply = PageApply(ino, self.core.now() + _LATER, frozenset())
        after: int | None = 0
        while after is not None:
            with self.core.write() as w:
                after = apply.sweep(w, after, SLICE, self.core.now())
            await trio.lowlevel.checkpoint()

    async def relist(self, start: int) -> None:
        """List again what was listed, so that changes are told to mounts whose kernel entries do not expire."""
        async for ino in known_dirs(self.core, start):
            d, _ = self.lister.state(ino)
            if d.state != UNLISTED or d.entries:
                try:
                    await self.lister.complete(ino)
                except (StoreError, IndexError_) as e:
                    log.warning("refresh: directory %d not listed: %s", ino, e)
