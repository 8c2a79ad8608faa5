"""What depends on nothing but the node's own object: which terms of preferred node affinity it meets, which taints only weigh."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.taints import tolerates
from forebay.scheduler.pods.classes import Tolerated
from forebay.scheduler.pods.selectors import Requirement, Selector

OF_DATA = ("fluid.io/s-", "fluid.io/f-")
"""Node labels that say which datasets a node holds or shows."""


class NodeCounts(ABC):
    """An integer for each row, computed once, then for nodes that changed."""

    def __init__(self, nodes: NodeRows) -> None:
        self.nodes = nodes
        self._counts: Ints = np.zeros(0, np.int64)
        self._seen = -1

    @property
    def counts(self) -> Ints:
        """int64[N], as of now."""
        nodes = self.nodes
        if self._seen != nodes.tick:
            more = len(nodes) - len(self._counts)
            if more:
                self._counts = np.append(self._counts, np.zeros(more, np.int64))
            dirty = np.flatnonzero(nodes.stamp > self._seen)
            self._counts[dirty] = self.compute(dirty)
            self._seen = nodes.tick
        return self._counts

    @abstractmethod
    def compute(self, rows: Ints) -> Ints:
        """The numbers of these rows from the nodes' arrays."""


class TermWeights(NodeCounts):
    """The weights of the terms that a node meets, added up. A term without requirements holds nowhere."""

    def __init__(self, nodes: NodeRows, terms: tuple[tuple[int, Selector], ...]) -> None:
        super().__init__(nodes)
        self.terms = tuple((weight, term) for weight, term in terms if weight and term)

    def compute(self, rows: Ints) -> Ints:
        total = np.zeros(len(rows), np.int64)
        for weight, term in self.terms:
            total += weight * self.nodes.labels.satisfy_all(term, rows)
        return total

    def without_data(self, rows: Ints, held: Bools) -> Ints:
        """The same [n] without terms about data, which is where `held` [N]: those that name a dataset's label, and those that no
        other node than such a one meets (nodes that were named because they hold it)."""
        every = np.arange(len(held))
        total = np.zeros(len(rows), np.int64)
        for weight, term in self.terms:
            if any(map(_names_data, term)):
                continue
            met = self.nodes.labels.satisfy_all(term, every)
            if (met & ~held).any():
                total += weight * met[rows]
        return total


def _names_data(requirement: Requirement) -> bool:
    return requirement.key.startswith(OF_DATA)


class SoftTaints(NodeCounts):
    """Taints of effect PreferNoSchedule that are not tolerated. Nodes have few different sets of them: one answer a set."""

    def __init__(self, nodes: NodeRows, tolerations: tuple[Tolerated, ...]) -> None:
        super().__init__(nodes)
        self._tolerations = tolerations
        self._table: list[int] = []

    def compute(self, rows: Ints) -> Ints:
        for kept in self.nodes.soft_sets[len(self._table) :]:
            self._table.append(sum(not any(tolerates(one, taint) for one in self._tolerations) for taint in kept))
        counts: Ints = np.array(self._table, np.int64)[self.nodes.soft_set[rows]]
        return counts
