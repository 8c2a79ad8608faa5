"""Gangs: all that must run or nothing, exact roll-back, and a reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_planner import arrays
from worlds import requests, states

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.explain import failed_constraints
from forebay.scheduler.gang import Gang, Member, part, plan
from forebay.scheduler.plan import Plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting, make

ONE, SHARE = Request((1,), 1, 1000), Request((1,), 1, 500)


def planner(cards: int = 2, nodes: int = 2, policy: str = "forebay") -> Planner:
    state = State([Node(f"n{i}", {"cpu": 8}, (Card("a"),) * cards) for i in range(nodes)], ["cpu"])
    return Planner(state, make(policy, Setting()))


def gang(count: int, minimum: int, request: Request = ONE) -> Gang:
    return Gang("g", [Member(f"p{i}", request) for i in range(count)], minimum)


def test_all_fit() -> None:
    done = plan(planner(), gang(4, 4))
    assert (done.placed, done.reason, done.waiting, len(done.placements)) == (True, "", (), 4)
    assert {(one.node, one.cards) for one in done.placements} == {(f"n{node}", (card,)) for node in range(2) for card in range(2)}


@pytest.mark.parametrize(
    ("minimum", "groups", "room", "names"),
    [
        (2, {}, 4, "abcd"),
        (2, {}, 9, "abcd"),
        (2, {}, 3, "abc"),
        (2, {}, 2, "ab"),
        (2, {}, 1, ""),
        (0, {}, 1, "a"),
        (0, {}, 0, ""),
        (2, {"y": 1}, 2, "da"),  # those first without whom it may not start
        (3, {"x": 1, "y": 1}, 3, "adb"),
        (2, {"x": 2, "y": 1}, 2, ""),
    ],
)
def test_what_starts_of_a_gang_where_not_all_fit(minimum: int, groups: dict[str, int], room: int, names: str) -> None:
    members = [Member(name, ONE, "y" if name == "d" else "x") for name in "abcd"]
    assert "".join(one.pod for one in part(Gang("g", members, minimum, groups), room)) == names


def test_too_few_fit_and_nothing_is_held() -> None:
    one = planner()
    before = arrays(one.state)
    done = plan(one, gang(5, 5))
    assert arrays(one.state) == before
    assert done == Plan("g", (), tuple(f"p{i}" for i in range(5)), "the gang needs 5 pods at once, 4 fit", {"idle cards": 2})


def test_pods_above_the_minimum_take_what_is_left() -> None:
    done = plan(planner(), gang(6, 3))
    assert (done.placed, len(done.placements), len(done.waiting)) == (True, 4, 2)


def test_hard_pods_go_first() -> None:
    pods = [*(Member(f"s{i}", SHARE) for i in range(2)), Member("w", Request((1,), 2, 1000))]
    assert plan(planner(nodes=2), Gang("g", pods, 3)).placed  # a share on each node first would leave no node for two cards


@pytest.mark.parametrize(
    ("minimum", "reason"), [({"workers": 3}, "group workers needs 3 pods at once, 2 fit"), ({"workers": 2, "head": 2}, "")]
)
def test_groups_have_minimums_of_their_own(minimum: dict[str, int], reason: str) -> None:
    heads = [Member(f"h{i}", Request((7,), 1, 1000), "head") for i in range(2)]
    pods = heads + [Member(f"w{i}", ONE, "workers") for i in range(3)]
    one = planner()
    before = arrays(one.state)
    done = plan(one, Gang("g", pods, 1, minimum))
    assert done.reason == reason
    assert (arrays(one.state) == before) == bool(reason)


@pytest.mark.parametrize(
    ("members", "minimum", "groups", "words"),
    [
        ([Member("a", ONE), Member("a", ONE)], 1, {}, "named twice"),
        ([Member("a", ONE)], 2, {}, "minMember is 2 of 1 pods"),
        ([Member("a", ONE)], -1, {}, "minMember is -1"),
        ([Member("a", ONE, "x")], 1, {"x": 2}, "group x asks for 2 of its 1 pods"),
        ([Member("a", ONE, "x")], 1, {"y": 1}, "group y asks for 1 of its 0 pods"),
    ],
)
def test_gangs_that_could_never_start_are_refused(
    members: list[Member], minimum: int, groups: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Gang("g", members, minimum, groups)


@settings(max_examples=100, deadline=None)
@given(states(), st.data())
def test_all_or_nothing(state: State, data: st.DataObject) -> None:
    planner = Planner(state, make(data.draw(st.sampled_from(["forebay", "fgd", "packing"])), Setting()))
    for number in range(data.draw(st.integers(1, 4))):
        wanted = data.draw(st.lists(requests(state), min_size=1, max_size=6))
        members = [Member(f"p{i}", request, data.draw(st.sampled_from(["", "x"]))) for i, request in enumerate(wanted)]
        there = sum(member.group == "x" for member in members)
        groups = {"x": data.draw(st.integers(0, there))}
        minimum = data.draw(st.integers(0, len(members)))
        before = arrays(state)
        done = plan(planner, Gang(f"g{number}", members, minimum, groups))
        assert {one.pod for one in done.placements} | set(done.waiting) == {member.pod for member in members}
        assert len(done.placements) + len(done.waiting) == len(members)
        assert (state.free >= 0).all()
        assert (state.card_free >= 0).all()
        if done.placed:
            names = {one.pod for one in done.placements}
            assert len(names) >= minimum
            assert sum(member.group == "x" and member.pod in names for member in members) >= groups["x"]
        else:
            assert not done.placements
            assert arrays(state) == before


def test_an_exception_undoes_a_transaction() -> None:
    state = planner().state
    before = arrays(state)
    with pytest.raises(KeyError), Transaction(state) as transaction:  # noqa: PT012 - what was placed before it is the point
        transaction.place(0, ONE, (0,))
        transaction.place(1, SHARE, (1,))
        raise KeyError
    assert arrays(state) == before


def test_a_part_of_a_transaction_can_be_undone() -> None:
    state = planner().state
    with Transaction(state) as transaction:
        transaction.place(0, ONE, (0,))
        kept = arrays(state)
        transaction.place(0, ONE, (1,))
        transaction.undo(1)
        assert arrays(state) == kept
        transaction.commit()
    assert arrays(state) == kept


def test_failed_constraints_count_nodes() -> None:
    nodes = [
        Node("small", {"cpu": 1}, (Card("a"),) * 4),
        Node("other", {"cpu": 8}, (Card("b"),) * 4),
        Node("few", {"cpu": 8}, (Card("a"),)),
        Node("none", {"cpu": 1}),
        Node("used", {"cpu": 8}, (Card("a"),) * 2),
        Node("good", {"cpu": 8}, (Card("a"),) * 2),
    ]
    state = State(nodes, ["cpu"])
    state.place(4, Request((1,), 1, 100), (0,))
    request = Request((2,), 2, 1000, 0, state.model_indexes(["a"]))
    assert failed_constraints(state, request) == {"cards": 2, "cpu": 2, "card model": 1, "idle cards": 1}
    assert failed_constraints(state, Request((1,))) == {}


def test_a_plan_survives_its_encoding() -> None:
    done = plan(planner(), gang(5, 3))
    assert msgspec.json.decode(msgspec.json.encode(done), type=Plan) == done
