"""BestFit: the node with the least left. The published evaluation's formula (Weng et al., USENIX ATC 2023)."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.scale import largest


class BestFit(Policy):
    """100 x (1 - mean over CPU and cards of what would be left / largest node), truncated.

    The original then stretches the scores of the feasible nodes to 0..100 in integers; the node with the highest score is the
    same before and after, so that step is left out.
    """

    name = "bestfit"

    def __init__(self, setting: Setting) -> None:
        del setting

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        most_cpu, most_cards = largest(state)
        cpu = (state.free[rows, 0] - request.resources[0]) / most_cpu
        cards = (state.card_free[rows].sum(axis=1) - request.card_milli) / most_cards
        return Rating.of(np.trunc(100 * (1 - (cpu + cards) / 2)))
