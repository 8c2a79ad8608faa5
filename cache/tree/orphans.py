"""Versions and directories that no name points to any more: kept readable for who holds them, then reaped.

A directory that lost its name is emptied at once: what was in it becomes an orphan of its own, as readable for who holds it as it
was, and counts in no number of files or bytes any longer.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable
from itertools import islice

import trio

from forebay.cache.disk.index import DIR, IndexError_, boot_id, pack_row, unpack_row
from forebay.cache.tree.changes import Writer
from forebay.cache.tree.core import Core

log = logging.getLogger("forebay.namespace")

SLICE, SLICES_AT_START, PAUSE, EVERY = 5000, 20, 0.2, 600.0
SOME = 2000
"""Children that one transaction takes out of a directory, in some 20 ms; readers are answered in between."""
AGE, AGE_UNTOLD = 3600.0, 86400.0
"""Seconds a version without a name is kept: an hour where `held` can tell who has it open, else a day."""

_U64 = struct.Struct(">Q")


def reap(w: Writer, limit: int, removed_before: float, held: Callable[[int], bool]) -> int:
    """Delete up to about `limit` rows that lost their name before unix second `removed_before` and that nobody holds.

    A directory is emptied first: its subdirectories become orphans of their own and go in a later call. Returns the number of
    rows deleted; 0: nothing more to do now.
    """
    index, txn = w.index, w.txn
    done = 0
    for key, raw in list(_first(w, limit, removed_before, held)):
        row = unpack_row(raw)
        if row.kind == DIR:
            done += _empty(w, row.ino, limit - done, row.checked, held)
            d = w.dir(row.ino)
            if d is not None and d.entries:
                if done >= limit:
                    break
                continue
            w.forget_dir(row.ino)
        txn.delete(key, db=index.orphans)
        txn.delete(key, db=index.inodes)
        done += 1
        if done >= limit:
            break
    return done


def _first(w: Writer, limit: int, removed_before: float, held: Callable[[int], bool]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for key, raw in w.txn.cursor(db=w.index.orphans):
        row = unpack_row(raw)
        if row.checked < removed_before and not held(row.ino):
            found.append((key, raw))
            if len(found) == limit:
                break
    return found


def _empty(w: Writer, ino: int, limit: int, removed: int, held: Callable[[int], bool]) -> int:
    """Take children out of a directory that has no name; what is held becomes an orphan of its own."""
    rows = []
    for _, raw in w.index.scan_raw(w.txn, ino, 0):
        rows.append(unpack_row(raw))
        if len(rows) >= max(1, limit):
            break
    for row in rows:
        keep = row.kind == DIR or held(row.ino)
        w.take(ino, row, orphan=keep)
        if keep:
            w.txn.put(_U64.pack(row.ino), pack_row(row._replace(checked=removed)), db=w.index.orphans)
    return len(rows)


def empty(w: Writer, ino: int, limit: int) -> int:
    """Take up to `limit` children out of a directory that has no name; each becomes an orphan of its own. How many there were."""
    raw = w.txn.get(_U64.pack(ino), db=w.index.orphans)
    return 0 if raw is None else _empty(w, ino, limit, unpack_row(raw).checked, lambda _: True)


class Reaper:
    """Reaps what nobody can hold any more: all of it after a boot, what is old enough while running.

    `held` may be set: whether an inode is open or cached in some mount.
    """

    def __init__(self, core: Core) -> None:
        self.held: Callable[[int], bool] | None = None
        self._core = core
        self._leftover = 0.0

    def start(self, *, keep: bool | None) -> None:
        """Before anything is looked up. `keep` None: a mount of this boot may have outlived its worker, one of another cannot."""
        core, boot = self._core, str(boot_id()).encode()
        with core.write() as w:
            same = w.txn.get(b"boot", db=core.index.meta) == boot
            w.txn.put(b"boot", boot, db=core.index.meta)
        if same if keep is None else keep:
            return
        self._leftover = core.now() + 1
        for _ in range(SLICES_AT_START):
            if not self.reap(math.inf):
                break

    def reap(self, removed_before: float, held: Callable[[int], bool] = lambda _: False) -> int:
        """One slice; the number of rows deleted."""
        with self._core.write() as w:
            return reap(w, SLICE, removed_before, held)

    async def empty_lost(self) -> None:
        """Empties directories that lose their name, and those of which a killed process left some. Until cancelled."""
        core = self._core
        await self._find_lost()
        while True:
            core.lost_some = trio.Event()
            try:
                while core.lost:
                    with core.write() as w:
                        n = empty(w, core.lost[0], SOME)
                    if n < SOME:
                        core.lost.popleft()
                    await trio.lowlevel.checkpoint()
            except IndexError_ as e:
                log.warning("directories that are gone still count: %s", e)
                await trio.sleep(EVERY)
                continue
            await core.lost_some.wait()

    async def _find_lost(self) -> None:
        index, after = self._core.index, 0
        while True:
            with index.env.begin() as txn, txn.cursor(db=index.orphans) as cursor:
                rows = list(islice(cursor, SLICE)) if cursor.set_range(_U64.pack(after)) else []
                found = [int.from_bytes(key, "big") for key, raw in rows if unpack_row(raw).kind == DIR]
                self._core.lost.extend(ino for ino in found if (d := index.dir(txn, ino)) is not None and d.entries)
            if len(rows) < SLICE:
                return
            after = int.from_bytes(rows[-1][0], "big") + 1
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while self._old():
                    await trio.sleep(PAUSE)
            except IndexError_ as e:
                log.warning("nothing reaped: %s", e)
            await trio.sleep(EVERY)

    def _old(self) -> int:
        if self.reap(self._leftover):
            return 1
        now = self._core.now()
        return self.reap(now - AGE_UNTOLD) if self.held is None else self.reap(now - AGE, self.held)
