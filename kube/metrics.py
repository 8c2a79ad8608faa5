"""This room's numbers for Prometheus. A scrape reads what the parts know of themselves; nothing is counted twice.

Names of queues and calls are client-go's, so that dashboards made for controllers fit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from forebay.kube.client import Client
from forebay.kube.informer import Informer
from forebay.kube.leader import Leader
from forebay.kube.recorder import Recorder
from forebay.kube.workers import Workers

Reading = tuple[tuple[str, ...], float]


class Collector:
    """Register it with a `CollectorRegistry`, then hand it each part with the name that it is shown under."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._informers: dict[str, Informer[Any]] = {}
        self._workers: dict[str, Workers[Any]] = {}
        self._clients: dict[str, Client] = {}
        self._recorders: dict[str, Recorder] = {}
        self._leaders: dict[str, Leader] = {}

    def add(self, name: str, part: Informer[Any] | Workers[Any] | Client | Recorder | Leader) -> None:
        with self._lock:
            if isinstance(part, Informer):
                self._informers[name] = part
            elif isinstance(part, Workers):
                self._workers[name] = part
            elif isinstance(part, Client):
                self._clients[name] = part
            elif isinstance(part, Recorder):
                self._recorders[name] = part
            else:
                self._leaders[name] = part

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            healths = {name: part.health() for name, part in self._informers.items()}
            queues = {name: part.statistics() for name, part in self._workers.items()}
            clients = {name: part.statistics() for name, part in self._clients.items()}
            recorders, leaders = dict(self._recorders), dict(self._leaders)

        def of(parts: dict[str, Any], value: Callable[[Any], float]) -> list[Reading]:
            return [((name,), float(value(part))) for name, part in parts.items()]

        copy = ["copy"]
        yield _gauge("forebay_copy_synced", "1 when the copy once held a whole list", copy, of(healths, lambda h: h.synced))
        yield _gauge("forebay_copy_alive", "0 when the copy is not kept any more", copy, of(healths, lambda h: h.alive))
        yield _gauge("forebay_copy_age_seconds", "Since the server last said anything", copy, of(healths, lambda h: h.age))
        yield _gauge("forebay_copy_objects", "Objects held", copy, of(healths, lambda h: h.objects))
        yield _gauge("forebay_copy_broken_objects", "Objects that cannot be read", copy, of(healths, lambda h: h.broken))
        yield _counter("forebay_copy_lists", "Lists begun", copy, of(healths, lambda h: h.lists))
        yield _counter("forebay_copy_watches", "Watches begun", copy, of(healths, lambda h: h.watches))
        yield _gauge("workqueue_depth", "Keys that wait for a worker", ["name"], of(queues, lambda q: q.queued))
        yield _gauge("workqueue_delayed", "Keys that wait for their time", ["name"], of(queues, lambda q: q.delayed))
        yield _gauge("workqueue_processing", "Keys that are worked on", ["name"], of(queues, lambda q: q.processing))
        yield _counter("workqueue_adds", "Calls that made a key dirty", ["name"], of(queues, lambda q: q.added))
        yield _counter("workqueue_retries", "Passes that failed", ["name"], of(queues, lambda q: q.retried))
        calls = [
            ((name, kind), float(getattr(c, kind)))
            for name, c in clients.items()
            for kind in ("reads", "writes", "retries", "refused")
        ]
        yield _counter("forebay_api_calls", "Calls, tries beyond the first, and refusals", ["client", "kind"], calls)
        unwritten = [((name, why), float(getattr(r, why))) for name, r in recorders.items() for why in ("dropped", "failed")]
        yield _counter("forebay_events_not_written", "Events that were not written", ["recorder", "why"], unwritten)
        yield _gauge("leader_election_master_status", "1 while we lead", ["name"], of(leaders, lambda leader: leader.leading))


def _gauge(name: str, text: str, labels: list[str], readings: Sequence[Reading]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for at, value in readings:
        family.add_metric(at, value)
    return family


def _counter(name: str, text: str, labels: list[str], readings: Sequence[Reading]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for at, value in readings:
        family.add_metric(at, value)
    return family
