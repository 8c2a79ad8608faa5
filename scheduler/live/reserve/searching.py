"""Where a job that finds no room could start soonest if nobody else took what becomes free. Changes nothing when it returns.

Nodes are tried in the order of when they should be free (`ends`; unknown last) and of how little must end on them. The planner
is asked with the pods of the first few thought away, then of twice as many, until the job fits: so its affinity, ports, volumes
and cards are looked at as in any other decision.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.holds import stack
from forebay.scheduler.arrays.slots import capacity, slots
from forebay.scheduler.arrays.storage import NOWHERE, ClaimKey
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.gang import Gang
from forebay.scheduler.live.books import Books
from forebay.scheduler.live.preempting import PlannedRoom
from forebay.scheduler.live.reserve.ends import Ends
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request

MOST = 20_000
"""Pods that are thought away for one job, about: a larger one is held no place."""


@dataclass(frozen=True, slots=True)
class Going:
    """A pod that will end. `at` seconds of the epoch, inf for nobody knows when."""

    at: float
    uid: str


@dataclass(frozen=True, slots=True)
class Found:
    """By node: its `pods`, what they need [R], what is `going` to end there, `coming`: those of that which are counted on."""

    pods: Mapping[str, int]
    needs: Mapping[str, Ints]
    going: Mapping[str, tuple[Going, ...]]
    coming: Mapping[str, tuple[str, ...]]
    start: float
    """When all of it should be free; inf where nobody knows."""
    cards: bool
    claims: bool
    whole: bool


class Search:
    """For one job. `pod_of` gives a booked pod, None for one that is not known."""

    def __init__(self, books: Books, planner: Planner, pod_of: Callable[[str], Pod | None], ends: Ends) -> None:
        self._books, self._planner, self._pod_of, self._ends = books, planner, pod_of, ends

    def __call__(self, gang: Gang, now: float) -> Found | None:
        """Where the active reservations leave nodes free. None where it would not fit even then: it waits for something else."""
        going = self._going(gang.name, now)
        order = self._order(gang, going)
        wanted, at = max(gang.minimum, 1), 0
        count = self._first(gang, order, wanted)
        if not count:
            return None
        room = PlannedRoom(self._books, self._planner, gang)
        away = 0
        with self._books.thinking():
            while True:
                for row in order.rows[at:count]:
                    for one in going.get(row, ()):
                        self._books.think_away(one.uid)
                        away += 1
                places = room.places()
                if len(places) >= wanted:
                    break
                if count >= len(order.rows) or away > MOST:
                    return None
                at, count = count, min(2 * count, len(order.rows))
        return self._found(gang, places, going, now)

    def anew(self, found: Found, gang: str, now: float) -> Found:
        """The same place, with the ends of what runs there as they are known now."""
        pods, width = self._books.cluster.pods, len(self._books.cluster.columns)
        needs = {node: stack([amounts], width)[0] for node, amounts in found.needs.items()}
        going = dict[str, tuple[Going, ...]]()
        for node, there in found.going.items():
            left = [one.uid for one in there if one.uid in pods and pods[one.uid].node == node]
            going[node] = _in_order(self._will_end(uid, gang, now) or Going(math.inf, uid) for uid in left)
        return self._with_ends(replace(found, needs=needs), going, now)

    def _going(self, gang: str, now: float) -> dict[int, tuple[Going, ...]]:
        """By row, the first to end first. Pods of the gang itself wait for the rest of it."""
        found: dict[int, list[Going]] = {}
        for uid, record in self._books.cluster.pods.items():
            if record.row != NOWHERE and (one := self._will_end(uid, gang, now)) is not None:
                found.setdefault(record.row, []).append(one)
        return {row: _in_order(there) for row, there in found.items()}

    def _will_end(self, uid: str, gang: str, now: float) -> Going | None:
        """None for what does not end, or is not known."""
        pod, its = self._pod_of(uid), self._books.gang_of(uid)
        at = self._ends.of(pod, its, now) if pod is not None and (its != gang or not its) else None
        return None if at is None else Going(at, uid)

    def _order(self, gang: Gang, going: Mapping[int, tuple[Going, ...]]) -> _Order:
        cluster = self._books.cluster
        requests = list(dict.fromkeys(member.request for member in gang.members))
        after = copy.copy(cluster)
        after.allocatable = cluster.free.copy()  # `capacity` counts with this
        for row, there in going.items():
            for one in there:
                after.allocatable[row] += np.array(cluster.pods[one.uid].request.resources, np.int64)
        then: Ints = np.minimum.reduce([capacity(after, one) for one in requests])
        now: Ints = np.minimum.reduce([_places(cluster, one, then) for one in requests])
        for request in requests:
            if cluster.claims_of(request) and (allowed := cluster.allowed(request)) is not None:
                now = np.where(allowed, now, 0)  # where devices are free
        with cluster.claims.without(users_of(self._books, going.values())):
            for request in requests:
                allowed = cluster.allowed(request)
                if allowed is not None:
                    then = np.where(allowed, then, 0)
        for kept in cluster.holds.standing:  # what ends there ends for whoever holds it
            then[kept.rows] = 0
        eta: Floats = np.zeros(len(then))
        for row, there in going.items():
            if now[row] < then[row]:
                eta[row] = there[-1].at
        rows = np.flatnonzero(then > 0)
        lack = (then[rows] - np.minimum(now[rows], then[rows])) / then[rows]
        rows = rows[np.lexsort((rows, -then[rows], lack, eta[rows]))]
        return _Order(rows.tolist(), then[rows])

    @staticmethod
    def _first(gang: Gang, order: _Order, wanted: int) -> int:
        """How many nodes might do; 0 for none at all."""
        sums = np.cumsum(order.then)
        if len(sums) and sums[-1] >= wanted:
            return int(np.searchsorted(sums, wanted)) + 1
        return len(order.rows) if len({member.request for member in gang.members}) > 1 else 0

    def _found(self, gang: Gang, places: Mapping[str, str], going: Mapping[int, tuple[Going, ...]], now: float) -> Found:
        cluster = self._books.cluster
        requests = {member.pod: member.request for member in gang.members}
        needs: dict[str, Ints] = {}
        for pod, node in places.items():
            asked = np.array(requests[pod].resources, np.int64)
            needs[node] = needs[node] + asked if node in needs else asked
        cards = any(one.cards or one.devices is not None for one in requests.values())
        claims = any(cluster.claims_of(one) for one in requests.values())
        whole = any(cluster.coupled(one) for one in requests.values())
        there = {node: going.get(cluster.row_of[node], ()) for node in needs}
        return self._with_ends(Found(Counter(places.values()), needs, {}, {}, math.inf, cards, claims, whole), there, now)

    def _with_ends(self, found: Found, there: Mapping[str, tuple[Going, ...]], now: float) -> Found:
        """When it starts, and whose end is counted on, if `there` ends on its nodes."""
        needs, alone = found.needs, found.cards or found.claims
        start = max((self._free_at(node, needs[node], there[node], now, cards=alone) for node in needs), default=math.inf)
        coming = {node: tuple(self._counted(node, needs[node], there[node], start)) for node in needs}
        return replace(found, going=there, coming=coming, start=start)

    def _free_at(self, node: str, needs: Ints, there: tuple[Going, ...], now: float, *, cards: bool) -> float:
        cluster = self._books.cluster
        free, at = cluster.free[cluster.row_of[node]].copy(), now
        for one in there:
            if not cards and (free >= needs)[needs > 0].all():
                break
            free += np.array(cluster.pods[one.uid].request.resources, np.int64)
            at = one.at
        return at

    def _counted(self, node: str, needs: Ints, there: tuple[Going, ...], start: float) -> list[str]:
        """Those that end before it starts, and those without whose end it could not start at all."""
        cluster = self._books.cluster
        held = {one.uid: np.array(cluster.pods[one.uid].request.resources, np.int64) for one in there}
        empty = cluster.free[cluster.row_of[node]] + sum(held.values(), np.zeros(len(needs), np.int64))
        return [one.uid for one in there if one.at <= start < math.inf or ((empty - held[one.uid] < needs) & (needs > 0)).any()]


def _in_order(found: Iterable[Going | None]) -> tuple[Going, ...]:
    """The first to end first."""
    return tuple(sorted((one for one in found if one is not None), key=lambda one: (one.at, one.uid)))


def users_of(books: Books, going: Iterable[Iterable[Going]]) -> Counter[ClaimKey]:
    """How many of these pods use each claim on devices."""
    pods = books.cluster.pods
    there = [pods[one.uid].request for some in going for one in some if one.uid in pods]
    return Counter(key for request in there for key in books.cluster.claims_of(request))


def _places(cluster: Cluster, request: Request, then: Ints) -> Ints:
    """Slots [N] as things are. Of devices that are asked for by name only whether there are any: counting them takes seconds."""
    if request.devices is None:
        return slots(cluster, request, cluster.rows)
    return np.where(cluster.feasible(request, cluster.rows), then, 0)


@dataclass(frozen=True, slots=True)
class _Order:
    """Rows in the order in which they are tried, and how many of the job's pods each takes then."""

    rows: list[int]
    then: Ints
