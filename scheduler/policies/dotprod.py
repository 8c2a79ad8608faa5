"""DotProd: least aligned first. The published evaluation's formula (Weng et al., USENIX ATC 2023), cards of a node summed."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.scale import largest


class DotProd(Policy):
    """100 x (1 - mean over CPU and cards of free x asked / largest node squared), truncated."""

    name = "dotprod"

    def __init__(self, setting: Setting) -> None:
        del setting

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        most_cpu, most_cards = largest(state)
        cpu = state.free[rows, 0] * request.resources[0] / most_cpu**2
        cards = state.card_free[rows].sum(axis=1) * request.card_milli / most_cards**2
        return Rating.of(np.trunc(100 * (1 - (cpu + cards) / 2)))
