"""Starting and ending safely: which index to trust, the ledger's rounds, and the index against what lies in the directories."""

from __future__ import annotations

import os
import shutil
import struct
import time

import lmdb
import trio

from forebay.cache.disk import files
from forebay.cache.disk.copies import Copies
from forebay.cache.disk.index import COPY, Index, IndexError_, Object, object_fields, object_path, unpack_object
from forebay.cache.disk.ledger import Change, Ledger, sync_files
from forebay.cache.disk.policy import allocation
from forebay.cache.disk.records import Records
from forebay.cache.disk.tiers import DENSE, CacheDirError, Found, TierDir
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.engine import Engine
from forebay.cache.log import log

LEDGER_EVERY = 5.0
"""Seconds between rounds of the ledger: what a lost boot may cost."""
ROUND_MOST = 5000
"""Objects written at a time."""
TAKE_SLICE = 250
"""Objects whose rows are read between two looks at the door: 250 take a millisecond or two."""
RECONCILE_SLICE = 256
CLOCK_TICK = 0.1
"""Seconds by which a file's time may lag behind the clock."""
SLACK = 64 << 10
"""Bytes a file may lack against its row without suspicion: tails, and what a file system packs."""
_U32 = struct.Struct(">I")


def open_index(index_dir: str, boot: int) -> tuple[Index, Ledger]:
    """The live index if it can be trusted, else a new one refilled from the ledger. Raises `CacheDirError`.

    It can be trusted when it was last written in this boot (a killed process loses nothing: its pages are the kernel's),
    or when the worker before ended cleanly, which synced it.
    """
    live = os.path.join(index_dir, "live")
    try:
        ledger = Ledger(os.path.join(index_dir, "ledger"))
    except lmdb.Error as e:
        raise CacheDirError(f"the ledger in {index_dir} cannot be opened ({e}): remove it, or give another --cache-dir") from e
    index = _trusted(live, boot)
    if index is None:
        began = time.monotonic()
        shutil.rmtree(live, ignore_errors=True)
        try:
            index = Index(live)
            restored = _refill(index, ledger)
            _stamp(index, boot)
        except lmdb.Error as e:
            raise CacheDirError(f"the index {live} cannot be made ({e}): free space there, or give another --cache-dir") from e
        log("worker", "index_rebuilt", objects=restored, took=round(time.monotonic() - began, 3))
    index.env.reader_check()
    return index, ledger


def _trusted(live: str, boot: int) -> Index | None:
    if not os.path.isdir(live):
        return None
    index = None
    try:
        index = Index(live)
        with index.env.begin(write=True) as txn:
            index.check_schema(txn)
            raw = txn.get(b"written.boot", db=index.meta)
            same = raw is not None and _U32.unpack(raw)[0] == boot
            clean = txn.get(b"written.clean", db=index.meta) == b"1"
    except lmdb.Error as e:
        log("worker", "index_unreadable", path=live, error=str(e))
        if index is not None:
            index.close()
        return None
    if not (same or clean):
        index.close()
        return None
    _stamp(index, boot)
    return index


def _stamp(index: Index, boot: int) -> None:
    """This boot writes the index from now on, and it is not clean. On disk before any other change is."""
    with index.env.begin(write=True) as txn:
        index.check_schema(txn)
        dirty = txn.delete(b"written.clean", db=index.meta)
        txn.put(b"written.boot", _U32.pack(boot), db=index.meta)
    if dirty:
        index.env.sync(True)


def _refill(index: Index, ledger: Ledger) -> int:
    """Objects of the ledger, as of no boot: their bytes are checked when they are first asked for."""
    n = 0
    for batch in ledger.batches():
        with index.env.begin(write=True) as txn:
            for c in batch:
                assert c.row is not None
                o = unpack_object(c.row)
                index.put_object(txn, c.oid, o._replace(boot=0))
                for key, value in c.extents:
                    txn.put(key, value, db=index.extents)
                n += 1
    return n


def mark_clean(index: Index) -> None:
    """The end of a worker: everything synced, and only then said so."""
    index.env.sync(True)
    with index.env.begin(write=True) as txn:
        txn.put(b"written.clean", b"1", db=index.meta)
    index.env.sync(True)


def by_tier(index: Index, tiers: int, copies: Copies | None = None) -> tuple[list[int], list[int]]:
    """Bytes each tier's rows claim (corrected by `Reconciler` when the files were counted), and how many rows there are.

    In `copies` rows of copies are counted as well, and what objects hold.
    """
    used, count, held = [0] * tiers, [0] * tiers, [0] * tiers
    with index.env.begin() as txn, txn.cursor(db=index.objects) as cursor:
        for raw in cursor.iternext(keys=False):  # of a million rows readers wait for the end of this: 0.4 s instead of 1.3
            _, tier, flags, _, _, present, _, _ = object_fields(raw)
            if tier >= tiers:
                continue
            allocated = allocation(present)
            used[tier] += allocated
            count[tier] += 1
            held[tier] += present
            if flags & COPY and copies is not None:
                copies.objects[tier] += 1
                copies.bytes[tier] += allocated
                copies.content[tier] += present
    if copies is not None:
        copies.held.update(dict(enumerate(held)))
    return used, count


