"""Whose turn it is: jobs of all queues in the order in which a planner should try them. Pure; time is an argument.

From the root down, the child goes first that comes first by

1. rank: 0 a job within its queue's floor (its guarantee), 1 a job that has waited longer than `patience`, 2 a job within its
   queue's fair share, 3 a job beyond it;
2. the dominant share it has already: max over resources of used / fair share, smaller first;
3. priority of the job, higher first; then age; then arrival; then name.

Inside a leaf: who has waited longer than `patience` by age, then the others by priority and age (`fifo`: all by age).

So a queue that has got less goes first, whatever the priorities elsewhere: priorities of different tenants are not comparable.
And waiting ends: an overdue job comes before everything that is not guaranteed. A job beyond its queue's fair share may still
have to wait for as long as others use what they are guaranteed; that is what a min says.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from forebay.scheduler.quota.amounts import Amounts, check_request, show
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.shares import Shares

PATIENCE = 3600.0
"""Seconds. A guess, to be set by whoever knows the jobs: about the length of an ordinary one."""

GUARANTEED, OVERDUE, FAIR, BEYOND = range(4)


@dataclass(frozen=True)
class Waiting:
    """A job (a pod or a gang) that waits. `since`: when it began to, in seconds of the same clock as `now`.

    `arrival` orders those that began in the same second: objects of the API say no more.
    """

    name: str
    queue: str
    request: Amounts = field(default_factory=dict)
    priority: int = 0
    since: float = 0.0
    arrival: int = 0


class Place(NamedTuple):
    """Where a job stands; sorts as the order goes."""

    rank: int
    share: float
    priority: int  # negated
    since: float
    arrival: int
    name: str


class Turns:
    """One pass over all waiting jobs. `next` gives each job once; after `placed` its queue has had more, and the order follows.

    Jobs of no queue ("") come after all others: nobody promised them anything. The books are copied, never changed.
    Cost: a heap operation per level and job.
    """

    def __init__(self, books: Books, shares: Shares, waiting: Iterable[Waiting], now: float, patience: float = PATIENCE) -> None:
        self.tree = books.tree
        self._books = books.copy()
        self._shares = shares
        self._now = now
        self._patience = patience
        self._free: list[tuple[int, float, int, str, int, Waiting]] = []
        self._leaves: dict[str, list[tuple[Place, Waiting]]] = {}
        for job in waiting:
            check_request(job.request)
            if job.queue:
                self._leaves.setdefault(job.queue, []).append((self._in_leaf(job), job))
            else:
                heapq.heappush(self._free, (-job.priority, job.since, job.arrival, job.name, len(self._free), job))
        self._heaps: dict[str, list[tuple[Place, str]]] = {}
        self._places: dict[str, Place] = {}
        self._heads: dict[str, Waiting] = {}
        for jobs in self._leaves.values():
            jobs.sort(key=lambda pair: pair[0], reverse=True)  # the next one is at the end
        for leaf in sorted(self._leaves):
            self._climb(leaf)

    def next(self) -> Waiting | None:
        """The job to try now, None after the last. What came before stays where it is unless `placed` was told."""
        job = self._heads.get(self.tree.root)
        if job is None:
            return heapq.heappop(self._free)[5] if self._free else None
        self._leaves[job.queue].pop()
        self._climb(job.queue)
        return job

    def placed(self, job: Waiting) -> None:
        """The job has got what it asked for."""
        if job.queue:
            self._books.book(job.queue, job.request)
            self._climb(job.queue)

    def _in_leaf(self, job: Waiting) -> Place:
        if self._overdue(job):
            return Place(0, 0.0, 0, job.since, job.arrival, job.name)
        return Place(1, 0.0, 0 if self.tree.queues[job.queue].fifo else -job.priority, job.since, job.arrival, job.name)

    def _overdue(self, job: Waiting) -> bool:
        return self._now - job.since > self._patience

    def _climb(self, leaf: str) -> None:
        """Ranks a leaf anew, and every queue above it by the job that now goes first below it."""
        for name in self._books.path(leaf):
            job = self._first_below(name) if name != leaf else self._last(leaf)
            if job is None:
                self._heads.pop(name, None)
                self._places.pop(name, None)
                continue
            self._heads[name] = job
            self._places[name] = place = self._place(name, job)
            if name != self.tree.root:
                heapq.heappush(self._heaps.setdefault(self.tree.queues[name].parent, []), (place, name))

    def _last(self, leaf: str) -> Waiting | None:
        jobs = self._leaves.get(leaf)
        return jobs[-1][1] if jobs else None

    def _first_below(self, name: str) -> Waiting | None:
        """The job of the child that goes first. Entries that no longer hold are dropped on the way."""
        heap = self._heaps.get(name, [])
        while heap and heap[0][0] != self._places.get(heap[0][1]):
            heapq.heappop(heap)
        return self._heads[heap[0][1]] if heap else None

    def _place(self, name: str, job: Waiting) -> Place:
        rank = self._rank(name, job)
        if rank == OVERDUE:
            return Place(rank, 0.0, 0, job.since, job.arrival, job.name)
        return Place(rank, self.dominant(name), -job.priority, job.since, job.arrival, job.name)

    def _rank(self, name: str, job: Waiting) -> int:
        used, floors = self._books.used(name), self.tree.floors[name]
        governed = {r: used.get(r, 0) + n for r, n in job.request.items() if n and r in self.tree.resources}
        if all(after <= floors.get(r, 0) for r, after in governed.items()):
            return GUARANTEED
        if self._overdue(job):
            return OVERDUE
        within = all(after <= (self._shares.of(name, r) or 0) for r, after in governed.items())
        return FAIR if within else BEYOND

    def dominant(self, name: str) -> float:
        """The largest part of its fair share that a queue uses of any resource; infinite for use without a share."""
        return max((times for times, _, _, _ in self._portions(name)), default=0.0)

    def standing(self, name: str) -> str:
        """One sentence for people: how much of its fair share a queue uses, and of what most."""
        portions = self._portions(name)
        if not portions:
            return f'queue "{name}" uses nothing that quotas govern'
        times, resource, used, share = max(portions)
        much = "without a share of it" if math.isinf(times) else f"{times:.2f} of its fair share of {show(resource, share)}"
        return f'queue "{name}" uses {show(resource, used)} {resource}, {much}; who uses less of theirs goes first'

    def _portions(self, name: str) -> list[tuple[float, str, int, int]]:
        """Part of the fair share, resource, use, share; for all governed resources that a queue uses."""
        portions = []
        for resource, used in self._books.used(name).items():
            share = self._shares.of(name, resource)
            if share is not None:
                portions.append((used / share if share else math.inf, resource, used, share))
        return portions
