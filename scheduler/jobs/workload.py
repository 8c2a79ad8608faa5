"""The workload of `forebay sim jobs`: arrivals and gang sizes of a recorded trace, datasets drawn by seed."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

MOST_PODS = 100_000


class Cluster(msgspec.Struct, frozen=True):
    """Nodes that are all alike. Bytes, and bytes per second; the NIC carries that much each way."""

    nodes: int = 64
    cards: int = 8
    cache_bytes: int = 2_000_000_000_000
    nic_bytes_per_second: int = 12_500_000_000
    store_bytes_per_second: int = 5_000_000_000
    card_bytes_per_second: int = 1_000_000_000

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) <= 0:
                raise ValueError(f"cluster: {field} is {getattr(self, field)}: give a positive number")


class Shape(msgspec.Struct, frozen=True):
    """How datasets are drawn, and what a job does with its dataset."""

    datasets: int = 200
    median_bytes: int = 200_000_000_000
    sigma: float = 1.0
    zipf: float = 0.9
    jobs: int = 3000
    """Of the trace, in a row; 0 for all."""
    epochs: int = 3
    first_batch_bytes: int = 64_000_000
    load: float = 0.9

    def __post_init__(self) -> None:
        for field in ("datasets", "median_bytes", "epochs", "first_batch_bytes", "load"):
            if not getattr(self, field) > 0:
                raise ValueError(f"workload: {field} is {getattr(self, field)}: give a positive number")
        for field in ("sigma", "zipf"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"workload: {field} is {getattr(self, field)}: give 0 or more")


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One line of the trace: seconds since its first, and how many pods of one card start together."""

    seconds: float
    pods: int


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One job as simulated: `dataset` is an index into the sizes."""

    arrival: float
    pods: int
    dataset: int


class Workload(msgspec.Struct, frozen=True):
    """All that a run starts from, apart from the policy."""

    seed: int
    cluster: Cluster
    shape: Shape
    sizes: list[int]
    jobs: list[Job]


def read_trace(path: Path) -> list[Arrival]:
    """Arrivals of a CSV with the columns `arrival_s` and `scale_factor`, in file order. Raises ValueError with file and line."""
    found = list[Arrival]()
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        if missing := {"arrival_s", "scale_factor"} - set(lines.fieldnames or ()):
            raise ValueError(f"{path}: the column {' and '.join(sorted(missing))} is missing: give arrival_s and scale_factor")
        for row in lines:
            try:
                at, pods = float(row["arrival_s"]), int(row["scale_factor"])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}:{lines.line_num}: arrival_s {row['arrival_s']!r}, scale_factor {row['scale_factor']!r}: give numbers"
                ) from None
            if not 0 <= at < math.inf or not 1 <= pods <= MOST_PODS:
                raise ValueError(f"{path}:{lines.line_num}: arrival_s {at}, scale_factor {pods}: give times from 0, sizes from 1")
            found.append(Arrival(at, pods))
    if not found:
        raise ValueError(f"{path}: has no jobs: give a file with at least one line below its header")
    return sorted(found, key=lambda one: one.seconds)


def draw(trace: Sequence[Arrival], cluster: Cluster, shape: Shape, seed: int) -> Workload:
    """Sizes, datasets and the part of the trace by seed; arrival times scaled by one factor to the load.

    The load is the cards' time at full speed (epochs x size / card's rate, whatever the gang's size) over what the cluster has
    until the last arrival. Raises ValueError for a gang larger than the cluster and for a trace without duration.
    """
    if (most := max(one.pods for one in trace)) > cluster.nodes * cluster.cards:
        raise ValueError(f"a job of the trace asks for {most} cards, the cluster has {cluster.nodes * cluster.cards}")
    sizes_draw, ranks_draw, place_draw = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3))
    if 0 < shape.jobs < len(trace):
        begin = int(place_draw.integers(len(trace) - shape.jobs + 1))
        trace = trace[begin : begin + shape.jobs]
    sizes = np.maximum(1, np.rint(shape.median_bytes * np.exp(shape.sigma * sizes_draw.standard_normal(shape.datasets))))
    popularity = 1.0 / np.arange(1, shape.datasets + 1) ** shape.zipf
    edges = np.cumsum(popularity) / popularity.sum()
    chosen = np.minimum(np.searchsorted(edges, ranks_draw.random(len(trace)), side="right"), shape.datasets - 1)
    first = trace[0].seconds
    span = trace[-1].seconds - first
    if span <= 0:
        raise ValueError("all jobs of the trace arrive at once: there is no time to scale to a load")
    busy = float(sizes[chosen].sum()) * shape.epochs / cluster.card_bytes_per_second
    factor = busy / (shape.load * cluster.nodes * cluster.cards * span)
    jobs = [Job((one.seconds - first) * factor, one.pods, int(at)) for one, at in zip(trace, chosen, strict=True)]
    return Workload(seed, cluster, shape, [int(size) for size in sizes], jobs)
