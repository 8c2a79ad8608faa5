"""Bytes of files that were opened again and lay here whole: what a cache has given its readers, although no daemon saw the reads.

A mount opens complete files by itself and tells once a second which. The first open of a file in a process counts nothing:
whether its bytes were fetched for it, ahead of it, or long before is not known, and what had to come is counted where it comes.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST = 1 << 27
"""Inode numbers below which files are followed, at a bit each."""
MISSES_MOST = 65536


class Reopened:
    """`bytes` is the sum. Used in the trio thread."""

    def __init__(self) -> None:
        self.bytes = 0
        self._before = bytearray()  # a bit for each inode that was opened since its bytes came
        self._missed: set[int] = set()  # opens that had to wait for bytes, since the mount last told what it used

    def missed(self, ino: int) -> None:
        """An open found the file incomplete."""
        if len(self._missed) >= MISSES_MOST:  # of processes that are no mounts and tell nothing
            self._missed.clear()
        self._missed.add(ino)

    def used(self, ino: int, size: int, *, whole: bool) -> None:
        """A mount opened the file lately; `whole`: all of it is here now."""
        before = self._mark(ino)
        if ino in self._missed:
            self._missed.discard(ino)
        elif before and whole:
            self.bytes += size

    def _mark(self, ino: int) -> bool:
        """Whether it was marked before."""
        at, bit = ino >> 3, 1 << (ino & 7)
        if not 0 <= ino < MOST:
            return False
        if at >= len(self._before):
            self._before.extend(bytes(max(at + 1 - len(self._before), 4096)))
        known = bool(self._before[at] & bit)
        self._before[at] |= bit
        return known

    def evicted(self, inos: Iterable[int]) -> None:
        """Their bytes are gone: what comes again is counted where it comes."""
        for ino in inos:
            if 0 <= ino >> 3 < len(self._before):
                self._before[ino >> 3] &= ~(1 << (ino & 7)) & 0xFF
