"""The mode of each inode: nobody, cached opens, or passthrough opens through one backing id. Pure: no descriptor, no clock.

The kernel knows one mode per inode and answers EIO to an open that does not fit it (data-path reference, 4.5), so the
daemon must know the mode before it replies:

    NONE ── cached open ──► CACHED n ── last release ──► NONE
      └──── passthrough ──► PASSTHROUGH n, id ── last release ──► idle (id kept) ── passthrough open ──► PASSTHROUGH 1, id

A backing id outlives its opens in the connection. Idle ids are kept in order of last release up to a limit, so that a
warm open costs no ioctl; an evicted object's id is closed at once when idle, after the last release when not.
"""

from __future__ import annotations

from typing import Protocol

from forebay.fuse.record import CACHED, COUNT_MASK, ID_MASK, ONE, PASSTHROUGH

_PASS = PASSTHROUGH << 62
_CACHED_ONE = CACHED << 62 | ONE
NEED_ID = -1
"""Answer of `enter`: nobody has the inode, its object is complete, and it has no backing id yet."""


class Table(Protocol):
    """Where the state words live: the keeper record, or two lists in a test."""

    @property
    def words(self) -> memoryview[int]: ...
    @property
    def slots(self) -> dict[int, int]: ...
    @property
    def last_open(self) -> int: ...
    @last_open.setter
    def last_open(self, unique: int) -> None: ...
    def take(self, ino: int, word: int) -> int: ...
    def drop(self, ino: int) -> None: ...


class Modes:
    """Invariant: count of an inode >= opens of it in the kernel, and while it is above zero its mode and id do not change.

    The caller holds one lock around `enter` (and `register`) and the reply, and around every other call.
    """

    def __init__(self, table: Table, idle_limit: int = 16384) -> None:
        self.table = table
        self.idle_limit = idle_limit
        self.idle: dict[int, None] = {}  # inodes with a backing id and no open, least recently released first
        self.doomed: set[int] = set()  # live inodes whose id is closed at the last release
        for ino, at in table.slots.items():
            word = table.words[at]
            if word >> 62 == PASSTHROUGH and not word >> 32 & COUNT_MASK:
                self.idle[ino] = None

    def enter(self, ino: int, complete: bool, unique: int) -> int:
        """Count one open. Returns the backing id to answer with, 0 for a cached open, or NEED_ID (nothing counted).

        `complete`: a passthrough open is possible, if the inode has no other mode. An OPEN that a predecessor counted
        and did not answer (`unique` is the last one counted) is not counted again.
        """
        table = self.table
        at = table.slots.get(ino)
        if at is None:
            if complete:
                return NEED_ID
            table.take(ino, _CACHED_ONE)
            table.last_open = unique
            return 0
        word: int = table.words[at]
        if not word & _PASS:
            if unique != table.last_open:
                table.words[at] = word + ONE
                table.last_open = unique
            return 0
        if unique != table.last_open:
            if not word >> 32 & COUNT_MASK:
                del self.idle[ino]
            table.words[at] = word + ONE
            table.last_open = unique
        return word & ID_MASK

    def register(self, ino: int, backing_id: int, unique: int) -> None:
        """Count the first passthrough open of an inode through a new backing id, after `enter` said NEED_ID."""
        self.table.take(ino, _PASS | ONE | backing_id)
        self.table.last_open = unique

    def release(self, ino: int) -> list[int]:
        """Take one open back. Returns backing ids to close now."""
        table = self.table
        at = table.slots.get(ino)
        if at is None:
            return []
        word: int = table.words[at]
        count = word >> 32 & COUNT_MASK
        if count == 0:
            return []
        if count > 1:
            table.words[at] = word - ONE
            return []
        if not word & _PASS:
            table.drop(ino)
            return []
        if ino in self.doomed:
            self.doomed.discard(ino)
            table.drop(ino)
            return [word & ID_MASK]
        table.words[at] = word - ONE
        self.idle[ino] = None
        if len(self.idle) <= self.idle_limit:
            return []
        return self._close(next(iter(self.idle)))

    def evict(self, ino: int) -> list[int]:
        """The cache file of `ino` was unlinked: its space must come back. Returns backing ids to close now."""
        at = self.table.slots.get(ino)
        if at is None or not self.table.words[at] & _PASS:
            return []
        if ino in self.idle:
            return self._close(ino)
        self.doomed.add(ino)
        return []

    def evict_all(self) -> list[int]:
        """Evictions may have been missed: close every idle id, and the live ones at their last release."""
        closed = [i for ino in list(self.idle) for i in self._close(ino)]
        self.doomed.update(ino for ino, at in self.table.slots.items() if self.table.words[at] & _PASS)
        return closed

    def _close(self, ino: int) -> list[int]:
        del self.idle[ino]
        word = self.table.words[self.table.slots[ino]]
        self.table.drop(ino)
        return [word & ID_MASK]

    def mode(self, ino: int) -> tuple[int, int, int]:
        """Mode, opens, backing id."""
        at = self.table.slots.get(ino)
        if at is None:
            return (0, 0, 0)
        word: int = self.table.words[at]
        return (word >> 62, word >> 32 & COUNT_MASK, word & ID_MASK)

    def opens(self, ino: int) -> int:
        at = self.table.slots.get(ino)
        return 0 if at is None else self.table.words[at] >> 32 & COUNT_MASK
