"""What every filter is: rows that pass, and for those that do not a reason and what would change it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.lack import Lack


class Check(ABC):
    """One constraint of one class of pods."""

    @abstractmethod
    def passes(self, rows: Ints) -> Bools:
        """bool[n]: rows that meet it now."""

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        """Reasons, each with the rows among these that fail for it. A row may fail for several."""
        return [(self.lack(), ~self.passes(rows))]

    @abstractmethod
    def lack(self) -> Lack:
        """The reason, for a check that has one."""


class NodeMask(Check):
    """A check that depends on nothing but the node's own object: computed once, then for nodes that changed."""

    def __init__(self, nodes: NodeRows) -> None:
        self.nodes = nodes
        self._mask: Bools = np.zeros(0, np.bool_)
        self._seen = -1

    @property
    def mask(self) -> Bools:
        """bool[N], as of now."""
        nodes = self.nodes
        if self._seen != nodes.tick:
            if len(self._mask) != len(nodes):
                self._mask = np.append(self._mask, np.zeros(len(nodes) - len(self._mask), np.bool_))
            dirty = np.flatnonzero(nodes.stamp > self._seen)
            self._mask[dirty] = self.compute(dirty)
            self._seen = nodes.tick
        return self._mask

    @property
    def version(self) -> int:
        """Changes when the mask may have."""
        return self.nodes.tick

    def passes(self, rows: Ints) -> Bools:
        chosen: Bools = self.mask[rows]
        return chosen

    @abstractmethod
    def compute(self, rows: Ints) -> Bools:
        """The mask of these rows from the nodes' arrays."""
