"""What people are told in Events: findings once, and when a dataset begins or ceases to serve. Conditions have the rest."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from forebay.kube.eventlog import Note
from forebay.kube.objects import Reference
from forebay.runtimes.engine import Finding, Object

AGAIN = 1800.0
"""Seconds after which what still holds is said again, should a pass come by: the server forgets an Event after an hour."""
REMEMBERED = 20_000
ACTION = "Reconcile"


class Teller:
    """Thread-safe. `say` is a Recorder's; `clock` is monotonic seconds."""

    def __init__(self, say: Callable[[Note], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def findings(self, obj: Object, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.warn(obj, finding.reason, finding.message)

    def warn(self, obj: Object, reason: str, message: str) -> None:
        """A warning, unless it was said of this object not long ago."""
        at, now = (obj["metadata"].get("uid", ""), reason, message), self._clock()
        with self._lock:
            last = self._said.get(at)
            if last is not None and now - last < AGAIN:
                return
            self._said[at] = now
            self._said.move_to_end(at)
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        self._say(Note(reference(obj), "Warning", reason, ACTION, message))

    def serving(self, obj: Object, reason: str, message: str, *, was: bool, is_: bool) -> None:
        """A dataset begins or ceases to serve. `was` is what its status says, so a restart tells nothing twice."""
        if was != is_:
            self._say(Note(reference(obj), "Normal" if is_ else "Warning", reason, ACTION, message))

    def ended(self, obj: Object, reason: str, message: str, *, well: bool) -> None:
        """A data operation has ended."""
        self._say(Note(reference(obj), "Normal" if well else "Warning", reason, ACTION, message))


def reference(obj: Object) -> Reference:
    meta = obj["metadata"]
    return Reference(obj["apiVersion"], obj["kind"], meta["name"], meta.get("namespace", ""), meta.get("uid", ""))
