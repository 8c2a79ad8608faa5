"""Committed rows of objects and their extents, read. `Records` adds what waits for its commit."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from forebay.cache.disk.extents import SUM, Extent, blocks_in_segment, segments_of
from forebay.cache.disk.index import BLOCKS_PER_SEGMENT, NEVER, PINNED, Index, unpack_object
from forebay.cache.disk.ledger import Change
from forebay.cache.disk.policy import Candidate, allocation

_U32 = struct.Struct(">I")


class Rows:
    """Reads in transactions of its own, or in the caller's."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def extents(self, txn: Any, oid: bytes, size: int) -> Iterator[tuple[int, Extent]]:
        """Those of an object by segment."""
        for segment in range(segments_of(size)):
            raw = txn.get(oid + _U32.pack(segment), db=self.index.extents)
            if raw is not None:
                yield segment, Extent(blocks_in_segment(size, segment), raw)

    def sums(self, oid: bytes, size: int) -> dict[int, Extent]:
        """The extents of an object by segment, for verification."""
        with self.index.env.begin() as txn:
            return dict(self.extents(txn, oid, size))

    def fill(self, oid: bytes, size: int, first: int, out: bytearray, known: bytearray) -> None:
        """Put the checksums of blocks from `first` on into `out` (8 B each) where `known` (1 B each) has a 0, and a 1 there."""
        last = first + len(known)
        with self.index.env.begin() as txn:
            for segment in range(first // BLOCKS_PER_SEGMENT, (last - 1) // BLOCKS_PER_SEGMENT + 1):
                raw = txn.get(oid + _U32.pack(segment), db=self.index.extents)
                if raw is None:
                    continue
                extent = Extent(blocks_in_segment(size, segment), raw)
                base = segment * BLOCKS_PER_SEGMENT
                lo, hi = max(first, base), min(last, base + extent.n)
                if lo < hi and extent.count() == extent.n and not any(known[lo - first : hi - first]):  # 6 us for 64 MiB, not 130
                    out[(lo - first) * SUM : (hi - first) * SUM] = extent.sums[(lo - base) * SUM : (hi - base) * SUM]
                    known[lo - first : hi - first] = b"\x01" * (hi - lo)
                    continue
                for block in range(lo, hi):
                    if not known[block - first] and extent.has(block - base):
                        out[(block - first) * SUM : (block - first + 1) * SUM] = extent.sum(block - base)
                        known[block - first] = 1

    def changes(self, oids: Iterable[bytes]) -> list[Change]:
        """Committed rows of objects, for the ledger."""
        out = []
        with self.index.env.begin() as txn:
            for oid in oids:
                raw = txn.get(oid, db=self.index.objects)
                if raw is None:
                    out.append(Change(oid, 0, None, []))
                    continue
                o = unpack_object(raw)
                extents = []
                for segment in range(segments_of(o.size)):
                    key = oid + _U32.pack(segment)
                    value = txn.get(key, db=self.index.extents)
                    if value is not None:
                        extents.append((key, bytes(value)))
                out.append(Change(oid, o.tier, bytes(raw), extents))
        return out

    def oldest(self, txn: Any, tier: int) -> Iterator[Candidate]:
        """Objects of a tier that may go: copies first, and of each kind the least recently used. Pinned ones do not come."""
        for key, value in txn.cursor(db=self.index.recency):
            if value[0] != tier:
                continue
            if key[:4] == NEVER:
                return
            oid = bytes(key[4:])
            o = self.index.object(txn, oid)
            if o is not None:
                yield Candidate(oid, allocation(o.present), bool(o.flags & PINNED))
