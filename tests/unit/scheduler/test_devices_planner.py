"""Devices inside the planner: gangs whose pods see each other, exact rollback, order by label and queue, and fragmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from devicekit import RULES, cut, devices, gpu, one, pod_asks
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.arrays.state import Node, Overcommit, State
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Rules, Seat, collapse
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.devices.ledger import Ledger
from forebay.scheduler.devices.rating import ordered
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.request import request_of
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.explain import failed_constraints
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.plan import Plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import POLICIES, Setting, make


def state(*nodes: tuple[Device, ...], rules: Rules | None = None, cpu: int = 64) -> State:
    return State([Node(f"n{i}", {"cpu": cpu}, devices=cards, rules=rules or Rules()) for i, cards in enumerate(nodes)], ["cpu"])


def planner(where: State, policy: str = "forebay") -> Planner:
    return Planner(where, make(policy, Setting()))


def gang(where: State, count: int, ask: PodAsk, minimum: int | None = None) -> Gang:
    request = request_of(where, (1,), ask)
    return Gang("g", [Member(f"p{i}", request) for i in range(count)], count if minimum is None else minimum)


def picture(where: State) -> dict[str, Any]:
    assert where.devices is not None
    arrays = ("free", "card_free", "card_memory_free", "shapes")
    books = ("memory_free", "cores_free", "cpus_free", "tenants_free", "pods", "open", "taken", "slices")
    return {
        **{name: getattr(where, name).tobytes() for name in arrays},
        **{f"devices.{name}": getattr(where.devices, name).tobytes() for name in books},
        "used": [dict(used) for used in where.devices.used],
    }


def test_pods_of_a_gang_see_each_other_on_one_node() -> None:
    where = state((gpu(0), gpu(1)))
    done = plan(planner(where), gang(where, 8, one(memory=4 * GIB)))
    assert done.placed
    assert sorted(placement.cards for placement in done.placements) == [(0,)] * 4 + [(1,)] * 4
    assert {part.memory for placement in done.placements for part in placement.devices} == {4 * GIB}
    assert not plan(planner(where), gang(where, 1, one(memory=GIB))).placed


def test_a_gang_that_does_not_fit_leaves_no_trace_and_says_why() -> None:
    where = state((gpu(0), gpu(1)), (gpu(0),))
    before = picture(where)
    done = plan(planner(where), gang(where, 7, one(memory=8 * GIB)))
    assert picture(where) == before
    assert (done.placed, done.reason) == (False, "the gang needs 7 pods at once, 6 fit")
    assert done.failed == {"card memory": 2}


def test_shares_and_whole_cards_of_one_gang() -> None:
    where = state((gpu(0), gpu(1), gpu(2)))
    whole, share = request_of(where, (1,), one(cards=2, whole=True)), request_of(where, (1,), one(memory=8 * GIB, cores=50))
    done = plan(planner(where), Gang("g", [Member("s0", share), Member("s1", share), Member("w", whole)], 3))
    by_pod = {placement.pod: placement.cards for placement in done.placements}
    assert by_pod["s0"] == by_pod["s1"]
    assert set(by_pod["w"]) | set(by_pod["s0"]) == {0, 1, 2}


def test_parts_of_cut_cards_in_a_gang() -> None:
    where = state((cut(0),), (cut(0),))
    three = request_of(where, (1,), one(profile="3g.40gb"))
    seven = request_of(where, (1,), one(profile="7g.80gb"))
    done = plan(planner(where), Gang("g", [Member("a", three), Member("b", three), Member("c", seven)], 3))
    assert done.placed
    starts = sorted((placement.pod, placement.devices[0].start) for placement in done.placements)
    assert starts[2] == ("c", 0)
    assert {start for pod, start in starts if pod != "c"} == {0, 4}
    assert not plan(planner(where), gang(where, 1, one(profile="1g.10gb"))).placed


def test_a_plan_of_devices_goes_through_json() -> None:
    where = state((gpu(0),))
    done = plan(planner(where), gang(where, 2, one(memory=GIB)))
    assert msgspec.json.decode(msgspec.json.encode(done), type=Plan) == done


@pytest.mark.parametrize(("rules", "cards"), [(Rules(cards_by="binpack"), [0, 0, 0]), (Rules(cards_by="spread"), [0, 1, 2])])
@pytest.mark.parametrize("policy", ["forebay", "fgd"])
def test_the_nodes_label_says_how_cards_are_filled(rules: Rules, cards: list[int], policy: str) -> None:
    where = state((gpu(0), gpu(1), gpu(2)), rules=rules)
    done = plan(planner(where, policy), gang(where, 3, one(memory=2 * GIB)))
    assert sorted(placement.cards[0] for placement in done.placements) == cards


def test_the_pod_or_its_queue_says_it_before_the_label() -> None:
    where = state((gpu(0), gpu(1), gpu(2)), rules=Rules(cards_by="binpack"))
    ask = PodAsk((Ask("c", "gpu", memory=2 * GIB),), (Seat("c"),), cards_by="spread")
    done = plan(planner(where), gang(where, 3, ask))
    assert sorted(placement.cards[0] for placement in done.placements) == [0, 1, 2]


@pytest.mark.parametrize(("order", "nodes"), [("binpack", 1), ("spread", 3)])
def test_queues_fill_or_spread_nodes(order: Any, nodes: int) -> None:
    where = state(*[(gpu(0), gpu(1)) for _ in range(3)])
    ask = PodAsk((Ask("c", "gpu", memory=4 * GIB),), (Seat("c"),), nodes_by=order)
    done = plan(planner(where), gang(where, 3, ask))
    assert len({placement.node for placement in done.placements}) == nodes


def test_fragmentation_counts_a_share_by_its_own_card() -> None:
    """16 GiB are all of one card, a fifth of the other; pods that usually come take half a large one, so the small one goes."""
    where = state((gpu(0, 16), gpu(1, 80, "NVIDIA A100-SXM4-80GB")))
    usual = request_of(where, (1,), one(memory=40 * GIB))
    for name in ("fgd", "forebay"):
        chooser = Planner(where, make(name, Setting(history=[usual] * 40)))
        for _ in range(40):
            chooser.policy.observe(where, usual)
        choice = chooser.choose(request_of(where, (1,), one(memory=16 * GIB)))
        assert choice is not None
        assert choice.cards == (0,), name


def test_what_a_pod_is_like_on_the_commonest_card() -> None:
    where = state((gpu(0, 16), gpu(1, 16), gpu(2, 80, "NVIDIA A100-SXM4-80GB")))
    assert request_of(where, (1,), one(memory=4 * GIB)).milli == 250
    assert request_of(where, (1,), one(memory=4 * GIB, cores=60)).milli == 600
    assert request_of(where, (1,), one(cards=2, whole=True)).milli == 1000
    assert request_of(where, (1,), None) == Request((1,))
    typed = PodAsk((Ask("c", "gpu", memory=4 * GIB),), (Seat("c"),), types=("a100",))
    request = request_of(where, (1,), typed)
    assert (request.milli, request.models) == (50, (where.models.index("NVIDIA A100-SXM4-80GB"),))


def test_plain_cards_and_devices_are_not_mixed_up() -> None:
    where = state((gpu(0),))
    assert not where.feasible(Request((1,), 1, 500), where.rows).any()
    with pytest.raises(Overcommit):
        where.place(0, Request((1,), 1, 500), (0,))
    with pytest.raises(ValueError, match="node n lists its cards twice"):
        State([Node("n", {}, cards=where_cards(), devices=(gpu(0),))], [])
    plain = State([Node("n", {"cpu": 1}, cards=where_cards())], ["cpu"])
    assert not plain.feasible(request_of(plain, (1,), one(memory=GIB)), plain.rows).any()
    assert failed_constraints(plain, request_of(plain, (1,), one(memory=GIB))) == {"cards": 1}


def where_cards() -> Any:
    from forebay.scheduler.arrays.state import Card

    return (Card("a"),)


def test_a_row_is_set_anew_from_the_ledger() -> None:
    where, books = state((gpu(0), gpu(1)), (gpu(0),)), Ledger()
    for name in ("n0", "n1"):
        books.set_node(name, (gpu(0), gpu(1)) if name == "n0" else (gpu(0),))
    books.confirm(Record("u", "team/u", "n0", (Seat("c"),), request_parts(where)), 1)
    books.set_node("n0", (gpu(1),))  # and its other card is lost, with the pod on it
    for name in books.changes():
        where.set_devices(where.row_of[name], books.devices(name), books.rules(name), books.used(name))
    assert where.card_free[0].tolist() == [1000, 0]
    done = plan(planner(where), gang(where, 2, one(memory=16 * GIB)))
    assert [(placement.node, placement.devices[0].device) for placement in done.placements] == [("n0", "GPU-1"), ("n1", "GPU-0")]
    with pytest.raises(ValueError, match="the snapshot knows no card model NVIDIA L40: build it anew"):
        where.set_devices(1, (gpu(0, 48, "NVIDIA L40"),), Rules(), {})
    with pytest.raises(ValueError, match="a node has 3 cards now, the snapshot has room for 2: build it anew"):
        where.set_devices(1, (gpu(0), gpu(1), gpu(2)), Rules(), {})


def request_parts(where: State) -> Any:
    assert where.devices is not None
    return where.devices.grant(one(memory=12 * GIB), 0)


def test_a_card_that_fell_ill_takes_nothing_and_keeps_what_it_has() -> None:
    where = state((gpu(0),))
    done = plan(planner(where), gang(where, 1, one(memory=4 * GIB)))
    assert where.devices is not None
    where.set_devices(0, (gpu(0, healthy=False),), Rules(), where.devices.used[0])
    refused = plan(planner(where), gang(where, 1, one(memory=4 * GIB)))
    assert refused.failed == {"card health": 1}
    request = request_of(where, (1,), one(memory=4 * GIB))
    where.release(0, request, done.placements[0].cards, done.placements[0].devices)
    assert where.devices.used[0] == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(devices(), min_size=1, max_size=5), st.sampled_from(sorted(POLICIES)), st.data())
def test_random_gangs_all_or_nothing_and_never_too_much(
    nodes: list[tuple[Device, ...]], policy: str, data: st.DataObject
) -> None:
    made = [Node(f"n{i}", {"cpu": 12}, devices=cards, rules=data.draw(st.sampled_from(RULES))) for i, cards in enumerate(nodes)]
    where = State(made, ["cpu"])
    if where.devices is None:
        return
    chooser, books, number = Planner(where, make(policy, Setting(seed=1))), Ledger(), 0
    for node in made:
        books.set_node(node.name, node.devices, node.rules)
    held = list[tuple[Any, Request]]()
    for _ in range(data.draw(st.integers(1, 6))):
        members = list[Member]()
        for ask in data.draw(st.lists(pod_asks(), min_size=1, max_size=3)):
            request = request_of(where, (1,), ask)
            for _ in range(data.draw(st.integers(1, 3))):
                number += 1
                members.append(Member(f"p{number}", request))
        group = Gang("g", members, data.draw(st.integers(1, len(members))))
        for member in members:
            chooser.policy.observe(where, member.request)
        before = picture(where)
        done = plan(chooser, group)
        assert (len(done.placements) >= group.minimum) == done.placed
        if not done.placed:
            assert picture(where) == before
        requests = {member.pod: member.request for member in members}
        for placement in done.placements:
            request = requests[placement.pod]
            assert request.devices is not None
            books.assume(Record(placement.pod, placement.pod, placement.node, request.devices.seats, placement.devices))
            held.append((placement, request))
        if held and data.draw(st.booleans()):
            placement, request = held.pop(data.draw(st.integers(0, len(held) - 1)))
            where.release(where.row_of[placement.node], request, placement.cards, placement.devices)
            books.remove(placement.pod)
        for row, node in enumerate(made):
            assert where.devices.used[row] == books.used(node.name)
            free = where.devices.free_milli(row)
            assert where.card_free[row, : len(free)].tolist() == free
        assert (where.free >= 0).all()
    for placement, request in held:
        assert request.devices is not None
        assert collapse(request.devices.seats, placement.devices)
        where.release(where.row_of[placement.node], request, placement.cards, placement.devices)
    assert all(not used for used in where.devices.used)
    assert (where.free == where.allocatable).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(devices(), min_size=1, max_size=4), pod_asks(), st.sampled_from(["binpack", "spread"]), st.data())
def test_cards_that_are_scored_are_the_cards_that_are_given(
    nodes: list[tuple[Device, ...]], ask: PodAsk, order: Any, data: st.DataObject
) -> None:
    where = state(*nodes, rules=Rules(cards_by=order))
    if where.devices is None or not ask.single:
        return
    for row in range(len(nodes)):
        for other in data.draw(st.lists(pod_asks(), max_size=4)):
            parts = where.devices.grant(other, row)
            if not isinstance(parts, Refusal):
                where.place(row, request_of(where, (0,), other), (), parts)
    ask = replace(ask, cards_by="")
    rows = where.rows[where.devices.feasible(ask, where.rows)]
    signs = np.full(len(rows), -1 if order == "spread" else 1)
    scored = ordered(where.devices.usable(ask, rows), where.card_free[rows], ask.groups[0][0].cards, signs)
    for at, row in enumerate(rows.tolist()):
        parts = where.devices.grant(ask, row)
        assert not isinstance(parts, Refusal)
        assert tuple(np.flatnonzero(scored[at])) == where.devices.places(row, parts)


def test_classes_are_kept_row_by_row() -> None:
    """What the planner remembers of a class of pods is what it would find anew, also for devices."""
    where = state(*[(gpu(0), gpu(1, 24, "NVIDIA A10")) for _ in range(4)])
    chooser = planner(where)
    requests = [request_of(where, (1,), ask) for ask in (one(memory=3 * GIB), one(percent=40, cores=30), one(whole=True))]
    for turn in range(18):
        for request in requests:
            chooser.policy.observe(where, request)
            kept = chooser.ranking(request)
            fresh = Planner(where, chooser.policy).ranking(request)
            assert (kept.feasible == fresh.feasible).all()
            assert np.array_equal(kept.score, fresh.score)
            assert (kept.card == fresh.card).all()
        choice = chooser.place(requests[turn % 3])
        if choice is not None:
            assert not isinstance(choice.parts, Refusal)
