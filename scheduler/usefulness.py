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

from forebay.scheduler.arrays import Floats, Ints, Shorts
from forebay.scheduler.request import FULL, Request
from forebay.scheduler.state import State

MANY = 256
"""States from which on it pays to look for equal ones: 5,000 rows of a cluster are often a few dozen states."""

SQUARINGS = 3
"""2^3 = 8 is the power of the mean. By squares and square roots, which are the same bit for bit on every machine."""


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
        asking = sorted(((request, weight) for request, weight in pods if request.cards), key=lambda one: repr(one[0].models))
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
        every = sum(weight for _, weight in asking)
        whole = {models: sum(weight for request, weight in asking if request.models == models) for models in choices}
        self._cards_asked = np.array([request.card_milli / FULL for request, _ in asking])
        self._share = np.array([weight / whole[request.models] for request, weight in asking])
        accepted_by = [request.models for request, _ in asking]  # sorted like `choices`
        self._starts = np.array([accepted_by.index(models) for models in choices], np.int64)
        self._worth = np.zeros(len(choices))
        for place, models in enumerate(choices):
            within = supply.sum() if models is None else supply[list(models)].sum()
            self._worth[place] = FULL * whole[models] / every * (supply.sum() / within if within else 0)

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
        fit *= self._cards_asked
        for _ in range(SQUARINGS):
            fit *= fit
        fit *= self._share
        filled: Floats = np.add.reduceat(fit, self._starts, axis=1)  # [S, A]
        for _ in range(SQUARINGS):
            np.sqrt(filled, out=filled)
        filled *= self._worth
        result: Floats = filled.sum(axis=1)
        return result
