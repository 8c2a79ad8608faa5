"""Why a request fits nowhere: nodes counted by what they lack, in counts and in a sentence with the remedy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Bools
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.request import Request

SHOWN = 4
"""Reasons in a sentence; the rest is counted together."""


class Missing(NamedTuple):
    """A reason, the nodes that have it, and those that have no other."""

    lack: Lack
    nodes: int
    alone: int


class Why(NamedTuple):
    """`fit` of `nodes` carry the request; `missing` is what the others lack, the most frequent first. A node may lack several."""

    nodes: int
    fit: int
    missing: tuple[Missing, ...]

    def __str__(self) -> str:
        """One line: `0 of 64 nodes: 40 too little free nvidia.com/gpu, 24 taint x=y:NoSchedule; to place it: ...`."""
        if not self.nodes:
            return "0 of 0 nodes: add nodes"
        text = f"{self.fit} of {self.nodes} nodes"
        if self.fit:
            return f"{text} fit"
        shown = [f"{one.nodes} {one.lack.what}" for one in self.missing[:SHOWN]]
        if len(self.missing) > SHOWN:
            shown.append(f"{len(self.missing) - SHOWN} more reasons")
        return f"{text}: {', '.join(shown)}; {self._nearest()}"

    def _nearest(self) -> str:
        """What to change: the remedy that alone opens most nodes, and where none does, all of them are needed."""
        near = max(self.missing, key=lambda one: (one.alone, bool(one.lack.remedy)))
        if near.alone:
            one = "1 node lacks" if near.alone == 1 else f"{near.alone} nodes lack"
            return f"{one} nothing else: {near.lack.remedy or 'nothing changes that, add other nodes'}"
        remedies = [one.lack.remedy for one in self.missing if one.lack.remedy]
        return f"every node lacks several things: {'; '.join(remedies[:SHOWN]) or 'add other nodes'}"


def why(state: State, request: Request) -> Why:
    """What each node lacks for the request, as of now."""
    found = [(lack, failed) for lack, failed in state.lacks(request) if failed.any()]
    count = len(state.nodes)
    reasons = np.zeros(count, np.int64)
    for _, failed in found:
        reasons += failed
    missing = [Missing(lack, int(failed.sum()), int((failed & (reasons == 1)).sum())) for lack, failed in _joined(found)]
    missing.sort(key=lambda one: (-one.nodes, one.lack.what))
    return Why(count, int((reasons == 0).sum()), tuple(missing))


def failed_constraints(state: State, request: Request) -> dict[str, int]:
    """Constraint -> number of nodes that fail it, most first; a node counts for each it fails. {} if every node fits.

    Constraints: the resource columns; `cards` for a node with fewer cards than asked; `card model` for too few accepted ones;
    `card share` for too few accepted ones with enough of each free, `idle cards` if whole ones are asked; for devices that are
    asked by name, the first thing of which a node's cards have too little (`card memory`, `card cores`, `free slices`); and the
    words of the filters (`taint x=y:NoSchedule`).
    """
    counts: dict[str, int] = {}
    for lack, failed in state.lacks(request):
        counts[lack.name] = counts.get(lack.name, 0) + int(failed.sum())
    return {name: count for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if count}


def _joined(found: list[tuple[Lack, Bools]]) -> list[tuple[Lack, Bools]]:
    """Equal reasons of several checks are one."""
    joined: dict[Lack, Bools] = {}
    for lack, failed in found:
        joined[lack] = joined[lack] | failed if lack in joined else failed
    return list(joined.items())
