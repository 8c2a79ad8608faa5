"""How long to wait before trying again, and how much trying is allowed. Pure: the caller says what time it is."""

from __future__ import annotations

from random import Random

FIRST = 0.8
LAST = 30.0
"""Seconds: client-go's reflector doubles from the one to the other."""
HEALTHY_AFTER = 120.0
"""Seconds without a failure after which the next failure counts as the first."""
LONGEST_DOUBLING = 64
"""Exponents above this overflow nothing, and change nothing either: every cap is far below."""


class Backoff:
    """Full jitter: uniform between nothing and a bound that doubles with each failure in a row."""

    def __init__(self, random: Random, first: float = FIRST, last: float = LAST, healthy_after: float = HEALTHY_AFTER) -> None:
        self._random = random
        self._first, self._last, self._healthy_after = first, last, healthy_after
        self._failed_at = float("-inf")
        self.failures = 0

    def healthy(self, now: float) -> bool:
        """Whether the next failure will count as the first."""
        return now - self._failed_at >= self._healthy_after

    def failed(self, now: float) -> float:
        """Seconds to wait after one more failure at `now`."""
        if self.healthy(now):
            self.failures = 0
        self._failed_at = now
        bound = min(self._last, self._first * 2.0 ** min(self.failures, LONGEST_DOUBLING))
        self.failures += 1
        return self._random.uniform(0, bound)


class TokenBucket:
    """`rate` a second on the long run, `burst` at once. Reservations are kept in order: a debt is allowed and waited for."""

    def __init__(self, rate: float, burst: int) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"a bucket of rate {rate} and burst {burst} never lets anything through")
        self._rate, self._burst = rate, float(burst)
        self._tokens, self._at = float(burst), float("-inf")

    def reserve(self, now: float) -> float:
        """Takes one token; seconds until it is there."""
        self._fill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def take(self, now: float) -> bool:
        """Takes one token if it is there."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now


class RetryBudget:
    """Retries may be a tenth of all calls, and ten more: a server that fails every call is not asked twice as often.

    `tokens` is between 0 and `RESERVE`; a first try earns a tenth of a retry.
    """

    RESERVE = 10.0
    EARNED = 0.1

    def __init__(self) -> None:
        self.tokens = self.RESERVE

    def called(self) -> None:
        self.tokens = min(self.RESERVE, self.tokens + self.EARNED)

    def take(self) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
