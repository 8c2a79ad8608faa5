"""Who may take from whom. Two queues meet below their lowest common ancestor; what counts is what each uses from there down.

A job may take from another queue if, with it, its own queue and every level up to where the two meet stay within the fair
share; and only from queues that are above theirs on every level down from there. So whoever takes cannot be taken back from.

Two rules more keep jobs from evicting each other in turn (a third, with which that is certain, is in `covered`). A job that
goes before lower priorities of its own queue must not make that queue grow beyond its fair share (`settled`): others would take
it back, and who had yielded would begin again. And what goes together must not be so much that a part of it would be owed to its
queue again at once (`owed`).

Stages, the mildest first: a queue gives what it has beyond its fair share; a queue whose gang is larger than its surplus gives
the whole gang; a lower priority in the same queue yields to a higher; and a job within its queue's guarantee (floor) takes from
queues beyond theirs, fair share or not. Nothing is ever taken from a queue within its floor, which is never above its fair share
here: where mins do not fit, both are scaled. Pods of no queue yield to priority alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forebay.scheduler.quota.amounts import JOBS, NOTHING, Amounts, add, show
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
        leaf = self._path[0] if self._path else ""
        self._settled = {r: max(shares.of(leaf, r) or 0, books.used(leaf).get(r, 0)) - n for r, n in governed.items()}

    def _levels(self, books: Books, bounds: Mapping[str, Mapping[str, int]]) -> int:
        """On how many levels, from the leaf up, the queue stays within its bounds with the job."""
        for level, name in enumerate(self._path):
            used = books.used(name)
            if any(used.get(r, 0) + n > bounds[name][r] for r, n in self._asked.items()):
                return level
        return len(self._path)

    def settled(self, books: Books) -> bool:
        """Whether the job's queue would be within its fair share with it, or at least use no more than at first."""
        used = books.used(self._path[0]) if self._path else NOTHING
        return all(used.get(r, 0) <= most for r, most in self._settled.items())

    def owed(self, gone: Sequence[tuple[Mapping[str, Amounts], int]], books: Books) -> list[int]:
        """Which of the groups of pods that went could have stayed, by index: with it and all that stays before it, a queue would
        be within its fair share (its floor, where a guarantee was taken from it), and nobody takes from such a queue.

        A group: what each queue loses by it, and the stage by which it went. `books` are without all of them.
        """
        levels = [[(q, self.meet(q, books)[0]) for q in lost if q not in {"", self.ask.queue}] for lost, _ in gone]
        harsh = {
            n for (_, stage), below in zip(gone, levels, strict=True) if stage == GUARANTEE for _, names in below for n in names
        }
        stays: list[int] = []
        back: dict[str, dict[str, int]] = {}
        for index, ((lost, _), below) in enumerate(zip(gone, levels, strict=True)):
            if any(self._within(n, lost[q], back.get(n, NOTHING), books, n in harsh) for q, names in below for n in names):
                stays.append(index)
                for queue, names in below:
                    for name in names:
                        add(back.setdefault(name, {}), lost[queue])
        return stays

    def _within(self, name: str, more: Amounts, back: Amounts, books: Books, harsh: bool) -> bool:
        used, resources = books.used(name), [r for r in self._asked if more.get(r, 0)]
        bounds = {r: self._floor(name, r) if harsh else self._shares.of(name, r) or 0 for r in resources}
        return bool(resources) and all(used.get(r, 0) + back.get(r, 0) + more[r] <= bound for r, bound in bounds.items())

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
                    f"{show(resource, share)}, and nobody is evicted for what is beyond; raise its min or weight, or wait"
                )
        return ""
