"""Numbers for Prometheus: kube-scheduler's names where it has them, ours for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Reading(NamedTuple):
    """What a scrape reads of the core; written by the deciding thread after each pass, as one value."""

    attempts: dict[str, int]
    outcomes: dict[str, int]
    pending: dict[str, int]
    flights: int
    races: int
    partial_gangs: int
    preempted: int
    nodes: int
    overfull: int


class Metrics:
    """`profile`: the scheduler's name, a label as in kube-scheduler. `untold`: Events that a bound left out."""

    def __init__(self, registry: CollectorRegistry, profile: str, untold: Callable[[], int]) -> None:
        self._profile, self._untold = profile, untold
        self.reading: Reading | None = None
        self.reloads = {"good": 0, "bad": 0}
        self.defects = 0
        self.passes = Histogram(
            "scheduler_scheduling_algorithm_duration_seconds", "One pass over the queue", buckets=BOUNDS, registry=registry
        )
        self.bindings = Histogram("scheduler_binding_duration_seconds", "One binding call", buckets=BOUNDS, registry=registry)
        self.waited = Histogram(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "From a pod's first being seen to its being bound",
            buckets=(*BOUNDS, 60.0, 300.0, 1800.0, 7200.0),
            registry=registry,
        )
        registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        reloads = CounterMetricFamily("forebay_scheduler_config_reloads", "Configuration files read anew", labels=["result"])
        for result, count in self.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        yield CounterMetricFamily("forebay_scheduler_defects", "Changes that were not taken in: see the log", value=self.defects)
        yield CounterMetricFamily("forebay_scheduler_events_left_out", "Scheduled Events beyond the bound", value=self._untold())
        now = self.reading
        if now is None:
            return
        tries = CounterMetricFamily("scheduler_schedule_attempts", "Pods tried, by result", labels=["result", "profile"])
        for result, count in now.attempts.items():
            tries.add_metric([result, self._profile], count)
        yield tries
        waiting = GaugeMetricFamily("scheduler_pending_pods", "Jobs that wait, by queue", labels=["queue"])
        for where, count in now.pending.items():
            waiting.add_metric([where], count)
        yield waiting
        binds = CounterMetricFamily("forebay_scheduler_bindings", "Bindings, by what came of them", labels=["result"])
        for result, count in now.outcomes.items():
            binds.add_metric([result], count)
        yield binds
        yield CounterMetricFamily("scheduler_preemption_victims", "Pods deleted to make room", value=now.preempted)
        yield CounterMetricFamily(
            "forebay_scheduler_races", "Decisions called back because another pod was on the node first", value=now.races
        )
        yield CounterMetricFamily("forebay_scheduler_partial_gangs", "Gangs reported as bound in part", value=now.partial_gangs)
        yield GaugeMetricFamily("forebay_scheduler_flights", "Pods placed and not seen bound yet", value=now.flights)
        yield GaugeMetricFamily("forebay_scheduler_nodes", "Nodes known", value=now.nodes)
        yield GaugeMetricFamily("forebay_scheduler_overfull_cards", "Cards that hold more than they have", value=now.overfull)
