"""What it costs to run a gang where its data is not, how many slots nodes have, and the choice between them."""

from __future__ import annotations

import math
from dataclasses import replace

import filterlab
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import requests, states

from forebay.scheduler.arrays.slots import Shapes, Slots, capacity, slots
from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.locality.cost import NIC, STORE, Data, Links, gang_seconds, node_seconds, soon, together
from forebay.scheduler.locality.placing import PRICE, choose, take
from forebay.scheduler.pods.request import Request

GB = 10**9
LINKS = Links(nic=10 * GB, store=5 * GB)
INF = math.inf


def data(
    held: list[int],
    size: int = 100,
    *,
    eta: list[float] | None = None,
    joint: float | None = None,
    crowd: list[int] | None = None,
) -> Data:
    """Sizes in GB."""
    many = len(held)
    return Data(
        size * GB,
        np.array(held, np.int64) * GB,
        np.array(eta or [INF] * many),
        float(max(held) if joint is None else joint) * GB,
        np.array(crowd or [0] * many, np.float64) * GB,
    )


@pytest.mark.parametrize(
    ("links", "have", "part", "seconds"),
    [
        (LINKS, data([100]), 1.0, [0]),
        (LINKS, data([100, 0], joint=100), 1.0, [0, 10]),  # another holds it: 100 GB over the NIC
        (LINKS, data([0, 0], joint=0), 1.0, [30, 30]),  # nobody does: 10 s over the NIC and 20 s of the store
        (replace(LINKS, users=1), data([0], joint=0), 1.0, [50]),  # half of the store
        (LINKS, data([50], joint=50), 1.0, [15]),
        (LINKS, data([0, 100]), 0.5, [10, 0]),  # half of the pods read all of it in two epochs
        (LINKS, data([0, 100]), 0.25, [5, 0]),
        (LINKS, data([0, 100], eta=[3, INF]), 1.0, [3, 0]),  # a load that runs there is quicker
        (LINKS, data([0, 100], eta=[30, INF]), 1.0, [10, 0]),
        (LINKS, data([100, 100], crowd=[20, 0]), 1.0, [4, 0]),  # pushes out 20 GB, which are read twice more
        (LINKS, data([0], size=0), 1.0, [0]),  # nothing is known of the dataset
        (Links(), data([0, 100]), 1.0, [100 * GB / NIC, 0]),
        (Links(), data([0]), 1.0, [100 * GB / NIC + 100 * GB / STORE]),
        (Links(nic=-1, store=-1, users=-3), data([0, 100]), 1.0, [100 * GB / NIC, 0]),  # rates that cannot be
    ],
)
def test_seconds_on_one_node(links: Links, have: Data, part: float, seconds: list[float]) -> None:
    assert node_seconds(part, have, links) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("counts", "have", "seconds"),
    [
        ([4, 4], data([100, 100]), 0),
        ([4, 4], data([100, 0]), 10),
        ([4, 4], data([0, 0], joint=100), 20),  # both NICs, from a third node
        ([4, 4], data([0, 0], joint=0), 40),  # the store sends each byte once
        ([2, 2, 2, 2], data([0, 0, 0, 0], joint=100), 20),  # each reads half of it in two epochs
        ([7, 1], data([100, 0]), 2.5),
        ([4, 4], data([0, 0], joint=0, eta=[5, INF]), 35),  # only the second needs the store
        ([8], data([0], size=0), 0),
    ],
)
def test_seconds_of_a_gang(counts: list[int], have: Data, seconds: float) -> None:
    assert gang_seconds(np.array(counts), sum(counts), have, LINKS) == pytest.approx(seconds)


def test_a_gang_on_one_node_costs_what_the_node_costs() -> None:
    for have in (data([30], joint=60), data([0], joint=0), data([100]), data([70], joint=70, crowd=[9])):
        assert gang_seconds(np.array([8]), 8, have, LINKS) == pytest.approx(float(node_seconds(1.0, have, LINKS)[0]))


@pytest.mark.parametrize(
    ("held", "size", "joint"), [([0, 0], 100, 0), ([100, 0], 100, 100), ([50, 50], 100, 75), ([200, 0], 100, 100), ([5], 0, 0)]
)
def test_together(held: list[int], size: int, joint: float) -> None:
    assert together(np.array(held, np.int64), size) == pytest.approx(joint)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.data())
