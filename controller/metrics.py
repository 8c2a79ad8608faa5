"""Numbers of the datasets, read from the copies at each scrape. Names that Fluid has too are Fluid's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from types import TracebackType
from typing import Any

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from forebay.controller.copies import UNDRIVEN, Copies, path
from forebay.controller.datasets.mapping import phase_of

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds of one pass."""


class Passes:
    """How long passes took. `with passes:` around each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = threading.local()
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def __enter__(self) -> None:
        self._began.at = monotonic()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        took = monotonic() - self._began.at
        at = next((i for i, bound in enumerate(BOUNDS) if took <= bound), len(BOUNDS))
        with self._lock:
            self._counts[at] += 1
            self._sum += took

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        with self._lock:
            total, buckets = 0, []
            for bound, count in zip((*BOUNDS, None), self._counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound is None else repr(bound), float(total)))
            return buckets, self._sum


class Collector:
    """Register it beside `kube.metrics.Collector`."""

    def __init__(self, copies: Copies, passes: Passes) -> None:
        self._copies, self._passes = copies, passes

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        phases: Counter[str] = Counter()
        files = GaugeMetricFamily("dataset_ufs_file_num", "Files of the dataset in its stores", labels=["dataset"])
        total = GaugeMetricFamily("dataset_ufs_total_size", "Bytes of the dataset in its stores", labels=["dataset"])
        cached = GaugeMetricFamily("forebay_dataset_cached_bytes", "Bytes that workers hold", labels=["dataset"])
        for dataset in self._copies.stores["Dataset"].values():
            status: dict[str, Any] = dataset.status if isinstance(dataset.status, dict) else {}
            phases[str(status.get("phase") or "New")] += 1
            measured = status.get("measured")
            if not isinstance(measured, dict):
                continue
            at = [path(dataset.metadata.namespace, dataset.metadata.name)]
            files.add_metric(at, measured.get("files", 0))
            total.add_metric(at, measured.get("totalBytes", 0))
            cached.add_metric(at, measured.get("cachedBytes", 0))
        operations = GaugeMetricFamily("forebay_operations", "Data operations by kind and phase", labels=["kind", "phase"])
        for kind in ("DataLoad", *UNDRIVEN):
            known = Counter(phase_of(thing) or "New" for thing in self._copies.stores[kind].values())
            for phase, count in sorted(known.items()):
                operations.add_metric([kind, phase], count)
        by_phase = GaugeMetricFamily("forebay_datasets", "Datasets by what their status says", labels=["phase"])
        for phase, count in sorted(phases.items()):
            by_phase.add_metric([phase], count)
        buckets, seconds = self._passes.histogram()
        took = HistogramMetricFamily("forebay_pass_seconds", "One pass over one dataset")
        took.add_metric([], buckets, seconds)
        yield from (by_phase, operations, files, total, cached, took)
