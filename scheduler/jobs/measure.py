"""Runs a policy on a workload and says what came of it; compares policies seed by seed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.decision import Decision
from forebay.scheduler.dispatcher import Dispatcher
from forebay.scheduler.jobs.baselines import Fifo
from forebay.scheduler.jobs.simulation import Outcome, Scheduler, Simulation, state_of
from forebay.scheduler.jobs.workload import Workload
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.snapshot import Record, Writer, capture

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""0.975 quantile of Student's t for 1, 2, ... degrees of freedom."""


class Delay(msgspec.Struct, frozen=True):
    """Seconds over all jobs."""

    mean: float
    p50: float
    p90: float
    p99: float
    most: float


class Result(msgspec.Struct, frozen=True):
    """One run. Bytes as the pods read them, and as they were moved: `remote` are peer, store and both kinds of prefetch."""

    policy: str
    seed: int
    sigma: float
    load: float
    jobs: int
    local_share: float
    read_bytes: int
    local_bytes: int
    remote_bytes: int
    peer_bytes: int
    store_bytes: int
    prefetch_peer_bytes: int
    prefetch_store_bytes: int
    evicted_bytes: int
    first_batch_seconds: Delay
    first_batch_by_pods: dict[int, float]
    """Pods of the gang -> mean seconds."""
    makespan_seconds: float
    seconds: float
    """CPU seconds that the run took."""


POLICIES = ("forebay", "fluid", "fluid-spread", "affinity", "affinity-passing")


def make(policy: str, state: State, cache_bytes: int) -> Scheduler:
    """The named policy over the books of a cluster. Raises ValueError with the names there are."""
    if policy not in POLICIES:
        raise ValueError(f'there is no policy "{policy}": choose of {", ".join(POLICIES)}')
    if policy == "forebay":
        return Dispatcher(state, cache_bytes)
    return Fifo(state, policy.removesuffix("-passing"), passing=policy.endswith("-passing"))


class Dumping:
    """A dispatcher whose passes are written down now and then."""

    def __init__(self, dispatcher: Dispatcher, dump: Writer, every: float) -> None:
        self._dispatcher, self._dump, self._every, self._due = dispatcher, dump, every, 0.0
        self.submit, self.finished = dispatcher.submit, dispatcher.finished

    def decide(self, now: float, warmth: Warmth) -> Decision:
        if now < self._due:
            return self._dispatcher.decide(now, warmth)
        self._due = now + self._every
        before = capture(self._dispatcher, warmth, now)
        decision = self._dispatcher.decide(now, warmth)
        self._dump.add(Record(before, decision))
        return decision


def run(
    workload: Workload,
    policy: str,
    *,
    tick: float = 4.0,
    hints: float = 10.0,
    tail: float = 40.0,
    dump: Writer | None = None,
    every: float = 600.0,
) -> tuple[Result, Outcome]:
    """One run to its end. `dump` gets a record of a pass every so many virtual seconds; only `forebay` can be dumped."""
    began = time.process_time()
    state = state_of(workload.cluster)
    scheduler = make(policy, state, workload.cluster.cache_bytes)
    if dump is not None:
        if not isinstance(scheduler, Dispatcher):
            raise ValueError(f"{policy} is a baseline: only passes of forebay can be dumped")
        scheduler = Dumping(scheduler, dump, every)
    simulation = Simulation(workload, scheduler, state, tick=tick, hints=hints, tail=tail)
    outcome = simulation.run()
    return result(workload, policy, simulation, outcome, time.process_time() - began), outcome


def result(workload: Workload, policy: str, simulation: Simulation, outcome: Outcome, seconds: float) -> Result:
    """The figures of a run that has ended."""
    waits = outcome.batch - np.array([job.arrival for job in workload.jobs])
    pods = np.array([job.pods for job in workload.jobs])
    moved = outcome.moved
    read = moved.local + moved.peer + moved.store
    p50, p90, p99 = (float(value) for value in np.quantile(waits, (0.5, 0.9, 0.99)))
    return Result(
        policy,
        workload.seed,
        workload.shape.sigma,
        workload.shape.load,
        len(workload.jobs),
        moved.local / read,
        round(read),
        round(moved.local),
        round(moved.peer + moved.store + moved.prefetch_peer + moved.prefetch_store),
        round(moved.peer),
        round(moved.store),
        round(moved.prefetch_peer),
        round(moved.prefetch_store),
        round(simulation.caches.evicted),
        Delay(float(waits.mean()), p50, p90, p99, float(waits.max())),
        {int(many): float(waits[pods == many].mean()) for many in np.unique(pods)},
        float(outcome.end.max()),
        round(seconds, 2),
    )


class Interval(msgspec.Struct, frozen=True):
    """A mean over seeds and its two-sided 95 % bounds (Student); the bounds are the mean where there is one seed."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        mean = statistics.fmean(values)
        if len(values) < 2 or len(values) > len(STUDENT) + 1:
            return cls(mean, mean, mean)
        half = STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
        return cls(mean, mean - half, mean + half)


class Comparison(msgspec.Struct, frozen=True):
    """Ours against one baseline, paired by seed. Ratios above 1 are for us, a delay ratio below 1 is."""

    baseline: str
    baseline_local: float
    local: Interval
    """Ours / baseline, bytes read from the local cache."""
    remote: Interval
    """Baseline / ours, bytes moved, prefetches included."""
    delay: Interval
    """Ours / baseline, mean time to first batch."""


def compare(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> Comparison:
    """Over the seeds both have. Raises ValueError where there is none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError("the two policies were run on no common seed")
    return Comparison(
        theirs[seeds[0]].policy,
        statistics.fmean(theirs[seed].local_share for seed in seeds),
        Interval.of([ours[seed].local_bytes / theirs[seed].local_bytes for seed in seeds]),
        Interval.of([theirs[seed].remote_bytes / ours[seed].remote_bytes for seed in seeds]),
        Interval.of([ours[seed].first_batch_seconds.mean / theirs[seed].first_batch_seconds.mean for seed in seeds]),
    )


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """`forebay` against every other policy of these runs, which share sigma and load; [] where either is missing."""
    by_policy = dict[str, dict[int, Result]]()
    for one in results:
        by_policy.setdefault(one.policy, {})[one.seed] = one
    ours = by_policy.pop("forebay", None)
    return [] if ours is None else [compare(ours, theirs) for theirs in by_policy.values()]
