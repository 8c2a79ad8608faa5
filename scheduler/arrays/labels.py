"""Labels of nodes as arrays: one column of value numbers for each key that somebody asks about.

A node of a real cluster has twenty labels and more, of which selectors and topologies read a handful: a column is made when its
key is first asked for.

Invariants: `column(key)[row]` is the number of the value in `values(key)`, ABSENT where the node lacks the label or the row is
no node; numbers are never given anew, so what is computed by value stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.pods.selectors import Requirement, satisfied

ABSENT = -1
NAME = "metadata.name (field)"
"""The key under which the name of a node is found: not a label's, which cannot contain a space."""

Numbers = npt.NDArray[np.int32]


class _Column(NamedTuple):
    numbers: Numbers
    known: dict[str, int]


class LabelColumns:
    """See the module. `version` grows whenever an entry of a column changes."""

    def __init__(self) -> None:
        self._labels: list[Mapping[str, str] | None] = []
        self._columns: dict[str, _Column] = {}
        self.version = 0

    def grow(self, count: int) -> None:
        """Room for rows below `count`."""
        more = count - len(self._labels)
        self._labels += [None] * more
        for key, column in self._columns.items():
            self._columns[key] = column._replace(numbers=np.append(column.numbers, np.full(more, ABSENT, np.int32)))

    def set(self, row: int, name: str, labels: Mapping[str, str] | None) -> None:
        """What the row's labels are now; None for a row that is no node any more."""
        kept = None if labels is None else {**labels, NAME: name}
        self._labels[row] = kept
        for key, column in self._columns.items():
            number = self._number(column, kept.get(key) if kept else None)
            if column.numbers[row] != number:
                column.numbers[row] = number
                self.version += 1

    def get(self, row: int) -> Mapping[str, str]:
        """Labels of a row, its name under NAME; {} for a row that is no node."""
        return self._labels[row] or {}

    def column(self, key: str) -> Numbers:
        """int32[N]: the number of each row's value."""
        return self._column(key).numbers

    def values(self, key: str) -> list[str]:
        """Values by number; also those that no node has any more."""
        return list(self._column(key).known)

    def count(self, key: str) -> int:
        """How many numbers there are."""
        return len(self._column(key).known)

    def _column(self, key: str) -> _Column:
        kept = self._columns.get(key)
        if kept is None:
            kept = self._columns[key] = _Column(np.full(len(self._labels), ABSENT, np.int32), {})
            for row, labels in enumerate(self._labels):
                if labels:
                    kept.numbers[row] = self._number(kept, labels.get(key))
        return kept

    @staticmethod
    def _number(column: _Column, value: str | None) -> int:
        return ABSENT if value is None else column.known.setdefault(value, len(column.known))

    def satisfy_all(self, selector: Iterable[Requirement], rows: Ints) -> Bools:
        """bool[n]: rows that meet every requirement; all of them where there is none."""
        passed = np.ones(len(rows), np.bool_)
        for requirement in selector:
            passed &= self.satisfy(requirement, rows)
        return passed

    def satisfy(self, requirement: Requirement, rows: Ints) -> Bools:
        """bool[n]: rows whose label meets the requirement. A row that is no node looks like one without labels."""
        column = self._column(requirement.key)
        table: Bools
        if requirement.operator in ("In", "NotIn"):  # by look-up: a claim on one node by name must not visit 5,000 names
            table = np.full(len(column.known) + 1, requirement.operator == "NotIn", np.bool_)
            for value in requirement.values:
                if value in column.known:
                    table[column.known[value]] = requirement.operator == "In"
        else:  # the last entry answers for ABSENT
            table = np.array([satisfied(requirement, value) for value in (*column.known, None)], np.bool_)
        chosen: Bools = table[column.numbers[rows]]
        return chosen
