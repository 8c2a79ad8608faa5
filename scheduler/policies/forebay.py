"""forebay: take the placement that costs the pods to come least. Strictly online: it learns from arrivals and moves nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forebay.scheduler.arrays import Bools, Floats, Ints, Shorts
from forebay.scheduler.devices.rating import Judge, rate
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.fgd import distinct_cards, score, tightest
from forebay.scheduler.request import Request
from forebay.scheduler.state import State
from forebay.scheduler.typical import Typical
from forebay.scheduler.usefulness import MANY, Usefulness, distinct


class NodesOf(NamedTuple):
    """What a score depends on, of n nodes: free resources; of the cards free milli, model, free memory, and which would do."""

    free: Ints
    card_free: Ints
    card_model: Shorts
    card_memory: Ints
    usable: Bools

    def only(self, at: Ints) -> NodesOf:
        """Those at these places."""
        return NodesOf(self.free[at], self.card_free[at], self.card_model[at], self.card_memory[at], self.usable[at])


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
        if request.devices is not None:
            return Rating(*rate(state, request, rows, Judge(self._measure.measure, score, placed=True)))
        nodes = NodesOf(
            state.free[rows],
            state.card_free[rows],
            state.card_model[rows],
            state.card_memory_free[rows],
            state.usable(request, rows),
        )
        if len(rows) < MANY:
            return self._rate(request, nodes)
        first, which = distinct(np.concatenate(nodes, axis=1, dtype=np.int64))
        few = self._rate(request, nodes.only(first))
        return Rating(few.scores[which], few.cards[which])

    def _rate(self, request: Request, nodes: NodesOf) -> Rating:
        assert self._measure is not None
        spare, free, model, memory, usable = nodes
        before = self._measure.exact(spare, free, model)
        left = spare - np.array(request.resources, np.int64)
        if request.cards != 1 or request.whole:
            after = free - request.milli * tightest(usable, free, request.cards)
            return Rating.of(self._score(request, before, left, after, model))
        which, card = distinct_cards(usable, free, model, memory)
        after = free[which]
        after[np.arange(len(which)), card] -= request.milli
        scores = np.full(free.shape, -np.inf)
        scores[which, card] = self._score(request, before[which], left[which], after, model[which])
        best = scores.argmax(axis=1)
        return Rating(scores[np.arange(len(free)), best], best.astype(np.int16))

    def _score(self, request: Request, before: Floats, left: Ints, after: Ints, model: Shorts) -> Floats:
        assert self._measure is not None
        return score(request.card_milli - (before - self._measure.exact(left, after, model)))
