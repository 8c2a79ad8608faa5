"""Who is held a place, where, and until when: the first jobs that find no room, so that others do not pass them for ever.

EASY backfilling (Lifka 1995) on nodes: one job holds in each pool of nodes, others may go as long as they do not delay it. What
that means for a node is `scheduler/arrays/holds.py`'s. Nothing of it is written down: after a restart the first job fails again,
and holds.

- The first in order holds, and keeps it until it starts, goes, or waits for something else. Only a job that goes before it
  takes its place: of higher priority, or older with the same, in its own queue or where there are no quotas; or one within what
  its queue is guaranteed, where the holder is not.
- Who could run on none of the nodes that are held for jobs before it holds too: it is the first of another pool, and gains
  nothing by waiting for them. Who could run on one of them waits for its turn there.
- Held are only nodes that become free by themselves. Where pods would have to end that never do, nothing is held.
- Where deadlines tell when it starts, jobs that end before may pass. A time once promised never moves later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from forebay.api.kubernetes.core import Pod
from forebay.api.moments import over
from forebay.scheduler.arrays.holds import Kept, stack
from forebay.scheduler.arrays.slots import capacity
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.gang import Gang
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.ordering import Rank, guaranteed, rank
from forebay.scheduler.live.reserve.ends import Ends
from forebay.scheduler.live.reserve.searching import Found, Search, users_of
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request

PAUSE = 1.0
"""Seconds between two searches, and one more for each MANY pods that run: a search looks at all of them."""
MANY = 10_000
AGAIN = 30.0
"""Seconds until a job for which no place was found is looked at again; so long it is believed which nodes a job could use."""
MOST = 8
"""Jobs that hold at once: each makes every question where a pod may go a little longer."""
SHOWN = 3


@dataclass(slots=True)
class Holder:
    """A job that holds: by what others are compared with it, what it was promised; ticks of the cluster."""

    key: str
    who: str
    queue: str
    rank: Rank
    guaranteed: bool
    found: Found
    promise: float
    requests: tuple[Request, ...]
    knew: int
    """Changes of deadlines when it was looked for."""
    seen: int = -1
    hurried: int = -1

    @property
    def pods(self) -> Mapping[str, int]:
        """How many of its pods each node is held for."""
        return self.found.pods

    @property
    def until(self) -> float:
        """What ends by then may pass; -inf where nobody knows when it starts."""
        return self.promise if math.isfinite(self.promise) else -math.inf


class Holding:
    """See the module. `planner` is replaced when the policy is."""

    def __init__(self, books: Books, planner: Planner, queue: Queue, pod_of: Callable[[str], Pod | None], ends: Ends) -> None:
        self.planner, self.wanted = planner, True
        self._books, self._queue, self._pod_of, self._ends = books, queue, pod_of, ends
        self.holders: dict[str, Holder] = {}
        self._searched_at = -math.inf
        self._postponed: dict[str, None] = {}
        self.in_vain: dict[str, float] = {}
        """Jobs for which no place was found, and when."""
        self._reached: dict[tuple[Request, tuple[str, ...]], bool] = {}
        self._reached_at = -math.inf

    # --- for each pass ---

    def begin(self) -> None:
        """Before jobs are tried: who holds still waits, and is tried at once when its place is free."""
        cluster = self._books.cluster
        cluster.holds.active = ()
        self.in_vain = {key: at for key, at in self.in_vain.items() if key in self._queue.jobs}
        for key in list(self.holders):
            if key not in self._queue.jobs or not self.wanted:
                self.drop(key)
        self._books.quotas.reservations.begin(set(self.holders))
        for holder in self.holders.values():
            kept = cluster.holds.kept[holder.key]
            if kept.needs.shape[1] != len(cluster.columns) or (cluster.stamp[kept.rows] > holder.seen).any():
                kept = cluster.holds.kept[holder.key] = self._kept(holder)
            if cluster.tick != holder.hurried and ((cluster.free[kept.rows] >= kept.needs) | (kept.needs == 0)).all():
                holder.hurried = cluster.tick
                self._queue.hurry(holder.key)

    def _kept(self, holder: Holder) -> Kept:
        """The reservation in the cluster's arrays, as they are now."""
        cluster = self._books.cluster
        holder.seen = cluster.tick
        there = [node for node in holder.found.needs if node in cluster.row_of]
        width = len(cluster.columns)
        needs = stack([holder.found.needs[node] for node in there], width)
        coming = stack([self._sum(node, holder.found.coming[node]) for node in there], width)
        rows = np.array([cluster.row_of[node] for node in there], np.int64)
        return Kept(holder.who, rows, needs, coming, holder.found.cards, holder.found.claims, holder.found.whole)

    def _sum(self, node: str, uids: Sequence[str]) -> Ints:
        """What these hold of the node, as far as they are still there [R]."""
        pods = self._books.cluster.pods
        left = [pods[uid].request.resources for uid in uids if uid in pods and pods[uid].node == node]
        width = len(self._books.cluster.columns)
        result: Ints = stack([np.array(one, np.int64) for one in left], width).sum(axis=0)
        return result

    def end(self, now: float) -> None:
        """After jobs were tried. `now` of the epoch."""
        self._started()
        self._books.cluster.holds.active = ()
        if self._postponed and self._may_search(now):
            self._next()

    def _next(self) -> None:
        """The first of those that wait to be looked at: there is one search at a time, and the others would be tried in vain."""
        waiting = {key: job for key in self._postponed if (job := self._queue.jobs.get(key)) is not None}
        if waiting:
            first = min(waiting.values(), key=rank)
            self._queue.hurry(first.key)
            del waiting[first.key]
        self._postponed = dict.fromkeys(waiting)

    # --- for each job ---

    def trying(self, job: Job, pods: Sequence[Pod], now: float) -> None:
        """Which reservations count for this job. `now` of the epoch."""
        self._started()
        if not self.holders:
            return
        end = self._ends.would_be(pods, now)
        self._books.cluster.holds.active = tuple(one.key for one in self._before(job, pods) if end > one.until)

    def _started(self) -> None:
        for key in [key for key in self.holders if key not in self._queue.jobs]:
            self.drop(key)

    def waive(self, job: Job) -> None:
        """It waits for something else than room: it holds nothing."""
        if job.key in self.holders:
            self.drop(job.key)

    def held(self, job: Job, nodes: Sequence[str]) -> bool:
        """Whether just these nodes, and perhaps more, are held for the job, and it would still fit there."""
        holder = self.holders.get(job.key)
        return holder is not None and holder.found.needs.keys() >= set(nodes) and self._stands(holder)

    def lacking(self, job: Job, gang: Gang, pods: Sequence[Pod], now: float) -> str:
        """The job found no room. What is to be said of its place, "" for nothing."""
        mine = self.holders.get(job.key)
        if not self.wanted or not over(self.in_vain.get(job.key, -math.inf), AGAIN, now):
            return ""
        if mine is not None and self._stands(mine):
            self._foresee(mine, job.gang, now)
            return self._sentence(mine)
        before = self._before(job, pods)
        if mine is None and (len(before) >= MOST or self._reaches(gang, before, now)):
            return ""
        if not self._may_search(now):
            self._postponed[job.key] = None
            return self._sentence(mine) if mine is not None else ""
        self._searched_at = now
        self._postponed.pop(job.key, None)
        return self._take(job, gang, pods, before, now)

    def _foresee(self, holder: Holder, gang: str, now: float) -> None:
        """Deadlines may be known that were not when its place was found. What was promised stays: it could only move earlier."""
        if math.isfinite(holder.promise) or holder.knew == self._ends.changes:
            return
        holder.knew = self._ends.changes
        found = Search(self._books, self.planner, self._pod_of, self._ends).anew(holder.found, gang, now)
        if math.isfinite(found.start):
            holder.found = found
            holder.promise = self._books.quotas.reservations.reserve(holder.key, found.start, {}, {}).promise
            self._books.cluster.holds.set(holder.key, self._kept(holder))

    def _may_search(self, now: float) -> bool:
        return over(self._searched_at, PAUSE + len(self._books.cluster.pods) // MANY, now)

    def _before(self, job: Job, pods: Sequence[Pod]) -> list[Holder]:
        """Those that hold and that the job does not go before."""
        return [one for one in self.holders.values() if one.key != job.key and not self._ahead(job, pods, one)]

    def _reaches(self, gang: Gang, holders: Sequence[Holder], now: float) -> bool:
        """Whether any of its pods could ever run on a node that is held for these: then it waits behind them."""
        cluster, keys = self._books.cluster, tuple(one.key for one in holders)
        if not holders:
            return False
        if over(self._reached_at, AGAIN, now):
            self._reached, self._reached_at = {}, now
        rows = np.concatenate([cluster.holds.kept[key].rows for key in keys])
        for request in dict.fromkeys(member.request for member in gang.members):
            if (request, keys) not in self._reached:
                self._reached[request, keys] = bool(self._could(request)[rows].any())
            if self._reached[request, keys]:
                return True
        return False

    def _could(self, request: Request) -> Bools:
        """bool[N]: where such a pod could run while nothing else does, whatever is held."""
        cluster = self._books.cluster
        active, cluster.holds.active = cluster.holds.active, ()
        gone = cluster.claims.users if cluster.claims_of(request) else {}
        with cluster.claims.without(gone):
            allowed, room = cluster.allowed(request), capacity(cluster, request) > 0
        cluster.holds.active = active
        return room if allowed is None else room & allowed

    def _take(self, job: Job, gang: Gang, pods: Sequence[Pod], before: Sequence[Holder], now: float) -> str:
        holds = self._books.cluster.holds
        holds.active = tuple(one.key for one in before)
        found = Search(self._books, self.planner, self._pod_of, self._ends)(gang, now)
        if found is None:
            self.waive(job)
            self.in_vain[job.key] = now
            return ""
        self.in_vain.pop(job.key, None)
        self._make_way(job, found, before)
        promise = self._books.quotas.reservations.reserve(job.key, found.start, {}, {}).promise
        who = f"gang {job.gang}" if job.gang else f"pod {pods[0].metadata.namespace}/{pods[0].metadata.name}"
        requests = tuple(dict.fromkeys(member.request for member in gang.members))
        queue = self._books.tenants.home(pods[0]).queue
        safe, knew = guaranteed(self._books, job, pods), self._ends.changes
        mine = Holder(job.key, who, queue, rank(job), safe, found, promise, requests, knew)
        self.holders[job.key] = mine
        self._reached.clear()
        holds.set(job.key, self._kept(mine))
        return self._sentence(mine)

    def _make_way(self, job: Job, found: Found, before: Sequence[Holder]) -> None:
        """Who comes after the job and could use what is held for it now waits behind it."""
        rows, width = [self._books.cluster.row_of[node] for node in found.needs], len(self._books.cluster.columns)
        for one in list(self.holders.values()):
            after = one.key != job.key and all(one.key != other.key for other in before)
            if after and any(len(request.resources) != width or self._could(request)[rows].any() for request in one.requests):
                self.drop(one.key)

    def drop(self, key: str) -> None:
        """It holds no more: whoever was kept away may be tried."""
        del self.holders[key]
        self._reached.clear()
        self._books.cluster.holds.set(key, None)
        self._queue.stir()

    # --- how ---

    def _ahead(self, job: Job, pods: Sequence[Pod], holder: Holder) -> bool:
        if not self._books.tenants.governed or self._books.tenants.home(pods[0]).queue == holder.queue:
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
        rows = [cluster.row_of[node] for node in holder.found.needs]
        gone = users_of(self._books, holder.found.going.values()) if holder.found.claims else {}
        with cluster.claims.without(gone):
            for request in holder.requests:
                allowed = cluster.allowed(request) if len(request.resources) == width else None
                if allowed is not None and not allowed[rows].all():
                    return False
        return True

    def _sentence(self, holder: Holder) -> str:
        names = sorted(holder.found.needs)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        when = "nobody knows when what runs there ends"
        if math.isfinite(holder.promise):
            when = f"free by {datetime.fromtimestamp(holder.promise, UTC):%Y-%m-%dT%H:%M:%SZ} by the deadlines of what runs there"
        return f"it is reserved on {', '.join(names[:SHOWN])}{more}, {when}"
