"""What requests for the same amounts think of every row, kept up to date for rows that changed."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.looks import NEVER, Looks
from forebay.scheduler.arrays.state import FEW, NO_CARD, State
from forebay.scheduler.arrays.types import Bools, Floats, Ints, Shorts
from forebay.scheduler.filling import rate as rate_by_fill
from forebay.scheduler.filling import seen_by_look
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy


class Ranking:
    """`score` of every row, -inf where `request` does not fit, and the `card` that the policy would take there.

    Equals what computing all anew would give: see `Policy` for what a score may depend on.
    """

    __slots__ = ("_epoch", "_seen", "_table", "card", "request", "score")

    def __init__(self, request: Request, count: int) -> None:
        self.request = request
        self.score: Floats = np.full(count, -np.inf)
        self.card: Shorts = np.full(count, NO_CARD, np.int16)
        self._seen = self._epoch = NEVER
        self._table: _Table | None = None

    @property
    def feasible(self) -> Bools:
        """bool[N]: rows where the request fits."""
        fits: Bools = self.score != -np.inf
        return fits

    def refresh(self, state: State, policy: Policy, looks: Looks) -> None:
        """Scores as of now."""
        if self._epoch != policy.epoch:  # the policy judges otherwise now: nothing kept is of use
            self._seen, self._epoch, self._table = NEVER, policy.epoch, None
        if self._seen == state.tick:
            return
        every = self._seen == NEVER
        rows = state.rows if every else state.changed_since(self._seen)
        self._seen = state.tick
        asked = self.request.devices
        alike = asked is None or (state.devices is not None and state.devices.alike(asked))
        if policy.by_look and alike and seen_by_look(self.request):
            looks.refresh()
            if self._table is None:
                self._table = _Table()
            self._table.follow(looks)
            numbers = looks.of if every else looks.of[rows]
            self._table.learn(state, policy, self.request, *(looks.samples() if every else (numbers, rows)))
            score, card = self._table.score.take(numbers), self._table.card.take(numbers)
        else:
            score, card = _rate(state, policy, self.request, rows)
        if every:
            self.score, self.card = score, card
        else:
            self.score[rows], self.card[rows] = score, card


def _rate(state: State, policy: Policy, request: Request, rows: Ints) -> tuple[Floats, Shorts]:
    """Scores and cards of these rows."""
    score, card = np.full(len(rows), -np.inf), np.full(len(rows), NO_CARD, np.int16)
    fits = state.feasible(request, rows).nonzero()[0]
    if len(fits):
        good = rows[fits]
        rating = rate_by_fill(state, policy, request, good) if request.fill else policy.rate(state, request, good)
        score[fits], card[fits] = rating.scores, rating.cards
    return score, card


class _Table:
    """Scores and cards by number of a state, nan for those not rated yet."""

    __slots__ = ("card", "score", "version")

    def __init__(self) -> None:
        self.score: Floats = np.zeros(0)
        self.card: Shorts = np.zeros(0, np.int16)
        self.version = NEVER

    def follow(self, looks: Looks) -> None:
        """Room for all numbers there are now, and the numbers they have now."""
        if self.version != looks.version:
            if looks.kept is not None and self.version == looks.version - 1:
                self._widen(int(looks.kept.max(initial=NEVER)) + 1)
                self.score, self.card = self.score[looks.kept], self.card[looks.kept]
            else:
                self.score, self.card = np.zeros(0), np.zeros(0, np.int16)
            self.version = looks.version
        self._widen(looks.count)

    def _widen(self, count: int) -> None:
        more = count - len(self.score)
        if more > 0:
            more = max(more, len(self.score))  # a class that is asked once in 200 finds as many new numbers each time
            self.score = np.concatenate([self.score, np.full(more, np.nan)])
            self.card = np.concatenate([self.card, np.full(more, NO_CARD, np.int16)])

    def learn(self, state: State, policy: Policy, request: Request, numbers: Ints, rows: Ints) -> None:
        """Rates the states that these rows are in, as far as they are not known."""
        unknown = np.isnan(self.score.take(numbers)).nonzero()[0]
        if not len(unknown):
            return
        numbers, rows = numbers[unknown], rows[unknown]
        if len(rows) > FEW:
            numbers, first = np.unique(numbers, return_index=True)
            rows = rows[first]
        order = rows.argsort()  # whoever is given rows may count on their order
        numbers, rows = numbers[order], rows[order]
        self.score[numbers], self.card[numbers] = _rate(state, policy, request, rows)
