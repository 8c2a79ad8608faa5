"""Reclaim in random clusters: what is taken is right, enough, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picks import Chance, Drawn, Picks
from reclaimkit import GPU, NOW, World, pod

from forebay.scheduler.quota.admission import admit
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.reclaim.entitled import GUARANTEE, Ask, Entitlement
from forebay.scheduler.quota.reclaim.plan import Reclaim
from forebay.scheduler.quota.reclaim.pods import Gang, Running
from forebay.scheduler.quota.tree import Queue

Drawing = tuple[World, dict[str, Gang], dict[str, int], Ask, int]


def world(picks: Picks) -> Drawing:
    """A cluster, its gangs and budgets, what a job asks and how much each of its pods."""
    leaves = ["x", "y", "z"]
    queues = [Queue(name="d", min={GPU: picks.number(0, 8)})]
    for name in leaves:
        least = picks.number(0, 6)
        more = {"min_runtime": picks.of([0.0, 500.0]), "weight": {GPU: picks.number(0, 3)}}
        parent = picks.of(["", "d"])
        queues.append(Queue(name=name, parent=parent, min={GPU: least}, max={GPU: picks.number(max(6, least), 16)}, **more))  # type: ignore[arg-type]
    queues.append(Queue(name="e", parent="d"))
    running: list[Running] = []
    gangs: dict[str, Gang] = {}
    left = {f"n{i}": 4 for i in range(picks.number(1, 3))}
    for i in range(picks.number(0, 10)):
        gang = picks.of(["", "", "g", "h"])
        size, node = picks.number(1, 3), picks.of(sorted(left))
        if left[node] < size:
            continue
        left[node] -= size
        queue = {"g": "x", "h": "y"}.get(gang) or picks.of([*leaves, ""])
        started = NOW - picks.number(1, 1000)
        running.append(
            pod(
                f"p{i}", queue, node, size, gang=gang, started=started, priority=picks.number(0, 2),
                preemptible=picks.of([True, True, True, False]),
                leaving=picks.of([False, False, False, True]),
                budgets=picks.of([(), (), ("pdb",)]),
            )
        )  # fmt: skip
    for gang in ("g", "h"):
        gangs[gang] = Gang(picks.number(1, 3), picks.of([True, True, False]))
    each = picks.number(1, 4)
    wanted = Ask("job", picks.of([*leaves, "e"]), {GPU: each * picks.number(1, 3)}, picks.number(0, 2))
    return World(queues, running, 4, left), gangs, {"pdb": picks.number(0, 2)}, wanted, each


@st.composite
def worlds(draw: st.DrawFn) -> Drawing:
    return world(Drawn(draw))


def possible(world: World, wanted: Ask, each: int, victims: Iterable[Running]) -> bool:
    """By first principles: without the victims the pods fit on the nodes, and the quotas admit the job."""
    free = Counter(world.free)
    for p in victims:
        free[p.node] += p.amounts[GPU]
    books = without(world, victims)
    places = sum(n // each for n in free.values())
    return places * each >= wanted.request[GPU] and admit(books, wanted.queue, wanted.request, {GPU: world.total()}).admitted


def without(world: World, victims: Iterable[Running]) -> Books:
    """The books when the victims are gone, and what is being deleted."""
    books = world.books.copy()
    for p in [*(v for v in victims if not v.leaving), *(q for q in world.running if q.leaving)]:
        if p.queue:
            books.book(p.queue, p.amounts, -1, preemptible=p.preemptible)
    return books


def settled(world: World, wanted: Ask, victims: Iterable[Running]) -> bool:
    """Whether the job's queue is within its fair share with it, or has not grown: nobody is evicted for more."""
    share = world.shares(wanted).of(wanted.queue, GPU) or 0
    before, after = (without(world, v).used(wanted.queue).get(GPU, 0) for v in ((), victims))
    return after + wanted.request[GPU] <= max(share, before)


def whole(world: World, gangs: Mapping[str, Gang], victims: Iterable[Running]) -> bool:
    """Whether every gang that gives is gone, or keeps its minimum."""
    taken = Counter(p.gang for p in victims if p.gang)
    there = Counter(p.gang for p in world.running if p.gang and not p.leaving)
    return all(n == there[g] or (gangs[g].single and there[g] - n >= gangs[g].minimum) for g, n in taken.items())


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_what_is_taken_is_right(drawn: tuple[World, dict[str, Gang], dict[str, int], Ask, int]) -> None:
    world, gangs, budgets, wanted, each = drawn
    result = world.take(wanted, each, gangs=gangs, budgets=budgets)
    assert result.reason
    if not result.feasible:
        assert not result.pods
        return
    victims = list(result.pods)
    assert possible(world, wanted, each, victims)
    assert not victims or settled(world, wanted, victims)
    assert len({p.uid for p in victims}) == len(victims)
    assert all(p.preemptible and not p.leaving for p in victims)
    assert whole(world, gangs, victims)
    assert sum(p.budgets.count("pdb") for p in victims) <= budgets["pdb"]
    assert result.lost == sum(p.lost(NOW) for p in victims)
    for p in victims:  # no victim could be left out
        fewer = [v for v in victims if v is not p]
        enough = possible(world, wanted, each, fewer) and (not fewer or settled(world, wanted, fewer))
        assert not (whole(world, gangs, fewer) and enough)
    for gang in {p.gang for p in victims if p.gang}:
        others = [v for v in victims if v.gang != gang]
        assert not (possible(world, wanted, each, others) and (not others or settled(world, wanted, others)))
    for p in victims:
        if p.queue == wanted.queue or not p.queue:
            assert p.priority < wanted.priority or (p.gang and not p.priority >= wanted.priority)
    _taken_from_the_right(world, wanted, victims)
    _nothing_is_owed(world, wanted, result)


