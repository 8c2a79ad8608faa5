"""Which node should load which dataset while gangs wait for it. Orders are advice: nothing depends on them.

Three reasons, each with its bound:
1. A gang started where its data is not: its node loads what the gang would read piecemeal anyway.
2. Nobody holds a dataset that gangs wait for. The store's link is given to STORE_LOADS at a time, the one with the longest waits
   for its bytes first (Smith's rule): one after the other, half of them are done before all would be done side by side.
3. More pods wait for a dataset than its nodes have slots: another node, the one with least to do for its own datasets, copies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from forebay.scheduler.arrays.types import Bools, Floats, Ints

MAIN = 0.5
"""Share of a gang's pods from which its node loads the whole dataset."""
WARM = 0.9
"""Share of a dataset from which a node counts as holding it."""
STORE_LOADS = 2
"""Loads from the store at a time: two, so that the link does not idle between them."""
COPIES = 8
"""Loads from other nodes at a time, of those nobody's start has asked for."""
CROWD = 1.0
"""Times the slots of a dataset's nodes that must wait for it before another node copies it."""
LARGE = 1.0
"""Share of a node's cache above which a dataset is not loaded ahead: it would push out most else."""
TIMEOUT = 1800.0
"""Seconds after which a load is no longer asked for: the hint that it is needed may be a lie."""

T = TypeVar("T")


def _moved(book: Mapping[tuple[int, int], T], rows: Mapping[int, int]) -> dict[tuple[int, int], T]:
    return {(rows[row], column): value for (row, column), value in book.items() if row in rows}


@dataclass(slots=True)
class Loads:
    """Loads that are asked for: (row, column) -> since when, and whether a gang that started there asked."""

    since: dict[tuple[int, int], float] = field(default_factory=dict)
    started: dict[tuple[int, int], bool] = field(default_factory=dict)
    seen: dict[tuple[int, int], float] = field(default_factory=dict)
    """Share of the dataset that the node was last seen with."""
    grown: float = -np.inf
    """When a load from the store was asked for or last seen to grow."""

    def ask(self, row: int, column: int, now: float, *, started: bool) -> None:
        if (row, column) not in self.since:
            self.since[row, column], self.grown = now, now
        self.started[row, column] = started or self.started.get((row, column), False)

    def drop(self, one: tuple[int, int]) -> None:
        del self.since[one], self.started[one]
        self.seen.pop(one, None)

    def move(self, rows: Mapping[int, int]) -> None:
        """Nodes have other rows now, old to new; those without one are gone."""
        self.since = _moved(self.since, rows)
        self.started = _moved(self.started, rows)
        self.seen = _moved(self.seen, rows)

    def rows(self, column: int) -> list[int]:
        """Nodes that load a dataset."""
        return [row for row, which in self.since if which == column]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the choice of orders looks at. N nodes, D datasets.

    ratio [N, D]: share of each dataset that each node holds; far [D]: whether the store alone has it; size [D]; waits, pods [D]:
    seconds that gangs have waited for it, and their pods; free [N]: whether it has slots; loadable [D]; slots: of a node; able
    [N, D]: whether the node can load it at all, None for everywhere.
    """

    now: float
    ratio: Floats
    far: Bools
    size: Ints
    waits: Floats
    pods: Ints
    free: Bools
    loadable: Bools
    slots: int
    able: Bools | None = None

    def can(self, row: int, column: int) -> bool:
        """Whether the node can load the dataset."""
        return self.able is None or bool(self.able[row, column])


def review(loads: Loads, see: Outlook, running: Bools) -> None:
    """Forget loads that are done, that nobody waits for or runs with (`running` [D]), and those that take too long."""
    for one in list(loads.since):
        needed = see.pods[one[1]] > 0 or running[one[1]]
        share = float(see.ratio[one])
        if see.far[one[1]] and share > loads.seen.get(one, 0.0):
            loads.grown = see.now
        loads.seen[one] = share
        if share >= 0.99 or not needed or see.now - loads.since[one] > TIMEOUT:
            loads.drop(one)


def loadable(size: Ints, capacity: int) -> Bools:
    """bool[D]: datasets that are worth loading as a whole."""
    return (size > 0) & (not capacity or size <= LARGE * capacity)


def from_store(loads: Loads, see: Outlook) -> None:
    """Ask for loads from the store up to the bound."""
    active = len({column for _, column in loads.since if see.far[column]})
    loading = {column for _, column in loads.since}
    if active >= STORE_LOADS:
        return
    missing = np.maximum(see.size * (1 - see.ratio.max(axis=0, initial=0.0)), 1.0)
    urgency = np.where(see.far & (see.pods > 0), (see.waits + see.pods) / missing, -1.0)
    for column in np.argsort(-urgency, kind="stable").tolist():
        if active >= STORE_LOADS or urgency[column] <= 0:
            return
        if column in loading or not see.loadable[column]:
            continue
        row = _target(loads, see, column)
        if row is not None:
            loads.ask(row, column, see.now, started=False)
            active += 1


def copies(loads: Loads, see: Outlook) -> None:
    """Ask for copies of datasets that more wait for than their nodes have slots."""
    active = sum(not started for one, started in loads.started.items() if not see.far[one[1]])
    if active >= COPIES or not len(see.pods):
        return
    nodes = (see.ratio >= WARM).sum(axis=0)
    nowhere = nodes == 0
    for one in loads.since:
        nodes[one[1]] += see.ratio[one] < WARM
    crowd = np.where(see.far | nowhere, 0.0, see.pods / np.maximum(nodes * see.slots, 1))
    for column in np.argsort(-crowd, kind="stable").tolist():
        if active >= COPIES or crowd[column] <= CROWD:
            return
        row = _target(loads, see, column) if see.loadable[column] else None
        if row is not None:
            loads.ask(row, column, see.now, started=False)
            active += 1


def _target(loads: Loads, see: Outlook, column: int) -> int | None:
    """The node that should load it: loads nothing else, has free slots, holds most of it, has least waiting for what it holds.

    None where every node holds it or loads something.
    """
    warm = see.ratio >= WARM
    nodes = np.maximum(warm.sum(axis=0), 1)
    pressure = (warm * (see.pods / nodes)).sum(axis=1)
    able = ~warm[:, column]
    if see.able is not None:
        able &= see.able[:, column]
    able[[row for row, _ in loads.since]] = False
    order = np.lexsort((np.arange(len(pressure)), pressure, -see.ratio[:, column].round(1), ~see.free, ~able))
    return int(order[0]) if len(order) and able[order[0]] else None
