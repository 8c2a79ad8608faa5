"""Topology spread constraints of ScheduleAnyway: the emptier a node's places, the better.

Of each constraint the pods of the node's place are counted as `filters/spread.py` counts them, by node for the host name. Places
that are many weigh more, `ln(places + 2)`, and each constraint adds `maxSkew - 1`. Nodes without one of the keys get nothing
(`podtopologyspread`, Kubernetes 1.36).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from forebay.scheduler.arrays.labels import LabelColumns
from forebay.scheduler.arrays.tallies import Tally
from forebay.scheduler.arrays.types import Bools, Floats, Ints
from forebay.scheduler.pods.classes import Spread

HOST = "kubernetes.io/hostname"


class Leaning(NamedTuple):
    """A constraint, and the pods that count by place; by node where the place is the host name."""

    spread: Spread
    tally: Tally


def unevenness(leanings: tuple[Leaning, ...], labels: LabelColumns, rows: Ints) -> tuple[Floats, Bools]:
    """Float64[n] of these rows, which are those that fit, the lower the better; and which have all keys."""
    placed = np.ones(len(rows), np.bool_)
    for spread, _ in leanings:
        placed &= labels.column(spread.key)[rows] >= 0
    total = np.zeros(len(rows))
    for spread, tally in leanings:
        tally.refresh()
        places = labels.column(spread.key)[rows[placed]]
        count = len(places) if spread.key == HOST else np.count_nonzero(np.bincount(places))
        total[placed] += tally.sums[tally.place[rows[placed]]] * math.log(count + 2) + (spread.max_skew - 1)
    return total, placed
