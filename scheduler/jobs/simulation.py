"""The loop of the simulation: arrivals, decisions, reading, ends. The policy is asked as production asks it, and never trusted.

Time goes in ticks. What arrives or ends within a tick is seen at the next one; times of first batches and ends are exact within
the tick. Every plan is checked against books of this module's own: a gang is whole, and no card is given twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.decision import Ask, Decision
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.jobs.caches import Caches
from forebay.scheduler.jobs.fleet import Fleet, Moved
from forebay.scheduler.jobs.workload import Cluster, Workload
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Plan
from forebay.scheduler.pods.request import FULL, Request

CARD = Request((), 1, FULL)
"""What one pod asks: a whole card."""
PATIENCE = 3_000_000.0
"""Virtual seconds without any end or start after which a run is given up: a policy that starts nobody would never end."""


class Scheduler(Protocol):
    """What the simulation asks of a policy. It owns the books of `state` and gives cards back in `finished`."""

    def submit(self, ask: Ask) -> None: ...
    def decide(self, now: float, warmth: Warmth) -> Decision: ...
    def finished(self, plan: Plan) -> None: ...


class Broken(RuntimeError):
    """A policy did what must never happen."""


@dataclass
class Outcome:
    """Of one run; times in seconds since the first arrival, by job."""

    start: Floats
    batch: Floats
    end: Floats
    moved: Moved
    read: float
    ticks: int = 0
    decisions: int = 0
    timeline: list[tuple[float, int, int, float, float]] = field(default_factory=list)
    """Now and then: time, jobs waiting, cards busy, local bytes so far, bytes read so far."""


def state_of(cluster: Cluster) -> State:
    """The cluster's books."""
    width = len(str(cluster.nodes - 1))
    nodes = [Node(f"node-{i:0{width}}", {}, (Card("card"),) * cluster.cards) for i in range(cluster.nodes)]
    return State(nodes, [])


def dataset_name(at: int) -> str:
    """Datasets by rank."""
    return f"sim/data-{at:03}"


def ask_of(workload: Workload, index: int) -> Ask:
    """Job `index` as the gang that is submitted."""
    job = workload.jobs[index]
    name = f"job-{index:05}"
    members = [Member(f"{name}-{pod}", CARD) for pod in range(job.pods)]
    return Ask(Gang(name, members, job.pods), dataset_name(job.dataset), job.arrival)


class Books:
    """Which cards are taken, apart from anything a policy keeps."""

    def __init__(self, state: State, cards: int) -> None:
        self.row_of = state.row_of
        self.cards = cards
        self.taken: set[tuple[int, int]] = set()

    def take(self, plan: Plan, pods: int) -> dict[int, int]:
        """Pods by node. Raises Broken for a gang that is not whole, a card that is taken, or one that does not exist."""
        if len({one.pod for one in plan.placements}) != pods or len(plan.placements) != pods or plan.waiting:
            raise Broken(f"{plan.gang}: {len(plan.placements)} of {pods} pods were placed: a gang starts whole or not at all")
        counts = dict[int, int]()
        for one in plan.placements:
            row = self.row_of[one.node]
            if len(one.cards) != 1 or not 0 <= one.cards[0] < self.cards or (row, one.cards[0]) in self.taken:
                raise Broken(f"{plan.gang}: cards {one.cards} of {one.node} are not one free card")
            self.taken.add((row, one.cards[0]))
            counts[row] = counts.get(row, 0) + 1
        return counts

    def give(self, plan: Plan) -> None:
        """The gang ended."""
        self.taken -= {(self.row_of[one.node], one.cards[0]) for one in plan.placements}


