"""What the planner believes about where data is: arrays filled from hints, and nothing that a hint could break.

A hint is never trusted beyond what is possible: bytes are cut at the dataset's size, negative ones count 0, a time in the future
is now, unknown nodes are left out. A hint older than `STALE` seconds counts as no hint: the node is cold. So wrong hints cost
time (a gang reads from afar what was said to be near) and can neither stop a gang nor book a card twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus, Warming
from forebay.api.moments import moment
from forebay.scheduler.arrays.types import Floats, Ints

STALE = 120.0
"""Seconds after which a hint is none. Nodes publish on change alone, so that an idle cluster writes nothing: whoever sees that a
node and its plugin live says so with `Warmth.still`."""


class Warmth:
    """Arrays over the nodes of a state [N] and the datasets anybody named [D].

    held      int64[N, D]    bytes of the dataset on the node
    eta       float64[N, D]  seconds from `observed` until a load that runs there is done, nan where none does
    observed  float64[N]     when the node said so; -inf for never
    size      int64[D]       bytes of the dataset, 0 while nobody knows
    store, nic               bytes per second of all stores together and of one node, as measured or configured; 0 for unknown
    """

    def __init__(self, nodes: Sequence[str], store: int = 0, nic: int = 0) -> None:
        self.nodes = tuple(nodes)
        self.row_of = {name: row for row, name in enumerate(self.nodes)}
        self.datasets: list[str] = []
        self.column_of: dict[str, int] = {}
        self.held: Ints = np.zeros((len(self.nodes), 0), np.int64)  # these two lie column by column: one dataset is asked about
        self.eta: Floats = np.zeros((len(self.nodes), 0))
        self.observed: Floats = np.full(len(self.nodes), -np.inf)
        self.size: Ints = np.zeros(0, np.int64)
        self.store, self.nic = store, nic

    def follow(self, nodes: Sequence[str]) -> bool:
        """The cluster's rows as they are now: what is known of a node stays with its name. Whether anything changed."""
        if len(nodes) == len(self.nodes) and all(map(str.__eq__, nodes, self.nodes)):
            return False
        old, self.nodes = self.row_of, tuple(nodes)
        self.row_of = {name: row for row, name in enumerate(self.nodes) if name}
        kept = [(row, old[name]) for name, row in self.row_of.items() if name in old]
        held, eta, observed = self.held, self.eta, self.observed
        self.held = np.zeros((len(nodes), held.shape[1]), np.int64, order="F")
        self.eta = np.full((len(nodes), held.shape[1]), math.nan, order="F")
        self.observed = np.full(len(nodes), -np.inf)
        for row, before in kept:
            self.held[row], self.eta[row], self.observed[row] = held[before], eta[before], observed[before]
        return True

    def column(self, dataset: str) -> int:
        """Index of a dataset, `namespace/name`; a new one is cold everywhere and of unknown size."""
        at = self.column_of.get(dataset)
        if at is None:
            at = self.column_of[dataset] = len(self.datasets)
            self.datasets.append(dataset)
            self.held = np.asfortranarray(np.pad(self.held, ((0, 0), (0, 1))))
            self.eta = np.asfortranarray(np.pad(self.eta, ((0, 0), (0, 1)), constant_values=math.nan))
            self.size = np.pad(self.size, (0, 1))
        return at

    def resize(self, dataset: str, size: int) -> None:
        """What is known of a dataset's size; a negative one is unknown."""
        at = self.column(dataset)
        self.size[at] = max(size, 0)
        np.minimum(self.held[:, at], self.size[at], out=self.held[:, at], where=self.size[at] > 0)

    def node_says(self, name: str, status: NodeCacheStatus, now: float) -> bool:
        """A NodeCache: all that the node holds. False if the node is not one of ours."""
        row = self.row_of.get(name)
        if row is None:
            return False
        self.forget(name)
        self.observed[row] = seconds(status.observed_time, now)
        for one in status.datasets:
            at = self.column(f"{one.namespace}/{one.name}")
            self.held[row, at] = self._possible(sum(max(tier.bytes, 0) for tier in one.tiers), at)
            warming = one.warming
            if isinstance(warming, Warming) and warming.eta_seconds > 0:
                self.eta[row, at] = warming.eta_seconds
        return True

    def still(self, name: str, now: float) -> None:
        """The node lives and has nothing new to say: what it said last holds now. Nothing for one that never spoke."""
        row = self.row_of.get(name)
        if row is None or not math.isfinite(self.observed[row]) or now <= self.observed[row]:
            return
        self.eta[row] -= now - self.observed[row]  # a load that should be done by now stays late: below zero nobody counts on it
        self.observed[row] = now

    def dataset_says(self, name: str, status: DatasetHintsStatus, now: float) -> None:
        """A DatasetHints: the size, and what nodes hold as far as their own NodeCache did not say so later."""
        self.resize(name, status.total_bytes)
        at, written = self.column(name), seconds(status.observed_time, now)
        for one in status.nodes:
            row = self.row_of.get(one.name)
            if row is None or self.observed[row] > written:
                continue
            if math.isfinite(self.observed[row]):
                self.eta[row] -= written - self.observed[row]  # of the other datasets' loads, by the new clock
            self.observed[row] = written
            self.held[row, at] = self._possible(one.bytes, at)
            self.eta[row, at] = one.eta_seconds if one.eta_seconds > 0 else math.nan
        if status.store_bytes_per_second > 0:
            self.store = status.store_bytes_per_second

    def forget(self, name: str) -> None:
        """A node's hint vanished: it is cold until it speaks again."""
        row = self.row_of[name]
        self.held[row] = 0
        self.eta[row] = math.nan
        self.observed[row] = -np.inf

    def set_all(self, held: Ints, now: float) -> None:
        """All nodes at once: bytes [N, D], in the order of the arrays. For a simulation, which has them as an array."""
        self.held = np.where(self.size > 0, np.clip(held, 0, self.size), np.maximum(held, 0))
        self.observed[:] = now

    def believed(self, now: float) -> Ints:
        """int64[N, D]: bytes to count with, 0 for nodes whose hint is stale."""
        fresh = now - self.observed <= STALE
        if fresh.all():
            return self.held
        return np.where(fresh[:, None], self.held, 0)

    def believed_of(self, column: int, now: float) -> Ints:
        """int64[N]: the same of one dataset."""
        held = self.held[:, column]
        there, believed = held.nonzero()[0], np.zeros(len(held), np.int64)
        believed[there] = np.where(now - self.observed[there] <= STALE, held[there], 0)
        return believed

    def remaining(self, column: int, now: float) -> Floats:
        """float64[N]: seconds until a load of the dataset there should be done; inf where none runs, or it is late or silent."""
        eta = self.eta[:, column]
        there, remaining = (eta == eta).nonzero()[0], np.full(len(eta), np.inf)  # noqa: PLR0124 - not nan
        past = now - self.observed[there]
        left = eta[there] - past
        remaining[there] = np.where((left < 0) | (past > STALE), np.inf, left)
        return remaining

    def _possible(self, amount: int, at: int) -> int:
        amount = min(max(amount, 0), np.iinfo(np.int64).max)
        return min(amount, int(self.size[at])) if self.size[at] else amount


def seconds(text: str, now: float) -> float:
    """RFC 3339 as seconds of the epoch, at most `now`; -inf for what is no time."""
    at = moment(text)
    return -math.inf if at is None else min(at.timestamp(), now)