def test_more_data_near_never_costs_more(held: list[int], draw: st.DataObject) -> None:
    counts = np.array(draw.draw(st.lists(st.integers(1, 8), min_size=len(held), max_size=len(held))))
    have = data(held, joint=draw.draw(st.integers(max(held), 100)))
    costs = gang_seconds(counts, int(counts.sum()), have, LINKS)
    at = draw.draw(st.integers(0, len(held) - 1))
    more = have.held.copy()
    more[at] = draw.draw(st.integers(int(more[at]), 100 * GB))
    warmer = replace(have, held=more, joint=max(have.joint, float(more[at])))
    assert 0 <= gang_seconds(counts, int(counts.sum()), warmer, LINKS) <= costs + 1e-9
    assert gang_seconds(counts, int(counts.sum()), replace(warmer, held=np.full(len(held), 100 * GB)), LINKS) == 0


# slots


@settings(max_examples=100, deadline=None)
@given(states(), st.data())
def test_slots_are_what_can_be_placed_one_after_the_other(state: State, draw: st.DataObject) -> None:
    request = draw.draw(requests(state))
    said = slots(state, request, state.rows)
    for row in range(len(state)):
        placed = 0
        while placed < 60 and state.feasible(request, state.rows[row : row + 1])[0]:
            state.place(row, request, state.cards_for(request, row))
            placed += 1
        if request.cards > 1 and not request.whole:
            assert said[row] <= placed  # shares of several cards: fewer are promised than might fit
        else:
            assert min(int(said[row]), 60) == placed


@settings(max_examples=50, deadline=None)
@given(states(), st.data())
def test_slots_follow_the_books(state: State, draw: st.DataObject) -> None:
    kept, empty, request = Slots(state), Slots(state, capacity), draw.draw(requests(state))
    whole = capacity(state, request)
    for _ in range(4):
        assert (kept.of(request) == slots(state, request, state.rows)).all()
        assert (kept.of(request) <= whole).all()
        assert (empty.of(request) == whole).all()
        fits = state.rows[state.feasible(request, state.rows)]
        if len(fits):
            state.place(int(fits[0]), request, state.cards_for(request, int(fits[0])))


def test_what_empty_nodes_take_follows_the_nodes() -> None:
    made = filterlab.cluster([filterlab.node("a", cpu="4"), filterlab.node("b", cpu="4")])
    request = made.request(filterlab.pod(requests={"cpu": "1"}))
    kept = Slots(made, capacity)

    def now() -> dict[str, int]:
        assert (kept.of(request) == capacity(made, request)).all()
        return {name: int(kept.of(request)[row]) for name, row in made.row_of.items()}

    assert now() == {"a": 4, "b": 4}
    made.set_pod(filterlab.pod(on="a", requests={"cpu": "3"}))
    assert now() == {"a": 4, "b": 4}
    made.set_node(filterlab.node("a", cpu="8"))
    made.remove_node("b")
    assert now() == {"a": 8}
    for number in range(100):  # more than there are rows: the arrays grow
        made.set_node(filterlab.node(f"c{number}", cpu="2"))
    assert now() == {"a": 8, **{f"c{number}": 2 for number in range(100)}}
    kept.keep([])
    assert len(now()) == 101


