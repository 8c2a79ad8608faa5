"""Wishes that nodes load what gangs wait for, before they come: which (`locality/prefetch.py`), and what is written of it.

A wish is an annotation of the dataset's DatasetHints, and a bounded one: the controller makes loads of it, or nobody does.
What is wished and seen to come is told to those who choose between waiting and going (`Line`); where nothing is seen to come
nobody waits for it. Where a node is held for a gang (`holding`), that node loads; else the one that the rules of `prefetch`
choose. Only nodes with a worker of the dataset can load, so no others are asked.

What is wished is worked out anew from what waits, and compared with what the copies show: so a restart, a lost write or somebody
else's hand are mended, and a wish ends with the need for it, wherever the gang went.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from forebay.api.kubernetes.core import Pod
from forebay.api.moments import over
from forebay.scheduler.arrays.slots import capacity
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.live.awaiting import Line
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.instructions import Load
from forebay.scheduler.live.nearness import Nearness
from forebay.scheduler.live.reserve.holding import Holder
from forebay.scheduler.live.tenants import Unplaceable
from forebay.scheduler.live.waiting import Job, Queue
from forebay.scheduler.locality import prefetch
from forebay.scheduler.locality.waiting import stall
from forebay.scheduler.pods.request import Request

EVERY = 5.0
"""Seconds between two looks: loads take minutes."""
AGAIN = 15.0
"""Seconds until a wish that the copies do not show is written once more."""
LOOK = 256
"""Jobs that are looked at, the oldest first."""
SHAPES = 16
"""Distinct requests of them whose free places are looked for."""


class Prefetching:
    """Over the rows of `nearness.warmth`. Times are seconds of the epoch."""

    def __init__(self, books: Books, nearness: Nearness, queue: Queue) -> None:
        self._books, self._nearness, self._queue = books, nearness, queue
        self.loads = prefetch.Loads()
        self._names: tuple[str, ...] = ()
        self._looked_at = -np.inf
        self._waited: dict[str, tuple[int, tuple[str, ...]]] = {}  # job -> column of its data, its pods
        self._runs: dict[int, float] = {}  # column -> when a gang last started with it
        self._written: dict[str, tuple[str, float]] = {}
        self._most: dict[tuple[str, str], float] = {}  # node, dataset -> the largest share that a load there was seen with
        self._grew: dict[tuple[str, str], float] = {}  # the same -> when that last became more

    def begin(self, now: float, pods: Mapping[str, Pod]) -> None:
        """Before the first pass: what an earlier run has asked for, and is seen to run, counts and goes on."""
        if self._looked_at > -np.inf or not self._nearness.published or not self._nearness.settings.orders:
            return
        self._follow()
        warmth = self._nearness.warmth
        for dataset, nodes in self._nearness.wished.items():
            column = warmth.column_of.get(dataset)
            rows = [(name, warmth.row_of[name]) for name in nodes.split(",") if name in warmth.row_of]
            if column is None or not rows:
                continue
            left = warmth.remaining(column, now)
            for name, row in rows:
                if np.isfinite(left[row]):
                    self.loads.ask(row, column, now, started=False)
                    self._grew[name, dataset] = now
        self._tell(self._outlook(now, self._waiting(pods), pods))

    def look(self, now: float, pods: Mapping[str, Pod], holders: Iterable[Holder]) -> list[Load]:
        """What is to be written. `pods`: those that wait; `holders`: who is held a place."""
        if not over(self._looked_at, EVERY, now) or not self._nearness.published:
            return []
        self._looked_at = now
        if not self._nearness.settings.orders:
            self._nearness.line = Line()
            return self._write({}, now)
        self._follow()
        waits = self._waiting(pods)
        self._departed(waits, now)
        self._waited = {key: (column, tuple(job.pods)) for key, (job, column) in waits.items()}
        see = self._outlook(now, waits, pods)
        running = np.zeros(len(see.size), np.bool_)
        self._runs = {column: at for column, at in self._runs.items() if now - at < prefetch.TIMEOUT}
        running[list(self._runs)] = True
        self._growing(see)
        prefetch.review(self.loads, see, running)
        for holder in holders:
            if holder.key in waits:
                self._held(see, *waits[holder.key], holder)
        prefetch.from_store(self.loads, see)
        prefetch.copies(self.loads, see)
        self._tell(see)
        wished: dict[str, list[str]] = {}
        for row, column in self.loads.since:
            wished.setdefault(self._nearness.warmth.datasets[column], []).append(self._names[row])
        return self._write({name: ",".join(sorted(nodes)) for name, nodes in wished.items()}, now)

    # --- how ---

    def _growing(self, see: prefetch.Outlook) -> None:
        """Loads that have brought a byte since the last look. A hint that is silent and then speaks again brings none."""
        datasets, before = self._nearness.warmth.datasets, self._most
        shares = {(self._names[row], datasets[column]): float(see.ratio[row, column]) for row, column in self.loads.since}
        self._grew = {one: at for one, at in self._grew.items() if see.now - at <= self._silent()}
        self._grew |= {one: see.now for one, share in shares.items() if share > before.get(one, share)}
        self._most = {one: max(share, before.get(one, 0.0)) for one, share in shares.items()}

    def _tell(self, see: prefetch.Outlook) -> None:
        """What waits for its turn at the store, and behind whom."""
        datasets, now, silent = self._nearness.warmth.datasets, see.now, self._silent()
        asked, behind = dict[str, tuple[str, ...]](), dict[str, float]()
        for (row, column), since in self.loads.since.items():
            node, dataset = self._names[row], datasets[column]
            grew = self._grew.get((node, dataset), -np.inf)
            if now - max(grew, since) <= silent and self._grew:
                asked[dataset] = (*asked.get(dataset, ()), node)
            if see.far[column] and now - grew <= silent:
                behind[dataset] = max(grew, behind.get(dataset, -np.inf))
        turn = see.far & see.loadable & (see.able.any(axis=0) if see.able is not None else True)
        turn[[column for _, column in self.loads.since]] = False
        waits = frozenset(name for at in np.flatnonzero(turn) if (name := datasets[at]) in self._nearness.wished)
        self._nearness.line = Line(tuple(sorted(behind)), max(behind.values(), default=-np.inf), waits, asked, silent)

    def _silent(self) -> float:
        return stall(len(self._books.cluster.nodes))

    def _follow(self) -> None:
        self._nearness.follow()
        rows = self._nearness.warmth.row_of
        names = tuple(self._nearness.warmth.nodes)
        if names != self._names:
            self.loads.move({old: rows[name] for old, name in enumerate(self._names) if name in rows})
            self._names = names

    def _waiting(self, pods: Mapping[str, Pod]) -> dict[str, tuple[Job, int]]:
        found: dict[str, tuple[Job, int]] = {}
        for job in sorted(self._queue.jobs.values(), key=lambda one: (one.since, one.key))[:LOOK]:
            name = next((name for uid in job.pods if (name := self._nearness.dataset(pods[uid]))), "")
            if name:
                found[job.key] = job, self._nearness.warmth.column_of[name]
        return found

    def _departed(self, waits: Mapping[str, tuple[Job, int]], now: float) -> None:
        """Who has started since: the nodes with at least half of its pods go on loading, the others stop if nobody else waits."""
        wanted = {column for _, column in waits.values()}
        for key, (column, uids) in self._waited.items():
            if key in self._queue.jobs:
                continue
            there = [self._books.cluster.pods[uid].row for uid in uids if uid in self._books.cluster.pods]
            main = {row for row in there if row >= 0 and there.count(row) >= prefetch.MAIN * len(uids)}
            for one in list(self.loads.since):
                if one[1] == column and one[0] not in main and column not in wanted:
                    self.loads.drop(one)
            if main:
                self._runs[column] = now

    def _held(self, see: prefetch.Outlook, job: Job, column: int, holder: Holder) -> None:
        """The nodes that are held for a gang load what it will read there."""
        rows = self._nearness.warmth.row_of
        for node, count in sorted(holder.pods.items(), key=lambda one: (-one[1], one[0])):
            row = rows.get(node)
            if row is None or see.size[column] == 0 or len(self.loads.rows(column)) >= prefetch.STORE_LOADS:
                continue
            if count >= prefetch.MAIN * len(job.pods) and see.ratio[row, column] < prefetch.WARM and see.can(row, column):
                self.loads.ask(row, column, see.now, started=False)

    def _outlook(self, now: float, waits: Mapping[str, tuple[Job, int]], pods: Mapping[str, Pod]) -> prefetch.Outlook:
        warmth = self._nearness.warmth
        size, held = warmth.size, warmth.believed(now)
        waited, many = np.zeros(len(size)), np.zeros(len(size), np.int64)
        for job, column in waits.values():
            waited[column] += max(now - job.since, 0.0)
            many[column] += len(job.pods)
        ratio = np.minimum(held / np.maximum(size, 1), 1.0)
        known = bool((now - warmth.observed <= 120.0).any())
        far: Bools = (ratio.max(axis=0, initial=0.0) < prefetch.WARM) & (size > 0) & known
        free, most = self._room(waits, pods)
        able = self._nearness.workers(len(size))
        return prefetch.Outlook(now, ratio, far, size, waited, many, free, prefetch.loadable(size, 0), most, able)

    def _room(self, waits: Mapping[str, tuple[Job, int]], pods: Mapping[str, Pod]) -> tuple[Bools, int]:
        """Nodes with a place for any of them, and the most that an empty node has."""
        cluster = self._books.cluster
        count: Ints = np.zeros(len(cluster), np.int64)
        most = 1
        seen = set[Request]()
        for job, _ in waits.values():
            try:
                request = self._books.request(pods[next(iter(job.pods))])
            except Unplaceable:
                continue
            if request not in seen and len(seen) < SHAPES:
                seen.add(request)
                count = np.maximum(count, cluster.feasible(request, cluster.rows))
                most = max(most, int(capacity(cluster, request).max(initial=0)))
        return count > 0, most

    def _write(self, wished: Mapping[str, str], now: float) -> list[Load]:
        """Only where there are hints to write on: they come with the first pod that waits."""
        found = list[Load]()
        for name, there in self._nearness.wished.items():
            wanted = wished.get(name, "")
            if wanted == there:
                self._written.pop(name, None)
                continue
            said, at = self._written.get(name, ("", -np.inf))
            if said != wanted or now - at >= AGAIN:
                self._written[name] = wanted, now
                namespace, _, short = name.partition("/")
                found.append(Load(namespace, short, wanted))
        return found
