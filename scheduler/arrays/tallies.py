"""How many pods of a kind are in each place of a topology, kept up to date by what changed.

`Kind` counts pods by row: those that a selector means, or those that hold an anti-affinity term. `Tally` sums one up by the
values of a node label, over the rows that count. Placing a pod appends to the logs of the kinds it belongs to; a tally reads
what is new when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from forebay.scheduler.arrays.labels import LabelColumns, Numbers
from forebay.scheduler.arrays.types import Bools, Ints

LOG = 1 << 14
"""Changes kept of one kind. A tally that missed more sums up anew, which costs about as much."""


class Kind:
    """Pods by row. `rows` has no zeros."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.log: list[tuple[int, int]] = []
        self.start = 0  # of the log, counted from the beginning

    @property
    def end(self) -> int:
        return self.start + len(self.log)

    def add(self, row: int, change: int) -> None:
        """`change` more pods on the row."""
        there = self.rows.get(row, 0) + change
        assert there >= 0, f"row {row} would have {there} pods of a kind"
        if there:
            self.rows[row] = there
        else:
            self.rows.pop(row, None)
        self.log.append((row, change))
        if len(self.log) > LOG:
            self.start += LOG // 2
            del self.log[: LOG // 2]

    def forget(self) -> None:
        """Empty, and whoever follows it has to sum up anew."""
        self.start = self.end + 1
        self.rows.clear()
        self.log.clear()


class Counted(NamedTuple):
    """Some of the rows: a number that changes when they do, and bool[N]."""

    version: Callable[[], int]
    rows: Callable[[], Bools]


class Tally:
    """Pods of a kind by value of a label: `sums[number]`, with a last entry that is 0 and answers for rows without the label.

    `kind` None counts nobody. `counted` gives the rows that count, None for all. `live[number]` says how many rows that count
    have the value.
    """

    def __init__(self, kind: Kind | None, key: str, labels: LabelColumns, counted: Counted | None = None) -> None:
        self._kind, self._key, self._labels, self._counted = kind, key, labels, counted
        self._basis: tuple[int, int, int] | None = None
        self._seen = 0
        self._number: Numbers = np.empty(0, np.int32)
        self.sums: Ints = np.zeros(1, np.int64)
        self.live: Ints = np.zeros(1, np.int64)

    @property
    def place(self) -> Numbers:
        """int32[N]: the row's entry in `sums`; -1, the last, for a row without the label."""
        return self._labels.column(self._key)

    def refresh(self) -> None:
        """Makes `sums` and `live` true as of now."""
        column = self._labels.column(self._key)
        basis = (self._labels.version, 0 if self._counted is None else self._counted.version(), len(column))
        if basis != self._basis or (self._kind is not None and self._kind.start > self._seen):
            self._sum_up(column, None if self._counted is None else self._counted.rows())
            self._basis = basis
        elif self._kind is not None and self._seen < self._kind.end:
            for row, change in self._kind.log[self._seen - self._kind.start :]:
                self.sums[self._number[row]] += change
            self.sums[-1] = 0
        if self._kind is not None:
            self._seen = self._kind.end

    def _sum_up(self, column: Numbers, counted: Bools | None) -> None:
        self._number = column if counted is None else np.where(counted, column, np.int32(-1))
        size = self._labels.count(self._key) + 1
        self.live = np.bincount(self._number + 1, minlength=size)[1:]
        self.live = np.append(self.live, 0)
        self.sums = np.zeros(size, np.int64)
        if self._kind is not None and self._kind.rows:
            count = len(self._kind.rows)
            rows = np.fromiter(self._kind.rows.keys(), np.int64, count)
            np.add.at(self.sums, self._number[rows], np.fromiter(self._kind.rows.values(), np.int64, count))
        self.sums[-1] = 0
