"""U against its definition, and what is learned from arrivals."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import COLUMNS, requests, states

from forebay.api.kubernetes import core as corev1
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.fragments import typical
from forebay.scheduler.fragments.typical import MOST, Typical
from forebay.scheduler.fragments.usefulness import Usefulness
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make


def plain_pods(state: State, row: int, request: Request) -> float:
    """How many of `request` would go on the row, not rounded where resources bound it."""
    units = 0
    for free, model in zip(state.card_free[row].tolist(), state.card_model[row].tolist(), strict=True):
        if model >= 0 and (request.models is None or model in request.models):
            units += free // request.milli
    bounds = [units / request.cards]
    bounds += [free / asked for free, asked in zip(state.free[row].tolist(), request.resources, strict=True) if asked]
    return 0.0 if min(bounds) < 1 else min(bounds)


def plain_scarcity(state: State, request: Request) -> float:
    every = [model for model in state.card_model.ravel().tolist() if model >= 0]
    accepted = [model for model in every if request.models is None or model in request.models]
    return len(every) / len(accepted) if accepted else 0.0


def plain_measure(state: State, row: int, pods: list[tuple[Request, float]]) -> float:
    """U as it is defined, sum by sum."""
    asking = [(request, weight) for request, weight in pods if request.cards]
    every, total = sum(weight for _, weight in asking), 0.0
    for models in {request.models for request, _ in asking}:
        group = [(request, weight) for request, weight in asking if request.models == models]
        whole = sum(weight for _, weight in group)
        mean = sum(weight / whole * (request.card_milli * plain_pods(state, row, request)) ** 8 for request, weight in group)
        total += whole / every * plain_scarcity(state, group[0][0]) * mean ** (1 / 8)
    return total


@settings(max_examples=200, deadline=None)
@given(states(), st.data())
def test_measure_equals_definition(state: State, data: st.DataObject) -> None:
    pods = [(request, data.draw(st.floats(0.01, 1))) for request in data.draw(st.lists(requests(state), max_size=12))]
    got = Usefulness(pods, state).measure(state.free, state.card_free, state.card_model)
    for row in range(len(state)):
        assert got[row] == pytest.approx(plain_measure(state, row, pods), rel=1e-9, abs=1e-6)


def test_cards_are_worth_what_the_pods_that_suit_them_would_take() -> None:
    """Of two kinds that come equally often one has no CPU here: the node is worth most of its cards, not half of them."""
    state = State([Node("n", {"cpu": 4, "memory": 99}, (Card("a"),) * 4)], COLUMNS)
    light, heavy = Request((1, 0), 1, 1000), Request((50, 0), 1, 1000)
    worth = Usefulness([(light, 0.5), (heavy, 0.5)], state).measure(state.free, state.card_free, state.card_model)
    assert worth[0] == pytest.approx(4000 * 0.5 ** (1 / 8))


def test_a_node_with_little_cpu_is_left_to_pods_that_ask_little() -> None:
    nodes = [Node("poor", {"cpu": 8, "memory": 99}, (Card("a"),) * 4), Node("rich", {"cpu": 80, "memory": 99}, (Card("a"),) * 4)]
    state = State(nodes, COLUMNS)  # the poor one stands first
    planner = Planner(state, make("forebay", Setting()))
    light, heavy = Request((2, 1), 1, 1000), Request((8, 1), 1, 1000)
    for _ in range(typical.FIRST):
        planner.policy.observe(state, light)
        planner.policy.observe(state, heavy)
    rows = [choice.row for request in (heavy, light, heavy, light) if (choice := planner.place(request))]
    assert rows == [1, 0, 1, 0]


def test_cards_without_cpu_to_run_them_are_worth_nothing() -> None:
    state = State([Node("n", {"cpu": 10, "memory": 99}, (Card("a"),) * 4)], COLUMNS)
    pods = [(Request((4, 0), 1, 1000), 1.0)]
    assert Usefulness(pods, state).measure(state.free, state.card_free, state.card_model).tolist() == [2500.0]
    state.place(0, Request((7, 0)), ())
    assert Usefulness(pods, state).measure(state.free, state.card_free, state.card_model).tolist() == [0.0]


def test_a_rare_model_is_kept_for_those_that_name_it() -> None:
    nodes = [
        Node("rare", {"cpu": 9, "memory": 9}, (Card("r"),)),
        *(Node(f"n{i}", {"cpu": 9, "memory": 9}, (Card("a"),)) for i in range(9)),
    ]
    state = State(nodes, COLUMNS)  # the rare one stands first: without a reason against it, it would be taken
    planner = Planner(state, make("forebay", Setting()))
    anyone, picky = Request((1, 1), 1, 1000), Request((1, 1), 1, 1000, 0, state.model_indexes(["r"]))
    for _ in range(typical.FIRST):
        planner.policy.observe(state, anyone)
        planner.policy.observe(state, picky)
    for _ in range(9):
        choice = planner.place(anyone)
        assert choice is not None
        assert choice.row != 0
    choice = planner.place(picky)
    assert choice is not None
    assert choice.row == 0


def test_history_is_not_read() -> None:
    state = State([Node("n", {"cpu": 9, "memory": 9}, (Card("a"),) * 4)], COLUMNS)
    history = [Request((1, 1), 1, 500)] * 100
    with_it, without = (Planner(state, make("forebay", Setting(history=known))) for known in (history, ()))
    asked = Request((1, 1), 1, 300)
    assert (with_it.ranking(asked).score == without.ranking(asked).score).all()


ANY, A, IDLE = Request((1, 1), 1, 500), Request((1, 1), 1, 500, 0, (0,)), Request((1, 1))


def test_each_set_of_models_keeps_its_weight() -> None:
    learned = Typical()
    rare = [Request((cpu, 1), 1, 500, 0, (0,)) for cpu in range(2, 22)]
    for request in [ANY] * 60 + [IDLE] * 20 + rare:
        learned.observe(request)
    learned._revise()  # revisions fall due at arrivals of their own
    weights = dict(learned.requests)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[ANY] == pytest.approx(0.6)
    assert weights[IDLE] == pytest.approx(0.2)
    assert sum(request.models is not None for request in weights) == 18  # 90 % of twenty


KINDS = ((1, None), (1, (1,)), (0, None))


def test_where_each_pod_asks_for_something_else_few_stand_for_all_and_no_set_is_forgotten() -> None:
    learned = Typical()
    for number in range(3000):
        learned.observe(Request((1000 + number,), 1, 500))
        if number % 100 == 0:
            learned.observe(Request((1000,), 1, 500, 0, (1,)))
            learned.observe(Request((number,)))
    weights = [sum(weight for one, weight in learned.requests if (one.cards, one.models) == kind) for kind in KINDS]
    assert MOST / 2 < len(learned.requests) <= MOST
    assert weights == pytest.approx([3000 / 3060, 30 / 3060, 30 / 3060], rel=0.01)
    assert sum(weights) == pytest.approx(1.0)


def test_revisions_grow_rare() -> None:
    learned = Typical()
    revised = [at for at in range(1, 1000) if learned.observe(ANY)]
    assert revised[0] == typical.FIRST
    gaps = [later - earlier for earlier, later in itertools.pairwise(revised)]
    assert gaps == sorted(gaps)
    assert len(revised) < 50


def test_a_workload_that_changes_is_followed() -> None:
    learned = Typical()
    for _ in range(typical.WINDOW):
        learned.observe(ANY)
    for _ in range(3 * typical.WINDOW):
        learned.observe(A)
    weights = dict(learned.requests)
    assert weights[A] > 0.9
    assert len(learned._counts) <= 2


def measured(measure: Usefulness, state: State, rows: Ints) -> list[float]:
    return measure.measure(state.free[rows], state.card_free[rows], state.card_model[rows]).tolist()


@settings(max_examples=100, deadline=None)
@given(states(), st.data())
def test_a_state_is_worth_the_same_in_any_company(state: State, data: st.DataObject) -> None:
    """Bit for bit: else a node's score would depend on which others were rated with it."""
    pods = [(request, data.draw(st.floats(0.01, 1))) for request in data.draw(st.lists(requests(state), max_size=40))]
    measure = Usefulness(pods, state)
    together = measured(measure, state, state.rows)
    assert together == [measured(measure, state, state.rows[row : row + 1])[0] for row in range(len(state))]
    order = data.draw(st.permutations(range(len(state))))
    assert measured(measure, state, np.array(order)) == [together[row] for row in order]