def test_what_a_rest_is_worth() -> None:
    shapes = Shapes(8)
    assert shapes.worth().tolist() == list(range(9))  # nothing came yet: each slot is worth itself
    assert shapes.loss(np.array([8, 4]), np.array([3, 4])).tolist() == [0, 0]
    for pods in (1, 1, 8, 64):
        shapes.observe(pods)
    assert shapes.worth() == pytest.approx([0.5 * f + 0.5 * 8 * (f // 8) for f in range(9)], rel=1e-3)
    assert shapes.loss(np.array([8, 4]), 1) == pytest.approx(
        [8 - 3.5 - 1, -0.5], rel=1e-2
    )  # a whole node is broken; a rest is used


# the choice


def cluster(*free: int) -> State:
    state = State([Node(f"n{row}", {}, (Card("c"),) * 8) for row in range(len(free))], [])
    for row, count in enumerate(free):
        for _ in range(8 - count):
            state.place(row, CARD, state.cards_for(CARD, row))
    return state


CARD = Request((), 1, 1000)


@pytest.mark.parametrize(
    ("pods", "free", "have", "rows", "counts"),
    [
        (1, [8, 1], data([100, 100]), (1,), (1,)),  # equally near: the whole node stays whole
        (1, [8, 1], data([100, 0], joint=100, size=100), (1,), (1,)),  # 10 s of data or a broken node
        (1, [8, 1], data([1000, 0], joint=1000, size=1000), (0,), (1,)),  # 100 s of data
        (8, [8, 8], data([0, 60]), (1,), (8,)),
        (8, [4, 4, 4], data([0, 0, 100]), (2, 0), (4, 4)),  # no node takes it whole: the warm one first
        (8, [1] * 7 + [6, 2], data([0] * 9, joint=100), (7, 8), (6, 2)),  # as few as possible
        (9, [4, 4], data([0, 0]), None, None),
    ],
)
def test_choice(pods: int, free: list[int], have: Data, rows: tuple[int, ...] | None, counts: tuple[int, ...] | None) -> None:
    shapes = Shapes(8)
    for size in (1, 8):
        shapes.observe(size)
    found = choose(pods, np.array(free), have, LINKS, shapes)
    assert (found and found.rows, found and found.counts) == (rows, counts)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 12), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 100)), min_size=1, max_size=5), st.integers(0, 100)
)
def test_a_choice_fits_and_no_single_node_is_cheaper(pods: int, nodes: list[tuple[int, int]], joint: int) -> None:
    free = np.array([count for count, _ in nodes])
    have = data([held for _, held in nodes], joint=max(joint, *(held for _, held in nodes)) if nodes else 0)
    shapes = Shapes(8)
    shapes.observe(8)
    found = choose(pods, free, have, LINKS, shapes)
    assert (found is None) == (free.sum() < pods)
    if found is None:
        return
    assert sum(found.counts) == pods
    assert len(set(found.rows)) == len(found.rows)
    assert all(0 < count <= free[row] for row, count in zip(found.rows, found.counts, strict=True))
    for row in np.flatnonzero(free >= pods).tolist():
        alone = float(node_seconds(1.0, have.on(np.array([row])), LINKS)[0])
        alone += PRICE * max(float(shapes.loss(free[[row]], pods)[0]), 0.0)
        assert found.seconds <= alone + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 50, 100])), min_size=1, max_size=12))
def test_of_nodes_that_cost_the_same_the_fullest_is_taken_and_of_those_the_first(nodes: list[tuple[int, int]]) -> None:
    free = np.array([free for free, _ in nodes])
    found = choose(1, free, data([held for _, held in nodes], joint=100), LINKS, Shapes(4))
    fit = [(100 - held, free, row) for row, (free, held) in enumerate(nodes) if free]
    assert (found is None) == (not fit)
    if found is not None:
        assert found.rows == (min(fit)[2],)


def test_taking_is_all_or_nothing() -> None:
    state = cluster(2, 1)
    gang = Gang("g", [Member(f"p{i}", CARD) for i in range(4)], 4)
    before = state.card_free.copy()
    assert take(state, gang, (0, 1), (2, 2)) is None
    assert (state.card_free == before).all()
    smaller = Gang("g", gang.members[:3], 3)
    plan = take(state, smaller, (0, 1), (2, 1))
    assert plan is not None
    assert [(one.node, one.cards) for one in plan.placements] == [("n0", (6,)), ("n0", (7,)), ("n1", (7,))]
    assert not state.card_free.any()
    with pytest.raises(ValueError, match="2 places are given for 3 pods"):
        take(state, smaller, (0,), (2,))


def test_loads_that_end_before_reading_would_and_what_is_there_then() -> None:
    known = data([40, 40, 40, 0], eta=[5.0, 19.0, INF, INF], joint=40.0)  # 60 GB at 10 GB/s and, from the store, at 5: 18 s
    assert soon(known, LINKS).tolist() == [True, False, False, False]
    assert not known.nowhere
    then = known.loaded(soon(known, LINKS))
    assert (then.held // GB).tolist() == [100, 40, 40, 0]
    assert then.eta.tolist() == [INF, 19.0, INF, INF]
    assert then.joint == 100 * GB
    assert not data([0, 0], eta=[INF, 3.0]).nowhere
    assert data([0, 0]).nowhere
