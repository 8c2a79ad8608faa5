"""Taints and tolerations, and `spec.unschedulable`.

A node passes if each of its NoSchedule and NoExecute taints is tolerated; PreferNoSchedule only weighs. A cordoned node counts as
one with the taint `node.kubernetes.io/unschedulable:NoSchedule`. Nodes have few different sets of taints: one answer a set.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.node_rows import UNSCHEDULABLE, NodeRows, TaintOf, Taints
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import NodeMask
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import Tolerated
from forebay.scheduler.pods.selectors import whole

CORDON = TaintOf(UNSCHEDULABLE, "", "NoSchedule")


def tolerates(toleration: Tolerated, taint: TaintOf) -> bool:
    """An empty effect or key of the toleration stands for any. `Gt` and `Lt` compare the taint's number with the toleration's."""
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    if toleration.operator == "Exists":
        return True
    if toleration.operator in ("Gt", "Lt"):
        theirs, bound = whole(taint.value), whole(toleration.value)
        if theirs is None or bound is None:
            return False
        return theirs > bound if toleration.operator == "Gt" else theirs < bound
    return toleration.operator in ("", "Equal") and toleration.value == taint.value


class TaintCheck(NodeMask):
    """Also says no for every row that is no node."""

    def __init__(self, nodes: NodeRows, tolerations: tuple[Tolerated, ...], cordon: bool = True) -> None:
        super().__init__(nodes)
        self._cordon = cordon
        self._tolerations = tolerations
        self._table: list[bool] = []

    def tolerated(self, taint: TaintOf) -> bool:
        return any(tolerates(one, taint) for one in self._tolerations)

    def _cordoned(self, kept: Taints) -> bool:
        return self._cordon and kept.cordoned and not self.tolerated(CORDON)

    def compute(self, rows: Ints) -> Bools:
        for kept in self.nodes.taint_sets[len(self._table) :]:
            kept_off = not kept.there or self._cordoned(kept)
            self._table.append(not kept_off and all(self.tolerated(taint) for taint in kept.taints))
        passed: Bools = np.array(self._table, np.bool_)[self.nodes.taint_set[rows]]
        return passed

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        """One reason a taint, whichever nodes have it."""
        found: dict[TaintOf | None, Bools] = {}
        numbers = self.nodes.taint_set[rows]
        for number in np.unique(numbers).tolist():
            kept = self.nodes.taint_sets[number]
            if not kept.there:
                continue
            reasons: list[TaintOf | None] = [None] if self._cordoned(kept) else []
            reasons += [taint for taint in kept.taints if not self.tolerated(taint)]
            if None in reasons and CORDON in reasons:
                reasons.remove(CORDON)  # the taint is only the cordon's shadow
            for reason in reasons:
                here = numbers == number
                found[reason] = here | found[reason] if reason in found else here
        return [(self._lack_of(reason), where) for reason, where in found.items()]

    @staticmethod
    def _lack_of(taint: TaintOf | None) -> Lack:
        if taint is None:
            return Lack("cordoned", "uncordon them (kubectl uncordon)")
        return Lack(f"taint {taint}", f"add a toleration of {taint.key}:{taint.effect} or remove the taint")

    def lack(self) -> Lack:
        return Lack("taint that is not tolerated", "add a toleration")