class Durability:
    """The rounds of the ledger. `last` is the unix time up to which everything was made durable."""

    def __init__(self, records: Records, ledger: Ledger, tiers: list[TierDir]) -> None:
        self.records = records
        self.ledger = ledger
        self.tiers = {t.number: t.path for t in tiers if t.durable}
        self.last = 0.0
        self.error = ""

    async def run(self) -> None:
        """A round each `LEDGER_EVERY` seconds until cancelled. A disk that fails is said in `error`, and tried again."""
        while True:
            await trio.sleep(LEDGER_EVERY)
            try:
                await self.round()
                self.error = ""
            except (OSError, lmdb.Error) as e:
                self.error = f"the ledger cannot be written ({e}): after a power failure bytes of now are fetched again"
                log("worker", "ledger_failed", error=str(e))

    async def take(self) -> list[Change]:
        """Rows changed since the last round, at most some thousand."""
        self.records.commit()
        dirty = self.records.dirty
        out: list[Change] = []
        while dirty and len(out) < ROUND_MOST:
            out += self.records.changes([dirty.pop() for _ in range(min(TAKE_SLICE, len(dirty)))])
            await trio.lowlevel.checkpoint()
        return out

    async def round(self) -> None:
        """Rows, then data, then the ledger."""
        began = time.time()
        while self.records.dirty or self.records.waiting():
            changes = await self.take()
            if not changes:
                return
            try:
                await trio.to_thread.run_sync(self._write, changes)
            except BaseException:
                self.records.dirty.update(c.oid for c in changes)
                raise
            if len(changes) < ROUND_MOST:
                break
        self.last = began

    def _write(self, changes: list[Change]) -> None:
        ready = sync_files(changes, self.tiers)
        if ready:
            self.ledger.write(ready)


class Reconciler:
    """Compares each tier's directory with the index after a start: orphans go, rows without their file go, use is counted.

    Runs beside the readers. Every decision is taken in the trio thread on what index and machine say at that moment; files
    that changed since the start are this worker's own, whose scan may be older than what they are by now.
    """

    def __init__(self, engine: Engine, tiers: list[TierDir]) -> None:
        self.engine = engine
        self.tiers = tiers
        self.orphans = self.dropped = 0
        self.done = False
        self._since = time.time() - CLOCK_TICK

    async def run(self) -> None:
        began = time.monotonic()
        for tier in self.tiers:
            scan = tier.scan()
            while True:
                found = await trio.to_thread.run_sync(next, scan, None)
                if found is None:
                    break
                for at in range(0, len(found), RECONCILE_SLICE):
                    self._files(tier, found[at : at + RECONCILE_SLICE])
                    await trio.lowlevel.checkpoint()
        await self._rows()
        self.done = True
        log(
            "worker", "reconciled", orphans=self.orphans, dropped=self.dropped, took=round(time.monotonic() - began, 3)
        )  # fmt: skip

    def _files(self, tier: TierDir, found: list[Found]) -> None:
        """One slice of a folder."""
        records, machine = self.engine.records, self.engine.machine
        delta = 0
        doubtful: list[bytes] = []
        for f in found:
            if f.oid in machine or f.changed >= self._since:
                continue
            o = records.object(f.oid)
            if o is None or o.tier != tier.number:
                self.orphans += 1
                files.unlink(tier.path, f.oid)
            elif f.size != o.size or (tier.filesystem in DENSE and f.allocated + SLACK < o.present):
                if self._unchanged(tier, f):
                    doubtful.append(f.oid)
            else:
                delta += f.allocated - allocation(o.present)
        if delta:
            self.engine.tell(m.Counted(tier.number, delta))
        if doubtful:
            self._drop(doubtful)

    def _unchanged(self, tier: TierDir, f: Found) -> bool:
        """Whether a file is still what the scan saw: an orphan may have been adopted and filled since."""
        try:
            st = os.stat(object_path(tier.path, f.oid))
        except FileNotFoundError:
            return False  # `_rows` finds it
        return (st.st_size, st.st_ctime) == (f.size, f.changed)

    def _drop(self, oids: list[bytes]) -> None:
        try:
            rows = self.engine.records.drop(oids)
        except IndexError_:
            return  # said in the log; whoever opens one finds it missing
        self.dropped += len(rows)
        if rows:
            self.engine.on_evicted([o.ino for _, o in rows])
        for oid, o in rows:
            if o.tier < len(self.tiers):
                files.unlink(self.tiers[o.tier].path, oid)
                self.engine.tell(m.Counted(o.tier, -allocation(o.present)))

    async def _rows(self) -> None:
        """Rows whose file is missing, or whose tier is no longer configured."""
        after = b""
        while True:
            page, after = self._page(after)
            missing = await trio.to_thread.run_sync(self._missing, page)
            gone = [oid for oid in missing if oid not in self.engine.machine and self._missing([(oid, self._row(oid))])]
            if gone:
                self._drop(gone)
            if not after:
                return

    def _row(self, oid: bytes) -> Object | None:
        return self.engine.records.object(oid)

    def _page(self, after: bytes, limit: int = 2000) -> tuple[list[tuple[bytes, Object | None]], bytes]:
        index = self.engine.index
        out: list[tuple[bytes, Object | None]] = []
        with index.env.begin() as txn, txn.cursor(db=index.objects) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            while found and len(out) < limit:
                out.append((bytes(cursor.key()), unpack_object(cursor.value())))
                found = cursor.next()
            return out, bytes(cursor.key()) if found else b""

    def _missing(self, page: list[tuple[bytes, Object | None]]) -> list[bytes]:
        out = []
        for oid, o in page:
            if o is None:
                continue
            if o.tier >= len(self.tiers):
                out.append(oid)
                continue
            try:
                files.identity(self.tiers[o.tier].path, oid)
            except FileNotFoundError:
                out.append(oid)
        return out
