"""Nodes filled up, or filled evenly, where pod, queue or settings say so: then how full a node is decides, and not the policy.

How full: of the cards, where the pod asks for cards; else the mean over what the pod asks, with the pod on it (kube-scheduler's
MostAllocated and LeastAllocated). Which card of the node is still the policy's, or the node label's.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.pods.amounts import PODS
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies.base import Policy, Rating


def rate(state: State, policy: Policy, request: Request, rows: Ints) -> Rating:
    """Scores of rows that are feasible for a request whose `fill` is set: the fullest first, or the emptiest."""
    full = fullness(state, request, rows)
    scores = full if request.fill == "binpack" else 100 - full
    return Rating(scores, policy.rate(state, request, rows).cards) if request.cards else Rating.of(scores)


def seen_by_look(request: Request) -> bool:
    """Whether what `rate` reads of a row is in its look: of cards it is, what a node has in all of CPU and memory is not."""
    return not request.fill or bool(request.cards)


def fullness(state: State, request: Request, rows: Ints) -> Floats:
    """Percent [n] of the rows that is in use, in what the request asks."""
    if request.cards:
        have = np.maximum(state.card_milli[rows].sum(axis=1), 1)
        return np.asarray(100 * (1 - state.card_free[rows].sum(axis=1) / have), np.float64)
    asked = np.array(request.resources, np.int64)
    columns = np.flatnonzero(asked)
    if len(columns) > 1:  # the place in the count of pods says little beside CPU and memory
        columns = columns[[state.columns[at] != PODS for at in columns]]
    if not len(columns):
        return np.zeros(len(rows))
    some = rows[:, None], columns
    have = np.maximum(state.allocatable[some], 1)
    result: Floats = (100 * (have - state.free[some] + asked[columns]) / have).mean(axis=1)
    return result
