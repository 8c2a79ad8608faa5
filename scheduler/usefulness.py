"""How much of a node's free cards the pods that usually come could still take: what the policy `forebay` protects.

U(n) = sum over typical pods t of weight(t) x scarcity(t) x milli(t) x pods(n, t), in milli. pods(n, t) is how many of t would go
on the node: the least of what its accepted cards carry (whole units on each card) and, for each resource, free / asked, not
rounded; 0 where not even one goes. scarcity(t) is cards of the cluster / cards that t accepts: a model that few pods name but
that is rare is worth keeping free for them.

It differs from FGD's F in three ways: what is left is counted in pods, not as the free part of the cards that fit one; CPU and
memory bound it, so that cards without the CPU to run them count as lost; and a request for rare models weighs by their rarity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.scheduler.arrays import Floats, Ints, Shorts
from forebay.scheduler.request import FULL, Request
from forebay.scheduler.state import State

MANY = 256
"""States from which on it pays to look for equal ones: 5,000 rows of a cluster are often a few dozen states."""


def distinct(states: Ints) -> tuple[Ints, Ints]:
    """Rows that stand for all rows of `states`, and for each row the place of its like among them.

    Found by a sum with odd factors, which is checked: should two unlike rows have the same sum, every row stands for itself.
    """
    factors = np.random.default_rng(1).integers(1, 1 << 62, states.shape[1]) * 2 + 1
    with np.errstate(over="ignore"):
        sums = states @ factors
    _, first, which = np.unique(sums, return_index=True, return_inverse=True)
    if not (states[first][which] == states).all():
        every = np.arange(len(states))
        return every, every
    return first, which


class Usefulness:
    """U for many node states at once. Arrays over D shares (distinct milli), A sets of accepted models, T typical pods."""

    def __init__(self, pods: Sequence[tuple[Request, float]], state: State) -> None:
        asking = [(request, weight) for request, weight in pods if request.cards]
        shares = sorted({request.milli for request, _ in asking})
        choices = sorted({request.models for request, _ in asking}, key=repr)
        models = len(state.models)
        supply = np.bincount(state.card_model[state.card_milli > 0], minlength=models)
        self.pods = len(asking)
        self._units = np.arange(FULL + 1)[:, None] // np.array(shares or [1])  # pods of a share that a card's free milli carries
        self._accepts = np.zeros((models + 1, len(choices)), np.float32)  # the last row answers for a place without a card
        for column, accepted in enumerate(choices):
            self._accepts[list(range(models)) if accepted is None else list(accepted), column] = 1
        self._units = self._units.astype(np.float32)
        self._kind = np.array([shares.index(r.milli) * len(choices) + choices.index(r.models) for r, _ in asking], np.int64)
        self._cards = np.array([request.cards for request, _ in asking], np.float64)
        asked = np.array([request.resources for request, _ in asking], np.float64).reshape(len(asking), len(state.columns))
        self._bounds = [(column, asked[:, column]) for column in range(len(state.columns)) if asked[:, column].any()]
        self._worth = np.zeros(len(asking))
        for place, (request, weight) in enumerate(asking):
            within = supply.sum() if request.models is None else supply[list(request.models)].sum()
            self._worth[place] = weight * request.card_milli * (supply.sum() / within if within else 0)

    def measure(self, free: Ints, card_free: Ints, card_model: Shorts) -> Floats:
        """U of S states: free resources [S, R], free milli of the cards [S, C], their models [S, C]; in milli."""
        if len(free) >= MANY:
            first, which = distinct(np.concatenate([free, card_free, card_model], axis=1, dtype=np.int64))
            if len(first) < len(free) // 2:
                return self.exact(free[first], card_free[first], card_model[first])[which]
        return self.exact(free, card_free, card_model)

    def exact(self, free: Ints, card_free: Ints, card_model: Shorts) -> Floats:
        """`measure` without looking for equal states: for who has done so."""
        if not self.pods:
            return np.zeros(len(free))
        units = np.matmul(self._units[card_free].transpose(0, 2, 1), self._accepts[card_model])  # [S, D, A]
        fit = units.reshape(len(free), -1)[:, self._kind] / self._cards
        fit[fit < 1] = 0
        for column, asked in self._bounds:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = free[:, column, None] / asked  # inf, or nan for 0 / 0, where the pod asks for nothing of it
            fit = np.fmin(fit, np.where(share < 1, 0, share))
        result: Floats = fit @ self._worth
        return result
