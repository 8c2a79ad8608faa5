"""What of which object is in the cache: batched rows of `objects` and `extents`, ahead of the index by at most 50 ms.

Used in the trio thread only, like every writer of the index. Readers of this process ask here; the mount reads the index.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from forebay.cache.disk.ballast import Ballast
from forebay.cache.disk.copies import Copies
from forebay.cache.disk.extents import SUM, Extent, blocks_in_segment, blocks_of, split
from forebay.cache.disk.index import (
    BLOCK,
    BLOCKS_PER_SEGMENT,
    COMPLETE,
    COPY,
    PARTIAL,
    PINNED,
    Index,
    IndexError_,
    Object,
    pack_object,
    turn,
    unpack_object,
)
from forebay.cache.disk.policy import allocation
from forebay.cache.disk.rows import Rows
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.machine import SMALL
from forebay.cache.fetch.motion import HERE
from forebay.cache.log import log

COMMIT_BYTES = 8 << 20
"""Blocks of small objects recorded before a commit is due at once; they count as whole blocks."""
COMMIT_LARGE = 1 << 20
"""The same of large objects. A killed process loses at most these and fetches them again. A commit takes 25 us, so that 1 GB/s
cost 2.5 % of a core, where one each 8 MiB would cost 0.5 %; small objects would be committed every four."""
COMMIT_AFTER = 0.05
"""Seconds a record may wait for its commit."""
RECENT = 4096
PENDING_MOST = 20_000
"""Objects remembered while the index cannot be written."""
TOUCH_EVERY = 60
"""Seconds between rewrites of an object's recency."""
REFLAG_BUDGET = 0.002
"""Seconds of the trio thread in which one step of `reflag` looks at rows; writing them may take as long again."""
REFLAG_MOST = 256
_U32 = struct.Struct(">I")
FIRST, ONE = _U32.pack(0), b"\x01"
"""Key of an object's first segment, and the bitmap of one block that is present."""


class _Pending:
    __slots__ = ("blocks", "complete", "ino", "runs", "thing", "tier")

    def __init__(self, thing: m.Thing, tier: int) -> None:
        self.thing = thing
        self.ino = thing.ino
        self.tier = tier
        self.runs: list[tuple[int, bytes]] = []
        self.blocks = 0
        self.complete = False


