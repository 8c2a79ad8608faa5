"""The mode of each inode: nobody, cached opens, or passthrough opens through one backing id. Pure: no descriptor, no clock.

The kernel knows one mode per inode and answers EIO to an open that does not fit it (data-path reference, 4.5), so the
daemon must know the mode before it replies:

    NONE ── cached open ──► CACHED n ── last release ──► NONE
      └──── passthrough ──► PASSTHROUGH n, id ── last release ──► idle (id kept) ── passthrough open ──► PASSTHROUGH 1, id

A backing id outlives its opens in the connection. Idle ids are kept in order of last release up to a limit, so that a
warm open costs no ioctl; an evicted object's id is closed at once when idle, after the last release when not.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, Protocol

from forebay.fuse.record import ID_MASK, LAST_OPEN, ONE, PASS

Mode = Literal["none", "cached", "passthrough"]

IDLE_LIMIT = 65536
"""Idle backing ids kept. Each pins a file, its name and its inode in the kernel, about 1.6 KB (100 MB in all, reclaimed with
the mount); a shuffled epoch over more files than this opens about half of them anew."""


class Words(Protocol):
    def __getitem__(self, at: int, /) -> int: ...
    def __setitem__(self, at: int, word: int, /) -> None: ...


class Table(Protocol):
    """Where the state words live: the keeper record, or two lists in a test."""

    @property
    def words(self) -> Words: ...
    @property
    def head(self) -> Words: ...
    @property
    def slots(self) -> dict[int, int]: ...
    def take(self, ino: int, word: int) -> int: ...
    def drop(self, ino: int) -> None: ...


class Modes:
    """Invariant: count of an inode >= opens of it in the kernel, and while it is above zero its mode and id do not change.

    The caller holds one lock around `enter`, `register` or `cache` and the reply, and around every other call. An OPEN that
    a predecessor counted and did not answer (its `unique` is the last one counted) is not counted again.
    """

    def __init__(self, table: Table, idle_limit: int = IDLE_LIMIT) -> None:
        self.table = table
        self.idle_limit = idle_limit
        # Inodes with a backing id and no open, least recently released first. A plain dict's first key costs a scan of the
        # deleted ones before it: 4.4 us against 1.5 for an open and release at the limit.
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.doomed: set[int] = set()  # live inodes whose id is closed at the last release
        for ino, at in table.slots.items():
            if table.words[at] < ONE:
                self.idle[ino] = None

    def enter(self, ino: int, unique: int) -> int | None:
        """Count an open of an inode that has a mode. Returns its backing id, 0 for cached; None (not counted) without a mode:
        `register` or `cache` then decides it."""
        table = self.table
        at = table.slots.get(ino)
        if at is None:
            return None
        words = table.words
        word = words[at]
        head = table.head
        if unique != head[LAST_OPEN]:
            if word < ONE:
                del self.idle[ino]
            words[at] = word + ONE
            head[LAST_OPEN] = unique
        return word & ID_MASK

    def register(self, ino: int, backing_id: int, unique: int) -> None:
        """Count the first passthrough open of an inode that has no mode, through a new backing id."""
        self.table.take(ino, ONE | PASS | backing_id)
        self.table.head[LAST_OPEN] = unique

    def cache(self, ino: int, unique: int) -> None:
        """Count the first cached open of an inode that has no mode."""
        self.table.take(ino, ONE)
        self.table.head[LAST_OPEN] = unique

    def release(self, ino: int) -> int:
        """Take one open back. Returns a backing id to close now, or 0."""
        table = self.table
        at = table.slots.get(ino)
        if at is None:
            return 0
        words = table.words
        word = words[at]
        if word >= ONE + ONE:
            words[at] = word - ONE
            return 0
        if word < ONE:
            return 0  # a release of what a predecessor had taken back already
        if not word & PASS:
            table.drop(ino)
            return 0
        if ino in self.doomed:
            self.doomed.discard(ino)
            table.drop(ino)
            return word & ID_MASK
        words[at] = word - ONE
        self.idle[ino] = None
        if len(self.idle) <= self.idle_limit:
            return 0
        return self._close(next(iter(self.idle)))

    def evict(self, ino: int) -> int:
        """The cache file of `ino` was unlinked: its space must come back. Returns a backing id to close now, or 0."""
        at = self.table.slots.get(ino)
        if at is None or not self.table.words[at] & PASS:
            return 0
        if ino in self.idle:
            return self._close(ino)
        self.doomed.add(ino)
        return 0

    def _close(self, ino: int) -> int:
        del self.idle[ino]
        word = self.table.words[self.table.slots[ino]]
        self.table.drop(ino)
        return word & ID_MASK

    def mode(self, ino: int) -> tuple[Mode, int, int]:
        """Mode, opens and backing id. ("passthrough", 0, id) is idle."""
        at = self.table.slots.get(ino)
        if at is None:
            return ("none", 0, 0)
        word = self.table.words[at]
        return ("passthrough" if word & PASS else "cached", word >> 32, word & ID_MASK)

    def opens(self, ino: int) -> int:
        at = self.table.slots.get(ino)
        return 0 if at is None else self.table.words[at] >> 32
