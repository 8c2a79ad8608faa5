"""The cluster as arrays: what each node has, what of it is free, card by card.

One row is one node. Rows stand in tie-break order: of two equally good nodes the one with the lower row wins.

Invariants, kept by every method and relied on by everything that reads the arrays:
- 0 <= free <= allocatable, and 0 <= card_free <= card_milli (0 for a card that does not exist), memory alike;
- a card that a whole request holds has card_free 0;
- `stamp[row]` grows with every change of a row, so a reader that remembers a tick finds the rows that changed since;
- place and release are exact inverses: integers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forebay.scheduler.arrays import Bools, Ints, Shorts
from forebay.scheduler.request import FULL, Request

NO_CARD = -1
"""Model index of a place in the card arrays where the node has no card."""


class Overcommit(ValueError):
    """A placement or a release that the row cannot carry. The arrays are unchanged."""


@dataclass(frozen=True, slots=True)
class Card:
    """One device of a node. `memory` is in the unit that requests use, 0 where memory is not accounted."""

    model: str
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """What one node offers: `resources` by column name (a column that is missing counts 0), and its cards by index."""

    name: str
    resources: Mapping[str, int]
    cards: tuple[Card, ...] = field(default=())


class State:
    """Arrays of N nodes, R resource columns, C places for cards, M models, K = C + 2 card shapes.

    allocatable, free      int64[N, R]
    card_model             int16[N, C]   index into `models`, NO_CARD where there is none
    card_milli, card_free  int64[N, C]   milli of a card, 1000 for one that exists and is healthy
    card_memory, card_memory_free        int64[N, C]
    shapes                 int64[N, K]   pods on the node: without a card, with shares, with 1, 2, ... C whole cards
    stamp                  int64[N]      tick of the row's last change
    """

    def __init__(self, nodes: Sequence[Node], columns: Sequence[str]) -> None:
        if len(set(columns)) != len(columns):
            raise ValueError(f"resource columns are named twice: {', '.join(columns)}")
        count, places = len(nodes), max((len(node.cards) for node in nodes), default=0)
        self.columns = tuple(columns)
        self.names = tuple(node.name for node in nodes)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        if len(self.row_of) != count:
            raise ValueError("two nodes have the same name: rows are found by name")
        self.models: list[str] = sorted({card.model for node in nodes for card in node.cards})
        self._model_of = {name: index for index, name in enumerate(self.models)}
        self.allocatable: Ints = np.zeros((count, len(columns)), np.int64)
        self.card_model: Shorts = np.full((count, places), NO_CARD, np.int16)
        self.card_milli: Ints = np.zeros((count, places), np.int64)
        self.card_memory: Ints = np.zeros((count, places), np.int64)
        self.shapes: Ints = np.zeros((count, places + 2), np.int64)
        self.stamp: Ints = np.zeros(count, np.int64)
        self.tick = 0
        for row, node in enumerate(nodes):
            self._describe(row, node)
        self.free: Ints = self.allocatable.copy()
        self.card_free: Ints = self.card_milli.copy()
        self.card_memory_free: Ints = self.card_memory.copy()
        self._every = np.arange(count)
        self._limits: dict[tuple[int, ...], Ints] = {}

    def _describe(self, row: int, node: Node) -> None:
        unknown = set(node.resources) - set(self.columns)
        if unknown:
            raise ValueError(f"node {node.name} offers {', '.join(sorted(unknown))}, for which there is no column")
        self.allocatable[row] = [node.resources.get(column, 0) for column in self.columns]
        if (self.allocatable[row] < 0).any():
            raise ValueError(f"node {node.name} offers a negative amount of a resource")
        for place, card in enumerate(node.cards):
            self.card_model[row, place] = self._model_of[card.model]
            self.card_milli[row, place] = FULL
            self.card_memory[row, place] = card.memory

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> Ints:
        """All rows, in order. Not to be changed."""
        return self._every

    def model_indexes(self, names: Iterable[str]) -> tuple[int, ...]:
        """Indexes of the named models, sorted; names that no node has are left out."""
        return tuple(sorted({self._model_of[name] for name in names if name in self._model_of}))

    def changed_since(self, tick: int) -> Ints:
        """Rows that changed after `tick`, in order."""
        return np.flatnonzero(self.stamp > tick)

    # what fits

    def usable(self, request: Request, rows: Ints) -> Bools:
        """bool[n, C]: cards of these rows that could carry one card's part of the request."""
        ok: Bools = self.card_free[rows] >= request.milli
        if request.memory:
            ok &= self.card_memory_free[rows] >= request.memory
        if request.models is not None:
            accepted = np.zeros(len(self.models) + 1, np.bool_)  # the last one answers for NO_CARD
            accepted[list(request.models)] = True
            ok &= accepted[self.card_model[rows]]
        return ok

    def feasible(self, request: Request, rows: Ints) -> Bools:
        """bool[n]: rows whose free resources and cards carry the request."""
        wanted = self._limits.get(request.resources)
        if wanted is None:
            wanted = self._limits[request.resources] = np.array(request.resources, np.int64)
            if len(wanted) != len(self.columns):
                raise ValueError(f"a request names {len(wanted)} resources, the state has columns {', '.join(self.columns)}")
        ok: Bools = np.asarray((self.free[rows] >= wanted).all(axis=1), np.bool_)
        if request.cards:
            ok &= self.usable(request, rows).sum(axis=1) >= request.cards
        return ok

    def cards_for(self, request: Request, row: int, first: int = NO_CARD) -> tuple[int, ...]:
        """The cards the request would take on the row: `first` if given, else the tightest that fit, lowest index on ties.

        Whole requests so take the idle cards with the lowest index. Raises Overcommit where too few fit.
        """
        if not request.cards:
            return ()
        fit = self.usable(request, self._every[row : row + 1])[0]
        if first != NO_CARD and fit[first] and request.cards == 1:
            return (first,)
        places = np.flatnonzero(fit)
        if len(places) < request.cards:
            raise Overcommit(f"node {self.names[row]} has {len(places)} cards that fit, {request.cards} are asked")
        order = np.argsort(self.card_free[row, places], kind="stable")[: request.cards]
        return tuple(sorted(int(place) for place in places[order]))

    # what changes

    def place(self, row: int, request: Request, cards: tuple[int, ...]) -> None:
        """Take what the request asks from the row. Raises Overcommit, with nothing changed, where it does not fit."""
        wanted = np.array(request.resources, np.int64)
        if len(set(cards)) != request.cards:
            raise Overcommit(f"{request.cards} cards are asked on node {self.names[row]}, {len(set(cards))} are given")
        if not (self.free[row] >= wanted).all():
            raise Overcommit(f"node {self.names[row]} has {self._show(self.free[row])} free, {self._show(wanted)} is asked")
        taken = list(cards)
        if taken and not self.usable(request, self._every[row : row + 1])[0, taken].all():
            raise Overcommit(f"cards {taken} of node {self.names[row]} do not carry {request.milli} milli each")
        self._move(row, request, taken, wanted, -1)

    def release(self, row: int, request: Request, cards: tuple[int, ...]) -> None:
        """Give back what `place` took. Raises Overcommit where that exceeds what the row has."""
        wanted = np.array(request.resources, np.int64)
        taken = list(cards)
        over = (self.free[row] + wanted > self.allocatable[row]).any() or self.shapes[row, self.shape(request)] < 1
        over = over or (self.card_free[row, taken] + request.milli > self.card_milli[row, taken]).any()
        if over or (self.card_memory_free[row, taken] + request.memory > self.card_memory[row, taken]).any():
            raise Overcommit(f"node {self.names[row]} would have more free than it has: this was not placed there")
        self._move(row, request, taken, wanted, 1)

    def _move(self, row: int, request: Request, taken: list[int], wanted: Ints, sign: int) -> None:
        self.free[row] += sign * wanted
        if taken:
            self.card_free[row, taken] += sign * request.milli
            self.card_memory_free[row, taken] += sign * request.memory
        self.shapes[row, self.shape(request)] -= sign
        self.touch(row)

    def touch(self, row: int) -> None:
        """Say that a row changed, for whoever keeps something computed from it."""
        self.tick += 1
        self.stamp[row] = self.tick

    @staticmethod
    def shape(request: Request) -> int:
        """Column of `shapes`: 0 without a card, 1 for shares, 1 + k for k whole cards."""
        if not request.cards:
            return 0
        return 1 + request.cards if request.whole else 1

    def _show(self, amounts: Ints) -> str:
        return ", ".join(f"{column} {amount}" for column, amount in zip(self.columns, amounts.tolist(), strict=True))
