"""Which nodes a gang gets: the set with the fewest seconds in total, taken in one transaction.

Candidates are each node that takes the whole gang, and two ways to spread it: warmest nodes first, and as few nodes as possible.
Cost of a set: seconds until its data is near (`locality`), plus PRICE seconds for each slot that it makes useless for the gangs
that usually come (`slots.Shapes`), plus the seconds by which its nodes are worse than those that its pods prefer
(`preferences/worth.py`), on average of its pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.slots import Shapes
from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.devices.card import Part
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.gang import Gang
from forebay.scheduler.locality.cost import Data, Links, gang_seconds, node_seconds
from forebay.scheduler.plan import Placement, Plan
from forebay.scheduler.pods.request import Request

PRICE = 20.0
"""Seconds that a useless slot costs."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Pods by row, in the order of preference, and what that costs: data alone, and all; `wasted` of it by what is preferred."""

    rows: tuple[int, ...]
    counts: tuple[int, ...]
    data_seconds: float
    seconds: float
    wasted: float = 0.0


def choose(pods: int, free: Ints, data: Data, links: Links, shapes: Shapes, *, wasted: Floats | None = None) -> Choice | None:
    """The cheapest way to place `pods` on nodes with `free` slots [N]; None where they do not fit. Ties: fuller, lower rows.

    `wasted`: seconds [N], 0 or more, by which each node is worse than what is preferred.
    """
    if int(free.sum()) < pods:
        return None
    best = _whole(pods, free, data, links=links, shapes=shapes, wasted=wasted)
    if pods > 1 and (best is None or best.data_seconds + best.wasted > 1.0):
        there = np.flatnonzero(free > 0)
        orders = [np.lexsort((-free[there], -data.held[there])), np.lexsort((-data.held[there], -free[there]))]
        if wasted is not None:
            orders.append(np.lexsort((-free[there], -data.held[there], wasted[there])))
        for order in orders:
            spread = _spread(pods, free, there[order], data=data, links=links, shapes=shapes, wasted=wasted)
            if best is None or spread.seconds < best.seconds:
                best = spread
    return best


def _whole(pods: int, free: Ints, data: Data, *, links: Links, shapes: Shapes, wasted: Floats | None) -> Choice | None:
    """The best single node for all of them. Nodes of which nothing is known cost the same: they are looked at only where that is
    not more than the best of the others costs."""
    fits = free >= pods
    near, found = data.known, list[tuple[float, int, int, float]]()
    near = near[fits[near]]
    if len(near):
        found.append(_cheapest(pods, near, node_seconds(1.0, data.on(near), links), free=free, shapes=shapes, wasted=wasted))
    fits[near] = False
    far = fits.nonzero()[0]
    if len(far):
        seconds = node_seconds(1.0, data.on(far[:1]), links)
        if not found or float(seconds[0]) <= found[0][0]:
            found.append(_cheapest(pods, far, seconds, free=free, shapes=shapes, wasted=wasted))
    if not found:
        return None
    total, _, row, alone = min(found)
    return Choice((row,), (pods,), alone, total, 0.0 if wasted is None else float(wasted[row]))


def _cheapest(
    pods: int, rows: Ints, near: Floats, *, free: Ints, shapes: Shapes, wasted: Floats | None
) -> tuple[float, int, int, float]:
    """Of these rows the one that costs least, then has least free, then comes first: cost in all, free slots, row, and what it
    costs (`near` [n] or [1]) until the data is there."""
    room = free[rows]
    total = near + PRICE * np.maximum(shapes.loss(room, pods), 0.0)
    if wasted is not None:
        total = total + wasted[rows]
    least = (total == total.min()).nonzero()[0]
    at = int(least[room[least].argmin()])
    return float(total[at]), int(room[at]), int(rows[at]), float(near[at if len(near) > 1 else 0])


def _spread(pods: int, free: Ints, rows: Ints, *, data: Data, links: Links, shapes: Shapes, wasted: Floats | None) -> Choice:
    """The first of these rows, each as full as it gets."""
    before = np.cumsum(free[rows]) - free[rows]
    counts = np.minimum(free[rows], pods - before)
    rows, counts = rows[counts > 0], counts[counts > 0]
    near = gang_seconds(counts, pods, data.on(rows), links)
    total = near + PRICE * float(np.maximum(shapes.loss(free[rows], counts), 0.0).sum())
    worse = 0.0 if wasted is None else float((wasted[rows] * counts).sum() / pods)
    return Choice(tuple(rows.tolist()), tuple(counts.tolist()), near, total + worse, worse)


def _seat(state: State, request: Request, row: int) -> tuple[tuple[int, ...], tuple[Part, ...]] | None:
    """The cards one pod gets on the row, and what its containers get of devices; None where it may not or does not fit."""
    allowed = state.allowed(request)  # anew for each pod: affinity and spread count those that were placed before
    if (allowed is not None and not allowed[row]) or not state.feasible(request, state.rows[row : row + 1])[0]:
        return None
    if request.devices is None:
        return state.cards_for(request, row), ()
    assert state.devices is not None  # the row is feasible
    parts = state.devices.grant(request.devices, row)
    return None if isinstance(parts, Refusal) else (state.devices.places(row, parts), parts)


def take(state: State, gang: Gang, rows: Sequence[int], counts: Sequence[int]) -> Plan | None:
    """Place the gang's members, in their order, `counts` on each row: all of them, or None and nothing is held."""
    where = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    if len(where) != len(gang.members):
        raise ValueError(f"gang {gang.name}: {len(where)} places are given for {len(gang.members)} pods")
    placements = list[Placement]()
    with Transaction(state) as transaction:
        for member, row in zip(gang.members, where, strict=True):
            seat = _seat(state, member.request, row)
            if seat is None:
                return None
            transaction.place(row, member.request, *seat)
            placements.append(Placement(member.pod, state.names[row], *seat))
        transaction.commit()
    return Plan(gang.name, tuple(placements))
