"""Which key is worked on next: de-duplicated, one worker a key, back-off by key, one rate for all retries. No clock, no thread.

The rules are client-go's. `dirty` keys need a pass; a key that is added while it is worked on stays dirty and is queued
again when its worker says done, so that two workers never hold one key and no change is lost. Delayed keys stand in a
heap, each key once, at its earliest time. A stopped queue takes nothing new; it hands out what is queued (drain) or
nothing, and is `finished` when the last worker is done.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from forebay.kube.pacing import TokenBucket

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.005
LONGEST_DELAY = 1000.0
"""Seconds after the first failure of a key, doubled by each further one, and the most it comes to."""
RETRIES = 10.0
BURST = 100
"""Retries a second over all keys, and how many at once."""


class Statistics(NamedTuple):
    """`added`: calls that made a key dirty; `merged`: calls that found it dirty already; `retried`: failures that were told."""

    queued: int
    processing: int
    delayed: int
    added: int
    merged: int
    retried: int
    handed_out: int


class WorkQueue(Generic[K]):
    """See the module. All times are of one monotonic clock, in seconds."""

    def __init__(
        self, rate: float = RETRIES, burst: int = BURST, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY
    ) -> None:
        self._order: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._count = 0
        self._failures: dict[K, int] = {}
        self._bucket = TokenBucket(rate, burst)
        self._first, self._longest = first, longest
        self._stopped = False
        self._added = self._merged = self._retried = self._handed_out = 0

    # --- adding ---

    def add(self, key: K) -> None:
        """The key needs a pass."""
        if self._stopped:
            return
        if key in self._dirty:
            self._merged += 1
            return
        self._added += 1
        self._dirty.add(key)
        if key not in self._processing:
            self._order.append(key)

    def add_after(self, key: K, delay: float, now: float) -> None:
        """The key needs a pass in `delay` seconds, unless it gets one sooner for which it was added so too."""
        if self._stopped:
            return
        if delay <= 0:
            self.add(key)
            return
        due = now + delay
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))

    def retry(self, key: K, now: float) -> float:
        """The key's pass failed: another one after its back-off, not before the common rate allows it. Says the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        own = min(self._longest, self._first * 2.0 ** min(failures, 64))
        delay = max(own, self._bucket.reserve(now))
        self._retried += 1
        self.add_after(key, delay, now)
        return delay

    def forget(self, key: K) -> None:
        """The key's pass went well: its next failure is its first."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures in a row."""
        return self._failures.get(key, 0)

    # --- working ---

    def get(self, now: float) -> K | None:
        """The next key to work on, or None for now. Its worker must say `done`."""
        self._ripen(now)
        if not self._order:
            return None
        key = self._order.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        self._handed_out += 1
        return key

    def done(self, key: K) -> None:
        """The worker has let go of the key. Raises KeyError when no worker holds it."""
        self._processing.remove(key)
        if key in self._dirty:
            self._order.append(key)

    def wake_at(self) -> float | None:
        """When a delayed key comes next; None: not until something is added."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # was put forward meanwhile
        return self._heap[0][0] if self._heap else None

    def _ripen(self, now: float) -> None:
        while (due := self.wake_at()) is not None and due <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            self.add(key)

    # --- the end ---

    def stop(self, *, drain: bool) -> None:
        """Takes nothing more. Delayed keys are dropped: whoever comes next lists everything anyway."""
        self._stopped = True
        self._heap.clear()
        self._due.clear()
        if not drain:
            self._order.clear()
            self._dirty.clear()

    @property
    def finished(self) -> bool:
        return self._stopped and not self._order and not self._processing

    def statistics(self) -> Statistics:
        return Statistics(
            queued=len(self._order),
            processing=len(self._processing),
            delayed=len(self._due),
            added=self._added,
            merged=self._merged,
            retried=self._retried,
            handed_out=self._handed_out,
        )
