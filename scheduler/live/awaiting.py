"""What a gang waits for although it would fit: room near its data, a load that runs, its turn at the store. Pure.

The rule is `locality/waiting.py`'s, as in the simulation. There loads are always made; on a cluster others make them, or nobody
does, so only what is seen counts:

- a load, where a node's hint says when it ends, and it brings all that the node lacks sooner than starting now would cost;
- one that was asked for a moment ago, while loads that were asked for are seen to grow;
- a turn at the store, while two datasets are seen to grow from there.

All of it counts from when the gang's first pod was made, costs at most as much as going, and ends at `longest_wait_seconds`.
Hints that lie or fall silent end it sooner: a load that is late, or whose node is silent, counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from forebay.api.quantity import format_bytes
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.live.config import Locality
from forebay.scheduler.locality.cost import Data
from forebay.scheduler.locality.placing import Choice
from forebay.scheduler.locality.waiting import STALL, turn_comes, wait_left

SHOWN = 3
NEAR = 1.0
"""Seconds that nobody waits for."""
SAME = 10.0
"""Seconds by which an expected time may move before it is said anew: each time is a write for every pod of the gang."""
LAST = 253_402_300_799.0
"""The last second of year 9999, where dates end: hints may speak of more."""
FORGET = 60.0
"""Seconds after its end until a wait that nobody looked at again is forgotten: its gang is gone."""


@dataclass(frozen=True, slots=True)
class Line:
    """Who is loaded from the store now; worked out anew every few seconds (`reserve/prefetching.py`).

    loading: datasets that were asked for there and are seen to grow; grown: when one of them last did; next: datasets that only
    the store has, that some worker can load and none was asked to; asked: nodes that were asked for a dataset a moment ago, as
    long as anything that was asked for is seen to grow; silent: seconds that nothing may be seen to grow until that ends.
    """

    loading: tuple[str, ...] = ()
    grown: float = -math.inf
    next: frozenset[str] = frozenset()
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    silent: float = STALL

    def turn(self, dataset: str, waited: float, now: float, longest: float) -> bool:
        """Whether a gang with this dataset waits for its turn."""
        return dataset in self.next and turn_comes(len(self.loading), now - self.grown, waited, longest, self.silent)


@dataclass(frozen=True, slots=True)
class Awaited:
    """What one gang waits for, on which nodes. Times are seconds of the epoch: `until` when it goes at the latest, `ends` when a
    load there should end (0 for none)."""

    what: Literal["room", "load", "turn"]
    names: tuple[str, ...]
    until: float
    ends: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Case:
    """A gang that fits: by `choice`, on nodes with `free` slots [N]. `turn`: whether others are loaded from the store first."""

    gang: str
    dataset: str
    data: Data
    choice: Choice
    free: Ints
    waited: float
    now: float
    turn: bool


class Awaiting:
    """Of all gangs that wait so. `names` of the rows."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names
        self.of: dict[str, Awaited] = {}
        self._before: Awaited | None = None

    def trying(self, gang: str) -> None:
        """The gang is tried anew: what it waited for is over, unless `look` finds the same."""
        self._before = self.of.pop(gang, None)

    def look(self, case: Case, settings: Locality, best: Callable[[Data], Choice | None]) -> tuple[float, str] | None:
        """Seconds that it waits on at the most and a sentence, or None: it goes.

        `best`: the cheapest places for it, were the cluster empty, with the data as given.
        """
        before, self._before = self._before, None
        cost = case.choice.data_seconds
        if not settings.wait or cost <= NEAR:
            return None
        if case.turn:
            left = wait_left(cost, case.waited, longest=settings.longest_wait_seconds)
            found = self._turn(case, left)
        else:
            running = np.isfinite(case.data.eta)
            there = best(case.data.loaded(running) if running.any() else case.data)
            if there is None:
                return None
            left = wait_left(cost, case.waited, better=there.data_seconds, longest=settings.longest_wait_seconds)
            found = self._near(case, there, left)
        if not left:
            return None
        if before is not None and _same(before, found):
            found = before
        self.of[case.gang] = found
        return left, found.sentence

    def forget(self, now: float) -> None:
        """Gangs that went while they waited."""
        self.of = {gang: one for gang, one in self.of.items() if now - one.until < FORGET}

    # --- what is said ---

    def _turn(self, case: Case, left: float) -> Awaited:
        until = case.now + left
        sentence = (
            f"only the store has its data {case.dataset}, and others' data is loaded from there first; reading it now costs "
            f"{case.choice.data_seconds:.0f} s, so it waits for its turn until {_time(until)} at the latest"
        )
        return Awaited("turn", (), until, 0.0, sentence)

    def _near(self, case: Case, there: Choice, left: float) -> Awaited:
        data, cost = case.data, case.choice.data_seconds
        loads = [row for row in there.rows if np.isfinite(data.eta[row])]
        ends = max((float(data.eta[row]) for row in loads), default=0.0)
        full = any(case.free[row] < count for row, count in zip(there.rows, there.counts, strict=True))
        if loads and not full:
            names, left = self._named(loads), min(left, ends)
            sentence = (
                f"its data {case.dataset} is loaded on {_some(names)}, {ends:.0f} s left; starting now costs {cost:.0f} s, so it "
                f"waits for that until {_time(case.now + left)} at the latest"
            )
            return Awaited("load", names, case.now + left, case.now + ends, sentence)
        shown = _some([self._holds(row, data, loading=row in loads) for row in there.rows])
        sentence = (
            f"its data {case.dataset} is on {shown} of {format_bytes(data.size)}, where there is no room now; starting elsewhere "
            f"costs {cost - there.data_seconds:.0f} s, so it waits for room there until {_time(case.now + left)} at the latest"
        )
        return Awaited("room", self._named(there.rows), case.now + left, case.now + ends if loads else 0.0, sentence)

    def _holds(self, row: int, data: Data, *, loading: bool) -> str:
        more = f", and loaded there, {data.eta[row]:.0f} s left" if loading else ""
        return f"{self._names()[row]} ({format_bytes(int(data.held[row]))}{more})"

    def _named(self, rows: Sequence[int]) -> tuple[str, ...]:
        names = self._names()
        return tuple(names[row] for row in rows)


def _same(old: Awaited, new: Awaited) -> bool:
    """Whether what was said of a wait still holds. That of a load gets shorter by itself: less of it is left."""
    if (old.what, old.names) != (new.what, new.names) or abs(old.ends - new.ends) > SAME:
        return False
    return new.until - old.until <= SAME and (new.what == "load" or old.until - new.until <= SAME)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(round(min(at, LAST)), UTC):%Y-%m-%dT%H:%M:%SZ}"
