"""One decision for one pod: the best feasible row of its class, kept up to date row by row.

A class is a set of pods that ask for the same amounts. Its feasibility, scores and cards are computed once for all rows, and then
only for rows that changed since it was last asked: `State.stamp` tells which. The result is the same as computing all anew.
Requests that differ only in their constraints share it: where each may go (`State.allowed`) masks the scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from forebay.scheduler.arrays import Bools, Floats, Shorts
from forebay.scheduler.devices.card import Part
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.policies.base import Policy
from forebay.scheduler.request import Request
from forebay.scheduler.state import NO_CARD, Overcommit, State

NEVER = -1
"""A tick before the first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a pod would go: the row, the cards it would take there, and what each container gets of them."""

    row: int
    cards: tuple[int, ...]
    score: float
    parts: tuple[Part, ...] = ()


class Ranking:
    """What requests for the same amounts think of every row. `score` is -inf where they do not fit."""

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
        self._plain: dict[Request, Request] = {}

    def ranking(self, request: Request) -> Ranking:
        """Scores of the request's amounts as of now, wherever its constraints allow it to go."""
        state, policy = self.state, self.policy
        if request.constraints:
            request = self._amounts(request)
        kept = self._classes.get(request)
        if kept is None or len(kept.score) != len(state):
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
        allowed = self.state.allowed(request)
        row = self.policy.pick(kept.score if allowed is None else np.where(allowed, kept.score, -np.inf))
        if row is None:
            return None
        first, score = int(kept.card[row]), float(kept.score[row])
        if request.devices is None:
            return Choice(row, self.state.cards_for(request, row, first), score)
        devices = self.state.devices
        assert devices is not None  # the row is feasible
        parts = devices.grant(request.devices, row, first)
        if isinstance(parts, Refusal):
            raise Overcommit(f"node {self.state.names[row]} was found to fit and does not: {parts.sentence()}")
        return Choice(row, devices.places(row, parts), score, parts)

    def _amounts(self, request: Request) -> Request:
        plain = self._plain.get(request)
        if plain is None:
            plain = self._plain[request] = replace(request, constraints=0)
        return plain

    def keep(self, requests: Iterable[Request]) -> None:
        """Forget what is kept for all but these."""
        self._plain = {request: replace(request, constraints=0) for request in requests}
        amounts = set(self._plain.values())
        self._classes = {request: kept for request, kept in self._classes.items() if request in amounts}

    def place(self, request: Request) -> Choice | None:
        """`choose`, and take it."""
        choice = self.choose(request)
        if choice is not None:
            self.state.place(choice.row, request, choice.cards, choice.parts)
        return choice
