"""The work queue by table and under any order of calls; its threads with real passes."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.kube.pacing import TokenBucket
from forebay.kube.workers import Again, Workers
from forebay.kube.workqueue import BURST, FIRST_DELAY, LONGEST_DELAY, WorkQueue


def test_keys_come_in_order_and_once() -> None:
    q = WorkQueue[str]()
    for key in ("a", "b", "a", "c", "b"):
        q.add(key)
    assert [q.get(0.0) for _ in range(4)] == ["a", "b", "c", None]
    assert (q.statistics().added, q.statistics().merged) == (3, 2)


def test_a_key_added_while_worked_on_waits_for_its_worker() -> None:
    q = WorkQueue[str]()
    q.add("a")
    assert q.get(0.0) == "a"
    q.add("a")
    assert q.get(0.0) is None
    q.done("a")
    assert q.get(0.0) == "a"
    q.done("a")
    assert q.get(0.0) is None
    with pytest.raises(KeyError):
        q.done("a")


def test_delayed_keys_come_at_their_earliest_time_once() -> None:
    q = WorkQueue[str]()
    q.add_after("a", 5.0, now=0.0)
    q.add_after("b", 1.0, now=0.0)
    q.add_after("a", 2.0, now=0.0)
    q.add_after("a", 9.0, now=0.0)
    assert q.wake_at() == 1.0
    assert q.get(0.9) is None
    assert q.get(1.0) == "b"
    assert q.wake_at() == 2.0
    assert q.get(2.0) == "a"
    q.done("a")
    assert q.wake_at() is None
    assert q.get(1e9) is None


def test_failures_double_the_delay_and_success_forgets_them() -> None:
    q = WorkQueue[str]()
    delays = [q.retry("a", float(n)) for n in range(30)]
    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    assert q.retry("b", 30.0) == FIRST_DELAY
    q.forget("a")
    assert q.retry("a", 60.0) == FIRST_DELAY


def test_all_retries_together_are_limited() -> None:
    q = WorkQueue[int]()
    delays = [q.retry(n, 0.0) for n in range(BURST + 50)]
    assert max(delays[:BURST]) == FIRST_DELAY
    assert delays[-1] == pytest.approx(50 / 10.0)


@pytest.mark.parametrize(("drain", "given"), [(True, ["a", "b"]), (False, [])])
def test_a_stopped_queue_takes_nothing_and_drains_if_asked(drain: bool, given: list[str]) -> None:
    q = WorkQueue[str]()
    q.add("x")
    assert q.get(0.0) == "x"
    q.add("a")
    q.add("b")
    q.add_after("c", 1.0, 0.0)
    q.stop(drain=drain)
    q.add("d")
    out = []
    while (key := q.get(100.0)) is not None:
        assert not q.finished
        out.append(key)
        q.done(key)
    assert out == given
    assert not q.finished
    q.done("x")
    assert q.finished


def test_a_bucket_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(ValueError, match="never lets"):
        TokenBucket(0, 1)


class AnyOrder(RuleBasedStateMachine):
    """Nothing asked for is lost, and no key is held twice."""

    keys = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.q = WorkQueue[str]()
        self.now = 0.0
        self.owed: set[str] = set()  # must be handed out yet
        self.later: dict[str, float] = {}
        self.held: list[str] = []

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.q.add(key)
        self.owed.add(key)

    @rule(key=keys, delay=st.integers(0, 3))
    def add_after(self, key: str, delay: int) -> None:
        self.q.add_after(key, delay, self.now)
        if delay:
            self.later[key] = min(self.later.get(key, 1e9), self.now + delay)
        else:
            self.owed.add(key)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def get(self) -> None:
        for key, due in list(self.later.items()):
            if due <= self.now:
                self.owed.add(key)
                del self.later[key]
        key = self.q.get(self.now)
        if key is None:
            assert self.owed <= set(self.held)
        else:
            assert key not in self.held
            assert key in self.owed
            self.owed.discard(key)
            self.held.append(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.held))
        self.held.remove(key)
        self.q.done(key)

    @invariant()
    def counts(self) -> None:
        assert self.q.statistics().processing == len(self.held)
        assert self.q.statistics().delayed <= 4


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# --- threads --------------------------------------------------------------------------------------------------------


def test_no_key_is_worked_on_twice_at_once_and_no_change_is_lost() -> None:
    wanted: Counter[str] = Counter()
    done: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    lock = threading.Lock()

    def reconcile(key: str) -> None:
        with lock:
            inside[key] += 1
            assert inside[key] == 1
            target = wanted[key]
        time.sleep(0.001)
        with lock:
            inside[key] -= 1
            done[key] = target

    workers = Workers("test", reconcile, count=4)
    workers.start()
    for n in range(400):
        key = f"k{n % 7}"
        with lock:
            wanted[key] += 1
        workers.add(key)
    assert workers.stop(drain=True, timeout=60)
    assert done == wanted


def test_a_pass_that_raises_comes_back_and_one_that_asks_for_it_too() -> None:
    calls: list[str] = []
    seen = threading.Event()

    def reconcile(key: str) -> Again | None:
        calls.append(key)
        if len(calls) == 1:
            raise RuntimeError("first")
        if len(calls) == 2:
            return Again(0.01)
        seen.set()
        return None

    workers = Workers("test", reconcile, count=1)
    workers.start()
    workers.add("a")
    assert seen.wait(60)
    assert workers.stop(timeout=60)
    assert calls == ["a"] * 3
    assert workers.statistics().retried == 1


def test_stopping_without_draining_waits_for_passes_under_way_only() -> None:
    begun, go = threading.Event(), threading.Event()
    calls: list[str] = []

    def reconcile(key: str) -> None:
        calls.append(key)
        begun.set()
        assert go.wait(60)

    workers = Workers("test", reconcile, count=1)
    workers.start()
    workers.add("a")
    assert begun.wait(60)
    workers.add("b")
    assert not workers.stop(drain=False, timeout=0.05)
    go.set()
    assert workers.stop(drain=False, timeout=60)
    assert calls == ["a"]
