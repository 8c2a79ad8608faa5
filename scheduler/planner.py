"""One decision for one pod: the best feasible row of its class, kept up to date row by row.

A class is a set of pods that ask for the same amounts. Its feasibility, scores and cards are computed once for all rows, and then
only for rows that changed since it was last asked: `State.stamp` tells which. The result is the same as computing all anew.
Requests that differ only in their constraints share it: where each may go (`State.allowed`) masks the scores, and what it prefers
among those is added to them (`preferences/worth.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from forebay.scheduler.arrays.looks import Looks
from forebay.scheduler.arrays.state import Overcommit, State
from forebay.scheduler.arrays.types import Floats
from forebay.scheduler.devices.card import Part
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy
from forebay.scheduler.preferences.worth import SECONDS, preferring
from forebay.scheduler.ranking import Ranking


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a pod would go: the row, the cards it would take there, and what each container gets of them."""

    row: int
    cards: tuple[int, ...]
    score: float
    parts: tuple[Part, ...] = ()


class Planner:
    """Decisions of one policy over one state. `preference_seconds`: what preferences are worth, 0 for nothing."""

    def __init__(self, state: State, policy: Policy, preference_seconds: float = SECONDS) -> None:
        self.state = state
        self.policy = policy
        self.preference_seconds = preference_seconds
        self._looks = Looks(state)
        self._rankings: dict[Request, Ranking] = {}  # requests that differ only in their constraints share one

    def ranking(self, request: Request) -> Ranking:
        """Scores of the request's amounts as of now, wherever its constraints allow it to go."""
        kept = self._rankings.get(request)
        if kept is None or len(kept.score) != len(self.state):
            kept = self._rankings[request] = self._shared(request)
        kept.refresh(self.state, self.policy, self._looks)
        return kept

    def _shared(self, request: Request) -> Ranking:
        if request.constraints:
            request = replace(request, constraints=0)
        kept = self._rankings.get(request)
        if kept is None or len(kept.score) != len(self.state):
            kept = self._rankings[request] = Ranking(request, len(self.state))
        return kept

    def heeds(self, request: Request) -> bool:
        """Whether preferences may have a say in where the request goes."""
        return self.preference_seconds > 0 and self.state.prefers(request)

    def scores(self, request: Request) -> Floats:
        """The policy's scores [N], -inf where the request may not go or does not fit. Not to be changed."""
        kept = self.ranking(request)
        allowed = self.state.allowed(request)
        return kept.score if allowed is None else np.where(allowed, kept.score, -np.inf)

    def choose(self, request: Request, *, heed: bool = True) -> Choice | None:
        """The row and cards of the best placement, None where the request fits nowhere. Changes nothing.

        `heed` False: as if nothing were preferred.
        """
        scores, kept = self.scores(request), self._rankings[request]
        if heed and self.heeds(request):
            scores = preferring(self.state, request, scores, self.preference_seconds)
        row = self.policy.pick(scores)
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

    def keep(self, requests: Iterable[Request]) -> None:
        """Forget what is kept for all but these."""
        kept = {request: self._rankings[request] for request in requests if request in self._rankings}
        self._rankings = kept | {ranking.request: ranking for ranking in kept.values()}

    def place(self, request: Request) -> Choice | None:
        """`choose`, and take it."""
        choice = self.choose(request)
        if choice is not None:
            self.state.place(choice.row, request, choice.cards, choice.parts)
        return choice
