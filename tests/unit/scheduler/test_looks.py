"""Nodes in equal state are rated once: that changes no score, no choice, whatever comes, goes or is forgotten in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import COLUMNS, requests, states

from forebay.scheduler.arrays import looks as module
from forebay.scheduler.arrays.looks import Looks
from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import POLICIES, Policy, Setting, make

BY_LOOK = sorted(name for name, kind in POLICIES.items() if kind.by_look)


def naive(state: State, policy: Policy, request: Request) -> tuple[list[float], list[int]]:
    """Score and card of every row, each asked for by itself."""
    scores, cards = list[float](), list[int]()
    for row in range(len(state)):
        one = state.rows[row : row + 1]
        if not state.feasible(request, one)[0]:
            scores.append(-np.inf)
            cards.append(-1)
            continue
        rating = policy.rate(state, request, one)
        scores.append(float(rating.scores[0]))
        cards.append(int(rating.cards[0]))
    return scores, cards


def like(state: State, copies: int) -> State:
    """Its nodes several times over, as they are when nothing runs there."""
    nodes = [
        Node(
            f"{state.names[row]}-{copy}",
            dict(zip(state.columns, state.allocatable[row].tolist(), strict=True)),
            tuple(
                Card(state.models[model], int(memory))
                for model, memory in zip(state.card_model[row].tolist(), state.card_memory[row].tolist(), strict=True)
                if model >= 0
            ),
        )
        for copy in range(copies)
        for row in range(len(state))
    ]
    return State(nodes, state.columns)


@settings(max_examples=60, deadline=None)
@given(states(), st.sampled_from(BY_LOOK), st.booleans(), st.data())
def test_scores_by_state_equal_scores_by_row(state: State, name: str, forgetful: bool, data: st.DataObject) -> None:
    state = like(state, 3)
    kinds = data.draw(st.lists(requests(state), min_size=1, max_size=5))
    policy = make(name, Setting(history=kinds))
    held = list[tuple[int, Request, tuple[int, ...]]]()
    with pytest.MonkeyPatch.context() as patch:
        if forgetful:  # numbers are given anew all the time
            patch.setattr(module, "MOST", 0)
            patch.setattr(module, "LEAST", 3)
        planner = Planner(state, policy)
        for _ in range(data.draw(st.integers(1, 40))):
            request = data.draw(st.sampled_from(kinds))
            policy.observe(state, request)
            expected = naive(state, policy, request)
            kept = planner.ranking(request)
            assert (kept.score.tolist(), kept.card.tolist()) == expected
            assert kept.feasible.tolist() == [score != -np.inf for score in expected[0]]
            choice = planner.place(request)
            if choice is None:
                assert max(expected[0]) == -np.inf
            else:
                assert choice.row == int(np.argmax(expected[0]))
                held.append((choice.row, request, choice.cards))
            if held and data.draw(st.integers(0, 3)) == 0:
                state.release(*held.pop(data.draw(st.integers(0, len(held) - 1))))


def test_numbers_are_bounded_and_a_look_keeps_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 50)
    state = State([Node(f"n{i}", {"cpu": 10_000, "memory": 9}, (Card("a"),)) for i in range(4)], COLUMNS)
    planner, asked = Planner(state, make("forebay", Setting())), Request((1, 0))
    counts = set[int]()
    for _ in range(500):
        planner.ranking(asked)
        state.place(2, asked, ())
        counts.add(planner._looks.count)
    assert max(counts) <= 51
    assert planner._looks.version > 5
    assert planner.ranking(asked).score.tolist() == naive(state, planner.policy, asked)[0]


def test_rows_share_a_number_exactly_if_they_are_alike() -> None:
    nodes = [Node(f"n{i}", {"cpu": 4, "memory": 4}, (Card("a"), Card("b" if i % 2 else "a"))) for i in range(6)]
    state = State(nodes, COLUMNS)
    looks, share = Looks(state), Request((1, 1), 1, 500)
    looks.refresh()
    assert looks.of.tolist() == [0, 1, 0, 1, 0, 1]
    state.place(2, share, (0,))
    state.place(4, share, (1,))  # the same amounts on another card: another state, as cards are told apart
    looks.refresh()
    assert len({int(looks.of[0]), int(looks.of[2]), int(looks.of[4])}) == 3
    state.release(2, share, (0,))
    looks.refresh()
    assert looks.of[2] == looks.of[0]


def test_requests_that_differ_in_constraints_share_their_ranking_until_none_is_kept() -> None:
    state = State([Node("n", {"cpu": 4, "memory": 4})], COLUMNS)
    planner, plain = Planner(state, make("forebay", Setting())), Request((1, 1))
    one, two, other = replace(plain, constraints=1), replace(plain, constraints=2), Request((2, 2), constraints=3)
    assert planner.ranking(one) is planner.ranking(two)
    assert planner.ranking(other) is not planner.ranking(one)
    shared = planner.ranking(one)
    planner.keep([two])
    assert planner.ranking(two) is shared
    assert planner.ranking(one) is shared
    planner.keep([other])
    assert planner.ranking(one) is not shared


def test_rows_that_changed_are_found_however_long_ago() -> None:
    state = State([Node(f"n{i}", {"cpu": 1}) for i in range(9)], ["cpu"])
    touched = [(7 * at * at + at) % 9 for at in range(5000)]
    for at, row in enumerate(touched, 1):
        state.touch(row)
        for ago in (0, 1, 5, 63, 64, 65, 500):
            if ago <= at and at % 97 in {0, ago % 97}:
                assert state.changed_since(at - ago).tolist() == sorted(set(touched[at - ago : at]))
    assert state.changed_since(-1).tolist() == list(range(9))
