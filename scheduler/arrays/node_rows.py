"""Nodes by row, as far as filters read the node's own object: labels, taints, whether it takes pods at all.

Invariants: `stamp[row]` is the tick of the row's last change, `tick` the latest of all; a row that is no node has taint set 0,
which nothing tolerates, and no labels. An update that changes nothing of this (a heartbeat) changes no stamp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forebay.api.kubernetes.core import Node
from forebay.scheduler.arrays.labels import LabelColumns
from forebay.scheduler.arrays.types import Ints

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
"""The taint that stands for `spec.unschedulable`."""
PREFER = "PreferNoSchedule"
"""The effect that only weighs."""


class TaintOf(NamedTuple):
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


class Taints(NamedTuple):
    """What keeps pods off a node: `there` False for no node, `cordoned` for `spec.unschedulable`."""

    there: bool = True
    cordoned: bool = False
    taints: tuple[TaintOf, ...] = ()


class NodeRows:
    """See the module. `taint_set[row]` indexes `taint_sets`, `soft_set[row]` `soft_sets`: taints of effect PreferNoSchedule."""

    def __init__(self) -> None:
        self.labels = LabelColumns()
        self.taint_sets: list[Taints] = [Taints(there=False)]
        self._set_of = {self.taint_sets[0]: 0}
        self.taint_set: Ints = np.zeros(0, np.int64)
        self.soft_sets: list[tuple[TaintOf, ...]] = [()]
        self._soft_of: dict[tuple[TaintOf, ...], int] = {(): 0}
        self.soft_set: Ints = np.zeros(0, np.int64)
        self.stamp: Ints = np.zeros(0, np.int64)
        self.tick = 0
        self._told: dict[int, tuple[dict[str, str], int, int]] = {}

    def __len__(self) -> int:
        return len(self.stamp)

    def grow(self, count: int) -> None:
        """Room for rows below `count`; the new ones are no nodes."""
        more = count - len(self)
        self.tick += 1
        self.taint_set = np.append(self.taint_set, np.zeros(more, np.int64))
        self.soft_set = np.append(self.soft_set, np.zeros(more, np.int64))
        self.stamp = np.append(self.stamp, np.full(more, self.tick, np.int64))
        self.labels.grow(count)

    def set(self, row: int, node: Node) -> bool:
        """What the node says of itself now; whether that changed anything here."""
        taints = sorted({TaintOf(one.key, one.value, one.effect) for one in node.spec.taints})
        hard = tuple(one for one in taints if one.effect != PREFER)
        soft = tuple(one for one in taints if one.effect == PREFER)
        gentle = self._soft_of.get(soft)
        if gentle is None:
            gentle = self._soft_of[soft] = len(self.soft_sets)
            self.soft_sets.append(soft)
        kept = Taints(True, node.spec.unschedulable, hard)
        number = self._set_of.get(kept)
        if number is None:
            number = self._set_of[kept] = len(self.taint_sets)
            self.taint_sets.append(kept)
        if self._told.get(row) == (node.metadata.labels, number, gentle):
            return False
        self._told[row] = (node.metadata.labels, number, gentle)
        self.labels.set(row, node.metadata.name, node.metadata.labels)
        self._change(row, number, gentle)
        return True

    def clear(self, row: int) -> None:
        """The row is no node any more."""
        self._told.pop(row, None)
        self.labels.set(row, "", None)
        self._change(row, 0, 0)

    def _change(self, row: int, number: int, gentle: int) -> None:
        self.taint_set[row], self.soft_set[row] = number, gentle
        self.tick += 1
        self.stamp[row] = self.tick