class Records(Rows):
    """`boot`: low 32 bits of this boot, written into rows verified in it. Rows of tiers from `tiers` on (a spec that lost
    one) count as absent; the reconciler takes them out. `is_copy`: whether an object (oid, size) is a copy, None where
    everything belongs here; asked when a row is written first."""

    def __init__(self, index: Index, boot: int, tiers: int, is_copy: Callable[[bytes, int], bool] | None = None) -> None:
        super().__init__(index)
        self.boot = boot
        self.tiers = tiers
        self.dirty: set[bytes] = set()  # oids changed since the ledger last looked
        self.count: Counter[int] = Counter()  # objects of each tier
        self.is_copy = is_copy
        self.held_copies = Copies()
        self._pending: dict[bytes, _Pending] = {}
        self._touched: dict[bytes, int] = {}
        self._bytes = self._large = 0
        self.trouble = ""  # why the index cannot be written at the moment
        self.ballast = Ballast(os.path.dirname(index.path))
        self.laid = True
        self._recent: dict[bytes, Object] = {}  # completed lately
        self._absent: set[bytes] = set()  # asked for lately, and not in the index
        self._adopted: dict[bytes, int] = {}  # inodes for rows without one, to be written
        self._named: dict[bytes, int] = {}  # inodes of objects that have no row yet

    # --- what happened

    def arrived(self, thing: m.Thing, tier: int, first: int, sums: bytes) -> None:
        """Blocks from `first` on are in the cache file."""
        p = self._of(thing, tier)
        p.runs.append((first, sums))
        p.blocks += len(sums) // 8
        if thing.size > SMALL:
            self._large += len(sums) // 8 * BLOCK
        else:
            self._bytes += len(sums) // 8 * BLOCK

    def complete(self, thing: m.Thing, tier: int) -> None:
        """Every block is in the cache file."""
        self._of(thing, tier).complete = True

    def touch(self, oids: Iterable[bytes]) -> None:
        """Objects were read just now."""
        now = int(time.time())
        for oid in oids:
            self._touched[oid] = now

    def _of(self, thing: m.Thing, tier: int) -> _Pending:
        p = self._pending.get(thing.oid)
        if p is None or p.tier != tier:
            p = self._pending[thing.oid] = _Pending(thing, tier)
            if not p.ino and self._named:
                p.ino = self._named.pop(thing.oid, 0)
        elif not p.ino:
            p.ino = thing.ino
        return p

    def due(self) -> bool:
        """Whether a commit should not wait for its time."""
        return self._bytes >= COMMIT_BYTES or self._large >= COMMIT_LARGE

    def waiting(self) -> bool:
        return bool(self._pending or self._touched or self._adopted)

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """One write transaction. `IndexError_` when the index cannot take it; then the ballast has made room for the next."""
        try:
            with self.index.env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as e:
            thrown = self.ballast.drop()
            log("cache", "index_failed", error=str(e), ballast=thrown)
            self.trouble = f"the index {self.index.path} cannot be written ({e}): free space on its disk"
            raise IndexError_(self.trouble) from e
        if self.trouble:
            self.trouble = ""
            log("cache", "index_recovered")
        elif not self.laid:
            self.laid = self.ballast.lay()

    def commit(self) -> bool:
        """Write everything that waits, in one transaction. False when the index could not take it: it waits on.

        What waits is as good as what is written for readers of this process; a killed one fetches it again.
        """
        if not self.waiting():
            return True
        now = int(time.time())
        new: list[_Pending] = []
        changed: list[tuple[Object | None, Object]] = []
        try:
            with self._writing() as txn:
                for oid, p in self._pending.items():
                    if oid in self._absent:
                        new.append(p)
                    else:
                        changed.append(self._update(txn, oid, p, now))
                copies, held = self._insert(txn, new, now)
                for oid, ino in self._adopted.items():
                    o = self.index.object(txn, oid)
                    if o is not None and not o.ino:
                        self.index.put_object(txn, oid, o._replace(ino=ino))
                for oid, used in self._touched.items():
                    if oid not in self._pending:
                        o = self.index.object(txn, oid)
                        if o is not None and used - o.used >= TOUCH_EVERY:
                            self.index.put_object(txn, oid, o._replace(used=used))
        except IndexError_:
            if len(self._pending) > PENDING_MOST:
                self._pending.clear()  # their files become orphans, found at the next start
            for hints in (self._touched, self._adopted):
                if len(hints) > PENDING_MOST:
                    hints.clear()
            return False
        self.count.update(p.tier for p in new)
        for row in copies:
            self.held_copies.changed(None, row)
        self.held_copies.held.update(held)
        for old, row in changed:
            self.held_copies.changed(old, row)
            self.count[row.tier] += 1
            if old is not None:
                self.count[old.tier] -= 1
        self._adopted.clear()
        self.dirty.update(self._pending)
        self._absent.difference_update(self._pending)
        self._pending.clear()
        self._touched.clear()
        self._bytes = self._large = 0
        return True

    def _insert(self, txn: Any, new: list[_Pending], now: int) -> tuple[list[Object], dict[int, int]]:
        """Rows of objects the index has nothing of, in bulk: every single get and put hands the interpreter's lock around.

        Returns those of copies, and the bytes of the others by tier.
        """
        extents, objects, recency, copies = [], [], [], []
        held: dict[int, int] = {}
        used = _U32.pack(now)
        for p in new:
            oid = p.thing.oid
            if len(p.runs) == 1 and p.thing.size <= BLOCK:  # most small files: one block, here
                extents.append((oid + FIRST, ONE + p.runs[0][1]))
            else:
                for segment, extent in self._segments(txn, p, fresh=True):
                    extents.append((oid + _U32.pack(segment), extent.pack()))
            o = self._row(p, None, now)
            objects.append((oid, pack_object(o)))
            if o.flags:
                copies.append(o)
                recency.append((turn(now, o.flags) + oid, bytes((p.tier,))))
            else:
                recency.append((used + oid, bytes((p.tier,))))
                held[p.tier] = held.get(p.tier, 0) + o.present
        for db, items in ((self.index.extents, extents), (self.index.objects, objects), (self.index.recency, recency)):
            if items:
                with txn.cursor(db=db) as cursor:
                    cursor.putmulti(items)
        return copies, held

    def _update(self, txn: Any, oid: bytes, p: _Pending, now: int) -> tuple[Object | None, Object]:
        """The row before and after."""
        before = old = self.index.object(txn, oid)
        if old is not None and (old.tier != p.tier or old.size != p.thing.size):
            self.index.drop_object(txn, oid)
            old = None
        for segment, extent in self._segments(txn, p, fresh=old is None):
            txn.put(oid + _U32.pack(segment), extent.pack(), db=self.index.extents)
        row = self._row(p, old, now)
        if before is not None and old is None:  # in another tier now: what was said of it still holds
            row = row._replace(flags=row.flags | (before.flags & PINNED), ino=row.ino or before.ino)
            if oid in self._recent:
                self._recent[oid] = row
        self.index.put_object(txn, oid, row)
        return before, row

    def _segments(self, txn: Any, p: _Pending, *, fresh: bool) -> Iterator[tuple[int, Extent]]:
        by_segment: dict[int, list[tuple[int, bytes]]] = {}
        for first, sums in p.runs:
            for segment, within, part in split(first, sums):
                by_segment.setdefault(segment, []).append((within, part))
        for segment, parts in by_segment.items():
            raw = None if fresh else txn.get(p.thing.oid + _U32.pack(segment), db=self.index.extents)
            extent = Extent(blocks_in_segment(p.thing.size, segment), raw)
            for within, part in parts:
                extent.put(within, part)
            yield segment, extent

    def _row(self, p: _Pending, old: Object | None, now: int) -> Object:
        size = p.thing.size
        had, flags, ino = 0, 0, p.ino
        if old is not None:
            had, flags, ino = old.present, old.flags, ino or old.ino
        elif self.is_copy is not None and self.is_copy(p.thing.oid, size):
            flags = COPY
        if not p.complete:
            return Object(PARTIAL, p.tier, flags, now, size, min(had + p.blocks * BLOCK, size), self.boot, ino)
        o = Object(COMPLETE, p.tier, flags, now, size, size, self.boot, ino)
        if len(self._recent) >= RECENT:
            self._recent.clear()
        self._recent[p.thing.oid] = o
        return o

    # --- what is known

    def object(self, oid: bytes) -> Object | None:
        """The row as it will be after the next commit. PARTIAL rows may lag in `present`; what waits has no flags and no time."""
        p = self._pending.get(oid)
        if p is not None and p.complete:
            return Object(COMPLETE, p.tier, 0, 0, p.thing.size, p.thing.size, self.boot, p.ino)
        o = self._recent.get(oid)
        if o is not None:
            return o
        if oid in self._absent and p is None:
            return None
        with self.index.env.begin() as txn:
            o = self.index.object(txn, oid)
        if o is None:
            self.absent(oid)
        return o if o is None or o.tier < self.tiers else None

    def complete_now(self, txn: Any, oid: bytes) -> bool:
        """Whether an object is complete and verified in this boot, for one of many asked about in one transaction."""
        if oid in self._recent:
            return True
        p = self._pending.get(oid)
        if p is not None:
            return p.complete
        o = self.index.object(txn, oid)
        if o is None:
            self.absent(oid)
            return False
        return o.state == COMPLETE and o.boot == self.boot and o.tier < self.tiers

    def adopt(self, oid: bytes, ino: int) -> None:
        """A name here shows an object that only other nodes asked for until now: its row gets the inode, if it has none."""
        p = self._pending.get(oid)
        if p is not None:
            p.ino = p.ino or ino
            return
        o = self.object(oid)
        if o is None:
            if len(self._named) >= RECENT:
                self._named.clear()
            self._named[oid] = ino
        elif not o.ino:
            self._adopted[oid] = ino
            if oid in self._recent:
                self._recent[oid] = o._replace(ino=ino)

    @property
    def copies(self) -> dict[str, int]:
        """`objects` and `bytes` (allocated) of what belongs to other nodes, in all tiers."""
        return self.held_copies.total()

    def absent(self, oid: bytes) -> None:
        """The index was just seen to have nothing of an object, and only a commit here can change that."""
        if len(self._absent) >= RECENT:
            self._absent.clear()
        self._absent.add(oid)

    def known(self, thing: m.Thing) -> tuple[m.Known, dict[int, Extent]] | None:
        """What the index says of an incomplete object, and the extents of another boot that have to be checked first.

        Blocks written in this boot are there. Of an object of another boot nothing is known until its bytes were compared
        with their checksums: its rows are emptied, and filled again as that is done.
        """
        if thing.oid in self._pending:
            self.commit()
        if thing.oid in self._absent:
            return None
        with self.index.env.begin() as txn:
            o = self.index.object(txn, thing.oid)
            if o is None or o.size != thing.size or o.tier >= self.tiers:
                return None
            extents = dict(self.extents(txn, thing.oid, thing.size))
        there = sum(e.count() for e in extents.values())
        held = min(allocation(there * BLOCK), allocation(thing.size))
        blocks = bytearray(blocks_of(thing.size))
        if o.boot != self.boot:
            self._empty(thing.oid, o)
            return m.Known(o.tier, bytes(blocks), 0, held), extents
        for segment, extent in extents.items():
            base = segment * BLOCKS_PER_SEGMENT
            for i in range(extent.n):
                if extent.has(i):
                    blocks[base + i] = HERE
        return m.Known(o.tier, bytes(blocks), held), {}

    def _empty(self, oid: bytes, o: Object) -> None:
        """Leave of an object only that it has a file in its tier."""
        with self._writing() as txn:
            self.index.drop_object(txn, oid)
            empty = o._replace(state=PARTIAL, present=0, boot=self.boot)
            self.index.put_object(txn, oid, empty)
        self.held_copies.changed(o, empty)
        self._recent.pop(oid, None)

    def block_sums(self, oid: bytes, size: int, first: int, count: int) -> bytes | None:
        """Checksums of blocks [first, first + count), committed or not; None when one of them is unknown."""
        out = bytearray(count * SUM)
        known = bytearray(count)
        last = first + count
        p = self._pending.get(oid)
        for at, sums in () if p is None else p.runs:
            lo, hi = max(at, first), min(at + len(sums) // SUM, last)
            if lo < hi:
                out[(lo - first) * SUM : (hi - first) * SUM] = sums[(lo - at) * SUM : (hi - at) * SUM]
                known[lo - first : hi - first] = b"\x01" * (hi - lo)
        if all(known):
            return bytes(out)
        self.fill(oid, size, first, out, known)
        return bytes(out) if all(known) else None

    # --- changes at once

    def drop(self, oids: Iterable[bytes]) -> list[tuple[bytes, Object]]:
        """Take objects out of the index and commit; returns their rows. Files are unlinked after this, never before.

        Raises `IndexError_`, with nothing dropped, when the index cannot be written.
        """
        out = []
        oids = list(oids)
        self.commit()
        with self._writing() as txn:
            for oid in oids:
                o = self.index.object(txn, oid)
                if o is not None:
                    self.index.drop_object(txn, oid)
                    out.append((oid, o))
        for oid in oids:
            self._recent.pop(oid, None)
            self._pending.pop(oid, None)
        for oid, o in out:
            self.count[o.tier] -= 1
            self.held_copies.changed(o, None)
            self.dirty.add(oid)
        return out

    def pin(self, oids: Iterable[bytes]) -> set[bytes]:
        """Never evict these; returns those that have bytes here, the others are not pinned. Raises `IndexError_`.

        A pin holds for as long as the object's row: one whose bytes or name went has to be pinned again.
        """
        return self._marked(dict.fromkeys(oids, (PINNED, 0)))

    def unpin(self, oids: Iterable[bytes]) -> set[bytes]:
        """Let these be evicted again, by their last use; returns those that have bytes here. Raises `IndexError_`."""
        return self._marked(dict.fromkeys(oids, (0, PINNED)))

    def _marked(self, wanted: dict[bytes, tuple[int, int]]) -> set[bytes]:
        if not self.commit():
            raise IndexError_(self.trouble)
        found = self._mark(wanted)
        self.dirty.update(found)  # a pin outlives a boot
        return found

    def _mark(self, wanted: dict[bytes, tuple[int, int]]) -> set[bytes]:
        """Set and clear flags of committed rows, in one transaction; those that exist."""
        found = set()
        changed: list[tuple[bytes, Object, Object]] = []
        with self._writing() as txn:
            for oid, (on, off) in wanted.items():
                o = self.index.object(txn, oid)
                if o is None:
                    continue
                found.add(oid)
                new = o._replace(flags=(o.flags | on) & ~off)
                if new.flags != o.flags:
                    self.index.put_object(txn, oid, new)
                    changed.append((oid, o, new))
        for oid, o, new in changed:
            self.held_copies.changed(o, new)
            if oid in self._recent:
                self._recent[oid] = self._recent[oid]._replace(flags=new.flags)
        return found

    def reflag(self, after: bytes, budget: float = REFLAG_BUDGET) -> bytes:
        """Ask `is_copy` of objects from `after` on (b"" for the first) for `budget` seconds, and write what changed.

        Returns where to go on, b"" after the last. Raises `IndexError_`.
        """
        is_copy = self.is_copy or (lambda oid, size: False)
        until = time.perf_counter() + budget
        wrong: dict[bytes, tuple[int, int]] = {}
        with self.index.env.begin() as txn, txn.cursor(db=self.index.objects) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            while found and len(wrong) < REFLAG_MOST:
                oid, o = cursor.key(), unpack_object(cursor.value())
                copy = is_copy(oid, o.size)
                if copy != bool(o.flags & COPY):
                    wrong[oid] = (COPY, 0) if copy else (0, COPY)
                found = cursor.next()
                if time.perf_counter() >= until:
                    break
            after = cursor.key() if found else b""
        if wrong:
            self._mark(wrong)
        return after

    def damaged(self, oid: bytes, blocks: Iterable[int]) -> None:
        """Blocks were found bad: they count as absent from now on, and the object as incomplete."""
        self._recent.pop(oid, None)
        with self._writing() as txn:
            o = self.index.object(txn, oid)
            if o is None:
                return
            lost = 0
            for block in blocks:
                segment, within = divmod(block, BLOCKS_PER_SEGMENT)
                key = oid + _U32.pack(segment)
                raw = txn.get(key, db=self.index.extents)
                if raw is not None:
                    extent = Extent(blocks_in_segment(o.size, segment), raw)
                    extent.drop(within)
                    txn.put(key, extent.pack(), db=self.index.extents)
                lost += min(BLOCK, o.size - block * BLOCK)
            state = o._replace(state=PARTIAL, present=max(o.present - lost, 0), boot=self.boot)
            self.index.put_object(txn, oid, state)
        self.held_copies.changed(o, state)
        self.dirty.add(oid)
