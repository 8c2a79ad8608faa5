"""FGD: take the placement that raises fragmentation least (Weng et al., USENIX ATC 2023)."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Bools, Floats, Ints, Shorts
from forebay.scheduler.devices.rating import Judge, rate
from forebay.scheduler.fragments.measure import Fragmentation, typical
from forebay.scheduler.pods.request import FULL, Request
from forebay.scheduler.policies.base import Policy, Rating, Setting


class FGD(Policy):
    """100 x sigmoid of the fall of F in whole cards, truncated; a share takes the card with the best score, lowest index on ties.

    Typical pods are counted in `Setting.history` once, as published: the policy knows the workload beforehand.
    """

    name = "fgd"
    by_look = True

    def __init__(self, setting: Setting) -> None:
        self._history = setting.history
        self._measure: Fragmentation | None = None

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        if self._measure is None:
            known = typical(self._history, state.models)
            self._measure = Fragmentation(known, state.card_free.shape[1], len(state.models))
        measure, cpu = self._measure, state.free[rows, 0]
        if request.devices is not None:

            def change(there: Ints, left: Ints, after: Ints, model: Shorts) -> Floats:
                before = measure.measure(state.free[there, 0], state.card_free[there], model)
                return before - measure.measure(left[:, 0], after, model)

            return Rating(*rate(state, request, rows, Judge(change, score)))
        free, model = state.card_free[rows], state.card_model[rows]
        before = measure.measure(cpu, free, model)
        if request.cards == 1 and not request.whole:
            which, card = distinct_cards(state.usable(request, rows), free, model, state.card_memory_free[rows])
            after = free[which]
            after[np.arange(len(which)), card] -= request.milli
            gain = before[which] - measure.measure(cpu[which] - request.resources[0], after, model[which])
            scores = np.full(free.shape, -np.inf)
            scores[which, card] = score(gain)
            best = scores.argmax(axis=1)
            return Rating(scores[np.arange(len(rows)), best], best.astype(np.int16))
        after = free - request.milli * tightest(state.usable(request, rows), free, request.cards)
        return Rating.of(score(before - measure.measure(cpu - request.resources[0], after, model)))


def score(gain: Floats) -> Floats:
    """0..100, whole numbers: many placements tie, and the row order decides among them, as in the original."""
    scores: Floats = np.trunc(100 / (1 + np.exp(-gain / FULL)))
    return scores


def tightest(usable: Bools, free: Ints, count: int) -> Bools:
    """bool[n, C]: the `count` usable cards with the least free, lowest index first. Rows have at least that many."""
    chosen = np.zeros(free.shape, np.bool_)
    if count:
        order = np.where(usable, free, np.iinfo(np.int64).max).argsort(axis=1, kind="stable")[:, :count]
        np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def distinct_cards(usable: Bools, free: Ints, model: Shorts, memory: Ints) -> tuple[Ints, Ints]:
    """(row, card) of usable cards, without a card that looks like one of lower index on the same row: it would score the same."""
    places = free.shape[1]
    same = (free[:, :, None] == free[:, None, :]) & (model[:, :, None] == model[:, None, :]) & usable[:, None, :]
    if memory.any():
        same &= memory[:, :, None] == memory[:, None, :]
    earlier = np.tri(places, k=-1, dtype=np.bool_)
    row, card = np.nonzero(usable & ~(same & earlier).any(axis=2))
    return row, card
