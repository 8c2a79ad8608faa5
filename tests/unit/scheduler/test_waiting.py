"""The queue and its rule: who may pass, who is overdue, when to go cold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.decision import Ask
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.locality.waiting import PASSES, STALL, TURN, Waiting, may_go, turn_comes, wait_left
from forebay.scheduler.pods.request import Request

CARD = Request((), 1, 1000)


def ask(number: int, pods: int = 1, since: float = 0.0) -> Ask:
    return Ask(Gang(f"g{number}", [Member(f"g{number}-{i}", CARD) for i in range(pods)], pods), "ns/d", since)


@pytest.mark.parametrize(
    ("cost", "waited", "goes"), [(0, 0, True), (10, 9.9, False), (10, 10, True), (10, 1e9, True), (float("inf"), 1e9, False)]
)
def test_wait_or_go(cost: float, waited: float, goes: bool) -> None:
    assert may_go(cost, waited) is goes


@pytest.mark.parametrize(
    ("cost", "better", "longest", "waited", "left"),
    [
        (80.0, 0.0, float("inf"), 0.0, 80.0),
        (80.0, 0.0, float("inf"), 79.0, 1.0),
        (80.0, 30.0, float("inf"), 40.0, 10.0),  # what waiting cannot better is not waited for
        (80.0, 80.0, float("inf"), 0.0, 0.0),
        (80.0, 90.0, float("inf"), 0.0, 0.0),
        (3.0, 0.0, 600.0, 0.0, 3.0),  # never as long as is set, where going costs less
        (9000.0, 0.0, 600.0, 0.0, 600.0),
        (9000.0, 0.0, 600.0, 600.0, 0.0),
        (80.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_how_long_it_still_waits(cost: float, better: float, longest: float, waited: float, left: float) -> None:
    assert wait_left(cost, waited, better=better, longest=longest) == left


@pytest.mark.parametrize(
    ("loading", "still", "waited", "comes"),
    [
        (2, 0.0, 0.0, True),
        (1, 0.0, 0.0, False),  # the store has room for one more
        (2, STALL, 0.0, True),
        (2, STALL + 1, 0.0, False),
        (2, float("inf"), 0.0, False),  # nothing was ever seen to grow
        (2, 0.0, TURN, True),
        (2, 0.0, TURN + 1, False),
    ],
)
def test_a_turn_at_the_store(loading: int, still: float, waited: float, comes: bool) -> None:
    assert turn_comes(loading, still, waited) is comes
    assert not turn_comes(loading, still, waited + 10.0, 9.0)


def test_a_gang_is_overdue_when_more_than_its_share_passed() -> None:
    queue = Waiting()
    first = queue.add(ask(0), 0)
    for number in range(1, 30):
        entry = queue.add(ask(number, 4), 0)
        assert queue.overdue(8) == ([first] if queue.passed(first) > PASSES * 8 else [])
        queue.remove(entry)
    assert queue.passed(first) == 29 * 4
    assert queue.overdue(8) == [first]


def test_one_that_is_withdrawn_passes_nobody() -> None:
    queue = Waiting()
    first, second = queue.add(ask(0), 0), queue.add(ask(1), 0)
    queue.remove(second, started=False)
    assert queue.passed(first) == 0


def test_a_name_is_queued_once() -> None:
    queue = Waiting()
    queue.add(ask(0), 0)
    with pytest.raises(ValueError, match="g0 waits already"):
        queue.add(ask(0), 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-1, 3), st.booleans(), st.integers(0, 30)), min_size=1, max_size=40))
def test_the_books_of_the_queue(steps: list[tuple[int, int, bool, int]]) -> None:
    queue, model = Waiting(), dict[int, tuple[int, int, float, int]]()  # number -> pods, column, since, passed
    for number, (pods, column, leaves, which) in enumerate(steps):
        since = number / 3
        queue.add(ask(number, pods, since), column)
        model[number] = pods, column, since, 0
        if leaves:
            gone = sorted(model)[which % len(model)]
            entry = queue.find(f"g{gone}")
            assert entry is not None
            queue.remove(entry)
            lost = model.pop(gone)
            model = {n: (p, c, s, q + lost[0] if n < gone else q) for n, (p, c, s, q) in model.items()}
        assert [entry.number for entry in queue] == sorted(model)
        assert [queue.passed(entry) for entry in queue] == [model[n][3] for n in sorted(model)]
        passed = [queue.passed(entry) for entry in queue]
        assert passed == sorted(passed, reverse=True)  # so that the overdue are a prefix
        for at in range(4):
            mine = [(n, p, s) for n, (p, c, s, _) in model.items() if c == at]
            assert queue.pods_of.get(at, 0) == sum(p for _, p, _ in mine)
            assert queue.gangs_of.get(at, 0) == len(mine)
            assert {queue.first(kind) and queue.first(kind).ask.gang.name for kind in queue.kinds(at)} == {  # type: ignore[union-attr]
                f"g{min(n for n, q, _ in mine if q == p)}" for p in {p for _, p, _ in mine}
            }
        waits = [sum(100.0 - s for _, c, s, _ in model.values() if c == at) for at in range(4)]
        assert np.allclose(queue.waits(100.0, 4), waits)
        assert len(queue.requests) == bool(model)
