"""GpuClustering: pods of one card shape side by side (Weng et al., USENIX ATC 2023)."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating, Setting
from forebay.scheduler.policies.scale import largest


class Clustering(Policy):
    """Bands by what the node holds: only this card shape 75, this and others 50, none 25, others 0; fuller is better inside.

    Shapes are shares, one card, two cards, ...; pods without a card score 0 and count as no shape.
    """

    name = "clustering"

    def __init__(self, setting: Setting) -> None:
        del setting

    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        if not request.cards:
            return Rating.of(np.zeros(len(rows)))
        _, most_cards = largest(state)
        held = state.shapes[rows, 1:] > 0
        this = held[:, state.shape(request) - 1]
        others = held.sum(axis=1) - this
        band = np.where(this, np.where(others == 0, 75, 50), np.where(others == 0, 25, 0))
        fullness = 25 * (most_cards - state.card_free[rows].sum(axis=1)) / most_cards
        return Rating.of(np.trunc(band + fullness))
