"""A state whose nodes, cards and columns come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from forebay.scheduler.arrays.state import NO_CARD, Card, State
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.devices.arrays import Cards
from forebay.scheduler.devices.card import ANY, Device, Rules, Use
from forebay.scheduler.pods.request import FULL, Request

ROOM = 64
"""Rows of a new cluster; doubled when they are used up."""
LEAST = np.iinfo(np.int64).min
"""Less than any node has free."""


class Rows(State):
    """Rows without a node offer nothing. `alive[row]` says which have one; a row that was given up is used again."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__([], columns)
        self.names: list[str] = []
        self.alive: Bools = np.zeros(0, np.bool_)
        self._spare: list[int] = []
        self._least: dict[tuple[int, ...], Ints] = {}  # by what is asked: what must be free of each column

    @property
    def nodes(self) -> Ints:
        present: Ints = np.flatnonzero(self.alive)
        return present

    def look(self, row: int) -> bytes:
        return super().look(row) if self.alive[row] else b""

    def feasible(self, request: Request, rows: Ints) -> Bools:
        """Only columns that are asked for are compared: a node may have less than nothing free of another."""
        least = self._least.get(request.resources)
        if least is None:
            wanted = self._wanted(request)
            least = self._least[request.resources] = np.where(wanted, wanted, LEAST)
        ok: Bools = np.logical_and.reduce(self.free.take(rows, axis=0) >= least, axis=1)
        ok &= self.alive[rows]
        return self._with_cards(request, rows, ok)

    def forget_asked(self) -> None:
        """What is kept by what pods ask; it is worked out anew for who still does."""
        self._limits.clear()
        self._least.clear()
        if self.devices is not None:
            self.devices.forget_asked()

    # --- rows ---

    def take_row(self, name: str) -> int:
        """A row for a node that is new."""
        if not self._spare:
            self._add_rows(max(ROOM, len(self)))
        row = self._spare.pop()
        self.names[row] = name
        self.roster += 1
        self.row_of[name] = row
        self.alive[row] = True
        return row

    def drop_row(self, row: int) -> None:
        """The node is gone, and so is everything that was on it."""
        del self.row_of[self.names[row]]
        self.names[row] = ""
        self.roster += 1
        self.alive[row] = False
        for array in (self.allocatable, self.free, self.card_milli, self.card_free, self.card_memory, self.card_memory_free):
            array[row] = 0
        self.card_model[row] = NO_CARD
        if self.devices is not None:
            self.devices.load(row, (), ANY, {})
        self.shapes[row] = 0
        self._spare.append(row)
        self.touch(row)

    def _add_rows(self, more: int) -> None:
        count = len(self)
        self.names += [""] * more
        self.roster += 1
        self._every = np.arange(count + more)
        self.stamp = np.append(self.stamp, np.zeros(more, np.int64))
        self.alive = np.append(self.alive, np.zeros(more, np.bool_))
        for name in ("allocatable", "free", "card_milli", "card_free", "card_memory", "card_memory_free", "shapes"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, old.shape[1]), np.int64)]))
        self.card_model = np.concatenate([self.card_model, np.full((more, self.card_model.shape[1]), NO_CARD, np.int16)])
        if self.devices is not None:
            self.devices.grow(count + more, self.card_model.shape[1])
        self._spare += range(count + more - 1, count - 1, -1)

    # --- what a row offers ---

    def offer(self, row: int, amounts: Sequence[int]) -> bool:
        """What the node has by column; whether that is new. What its pods took stays taken."""
        now = np.array(amounts, np.int64)
        change = now - self.allocatable[row]
        if not change.any():
            return False
        self.allocatable[row] = now
        self.free[row] += change
        return True

    def equip(self, row: int, cards: Sequence[Card]) -> bool:
        """The node's cards by index; whether they are new. What is in use of a card stays in use.

        Not for nodes whose cards are set by `set_devices`: they keep those.
        """
        if self.devices is not None and self.devices.present[row]:
            return False
        if len(cards) > self.card_model.shape[1]:
            self._add_places(len(cards))
        model = np.full(self.card_model.shape[1], NO_CARD, np.int16)
        milli, memory = np.zeros(len(model), np.int64), np.zeros(len(model), np.int64)
        for place, card in enumerate(cards):
            model[place], milli[place], memory[place] = self._model(card.model), FULL, card.memory
        if (model == self.card_model[row]).all() and (memory == self.card_memory[row]).all():
            return False
        self.card_free[row] += milli - self.card_milli[row]
        self.card_memory_free[row] += memory - self.card_memory[row]
        self.card_model[row], self.card_milli[row], self.card_memory[row] = model, milli, memory
        return True

    def set_devices(self, row: int, devices: Sequence[Device], rules: Rules, used: Mapping[str, Use]) -> None:
        """As in `State`; arrays grow for more cards, and for models that are new."""
        if len(devices) > self.card_model.shape[1]:
            self._add_places(len(devices))
        if self.devices is None:
            self.devices = Cards([()] * len(self), [ANY] * len(self), self.card_model.shape[1])
        for device in devices:
            self._model(device.model)
        super().set_devices(row, devices, rules, used)

    def _model(self, name: str) -> int:
        if name not in self._model_of:
            self._model_of[name] = len(self.models)
            self.models.append(name)
        return self._model_of[name]

    def _add_places(self, places: int) -> None:
        more = places - self.card_model.shape[1]
        for name in ("card_milli", "card_free", "card_memory", "card_memory_free"):
            setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more))))
        self.card_model = np.pad(self.card_model, ((0, 0), (0, more)), constant_values=NO_CARD)
        if self.devices is not None:
            self.devices.grow(len(self), places)

    def add_columns(self, names: Iterable[str]) -> None:
        """Columns in which every row has nothing yet. Requests of fewer columns are refused from now on."""
        more = tuple(names)
        self.columns = (*self.columns, *more)
        self.allocatable = np.pad(self.allocatable, ((0, 0), (0, len(more))))
        self.free = np.pad(self.free, ((0, 0), (0, len(more))))
        self._limits.clear()
        self._least.clear()
