"""What the containers of a pod ask of devices, whatever the API that said so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import msgspec

from forebay.scheduler.devices.card import Device, Part, Role, Seat
from forebay.scheduler.devices.vendors.table import KINDS
from forebay.scheduler.pods.fill import Fill, Order

Api = Literal["ack", "hami", "koordinator", "dra", "plugin"]


@dataclass(frozen=True, slots=True)
class Ask:
    """`cards` cards for one container, of each: `memory` bytes or `percent` of its memory, and `cores` percent of its cores.

    `whole` asks for whole cards; `alone` for a share that tolerates no neighbour; `profile` for a part of that name. `model`: the
    resource name belongs to this model of the table. `claim`: claim and request of the pod that this stands for, in DRA.
    """

    container: str
    kind: str
    role: Role = "app"
    cards: int = 1
    memory: int = 0
    percent: int = 0
    cores: int = 0
    whole: bool = False
    alone: bool = False
    profile: str = ""
    model: str = ""
    claim: tuple[str, str] = ("", "")

    def part(self, device: Device) -> Part | None:
        """What the container would hold of that card, before a part's place is chosen; None if the card can never carry it."""
        found = self._part(device)
        return found if found is None or not self.claim else msgspec.structs.replace(found, claim="/".join(self.claim))

    def _part(self, device: Device) -> Part | None:
        if device.kind != self.kind or (self.model and (device.table is None or device.table.name != self.model)):
            return None
        if device.layout and not self.profile:
            return None
        if self.whole or self.alone:
            return self._whole(device)
        if self.profile:
            found = device.table.profile(self.profile) if device.table else None
            if found is None or bool(found.size) != bool(device.layout):
                return None
            return self._fixed(device, found.memory, found.cores, found.cpus, found.name)
        if not device.memory:
            return None  # of a card whose memory nobody knows no part can be promised
        memory = self.memory or -(-device.memory * self.percent // 100)
        cores = -(-device.cores * self.cores // 100)
        if KINDS[self.kind].round_up and not self.cores and device.table:
            template = device.table.at_least(memory)
            if template is not None:
                return self._fixed(device, template.memory, template.cores, template.cpus, template.name)
            return self._whole(device)
        return Part(self.container, device.id, device.index, device.kind, memory, cores)

    def _whole(self, device: Device) -> Part:
        held = device.memory, device.cores, device.cpus
        return Part(self.container, device.id, device.index, device.kind, *held, whole=True)

    def _fixed(self, device: Device, memory: int, cores: int, cpus: int, profile: str) -> Part:
        return Part(self.container, device.id, device.index, device.kind, memory, cores, cpus, profile)


@dataclass(frozen=True)
class PodAsk:
    """Hashable: pods with equal asks are one class. `asks` and `seats` in the pod's order: init containers and sidecars first.

    `together`: all containers use the same cards (ACK). `types` and `not_types` are parts of product names without case, `ids`
    and `not_ids` card ids; empty ones accept all. `cards_by`, `nodes_by`: what the pod itself, or its queue, wants filled up
    or spread.
    """

    asks: tuple[Ask, ...]
    seats: tuple[Seat, ...]
    api: Api = "hami"
    together: bool = False
    types: tuple[str, ...] = ()
    not_types: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    not_ids: tuple[str, ...] = ()
    one_numa: bool = False
    cards_by: Order = ""
    nodes_by: Order = ""

    def filled(self, fill: Fill) -> PodAsk:
        """With what its queue or the settings say, where the pod itself does not."""
        cards_by, nodes_by = self.cards_by or fill.cards, self.nodes_by or fill.nodes
        return (
            self
            if (cards_by, nodes_by) == (self.cards_by, self.nodes_by)
            else replace(self, cards_by=cards_by, nodes_by=nodes_by)
        )

    def accepts(self, device: Device) -> bool:
        """Whether the pod's filters let it have that card at all. Capacity is not looked at."""
        named = (not self.ids or device.id in self.ids) and device.id not in self.not_ids
        return named and self.accepts_model(device.model)

    def accepts_model(self, model: str) -> bool:
        """Whether the pod's filters let it have cards of that product name."""
        name = model.lower()
        if self.types and not any(one.lower() in name for one in self.types):
            return False
        return not any(one.lower() in name for one in self.not_types)

    @cached_property
    def groups(self) -> tuple[tuple[Ask, ...], ...]:
        """Asks that must share their cards, hardest first and what runs together before init containers."""
        if self.together:
            return (self.asks,) if self.asks else ()
        return tuple((ask,) for ask in sorted(self.asks, key=_hardness))

    @cached_property
    def single(self) -> bool:
        """Whether every card is asked alike, so that cards can be looked at one by one: most pods are so."""
        return len(self.groups) == 1 and (len(self.asks) == 1 or not any(ask.profile for ask in self.asks))

    @cached_property
    def key(self) -> int:
        return hash((self.asks, self.seats, self.types, self.ids))

    def __hash__(self) -> int:
        return self.key

    @property
    def cards(self) -> int:
        """Most cards that the pod holds at once. An upper bound: containers may turn out to share a card."""
        running = sum(group[0].cards for group in self.groups if group[0].role != "init")
        return max([running, *(group[0].cards for group in self.groups)])


def _hardness(ask: Ask) -> tuple[bool, bool, int, int, int]:
    big = ask.whole or ask.alone
    return ask.role == "init", not big, -ask.cards, -(ask.memory or ask.percent), -ask.cores


def seats_of(init: Sequence[tuple[str, bool]], containers: Sequence[str]) -> tuple[Seat, ...]:
    """Seats of a pod: (name, restarts always) of its init containers in order, then its containers."""
    return (*(Seat(name, "sidecar" if stays else "init") for name, stays in init), *(Seat(name) for name in containers))
