"""Which Kubernetes Events are written for what happens: repeats become one series, floods are held back. No clock, no call.

A *series* is what is said about one object with one type, reason, action and text. Its first saying is created, its second
patches `series.count` at once, further ones at each power of two, when 30 minutes have gone by since the last write (the
server forgets an Event after an hour), and once more when it has been quiet for six minutes, which ends it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

from forebay.kube.objects import Reference
from forebay.kube.pacing import TokenBucket

QUIET = 360.0
REFRESH = 1800.0
"""Seconds, client-go's: after which a series has ended, and after which one that goes on is written again."""
BURST = 25
RATE = 1 / 300
"""New series of one object: so many at once, then one in five minutes, as client-go."""
KEPT = 4096
"""Series and objects that are remembered; the oldest go first."""
NOTE = 1024
WORD = 128
"""Bytes that the server takes in a note, and in a reason or an action."""


class Note(NamedTuple):
    """Something worth telling a person. `reason` and `action` are CamelCase words; `note` is a sentence with its remedy."""

    regarding: Reference
    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str


class Create(NamedTuple):
    """A new Event called `name` in `namespace`."""

    namespace: str
    name: str
    note: Note


class Patch(NamedTuple):
    """The series of Event `name` has come to `total`."""

    namespace: str
    name: str
    total: int
    note: Note


Instruction = Create | Patch


class Statistics(NamedTuple):
    """`held_back`: sayings that were not written, for their object had too many new ones."""

    told: int
    created: int
    patched: int
    held_back: int


class _Series:
    def __init__(self, namespace: str, name: str, now: float) -> None:
        self.namespace, self.name = namespace, name
        self.count = self.written = 1
        self.said_at = self.written_at = now


class EventLog:
    """See the module. `origin`: a part of names that no other run has (nanoseconds of the start, in hexadecimal)."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._number = 0
        self._series: OrderedDict[Note, _Series] = OrderedDict()
        self._buckets: OrderedDict[Reference, TokenBucket] = OrderedDict()
        self._told = self._created = self._patched = self._held_back = 0

    def say(self, note: Note, now: float) -> list[Instruction]:
        """What to write now. Texts above the server's limits are shortened, with an ellipsis."""
        note = _fitted(note)
        self._told += 1
        series = self._series.get(note)
        if series is not None and now - series.said_at < QUIET:
            self._series.move_to_end(note)
            series.count += 1
            series.said_at = now
            if series.count & (series.count - 1) == 0 or now - series.written_at >= REFRESH:
                return [self._patch(note, series, now)]
            return []
        return [*self._finish(note, now), *self._begin(note, now)]

    def tick(self, now: float, *, ending: bool = False) -> list[Instruction]:
        """What series that have gone quiet still owe; of all, when the process is `ending`. Call it about once a minute."""
        quiet = [note for note, series in self._series.items() if ending or now - series.said_at >= QUIET]
        return [instruction for note in quiet for instruction in self._finish(note, now)]

    def forgotten(self, note: Note, now: float) -> list[Instruction]:
        """The server has no such Event any more (it keeps them for an hour): begin anew."""
        self._series.pop(note, None)
        return self._begin(note, now)

    def statistics(self) -> Statistics:
        return Statistics(self._told, self._created, self._patched, self._held_back)

    def _begin(self, note: Note, now: float) -> list[Instruction]:
        bucket = self._buckets.get(note.regarding)
        if bucket is None:
            bucket = self._buckets[note.regarding] = TokenBucket(RATE, BURST)
        self._buckets.move_to_end(note.regarding)
        if len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        if not bucket.take(now):
            self._held_back += 1
            return []
        self._number += 1
        tail = f".{self._origin}{self._number:x}"
        name = note.regarding.name[: 253 - len(tail)].rstrip(".-") + tail
        series = self._series[note] = _Series(note.regarding.namespace or "default", name, now)
        self._created += 1
        out: list[Instruction] = [Create(series.namespace, name, note)]
        if len(self._series) > KEPT:
            oldest, last = self._series.popitem(last=False)
            if last.count > last.written:
                out.append(self._patch(oldest, last, now))
        return out

    def _finish(self, note: Note, now: float) -> list[Instruction]:
        series = self._series.pop(note, None)
        return [self._patch(note, series, now)] if series is not None and series.count > series.written else []

    def _patch(self, note: Note, series: _Series, now: float) -> Patch:
        series.written, series.written_at = series.count, now
        self._patched += 1
        return Patch(series.namespace, series.name, series.count, note)


def _fitted(note: Note) -> Note:
    return note._replace(reason=_cut(note.reason, WORD), action=_cut(note.action, WORD), note=_cut(note.note, NOTE))


def _cut(text: str, most: int) -> str:
    data = text.encode()
    return text if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "..."
