"""GpuPacking: cards in use first, then idle cards of nodes in use, then idle nodes (Weng et al., USENIX ATC 2023)."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import NO_CARD, State
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.pods.request import FULL, Request
from forebay.scheduler.policies.base import Policy, Rating, Setting


class Packing(Policy):
    """Three bands: 50..100 no idle card needed, 33..50 some, below 34 an idle node. Pods without a card score 0."""

    name = "packing"

    def __init__(self, setting: Setting) -> None:
        del setting

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        if not request.cards:
            return Rating.of(np.zeros(len(rows)))
        count = (state.card_model[rows] != NO_CARD).sum(axis=1)
        idle = state.card_free[rows].sum(axis=1) == count * FULL
        taken = _tightest(state, request, rows)  # free milli of the cards it would take
        fresh = (taken == FULL).sum(axis=1)
        shared = np.maximum(np.trunc(100 - taken.sum(axis=1) // 10 / 10), 50)
        mixed = np.maximum(50 - fresh, 33)
        alone = np.maximum(33 - count, count)
        return Rating.of(np.where(idle, alone, np.where(fresh > 0, mixed, shared)).astype(np.float64))


def _tightest(state: State, request: Request, rows: Ints) -> Floats:
    """Free milli of the tightest cards that fit, [n, cards of the request]."""
    free = np.where(state.usable(request, rows), state.card_free[rows], np.inf)
    free.sort(axis=1)
    return np.minimum(free[:, : request.cards], FULL)  # containers may share: then there are fewer cards than that
