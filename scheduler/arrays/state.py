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

from forebay.scheduler.arrays.storage import ClaimKey
from forebay.scheduler.arrays.types import Bools, Ints, Shorts
from forebay.scheduler.devices.arrays import Cards
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import ANY, Device, Part, Rules, Use
from forebay.scheduler.devices.fit import Refusal
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.request import FULL, Request
from forebay.scheduler.preferences.points import Points
from forebay.scheduler.quota.amounts import show

REMEDIES = {
    "cards": "add nodes with such cards",
    "card model": "accept another model, or ask for what those cards can give",
    "card id": "name other cards",
    "card health": "repair the cards",
    "idle cards": "free whole cards",
    "card memory": "free memory of a card, or ask for less",
    "card cores": "free cores of a card, or ask for less",
    "card processors": "free a part of a card",
    "free slices": "free a part of a card",
    "containers per card": "spread over more cards",
    "pods per card": "raise the node's bound",
    "cards that fit together": "free cards, or ask for less in one pod",
}
"""What helps where a node's cards have too little of something (`Cards.lacks`)."""

FEW = 64
"""Changes up to which it is quicker to look at them than at all rows."""
MOST_WHOLE = 32
"""Pods of more whole cards than that count as one shape; nodes have 16 at most."""
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
    """What one node offers: `resources` by column name (a column that is missing counts 0), and its cards by index.

    A node whose cards are shared or differ says so with `devices` and `rules` instead of `cards`.
    """

    name: str
    resources: Mapping[str, int]
    cards: tuple[Card, ...] = field(default=())
    devices: tuple[Device, ...] = ()
    rules: Rules = ANY

    @property
    def places(self) -> tuple[Card, ...]:
        """Its cards, however they are given."""
        return self.cards or tuple(Card(device.model, device.memory) for device in self.devices)


