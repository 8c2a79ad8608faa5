"""How many pods of one kind fit on each node, kept up to date row by row; and what it is worth to keep nodes whole for gangs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.devices.card import Part
from forebay.scheduler.pods.request import Request

TRIED = 64
"""The most slots that are looked for where pods ask for devices by name."""
MANY = 1_000_000
"""Slots of a request that asks for nothing."""


def slots(state: State, request: Request, rows: Ints) -> Ints:
    """int64[n]: how many pods with this request these rows would take, one after the other. Constraints are another matter."""
    if request.devices is not None:
        return _of_devices(state, request, rows)
    count = _of_resources(state, request, rows)
    if request.cards:
        usable = state.usable(request, rows)
        if request.cards == 1 and not request.whole:
            units = state.card_free[rows] // request.milli
            if request.memory:
                units = np.minimum(units, state.card_memory_free[rows] // request.memory)
            np.minimum(count, (units * usable).sum(axis=1), out=count)
        else:  # pods with several cards share none of them here, whole or not: fewer slots than there might be, never more
            np.minimum(count, usable.sum(axis=1) // request.cards, out=count)
    return np.where(state.feasible(request, rows), count, 0)


def _of_resources(state: State, request: Request, rows: Ints) -> Ints:
    """How many the amounts besides cards allow."""
    count = np.full(len(rows), MANY, np.int64)
    free = state.free if len(rows) == len(state) else state.free.take(rows, axis=0)  # rows are in order: so many are all
    for column, asked in enumerate(request.resources):
        if asked:
            np.minimum(count, free[:, column] // asked, out=count)
    return count


def _of_devices(state: State, request: Request, rows: Ints) -> Ints:
    """The same for devices that are asked for by name, at most TRIED."""
    ask, cards = request.devices, state.devices
    assert ask is not None
    count = np.zeros(len(rows), np.int64)
    if cards is None:
        return count
    fits = np.flatnonzero(state.feasible(request, rows))
    if cards.independent(ask):
        easy, fits = fits, fits[:0]
        if cards.whole_at_times(ask):  # there a share that takes a card whole may keep the next such share away
            apart = cards.apart[rows[easy]]
            easy, fits = easy[~apart], easy[apart]
        units = cards.units(ask, rows[easy]).sum(axis=1)
        count[easy] = np.minimum(np.minimum(_of_resources(state, request, rows[easy]), units), TRIED)
    count[fits] = _tried(state, request, rows[fits])
    return count


def _tried(state: State, request: Request, rows: Ints) -> Ints:
    """By putting pods there, and taking them away again: some ms a row."""
    count = np.zeros(len(rows), np.int64)
    for at, row in enumerate(rows.tolist()):
        there = list[tuple[tuple[int, ...], tuple[Part, ...]]]()
        while len(there) < TRIED and state.feasible(request, state.rows[row : row + 1])[0]:
            there.append(state.hold(row, request))
        for cards, parts in reversed(there):
            state.unhold(row, request, cards, parts)
        count[at] = len(there)
    return count


def capacity(state: State, request: Request, rows: Ints | None = None) -> Ints:
    """int64[n]: how many such pods these rows, all for None, take while nothing else runs."""
    empty = copy.copy(state)
    if request.devices is not None:  # its books cannot be emptied here: what such a pod is like stands for it
        empty.devices, request = None, replace(request, devices=None, memory=0)
    empty.free, empty.card_free, empty.card_memory_free = state.allocatable, state.card_milli, state.card_memory
    return slots(empty, request, state.rows if rows is None else rows)


class Slots:
    """`count` of every row by request (`slots`, or `capacity`), recomputed for rows that changed."""

    def __init__(self, state: State, count: Callable[[State, Request, Ints], Ints] = slots) -> None:
        self.state = state
        self._count = count
        self._kept: dict[Request, tuple[Ints, int]] = {}

    def of(self, request: Request) -> Ints:
        """int64[N]. Not to be changed."""
        kept = self._kept.get(request)
        if kept is None or len(kept[0]) != len(self.state):
            count = self._count(self.state, request, self.state.rows)
        else:
            count, seen = kept
            rows = self.state.changed_since(seen)
            if len(rows):
                count[rows] = self._count(self.state, request, rows)
        self._kept[request] = count, self.state.tick
        return count

    def keep(self, requests: Iterable[Request]) -> None:
        """Forget what is kept for all but these."""
        self._kept = {request: self._kept[request] for request in requests if request in self._kept}


class Shapes:
    """Which gang sizes usually come, and so how much of `f` free slots on a node is of use.

    V(f) = sum of weight(k) x k x floor(f / k)

    A gang too large for any node counts as parts that fill one. Old arrivals count less: by half after `HALF` of them.
    """

    HALF = 2000

    def __init__(self, most: int) -> None:
        """`most` pods go on the largest node."""
        self.most = max(most, 1)
        self.weight: Floats = np.zeros(self.most + 1)
        self._fade = 0.5 ** (1 / self.HALF)

    def observe(self, pods: int) -> None:
        """A gang arrived."""
        self.weight *= self._fade
        self.weight[min(pods, self.most)] += 1.0

    def worth(self) -> Floats:
        """V [most + 1], in slots; V(f) = f as long as nothing arrived."""
        free, total = np.arange(self.most + 1), self.weight.sum()
        if not total:
            return free.astype(np.float64)
        sizes = np.flatnonzero(self.weight)
        value: Floats = (self.weight[sizes] / total * sizes * (free[:, None] // sizes)).sum(axis=1)
        return value

    def loss(self, free: Ints, taken: Ints | int) -> Floats:
        """Slots [n] that become useless when `taken` of `free` are taken, beyond those; negative where a rest is used up."""
        if not self.weight.any():
            return np.zeros(len(free))  # every slot is worth itself
        worth = self.worth()
        free = np.minimum(free, self.most)
        left = np.maximum(free - taken, 0)
        result: Floats = worth[free] - worth[left] - np.minimum(taken, free)
        return result
