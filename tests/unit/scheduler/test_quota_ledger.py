"""The ledger: whatever order events come in, and however often, the books say what exists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from forebay.scheduler.quota import ledger as quota_ledger
from forebay.scheduler.quota.amounts import JOBS
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.ledger import Charge, Ledger
from forebay.scheduler.quota.tree import Queue, QuotaTree

GPU = "nvidia.com/gpu"


def tree(**moved: str) -> QuotaTree:
    """Two teams with two leaves each; `moved` gives namespaces to other leaves."""
    homes = {"n1": "a1", "n2": "a2", "n3": "b1"} | moved
    return build(
        [
            Queue(name="a", min={GPU: 8}, lend={GPU: 2}),
            Queue(name="a1", parent="a", min={GPU: 5}, lends=False, namespaces=tuple(n for n, q in homes.items() if q == "a1")),
            Queue(name="a2", parent="a", namespaces=tuple(n for n, q in homes.items() if q == "a2")),
            Queue(name="b", max={JOBS: 3}),
            Queue(name="b1", parent="b", min={GPU: 3}, lend={GPU: 1}, namespaces=tuple(n for n, q in homes.items() if q == "b1")),
        ],
        Findings(),
    )


def charge(namespace: str = "n1", gpus: int = 1, **more: object) -> Charge:
    return Charge(namespace, {GPU: gpus} if gpus else {}, **more)  # type: ignore[arg-type]


def test_every_level_counts() -> None:
    ledger = Ledger(tree())
    assert ledger.add("p1", charge("n1", 2))
    assert ledger.add("p2", charge("n2", 3, preemptible=False))
    books = ledger.books
    assert [books.used(q).get(GPU, 0) for q in ("a1", "a2", "a", "b", books.tree.root)] == [2, 3, 5, 0, 5]
    assert [books.firm(q).get(GPU, 0) for q in ("a1", "a2", "a")] == [0, 3, 3]
    assert books.held("a1", GPU) == 5  # keeps all of its min
    assert books.taken("a", GPU) == 8


def test_the_same_event_twice_and_a_changed_pod() -> None:
    ledger = Ledger(tree())
    assert [ledger.add("p", charge(gpus=2)) for _ in range(2)] == [True, False]
    assert ledger.add("p", charge(gpus=4))  # resized in place
    assert ledger.add("p", charge("n3", 4))
    assert ledger.books.used("a") == {}
    assert ledger.books.used("b")[GPU] == 4
    assert [ledger.remove("p") for _ in range(2)] == [True, False]
    assert ledger.books.same(Books(ledger.tree))


def test_a_late_event_does_not_bring_a_pod_back() -> None:
    ledger = Ledger(tree())
    assert not ledger.remove("p")  # deleted before it was ever heard of
    assert not ledger.add("p", charge())
    assert ledger.books.same(Books(ledger.tree))


def test_a_plan_that_fails_may_be_made_again() -> None:
    ledger = Ledger(tree())
    ledger.add("p", charge(assumed=True))
    assert ledger.release("p")
    assert ledger.add("p", charge(assumed=True))


def test_a_new_list_is_the_truth_but_for_what_it_cannot_know() -> None:
    ledger = Ledger(tree())
    ledger.add("stays", charge())
    ledger.add("went", charge())
    ledger.add("assumed", charge(assumed=True))
    ledger.remove("deleted")
    ledger.replace({"stays": charge(), "came": charge("n3"), "deleted": charge("n2")})
    assert set(ledger.charges) == {"stays", "came", "assumed", "deleted"}
    assert not ledger.add("went", charge())


def test_jobs_are_counted_by_gang() -> None:
    ledger = Ledger(tree())
    for i in range(4):
        ledger.add(f"g{i}", charge("n3", gang="n3/g"))
    ledger.add("single", charge("n3", 0))
    assert ledger.books.used("b")[JOBS] == 2
    for i in range(3):
        ledger.remove(f"g{i}")
    assert ledger.books.used("b")[JOBS] == 2
    ledger.remove("g3")
    assert ledger.books.used("b")[JOBS] == 1


def test_nobody_requests_jobs() -> None:
    ledger = Ledger(tree())
    ledger.add("p", Charge("n3", {JOBS: 99}))
    assert ledger.books.used("b") == {JOBS: 1}


def test_a_pod_of_no_queue_is_counted_once_it_has_one() -> None:
    ledger = Ledger(tree())
    ledger.add("p", charge("elsewhere", 7))
    assert ledger.home("p") == ""
    ledger.rebase(tree(elsewhere="a2"))
    assert ledger.books.used("a2")[GPU] == 7


def test_a_namespace_moves_between_leaves() -> None:
    ledger = Ledger(tree())
    ledger.add("p", charge("n1", 7))
    ledger.rebase(tree(n1="b1"))
    assert (ledger.books.used("a"), ledger.books.used("b1")[GPU], ledger.home("p")) == ({}, 7, "b1")


def test_nonsense_changes_nothing() -> None:
    ledger = Ledger(tree())
    ledger.add("p", charge())
    with pytest.raises(ValueError, match="below 0"):
        ledger.add("p", charge(gpus=-1))
    assert ledger.books.used("a1")[GPU] == 1


def test_memory_of_removed_pods_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_ledger, "REMEMBERED", 3)
    ledger = Ledger(tree())
    for i in range(10):
        ledger.remove(f"p{i}")
    assert not ledger.add("p9", charge())
    assert ledger.add("p0", charge())


UIDS = st.sampled_from([f"p{i}" for i in range(6)])
CHARGES = st.builds(
    Charge,
    st.sampled_from(["n1", "n2", "n3", "none"]),
    st.dictionaries(st.sampled_from([GPU, "cpu", JOBS]), st.integers(0, 9), max_size=3),
    label=st.sampled_from(["", "", "a1", "b1", "a", "lost"]),
    gang=st.sampled_from(["", "g", "h"]),
    preemptible=st.booleans(),
    assumed=st.booleans(),
)


class Events(RuleBasedStateMachine):
    """Events in any order against a model that is only a dictionary; after each, the books are recomputed from it."""

    @initialize()
    def begin(self) -> None:
        self.tree = tree()
        self.ledger = Ledger(self.tree)
        self.model: dict[str, Charge] = {}
        self.gone: set[str] = set()

    @rule(uid=UIDS, what=CHARGES)
    def add(self, uid: str, what: Charge) -> None:
        self.ledger.add(uid, what)
        if uid not in self.gone:
            self.model[uid] = what

    @rule(uid=UIDS)
    def remove(self, uid: str) -> None:
        assert self.ledger.remove(uid) == (uid in self.model)
        self.model.pop(uid, None)
        self.gone.add(uid)

    @rule(uid=UIDS)
    def release(self, uid: str) -> None:
        self.ledger.release(uid)
        self.model.pop(uid, None)

    @rule(listed=st.dictionaries(UIDS, CHARGES, max_size=4))
    def replace(self, listed: dict[str, Charge]) -> None:
        self.ledger.replace(listed)
        dropped = {u for u, c in self.model.items() if u not in listed and not c.assumed}
        self.gone = (self.gone | dropped) - set(listed)
        self.model = {u: c for u, c in self.model.items() if u not in dropped} | listed

    @rule(home=st.sampled_from(["a1", "a2", "b1"]))
    def rebase(self, home: str) -> None:
        self.tree = tree(n1=home)
        self.ledger.rebase(self.tree)

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.charges == self.model
        books = Books(self.tree)
        jobs = set()
        for uid, what in self.model.items():
            leaf = self.tree.home(what.namespace, what.label).queue
            if leaf:
                books.book(leaf, {r: n for r, n in what.amounts.items() if r != JOBS}, preemptible=what.preemptible)
                jobs.add((leaf, what.gang or uid))
        for leaf, _ in jobs:
            books.book(leaf, {JOBS: 1})
        assert self.ledger.books.same(books)


Events.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEvents = Events.TestCase


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_events() -> None:
    run_state_machine_as_test(Events, settings=settings(max_examples=2500, stateful_step_count=40, deadline=None))


@given(
    st.lists(st.tuples(st.sampled_from(["a1", "a2", "b1"]), st.integers(0, 9)), max_size=12), st.randoms(use_true_random=False)
)
def test_booking_and_taking_back_in_any_order_ends_where_it_began(pods: list[tuple[str, int]], random: object) -> None:
    books = Books(tree())
    for leaf, gpus in pods:
        books.book(leaf, {GPU: gpus})
    books.copy().book("a1", {GPU: 99})  # a copy is a copy
    root = sum(n for _, n in pods)
    assert books.used(books.tree.root).get(GPU, 0) == root
    random.shuffle(pods)  # type: ignore[attr-defined]
    for leaf, gpus in pods:
        books.book(leaf, {GPU: gpus}, -1)
    assert books.same(Books(books.tree))
