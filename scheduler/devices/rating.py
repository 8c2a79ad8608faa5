"""Scores of nodes for a pod that asks for devices: FGD's and the `forebay` policy's measures on shared and mixed cards.

The measures look at free thousandths of cards (`card.free_milli`), so a share of memory, a bound on cores and a part of a
cut card are weighed alike, each by what it takes of its own card: 8 GiB are a fifth of one card and half of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.state import NO_CARD, State
from forebay.scheduler.arrays.types import Bools, Floats, Ints, Shorts
from forebay.scheduler.devices.arrays import ORDERS, Cards
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import collapse
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.pods.request import Request


@dataclass(frozen=True, slots=True)
class Judge:
    """A policy's measure. `change`: how much better rows [S] (some perhaps several times) would be if this was left of them: free
    resources [S, R], free milli of the cards [S, C], their models [S, C].

    `score` turns what a placement gains into its score; `placed`: what it places counts as gained.
    """

    change: Callable[[Ints, Ints, Ints, Shorts], Floats]
    score: Callable[[Floats], Floats]
    placed: bool = False


def rate(state: State, request: Request, rows: Ints, judge: Judge) -> tuple[Floats, Shorts]:
    """Score, and the card that the policy would take (NO_CARD: as the node's order has it), of rows that are feasible.

    Where pod, queue or node label say how cards are to be filled, that decides which cards; the measure decides the rest.
    """
    ask, cards = request.devices, state.devices
    assert ask is not None
    assert cards is not None
    scores, chosen = np.full(len(rows), -np.inf), np.full(len(rows), NO_CARD, np.int16)
    order = np.full(len(rows), ORDERS[ask.cards_by]) if ask.cards_by else cards.order[rows].astype(np.int64)
    free = state.card_free.take(rows, axis=0)
    if not ask.single:
        after = np.stack([_granted(cards, ask, int(row), free[at]) for at, row in enumerate(rows)])
    else:
        able, then = cards.usable(ask, rows), cards.after(ask, rows)
        count = ask.groups[0][0].cards
        if count == 1 and not order.any():  # most pods and nodes
            return _each(state, request, rows, judge, (free, able, then))
        after = np.where(ordered(able, free, count, order), then, free)
        open_ = (order == 0).nonzero()[0] if count == 1 else np.zeros(0, np.int64)
        if len(open_):
            scores[open_], chosen[open_] = _each(state, request, rows[open_], judge, (free[open_], able[open_], then[open_]))
            after[open_] = free[open_]
            after[open_, chosen[open_]] = then[open_, chosen[open_]]
    rest = np.flatnonzero(scores == -np.inf)
    if len(rest):
        scores[rest] = _gains(state, request, rows[rest], judge, (free[rest], after[rest]))
    return scores, chosen


def _gains(state: State, request: Request, rows: Ints, judge: Judge, cards: tuple[Ints, Ints]) -> Floats:
    """Scores of rows whose cards would go from the first free milli to the second."""
    free, after = cards
    left = state.free.take(rows, axis=0) - np.array(request.resources, np.int64)
    gained = judge.change(rows, left, after, state.card_model.take(rows, axis=0))
    return judge.score(gained + np.add.reduce(free - after, axis=1) if judge.placed else gained)


def _each(state: State, request: Request, rows: Ints, judge: Judge, cards: tuple[Ints, Bools, Ints]) -> tuple[Floats, Shorts]:
    """The best score over the cards that could be taken, and that card; the lowest on ties. Of cards that look alike one is
    tried. `cards`: what is free of each now, which could be taken, and what would be free of it then."""
    free, able, then = cards
    model = state.card_model.take(rows, axis=0)
    looks = (free * 1001 + then) * (len(state.models) + 2) + model
    same = (looks[:, :, None] == looks[:, None, :]) & able[:, None, :]
    same &= np.tri(free.shape[1], k=-1, dtype=np.bool_)  # with an earlier one
    which, card = (able & ~np.logical_or.reduce(same, axis=2)).nonzero()
    before = free.take(which, axis=0)
    after = before.copy()
    after[np.arange(len(which)), card] = then[which, card]
    scores = np.full(free.shape, -np.inf)
    scores[which, card] = _gains(state, request, rows[which], judge, (before, after))
    best = scores.argmax(axis=1)
    return scores[np.arange(len(rows)), best], best.astype(np.int16)


def ordered(able: Bools, free: Ints, count: int, order: Ints) -> Bools:
    """bool[n, C]: the `count` cards to take: with the least free, or the most where `order` is -1; lowest index on ties."""
    sign = np.where(order < 0, -1, 1)[:, None]
    best = np.where(able, sign * free, np.iinfo(np.int64).max).argsort(axis=1, kind="stable")[:, :count]
    taken = np.zeros(free.shape, np.bool_)
    np.put_along_axis(taken, best, True, axis=1)
    return taken


def _granted(cards: Cards, ask: PodAsk, row: int, free: Ints) -> Ints:
    """Free milli of the row's cards with the pod on it, for pods whose containers ask differently."""
    after, parts = free.copy(), cards.grant(ask, row)
    if isinstance(parts, Refusal):
        return after
    for name, milli in cards.free_with(row, collapse(ask.seats, parts)).items():
        after[cards.place_of(row, name)] = milli
    return after