def _taken_from_the_right(world: World, wanted: Ask, victims: list[Running]) -> None:
    """Others give only while above their share, or above their floor for a guarantee; the job stays within what it may claim."""
    tree, shares = world.books.tree, world.shares(wanted)
    books = world.books.copy()
    for p in world.running:
        if p.leaving and p.queue:
            books.book(p.queue, p.amounts, -1)
    lost = Counter(p.queue for p in victims for _ in range(p.amounts[GPU]))
    for queue in {p.queue for p in victims} - {wanted.queue, ""}:
        mine, theirs = tree.path(wanted.queue), tree.path(queue)
        for name in [n for n in theirs if n not in mine]:
            assert books.used(name).get(GPU, 0) > tree.floors[name].get(GPU, 0) or books.used(name)[GPU] > (
                shares.of(name, GPU) or 0
            )
        for name in [n for n in mine if n not in theirs]:
            after = books.used(name).get(GPU, 0) + wanted.request[GPU]
            assert after <= max(shares.of(name, GPU) or 0, tree.floors[name].get(GPU, 0))
    assert sum(lost.values()) == sum(p.amounts[GPU] for p in victims)


def _nothing_is_owed(world: World, wanted: Ask, result: Reclaim) -> None:
    """With any one victim back, its queue would be beyond what nobody may take from it: what is due at once is not taken."""
    tree, shares, after = world.books.tree, world.shares(wanted), without(world, result.pods)
    for p in result.pods:
        if p.gang or p.queue in {"", wanted.queue}:
            continue
        for name in [n for n in tree.path(p.queue) if n not in tree.path(wanted.queue)]:
            bound = shares.of(name, GPU) or 0
            if result.stage == GUARANTEE:
                bound = min(bound, tree.floors[name].get(GPU, 0))
            assert after.used(name).get(GPU, 0) + p.amounts[GPU] > bound


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_who_gave_cannot_take_it_back(drawn: tuple[World, dict[str, Gang], dict[str, int], Ask, int]) -> None:
    """The victims' owner asks for the same again, at once: it gets nothing from the one that reclaimed. So reclaiming ends."""
    world, gangs, budgets, wanted, each = drawn
    result = world.take(wanted, each, gangs=gangs, budgets=budgets)
    taken = [p for p in result.pods if p.queue not in ("", wanted.queue)]
    if not taken:
        return
    shares = world.shares(wanted)  # what everybody asks has not changed: the evicted pods wait again
    books = without(world, result.pods)
    books.book(wanted.queue, wanted.request)
    for queue in {p.queue for p in taken}:
        again = Ask("again", queue, {GPU: sum(p.amounts[GPU] for p in taken if p.queue == queue)})
        assert Entitlement(again, books, shares).stage(wanted.queue, 0, books, wanted.request) is None


def smallest(world: World, gangs: Mapping[str, Gang], budgets: Mapping[str, int], wanted: Ask, each: int) -> int | None:
    """The number of victims of a smallest set among all that any order of the rules allows to be taken, by trying all sets."""
    movable = [p for p in world.running if p.preemptible and not p.leaving]
    for size in range(len(movable) + 1):
        for victims in combinations(movable, size):
            if sum(p.budgets.count("pdb") for p in victims) > budgets["pdb"] or not whole(world, gangs, victims):
                continue
            if possible(world, wanted, each, victims):
                return size
    return None


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_nothing_is_evicted_where_nothing_can_help(drawn: tuple[World, dict[str, Gang], dict[str, int], Ask, int]) -> None:
    world, gangs, budgets, wanted, each = drawn
    result = world.take(wanted, each, gangs=gangs, budgets=budgets)
    least = smallest(world, gangs, budgets, wanted, each)
    if least is None:
        assert not result.feasible
    elif result.feasible:
        assert (len(result.pods) == 0) == (least == 0)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("test", [test_what_is_taken_is_right, test_who_gave_cannot_take_it_back], ids=["right", "not back"])
def test_many_worlds(test: Any) -> None:
    for seed in range(50_000):
        try:
            test.hypothesis.inner_test(world(Chance(seed)))
        except AssertionError as error:
            error.add_note(f"world(Chance({seed}))")
            raise
