"""What preferences are worth beside everything else that decides among nodes, in one unit: seconds of delay.

`seconds` (setting `preferenceSeconds`) is what it is worth to go to a node that meets all of one kind of affinity instead of one
that meets nothing of it (`points.FULL`). Against data that is seconds against seconds. Against a policy, whose scores go from 0
to 100, a point is POINT seconds: a card that becomes useless costs 20 s where gangs are placed by their data
(`locality/placing.py`), and 25 points in the middle of `forebay`'s scale.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Bools, Floats
from forebay.scheduler.pods.request import Request
from forebay.scheduler.preferences.points import FULL

SECONDS = 60.0
"""Enough to be heeded nearly always: that many seconds are 75 of a policy's 100 points, and the time in which a link of 10 Gb/s
brings 75 GB."""
POINT = 0.8
"""Seconds that a point of a policy's score is worth."""


def preferring(state: State, request: Request, scores: Floats, seconds: float) -> Floats:
    """A policy's scores [N], -inf where nothing fits, with what the request prefers; the same rows fit."""
    rows = (scores > -np.inf).nonzero()[0]
    points = state.preferred(request, rows).total if len(rows) > 1 else None
    if points is None:
        return scores
    result = scores.copy()
    result[rows] += points * (seconds / (FULL * POINT))
    return result


def wasted(state: State, request: Request, fits: Bools, held: Bools, seconds: float) -> Floats | None:
    """Seconds [N] that each row is worse than the best of those that fit; 0 elsewhere. None where nothing weighs.

    For whoever weighs the pod's data itself, which is where `held`: terms about data do not count.
    """
    if not state.prefers(request):
        return None
    rows = fits.nonzero()[0]
    points = state.preferred(request, rows, held).total if len(rows) > 1 else None
    if points is None or points.max() == points.min():
        return None
    result = np.zeros(len(fits))
    result[rows] = (points.max() - points) * (seconds / FULL)
    return result
