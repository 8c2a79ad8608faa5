"""Buffer slots: where bytes that no tier admitted wait for their reader. Pure: which slot holds what, and which may go."""

from __future__ import annotations

from forebay.cache.disk.index import BLOCK
from forebay.cache.fetch.messages import Piece
from forebay.cache.fetch.motion import SLOT, Active, Fetching, Waiter


class Slots:
    """At most `total` bytes; a slot holds the blocks of one fetch, and the least recently used that nobody needs goes first."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._held: dict[int, Active] = {}  # least recently used first

    def used(self) -> int:
        return self._total - self._free

    def room(self, size: int) -> list[int] | None:
        """Slots to drop so that `size` more bytes fit; None when those that may go do not suffice."""
        out: list[int] = []
        free = self._free
        for slot, a in self._held.items():
            if free >= size:
                break
            if not self._pinned(slot):
                out.append(slot)
                first, last = a.slots[slot]
                free += (last - first) * BLOCK
        return out if free >= size else None

    def _pinned(self, slot: int) -> bool:
        """A slot that is being filled, or has blocks somebody waits for, stays."""
        a = self._held[slot]
        first, last = a.slots[slot]
        filling = any(f.slot == slot for f in a.fetches.values())
        return filling or any(w.first < last and first < w.last for w in a.waiters.values())

    def take(self, f: Fetching, slot: int) -> None:
        """Number `slot` is for the blocks of a fetch."""
        f.slot = slot
        self._held[slot] = f.active
        f.active.slots[slot] = (f.first, f.last)
        self._free -= f.count * BLOCK

    def drop(self, slot: int) -> None:
        """Its blocks are absent again."""
        a = self._held.pop(slot)
        first, last = a.slots.pop(slot)
        self._free += (last - first) * BLOCK
        a.clear(first, last, SLOT)

    def pieces(self, w: Waiter) -> list[Piece]:
        """Where the blocks of a waiter lie; empty when all are in the cache file. Its slots count as used just now."""
        a = w.active
        if not a.slots or SLOT not in a.blocks[w.first : w.last]:
            return []
        out: list[Piece] = []
        at = w.first
        for first, last, slot in sorted((first, last, slot) for slot, (first, last) in a.slots.items()):
            if last <= at or first >= w.last:
                continue
            if first > at:
                out.append(Piece(-1, at, first))
            out.append(Piece(slot, max(first, at), min(last, w.last)))
            at = last
            self._held[slot] = self._held.pop(slot)
        if at < w.last:
            out.append(Piece(-1, at, w.last))
        return out
