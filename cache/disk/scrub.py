"""The scrubber: reads every complete cache file once per interval and compares each block with its checksum.

A bad block is taken out of the index, the mounts are told to drop the file, and the block is fetched again in place, so
that readers who hold the file open come to see the right bytes too.
"""

from __future__ import annotations

import mmap
import os
import time

import lmdb
import trio

from forebay.cache.disk import files
from forebay.cache.disk.extents import Extent, blocks_of
from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT, COMPLETE, IndexError_, Object, unpack_object
from forebay.cache.disk.tiers import TierDir
from forebay.cache.door import Fault
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.lanes import runs_of
from forebay.cache.fetch.messages import Goal, Thing
from forebay.cache.log import log

INTERVAL = 7 * 86400.0
"""Seconds for one pass over everything: what a silent error of a disk may last."""
CHUNK = 16 << 20
"""Bytes read in one hop to a thread."""
RATE_LEAST = 64 << 10
"""Bytes/s: a small cache is done long before its interval is over."""
PAGE = 64
REST = 5.0
"""Seconds between looks at an empty cache."""
REPAIR_DEADLINE = 600.0


class Scrubber:
    """Passes over durable tiers. `passes`, `checked` (bytes), `bad` (blocks) and `last_pass` (unix time) are for status."""

    def __init__(self, engine: Engine, tiers: list[TierDir], interval: float = INTERVAL) -> None:
        self.engine = engine
        self.interval = interval
        self.passes = 0
        self.checked = 0
        self.bad = 0
        self.last_pass = 0.0
        self._tiers = {t.number: t for t in tiers if t.durable}
        self._paths = {t.number: t.path for t in tiers}
        self._flags = files.RWF_DONTCACHE

    async def run(self) -> None:
        """Until cancelled; goes on where the last worker stood."""
        after = self._stand()
        began = time.monotonic()
        while True:
            page, after = self._page(after)
            for oid, o in page:
                if o.state == COMPLETE and o.boot == self.engine.records.boot and o.tier in self._tiers:
                    await self._one(oid, o)
            self._note(after)
            if not after:
                self.passes += 1
                self.last_pass = time.time()
                rest = max(self.interval - (time.monotonic() - began), min(REST, self.interval))
                await trio.sleep(rest)
                began = time.monotonic()
            else:
                await trio.lowlevel.checkpoint()

    def rate(self) -> float:
        """Bytes/s that bring one pass to its end within the interval."""
        held = sum(self.engine.machine.tiers[n].used for n in self._tiers)
        return max(held / self.interval, RATE_LEAST)

    async def _one(self, oid: bytes, o: Object) -> None:
        extents = self.engine.records.sums(oid, o.size)
        bad: list[int] = []
        per = CHUNK // BLOCK
        for first in range(0, blocks_of(o.size), per):
            last = min(first + per, blocks_of(o.size))
            try:
                bad += await trio.to_thread.run_sync(self._check, oid, o, extents, (first, last))
            except FileNotFoundError:
                return  # evicted meanwhile
            except OSError as e:  # the disk cannot read it: as bad as wrong bytes
                log("scrub", "unreadable", tier=self._tiers[o.tier].path, oid=oid.hex(), error=str(e))
                bad += range(first, last)
            n = min(last * BLOCK, o.size) - first * BLOCK
            self.checked += n
            await trio.sleep(n / self.rate())
        now = self.engine.records.object(oid)
        if bad and now is not None and now.state == COMPLETE and oid not in self.engine.machine:
            await self._repair(oid, o, bad)

    async def suspect(self, ino: int, offset: int, length: int) -> None:
        """A mount found bytes of a complete object that do not match: what is wrong counts as absent from now on.

        Raises `IndexError_` when the index cannot take that: then nobody may believe the bytes.
        """
        thing = self.engine.thing(ino)
        if thing is None or offset < 0 or length <= 0:
            return
        span = offset // BLOCK, min((offset + length + BLOCK - 1) // BLOCK, blocks_of(thing.size))
        await self.recheck(thing, span)

    async def recheck(self, thing: Thing, span: tuple[int, int]) -> None:
        """Compare blocks [first, last) of a complete object with their checksums; what is wrong counts as absent."""
        engine = self.engine
        engine.records.commit()
        o = engine.records.object(thing.oid)
        if o is None or o.state != COMPLETE or o.tier not in self._paths or span[0] >= span[1]:
            return
        extents = engine.records.sums(thing.oid, o.size)
        try:
            bad = await trio.to_thread.run_sync(self._check, thing.oid, o, extents, span)
        except FileNotFoundError:
            return  # evicted meanwhile
        except OSError as e:
            log("scrub", "unreadable", tier=self._paths[o.tier], oid=thing.oid.hex(), error=str(e))
            bad = list(range(*span))
        now = engine.records.object(thing.oid)
        if bad and now is not None and now.state == COMPLETE and thing.oid not in engine.machine:
            self.bad += len(bad)
            log("scrub", "corrupt", tier=self._paths[o.tier], oid=thing.oid.hex(), ino=o.ino, blocks=runs_of(bad))
            engine.records.damaged(thing.oid, bad)
            engine.on_evicted([thing.ino or o.ino])

    def _check(self, oid: bytes, o: Object, extents: dict[int, Extent], span: tuple[int, int]) -> list[int]:
        bad = []
        fd = files.open_read(self._paths[o.tier], oid)
        try:
            with mmap.mmap(-1, BLOCK) as m, memoryview(m) as view:
                for block in range(*span):
                    extent = extents.get(block // BLOCKS_PER_SEGMENT)
                    within = block % BLOCKS_PER_SEGMENT
                    if extent is None or not extent.has(within) or not self._matches(fd, o.size, block, extent.sum(within), view):
                        bad.append(block)
        finally:
            os.close(fd)
        return bad

    def _matches(self, fd: int, size: int, block: int, known: bytes, view: memoryview) -> bool:
        try:
            return files.check(fd, size, block, known, view, flags=self._flags)
        except OSError:
            if not self._flags:
                raise
            self._flags = 0  # this kernel or file system does not know the flag
            return files.check(fd, size, block, known, view)

    async def _repair(self, oid: bytes, o: Object, bad: list[int]) -> None:
        self.bad += len(bad)
        log("scrub", "corrupt", tier=self._tiers[o.tier].path, oid=oid.hex(), ino=o.ino, blocks=runs_of(bad))
        try:
            self.engine.records.damaged(oid, bad)
        except IndexError_:
            return  # said in the log; the next pass finds it again
        self.engine.on_evicted([o.ino])
        try:
            thing = self.engine.thing(o.ino)
            if thing is None or thing.oid != oid:
                raise Fault(0, "no name shows it any more")
            await self.engine.want(thing, 0, thing.size, Goal.WARM, REPAIR_DEADLINE)
        except Fault as e:
            log("scrub", "dropped", oid=oid.hex(), ino=o.ino, error=str(e))
            self.engine.drop(oid)

    # --- where the pass stands

    def _page(self, after: bytes) -> tuple[list[tuple[bytes, Object]], bytes]:
        index = self.engine.index
        out: list[tuple[bytes, Object]] = []
        with index.env.begin() as txn, txn.cursor(db=index.objects) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            while found and len(out) < PAGE:
                out.append((bytes(cursor.key()), unpack_object(cursor.value())))
                found = cursor.next()
            return out, bytes(cursor.key()) if found else b""

    def _stand(self) -> bytes:
        index = self.engine.index
        with index.env.begin() as txn:
            return bytes(txn.get(b"scrub", db=index.meta) or b"")

    def _note(self, after: bytes) -> None:
        index = self.engine.index
        try:
            with index.env.begin(write=True) as txn:
                txn.put(b"scrub", after, db=index.meta)
        except lmdb.Error as e:
            log("scrub", "not_noted", error=str(e))  # a full disk: the next worker starts this pass anew
