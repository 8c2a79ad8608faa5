"""When numbers alone are worth a write: bytes and counters move all the time, and each write of one costs all who watch.

What a status says in words (phase, conditions, mounts) is written at once. Where only its numbers differ, large steps are written
every 10 s at most and small ones once a minute. Kept in memory: a new start writes once more than it had to, and nothing is lost.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from forebay.api.hints import steps
from forebay.controller.comparing import same_status
from forebay.controller.writing import key_of
from forebay.kube.objects import Key
from forebay.runtimes.engine import Object

LARGE, SMALL = 10.0, 60.0
"""Seconds between two writes of numbers alone."""
KEPT = 50_000
NUMBERS = frozenset({"measured", "cacheStates", "ufsTotal", "fileNum"})


def large_step(live: Object, wanted: Object) -> bool:
    """Whether one of the two says of sizes what the other does not, by a large step."""
    old, new = live.get("measured"), wanted.get("measured")
    if not isinstance(old, dict) or not isinstance(new, dict) or bool(old.get("listed")) != bool(new.get("listed")):
        return True
    size = max(_int(old, "totalBytes"), _int(new, "totalBytes"))
    moved = max(abs(_int(old, name) - _int(new, name)) for name in ("totalBytes", "cachedBytes"))
    return steps.large(moved, size)


def _int(measured: Object, name: str) -> int:
    value = measured.get(name, 0)
    return value if isinstance(value, int) else 0


def only_numbers(live: Any, wanted: Object) -> bool:
    """Whether two statuses differ in nothing else. The order of conditions says nothing."""
    if not isinstance(live, dict):
        return False
    return same_status(_words(live), _words(wanted))


def _words(status: Object) -> Object:
    return {name: value for name, value in status.items() if name not in NUMBERS}


class Pace:
    """`clock` is steady, in seconds. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: OrderedDict[tuple[str, Key], float] = OrderedDict()

    def wait(self, obj: Object, status: msgspec.Struct) -> float:
        """Seconds until the status of `obj`, as the copies have it, may become this one; 0 for now, which is noted."""
        live, wanted = obj.get("status"), json.loads(msgspec.json.encode(status))
        if same_status(live, wanted):
            return 0.0
        at, now = (obj["kind"], key_of(obj)), self._clock()
        with self._lock:
            if only_numbers(live, wanted) and (before := self._written.get(at)) is not None:
                left = before + (LARGE if large_step(live or {}, wanted) else SMALL) - now
                if left > 0:
                    return left
            self._written[at] = now
            self._written.move_to_end(at)
            if len(self._written) > KEPT:
                self._written.popitem(last=False)
        return 0.0
