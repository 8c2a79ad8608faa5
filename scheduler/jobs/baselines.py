"""What ours is measured against: strict FIFO over gangs, nodes chosen by labels that say who holds some of the dataset.

`fluid` is what kube-scheduler makes of the preferred node affinity that Fluid's webhook injects: the labelled node 100, its zone
50, its region 20, normalised to 100 over the nodes and weighted 2; beside it one score for packing (MostAllocated) or spreading
(LeastAllocated), weight 1. All nodes are in one zone and region. `affinity` takes labelled nodes strictly first and among them
as few as possible for the gang, the tightest where one node takes it whole. `affinity-passing` is the same without FIFO's wait: a
gang that does not fit lets the next one try.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.arrays.types import Bools, Floats, Ints
from forebay.scheduler.decision import Ask, Decision
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Placement, Plan
from forebay.scheduler.pods.request import FULL, Request

LABEL, ZONE, REGION = 100, 50, 20
"""Fluid's weights."""
AFFINITY_WEIGHT = 2
"""kube-scheduler's default weight of NodeAffinity; NodeResourcesFit has 1."""
SOME = 64 * 2**20
"""Bytes from which a node counts as one that holds the dataset: one segment."""


class Fifo:
    """Strict FIFO: the first gang of the queue starts whole or everybody waits. With `passing`, whoever fits starts, in order."""

    def __init__(self, state: State, prefer: str, *, passing: bool = False) -> None:
        self.state, self.prefer, self.passing = state, prefer, passing
        self.queue: deque[Ask] = deque()
        self.cards = int((state.card_milli > 0).sum(axis=1).max())
        self.ones: dict[str, Request] = {}

    def submit(self, ask: Ask) -> None:
        self.queue.append(ask)
        for member in ask.gang.members:
            self.ones[member.pod] = member.request

    def decide(self, now: float, warmth: Warmth) -> Decision:
        plans, believed = list[Plan](), warmth.believed(now)
        free = (self.state.card_free == FULL).sum(axis=1)
        kept = deque[Ask]()
        while self.queue and free.any():
            ask = self.queue.popleft()
            if len(ask.gang.members) > free.sum():
                kept.append(ask)
                if self.passing:
                    continue
                break
            labelled = believed[:, warmth.column(ask.dataset)] >= SOME
            plans.append(self._place(ask, self._rows(len(ask.gang.members), free, labelled)))
        self.queue.extendleft(reversed(kept))
        return Decision(tuple(plans))

    def finished(self, plan: Plan) -> None:
        for one in plan.placements:
            self.state.release(self.state.row_of[one.node], self.ones.pop(one.pod), one.cards)

    def _rows(self, pods: int, free: Ints, labelled: Bools) -> list[int]:
        """The row of each pod: one after the other on the best node, the first of equals."""
        rows = list[int]()
        while len(rows) < pods:
            if self.prefer == "affinity":
                row = self._gather(pods - len(rows), free, labelled)
                take = min(pods - len(rows), int(free[row]))
            else:
                row, take = int(np.argmax(np.where(free > 0, self._score(free, labelled), -np.inf))), 1
            rows += [row] * take
            free[row] -= take
        return rows

    def _score(self, free: Ints, labelled: Bools) -> Floats:
        """What kube-scheduler's two scores add up to."""
        used = 100.0 * (self.cards - free) / self.cards
        weights = labelled * LABEL + (ZONE + REGION if labelled.any() else 0)
        affinity = 100 * weights // max(int(weights.max()), 1)
        return AFFINITY_WEIGHT * affinity + (used if self.prefer == "fluid" else 100.0 - used)

    @staticmethod
    def _gather(pods: int, free: Ints, labelled: Bools) -> int:
        """Labelled nodes strictly first. Of equals the tightest that takes all pods, else the one that takes most."""
        able = free >= pods
        packing = np.where(able, 1000.0 - free, free)
        return int(np.argmax(np.where(free > 0, labelled * 1e6 + packing, -np.inf)))

    def _place(self, ask: Ask, rows: list[int]) -> Plan:
        state, placements = self.state, list[Placement]()
        with Transaction(state) as transaction:
            for member, row in zip(ask.gang.members, rows, strict=True):
                cards = state.cards_for(member.request, row)
                transaction.place(row, member.request, cards)
                placements.append(Placement(member.pod, state.names[row], cards))
            transaction.commit()
        return Plan(ask.gang.name, tuple(placements))
