"""Which nodes are in equal state: they share a number, and what is rated of one holds for all of them.

Thousands of nodes of a cluster are often a few dozen states, and a node that fills up passes through states in which another was
before. So what depends on a row's state alone is computed once a number, whoever has it.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Ints

NEVER = -1
"""A tick before the first."""
MOST = 2
"""Numbers kept for each row: states that no row is in may come back, but not all of them for ever."""
LEAST = 4096
"""Numbers kept however few rows there are."""


class Looks:
    """`of[row]` is the number of the row's state as of the last `refresh`; numbers are below `count`.

    `version` grows when numbers are given anew: number k is what `kept[k]` was in the version before, unless `kept` is None.
    """

    def __init__(self, state: State) -> None:
        self.of: Ints = np.zeros(0, np.int64)
        self.version = 0
        self.kept: Ints | None = None
        self._state = state
        self._numbers: dict[bytes, int] = {}
        self._seen = NEVER
        self._form: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self._numbers)

    def refresh(self) -> None:
        """Numbers of the rows as they are now."""
        state = self._state
        form = (len(state), state.free.shape[1], state.card_free.shape[1])
        if self._seen == state.tick and self._form == form:
            return
        if form != self._form:  # more rows, columns or places: no earlier state is equal to one of now
            self._form, self._numbers, self._seen = form, {}, NEVER
            self.of = np.zeros(len(state), np.int64)
            self.version, self.kept = self.version + 1, None
        rows = state.rows if self._seen == NEVER else state.changed_since(self._seen)
        self._seen = state.tick
        numbers = self._numbers
        for row in rows.tolist():
            self.of[row] = numbers.setdefault(state.look(row), len(numbers))
        if len(numbers) > max(MOST * len(state), LEAST):
            self._forget()

    def samples(self) -> tuple[Ints, Ints]:
        """Numbers that some row has, ascending, and such a row of each."""
        row_of = np.full(self.count, NEVER)
        row_of[self.of] = np.arange(len(self.of))
        there = np.flatnonzero(row_of != NEVER)
        return there, row_of[there]

    def _forget(self) -> None:
        """Numbers that no row has; the others close up, in their order."""
        there, rows = self.samples()
        now = np.full(self.count, NEVER)
        now[there] = np.arange(len(there))
        self.of = now[self.of]
        self._numbers = {self._state.look(row): number for number, row in enumerate(rows.tolist())}
        self.version, self.kept = self.version + 1, there
