"""Required pod affinity and anti-affinity, between pods that run and the pod that comes, in both directions.

- Affinity: on each term's topology, the node's place holds a pod that *all* terms mean. If no pod anywhere does, and the terms
  mean the pod itself, a node that has the topologies will do: the first of a group must be able to start.
- Anti-affinity of the pod: the node's place holds no pod that the term means. A node without the label is in no place.
- Anti-affinity of others: no pod in the node's place has a term that means this one.
(`interpodaffinity`, Kubernetes 1.36.) All of it depends on other rows, so it is not kept by row but by place.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.tallies import Tally
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import Check
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import PodTerm
from forebay.scheduler.pods.selectors import show


class AffinityCheck(Check):
    """`tallies`: one a term, of the pods that all terms mean; `first`: the terms mean the pod itself."""

    def __init__(self, terms: tuple[PodTerm, ...], tallies: tuple[Tally, ...], first: bool) -> None:
        self._terms, self._tallies, self._first = terms, tallies, first

    def passes(self, rows: Ints) -> Bools:
        somewhere = False
        near = np.ones(len(rows), np.bool_)
        placed = np.ones(len(rows), np.bool_)
        for tally in self._tallies:
            tally.refresh()
            places = tally.place[rows]
            placed &= places >= 0
            near &= tally.sums[places] > 0
            somewhere = somewhere or bool(tally.sums.any())
        if self._first and not somewhere:
            return placed
        return near

    def lack(self) -> Lack:
        terms = "; ".join(f"{show(one.selector)} in the same {one.key}" for one in self._terms)
        if self._first:
            return Lack(f"pod affinity ({terms})", "place it where its group runs")
        return Lack(f"pod affinity ({terms})", "start such a pod there first")


class AntiAffinityCheck(Check):
    """The pod's own terms, each with the tally of the pods that it means."""

    def __init__(self, terms: tuple[tuple[PodTerm, Tally], ...]) -> None:
        self._terms = terms

    def passes(self, rows: Ints) -> Bools:
        passed = np.ones(len(rows), np.bool_)
        for _, tally in self._terms:
            passed &= _empty(tally, rows)
        return passed

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        return [
            (Lack(f"anti-affinity to {show(term.selector)} in the same {term.key}", f"add nodes of another {term.key}"), failed)
            for term, tally in self._terms
            if (failed := ~_empty(tally, rows)).any()
        ]

    def lack(self) -> Lack:
        return Lack("pod anti-affinity")


def _empty(tally: Tally, rows: Ints) -> Bools:
    tally.refresh()
    empty: Bools = tally.sums[tally.place[rows]] == 0
    return empty


class KeptOffCheck(AntiAffinityCheck):
    """Terms of pods that run, which mean this pod, each with the tally of the pods that have it."""

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        return [
            (Lack(f"pods with anti-affinity to this one in the same {term.key}", f"use another {term.key} or move those"), failed)
            for term, tally in self._terms
            if (failed := ~_empty(tally, rows)).any()
        ]
