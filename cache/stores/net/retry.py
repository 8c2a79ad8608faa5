"""Another try for what is worth one: `Unavailable` only, within one call's time, with full jitter, from a shared budget."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from forebay.cache.stores.base import Unavailable

T = TypeVar("T")


class Throttled(Unavailable):
    """The store asks for fewer requests (429, 503 SlowDown). `after` is its own wish in seconds, 0 when it has none."""

    def __init__(self, sentence: str, after: float = 0.0) -> None:
        super().__init__(sentence)
        self.after = after


class Policy(msgspec.Struct, frozen=True):
    tries: int = 4
    base: float = 0.1  # seconds
    cap: float = 2.0  # seconds


DEFAULT_POLICY = Policy()


def pause(policy: Policy, failures: int, after: float, left: float, luck: float) -> float | None:
    """Seconds to wait before the next try after `failures` of them, or None to give up.

    Full jitter: `luck` in [0, 1) of base * 2^n, capped, but no earlier than the store asked. Gives up when tries or time
    (`left` seconds of the call) are spent.
    """
    if failures >= policy.tries:
        return None
    wait = max(luck * min(policy.cap, policy.base * 2.0 ** (failures - 1)), after)
    return wait if wait < left else None


class Retrier:
    """Runs calls of one store. Thread-safe.

    The budget is a bucket that each retry draws one from and each success fills by a tenth: a store that fails for
    everybody sees at most a tenth more requests, not `tries` times as many.
    """

    def __init__(self, seconds: float, policy: Policy = DEFAULT_POLICY, burst: int = 50) -> None:
        self._seconds = seconds
        self._policy = policy
        self._full = self._tenths = burst * 10
        self._lock = threading.Lock()

    def run(self, call: Callable[[float], T]) -> T:
        """`call(deadline)` until it answers or trying again makes no sense; then its own error is raised."""
        deadline = time.monotonic() + self._seconds * 0.95  # so that the last error, too, is told within `seconds`
        failures = 0
        while True:
            try:
                result = call(deadline)
            except Unavailable as e:
                failures += 1
                after = e.after if isinstance(e, Throttled) else 0.0
                wait = pause(self._policy, failures, after, deadline - time.monotonic(), random.random())
                if wait is None or not self._draw():
                    raise
            else:
                if self._tenths < self._full:
                    with self._lock:
                        self._tenths = min(self._full, self._tenths + 1)
                return result
            time.sleep(wait)

    def _draw(self) -> bool:
        with self._lock:
            if self._tenths < 10:
                return False
            self._tenths -= 10
            return True