def test_typical_pods_from_before_a_column_came_count_nothing_of_it() -> None:
    state = State([Node("n", {"cpu": 10, "memory": 99}, (Card("a"),) * 4)], COLUMNS)
    old, new = Usefulness([(Request((4,), 1, 1000), 1.0)], state), Usefulness([(Request((4, 0), 1, 1000), 1.0)], state)
    assert old.same(new)
    assert not old.same(Usefulness([(Request((4, 1), 1, 1000), 1.0)], state))


def test_what_nobody_asks_for_bounds_nobody_even_where_it_is_overcommitted() -> None:
    state = State([Node("n", {"cpu": 10, "memory": 99}, (Card("a"),) * 4)], COLUMNS)
    pods = [(Request((4, 0), 1, 1000), 0.5), (Request((4, 9), 1, 1000), 0.5)]
    state.free[0, 1] = -1
    assert measured(Usefulness(pods, state), state, state.rows) == [pytest.approx(2500 * 0.5 ** (1 / 8))]


def test_the_policy_goes_on_when_a_model_or_a_column_comes() -> None:
    cluster, policy = Cluster(), make("forebay", Setting())
    planner = Planner(cluster, policy)

    def node(name: str, model: str, **more: str) -> None:
        offered = {"cpu": "8", "memory": "8Gi", "pods": "9", **more}
        cluster.set_node(
            msgspec.convert({"metadata": {"name": name}, "status": {"allocatable": offered}}, corev1.Node), [Card(model)]
        )

    def place(name: str) -> int:
        spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}
        pod = msgspec.convert({"metadata": {"name": name, "uid": name}, "spec": spec}, corev1.Pod)
        request = replace(cluster.request(pod), cards=1, milli=1000)
        policy.observe(cluster, request)
        choice = planner.place(request)
        assert choice is not None
        return choice.row

    node("a", "first")
    rows = {place("p0")}
    for count, name in enumerate(("b", "c", "d"), 1):  # each with a model that was not there
        node(name, f"model-{name}")
        rows.add(place(f"p{count}"))
    node("e", "first", **{"example.com/more": "3"})
    rows.add(place("p9"))
    for _ in range(2 * typical.FIRST):  # a revision falls due: typical pods of two widths
        policy.observe(cluster, Request((1, *[0] * (len(cluster.columns) - 1)), 1, 500))
    assert len(rows) == 5
