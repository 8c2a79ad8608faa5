"""forebay: take the placement that costs the pods to come least. Strictly online: it learns from arrivals and moves nothing."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Floats, Ints, Shorts
from forebay.scheduler.devices.rating import Judge, rate
from forebay.scheduler.fragments.typical import Typical
from forebay.scheduler.fragments.usefulness import Usefulness
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.fgd import distinct_cards, score, tightest

NEVER = -1
"""A stamp that no row has."""
DIGITS = 6
"""Decimals of a gain, in milli, that count. Beyond are errors of rounding, which truncation would blow up to a whole point: many
gains are 0 but for those, and the node taken would depend on the order in which a sum was added up."""


def whole(gain: Floats) -> Floats:
    """The score of a gain in milli: a whole number."""
    return score(gain.round(DIGITS))


class Forebay(Policy):
    """100 x sigmoid of (milli placed - fall of U) in whole cards, truncated; a share takes the card with the best score.

    The truncation is meant: nearly equal placements tie, and the first row wins, so that pods gather on few nodes and the others
    stay whole.
    """

    name = "forebay"
    by_look = True

    def __init__(self, setting: Setting) -> None:
        del setting  # no history: what comes is not known beforehand
        self._typical = Typical()
        self._measure: Usefulness | None = None
        self._worth: Floats = np.zeros(0)  # U of each row as it was at stamp `_at`
        self._at: Ints = np.zeros(0, np.int64)

    def observe(self, state: State, request: Request) -> None:
        revised = self._typical.observe(request)
        if revised or self._measure is None or self._measure.models != len(state.models):
            self._revise(state)

    def _revise(self, state: State) -> None:
        """Pods are judged by the newest typical ones. Scores stay valid where those are as before."""
        measure = Usefulness(self._typical.requests, state)
        if self._measure is None or not measure.same(self._measure):
            self._measure = measure
            self._at[:] = NEVER
            self.epoch += 1

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        if self._measure is None or self._measure.models != len(state.models):
            self._revise(state)

        def change(there: Ints, left: Ints, after: Ints, model: Shorts) -> Floats:
            return self._change(state, there, left, after, model)

        if request.devices is not None:
            return Rating(*rate(state, request, rows, Judge(change, whole, placed=True)))
        free, model = state.card_free.take(rows, axis=0), state.card_model.take(rows, axis=0)
        left = state.free.take(rows, axis=0) - np.array(request.resources, np.int64)
        if not request.cards:
            return Rating.of(whole(change(rows, left, free, model)))
        usable = state.usable(request, rows)
        if request.cards != 1 or request.whole:
            after = free - request.milli * tightest(usable, free, request.cards)
            return Rating.of(whole(request.card_milli + change(rows, left, after, model)))
        which, card = distinct_cards(usable, free, model, state.card_memory_free[rows])
        after = free[which]
        after[np.arange(len(which)), card] -= request.milli
        scores = np.full(free.shape, -np.inf)
        scores[which, card] = whole(request.card_milli + change(rows[which], left[which], after, model[which]))
        best = scores.argmax(axis=1)
        return Rating(scores[np.arange(len(free)), best], best.astype(np.int16))

    def _change(self, state: State, rows: Ints, left: Ints, after: Ints, model: Shorts) -> Floats:
        """By how much U of the rows would grow if this much were left of their resources and cards: 0 or less.

        U as it is now is kept for those that have not changed, and measured together with the others: a call costs some 40 us,
        however few the states.
        """
        assert self._measure is not None
        if len(self._at) != len(state):
            self._worth, self._at = np.zeros(len(state)), np.full(len(state), NEVER)
        stamp = state.stamp[rows]
        new = (self._at[rows] != stamp).nonzero()[0]
        if not len(new):
            return self._measure.measure(left, after, model) - self._worth[rows]
        fresh = rows[new]
        then = self._measure.measure(
            np.concatenate([left, state.free.take(fresh, axis=0)]),
            np.concatenate([after, state.card_free.take(fresh, axis=0)]),
            np.concatenate([model, state.card_model.take(fresh, axis=0)]),
        )
        self._worth[fresh], self._at[fresh] = then[len(rows) :], stamp[new]
        return then[: len(rows)] - self._worth[rows]
