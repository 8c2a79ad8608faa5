"""F of FGD against the plain definition, and the class cache against computing all anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import requests, states

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.fragments.measure import Fragmentation, Shape, typical
from forebay.scheduler.pods.request import FULL, Request
from forebay.scheduler.policies import Setting, make
from forebay.scheduler.policies.fgd import distinct_cards, tightest


def plain_frag(cpu: int, cards: list[tuple[int, int]], shape: Shape) -> int:
    """The definition for one node and one typical pod; `cards` are (free milli, model)."""
    asked_cpu, milli, count, models = shape
    total = sum(free for free, _ in cards)
    if count == 0:
        return total
    fit = [free for free, model in cards if model >= 0 and free >= milli and (models is None or model in models)]
    return total - sum(fit) if len(fit) >= count and cpu >= asked_cpu else total


def plain_f(cpu: int, cards: list[tuple[int, int]], pods: list[tuple[Shape, float]]) -> float:
    return sum(weight * plain_frag(cpu, cards, shape) for shape, weight in pods)


def row_of(state: State, row: int) -> tuple[int, list[tuple[int, int]]]:
    cards = zip(state.card_free[row].tolist(), state.card_model[row].tolist(), strict=True)
    return int(state.free[row, 0]), list(cards)


@settings(max_examples=150, deadline=None)
@given(states(), st.data())
def test_table_equals_definition(state: State, data: st.DataObject) -> None:
    history = data.draw(st.lists(requests(state), min_size=1, max_size=30))
    pods = typical(history, state.models, cover=data.draw(st.sampled_from([0.5, 0.95, 1.0])))
    got = Fragmentation(pods, state.card_free.shape[1], len(state.models)).measure(
        state.free[:, 0], state.card_free, state.card_model
    )
    for row in range(len(state)):
        assert got[row] == pytest.approx(plain_f(*row_of(state, row), pods), abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(states(), st.data())
def test_fgd_score_equals_definition(state: State, data: st.DataObject) -> None:
    history = data.draw(st.lists(requests(state), min_size=1, max_size=20))
    request = data.draw(requests(state))
    policy = make("fgd", Setting(history=history))
    pods = typical(history, state.models)
    rows = state.rows[state.feasible(request, state.rows)]
    if not len(rows):
        return
    rating = policy.rate(state, request, rows)
    for at, row in enumerate(rows.tolist()):
        cpu, cards = row_of(state, row)
        before = plain_f(cpu, cards, pods)
        usable = state.usable(request, np.array([row]))[0].tolist()
        if request.cards == 1 and not request.whole:
            ways = [[place] for place, fits in enumerate(usable) if fits]
        else:
            fitting = sorted((cards[place][0], place) for place, fits in enumerate(usable) if fits)
            ways = [[place for _, place in fitting[: request.cards]]]
        best = -math.inf
        for way in ways:
            after = [(free - request.milli * (place in way), model) for place, (free, model) in enumerate(cards)]
            gain = before - plain_f(cpu - request.resources[0], after, pods)
            best = max(best, 100 / (1 + math.exp(-gain / FULL)))
        # a score beside a whole number may be truncated either way: the sums have another order
        assert rating.scores[at] in {math.floor(best - 1e-9), math.floor(best + 1e-9)}


def test_typical_takes_the_shortest_prefix() -> None:
    common, rare, idle = Request((4000,), 1, 500), Request((8000,), 1, 1000), Request((1000,))
    pods = typical([common] * 90 + [idle] * 6 + [rare] * 4, [])
    assert pods == [((4000, 500, 1, None), 90 / 96), ((1000, 0, 0, None), 6 / 96)]


def test_typical_of_nothing_is_nothing() -> None:
    assert typical([], []) == []


def test_without_typical_pods_that_ask_for_cards_everything_free_is_a_fragment() -> None:
    measure = Fragmentation([((1000, 0, 0, None), 1.0)], 2, 1)
    got = measure.measure(np.array([9000]), np.array([[300, 1000]]), np.array([[0, 0]], np.int16))
    assert got.tolist() == [1300.0]


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [
        ([1000, 1000, 400], 1, [False, False, True]),
        ([1000, 1000, 400], 2, [True, False, True]),
        ([1000, 1000, 1000], 2, [True, True, False]),
        ([300, 300, 300], 0, [False, False, False]),
    ],
)
def test_tightest(free: list[int], asked: int, expected: list[bool]) -> None:
    cards = np.array([free])
    assert tightest(np.ones(cards.shape, bool), cards, asked)[0].tolist() == expected


def test_distinct_cards_keeps_the_lowest_of_equal_ones() -> None:
    node = Node("n", {"cpu": 8}, (Card("a"), Card("a"), Card("b"), Card("a")))
    state = State([node], ["cpu"])
    state.place(0, Request((1,), 1, 300), (0,))
    usable = state.usable(Request((1,), 1, 500), state.rows)
    row, card = distinct_cards(usable, state.card_free, state.card_model, state.card_memory_free)
    assert (row.tolist(), card.tolist()) == ([0, 0, 0], [0, 1, 2])
