"""The pass over the queue: cases of the rule, and that no sequence of gangs, ends and hints breaks the books."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.arrays.state import Card, Node, State
from forebay.scheduler.decision import Ask, Decision, Order
from forebay.scheduler.dispatcher import Dispatcher
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.locality import prefetch
from forebay.scheduler.locality.waiting import PASSES
from forebay.scheduler.locality.warmth import Warmth
from forebay.scheduler.plan import Plan
from forebay.scheduler.pods.request import Request
from forebay.scheduler.snapshot import Record, again, capture

GB = 10**9
CARD = Request((), 1, 1000)


def world(
    nodes: int = 4, cards: int = 8, *, capacity: int = 1000, sizes: tuple[int, ...] = (100, 100, 100)
) -> tuple[Dispatcher, Warmth]:
    state = State([Node(f"n{i}", {}, (Card("c"),) * cards) for i in range(nodes)], [])
    warmth = Warmth(state.names, 5 * GB, 10 * GB)
    for at, size in enumerate(sizes):
        warmth.resize(f"ns/d{at}", size * GB)
    return Dispatcher(state, capacity * GB), warmth


def ask(name: str, pods: int, dataset: int | None = 0, since: float = 0.0) -> Ask:
    gang = Gang(name, [Member(f"{name}-{i}", CARD) for i in range(pods)], pods)
    return Ask(gang, "" if dataset is None else f"ns/d{dataset}", since)


def hold(warmth: Warmth, now: float, **held: dict[int, int]) -> None:
    """`n1={0: 100}`: GB of datasets by node."""
    table = np.zeros_like(warmth.held)
    for name, sizes in held.items():
        for dataset, amount in sizes.items():
            table[warmth.row_of[name], dataset] = amount * GB
    warmth.set_all(table, now)


def where(decision: Decision) -> dict[str, list[str]]:
    return {plan.gang: [one.node for one in plan.placements] for plan in decision.plans}


def test_a_gang_starts_on_the_node_that_holds_its_data() -> None:
    one, warmth = world()
    hold(warmth, 0, n2={0: 95})
    one.submit(ask("g", 8))
    assert where(one.decide(0, warmth)) == {"g": ["n2"] * 8}


def test_one_without_a_dataset_starts_at_once() -> None:
    one, warmth = world()
    one.submit(ask("g", 8, None))
    assert len(one.decide(0, warmth).plans) == 1


def test_far_from_its_data_it_waits_as_long_as_that_costs() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100})
    one.submit(ask("other", 8))
    assert where(one.decide(0, warmth)) == {"other": ["n0"] * 8}
    one.submit(ask("g", 8))
    assert not one.decide(9, warmth).plans  # 100 GB from n0 take 10 s
    decision = one.decide(10.5, warmth)
    assert where(decision) == {"g": ["n1"] * 8}
    assert decision.prefetch == (Order("n1", "ns/d0"),)  # which loads what the gang would read piecemeal


def test_the_store_is_given_to_a_few_at_a_time_and_the_queue_is_loaded_ahead() -> None:
    one, warmth = world(sizes=(100, 50, 200, 100))
    hold(warmth, 0)
    for at in range(4):
        one.submit(ask(f"g{at}", 1, at))
    decision = one.decide(0, warmth)
    assert not decision.plans
    assert [order.dataset for order in decision.prefetch] == ["ns/d1", "ns/d0"]  # shortest first, waits being equal
    assert len({order.node for order in decision.prefetch}) == 2
    hold(warmth, 30, **{decision.prefetch[0].node: {1: 50}})
    decision = one.decide(30, warmth)
    assert list(where(decision)) == ["g1"]
    assert [order.dataset for order in decision.prefetch] == ["ns/d0", "ns/d3"]


def test_what_many_wait_for_is_copied_to_another_node() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100})
    for number in range(30):
        one.submit(ask(f"g{number}", 1))
    decision = one.decide(0, warmth)
    assert {node for nodes in where(decision).values() for node in nodes} == {"n0"}
    assert decision.prefetch == (Order("n1", "ns/d0"),)


@pytest.mark.parametrize("hints", ["none", "vanish", "deaf", "everything everywhere", "the wrong node"])
def test_hints_that_fail_cost_time_and_strand_nobody(hints: str) -> None:
    one, warmth = world(nodes=2, sizes=(100, 100, 100, 100, 100))
    for number in range(10):
        one.submit(ask(f"g{number}", 8, number % 5))
    running, started, now = list[Plan](), list[str](), 0.0
    while len(started) < 10:
        if hints == "everything everywhere":
            warmth.set_all(np.full_like(warmth.held, 2**60), now)
        if hints == "deaf":  # nodes speak, hold nothing and load nothing
            hold(warmth, now)
        if hints == "the wrong node" or (hints == "vanish" and not now):
            hold(warmth, now, n1=dict.fromkeys(range(5), 100))
        decision = one.decide(now, warmth)
        started += [plan.gang for plan in decision.plans]
        for plan in running:
            one.finished(plan)
        running = list(decision.plans)
        now += 60
        assert now < 3600, f"only {started} started"
    assert sorted(started) == sorted(f"g{number}" for number in range(10))


def test_an_overdue_gang_holds_the_cluster_until_it_fits() -> None:
    one, warmth = world(nodes=2)
    hold(warmth, 0, n0={0: 100}, n1={0: 100})
    for number in range(16):
        one.submit(ask(f"small{number}", 1))
    running = list(one.decide(0, warmth).plans)
    assert len(running) == 16
    one.submit(ask("large", 16))
    number, now = 16, 0.0
    while "large" not in one.running:
        now += 1
        assert number < 16 * (PASSES + 6), "the large gang starves"
        entry = one.waiting.find("large")
        blocked = entry is not None and one.waiting.passed(entry) > PASSES * 16
        if not blocked or not running:
            one.submit(ask(f"small{number}", 1, since=now))
            number += 1
        if running:
            one.finished(running.pop(0))
        hold(warmth, now, n0={0: 100}, n1={0: 100})
        plans = one.decide(now, warmth).plans
        assert not blocked or {plan.gang for plan in plans} <= {"large"}
        running += plans
    assert number >= 16 * PASSES


def test_a_gang_larger_than_the_cluster_stops_nobody() -> None:
    one, warmth = world(nodes=1)
    hold(warmth, 0, n0={0: 100})
    one.submit(ask("huge", 9))
    for number in range(200):
        one.submit(ask(f"g{number}", 8))
        (plan,) = one.decide(number, warmth).plans
        assert plan.gang == f"g{number}"
        one.finished(plan)


def test_unlike_pods_start_at_the_latest_when_overdue() -> None:
    one, warmth = world(nodes=2, cards=2)
    half = Request((), 1, 500)
    one.submit(ask("a", 1, None))
    one.decide(0, warmth)
    mixed = Gang("mixed", [Member("m0", CARD), Member("m1", half), Member("m2", half), Member("m3", CARD)], 4)
    one.submit(Ask(mixed, "", 0.0))
    plans = list(one.decide(1, warmth).plans)
    for number in range(int(PASSES * 4) + 4):
        if plans:
            break
        one.submit(ask(f"b{number}", 1, None))
        plans = list(one.decide(2, warmth).plans)
        for plan in plans:
            if plan.gang.startswith("b"):
                one.finished(plan)
        plans = [plan for plan in plans if plan.gang == "mixed"]
    assert [len(plan.placements) for plan in plans] == [4]


def test_a_load_that_is_not_followed_is_forgotten() -> None:
    one, warmth = world(sizes=(100,))
    one.submit(ask("huge", 100))  # never fits, waits for ever
    hold(warmth, 0)
    first = one.decide(0, warmth).prefetch
    assert first
    hold(warmth, prefetch.TIMEOUT)
    assert one.decide(prefetch.TIMEOUT, warmth).prefetch == first
    one.decide(prefetch.TIMEOUT + 1, warmth)
    assert min(one.loads.since.values()) > 0  # asked for anew


class Books:
    """Cards taken, apart from what the dispatcher keeps."""

    def __init__(self) -> None:
        self.taken = set[tuple[str, int]]()

    def take(self, plan: Plan, gang: Gang, cards: int) -> None:
        assert {one.pod for one in plan.placements} == {member.pod for member in gang.members}, "a partial gang"
        for one in plan.placements:
            assert len(one.cards) == 1
            assert 0 <= one.cards[0] < cards
            assert (one.node, one.cards[0]) not in self.taken, "a card is given twice"
            self.taken.add((one.node, one.cards[0]))

    def give(self, plan: Plan) -> None:
        self.taken -= {(one.node, one.cards[0]) for one in plan.placements}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sequence(data: st.DataObject) -> None:
    nodes, cards = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    sizes = tuple(data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=4)))
    one, warmth = world(nodes, cards, capacity=data.draw(st.sampled_from([0, 150, 1000])), sizes=sizes)
    books, gangs, running, now = Books(), dict[str, Gang](), list[Plan](), 0.0
    encode = msgspec.json.Encoder().encode
    for step in range(data.draw(st.integers(1, 25))):
        now += data.draw(st.sampled_from([0.0, 1.0, 5.0, 100.0, 3000.0, -50.0]))
        for _ in range(data.draw(st.integers(0, 3))):
            name = f"g{len(gangs)}"
            made = ask(
                name, data.draw(st.integers(1, nodes * cards)), data.draw(st.sampled_from([None, *range(len(sizes))])), now
            )
            gangs[name] = made.gang
            one.submit(made)
        kind = data.draw(st.sampled_from(["keep", "truth", "lie", "gone"]))
        if kind == "lie":
            warmth.set_all(
                np.array(
                    data.draw(
                        st.lists(
                            st.lists(st.integers(-(2**62), 2**62), min_size=len(sizes), max_size=len(sizes)),
                            min_size=nodes,
                            max_size=nodes,
                        )
                    )
                ),
                now,
            )
        elif kind == "truth":
            warmth.set_all(np.tile(warmth.size, (nodes, 1)), now)
        elif kind == "gone":
            warmth.forget("n0")
        before = capture(one, warmth, now)
        decision = one.decide(now, warmth)
        record = msgspec.json.decode(encode(Record(before, decision)), type=Record)
        assert again(record), "a restored planner decides otherwise"
        for plan in decision.plans:
            books.take(plan, gangs[plan.gang], cards)
            running.append(plan)
        assert int((one.state.card_free == 0).sum()) == len(books.taken)
        assert len({(order.node, order.dataset) for order in decision.prefetch}) == len(decision.prefetch)
        while running and data.draw(st.booleans()):
            plan = running.pop(data.draw(st.integers(0, len(running) - 1)))
            books.give(plan)
            one.finished(plan)
        del step
    for _ in range(200):  # whoever waits starts once the others end, whatever the hints said
        if not len(one.waiting) and not one.asked and not running:
            break
        for plan in running:
            books.give(plan)
            one.finished(plan)
        now += 500
        running = list(one.decide(now, warmth).plans)
        for plan in running:
            books.take(plan, gangs[plan.gang], cards)
    assert not len(one.waiting), [entry.ask.gang.name for entry in one.waiting]
    assert (one.state.card_free == one.state.card_milli).all()
    assert not one._readers
