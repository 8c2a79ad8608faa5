"""Random: any feasible node, any card that fits; of nodes that are preferred, any of the best."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating, Setting


class Random(Policy):
    """The card is drawn when a row is rated, the row when it is picked; both from one generator of the seed."""

    name = "random"

    def __init__(self, setting: Setting) -> None:
        self._draw = np.random.default_rng(setting.seed)

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        zeros = np.zeros(len(rows))
        if request.cards != 1 or request.whole:
            return Rating.of(zeros)
        lots = np.where(state.usable(request, rows), self._draw.random((len(rows), state.card_free.shape[1])), -1.0)
        return Rating(zeros, lots.argmax(axis=1).astype(np.int16))

    def pick(self, scores: Floats) -> int | None:
        best = scores.max(initial=-np.inf)
        return int(self._draw.choice(np.flatnonzero(scores == best))) if best > -np.inf else None
