"""Backfilling behind reservations; and over a virtual clock, nobody starves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.quota.admission import admit
from forebay.scheduler.quota.backfill import Release, Reservations, earliest_start, expected_end, queue_needs
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.order import Turns, Waiting
from forebay.scheduler.quota.shares import fair_shares
from forebay.scheduler.quota.tree import Queue, QuotaTree

GPU = "nvidia.com/gpu"
N1, N2, POOL = ("node", "n1"), ("node", "n2"), ("node", "pool")


def held(start: float = 100) -> Reservations:
    """`big` needs 8 of the 10 cards that n1 will have free at 100."""
    reservations = Reservations()
    reservations.begin({"big"})
    reservations.reserve("big", start, {N1: {GPU: 8}}, {N1: {GPU: 10}})
    return reservations


@pytest.mark.parametrize(
    ("load", "end", "allowed"),
    [
        ({N1: {GPU: 8}}, 100, True),  # gone in time
        ({N1: {GPU: 2}}, 101, True),  # takes only what is over
        ({N1: {GPU: 3}}, 101, False),
        ({N1: {GPU: 3}}, math.inf, False),
        ({N2: {GPU: 8}}, math.inf, True),  # elsewhere
        ({N1: {"cpu": 8000}}, math.inf, True),  # big asks for no cpu
        ({N1: {GPU: 0}}, math.inf, True),
    ],
)
def test_may_start(load: dict[tuple[str, str], dict[str, int]], end: float, allowed: bool) -> None:
    assert held().may_start("small", load, end).allowed == allowed
    assert held().may_start("big", load, end).allowed


def test_why_not() -> None:
    assert held().may_start("small", {N1: {GPU: 3}}, 500).reason == (
        'node "n1" is held for "big" from 100, and it would end at 500: 1 nvidia.com/gpu too many; '
        "give it a shorter expected run time, or wait until that job has started"
    )
    assert not held(math.inf).may_start("s", {N1: {GPU: 3}}, 7).allowed  # any stream of short ones could go on for ever
    assert "from an unknown time, and nobody knows when it ends" in held(math.inf).may_start("s", {N1: {GPU: 3}}, math.inf).reason


def test_what_is_over_is_given_once() -> None:
    reservations = held()
    reservations.started("one", {N1: {GPU: 2}}, 500)
    assert not reservations.may_start("two", {N1: {GPU: 1}}, 500).allowed
    assert reservations.may_start("two", {N1: {GPU: 1}}, 50).allowed
    reservations.started("big", {N1: {GPU: 8}}, 500)
    assert reservations.may_start("two", {N1: {GPU: 9}}, 500).allowed


def test_a_promise_never_moves_later() -> None:
    reservations = held(100)
    reservations.begin({"big"})
    reservations.reserve("big", 900, {N1: {GPU: 8}}, {N1: {GPU: 10}})  # the jobs before it have overrun
    assert reservations.promise("big") == 100
    assert not reservations.may_start("small", {N1: {GPU: 3}}, 500).allowed
    reservations.begin({"big"})
    reservations.reserve("big", 70, {N1: {GPU: 8}}, {N1: {GPU: 10}})
    assert reservations.promise("big") == 70
    reservations.begin(set())
    assert reservations.promise("big") is None


def test_several_reservations_all_hold() -> None:
    reservations = held(100)
    reservations.reserve("next", 50, {N1: {GPU: 1}, N2: {GPU: 4}}, {N1: {GPU: 4}, N2: {GPU: 5}})
    assert reservations.may_start("s", {N2: {GPU: 4}}, 50).allowed
    assert not reservations.may_start("s", {N2: {GPU: 2}}, 60).allowed
    assert not reservations.may_start("s", {N1: {GPU: 3}}, 200).allowed


def test_places_in_the_quota_tree() -> None:
    books = Books(build([Queue(name="p", max={GPU: 8}), Queue(name="x", parent="p", max={"cpu": 1})], Findings()))
    assert queue_needs(books, "x", {GPU: 4, "rdma": 1}) == {("queue", "p"): {GPU: 4}}
    assert queue_needs(books, "", {GPU: 4}) == {}


@pytest.mark.parametrize(
    ("started", "estimate", "now", "end"),
    [(0, 100, 10, 100), (0, 100, 100, 200), (0, 100, 150, 300), (0, None, 10, math.inf), (10, 0, 10, 11)],
)
def test_expected_end(started: float, estimate: float | None, now: float, end: float) -> None:
    assert expected_end(started, estimate, now) == end


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=20), st.integers(0, 40))
def test_earliest_start(ends: list[tuple[float, int]], need: int) -> None:
    releases = [Release(at, {POOL: {GPU: n}}) for at, n in ends]
    asked = 0

    def fits(done: Sequence[Release]) -> bool:
        nonlocal asked
        asked += 1
        return sum(r.load[POOL][GPU] for r in done) >= need

    start = earliest_start(5.0, releases, fits)
    by_hand = [t for t in [5.0, *(max(5.0, at) for at, _ in ends)] if sum(n for at, n in ends if at <= t) >= need]
    assert start == min(by_hand, default=math.inf) or (need == 0 and start == 5.0) or start == 5.0
    assert asked <= 2 + math.ceil(math.log2(len(ends) + 1))


# ---- a cluster of one pool over a virtual clock


@dataclass(frozen=True)
class Job:
    name: str
    queue: str
    cards: int
    arrives: float
    runs: float
    says: float
    priority: int = 0


class Pool:
    """The least planner with order, admission and reservations: one pool of cards, one place held."""

    def __init__(self, tree: QuotaTree, cards: int, *, patience: float = 50, reserving: bool = True) -> None:
        self.tree, self.cards, self.patience, self.reserving = tree, cards, patience, reserving
        self.books = Books(tree)
        self.reservations = Reservations()
        self.running: list[tuple[float, float, Job]] = []  # end, start
        self.waiting: list[Job] = []
        self.started: dict[str, float] = {}

    def run(self, jobs: list[Job], until: float) -> None:
        arrivals = sorted(jobs, key=lambda j: (j.arrives, j.name))
        now = 0.0
        while now <= until and (arrivals or self.waiting or self.running):
            while arrivals and arrivals[0].arrives <= now:
                self.waiting.append(arrivals.pop(0))
            for _, _, job in [r for r in self.running if r[0] <= now]:
                self.running = [r for r in self.running if r[2] is not job]
                self.books.book(job.queue, {GPU: job.cards}, -1)
            self.one_pass(now)
            assert 0 <= self.free() <= self.cards
            now = min([e for e, _, _ in self.running] + [a.arrives for a in arrivals[:1]], default=math.inf)

    def free(self) -> int:
        return self.cards - sum(j.cards for _, _, j in self.running)

    def one_pass(self, now: float) -> None:
        requests: dict[str, dict[str, int]] = {}
        for job in [*self.waiting, *(j for _, _, j in self.running)]:
            requests.setdefault(job.queue, {GPU: 0})[GPU] += job.cards
        by_name = {j.name: j for j in self.waiting}
        shares = fair_shares(self.tree, requests, {GPU: self.cards})
        asked = [Waiting(j.name, j.queue, {GPU: j.cards}, j.priority, j.arrives) for j in self.waiting]
        turns = Turns(self.books, shares, asked, now, self.patience)
        self.reservations.begin(set(by_name))
        held = 0
        while waiting := turns.next():
            job = by_name[waiting.name]
            load = {POOL: {GPU: job.cards}, **queue_needs(self.books, job.queue, {GPU: job.cards})}
            room = job.cards <= self.free() and admit(self.books, job.queue, {GPU: job.cards}).admitted
            if room and self.reservations.may_start(job.name, load, now + job.says).allowed:
                self.start(job, now)
                self.reservations.started(job.name, load, now + job.says)
                turns.placed(waiting)
            elif not room and self.reserving and not held:
                held += 1
                self.reserve(job, load, now)

    def start(self, job: Job, now: float) -> None:
        self.waiting.remove(job)
        self.running.append((now + job.runs, now, job))
        self.started[job.name] = now
        self.books.book(job.queue, {GPU: job.cards})

    def reserve(self, job: Job, load: dict[tuple[str, str], dict[str, int]], now: float) -> None:
        releases = []
        for _, began, other in self.running:
            gives = {POOL: {GPU: other.cards}, **queue_needs(self.books, other.queue, {GPU: other.cards})}
            releases.append(Release(expected_end(began, other.says, now), gives))

        def free(done: Sequence[Release]) -> dict[tuple[str, str], dict[str, int]]:
            there = {POOL: {GPU: self.free()}}
            for place in load:
                if place != POOL:
                    ceiling = self.tree.ceilings[place[1]][GPU]
                    there[place] = {GPU: ceiling - self.books.used(place[1]).get(GPU, 0)}
                there[place][GPU] += sum(r.load.get(place, {}).get(GPU, 0) for r in done)
            return there

        start = earliest_start(now, releases, lambda done: all(free(done)[p][GPU] >= load[p][GPU] for p in load))
        self.reservations.reserve(job.name, start, load, free([r for r in releases if r.at <= start]))


ONE = build([Queue(name="q", max={GPU: 8})], Findings())


def stream(length: int = 200, *, says: float = 10, queue: str = "q", priority: int = 0) -> list[Job]:
    """Small jobs, two at a time, one every 5 seconds: some are always running."""
    return [Job(f"s{i:03}", queue, 4, i * 5.0, 10, says, priority) for i in range(length)]


def test_a_large_job_behind_a_stream_of_small_ones() -> None:
    big = Job("big", "q", 8, 11, 10, 10)
    pool = Pool(ONE, 8)
    pool.run([*stream(), big], 1e6)
    assert pool.started["big"] <= 25  # when the two before it have ended
    greedy = Pool(ONE, 8, reserving=False)
    greedy.run([*stream(), big], 1e6)
    assert greedy.started["big"] >= 1000  # without a reservation it waits for the last of them: the test can fail


def test_small_ones_that_lie_about_their_run_time() -> None:
    big = Job("big", "q", 8, 11, 10, 10)
    pool = Pool(ONE, 8)
    pool.run([*stream(says=0.1), big], 1e6)
    assert pool.started["big"] <= 35


def test_small_ones_of_a_higher_priority() -> None:
    big = Job("big", "q", 8, 11, 10, 10)
    pool = Pool(ONE, 8, patience=100)
    pool.run([*stream(priority=9), big], 1e6)
    assert 100 < pool.started["big"] <= 11 + 100 + 20  # its patience, then what runs has to end


def test_a_large_job_waits_for_its_queues_max_not_for_cards() -> None:
    tree = build([Queue(name="q", max={GPU: 8}), Queue(name="other", max={GPU: 64})], Findings())
    pool = Pool(tree, 64)
    pool.run([*stream(), Job("big", "q", 8, 11, 10, 10)], 1e6)
    assert pool.started["big"] <= 25


def test_backfilling_uses_what_waiting_would_waste() -> None:
    jobs = [
        Job("a", "q", 6, 0, 100, 100),
        Job("big", "q", 8, 1, 10, 10),
        Job("short", "q", 2, 2, 50, 50),
        Job("long", "q", 2, 3, 500, 500),
    ]
    pool = Pool(ONE, 8)
    pool.run(jobs, 1e6)
    assert pool.started == {"a": 0, "short": 2, "big": 100, "long": 110}


def test_a_queue_within_its_guarantee_is_served_beside_any_stream() -> None:
    tree = build([Queue(name="q", min={GPU: 4}, max={GPU: 8}), Queue(name="loud", max={GPU: 8})], Findings())
    pool = Pool(tree, 8)
    pool.run([*stream(queue="loud", priority=99), Job("mine", "q", 4, 21, 10, 10)], 1e6)
    assert pool.started["mine"] <= 35


JOBS = st.lists(
    st.builds(
        Job,
        st.just(""),
        st.sampled_from(["x", "y", "z"]),
        st.integers(1, 8),
        st.floats(0, 60),
        st.floats(1, 30),
        st.floats(0.1, 60),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=40,
)
THREE = build(
    [
        Queue(name="d", min={GPU: 4}, max={GPU: 8}),
        Queue(name="x", parent="d", min={GPU: 2}, max={GPU: 8}),
        Queue(name="y", parent="d", max={GPU: 8}),
        Queue(name="z", max={GPU: 8}),
    ],
    Findings(),
)


@settings(deadline=None)
@given(JOBS)
def test_nobody_starves(drawn: list[Job]) -> None:
    """Each job starts before everything that arrived in its time could have run one after the other, whatever anybody said."""
    jobs = [replace(j, name=f"j{i}") for i, j in enumerate(drawn)]
    pool = Pool(THREE, 8, patience=20)
    pool.run(jobs, 1e9)
    assert set(pool.started) == {j.name for j in jobs}
    longest = max(j.runs for j in jobs)
    for job in jobs:
        ahead = [j for j in jobs if j.name != job.name and j.arrives <= job.arrives + pool.patience + longest]
        assert pool.started[job.name] <= job.arrives + pool.patience + sum(j.runs for j in ahead) + longest
