"""What one pod asks of a node: resources by column, and cards. Equal requests are one class."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.pods.fill import Order

FULL = 1000
"""Milli of a whole card."""


@dataclass(frozen=True, slots=True)
class Request:
    """Hashable: pods with equal requests are one equivalence class.

    `resources` follows the columns of the `State` (integers in the column's unit: milli-CPU, MiB, pods ...).
    `cards` cards of one node are taken, each with `milli` of its 1000 and `memory` (unit of the cards' own column).
    `milli == 1000` asks for whole cards, which must be idle. `models` are the accepted card models by index, None for any.
    `constraints` is a cluster's number for everything else that decides where the pod may go, 0 for nothing.
    With `devices` it is that which is fitted and booked; `cards`, `milli` and `models` then only say what such a pod is like, for
    those who count typical pods. `fill`: how nodes are to be filled with pods like it, "" leaves that to the policy.

    Raises ValueError for negative amounts, a share without a card, and a share outside 1..1000.
    """

    resources: tuple[int, ...]
    cards: int = 0
    milli: int = 0
    memory: int = 0
    models: tuple[int, ...] | None = None
    constraints: int = 0
    devices: PodAsk | None = None
    fill: Order = ""

    def __post_init__(self) -> None:
        if any(amount < 0 for amount in self.resources) or self.cards < 0 or self.memory < 0:
            raise ValueError(f"a request asks for a negative amount: {self.resources}, {self.cards} cards, {self.memory} memory")
        if self.cards and not 1 <= self.milli <= FULL:
            raise ValueError(f"a request asks for {self.milli} milli of a card: write 1 to {FULL}")
        if not self.cards and (self.milli or self.memory):
            raise ValueError(f"a request asks for {self.milli} milli of no card: ask for at least one card")

    @property
    def whole(self) -> bool:
        """Whether it takes idle cards as a whole."""
        return self.cards > 0 and self.milli == FULL

    @property
    def card_milli(self) -> int:
        """Milli of all its cards together."""
        return self.cards * self.milli
