"""How long an unavailable store is asked again, and when its readers are told. Pure."""

from __future__ import annotations

import random

from forebay.cache.fetch.motion import Fetching, Health

PATIENCE = 30.0
"""Seconds from the first failure during which an unavailable store is asked again for the same bytes."""
LONG_TRY, LONG_TRIES = 5.0, 2
"""A try that failed after this long has eaten the store's own deadline: two of them and the reader hears of it."""
RETRY_FIRST, RETRY_MOST = 0.1, 4.0
BUDGET_MOST, BUDGET_PER_FETCH = 64.0, 0.2
"""Retries are paid from a budget that grows with success: a store in trouble is not asked six times as much."""
DOWN_AFTER, DOWN_FOR = 4, 3.0
"""After so many failures in a row with patience spent, a mount refuses at once for some seconds and hangs no more readers."""


class Patience:
    """Retries of all fetches of a worker: one budget, one source of jitter."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._budget = BUDGET_MOST

    def failed(self, f: Fetching, health: Health, lasted: float, now: float) -> bool:
        """A try of `f` failed after `lasted` seconds: whether there is to be another."""
        f.tries += 1
        f.failing_since = f.failing_since or now
        f.long_tries += lasted >= LONG_TRY
        health.failing_since = health.failing_since or now
        if now - health.failing_since >= PATIENCE:
            return False  # the store has been silent to everybody for as long: one try each tells when it is back
        if self._budget < 1 or f.long_tries >= LONG_TRIES or now - f.failing_since >= PATIENCE:
            return False
        self._budget -= 1
        return True

    def delay(self, f: Fetching) -> float:
        """Seconds until the next try."""
        return min(RETRY_FIRST * 2.0 ** (f.tries - 1), RETRY_MOST) * self._rng.uniform(0.5, 1.5)

    def given_up(self, health: Health, message: str, now: float) -> None:
        """A fetch is given up: a store that fails on and on refuses at once for a while."""
        health.failures += 1
        if health.failures >= DOWN_AFTER or now - health.failing_since >= PATIENCE:
            health.down_until, health.message = now + DOWN_FOR, message

    def succeeded(self, health: Health) -> None:
        """Bytes came."""
        health.failures, health.down_until, health.failing_since = 0, 0.0, 0.0
        self._budget = min(self._budget + BUDGET_PER_FETCH, BUDGET_MOST)
