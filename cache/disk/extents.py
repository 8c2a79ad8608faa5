"""Rows of the `extents` database: which blocks of one 64 MiB segment are in the cache file, and their xxh3. Pure.

A row is a bitmap of ceil(n/8) bytes followed by n little-endian 64-bit checksums, n = blocks of that segment.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT, SEGMENT

SUM = 8


def checksum(data: bytes | memoryview) -> bytes:
    """xxh3-64 of one block, as the row holds it."""
    return xxhash.xxh3_64_intdigest(data).to_bytes(SUM, "little")


def blocks_of(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


def segments_of(size: int) -> int:
    return (size + SEGMENT - 1) // SEGMENT


def blocks_in_segment(size: int, segment: int) -> int:
    return min(blocks_of(size) - segment * BLOCKS_PER_SEGMENT, BLOCKS_PER_SEGMENT)


class Extent:
    """One row, unpacked for change."""

    __slots__ = ("bits", "n", "sums")

    def __init__(self, n: int, raw: bytes | memoryview | None = None) -> None:
        self.n = n
        head = (n + 7) // 8
        if raw is None or len(raw) != head + n * SUM:  # a row of another shape is no proof of anything
            self.bits = bytearray(head)
            self.sums = bytearray(n * SUM)
        else:
            self.bits = bytearray(raw[:head])
            self.sums = bytearray(raw[head:])

    def put(self, first: int, sums: bytes) -> None:
        """Blocks from `first` (within the segment) on are present with these checksums."""
        count = len(sums) // SUM
        self.sums[first * SUM : first * SUM + len(sums)] = sums
        for i in range(first, first + count):
            self.bits[i >> 3] |= 1 << (i & 7)

    def drop(self, block: int) -> None:
        self.bits[block >> 3] &= ~(1 << (block & 7))

    def has(self, block: int) -> bool:
        return bool(self.bits[block >> 3] >> (block & 7) & 1)

    def sum(self, block: int) -> bytes:
        return bytes(self.sums[block * SUM : block * SUM + SUM])

    def count(self) -> int:
        return int.from_bytes(self.bits, "little").bit_count()

    def pack(self) -> bytes:
        return bytes(self.bits + self.sums)


def split(first: int, sums: bytes) -> Iterable[tuple[int, int, bytes]]:
    """A run of blocks of an object as (segment, first block within it, sums)."""
    at = 0
    while at < len(sums):
        block = first + at // SUM
        segment, within = divmod(block, BLOCKS_PER_SEGMENT)
        take = min((BLOCKS_PER_SEGMENT - within) * SUM, len(sums) - at)
        yield segment, within, sums[at : at + take]
        at += take


def block_range(size: int, block: int) -> tuple[int, int]:
    """Offset and length of a block of an object of `size` bytes."""
    offset = block * BLOCK
    return offset, min(BLOCK, size - offset)