class Simulation:
    """One run. `lie`, if given, turns what nodes hold into what they say they hold: (held, now) -> held."""

    def __init__(
        self,
        workload: Workload,
        scheduler: Scheduler,
        state: State,
        *,
        tick: float = 4.0,
        hints: float = 10.0,
        tail: float = 40.0,
        lie: Callable[[Ints, float], Ints] | None = None,
    ) -> None:
        if not tick > 0 or not hints > 0 or not tail > 0:
            raise ValueError(f"ticks of {tick} s, {tail} s at the end, hints every {hints} s: give positive times")
        self.workload, self.scheduler, self.state = workload, scheduler, state
        self.tick, self.hints, self.tail, self.lie = float(tick), float(hints), float(tail), lie
        cluster, sizes = workload.cluster, np.array(workload.sizes, np.int64)
        self.caches = Caches(cluster.nodes, sizes, cluster.cache_bytes)
        self.fleet = Fleet(workload, self.caches)
        self.books = Books(state, cluster.cards)
        self.warmth = Warmth(state.names, cluster.store_bytes_per_second, cluster.nic_bytes_per_second)
        for at, size in enumerate(workload.sizes):
            self.warmth.resize(dataset_name(at), size)
        self.plans: dict[int, Plan] = {}

    def run(self, watch: Callable[[float, Decision], None] | None = None) -> Outcome:
        """To the end of the last job. `watch` sees every decision that says anything."""
        jobs = self.workload.jobs
        blank = np.full(len(jobs), math.nan)
        read = float(sum(self.workload.sizes[job.dataset] for job in jobs)) * self.workload.shape.epochs
        out = Outcome(blank, blank.copy(), blank.copy(), self.fleet.moved, read)
        nxt, ended, now, spoken, moved = 0, 0, 0.0, -1.0, 0.0
        every = max(1, int(60 / self.tick))
        while ended < len(jobs):
            while nxt < len(jobs) and jobs[nxt].arrival <= now:
                self.scheduler.submit(ask_of(self.workload, nxt))
                nxt += 1
            if now // self.hints > spoken:
                spoken = now // self.hints
                held = np.rint(self.caches.held).astype(np.int64)
                self.warmth.set_all(held if self.lie is None else self.lie(held, now), now)
            decision = self.scheduler.decide(now, self.warmth)
            if watch is not None:
                watch(now, decision)
            for plan in decision.plans:
                index = int(plan.gang.removeprefix("job-"))
                self.fleet.start(index, self.books.take(plan, jobs[index].pods))
                self.plans[index] = plan
                out.start[index] = moved = now
            out.decisions += len(decision.plans)
            self._prefetch(decision)
            tick = self.tick if nxt < len(jobs) or nxt > ended + len(self.fleet) else self.tail
            batches, ends = self.fleet.tick(now, tick)
            for index, at in batches:
                out.batch[index] = at
            for index, at in ends:
                out.end[index] = at
                plan = self.plans.pop(index)
                self.books.give(plan)
                self.scheduler.finished(plan)
                ended += 1
                moved = now
            if out.ticks % every == 0 or tick > self.tick:
                seen = self.fleet.moved
                total = seen.local + seen.peer + seen.store
                out.timeline.append((now, nxt - ended - len(self.fleet), len(self.books.taken), seen.local, total))
            out.ticks += 1
            now = self._next(now + tick, nxt, moved)
        return out

    def _prefetch(self, decision: Decision) -> None:
        wanted = {(self.state.row_of[one.node], self.warmth.column(one.dataset)): None for one in decision.prefetch}
        full = np.minimum(self.caches.size, self.caches.capacity) - 1.0
        self.fleet.prefetch = {one: None for one in wanted if self.caches.held[one] < full[one[1]]}

    def _next(self, now: float, nxt: int, moved: float) -> float:
        """The next tick, `now`; where nothing runs or waits, the one that sees the next arrival."""
        if not len(self.fleet) and not self.fleet.prefetch and nxt < len(self.workload.jobs):
            arrival = self.workload.jobs[nxt].arrival
            if nxt == len(self.plans) and arrival > now:
                now = math.ceil(arrival / self.tick) * self.tick
        if now - moved > PATIENCE:
            raise Broken(f"nothing started or ended for {PATIENCE:.0f} s: {nxt - len(self.plans)} jobs wait for ever")
        return now
