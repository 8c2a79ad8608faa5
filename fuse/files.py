"""Descriptors of inodes that are open without passthrough, and verified reading from them.

A descriptor that is replaced while reads use it is closed by the last of them: a number must not come to mean another
file under a reader.

Bytes that this process serves are compared with the checksums the index keeps for each 256 KiB block: each block the
first time it is served while its inode is open (10 us of xxh3; what the page cache holds afterwards does not rot).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

import xxhash

from forebay.cache.disk.index import BLOCK

Sums = Callable[[int], int | None]
"""Block of an object -> its xxh3-64, None where the index has none (yet)."""


class Damaged(Exception):
    """A block does not have its checksum. `block` says which."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block} does not have its checksum")
        self.block = block


KEEP_BEHIND, STEP_BEHIND = 32 << 20, 16 << 20
"""Bytes behind a sequential reader that stay in the mount's page cache, and bytes given back in one go."""
STRAY = 8 << 20
"""A read this near to where the reader stands is his: read-ahead arrives out of order."""


class Trail:
    """What one sequential reader of a file that is still arriving leaves behind. Pure.

    Its pages would lie in memory twice: in the mount's page cache, and in the cache file's, which every later open reads
    by passthrough. Memory is what a cold read waits for where the host has to find it first: 2 GiB from another node took
    9.3 s with twice the pages, 3.8 s where they were at hand.
    """

    __slots__ = ("_from", "_upto")

    def __init__(self) -> None:
        self._from = self._upto = 0

    def read(self, offset: int, size: int) -> tuple[int, int] | None:
        """Bytes (offset, length) whose pages may go now. None also for who does not read on: a second reader may come to them."""
        if not self._upto - STRAY <= offset <= self._upto + STRAY:
            self._from, self._upto = offset, offset + size
            return None
        self._upto = max(self._upto, offset + size)
        length = self._upto - KEEP_BEHIND - self._from
        if length < STEP_BEHIND:
            return None
        at, self._from = self._from, self._from + length
        return at, length


class OpenFile:
    """An object's bytes behind one descriptor. `complete`: every byte is there; else ask the door before each read."""

    __slots__ = ("_closing", "_lock", "_trail", "_users", "cached", "complete", "fd", "ino", "size", "verified")

    def __init__(self, ino: int, fd: int, size: int, *, complete: bool, cached: bool = True) -> None:
        self.ino = ino
        self.fd = fd
        self.size = size
        self.complete = complete
        self.cached = cached
        self.verified = 0  # bit per block
        self._lock = threading.Lock()
        self._trail = Trail()
        self._users = 0
        self._closing = False

    def hold(self) -> bool:
        """Keep the descriptor open until `let_go`. False when it is being closed."""
        with self._lock:
            if self._closing:
                return False
            self._users += 1
            return True

    def let_go(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closing and not self._users
        if last:
            os.close(self.fd)

    def left_behind(self, offset: int, size: int) -> tuple[int, int] | None:
        """After a read: bytes (offset, length) that need not stay in the mount's page cache."""
        if self.complete or not self.cached:
            return None
        with self._lock:
            return self._trail.read(offset, size)

    def fill(self, offset: int, size: int, buffer: memoryview, wait: bool) -> memoryview:
        """`size` bytes at `offset`. With `wait` False only what the page cache has: `BlockingIOError` otherwise."""
        return _fill(self.fd, buffer[:size], offset, wait)

    def fill_verified(self, offset: int, size: int, buffer: memoryview, wait: bool, sums: Sums) -> memoryview:
        """As `fill`, after every block it takes bytes from was compared once. `buffer` has room for two blocks more than `size`.

        `Damaged` when one is wrong. A block without a checksum in the index passes: the worker has only just verified it.
        """
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        want = ((1 << (last - first + 1)) - 1) << first
        missing = want & ~self.verified
        if not missing:
            return _fill(self.fd, buffer[:size], offset, wait)
        start = first * BLOCK
        view = _fill(self.fd, buffer[: min((last + 1) * BLOCK, self.size) - start], start, wait)
        for block in range(first, last + 1):
            if missing >> block & 1:
                known = sums(block)
                at = (block - first) * BLOCK
                if known is not None and xxhash.xxh3_64_intdigest(view[at : at + BLOCK]) != known:
                    raise Damaged(block)
        with self._lock:
            self.verified |= want
        return view[offset - start : offset - start + size]

    def close(self) -> None:
        """Close now, or after the last read that uses the descriptor. Once only."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._users:
                return
        os.close(self.fd)


_nowait = os.RWF_NOWAIT


def _fill(fd: int, view: memoryview, offset: int, wait: bool) -> memoryview:
    global _nowait  # noqa: PLW0603
    done = 0
    while done < len(view):
        try:
            n = os.preadv(fd, [view[done:]], offset + done, 0 if wait else _nowait)
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP or not _nowait:
                raise
            _nowait = 0  # a file system without it (tmpfs): its bytes are in memory anyway
            continue
        if n == 0:
            raise OSError(errno.EIO, f"a cache file ends at {offset + done}: the worker verifies it at its next start")
        done += n
        if not wait and done < len(view) and _nowait:
            raise BlockingIOError(errno.EAGAIN, "not in the page cache")
    return view
