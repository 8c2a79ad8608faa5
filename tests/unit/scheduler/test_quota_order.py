"""Whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.order import BEYOND, FAIR, GUARANTEED, OVERDUE, Turns, Waiting
from forebay.scheduler.quota.shares import fair_shares
from forebay.scheduler.quota.tree import Queue

GPU, CPU = "nvidia.com/gpu", "cpu"


def order(
    queues: list[Queue], used: dict[str, int], jobs: list[Waiting], total: int = 16, now: float = 100, **more: float
) -> list[str]:
    """Names in order, each placed as it comes."""
    turns, names = begin(queues, used, jobs, total, now, **more), []
    while job := turns.next():
        names.append(job.name)
        turns.placed(job)
    return names


def begin(queues: list[Queue], used: dict[str, int], jobs: list[Waiting], total: int, now: float, **more: float) -> Turns:
    books = Books(build(queues, Findings()))
    requests = {q.name: {GPU: used.get(q.name, 0)} for q in queues}
    for leaf, gpus in used.items():
        books.book(leaf, {GPU: gpus})
    for job in jobs:
        if job.queue:
            requests[job.queue][GPU] += job.request.get(GPU, 0)
    return Turns(books, fair_shares(books.tree, requests, {GPU: total}), jobs, now, **more)


def gpu(name: str, queue: str, n: int = 1, priority: int = 0, since: float = 50) -> Waiting:
    return Waiting(name, queue, {GPU: n}, priority, since)


A, B = Queue(name="a", min={GPU: 4}, max={GPU: 16}), Queue(name="b", min={GPU: 4}, max={GPU: 16})


@pytest.mark.parametrize(
    ("used", "jobs", "names"),
    [
        ({}, [gpu("x", "a", since=2), gpu("y", "a", since=1), gpu("z", "a", priority=5, since=9)], ["z", "y", "x"]),
        ({"a": 2}, [gpu("x", "a", priority=9), gpu("y", "b")], ["y", "x"]),  # b has less; priorities of others do not matter
        ({"a": 8, "b": 6}, [gpu("x", "a"), gpu("y", "b")], ["y", "x"]),
        ({"b": 3}, [gpu("x", "a", 5), gpu("y", "b", 1)], ["y", "x"]),  # within its guarantee before what goes beyond it
        ({}, [gpu("x", "a", 1), gpu("y", "b", 1, priority=1)], ["y", "x"]),  # a tie goes to the priority,
        ({}, [gpu("x", "a", 1), gpu("y", "b", 1, since=1)], ["y", "x"]),  # then to age,
        ({}, [gpu("y", "b", 1), gpu("x", "a", 1)], ["x", "y"]),  # then to the name
        ({}, [gpu(f"{q}{i}", q, 2) for q in "ab" for i in range(4)], ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]),
        ({}, [gpu("x", ""), gpu("y", "a", 9)], ["y", "x"]),  # nobody promised x anything
    ],
)
def test_order(used: dict[str, int], jobs: list[Waiting], names: list[str]) -> None:
    assert order([A, B], used, jobs) == names


def test_the_dominant_share_is_the_largest_over_all_resources() -> None:
    books = Books(build([Queue(name="a"), Queue(name="b"), Queue(name="named", max={GPU: 99, CPU: 99000})], Findings()))
    books.book("a", {GPU: 2, CPU: 60_000})
    books.book("b", {GPU: 4, CPU: 1_000})
    asked = {q: {GPU: 10, CPU: 100_000} for q in ("a", "b")}
    turns = Turns(books, fair_shares(books.tree, asked, {GPU: 20, CPU: 200_000}), [gpu("x", "a"), gpu("y", "b")], 0)
    assert (turns.dominant("a"), turns.dominant("b")) == (0.6, 0.4)
    assert turns.standing("a") == 'queue "a" uses 60 cpu, 0.60 of its fair share of 100; who uses less of theirs goes first'
    assert turns.standing("named") == 'queue "named" uses nothing that quotas govern'
    assert turns.next() == gpu("y", "b")


def test_departments_first_then_their_teams() -> None:
    queues = [
        Queue(name="big"),
        Queue(name="t1", parent="big"),
        Queue(name="t2", parent="big"),
        Queue(name="small", max={GPU: 16}),
    ]
    jobs = [gpu("1", "t1"), gpu("2", "t2"), gpu("3", "small")]
    assert order(queues, {"t1": 4, "t2": 3, "small": 5}, jobs, 14) == ["3", "2", "1"]  # big has 7 of 8, small 5 of 6


def test_a_job_that_does_not_fit_steps_aside() -> None:
    turns = begin([A, B], {}, [gpu("large", "a", 9, priority=1), gpu("little", "a"), gpu("other", "b")], 16, 100)
    tried = []
    while job := turns.next():  # nothing is placed
        tried.append(job.name)
    assert tried == ["other", "large", "little"]  # 9 are beyond the guarantee of a, so b comes first


def test_fifo_leaves_priorities_aside() -> None:
    jobs = [gpu("late", "a", priority=9, since=2), gpu("early", "a", since=1)]
    assert order([Queue(name="a", fifo=True)], {}, jobs) == ["early", "late"]
    assert order([Queue(name="a")], {}, jobs) == ["late", "early"]


def test_who_has_waited_too_long_comes_before_all_that_is_not_guaranteed() -> None:
    jobs = [gpu("old", "a", 12, since=0), gpu("mine", "b", 4, priority=9, since=90), gpu("more", "b", 4, priority=9, since=90)]
    assert order([A, B], {"a": 4}, jobs, patience=1000) == ["mine", "more", "old"]
    assert order([A, B], {"a": 4}, jobs, patience=60) == ["mine", "old", "more"]
    older = [gpu("first", "a", priority=0, since=0), gpu("second", "a", priority=9, since=10)]
    assert order([A], {}, older, patience=60) == ["first", "second"]  # in its own leaf as well


def test_ranks() -> None:
    turns = begin([A, B], {"a": 2, "b": 8}, [gpu("w", "b", 9)], 16, 1000, patience=2000)
    ranks = [turns._rank("a", gpu("j", "a", n, since=950)) for n in (2, 3, 99)]
    assert ranks == [GUARANTEED, BEYOND, BEYOND]  # a asks for no more than it uses, so that is its fair share
    turns = begin([A, B], {"a": 2, "b": 8}, [gpu("w", "a", 9)], 16, 1000, patience=100)
    assert [turns._rank("a", gpu("j", "a", n, since=950)) for n in (2, 3, 7)] == [GUARANTEED, FAIR, BEYOND]
    assert turns._rank("a", gpu("j", "a", 7, since=0)) == OVERDUE


def test_books_are_not_changed() -> None:
    books = Books(build([A], Findings()))
    turns = Turns(books, fair_shares(books.tree, {}, {}), [gpu("x", "a")], 0)
    job = turns.next()
    assert job is not None
    turns.placed(job)
    assert books.same(Books(books.tree))


QUEUES = ["q0", "q1", "q2", "q3"]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Queue], dict[str, int], list[Waiting]]:
    queues = [Queue(name="d", min={GPU: draw(st.integers(0, 8))})]
    for name in QUEUES:
        parent = draw(st.sampled_from(["", "d"]))
        queues.append(Queue(name=name, parent=parent, min={GPU: draw(st.integers(0, 6))}, weight={GPU: draw(st.integers(0, 3))}))
    queues.append(Queue(name="e", parent="d"))
    used = {name: draw(st.integers(0, 6)) for name in QUEUES}
    jobs = [
        gpu(
            f"j{i}",
            draw(st.sampled_from([*QUEUES, "e", ""])),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 2)),
            draw(st.integers(0, 99)),
        )
        for i in range(draw(st.integers(0, 15)))
    ]
    return queues, used, jobs


@given(situations(), st.data())
def test_every_job_once_and_the_heaps_agree_with_sorting(
    situation: tuple[list[Queue], dict[str, int], list[Waiting]], data: st.DataObject
) -> None:
    queues, used, jobs = situation
    turns = begin(queues, used, jobs, 20, 100, patience=60.0)
    waiting = {leaf: [j for j in jobs if j.queue == leaf] for leaf in [*QUEUES, "e"]}
    seen = []
    while job := turns.next():
        seen.append(job)
        if job.queue:
            assert job == _slowly(turns, waiting)
            waiting[job.queue].remove(job)
        if data.draw(st.booleans()):
            turns.placed(job)
    assert sorted(j.name for j in seen) == sorted(j.name for j in jobs)


def _slowly(turns: Turns, waiting: dict[str, list[Waiting]]) -> Waiting:
    """The next job without heaps: every queue's first job, and the first child at every level."""

    def head(name: str) -> Waiting | None:
        if turns.tree.is_leaf(name):
            return min(waiting.get(name, []), key=turns._in_leaf, default=None)
        heads = [(turns._place(c, j), j) for c in turns.tree.children[name] if (j := head(c))]
        return min(heads, key=lambda pair: pair[0])[1] if heads else None

    first = head(turns.tree.root)
    assert first is not None
    return first
