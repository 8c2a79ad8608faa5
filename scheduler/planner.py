"""One decision for one pod: the best feasible row of its class, kept up to date row by row.

A class is a set of pods with equal requests. Its feasibility, scores and cards are computed once for all rows, and then only for
rows that changed since it was last asked: `State.stamp` tells which. The result is the same as computing all anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays import Bools, Floats, Shorts
from forebay.scheduler.policies.base import Policy
from forebay.scheduler.request import Request
from forebay.scheduler.state import NO_CARD, State

NEVER = -1
"""A tick before the first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a pod would go: the row and the cards it would take there."""

    row: int
    cards: tuple[int, ...]
    score: float


class Ranking:
    """What one class thinks of every row. `score` is -inf where the class does not fit."""

    __slots__ = ("card", "epoch", "feasible", "score", "seen")

    def __init__(self, count: int) -> None:
        self.feasible: Bools = np.zeros(count, np.bool_)
        self.score: Floats = np.full(count, -np.inf)
        self.card: Shorts = np.full(count, NO_CARD, np.int16)
        self.seen = NEVER
        self.epoch = NEVER


class Planner:
    """Decisions of one policy over one state."""

    def __init__(self, state: State, policy: Policy) -> None:
        self.state = state
        self.policy = policy
        self._classes: dict[Request, Ranking] = {}

    def ranking(self, request: Request) -> Ranking:
        """The class's scores as of now."""
        state, policy = self.state, self.policy
        kept = self._classes.get(request)
        if kept is None:
            kept = self._classes[request] = Ranking(len(state))
        if kept.epoch != policy.epoch:  # the policy judges otherwise now: nothing kept is of use
            kept.seen, kept.epoch = NEVER, policy.epoch
        rows = state.rows if kept.seen == NEVER else state.changed_since(kept.seen)
        kept.seen = state.tick
        if not len(rows):
            return kept
        fits = state.feasible(request, rows)
        kept.feasible[rows] = fits
        kept.score[rows] = -np.inf
        kept.card[rows] = NO_CARD
        good = rows[fits]
        if len(good):
            rating = policy.rate(state, request, good)
            kept.score[good] = rating.scores
            kept.card[good] = rating.cards
        return kept

    def choose(self, request: Request) -> Choice | None:
        """The row and cards of the best placement, None where the request fits nowhere. Changes nothing."""
        kept = self.ranking(request)
        row = self.policy.pick(kept.score)
        if row is None:
            return None
        return Choice(row, self.state.cards_for(request, row, int(kept.card[row])), float(kept.score[row]))

    def place(self, request: Request) -> Choice | None:
        """`choose`, and take it."""
        choice = self.choose(request)
        if choice is not None:
            self.state.place(choice.row, request, choice.cards)
        return choice
