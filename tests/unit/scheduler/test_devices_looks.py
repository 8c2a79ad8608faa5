"""What is worked out at once for many nodes with shared cards equals what is found node by node, whatever is on them."""

from __future__ import annotations

import numpy as np
from devicekit import RULES, devices, pod_asks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_looks import BY_LOOK, naive

from forebay.scheduler.arrays.slots import TRIED, slots
from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import Device, Part
from forebay.scheduler.devices.request import request_of
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make

Held = tuple[int, Request, tuple[int, ...], tuple[Part, ...]]


@st.composite
def clusters(draw: st.DrawFn) -> State:
    """Few kinds of nodes, each several times, so that nodes are alike."""
    kinds = draw(st.lists(st.tuples(devices(), st.sampled_from(RULES), st.integers(1, 12)), min_size=1, max_size=3))
    made = [
        Node(f"n{at}-{copy}", {"cpu": cpu}, devices=cards, rules=rules)
        for copy in range(draw(st.integers(1, 3)))
        for at, (cards, rules, cpu) in enumerate(kinds)
    ]
    return State(made, ["cpu"])


def crowd(state: State, planner: Planner, kinds: list[Request], data: st.DataObject, held: list[Held]) -> None:
    """One pod comes or goes."""
    if held and data.draw(st.integers(0, 2)) == 0:
        state.release(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        return
    request = data.draw(st.sampled_from(kinds))
    planner.policy.observe(state, request)
    choice = planner.place(request)
    if choice is not None:
        held.append((choice.row, request, choice.cards, choice.parts))


def tried(state: State, request: Request, row: int) -> int:
    """How many go there one after the other."""
    held = []
    while len(held) < TRIED and state.feasible(request, state.rows[row : row + 1])[0]:
        held.append(state.hold(row, request))
    for cards, parts in reversed(held):
        state.unhold(row, request, cards, parts)
    return len(held)


@settings(max_examples=150, deadline=None)
@given(clusters(), st.lists(pod_asks(), min_size=1, max_size=4), st.data())
def test_slots_of_devices_are_what_can_be_placed_one_after_the_other(
    state: State, asks: list[PodAsk], data: st.DataObject
) -> None:
    kinds = [request_of(state, (1,), ask) for ask in asks]
    planner, held = Planner(state, make("forebay", Setting())), list[Held]()
    for _ in range(data.draw(st.integers(0, 8))):
        crowd(state, planner, kinds, data, held)
    for request in kinds:
        said = slots(state, request, state.rows)
        assert said.tolist() == [tried(state, request, row) for row in range(len(state))]


@settings(max_examples=100, deadline=None)
@given(clusters(), st.lists(pod_asks(), min_size=1, max_size=4), st.sampled_from(BY_LOOK), st.data())
def test_scores_by_state_equal_scores_by_row(state: State, asks: list[PodAsk], name: str, data: st.DataObject) -> None:
    kinds = [request_of(state, (1,), ask) for ask in asks] + [Request((2,))]
    planner, held = Planner(state, make(name, Setting(history=kinds))), list[Held]()
    for _ in range(data.draw(st.integers(1, 12))):
        crowd(state, planner, kinds, data, held)
        for request in kinds:
            kept = planner.ranking(request)
            scores, cards = naive(state, planner.policy, request)
            assert kept.score.tolist() == scores
            assert kept.card[kept.feasible].tolist() == [
                card for card, score in zip(cards, scores, strict=True) if score != -np.inf
            ]


@settings(max_examples=60, deadline=None)
@given(clusters(), st.lists(pod_asks(), min_size=1, max_size=3), st.data())
def test_what_a_pod_is_like_follows_the_cards_that_there_are(state: State, asks: list[PodAsk], data: st.DataObject) -> None:
    assume(state.devices is not None)
    assert state.devices is not None
    for _ in range(4):
        for ask in asks:
            anew = State(_nodes(state), ["cpu"]).devices
            assert anew is not None
            assert state.devices.typical(ask) == anew.typical(ask)
        row = data.draw(st.integers(0, len(state) - 1))
        places = state.card_model.shape[1]
        fresh: tuple[Device, ...] = data.draw(devices())[:places]
        known = set(state.models)
        others = np.delete(state.devices.present, row)
        if others.any() and all(card.model in known for card in fresh):
            state.set_devices(row, fresh, state.devices.rules[row], {})


def _nodes(state: State) -> list[Node]:
    assert state.devices is not None
    cards = state.devices
    return [Node(name, {"cpu": 1}, devices=cards.devices[row], rules=cards.rules[row]) for row, name in enumerate(state.names)]
