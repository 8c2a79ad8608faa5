"""How much of a node's free cards the pods that usually come could still fill: what the policy `forebay` protects.

U(n) = sum over sets g of accepted models of weight(g) x scarcity(g) x (mean over typical pods t of g of fill(n, t)^8)^(1/8)

fill(n, t) = milli(t) x pods(n, t), in milli. pods(n, t) is how many of t would go on the node: the least of what its accepted
cards carry (whole units on each card) and, for each resource, free / asked, not rounded; 0 where not even one goes. The mean
goes by weight, how often each comes. scarcity(g) is cards of the cluster / cards that g accepts: a model that few pods name but
that is rare is worth keeping free for them.

The power is what matters most. Pods are sent where they fit, so a node is filled by those of them that suit it, not by the
average one: with a plain mean, cards with little CPU seem worth little since many pods could not run there, any pod that can
is sent there first, and takes what CPU they have: on openb, nodes with 8 CPUs a card so ended 15 % idle, and end 9 % idle with
the power. With it such a node is worth nearly all its cards as long as *some* usual pods could fill them, and losing that is
what costs. (The maximum would ask that of the best pod alone, however rare.)

It differs from FGD's F in four ways: in that; what is left is counted in pods, not as the free part of the cards that fit one;
CPU and memory bound it, so that cards without the CPU to run them count as lost; and requests for rare models weigh by their
rarity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Floats, Halves, Ints, Shorts
from forebay.scheduler.pods.request import FULL, Request

SQUARINGS = 3
"""2^3 = 8 is the power of the mean. By squares and square roots, which are the same bit for bit on every machine."""


class Usefulness:
    """U for many node states at once: D columns, C places, T typical pods of K kinds (share, accepted models), A sets of models.

    Each state is summed up by itself, in an order that does not depend on the others: its U is the same, bit for bit, in any
    company. `models` is how many card models there were; for more it has to be made anew.
    """

    def __init__(self, pods: Sequence[tuple[Request, float]], state: State) -> None:
        asking = sorted(((request, weight) for request, weight in pods if request.cards), key=lambda one: repr(one[0].models))
        choices = list(dict.fromkeys(request.models for request, _ in asking))
        kinds = sorted({(request.milli, request.models) for request, _ in asking}, key=repr)
        supply = np.bincount(state.card_model[state.card_milli > 0], minlength=len(state.models))
        self.pods, self.models = len(asking), len(state.models)
        self._units = _units(kinds, self.models)
        self._kind = np.array([kinds.index((request.milli, request.models)) for request, _ in asking], np.int64)
        self._cards = np.array([request.cards for request, _ in asking], np.float64)
        width = len(state.columns)  # of requests made before a column came, the rest is 0
        asked = np.array([(*request.resources, *[0] * width)[:width] for request, _ in asking], np.float64).reshape(
            len(asking), width
        )
        self._columns = np.flatnonzero(asked.any(axis=0))
        self._asked = asked.T[self._columns]
        self._never = np.where(self._asked, 0.0, np.inf)  # what is not asked for bounds nothing
        self._asked[self._asked == 0] = 1
        self._bounds: list[tuple[int, Floats, Floats | None]] = [
            (int(column), each, never if never.any() else None)
            for column, each, never in zip(self._columns, self._asked, self._never, strict=True)
        ]
        every = sum(weight for _, weight in asking)
        whole = {models: sum(weight for request, weight in asking if request.models == models) for models in choices}
        self._cards_asked = np.array([request.card_milli / FULL for request, _ in asking])
        self._share = np.array([weight / whole[request.models] for request, weight in asking])
        self._starts = np.array(
            [next(at for at, (r, _) in enumerate(asking) if r.models == models) for models in choices], np.int64
        )
        self._worth = np.zeros(len(choices))
        for place, models in enumerate(choices):
            within = supply.sum() if models is None else supply[list(models)].sum()
            self._worth[place] = FULL * whole[models] / every * (supply.sum() / within if within else 0)

    def same(self, other: Usefulness) -> bool:
        """Whether both measure every state alike."""
        names = ("_units", "_kind", "_cards", "_columns", "_asked", "_never", "_cards_asked", "_share", "_starts", "_worth")
        return self.models == other.models and all(np.array_equal(getattr(self, one), getattr(other, one)) for one in names)

    def measure(self, free: Ints, card_free: Ints, card_model: Shorts) -> Floats:
        """U of S states: free resources [S, D], free milli of the cards [S, C], their models [S, C]; in milli."""
        if not self.pods:
            return np.zeros(len(free))
        at = np.multiply(card_model, FULL + 1, dtype=np.int64)
        at += card_free
        fit = np.add.reduce(self._units.take(at, axis=0), axis=1).take(self._kind, axis=1) / self._cards  # [S, T]
        for column, asked, never in self._bounds:
            share = free[:, column, None] / asked
            if never is not None:
                share += never
            np.minimum(fit, share, out=fit)
        fit *= fit >= 1
        fit *= self._cards_asked
        for _ in range(SQUARINGS):
            fit *= fit
        fit *= self._share
        filled: Floats = np.add.reduceat(fit, self._starts, axis=1)  # [S, A]
        for _ in range(SQUARINGS):
            np.sqrt(filled, out=filled)
        filled *= self._worth
        result: Floats = np.add.reduce(filled, axis=1)
        return result


def _units(kinds: Sequence[tuple[int, tuple[int, ...] | None]], models: int) -> Halves:
    """float32[(models + 1) * 1001, K]: pods of each kind that a card carries, by model * 1001 + free milli.

    The last 1001 answer for a place without a card: model -1, counted from the end. Whole numbers, so sums are exact.
    """
    accepts = np.zeros((models + 1, 1, len(kinds)), np.float32)
    for column, (_, accepted) in enumerate(kinds):
        accepts[list(range(models)) if accepted is None else list(accepted), 0, column] = 1
    units = np.arange(FULL + 1)[:, None] // np.array([milli for milli, _ in kinds] or [1])[: len(kinds)]
    table: Halves = (accepts * units.astype(np.float32)).reshape((models + 1) * (FULL + 1), len(kinds))
    return table
