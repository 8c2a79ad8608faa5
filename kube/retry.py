"""Whether a call that failed is made again, and when. Pure: the facts of one try in, a pause or None out."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

TRIES = 5
"""Of one call. Its deadline and the common budget usually end it sooner."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds: full jitter below a bound that doubles."""


class Tried(NamedTuple):
    """One try that failed. `code` 0: no answer; `sent`: then, whether it may have been carried out all the same.

    `repeatable`: doing it twice is doing it once (GET, apply, merge patch, delete; not create). `busy_is_final`: a 429
    is the answer (an eviction that a disruption budget holds back), not a wish for patience.
    """

    tries: int
    code: int
    retry_after: float | None
    sent: bool
    repeatable: bool
    busy_is_final: bool = False


def pause(tried: Tried, left: float, random: Random) -> float | None:
    """Seconds to wait before the next try, or None when the failure is the caller's. `left`: seconds to the deadline."""
    if tried.tries >= TRIES or not _may_repeat(tried):
        return None
    wait = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (tried.tries - 1)))
    if tried.retry_after is not None:
        wait += tried.retry_after
    return wait if wait < left else None


def _may_repeat(tried: Tried) -> bool:
    if tried.code == 0:
        return tried.repeatable or not tried.sent
    if tried.code == 401:  # the token was rotated: the next try reads it again
        return tried.tries == 1
    if tried.code == 429:
        return not tried.busy_is_final
    if tried.code >= 500:  # with Retry-After the server says that it did nothing yet
        return tried.repeatable or tried.retry_after is not None
    return False
