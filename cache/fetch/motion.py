"""What the machine holds of objects in motion: fetches, waiters, objects, and the health of their stores. No decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from forebay.cache.disk.index import BLOCK
from forebay.cache.fetch.ahead import Streams, Width
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing

ABSENT, COMING, HERE, SLOT = 0, 1, 2, 3
"""State of a block: not here; in a fetch that is queued or runs; in the cache file; in a buffer slot."""
WIDE = 2 << 20
"""Fetches above this count against their store's `Width`; smaller ones are bound by latency, not by bandwidth."""


@dataclass(eq=False, slots=True)
class Fetching:
    """One exchange with a store: blocks [first, first+count) of an object."""

    id: int
    active: Active
    first: int
    count: int
    goal: Goal
    far: bool = False  # its bytes come from another member
    lane: int = -1
    tier: int = NO_TIER
    slot: int = -1
    charged: int = 0  # bytes promised by the tier
    tries: int = 0
    long_tries: int = 0
    failing_since: float = 0.0

    @property
    def last(self) -> int:
        return self.first + self.count

    @property
    def wide(self) -> bool:
        return self.count * BLOCK > WIDE

    def give_back(self) -> int:
        """Bytes that were promised to it and did not arrive; they are its object's no more."""
        got = min(sum(n for _, n in self.active.runs(self.first, self.last, HERE)) * BLOCK, self.charged)
        back, self.charged = self.charged - got, got
        self.active.charged -= back
        return back


@dataclass(eq=False, slots=True)
class Waiter:
    """Somebody who waits for blocks [first, last) of an object."""

    id: int
    active: Active
    first: int
    last: int
    goal: Goal
    deadline: float

    def needs(self, f: Fetching) -> bool:
        return self.first < f.last and f.first < self.last

    def ready(self) -> bool:
        """Whether every block of it is somewhere."""
        b, n = self.active.blocks, self.last - self.first
        here = b.count(HERE, self.first, self.last)
        return here == n or here + b.count(SLOT, self.first, self.last) == n


@dataclass(eq=False, slots=True)
class Active:
    """An object in motion: being fetched, waited for, or read lately while incomplete."""

    thing: Thing
    blocks: bytearray  # one state a block
    tier: int = NO_TIER
    placed: bool = False
    here: int = 0  # blocks in the cache file
    charged: int = 0  # bytes of `TierState.used` that are this object's
    spare: int = 0  # of those, bytes its file has for blocks that are not here yet
    fetches: dict[int, Fetching] = field(default_factory=dict)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    slots: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot -> blocks [first, last)
    streams: Streams = field(default_factory=Streams)
    touched: float = 0.0

    def runs(self, first: int, last: int, state: int) -> Iterator[tuple[int, int]]:
        """Runs (first, count) of blocks in `state` within [first, last)."""
        mark = bytes((state,))
        at = self.blocks.find(mark, first, last)
        while at >= 0:
            end = at + 1
            while end < last and self.blocks[end] == state:
                end += 1
            yield at, end - at
            at = self.blocks.find(mark, end, last)

    def clear(self, first: int, last: int, state: int) -> list[tuple[int, int]]:
        """Make blocks in `state` absent; the runs that were."""
        found = list(self.runs(first, last, state))
        for at, count in found:
            self.blocks[at : at + count] = bytes(count)
        return found


@dataclass(slots=True)
class Health:
    """How one mount's store does."""

    width: Width = field(default_factory=Width)
    wide: int = 0  # wide fetches under way
    failures: int = 0  # fetches given up in a row
    failing_since: float = 0.0  # the first failure after the last success
    down_until: float = 0.0
    message: str = ""
