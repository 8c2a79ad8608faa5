"""Who is held a place, where, and until when: the first job that finds no room, so that others do not pass it for ever.

EASY backfilling (Lifka 1995) on nodes: one job at a time holds, others may go as long as they do not delay it. What that means
for a node is `scheduler/arrays/holds.py`'s. Nothing of it is written down: after a restart the first job fails again, and holds.

- The first in order holds, and keeps it until it starts, goes, or waits for something else. Only a job that goes before it
  takes its place: of higher priority, or older with the same, in its own queue or where there are no quotas; or one within what
  its queue is guaranteed, where the holder is not.
- Held are only nodes that become free by themselves. Where pods would have to end that never do, nothing is held.
- Where deadlines tell when it starts, jobs that end before may pass. A time once promised never moves later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from forebay.api.corev1 import Pod
from forebay.scheduler.arrays.holds import Kept, stack
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.gang import Gang
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.ordering import guaranteed, rank
from forebay.scheduler.live.reserve.ends import would_end
from forebay.scheduler.live.reserve.searching import Found, Search
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request

PAUSE = 1.0
"""Seconds between two searches, and one more for each MANY pods that run: a search looks at all of them."""
MANY = 10_000
AGAIN = 30.0
"""Seconds until a job for which no place was found is looked at again."""
SHOWN = 3


@dataclass(slots=True)
class Holder:
    """The job that holds: by what others are compared with it, and what it was promised."""

    key: str
    who: str
    queue: str
    rank: tuple[int, float, str]
    guaranteed: bool
    found: Found
    promise: float
    requests: tuple[Request, ...]

    @property
    def pods(self) -> Mapping[str, int]:
        """How many of its pods each node is held for."""
        return self.found.pods


class Holding:
    """See the module. `planner` is replaced when the policy is."""

    def __init__(self, books: Books, planner: Planner, queue: Queue, pod_of: Callable[[str], Pod | None]) -> None:
        self.planner, self.wanted = planner, True
        self._books, self._queue, self._pod_of = books, queue, pod_of
        self.holder: Holder | None = None
        self._searched_at = -math.inf
        self.in_vain: dict[str, float] = {}
        """Jobs for which no place was found, and when they may be looked at again."""
        self._hurried = self._seen = -1

    # --- for each pass ---

    def begin(self) -> None:
        """Before jobs are tried: who holds still waits, and is tried at once when its place is free."""
        holds, promises = self._books.cluster.holds, self._books.quotas.reservations
        holds.active = False
        self.in_vain = {key: until for key, until in self.in_vain.items() if key in self._queue.jobs}
        holder = self.holder
        if holder is not None and (holder.key not in self._queue.jobs or not self.wanted):
            self.drop()
            holder = None
        promises.begin({holder.key} if holder is not None else set())
        if holder is None:
            return
        cluster, kept = self._books.cluster, holds.kept
        if kept is None or kept.needs.shape[1] != len(cluster.columns) or (cluster.stamp[kept.rows] > self._seen).any():
            kept = holds.kept = self._kept(holder)
        if cluster.tick != self._hurried and ((cluster.free[kept.rows] >= kept.needs) | (kept.needs == 0)).all():
            self._hurried = cluster.tick
            self._queue.hurry(holder.key)

    def _kept(self, holder: Holder) -> Kept:
        """The reservation in the cluster's arrays, as they are now."""
        cluster = self._books.cluster
        self._seen = cluster.tick
        there = [node for node in holder.found.needs if node in cluster.row_of]
        width = len(cluster.columns)
        needs = stack([holder.found.needs[node] for node in there], width)
        coming = stack([self._sum(node, holder.found.coming[node]) for node in there], width)
        rows = np.array([cluster.row_of[node] for node in there], np.int64)
        return Kept(holder.who, rows, needs, coming, holder.found.cards, holder.found.whole)

    def _sum(self, node: str, uids: Sequence[str]) -> Ints:
        """What these hold of the node, as far as they are still there [R]."""
        pods = self._books.cluster.pods
        left = [pods[uid].request.resources for uid in uids if uid in pods and pods[uid].node == node]
        width = len(self._books.cluster.columns)
        result: Ints = stack([np.array(one, np.int64) for one in left], width).sum(axis=0)
        return result

    def end(self) -> None:
        """After jobs were tried."""
        self._started()
        self._books.cluster.holds.active = False

    # --- for each job ---

    def trying(self, job: Job, pods: Sequence[Pod], now: float) -> None:
        """Whether the reservation counts for this job. `now` of the epoch."""
        self._started()
        holder = self.holder
        self._books.cluster.holds.active = (
            holder is not None
            and job.key != holder.key
            and would_end(pods, now) > self._until(holder)
            and not self._ahead(job, pods, holder)
        )

    def _started(self) -> None:
        if self.holder is not None and self.holder.key not in self._queue.jobs:
            self.drop()

    def waive(self, job: Job) -> None:
        """It waits for something else than room: it holds nothing."""
        if self.holder is not None and self.holder.key == job.key:
            self.drop()

    def held(self, job: Job, nodes: Sequence[str]) -> bool:
        """Whether just these nodes, and perhaps more, are held for the job, and it would still fit there."""
        holder = self.holder
        return holder is not None and holder.key == job.key and holder.found.needs.keys() >= set(nodes) and self._stands(holder)

    def lacking(self, job: Job, gang: Gang, pods: Sequence[Pod], now: float) -> str:
        """The job found no room. What is to be said of its place, "" for nothing."""
        holder = self.holder
        if not self.wanted:
            return ""
        if holder is not None and holder.key == job.key:
            if self._stands(holder):
                return self._sentence(holder)
        elif holder is not None and not self._ahead(job, pods, holder):
            return ""
        if now < self.in_vain.get(job.key, -math.inf):
            return ""
        if now - self._searched_at < PAUSE + len(self._books.cluster.pods) // MANY:
            return self._sentence(holder) if holder is not None and holder.key == job.key else ""
        self._searched_at = now
        return self._take(job, gang, pods, now)

    def _take(self, job: Job, gang: Gang, pods: Sequence[Pod], now: float) -> str:
        self._books.cluster.holds.active = False
        found = Search(self._books, self.planner, self._pod_of)(gang, now)
        if found is None:
            self.waive(job)
            self.in_vain[job.key] = now + AGAIN
            return ""
        self.in_vain.pop(job.key, None)
        if self.holder is not None and self.holder.key != job.key:
            self.drop()
        promise = self._books.quotas.reservations.reserve(job.key, found.start, {}, {}).promise
        who = f"gang {job.gang}" if job.gang else f"pod {pods[0].metadata.namespace}/{pods[0].metadata.name}"
        requests = tuple(dict.fromkeys(member.request for member in gang.members))
        queue = self._books.home(pods[0]).queue
        self.holder = Holder(job.key, who, queue, rank(job), guaranteed(self._books, job, pods), found, promise, requests)
        self._books.cluster.holds.set(self._kept(self.holder))
        return self._sentence(self.holder)

    def drop(self) -> None:
        """Nobody holds: whoever was kept away may be tried."""
        self.holder = None
        self._books.cluster.holds.set(None)
        self._queue.stir()

    # --- how ---

    def _ahead(self, job: Job, pods: Sequence[Pod], holder: Holder) -> bool:
        if not self._books.governed or self._books.home(pods[0]).queue == holder.queue:
            return rank(job) < holder.rank
        return not holder.guaranteed and guaranteed(self._books, job, pods)

    def _stands(self, holder: Holder) -> bool:
        """Whether it would still fit there once what was to end has ended."""
        cluster = self._books.cluster
        width = len(cluster.columns)
        for node, needs in holder.found.needs.items():
            row = cluster.row_of.get(node)
            if row is None:
                return False
            going = self._sum(node, [one.uid for one in holder.found.going[node]])
            wanted = stack([needs], width)[0]
            if ((cluster.free[row] + going < wanted) & (wanted > 0)).any():
                return False
            for request in holder.requests:
                allowed = cluster.allowed(request) if len(request.resources) == width else None
                if allowed is not None and not allowed[row]:
                    return False
        return True

    def _until(self, holder: Holder) -> float:
        """What ends by then may pass; -inf where nobody knows when it starts."""
        return holder.promise if math.isfinite(holder.promise) else -math.inf

    def _sentence(self, holder: Holder) -> str:
        names = sorted(holder.found.needs)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        when = "nobody knows when what runs there ends"
        if math.isfinite(holder.promise):
            when = f"free by {datetime.fromtimestamp(holder.promise, UTC):%Y-%m-%dT%H:%M:%SZ} by the deadlines of what runs there"
        return f"it is reserved on {', '.join(names[:SHOWN])}{more}, {when}"
