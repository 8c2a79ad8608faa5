"""Small jobs may pass a large one that waits, as long as they do not delay it. Pure.

A job that is first in order and does not fit gets a reservation: what it needs, where, and when that should be free. Another may
start before it if it ends before that time, or if it takes only what the reservation leaves over (Lifka's EASY backfilling, 1995;
here for any number of reservations and any resources). A *place* is a node, a queue, or whatever has amounts that run out: a job
that waits for its queue's max is protected inside its queue just as one that waits for nodes is protected on them.

Run times are guesses and are often wrong, in both directions. Therefore the time promised to a job never moves later: if
running jobs overrun, new ones must still end before the first promise, and once that has passed nothing may start on what the
job needs. So it waits at most until the jobs that ran when the promise passed have ended, however long those that came after
would have run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from forebay.scheduler.quota.amounts import NOTHING, Amounts, show
from forebay.scheduler.quota.books import Books

Place = tuple[str, str]
"""`("node", name)` or `("queue", name)`."""
Load = Mapping[Place, Amounts]


@dataclass
class Reservation:
    """`spare`: what the places have over at the promised time once the job has what it needs; may shrink as others take of it."""

    job: str
    promise: float
    spare: dict[Place, dict[str, int]]

    def spares(self, end: float) -> bool:
        """Whether something that ends then is gone in time. Before a time that nobody knows, nothing is."""
        return end <= self.promise < math.inf


@dataclass(frozen=True)
class Passing:
    """Whether a job may start now, and if not, whom it would delay."""

    allowed: bool
    reason: str = ""


class Reservations:
    """The reservations of a scheduler, kept from pass to pass: promises outlive the pass that made them.

    In each pass call `begin`, then `reserve` for every job that is held a place, then ask `may_start` for the others.
    """

    def __init__(self) -> None:
        self._promises: dict[str, float] = {}
        self._now: dict[str, Reservation] = {}

    def begin(self, waiting: set[str]) -> None:
        """A new pass. Promises of jobs that no longer wait are forgotten."""
        self._promises = {job: at for job, at in self._promises.items() if job in waiting}
        self._now = {}

    def reserve(self, job: str, start: float, needs: Load, free: Load) -> Reservation:
        """Holds `needs` for a job that should be able to start at `start`, when `free` is free in those places.

        The promise is the earliest start that this job was ever told. `math.inf` where nobody can say: then only what is spare
        may go.
        """
        promise = min(start, self._promises.get(job, math.inf))
        self._promises[job] = promise
        spare = {p: {r: free.get(p, NOTHING).get(r, 0) - n for r, n in amounts.items() if n} for p, amounts in needs.items()}
        self._now[job] = Reservation(job, promise, spare)
        return self._now[job]

    def promise(self, job: str) -> float | None:
        """When a job was told it starts at the latest, as far as anybody knows; None if it has no reservation."""
        return self._promises.get(job)

    def may_start(self, job: str, load: Load, end: float) -> Passing:
        """Whether a job may take `load` now, if it is expected to end at `end` (`math.inf` for unknown). Changes nothing."""
        for reservation in self._now.values():
            if reservation.job == job or reservation.spares(end):
                continue
            for place, amounts in load.items():
                for resource, spare in reservation.spare.get(place, {}).items():
                    over = amounts.get(resource, 0) - spare
                    if over > 0 and amounts.get(resource, 0):
                        return Passing(False, _sentence(reservation, place, resource, over, end))
        return Passing(True)

    def started(self, job: str, load: Load, end: float) -> None:
        """A job has taken `load`: what lasts beyond a promise is no longer spare there. Ends the job's own reservation."""
        self._now.pop(job, None)
        self._promises.pop(job, None)
        for reservation in self._now.values():
            if reservation.spares(end):
                continue
            for place, amounts in load.items():
                spare = reservation.spare.get(place, {})
                for resource in spare.keys() & amounts.keys():
                    spare[resource] -= amounts[resource]


def _sentence(reservation: Reservation, place: Place, resource: str, over: int, end: float) -> str:
    when = "an unknown time" if math.isinf(reservation.promise) else f"{reservation.promise:.0f}"
    lasts = "nobody knows when it ends" if math.isinf(end) else f"it would end at {end:.0f}"
    kind, name = place
    return (
        f'{kind} "{name}" is held for "{reservation.job}" from {when}, and {lasts}: {show(resource, over)} {resource} too many; '
        f"give it a shorter expected run time, or wait until that job has started"
    )


def queue_needs(books: Books, leaf: str, request: Amounts) -> dict[Place, dict[str, int]]:
    """The places in the quota tree that a job needs: every queue above it that bounds something it asks for."""
    places: dict[Place, dict[str, int]] = {}
    for name in books.path(leaf) if leaf else ():
        bounded = {r: n for r, n in request.items() if n and r in books.tree.ceilings[name]}
        if bounded:
            places["queue", name] = bounded
    return places


@dataclass(frozen=True)
class Release:
    """What a running job gives back when it ends."""

    at: float
    load: Load


def expected_end(started: float, estimate: float | None, now: float) -> float:
    """When a running job should end. One that has overrun is taken to need as long again as it has run; unknown is never."""
    if estimate is None:
        return math.inf
    end = started + estimate
    return end if end > now else now + max(now - started, 1.0)


def earliest_start(now: float, releases: Sequence[Release], fits: Callable[[Sequence[Release]], bool]) -> float:
    """The first moment at which a job fits, if running jobs end as expected and nothing new starts; `math.inf` for never.

    `fits` gets the releases up to a moment, in order, and must not turn false when there are more; it is asked O(log n) times.
    """
    ordered = sorted(releases, key=lambda r: r.at)
    if fits([]):
        return now
    low, high = 0, len(ordered)  # fits(ordered[:low]) is false
    if not ordered or not fits(ordered):
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if fits(ordered[:middle]):
            high = middle
        else:
            low = middle
    return max(now, ordered[high - 1].at)
