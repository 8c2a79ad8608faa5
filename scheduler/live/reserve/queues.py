"""Room in a queue that is kept for the first job which its max keeps from starting: else smaller ones use it up for ever.

The same as `holding`, for quotas: one job a queue holds, and others of that queue start only beside it (`quota/backfill.py`).
Where the queue is full of pods that do not end by themselves, nothing is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from forebay.api.kubernetes.core import Pod
from forebay.api.moments import over
from forebay.scheduler.live.books import Books, total
from forebay.scheduler.live.ordering import Rank, guaranteed, rank
from forebay.scheduler.live.reserve.ends import Ends
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.pods.amounts import quota_amounts
from forebay.scheduler.quota.admission import Short, Verdict
from forebay.scheduler.quota.backfill import Release, Reservations, earliest_start

PAUSE = 1.0
MANY = 10_000


@dataclass(frozen=True, slots=True)
class Holder:
    """`needs` by resource, of what the queue bounds; `start`: when that should be free, inf where nobody knows."""

    key: str
    who: str
    leaf: str
    rank: Rank
    needs: Mapping[str, int]
    start: float


class QueueHolding:
    """By queue."""

    def __init__(self, books: Books, queue: Queue, pod_of: Callable[[str], Pod | None], ends: Ends) -> None:
        self._books, self._queue, self._pod_of, self._ends = books, queue, pod_of, ends
        self.wanted = True
        self.holders: dict[str, Holder] = {}
        self._promises = Reservations()
        self._looked_at: dict[str, float] = {}

    def begin(self) -> None:
        """Before jobs are tried."""
        tree = self._books.quotas.tree
        for queue, holder in list(self.holders.items()):
            if holder.key not in self._queue.jobs or queue not in tree.queues or not self.wanted:
                self._drop(queue)
        self._promises.begin({holder.key for holder in self.holders.values()})
        self._looked_at = {key: at for key, at in self._looked_at.items() if key in self._queue.jobs}

    def waive(self, job: Job) -> None:
        """It is not its queue's max that it waits for."""
        for queue, holder in list(self.holders.items()):
            if holder.key == job.key:
                self._drop(queue)

    def _drop(self, queue: str) -> None:
        del self.holders[queue]
        self._queue.stir()

    def refused(self, job: Job, pods: Sequence[Pod], verdict: Verdict, now: float) -> None:
        """Quotas do not let it start: its queue is kept for it, if it is the first. `now` of the epoch."""
        pause = PAUSE + len(self._books.cluster.pods) // MANY
        if not self.wanted or not over(self._looked_at.get(job.key, -math.inf), pause, now):
            return
        self._looked_at[job.key] = now
        full: dict[str, list[Short]] = {}
        for short in verdict.shorts:
            if short.rule == "max" and not short.hopeless:
                full.setdefault(short.queue, []).append(short)
        for queue in [queue for queue, holder in self.holders.items() if holder.key == job.key and queue not in full]:
            self._drop(queue)
        for queue, shorts in full.items():
            self._hold(queue, job, pods, shorts, now)

    def _hold(self, queue: str, job: Job, pods: Sequence[Pod], shorts: Sequence[Short], now: float) -> None:
        holder, leaf = self.holders.get(queue), self._books.tenants.home(pods[0]).queue
        if holder is not None and holder.key != job.key and not (leaf == holder.leaf and rank(job) < holder.rank):
            return
        releases = self._releases(queue, job.gang, now)
        place = ("queue", queue)

        def fits(gone: Sequence[Release]) -> bool:
            freed = total(one.load[place] for one in gone)
            return all(one.used - freed.get(one.resource, 0) + one.asked <= one.limit for one in shorts)

        if not fits(releases):
            if holder is not None and holder.key == job.key:
                self._drop(queue)
            return
        who = f"gang {job.gang}" if job.gang else f"pod {pods[0].metadata.namespace}/{pods[0].metadata.name}"
        needs = {one.resource: one.asked for one in shorts}
        self.holders[queue] = Holder(job.key, who, leaf, rank(job), needs, earliest_start(now, releases, fits))

    def _releases(self, queue: str, gang: str, now: float) -> list[Release]:
        """What pods in the queue give back, those that end by themselves."""
        ledger, found = self._books.quotas.ledger, list[Release]()
        for uid, charge in ledger.charges.items():
            leaf, pod = ledger.home(uid), self._pod_of(uid)
            if not leaf or pod is None or queue not in ledger.books.path(leaf) or (gang and charge.gang == gang):
                continue
            at = self._ends.of(pod, charge.gang, now)
            if at is not None:
                found.append(Release(at, {("queue", queue): charge.amounts}))
        return found

    def behind(self, job: Job, pods: Sequence[Pod], now: float) -> str:
        """Whom the job would delay in its queue, as a sentence; "" for nobody."""
        leaf = self._books.tenants.home(pods[0]).queue
        if not self.holders or not leaf:
            return ""
        books, tree = self._books.quotas.ledger.books, self._books.quotas.tree
        request, end = total(map(quota_amounts, pods)), self._ends.would_be(pods, now)
        for queue in books.path(leaf):
            holder = self.holders.get(queue)
            if holder is None or holder.key == job.key or (leaf == holder.leaf and rank(job) < holder.rank):
                continue
            place = ("queue", queue)
            free = {r: tree.ceilings[queue].get(r, 0) - books.used(queue).get(r, 0) for r in holder.needs}
            self._promises.reserve(holder.key, holder.start, {place: holder.needs}, {place: free})
            passing = self._promises.may_start(job.key, {place: request}, end)
            if not passing.allowed and not guaranteed(self._books, job, pods):
                return f'queue "{queue}" is reserved for {holder.who}, which its max keeps waiting: wait until that has started'
        return ""
