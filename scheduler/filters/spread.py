"""Topology spread constraints that must hold (`DoNotSchedule`).

Places are the values of the topology key on nodes that count: those that have the keys of all the pod's constraints, meet its
node affinity (`nodeAffinityPolicy: Honor`, the default) and have no taint it does not tolerate (`nodeTaintsPolicy: Honor`).
The pods of the pod's own namespace that the selector means, without those being deleted, are counted by place. A node passes if
its place, with this pod where the selector means it, has at most `maxSkew` more than the emptiest place; with fewer places than
`minDomains` the emptiest counts as empty. A node without one of the keys never passes. An empty selector counts nobody, though
it means the pod itself (`podtopologyspread`, Kubernetes 1.36).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forebay.scheduler.arrays.tallies import Tally
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import Check
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import Spread
from forebay.scheduler.pods.selectors import show


class Constraint(NamedTuple):
    """`own`: 1 if the selector means the pod itself."""

    spread: Spread
    tally: Tally
    own: int


class SpreadCheck(Check):
    def __init__(self, constraints: tuple[Constraint, ...]) -> None:
        self._constraints = constraints

    def passes(self, rows: Ints) -> Bools:
        passed = np.ones(len(rows), np.bool_)
        for constraint in self._constraints:
            passed &= self._even(constraint, rows)
        return passed

    @staticmethod
    def _even(constraint: Constraint, rows: Ints) -> Bools:
        spread, tally, own = constraint
        tally.refresh()
        places = tally.place[rows]
        there = tally.live > 0
        least = int(tally.sums[there].min()) if int(there.sum()) >= max(spread.min_domains, 1) else 0
        even: Bools = (places >= 0) & (tally.sums + (own - least) <= spread.max_skew)[places]
        return even

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        found = []
        for constraint in self._constraints:
            spread, tally = constraint.spread, constraint.tally
            missing = tally.place[rows] < 0
            even = self._even(constraint, rows)
            found.append((Lack(f"no label {spread.key}", f"label them with {spread.key}"), missing))
            what = f"spread by {spread.key}: more than maxSkew {spread.max_skew} of {show(spread.selector)}"
            few = int((tally.live > 0).sum())
            if few < spread.min_domains:
                remedy = f"add a {spread.key}: there are {few}, minDomains is {spread.min_domains}"
            else:
                remedy = f"make room in the emptiest {spread.key} or raise maxSkew"
            found.append((Lack(what, remedy), ~even & ~missing))
        return found

    def lack(self) -> Lack:
        return Lack("topology spread")
