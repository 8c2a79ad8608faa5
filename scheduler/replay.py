"""Replays recorded arrivals through the planner: pods come one at a time and stay, one that fits nowhere is dropped.

The virtual clock is the arrival's number. Everything is decided by the planner that production uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.openb import COLUMNS, Arrivals, TracePod
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make


@dataclass(slots=True)
class Curve:
    """Allocated share of all cards, in %, against arrived demand in whole %: the mean over the arrivals that round to it."""

    capacity: int
    arrived: int = 0
    placed: int = 0
    _sums: dict[int, list[float]] = field(default_factory=dict)

    def add(self, milli: int, fits: bool) -> None:
        """One arrival that asked for `milli` of the cards."""
        self.arrived += milli
        self.placed += milli if fits else 0
        at = math.floor(100 * self.arrived / self.capacity + 0.5)
        point = self._sums.setdefault(at, [0.0, 0])
        point[0] += 100 * self.placed / self.capacity
        point[1] += 1

    def points(self) -> dict[int, float]:
        """Demand % -> allocation %, in order of demand."""
        return {at: total / count for at, (total, count) in sorted(self._sums.items())}


def openb(nodes: Sequence[Node], pods: Sequence[TracePod], order: Arrivals, policy: str) -> Curve:
    """One run of the published experiment. Raises ValueError for an unknown policy and for a cluster without cards."""
    ranked = sorted(range(len(nodes)), key=order.node_rank.__getitem__)
    state = State([nodes[i] for i in ranked], COLUMNS)
    capacity = int(state.card_milli.sum())
    if not capacity:
        raise ValueError("no node has a card: there is nothing to allocate")
    requests: list[Request] = [pod.request(state) for pod in pods]
    planner = Planner(state, make(policy, Setting(seed=order.seed, history=requests)))
    curve = Curve(capacity)
    for row in order.rows:
        request = requests[row]
        planner.policy.observe(state, request)
        curve.add(request.card_milli, planner.place(request) is not None)
    return curve
