"""When another try is made, and when not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, Unavailable
from forebay.cache.stores.net.retry import Policy, Retrier, Throttled, pause


@given(st.integers(1, 10), st.floats(0, 100), st.floats(-1, 20), st.floats(0, 1, exclude_max=True))
def test_pause_is_bounded_by_cap_time_and_tries(failures: int, after: float, left: float, luck: float) -> None:
    policy = Policy()
    wait = pause(policy, failures, after, left, luck)
    if wait is not None:
        assert failures < policy.tries
        assert after <= wait < left
        assert wait <= max(policy.cap, after)


@pytest.mark.parametrize(
    ("failures", "after", "left", "luck", "wait"),
    [
        (1, 0, 9, 0.5, 0.05),
        (2, 0, 9, 0.5, 0.1),
        (3, 0, 9, 0.5, 0.2),
        (4, 0, 9, 0.5, None),
        (1, 3, 9, 0.5, 3),
        (1, 3, 2, 0.5, None),
    ],
)
def test_pause(failures: int, after: float, left: float, luck: float, wait: float | None) -> None:
    assert pause(Policy(), failures, after, left, luck) == wait


class Flaky:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, deadline: float) -> str:
        assert deadline > time.monotonic()
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


QUICK = Policy(tries=4, base=0.001, cap=0.002)


def test_unavailable_is_tried_again() -> None:
    call = Flaky(Unavailable("a"), Throttled("b"), Unavailable("c"))
    assert Retrier(5, QUICK).run(call) == "answer"
    assert call.calls == 4


def test_the_last_error_is_told() -> None:
    call = Flaky(*(Unavailable(f"e{n}") for n in range(9)))
    with pytest.raises(Unavailable, match="e3"):
        Retrier(5, QUICK).run(call)
    assert call.calls == 4


@pytest.mark.parametrize("error", [NotFound("x"), Changed("x"), Denied("x"), BadReply("x")])
def test_everything_else_is_final(error: Exception) -> None:
    call = Flaky(error)
    with pytest.raises(type(error)):
        Retrier(5, QUICK).run(call)
    assert call.calls == 1


def test_the_budget_is_shared() -> None:
    retrier = Retrier(5, QUICK, burst=5)
    calls = 0
    for _ in range(20):
        call = Flaky(*(Unavailable("x") for _ in range(9)))
        with pytest.raises(Unavailable):
            retrier.run(call)
        calls += call.calls
    assert calls == 20 + 5
    for _ in range(10):
        retrier.run(Flaky())
    call = Flaky(Unavailable("x"))
    assert retrier.run(call) == "answer"  # ten successes bought one more try
    with pytest.raises(Unavailable):
        retrier.run(Flaky(Unavailable("x")))


def test_a_wish_for_a_longer_pause_than_there_is_time_is_told_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(Throttled):
        Retrier(5, QUICK).run(Flaky(Throttled("x", after=60)))
    assert time.monotonic() - started < 30
