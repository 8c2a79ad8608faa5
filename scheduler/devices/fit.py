"""Which cards of one node a pod gets: the exact answer for one node, container by container.

Cards are tried in the order the node or the pod wants (fill up: the card with the least left that still fits; spread: the most),
containers hardest first. Where containers compete the search goes back and tries other cards, at most `TRIES` times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import msgspec

from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import NOTHING, Device, Part, Rules, Use, best_start, collapse, free_milli, lack
from forebay.scheduler.pods.fill import Order

TRIES = 500
"""Sets of cards looked at for one pod on one node. Eight cards and three containers need at most 8 + 28 + 56 in common cases."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod gets no cards here: what is lacking -> how many cards lack it."""

    lacks: Mapping[str, int]

    def sentence(self) -> str:
        if not self.lacks:
            return "the cards fit one by one but not together"
        most = sorted(self.lacks.items(), key=lambda one: (-one[1], one[0]))
        return "; ".join(f"{word} ({count})" for word, count in most)


def fit(
    ask: PodAsk, devices: Sequence[Device], used: Mapping[str, Use], rules: Rules, first: int = -1
) -> tuple[Part, ...] | Refusal:
    """Parts for every container of the pod, or why there are none. `first`: position of the card to try before all others."""
    word = forbidden(ask, devices, used, rules)
    if word:
        return Refusal({word: len(devices)})
    search = _Search(ask, devices, used, rules, first)
    found = search.place(0, ())
    return found if found is not None else Refusal(search.lacks())


def forbidden(ask: PodAsk, devices: Sequence[Device], used: Mapping[str, Use], rules: Rules) -> str:
    """What the node's policy has against the pod, "" for nothing."""
    for one in ask.asks:
        if one.whole and not rules.whole:
            return "node gives no whole cards"
        if not one.whole and not one.profile and not rules.shares:
            return "node shares no cards"
        if not one.whole and not one.profile and rules.cores == "must" and not one.cores:
            return "node shares cards only with bounded cores"
        if not one.whole and rules.cores == "never" and one.cores:
            return "node does not bound cores"
    if not rules.mixed:
        wholes = any(used.get(device.id, NOTHING).whole for device in devices)
        shares = any(use.pods > use.whole for use in used.values())
        if any((one.whole and shares) or (not one.whole and wholes) for one in ask.asks):
            return "node keeps whole cards and shares apart"
    return ""


def card_order(ask: PodAsk, rules: Rules) -> Order:
    """The pod's wish (or its queue's), then the node's label; "" where nobody says."""
    return ask.cards_by or rules.cards_by


class _Search:
    def __init__(self, ask: PodAsk, devices: Sequence[Device], used: Mapping[str, Use], rules: Rules, first: int) -> None:
        self.ask, self.rules, self.used = ask, rules, used
        self.tries = TRIES
        spread = card_order(ask, rules) == "spread"
        free = {device.id: free_milli(device, used.get(device.id, NOTHING)) for device in devices}
        preferred = devices[first].id if 0 <= first < len(devices) else ""
        accepted = [device for device in devices if ask.accepts(device)]
        self.devices = sorted(accepted, key=lambda d: (d.id != preferred, -free[d.id] if spread else free[d.id], d.index))
        self.refused: Counter[str] = Counter({"card type": len(devices) - len(accepted)} if len(accepted) < len(devices) else {})

    def lacks(self) -> dict[str, int]:
        return dict(self.refused)

    def place(self, at: int, parts: tuple[Part, ...]) -> tuple[Part, ...] | None:
        """Parts for groups from `at` on, beside those already chosen."""
        if at == len(self.ask.groups):
            order = {seat.container: number for number, seat in enumerate(self.ask.seats)}
            return tuple(sorted(parts, key=lambda part: (order[part.container], part.kind, part.index)))
        group = self.ask.groups[at]
        if group[0].cards == 1 and at + 1 == len(self.ask.groups) and group[0].role != "init":  # most pods: the first that fits
            there = next((chosen for device in self.devices if (chosen := self._on(group, device, parts)) is not None), None)
            return None if there is None else self.place(at + 1, (*parts, *there))
        options = {device.id: chosen for device in self.devices if (chosen := self._on(group, device, parts)) is not None}
        for chosen in self._sets(group, options, parts):
            self.tries -= 1
            found = self.place(at + 1, (*parts, *chosen))
            if found is not None:
                return found
            if self.tries <= 0:
                return None
        return None

    def _on(self, group: Sequence[Ask], device: Device, parts: tuple[Part, ...]) -> tuple[Part, ...] | None:
        """The parts that the group's containers would hold of that card, None where they do not fit beside the pod's others."""
        used = self.used.get(device.id, NOTHING)
        mine = tuple(part for part in parts if part.device == device.id)
        for ask in group:
            part = ask.part(device)
            if part is None:
                self.refused["card model"] += 1
                return None
            if device.layout and part.profile:
                part = self._located(device, used, mine, part)
                if part.start < 0:
                    self.refused["free slices"] += 1
                    return None
            mine = (*mine, part)
        try:
            more = collapse(self.ask.seats, mine)[device.id]
        except ValueError:
            self.refused["free slices"] += 1
            return None
        word = lack(device, used, more, self.rules)
        if word:
            self.refused[word] += 1
            return None
        return mine[len(mine) - len(group) :]

    def _located(self, device: Device, used: Use, mine: tuple[Part, ...], part: Part) -> Part:
        """The part with its place. An init container takes over the place of a container that starts later, if profiles agree."""
        roles = {seat.container: seat.role for seat in self.ask.seats}
        if roles[part.container] == "init":
            for other in mine:
                if other.profile == part.profile and roles[other.container] != "sidecar":
                    return msgspec.structs.replace(part, start=other.start)
        own = {(other.profile, other.start) for other in mine if other.start >= 0}
        taken = replace(used, instances=tuple(sorted((*used.instances, *own))))
        return msgspec.structs.replace(part, start=best_start(device, taken, part.profile))

    def _sets(
        self, group: Sequence[Ask], options: Mapping[str, tuple[Part, ...]], parts: tuple[Part, ...]
    ) -> Iterator[tuple[Part, ...]]:
        """Sets of as many cards as asked, best first; of sets that look alike only one."""
        wanted = group[0].cards
        own = {part.device for part in parts}
        init = group[0].role == "init"
        ordered = [device for device in self.devices if device.id in options]
        if init:  # what the pod holds anyway costs nothing before its containers start
            ordered.sort(key=lambda device: device.id not in own)
        looks = {device.id: self._looks(device, parts) for device in ordered}
        seen = set[tuple[object, ...]]()
        for chosen in combinations(ordered, wanted):
            if self.ask.one_numa and len({device.numa for device in chosen}) > 1:
                self.refused["one NUMA node"] += 1
                continue
            alike = tuple(looks[device.id] for device in chosen)
            if alike not in seen:
                seen.add(alike)
                yield tuple(part for device in chosen for part in options[device.id])

    def _looks(self, device: Device, parts: tuple[Part, ...]) -> tuple[object, ...]:
        """What matters of a card for the rest of the search."""
        mine = tuple((part.container, part.profile, part.start) for part in parts if part.device == device.id)
        table = device.table
        return (
            device.kind,
            table.name if table else device.model,
            device.memory,
            device.cores,
            device.tenants,
            device.layout,
            (device.instances),
            device.numa if self.ask.one_numa else 0,
            self.used.get(device.id, NOTHING),
            mine,
        )
