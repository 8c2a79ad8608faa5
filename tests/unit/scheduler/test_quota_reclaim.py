"""Reclaim and preemption: who gives, what goes together, and nothing in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.quota.admission import admit
from forebay.scheduler.quota.amounts import JOBS
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.check import Findings, build
from forebay.scheduler.quota.entitled import GUARANTEE, PRIORITY, SURPLUS, WHOLE_GANG, Ask, Entitlement
from forebay.scheduler.quota.pods import Gang, Running
from forebay.scheduler.quota.reclaim import Reclaim, reclaim
from forebay.scheduler.quota.rooms import AskedRoom, NodeRoom
from forebay.scheduler.quota.shares import Shares, fair_shares
from forebay.scheduler.quota.tree import Queue

GPU = "nvidia.com/gpu"
NOW = 10_000.0


def pod(uid: str, queue: str, node: str = "n1", gpus: int = 1, **more: object) -> Running:
    fields: dict[str, object] = {"cards": float(gpus), "started": NOW - 3600} | more
    return Running(uid, queue, node, {GPU: gpus}, **fields)  # type: ignore[arg-type]


def pods(prefix: str, queue: str, count: int, node: str = "n1", gpus: int = 1, **more: object) -> list[Running]:
    return [pod(f"{prefix}{i}", queue, node, gpus, **more) for i in range(count)]


class World:
    """Nodes full of pods, and a tree they are counted in."""

    def __init__(self, queues: Iterable[Queue], running: Iterable[Running], size: int = 8, nodes: Iterable[str] = ()) -> None:
        self.running = list(running)
        self.books = Books(build(list(queues), Findings()))
        self.size = size
        self.free = dict.fromkeys([*nodes, *(p.node for p in self.running)], size)
        self.requests: dict[str, dict[str, int]] = {}
        for p in self.running:
            if p.queue:
                self.books.book(p.queue, p.amounts, preemptible=p.preemptible)
                self.requests.setdefault(p.queue, {GPU: 0})[GPU] += p.amounts[GPU]
            if not p.leaving:
                self.free[p.node] -= p.amounts[GPU]
        assert all(n >= 0 for n in self.free.values())

    def total(self) -> int:
        return self.size * len(self.free)

    def shares(self, ask: Ask) -> Shares:
        requests = {q: dict(a) for q, a in self.requests.items()}
        if ask.queue:
            requests.setdefault(ask.queue, {GPU: 0})[GPU] += ask.request[GPU]
        return fair_shares(self.books.tree, requests, {GPU: self.total()})

    def room(self, each: int, wanted: int) -> NodeRoom:
        return NodeRoom({n: {GPU: f} for n, f in self.free.items()}, {GPU: each}, wanted)

    def take(self, ask: Ask, each: int = 1, **more: object) -> Reclaim:
        wanted = ask.request[GPU] // each
        room = self.room(each, wanted)
        before, found = room.fitting(), self.books.copy()
        result = reclaim(
            ask,
            self.books,
            self.shares(ask),
            self.running,
            room,
            NOW,
            totals={GPU: self.total()},
            **more,  # type: ignore[arg-type]
        )
        assert room.fitting() == before
        assert self.books.same(found)
        return result


def ask(queue: str, gpus: int, **more: object) -> Ask:
    return Ask("job", queue, {GPU: gpus}, **more)  # type: ignore[arg-type]


def gone(result: Reclaim) -> list[str]:
    return sorted(p.uid for p in result.pods)


A, B = Queue(name="a", min={GPU: 4}, max={GPU: 8}), Queue(name="b", min={GPU: 4}, max={GPU: 8})


def test_a_queue_gets_its_share_back() -> None:
    world = World([A, B], pods("b", "b", 8))
    result = world.take(ask("a", 3))
    assert len(result.pods) == 3
    assert result.stage == SURPLUS
    assert result.freed() == {"n1": {GPU: 3}}
    assert result.reason == (
        'evicting 3 pods (3 whole jobs) lets "job" start: frees 3 nvidia.com/gpu, loses 3.0 card-hours of work; '
        "all of it is beyond fair shares"
    )


def test_and_not_more() -> None:
    world = World([A, B], pods("b", "b", 8))
    result = world.take(ask("a", 5))
    assert (result.feasible, result.pods) == (False, ())
    assert result.reason == (
        'no pod may go for "job", and 0 of its 5 pods fit; with it queue "a" would use 5 nvidia.com/gpu, beyond its fair share '
        "of 4, and what is beyond is not taken from others; raise its min or weight, or wait; "
        "8 pods stay: their queues use no more than their fair share, or than what is left to them"
    )


def test_who_has_most_beyond_its_share_gives_first() -> None:
    queues = [A, B, Queue(name="c", min={GPU: 4}, max={GPU: 12})]
    world = World(queues, [*pods("b", "b", 5), *pods("c", "c", 7)], size=12)
    assert gone(world.take(ask("a", 2))) == ["c0", "c1"]  # from 7 of 4 to 5 of 4
    assert gone(world.take(ask("a", 3))) == ["b0", "c0", "c1"]  # then both have 5 of 4


def test_the_least_work_is_lost() -> None:
    running = [pod(f"b{i}", "b", started=NOW - 100 * (i + 1)) for i in range(8)]
    running[6] = replace(running[6], saved=NOW - 1)  # it has just written a checkpoint
    result = World([A, B], running).take(ask("a", 2))
    assert gone(result) == ["b0", "b6"]
    assert result.lost == 101.0


def test_lower_priorities_first_even_if_they_lose_more() -> None:
    running = [pod(f"b{i}", "b", priority=0 if i == 3 else 5, started=NOW - (9999 if i == 3 else 1)) for i in range(8)]
    assert gone(World([A, B], running).take(ask("a", 1))) == ["b3"]


@pytest.mark.parametrize(
    ("minimum", "single", "wanted", "expected", "stage"),
    [
        (2, True, 2, ["g6", "g7"], SURPLUS),  # the youngest above the minimum
        (6, True, 2, ["g6", "g7"], SURPLUS),
        (7, True, 2, [f"g{i}" for i in range(8)], WHOLE_GANG),  # one above the minimum is not enough
        (8, True, 1, [f"g{i}" for i in range(8)], WHOLE_GANG),
        (2, False, 1, [f"g{i}" for i in range(8)], WHOLE_GANG),  # its pods go only together
    ],
)
def test_a_gang_is_whole_or_at_its_minimum_or_gone(
    minimum: int, single: bool, wanted: int, expected: list[str], stage: int
) -> None:
    running = [pod(f"g{i}", "b", gang="g", started=NOW - 1000 + i) for i in range(8)]
    result = World([A, B], running).take(ask("a", wanted), gangs={"g": Gang(minimum, single)})
    assert gone(result) == expected
    assert result.stage == stage


def test_a_gang_does_not_go_because_one_of_its_members_stands_in_the_way() -> None:
    """The cheapest member to lose is on n2, but n1 is what has to be freed: its member goes alone, whichever it is."""
    running = [
        pod("g0", "b", "n1", 2, gang="g", started=0),
        pod("g1", "b", "n2", 2, gang="g"),
        *pods("c", "b", 2, preemptible=False),
    ]
    world = World([A, Queue(name="b", min={GPU: 2})], running, size=4, nodes=["n2"])
    world.running.append(pod("d", "b", "n2", 2, preemptible=False))
    world.free["n2"] -= 2
    world.books.book("b", {GPU: 2})
    result = world.take(ask("a", 2), each=2, gangs={"g": Gang(1)})
    assert gone(result) == ["g1"]
    only_n1 = NodeRoom({"n1": {}}, {GPU: 2}, 1)
    wanted = ask("a", 2)
    result = reclaim(wanted, world.books, world.shares(wanted), world.running, only_n1, NOW, gangs={"g": Gang(1)})
    assert gone(result) == ["g0"]
    cored = [replace(p, core=p.uid == "g0") for p in world.running]
    result = reclaim(wanted, world.books, world.shares(wanted), cored, only_n1, NOW, gangs={"g": Gang(1)})
    assert gone(result) == ["g0", "g1"]  # without its core the gang cannot go on


def test_a_smaller_gang_is_taken_before_a_larger() -> None:
    running = [pod(f"big{i}", "b", gang="big") for i in range(6)] + [pod(f"small{i}", "b", gang="small") for i in range(2)]
    result = World([A, B], running).take(ask("a", 2), gangs={"big": Gang(6), "small": Gang(2)})
    assert gone(result) == ["small0", "small1"]
    assert "(1 whole jobs)" in result.reason


def test_a_gang_that_has_lost_members_already_goes_whole() -> None:
    running = [pod(f"g{i}", "b", gang="g", leaving=i < 2) for i in range(8)]
    result = World([A, B], running).take(ask("a", 4), gangs={"g": Gang(6)})
    assert gone(result) == [f"g{i}" for i in range(2, 8)]  # two are leaving, so none is above the minimum
    fits = World([A, B], running).take(ask("a", 2), gangs={"g": Gang(6)})
    assert (fits.feasible, fits.pods, fits.reason) == (True, (), '"job" fits without evicting anything')


def test_two_reclaims_one_after_the_other_do_not_shrink_a_gang_below_its_minimum() -> None:
    running = [pod(f"g{i}", "b", gang="g", started=NOW - 100 + i) for i in range(8)]
    first = World([A, B], running).take(ask("a", 2), gangs={"g": Gang(6)})
    leaving = [replace(p, leaving=p in first.pods) for p in running]
    world = World([A, B], leaving)
    world.books.book("a", {GPU: 2})  # the first job has been booked on what is being freed
    world.requests["a"] = {GPU: 2}
    world.free["n1"] -= 2
    second = world.take(ask("a", 1), gangs={"g": Gang(6)})
    assert gone(second) == [f"g{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"preemptible": False}, "8 pods stay: not preemptible"),
        ({"started": NOW - 10}, "8 pods stay: have run less than their queue's minimum runtime of 600 s"),
        ({"budgets": ("pdb",)}, "8 pods stay: their disruption budgets allow no more"),
        ({"budgets": ("pdb", "other")}, "8 pods stay: under two disruption budgets, which the eviction API refuses"),
    ],
)
def test_what_keeps_a_pod(change: dict[str, object], why: str) -> None:
    queues = [A, replace(B, min_runtime=600)]
    result = World(queues, pods("b", "b", 8, **change)).take(ask("a", 2), budgets={"other": 9})
    assert not result.feasible
    assert result.reason == f'no pod may go for "job", and 0 of its 2 pods fit; {why}'
    one = [*pods("b", "b", 7, **change), pod("free", "b")]
    assert gone(World(queues, one).take(ask("a", 1), budgets={"other": 9})) == ["free"]
    result = World(queues, one).take(ask("a", 2), budgets={"other": 9})
    assert result.reason.startswith('evicting the 1 pods that may go lets 1 of 2 pods of "job" fit, 0 without; 7 pods stay: ')


def test_a_budget_is_spent_once() -> None:
    running = pods("b", "b", 8, budgets=("pdb",))
    assert len(World([A, B], running).take(ask("a", 2), budgets={"pdb": 2}).pods) == 2
    assert not World([A, B], running).take(ask("a", 3), budgets={"pdb": 2}).feasible


def test_a_gang_needs_its_budget_whole() -> None:
    running = [pod(f"g{i}", "b", gang="g", budgets=("pdb",)) for i in range(4)] + pods("b", "b", 4, started=0)
    result = World([A, B], running).take(ask("a", 2), gangs={"g": Gang(4)}, budgets={"pdb": 3})
    assert len(gone(result)) == 2
    assert not any(p.gang for p in result.pods)


def test_in_ones_own_queue_only_priority_counts() -> None:
    queue = Queue(name="a", max={GPU: 8})
    running = [*pods("low", "a", 4, priority=1), *pods("same", "a", 4, priority=5)]
    result = World([queue], running).take(ask("a", 2, priority=5))
    assert (gone(result), result.stage) == (["low0", "low1"], PRIORITY)
    result = World([queue], running).take(ask("a", 5, priority=5))
    assert result.reason.startswith('evicting the 4 pods that may go lets 4 of 5 pods of "job" fit, 0 without')
    assert "4 pods stay: their priority is not lower" in result.reason


def test_pods_of_no_queue_yield_to_priority_alone() -> None:
    running = [*pods("system", "", 4, priority=2_000_000_000), *pods("stray", "", 4)]
    assert gone(World([A, B], running).take(ask("a", 2, priority=1))) == ["stray0", "stray1"]
    assert not World([A, B], running).take(ask("a", 2)).feasible


def test_a_guarantee_is_taken_from_who_is_within_its_fair_share_but_beyond_its_own() -> None:
    """8 cards are free, 4 on each node: everybody is within its fair share, and yet a pod of 8 has no node."""
    running = [*pods("b", "b", 4, node="n1", started=0), *pods("c", "b", 4, node="n2")]
    result = World([Queue(name="a", min={GPU: 8}), Queue(name="b", min={GPU: 4})], running).take(ask("a", 8), each=8)
    assert (gone(result), result.stage) == (["c0", "c1", "c2", "c3"], GUARANTEE)
    assert result.reason.endswith("queues within their fair share give what the job's queue is guaranteed")
    borrowed = World([Queue(name="a", min={GPU: 7}), Queue(name="b", min={GPU: 4})], running).take(ask("a", 8), each=8)
    assert not borrowed.feasible  # what a would borrow is not worth anybody's work
    kept = World([Queue(name="a", min={GPU: 8}), Queue(name="b", min={GPU: 5})], running).take(ask("a", 8), each=8)
    assert not kept.feasible  # b would have to give of its own guarantee


def test_nothing_is_taken_from_a_queue_within_its_min() -> None:
    queues = [Queue(name="a", min={GPU: 8}), Queue(name="b", min={GPU: 8})]
    result = World(queues, pods("b", "b", 8)).take(ask("a", 1))  # mins of 16 for 8: scaled to 4 and 4, b is beyond that
    assert len(result.pods) == 1
    kept = World([Queue(name="a", min={GPU: 2}), Queue(name="b", min={GPU: 6})], pods("b", "b", 8))
    assert not kept.take(ask("a", 3)).feasible
    assert len(kept.take(ask("a", 2)).pods) == 2


DEPARTMENTS = [
    Queue(name="d1", min={GPU: 8}),
    Queue(name="t1", parent="d1", min={GPU: 4}),
    Queue(name="t2", parent="d1", min={GPU: 4}),
    Queue(name="d2", min={GPU: 8}),
    Queue(name="t3", parent="d2", min={GPU: 4}),
]


def test_borrowing_inside_a_department_is_its_own_affair() -> None:
    running = [*pods("t1-", "t1", 8), *pods("t3-", "t3", 8, node="n2")]
    world = World(DEPARTMENTS, running)
    result = world.take(ask("t2", 2))  # its department has 8 of 8: the sibling that borrowed gives, not the other department
    assert {p.queue for p in result.pods} == {"t1"}
    world = World(DEPARTMENTS, [*pods("t1-", "t1", 8), *pods("t3-", "t3", 8, node="n2")])
    assert not world.take(ask("t3", 2)).feasible  # d1 is within its share, whatever t1 took from t2


def test_a_full_max_above_is_freed_below_it_and_nowhere_else() -> None:
    queues = [
        Queue(name="d", max={GPU: 4}),
        Queue(name="x", parent="d", min={GPU: 2}),
        Queue(name="y", parent="d", min={GPU: 2}),
        B,
    ]
    running = [*pods("y", "y", 4), *pods("b", "b", 4)]
    world = World(queues, running, nodes=["n2"])  # n2 is empty: there is room, but no quota
    assert not admit(world.books, "x", {GPU: 2}).admitted
    assert {p.queue for p in world.take(ask("x", 2)).pods} == {"y"}


def test_whole_nodes_are_freed_not_pods_here_and_there() -> None:
    """Taking the cheapest pods first would spend the surplus of b on one pod of each node, and no node would be free."""
    queues = [Queue(name="a", min={GPU: 8}), Queue(name="b", min={GPU: 24})]
    running = [pod(f"b{n}.{i}", "b", f"n{n}", started=NOW - 1 - i * 100 - n) for n in range(4) for i in range(8)]
    result = World(queues, running).take(ask("a", 8), each=8)
    assert gone(result) == [f"b0.{i}" for i in range(8)]


def test_an_unmovable_pod_saves_its_neighbours() -> None:
    queues = [Queue(name="a", min={GPU: 8}), Queue(name="b", min={GPU: 8})]
    running = [pod(f"b{n}.{i}", "b", f"n{n}", preemptible=not (n == 0 and i == 7)) for n in range(2) for i in range(8)]
    result = World(queues, running).take(ask("a", 8), each=8)
    assert gone(result) == [f"b1.{i}" for i in range(8)]


def test_a_planners_own_question() -> None:
    """Cards of one node must be neighbours: only the planner knows that b2 and b3 go together."""
    world = World([A, B], pods("b", "b", 8))
    questions: list[dict[str, Mapping[str, int]]] = []

    def enough(freed: Mapping[str, Mapping[str, int]]) -> bool:
        questions.append(dict(freed))
        return freed.get("n1", {}).get(GPU, 0) >= 2

    room = AskedRoom(enough, 2)
    result = reclaim(ask("a", 2), world.books, world.shares(ask("a", 2)), world.running, room, NOW)
    assert len(result.pods) == 2
    assert room.asked == len(questions) < 40
    never = reclaim(ask("a", 2), world.books, world.shares(ask("a", 2)), world.running, AskedRoom(lambda freed: 1, 2), NOW)
    assert never.reason.startswith('evicting the 4 pods that may go lets 1 of 2 pods of "job" fit, 1 without')


def test_what_can_never_be_is_said_first() -> None:
    result = World([A, B], pods("b", "b", 8)).take(ask("a", 9))
    assert result.reason.startswith('queue "a" can never give 9 nvidia.com/gpu: its max of nvidia.com/gpu is 8')


def test_number_of_jobs_is_freed_with_the_last_pod() -> None:
    queue = Queue(name="a", max={JOBS: 1})
    world = World([queue], pods("low", "a", 4))
    world.books.book("a", {JOBS: 1})
    running = [replace(p, gang="g") for p in world.running]
    wanted = ask("a", 1, priority=1, jobs=1)
    result = reclaim(wanted, world.books, world.shares(wanted), running, world.room(1, 1), NOW, gangs={"g": Gang(1)})
    assert len(result.pods) == 4


def test_room_of_nodes() -> None:
    room = NodeRoom({"n1": {GPU: 3, "cpu": 9}, "n2": {GPU: 8, "cpu": 1}}, {GPU: 2, "cpu": 1}, 9, {"n1": 1})
    assert room.fitting() == 2
    room.leave([pod("x", "b", "n1", 5), pod("y", "b", "nowhere", 5)])
    assert room.fitting() == 2  # the node takes one pod at most
    with pytest.raises(ValueError, match="at least one"):
        NodeRoom({}, {GPU: 1}, 0)


# ---- any world


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, dict[str, Gang], dict[str, int], Ask, int]:
    leaves = ["x", "y", "z"]
    queues = [Queue(name="d", min={GPU: draw(st.integers(0, 8))})]
    for name in leaves:
        least = draw(st.integers(0, 6))
        more = {"min_runtime": draw(st.sampled_from([0.0, 500.0])), "weight": {GPU: draw(st.integers(0, 3))}}
        parent = draw(st.sampled_from(["", "d"]))
        queues.append(Queue(name=name, parent=parent, min={GPU: least}, max={GPU: draw(st.integers(max(6, least), 16))}, **more))  # type: ignore[arg-type]
    queues.append(Queue(name="e", parent="d"))
    running: list[Running] = []
    gangs: dict[str, Gang] = {}
    left = {f"n{i}": 4 for i in range(draw(st.integers(1, 3)))}
    for i in range(draw(st.integers(0, 10))):
        gang = draw(st.sampled_from(["", "", "g", "h"]))
        size, node = draw(st.integers(1, 3)), draw(st.sampled_from(sorted(left)))
        if left[node] < size:
            continue
        left[node] -= size
        queue = {"g": "x", "h": "y"}.get(gang) or draw(st.sampled_from([*leaves, ""]))
        started = NOW - draw(st.integers(1, 1000))
        running.append(
            pod(
                f"p{i}", queue, node, size, gang=gang, started=started, priority=draw(st.integers(0, 2)),
                preemptible=draw(st.sampled_from([True, True, True, False])),
                leaving=draw(st.sampled_from([False, False, False, True])),
                budgets=draw(st.sampled_from([(), (), ("pdb",)])),
            )
        )  # fmt: skip
    for gang in ("g", "h"):
        gangs[gang] = Gang(draw(st.integers(1, 3)), draw(st.sampled_from([True, True, False])))
    each = draw(st.integers(1, 4))
    wanted = Ask("job", draw(st.sampled_from([*leaves, "e"])), {GPU: each * draw(st.integers(1, 3))}, draw(st.integers(0, 2)))
    return World(queues, running, 4, left), gangs, {"pdb": draw(st.integers(0, 2))}, wanted, each


def possible(world: World, wanted: Ask, each: int, victims: Iterable[Running]) -> bool:
    """By first principles: without the victims the pods fit on the nodes, and the quotas admit the job."""
    free = Counter(world.free)
    books = world.books.copy()
    for p in [*victims, *(q for q in world.running if q.leaving)]:
        if not p.leaving:
            free[p.node] += p.amounts[GPU]
        if p.queue:
            books.book(p.queue, p.amounts, -1, preemptible=p.preemptible)
    places = sum(n // each for n in free.values())
    return places * each >= wanted.request[GPU] and admit(books, wanted.queue, wanted.request, {GPU: world.total()}).admitted


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
    assert len({p.uid for p in victims}) == len(victims)
    assert all(p.preemptible and not p.leaving for p in victims)
    assert whole(world, gangs, victims)
    assert sum(p.budgets.count("pdb") for p in victims) <= budgets["pdb"]
    assert result.lost == sum(p.lost(NOW) for p in victims)
    for p in victims:  # no victim could be left out
        fewer = [v for v in victims if v is not p]
        assert not (whole(world, gangs, fewer) and possible(world, wanted, each, fewer))
    for gang in {p.gang for p in victims if p.gang}:
        assert not possible(world, wanted, each, [v for v in victims if v.gang != gang])
    for p in victims:
        if p.queue == wanted.queue or not p.queue:
            assert p.priority < wanted.priority or (p.gang and not p.priority >= wanted.priority)
    _taken_from_the_right(world, wanted, victims)


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
    books = world.books.copy()
    for p in result.pods:
        if p.queue:
            books.book(p.queue, p.amounts, -1)
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
def test_many_worlds() -> None:
    for test in (test_what_is_taken_is_right, test_who_gave_cannot_take_it_back):
        settings(max_examples=50_000, deadline=None)(given(worlds())(test.hypothesis.inner_test))()  # type: ignore[attr-defined]