class State:
    """Arrays of N nodes, R resource columns, C places for cards, M models, K card shapes (see `shape`).

    allocatable, free      int64[N, R]
    card_model             int16[N, C]   index into `models`, NO_CARD where there is none
    card_milli, card_free  int64[N, C]   milli of a card, 1000 for one that exists and is healthy
    card_memory, card_memory_free        int64[N, C]
    shapes                 int64[N, K]   pods on the node: without a card, with shares, with 1, 2, ... whole cards
    stamp                  int64[N]      tick of the row's last change
    roster                               grows when a name comes to a row or leaves it
    """

    def __init__(self, nodes: Sequence[Node], columns: Sequence[str]) -> None:
        if len(set(columns)) != len(columns):
            raise ValueError(f"resource columns are named twice: {', '.join(columns)}")
        count, places = len(nodes), max((len(node.places) for node in nodes), default=0)
        self.columns = tuple(columns)
        self.names: Sequence[str] = tuple(node.name for node in nodes)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        if len(self.row_of) != count:
            raise ValueError("two nodes have the same name: rows are found by name")
        self.models: list[str] = sorted({card.model for node in nodes for card in node.places})
        self._model_of = {name: index for index, name in enumerate(self.models)}
        self.allocatable: Ints = np.zeros((count, len(columns)), np.int64)
        self.card_model: Shorts = np.full((count, places), NO_CARD, np.int16)
        self.card_milli: Ints = np.zeros((count, places), np.int64)
        self.card_memory: Ints = np.zeros((count, places), np.int64)
        self.shapes: Ints = np.zeros((count, MOST_WHOLE + 2), np.int64)
        self.stamp: Ints = np.zeros(count, np.int64)
        self.tick = 0
        self.roster = 0
        self._latest: list[int] = []  # rows of the last changes, at least FEW of them
        for row, node in enumerate(nodes):
            self._describe(row, node)
        self.free: Ints = self.allocatable.copy()
        self.card_free: Ints = self.card_milli.copy()
        self.card_memory_free: Ints = self.card_memory.copy()
        self.devices: Cards | None = None
        if any(node.devices for node in nodes):
            self.devices = Cards([node.devices for node in nodes], [node.rules for node in nodes], places)
            for row in np.flatnonzero(self.devices.present).tolist():
                self._show_devices(row)
        self._every = np.arange(count)
        self._limits: dict[tuple[int, ...], Ints] = {}

    def _describe(self, row: int, node: Node) -> None:
        unknown = set(node.resources) - set(self.columns)
        if unknown:
            raise ValueError(f"node {node.name} offers {', '.join(sorted(unknown))}, for which there is no column")
        self.allocatable[row] = [node.resources.get(column, 0) for column in self.columns]
        if (self.allocatable[row] < 0).any():
            raise ValueError(f"node {node.name} offers a negative amount of a resource")
        if node.cards and node.devices:
            raise ValueError(f"node {node.name} lists its cards twice: give cards or devices")
        for place, card in enumerate(node.places):
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
        missed = self.tick - tick
        if 0 <= missed <= FEW:
            return np.array(sorted(set(self._latest[len(self._latest) - missed :])), np.int64)
        return (self.stamp > tick).nonzero()[0]

    def look(self, row: int) -> bytes:
        """What a request can see of a row, and a score that reads nothing else of it; equal rows look alike.

        Not for devices that are asked for by their names or places (`Cards.alike`).
        """
        parts = [array[row].tobytes() for array in (self.free, self.card_free, self.card_model, self.card_memory_free)]
        if self.devices is not None and self.devices.present[row]:
            parts.append(self.devices.sight(row))
        return b"".join(parts)

    # what fits

    def usable(self, request: Request, rows: Ints) -> Bools:
        """bool[n, C]: cards of these rows that could carry one card's part of the request."""
        if request.devices is not None:
            if self.devices is None:
                return np.zeros((len(rows), self.card_free.shape[1]), np.bool_)
            return self.devices.usable(request.devices, rows)
        ok: Bools = self.card_free[rows] >= request.milli
        if request.memory:
            ok &= self.card_memory_free[rows] >= request.memory
        if request.models is not None:
            accepted = np.zeros(len(self.models) + 1, np.bool_)  # the last one answers for NO_CARD
            accepted[list(request.models)] = True
            ok &= accepted[self.card_model[rows]]
        if self.devices is not None:
            ok &= ~self.devices.present[rows, None]  # those cards are asked for by name
        return ok

    def feasible(self, request: Request, rows: Ints) -> Bools:
        """bool[n]: rows whose free resources and cards carry the request."""
        ok: Bools = np.asarray((self.free[rows] >= self._wanted(request)).all(axis=1), np.bool_)
        return self._with_cards(request, rows, ok)

    def _with_cards(self, request: Request, rows: Ints, ok: Bools) -> Bools:
        """Of the rows that are `ok`, those whose cards carry the request."""
        if request.devices is not None:
            some = ok.nonzero()[0]
            if len(some):
                ok[some] = False if self.devices is None else self.devices.feasible(request.devices, rows[some])
        elif request.cards:
            ok &= self.usable(request, rows).sum(axis=1) >= request.cards
        return ok

    def _wanted(self, request: Request) -> Ints:
        wanted = self._limits.get(request.resources)
        if wanted is None:
            wanted = np.array(request.resources, np.int64)
            if len(wanted) != len(self.columns):
                raise ValueError(f"a request names {len(wanted)} resources, the state has columns {', '.join(self.columns)}")
            self._limits[request.resources] = wanted
        return wanted

    # what a cluster adds: nothing here, where nodes are nothing but resources and cards

    def allowed(self, request: Request) -> Bools | None:
        """bool[N]: rows that meet the request's constraints; None for all. True now and no longer, and not to be changed."""
        return None

    def claims_of(self, request: Request) -> tuple[ClaimKey, ...]:
        """Claims on devices that the request uses."""
        return ()

    def coupled(self, request: Request) -> bool:
        """Whether placing one pod may make room for a request that fitted nowhere."""
        return False

    def prefers(self, request: Request) -> bool:
        """Whether some nodes may be preferred for the request to others: cheap, for `preferred` is not."""
        return False

    def preferred(self, request: Request, rows: Ints, held: Bools | None = None) -> Points:
        """How far these rows, all that fit, meet what is preferred; see `Preferences.points`."""
        return Points()

    @property
    def nodes(self) -> Ints:
        """Rows that are nodes."""
        return self._every

    def lacks(self, request: Request) -> list[tuple[Lack, Bools]]:
        """Reasons why `nodes` do not carry the request: bool[n] each, over `nodes`. A node may have several."""
        rows = self.nodes
        found = list[tuple[Lack, Bools]]()
        for at, column in enumerate(self.columns):
            if request.resources[at]:
                found += self._lacks_column(column, request.resources[at], self.free[rows, at], self.allocatable[rows, at])
        if request.devices is not None:
            found += self._lacks_devices(request.devices, rows)
        elif request.cards:
            found += self._lacks_cards(request, rows)
        return found

    def _lacks_devices(self, ask: PodAsk, rows: Ints) -> list[tuple[Lack, Bools]]:
        if self.devices is None:
            return [(Lack("no cards", "add nodes with cards", "cards"), np.ones(len(rows), np.bool_))]
        return [
            (Lack(word, REMEDIES.get(word, "change the node's label or the pod")), short)
            for word, short in self.devices.lacks(ask, rows)
        ]

    @staticmethod
    def _lacks_column(column: str, asked: int, free: Ints, all_: Ints) -> list[tuple[Lack, Bools]]:
        never, busy = all_ < asked, (free < asked) & (all_ >= asked)
        most, left = show(column, int(all_.max(initial=0))), show(column, int(free[busy].max(initial=0)))
        return [
            (Lack(f"too small for {column}", f"ask for at most {most} {column} or add larger nodes", column), never),
            (
                Lack(f"too little free {column}", f"free {column}, {show(column, asked)} asked and at most {left} free", column),
                busy,
            ),
        ]

    def _lacks_cards(self, request: Request, rows: Ints) -> list[tuple[Lack, Bools]]:
        there = self.card_model[rows] != NO_CARD
        accepted = there if request.models is None else there & np.isin(self.card_model[rows], request.models)
        few = there.sum(axis=1) < request.cards
        wrong = ~few & (accepted.sum(axis=1) < request.cards)
        busy = ~few & ~wrong & (self.usable(request, rows).sum(axis=1) < request.cards)
        share = "idle cards" if request.whole else "card share"
        return [
            (Lack("fewer cards than asked", "ask for fewer cards or add larger nodes", "cards"), few),
            (Lack("cards of another model", "accept another model", "card model"), wrong),
            (Lack("too few idle cards" if request.whole else "too little of a card free", "free cards", share), busy),
        ]

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

    def place(self, row: int, request: Request, cards: tuple[int, ...], parts: tuple[Part, ...] = ()) -> None:
        """Take what the request asks from the row. Raises Overcommit, with nothing changed, where it does not fit.

        `parts`: what its containers get, for a request with devices.
        """
        wanted = self._wanted(request)
        if request.devices is None and len(set(cards)) != request.cards:
            raise Overcommit(f"{request.cards} cards are asked on node {self.names[row]}, {len(set(cards))} are given")
        if any(asked > free for asked, free in zip(request.resources, self.free[row].tolist(), strict=True) if asked):
            raise Overcommit(f"node {self.names[row]} has {self._show(self.free[row])} free, {self._show(wanted)} is asked")
        if request.devices is not None:
            word = "it has no devices" if self.devices is None else self.devices.take(row, request.devices, parts)
            if word:
                raise Overcommit(f"node {self.names[row]}: {word}")
            self._move(row, request, [], wanted, -1)
            return
        taken = list(cards)
        if taken and not self.usable(request, self._every[row : row + 1])[0, taken].all():
            raise Overcommit(f"cards {taken} of node {self.names[row]} do not carry {request.milli} milli each")
        self._move(row, request, taken, wanted, -1)

    def release(self, row: int, request: Request, cards: tuple[int, ...], parts: tuple[Part, ...] = ()) -> None:
        """Give back what `place` took. Raises Overcommit where that exceeds what the row has."""
        wanted = np.array(request.resources, np.int64)
        taken = list(cards) if request.devices is None else []
        over = (self.free[row] + wanted > self.allocatable[row]).any() or self.shapes[row, self.shape(request)] < 1
        over = over or (self.card_free[row, taken] + request.milli > self.card_milli[row, taken]).any()
        if over or (self.card_memory_free[row, taken] + request.memory > self.card_memory[row, taken]).any():
            raise Overcommit(f"node {self.names[row]} would have more free than it has: this was not placed there")
        if request.devices is not None:
            if self.devices is None:
                raise Overcommit(f"node {self.names[row]} has no devices: this was not placed there")
            try:
                self.devices.give(row, request.devices, parts)
            except ValueError as wrong:
                raise Overcommit(f"node {self.names[row]}: {wrong}") from wrong
        self._move(row, request, taken, wanted, 1)

    def set_devices(self, row: int, devices: Sequence[Device], rules: Rules, used: Mapping[str, Use]) -> None:
        """The row's cards as the ledger has them: after a node changed, or somebody else placed or removed a pod.

        Raises ValueError for a snapshot without devices, more cards than it has places for, and a model that it does not know.
        """
        if self.devices is None:
            raise ValueError(f"the snapshot has no devices: build it anew for node {self.names[row]}")
        unknown = {device.model for device in devices} - set(self._model_of)
        if unknown:
            raise ValueError(f"the snapshot knows no card model {', '.join(sorted(unknown))}: build it anew")
        self.devices.load(row, devices, rules, used)
        self.card_model[row], self.card_milli[row], self.card_memory[row] = NO_CARD, 0, 0
        for place, device in enumerate(devices):
            self.card_model[row, place] = self._model_of[device.model]
            self.card_milli[row, place] = FULL
            self.card_memory[row, place] = device.memory
        self._show_devices(row)
        self.touch(row)

    def hold(self, row: int, request: Request) -> tuple[tuple[int, ...], tuple[Part, ...]]:
        """Takes what the request asks, whether or not the row's resources carry it: for a pod that is expected there.

        Cards that do not fit are Overcommit, with nothing changed. `unhold` is the inverse.
        """
        cards: tuple[int, ...] = ()
        parts: tuple[Part, ...] = ()
        if request.devices is not None:
            granted = None if self.devices is None else self.devices.grant(request.devices, row)
            if granted is None or isinstance(granted, Refusal):
                raise Overcommit(f"node {self.names[row]} has no room on its cards for a pod that is expected there")
            assert self.devices is not None
            parts, word = granted, self.devices.take(row, request.devices, granted)
            assert not word, word
        elif request.cards:
            cards = self.cards_for(request, row)
        self._move(row, request, list(cards), self._wanted(request), -1)
        return cards, parts

    def unhold(self, row: int, request: Request, cards: tuple[int, ...], parts: tuple[Part, ...]) -> None:
        """Gives back what `hold` took."""
        if request.devices is not None and self.devices is not None:
            self.devices.give(row, request.devices, parts)
        self._move(row, request, list(cards), self._wanted(request), 1)

    def _move(self, row: int, request: Request, taken: list[int], wanted: Ints, sign: int) -> None:
        if sign > 0:
            self.free[row] += wanted
        else:
            self.free[row] -= wanted
        if taken and request.devices is None:
            self.card_free[row, taken] += sign * request.milli
            self.card_memory_free[row, taken] += sign * request.memory
        if request.devices is not None and self.devices is not None:
            self._show_devices(row)
        self.shapes[row, self.shape(request)] -= sign
        self.touch(row)

    def _show_devices(self, row: int) -> None:
        """What policies see of the row's cards follows from the books of the devices."""
        assert self.devices is not None
        self.card_free[row] = 0
        free = self.devices.free_milli(row)
        self.card_free[row, : len(free)] = free
        self.card_memory_free[row] = np.maximum(self.devices.memory_free[row], 0)

    def touch(self, row: int) -> None:
        """Say that a row changed, for whoever keeps something computed from it."""
        self.tick += 1
        self.stamp[row] = self.tick
        self._latest.append(row)
        if len(self._latest) > 64 * FEW:
            del self._latest[:-FEW]

    def shape(self, request: Request) -> int:
        """Column of `shapes`: 0 without a card, 1 for shares, 1 + k for k whole cards.

        It must not depend on how many cards nodes have: pods that were counted before the arrays grew are taken off by it later.
        """
        if not request.cards:
            return 0
        return 1 + min(request.cards, MOST_WHOLE) if request.whole else 1

    def _show(self, amounts: Ints) -> str:
        return ", ".join(f"{column} {amount}" for column, amount in zip(self.columns, amounts.tolist(), strict=True))
