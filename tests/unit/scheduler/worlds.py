"""Small clusters and requests for property tests: several models on a node, odd sizes, partly filled."""

from __future__ import annotations

from hypothesis import strategies as st

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.pods.request import Request

COLUMNS = ("cpu", "memory")
MODELS = ("a", "b", "c")
MILLI = (100, 160, 230, 320, 470, 500, 810, 1000)


@st.composite
def nodes(draw: st.DrawFn) -> list[Node]:
    made = list[Node]()
    for index in range(draw(st.integers(1, 7))):
        if draw(st.booleans()):
            cards = [Card(draw(st.sampled_from(MODELS)), 16)] * draw(st.integers(0, 5))
        else:
            cards = [Card(draw(st.sampled_from(MODELS)), draw(st.sampled_from([16, 32]))) for _ in range(draw(st.integers(0, 5)))]
        made.append(Node(f"n{index}", {"cpu": draw(st.integers(0, 40)), "memory": draw(st.integers(0, 80))}, tuple(cards)))
    return made


@st.composite
def requests(draw: st.DrawFn, state: State) -> Request:
    amounts = draw(st.integers(0, 12)), draw(st.integers(0, 24))
    count = draw(st.integers(0, 3))
    if not count:
        return Request(amounts)
    milli = draw(st.sampled_from(MILLI)) if count == 1 else draw(st.sampled_from([500, 1000, 1000]))
    names = draw(st.one_of(st.none(), st.sets(st.sampled_from(MODELS), min_size=1, max_size=2)))
    return Request(amounts, count, milli, draw(st.sampled_from([0, 0, 4])), None if names is None else state.model_indexes(names))


@st.composite
def states(draw: st.DrawFn) -> State:
    """A state into which some requests have been put, wherever they fit first."""
    state = State(draw(nodes()), COLUMNS)
    for _ in range(draw(st.integers(0, 12))):
        request = draw(requests(state))
        fits = state.rows[state.feasible(request, state.rows)]
        if len(fits):
            row = int(fits[draw(st.integers(0, len(fits) - 1))])
            state.place(row, request, state.cards_for(request, row))
    return state
