"""The queue of gangs that wait: in order of submission, grouped by what makes them alike, with a count of who passed whom.

Wait or go cold, the whole rule, for the simulation and for clusters:

- A gang whose data is near starts as soon as it fits.
- Another one starts far from its data once it has waited as long as that costs (`wait_left`). Whoever does not know how long a
  wait will last loses at most twice the better choice that way (the ski rental problem; Karlin et al., *Competitive snoopy
  caching*, 1988). A load that runs where it could start caps that cost: what comes anyway does not have to be read from afar.
- While others' data is loaded from the store, one whose data only the store has waits for its turn (`turn_comes`): reading now
  would slow them down.
- Gangs may pass others, because what starts near its data gives its cards back sooner. But once younger gangs with more than
  PASSES times the cluster's slots have started before it, a gang is *overdue*: then it starts wherever it fits, in order of
  submission, and while it does not fit nobody else starts. So it waits for what runs by then, and for overdue ones before it.
  (On a cluster places are held instead: `live/reserve/holding.py`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.decision import Ask
from forebay.scheduler.locality.prefetch import STORE_LOADS
from forebay.scheduler.pods.request import Request

PASSES = 10.0
"""Clusterfuls of younger pods that may start before a gang."""
STALL = 120.0
"""Seconds without a byte more on any node that loads from the store, after which nobody waits for a turn there: the orders are
not followed, or hints do not say so. On a large cluster it takes longer until hints do: see `stall`."""
APART = 1.3 / 20
"""Seconds for each node of a cluster that two hints of one node with large news are apart, at most (`csi/hints/pacing.py`)."""
ON_ITS_WAY = 20.0
"""Seconds until what a worker says is in our copy, beside that pause: it looks every 5 s, and so do we."""
TURN = 14_400.0
"""Seconds that a gang waits for its turn at the most, whatever the hints say."""

MICRO = 1_000_000

Kind = tuple[int, int, tuple[Request, ...]]
"""Column of the dataset (-1 for none), pods, distinct requests: gangs of one kind fit the same places at the same cost."""


@dataclass(slots=True)
class Entry:
    """A gang that waits. `number` grows with every submission."""

    number: int
    ask: Ask
    kind: Kind

    @property
    def pods(self) -> int:
        return self.kind[1]

    @property
    def column(self) -> int:
        return self.kind[0]


class Waiting:
    """The queue. Iterates in order of submission."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._number_of: dict[str, int] = {}
        self._kinds: dict[Kind, dict[int, Entry]] = {}
        self._of_column: dict[int, dict[Kind, None]] = {}
        self._passed: Ints = np.zeros(1024, np.int64)
        self._next = 0
        self.pods_of: dict[int, int] = {}
        """Pods that wait for a dataset, by column."""
        self.since_of: dict[int, int] = {}
        """Sum of their times of submission, by column, in microseconds: integers, so that sums do not depend on order."""
        self.gangs_of: dict[int, int] = {}
        self.requests: dict[Request, int] = {}
        """Requests of gangs that wait, and of how many."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def add(self, ask: Ask, column: int) -> Entry:
        """Raises ValueError for a gang that waits already."""
        if ask.gang.name in self._number_of:
            raise ValueError(f"gang {ask.gang.name} waits already: a name is queued once")
        requests = tuple(sorted({member.request for member in ask.gang.members}, key=repr))
        entry = Entry(self._next, ask, (column, len(ask.gang.members), requests))
        self._next += 1
        if entry.number >= len(self._passed):
            self._passed = np.concatenate([self._passed, np.zeros_like(self._passed)])
        self._passed[entry.number] = 0
        self._entries[entry.number] = entry
        self._number_of[ask.gang.name] = entry.number
        self._kinds.setdefault(entry.kind, {})[entry.number] = entry
        self._of_column.setdefault(column, {})[entry.kind] = None
        self._count(entry, 1)
        return entry

    def remove(self, entry: Entry, *, started: bool = True) -> None:
        """It started, and so passed all older ones; or it was withdrawn."""
        del self._entries[entry.number], self._number_of[entry.ask.gang.name]
        alike = self._kinds[entry.kind]
        del alike[entry.number]
        if not alike:
            del self._kinds[entry.kind]
            kinds = self._of_column[entry.column]
            del kinds[entry.kind]
            if not kinds:
                del self._of_column[entry.column]
        self._count(entry, -1)
        if started and self._entries:
            oldest = next(iter(self._entries))
            if oldest < entry.number:
                self._passed[oldest : entry.number] += entry.pods

    def _count(self, entry: Entry, sign: int) -> None:
        column = entry.column
        for counts, amount in ((self.pods_of, entry.pods), (self.gangs_of, 1)):
            counts[column] = counts.get(column, 0) + sign * amount
        self.since_of[column] = self.since_of.get(column, 0) + sign * round(entry.ask.since * MICRO)
        for request in entry.kind[2]:
            self.requests[request] = self.requests.get(request, 0) + sign
            if not self.requests[request]:
                del self.requests[request]
        if not self.gangs_of[column]:
            for book in (self.pods_of, self.gangs_of, self.since_of):
                del book[column]

    def find(self, gang: str) -> Entry | None:
        """The entry of a gang by name."""
        number = self._number_of.get(gang)
        return None if number is None else self._entries[number]

    def first(self, kind: Kind) -> Entry | None:
        """The oldest of a kind."""
        alike = self._kinds.get(kind)
        return next(iter(alike.values())) if alike else None

    def kinds(self, column: int) -> list[Kind]:
        """Kinds of gangs that wait for a dataset."""
        return list(self._of_column.get(column, ()))

    def columns(self) -> list[int]:
        """Datasets that gangs wait for."""
        return sorted(self.gangs_of)

    def passed(self, entry: Entry) -> int:
        """Pods of younger gangs that started since it was submitted."""
        return int(self._passed[entry.number])

    def set_passed(self, entry: Entry, pods: int) -> None:
        """For a restart."""
        self._passed[entry.number] = pods

    def overdue(self, slots: int) -> list[Entry]:
        """Gangs that were passed too often, oldest first: a prefix of the queue, since who passes one passes all older ones."""
        late = list[Entry]()
        for entry in self._entries.values():
            if self.passed(entry) <= PASSES * slots:
                break
            late.append(entry)
        return late

    def waits(self, now: float, width: int) -> Floats:
        """Seconds [width] that gangs have waited for each dataset, all together."""
        total = np.zeros(width)
        for column, gangs in self.gangs_of.items():
            if column >= 0:
                total[column] = max(gangs * now - self.since_of[column] / MICRO, 0.0)
        return total


def wait_left(cost: float, waited: float, *, better: float = 0.0, longest: float = math.inf) -> float:
    """Seconds that a gang still waits at the most, 0 for none: it goes.

    `cost`: seconds that starting now loses; `better`: what it would lose once what it waits for is there; `longest`: of the wait
    as a whole, whatever hints say.
    """
    return max(min(cost - better, longest) - waited, 0.0)


def may_go(cost: float, waited: float) -> bool:
    """Whether a gang that has waited that long may start at that cost, both in seconds."""
    return not wait_left(cost, waited)


def stall(nodes: int) -> float:
    """STALL on a cluster of so many nodes: above some 1,500, as long as a node that loads may be silent."""
    return max(STALL, APART * nodes + ON_ITS_WAY)


def turn_comes(loading: int, still: float, waited: float, longest: float = TURN, silent: float = STALL) -> bool:
    """Whether a gang whose data only the store has, and nobody loads, waits for its turn there.

    `loading`: datasets that are loaded from the store; `still`: seconds since any of those was seen to grow, `silent` at most.
    """
    return loading >= STORE_LOADS and still <= silent and waited <= longest
