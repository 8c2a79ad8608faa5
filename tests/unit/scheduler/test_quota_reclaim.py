"""Reclaim and preemption: who gives, what goes together, and nothing in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from reclaimkit import GPU, NOW, A, B, World, ask, gone, pod, pods

from forebay.scheduler.quota.admission import admit
from forebay.scheduler.quota.amounts import JOBS
from forebay.scheduler.quota.reclaim.entitled import GUARANTEE, PRIORITY, SURPLUS, WHOLE_GANG
from forebay.scheduler.quota.reclaim.plan import reclaim
from forebay.scheduler.quota.reclaim.pods import Gang
from forebay.scheduler.quota.reclaim.rooms import AskedRoom, NodeRoom
from forebay.scheduler.quota.tree import Queue


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
        "of 4, and nobody is evicted for what is beyond; raise its min or weight, or wait; "
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


def test_a_min_is_taken_back_though_what_covers_it_elsewhere_is_of_higher_priority() -> None:
    """A pod of two cards needs a whole node, and each has one of b's two that its min covers first: b keeps as much, of less
    priority. A pod of one card lets those stay."""
    queues = [Queue(name=name, min={GPU: 2}, max={GPU: 4}) for name in "ab"]
    high = [pod(f"h{node}", "b", f"n{node}", priority=1) for node in (1, 2)]
    low = [pod(f"l{node}", "b", f"n{node}") for node in (1, 2)]
    world = World(queues, [*high, *low], size=2)
    whole = world.take(ask("a", 2), each=2)
    assert (gone(whole), whole.stage, whole.by_amounts) in ((["h1", "l1"], SURPLUS, True), (["h2", "l2"], SURPLUS, True))
    single = world.take(ask("a", 2))
    assert (gone(single), single.by_amounts) == (["l1", "l2"], False)


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


def test_a_higher_priority_takes_its_queues_share_and_no_more() -> None:
    """4 of 8 are b's share while a waits for its own: 2 that b has already make room for 4, and not for 5."""
    queues = [Queue(name="a", min={GPU: 4}, max={GPU: 8}), Queue(name="b", min={GPU: 4}, max={GPU: 8})]
    world = World(queues, pods("low", "b", 2), nodes=["n1"])
    world.requests["a"] = {GPU: 8}
    world.free["n1"] = 3  # what others use, of no queue
    assert gone(world.take(ask("b", 4, priority=1), 4)) == ["low0", "low1"]
    result = world.take(ask("b", 5, priority=1), 5)
    assert not result.feasible
    assert "beyond its fair share of 4, and nobody is evicted for what is beyond" in result.reason


def test_room_alone_is_not_enough_for_a_higher_priority_beyond_its_share() -> None:
    """b uses 4 of a share of 4: one pod would make room for 3, but then b used 6."""
    queues = [Queue(name="a", min={GPU: 4}, max={GPU: 8}), Queue(name="b", min={GPU: 4}, max={GPU: 8})]
    world = World(queues, pods("low", "b", 4), nodes=["n1"])
    world.requests["a"] = {GPU: 8}
    world.free["n1"] = 2
    assert gone(world.take(ask("b", 3, priority=1), 3)) == ["low0", "low1", "low2"]


def test_what_a_queue_is_owed_is_searched_for_elsewhere() -> None:
    """b is due 1: its pod of 1 is the cheapest, but once the gang of 4 goes it may stay, and c gives one instead."""
    queues = [Queue(name=n, min={GPU: 6 if n == "a" else 1}, max={GPU: 8}) for n in "abc"]
    running = [pod("one", "b"), *pods("gang", "b", 4, gang="gang", priority=1), *pods("c", "c", 2, priority=2)]
    world = World(queues, [*running, pod("last", "a")])
    result = world.take(ask("a", 5))
    assert gone(result) == ["c0", "gang0", "gang1", "gang2", "gang3"]


def test_what_a_min_covers_yields_only_to_what_it_covers_too() -> None:
    """a's min is 3 and its share 5: a job of 4 does not have the one of 3 evicted, whatever its priority, one of 3 does."""
    queues = [Queue(name="a", min={GPU: 3}, max={GPU: 8}), Queue(name="b", min={GPU: 5}, max={GPU: 8})]
    world = World(queues, [pod("low", "a", "n1", 3), pod("b2", "b", "n2", 3), pod("b3", "b", "n3", 3)], size=4)
    world.requests["b"] = {GPU: 8}
    result = world.take(ask("a", 4, priority=1), 4)
    assert not result.feasible
    assert "1 pods stay: their queues' mins or fair shares cover them, and would cover less by the job" in result.reason
    assert gone(world.take(ask("a", 3, priority=1), 3)) == ["low"]


def test_what_came_last_goes_before_a_gang_that_no_share_covers() -> None:
    """b is due 4 and runs a gang of 6 beside two younger pods. Nothing of it is covered: what is too large ends its priority."""
    running = [*pods("gang", "b", 6, gang="gang", started=0), *pods("late", "b", 2, started=NOW - 1)]
    world = World([A, B], running)
    world.requests["a"] = {GPU: 4}
    assert gone(world.take(ask("a", 1))) == ["late0"]
    older = [replace(p, started=0 if p.uid == "late0" else p.started + 1) for p in running]  # covered now
    assert gone(World([A, B], older).take(ask("a", 1))) == ["late1"]
