"""forebay: take the placement that costs the pods to come least. Strictly online: it learns from arrivals and moves nothing."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays import Floats, Ints, Shorts
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.fgd import distinct_cards, score, tightest
from forebay.scheduler.request import Request
from forebay.scheduler.state import State
from forebay.scheduler.typical import Typical
from forebay.scheduler.usefulness import Usefulness


class Forebay(Policy):
    """100 x sigmoid of (milli placed - fall of U) in whole cards, truncated; a share takes the card with the best score.

    The truncation is meant: nearly equal placements tie, and the first row wins, so that pods gather on few nodes and the others
    stay whole.
    """

    name = "forebay"

    def __init__(self, setting: Setting) -> None:
        del setting  # no history: what comes is not known beforehand
        self._typical = Typical()
        self._measure: Usefulness | None = None

    def observe(self, state: State, request: Request) -> None:
        if self._typical.observe(request) or self._measure is None:
            self._measure = Usefulness(self._typical.requests, state)
            self.epoch += 1

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        if self._measure is None:
            self._measure = Usefulness((), state)
        spare, free, model = state.free[rows], state.card_free[rows], state.card_model[rows]
        usable = state.usable(request, rows)
        before = self._measure.measure(spare, free, model)
        left = spare - np.array(request.resources, np.int64)
        if request.cards != 1 or request.whole:
            after = free - request.milli * tightest(usable, free, request.cards)
            return Rating.of(self._score(request, before, left, after, model))
        which, card = distinct_cards(usable, free, model, state.card_memory_free[rows])
        after = free[which]
        after[np.arange(len(which)), card] -= request.milli
        scores = np.full(free.shape, -np.inf)
        scores[which, card] = self._score(request, before[which], left[which], after, model[which])
        best = scores.argmax(axis=1)
        return Rating(scores[np.arange(len(rows)), best], best.astype(np.int16))

    def _score(self, request: Request, before: Floats, left: Ints, after: Ints, model: Shorts) -> Floats:
        assert self._measure is not None
        return score(request.card_milli - (before - self._measure.measure(left, after, model)))
