"""Who may take from whom. Two queues meet below their lowest common ancestor; what counts is what each uses from there down.

A job may take from another queue if, with it, its own queue and every level up to where the two meet stay within the fair
share; and only from queues that are above theirs on every level down from there. So whoever takes cannot be taken back from,
and reclaiming ends.

Stages, the mildest first: a queue gives what it has beyond its fair share; a queue whose gang is larger than its surplus gives
the whole gang; a lower priority in the same queue yields to a higher; and a job within its queue's guarantee (floor) takes from
queues beyond theirs, fair share or not. Nothing is ever taken from a queue within its floor, which is never above its fair share
here: where mins do not fit, both are scaled. Pods of no queue yield to priority alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from forebay.scheduler.quota.amounts import JOBS, Amounts, show
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.shares import Shares

SURPLUS, WHOLE_GANG, PRIORITY, GUARANTEE = range(4)


@dataclass(frozen=True)
class Ask:
    """A job for which room is wanted. `request` is the sum over its pods; `jobs` 1 if it counts as one more job of its queue."""

    name: str
    queue: str
    request: Amounts = field(default_factory=dict)
    priority: int = 0
    preemptible: bool = True
    jobs: int = 0


class Entitlement:
    """The rules for one job. What the job's own queues use is taken as it was at first; what victims use, as it is when asked."""

    def __init__(self, ask: Ask, books: Books, shares: Shares) -> None:
        self.ask = ask
        self._shares = shares
        self._floors = books.tree.floors
        self._path = books.path(ask.queue) if ask.queue else ()
        governed = {r: n for r, n in ask.request.items() if n and r in books.tree.resources and r != JOBS}
        self._asked = governed
        self._fair = self._levels(books, {n: {r: shares.of(n, r) or 0 for r in governed} for n in self._path})
        self._guaranteed = self._levels(books, {n: {r: self._floor(n, r) for r in governed} for n in self._path})
        self._meeting: dict[str, tuple[tuple[str, ...], int]] = {}

    def _levels(self, books: Books, bounds: Mapping[str, Mapping[str, int]]) -> int:
        """On how many levels, from the leaf up, the queue stays within its bounds with the job."""
        for level, name in enumerate(self._path):
            used = books.used(name)
            if any(used.get(r, 0) + n > bounds[name][r] for r, n in self._asked.items()):
                return level
        return len(self._path)

    def stage(self, queue: str, priority: int, books: Books, freed: Amounts) -> int | None:
        """How mild it is to take from a queue now; None if it may not be done. `freed`: what the queue would lose."""
        if queue == self.ask.queue or not queue:
            return PRIORITY if priority < self.ask.priority else None
        if not self.ask.queue:
            return None
        below, level = self.meet(queue, books)
        resources = [r for r in self._asked if freed.get(r, 0)]
        if not resources:
            return None
        if level < self._fair and all(self._over(books, name, resources) for name in below):
            keeps = all(books.used(n).get(r, 0) - freed[r] >= (self._shares.of(n, r) or 0) for n in below for r in resources)
            return SURPLUS if keeps else WHOLE_GANG
        if level < self._guaranteed and all(self._beyond(books, name, resources) for name in below):
            return GUARANTEE
        return None

    def rates(self, queue: str, books: Books) -> dict[str, float]:
        """One over what a queue may still lose, by resource, on the level where that is least; empty if nothing bounds it."""
        if not queue or queue == self.ask.queue or not self.ask.queue:
            return {}
        below, level = self.meet(queue, books)
        left = {r: min(books.used(n).get(r, 0) - self._kept(n, level, r) for n in below) for r in self._asked}
        return {r: 1 / n if n > 0 else math.inf for r, n in left.items()}

    def _kept(self, name: str, level: int, resource: str) -> int:
        """Down to where a victim's queue may be taken from, if it meets the job's at a level."""
        if level < self._guaranteed:
            return self._floor(name, resource)
        return self._shares.of(name, resource) or 0

    def meet(self, queue: str, books: Books) -> tuple[tuple[str, ...], int]:
        """A victim's queues below where it meets the job's, leaf first, and the job's level there (0 its leaf)."""
        known = self._meeting.get(queue)
        if known is None:
            path = books.path(queue)
            both = len(path)
            mine = len(self._path)
            while both and mine and path[both - 1] == self._path[mine - 1]:
                both -= 1
                mine -= 1
            known = self._meeting[queue] = (path[:both], mine - 1)
        return known

    def _over(self, books: Books, name: str, resources: list[str]) -> bool:
        return any(books.used(name).get(r, 0) > (self._shares.of(name, r) or 0) for r in resources)

    def _beyond(self, books: Books, name: str, resources: list[str]) -> bool:
        return any(books.used(name).get(r, 0) > self._floor(name, r) for r in resources)

    def _floor(self, name: str, resource: str) -> int:
        """The min, at most the fair share. With mins of 5 for 4 cards, a whole min taken is beyond a share, and taken back."""
        return min(self._floors[name].get(resource, 0), self._shares.of(name, resource) or 0)

    def excess(self, queue: str, books: Books) -> tuple[float, ...]:
        """How many times its fair share a victim's queue uses, where it meets the job's first, then downwards."""
        if not queue or queue == self.ask.queue or not self.ask.queue:
            return (0.0,)
        return tuple(self._times(books, name) for name in reversed(self.meet(queue, books)[0]))

    def _times(self, books: Books, name: str) -> float:
        largest = 0.0
        for resource in self._asked:
            used, share = books.used(name).get(resource, 0), self._shares.of(name, resource) or 0
            if used:
                largest = max(largest, used / share if share else math.inf)
        return largest

    def why_not(self, books: Books) -> str:
        """Which level keeps the job from taking anything from other queues; empty if none does."""
        if not self._path or self._fair:
            return ""
        leaf = self._path[0]
        for resource, amount in self._asked.items():
            used, share = books.used(leaf).get(resource, 0), self._shares.of(leaf, resource) or 0
            if used + amount > share:
                return (
                    f'with it queue "{leaf}" would use {show(resource, used + amount)} {resource}, beyond its fair share of '
                    f"{show(resource, share)}, and what is beyond is not taken from others; raise its min or weight, or wait"
                )
        return ""
