"""Placing, releasing, choosing: never too much, exact inverses, and caches that equal a fresh start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import requests, states

from forebay.scheduler.arrays.state import Card, Node, Overcommit, State
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import POLICIES, Setting, make

CACHED = sorted(set(POLICIES) - {"random"})  # random rates a row anew on each look, so it has nothing to compare


def arrays(state: State) -> dict[str, Any]:
    names = ("allocatable", "free", "card_model", "card_milli", "card_free", "card_memory", "card_memory_free", "shapes")
    return {name: getattr(state, name).tobytes() for name in names}


def check(state: State) -> None:
    assert (state.free >= 0).all()
    assert (state.free <= state.allocatable).all()
    assert (state.card_free >= 0).all()
    assert (state.card_free <= state.card_milli).all()
    assert (state.card_memory_free >= 0).all()


@settings(max_examples=60, deadline=None)
@given(states(), st.sampled_from(sorted(POLICIES)), st.data())
def test_nothing_is_given_twice(state: State, name: str, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(requests(state), max_size=25))
    planner = Planner(state, make(name, Setting(seed=1, history=wanted)))
    held = list[tuple[int, Request, tuple[int, ...]]]()
    at_first = state.free.copy(), state.card_free.copy(), state.card_memory_free.copy()
    for request in wanted:
        planner.policy.observe(state, request)
        fits = bool(state.feasible(request, state.rows).any())
        choice = planner.place(request)
        assert (choice is not None) == fits
        if choice is not None:
            held.append((choice.row, request, choice.cards))
            assert len(set(choice.cards)) == request.cards
        if held and data.draw(st.integers(0, 3)) == 0:
            state.release(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        check(state)
    for row, request, cards in held:
        at_first[0][row] -= request.resources
        at_first[1][row, list(cards)] -= request.milli
        at_first[2][row, list(cards)] -= request.memory
    assert (at_first[0] == state.free).all()
    assert (at_first[1] == state.card_free).all()
    assert (at_first[2] == state.card_memory_free).all()


@settings(max_examples=60, deadline=None)
@given(states(), st.sampled_from(CACHED), st.data())
def test_cached_ranking_equals_a_fresh_one(state: State, name: str, data: st.DataObject) -> None:
    kinds = data.draw(st.lists(requests(state), min_size=1, max_size=5))
    setting = Setting(history=kinds)
    planner = Planner(state, make(name, setting))
    for _ in range(data.draw(st.integers(1, 15))):
        request = data.draw(st.sampled_from(kinds))
        planner.policy.observe(state, request)
        planner.place(request)
        asked = data.draw(st.sampled_from(kinds))
        kept = planner.ranking(asked)
        fresh = Planner(state, planner.policy).ranking(asked)
        assert (kept.feasible == fresh.feasible).all()
        assert (kept.score == fresh.score).all()
        assert (kept.card == fresh.card).all()


@settings(max_examples=60, deadline=None)
@given(states(), st.data())
def test_release_undoes_place_bit_by_bit(state: State, data: st.DataObject) -> None:
    before = arrays(state)
    done = list[tuple[int, Request, tuple[int, ...]]]()
    for request in data.draw(st.lists(requests(state), max_size=10)):
        fits = state.rows[state.feasible(request, state.rows)]
        if len(fits):
            row = int(fits[0])
            cards = state.cards_for(request, row)
            state.place(row, request, cards)
            done.append((row, request, cards))
    for one in data.draw(st.permutations(done)):
        state.release(*one)
    assert arrays(state) == before


NODE = Node("n0", {"cpu": 8}, (Card("a", 16), Card("b", 16)))


@pytest.mark.parametrize(
    ("request_", "cards", "words"),
    [
        (Request((9,)), (), "cpu 8 free, cpu 9 is asked"),
        (Request((1,), 1, 500), (), "1 cards are asked on node n0, 0 are given"),
        (Request((1,), 2, 500), (0, 0), "2 cards are asked on node n0, 1 are given"),
        (Request((1,), 1, 500, 17), (0,), "do not carry"),
        (Request((1,), 1, 500, 0, (1,)), (0,), "do not carry"),
    ],
)
def test_place_refuses(request_: Request, cards: tuple[int, ...], words: str) -> None:
    state = State([NODE], ["cpu"])
    before = arrays(state)
    with pytest.raises(Overcommit, match=words):
        state.place(0, request_, cards)
    assert arrays(state) == before


def test_release_refuses_what_was_never_placed() -> None:
    state = State([NODE], ["cpu"])
    state.place(0, Request((1,), 1, 1000), (0,))
    before = arrays(state)
    for request, cards in ((Request((1,), 1, 500), (0,)), (Request((1,), 1, 1000), (1,)), (Request((8,), 1, 1000), (0,))):
        with pytest.raises(Overcommit, match=r"never|not placed"):
            state.release(0, request, cards)
    assert arrays(state) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((-1,),), "negative"),
        (((1,), 1, 0), "write 1 to 1000"),
        (((1,), 1, 1001), "write 1 to 1000"),
        (((1,), 0, 500), "at least one card"),
        (((1,), -1, 500), "negative"),
    ],
)
def test_absurd_requests_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Request(*arguments)


@pytest.mark.parametrize(
    ("nodes", "columns", "words"),
    [
        ([NODE, NODE], ["cpu"], "same name"),
        ([NODE], ["cpu", "cpu"], "twice"),
        ([NODE], ["memory"], "no column"),
        ([Node("n", {"cpu": -1})], ["cpu"], "negative"),
    ],
)
def test_absurd_clusters_are_refused(nodes: list[Node], columns: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        State(nodes, columns)


def test_whole_cards_are_idle_and_lowest_first() -> None:
    state = State([Node("n", {"cpu": 9}, (Card("a"),) * 4)], ["cpu"])
    state.place(0, Request((1,), 1, 300), (1,))
    assert state.cards_for(Request((1,), 2, 1000), 0) == (0, 2)
    with pytest.raises(Overcommit, match="3 cards that fit, 4 are asked"):
        state.cards_for(Request((1,), 4, 1000), 0)


def test_a_request_of_other_columns_is_refused() -> None:
    state = State([NODE], ["cpu"])
    with pytest.raises(ValueError, match="names 2 resources"):
        state.feasible(Request((1, 2)), state.rows)


def test_changed_rows_are_told_once() -> None:
    state = State([Node("a", {"cpu": 4}), Node("b", {"cpu": 4})], ["cpu"])
    tick = state.tick
    state.place(1, Request((1,)), ())
    state.place(1, Request((1,)), ())
    assert state.changed_since(tick).tolist() == [1]
    assert not len(state.changed_since(state.tick))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_cluster_of_no_nodes_takes_nothing(name: str) -> None:
    state = State([], ["cpu"])
    assert Planner(state, make(name, Setting())).place(Request((1,))) is None


def test_ties_go_to_the_lower_row() -> None:
    state = State([Node(f"n{i}", {"cpu": 8}, (Card("a"),)) for i in range(3)], ["cpu"])
    planner = Planner(state, make("bestfit", Setting()))
    rows = [choice.row for _ in range(3) if (choice := planner.place(Request((1,), 1, 1000)))]
    assert rows == [0, 1, 2]


def test_random_draws_all_rows_and_cards() -> None:
    seen = set[tuple[int, tuple[int, ...]]]()
    state = State([Node(f"n{i}", {"cpu": 8}, (Card("a"), Card("a"))) for i in range(2)], ["cpu"])
    planner = Planner(state, make("random", Setting(seed=3)))
    for _ in range(60):
        choice = planner.place(Request((1,), 1, 400))
        assert choice is not None
        seen.add((choice.row, choice.cards))
        state.release(choice.row, Request((1,), 1, 400), choice.cards)
    assert seen == {(row, (card,)) for row in range(2) for card in range(2)}
    assert np.isfinite(planner.ranking(Request((1,), 1, 400)).score).all()
