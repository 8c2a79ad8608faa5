"""One card: what it has, what is used of it, and whether more fits. Amounts are whole numbers: bytes, cores, containers.

A pod's use of a card follows the one formula of what a pod asks: containers run together; sidecars stay once they have
started; init containers run one after another, each beside the sidecars before it. So a card must hold

    max(sidecars + containers, for each init container: sidecars before it + it)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec

from forebay.scheduler.devices.vendors.kinds import Model, Profile
from forebay.scheduler.devices.vendors.table import KINDS

Role = Literal["init", "sidecar", "app"]

Instance = tuple[str, int]
"""A part of a cut card: profile and first slice. Templates, which lie nowhere in particular, are no instances."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one container holds of one card. `device` is the card's id, `index` its number on the node among its kind.

    `memory` in bytes; `cores` in the kind's unit, 0 = takes what others leave; `cpus` processors on the card; `whole`: nobody
    else is on it; `claim`: claim/request that it answers, in DRA.
    """

    container: str
    device: str
    index: int
    kind: str
    memory: int = 0
    cores: int = 0
    cpus: int = 0
    profile: str = ""
    start: int = -1
    whole: bool = False
    claim: str = ""


class Seat(msgspec.Struct, frozen=True):
    """A container of a pod, in the pod's order: init containers and sidecars first."""

    container: str
    role: Role = "app"


@dataclass(frozen=True, slots=True)
class Device:
    """A card of a node. `id` is unique on the node. `cores` 0: compute is not accounted; `memory` 0: memory is not known.

    `tenants`: most containers at once, 0 for no bound. `numa` -1: unknown. `layout`: the card is cut into profiles of this model
    and gives out nothing else; `instances` are the parts it has, if they were cut beforehand. `claim`: driver, pool and name in
    DRA; `parts`: names of its parts there.
    """

    id: str
    index: int
    kind: str
    model: str = ""
    memory: int = 0
    cores: int = 100
    cpus: int = 0
    tenants: int = 0
    healthy: bool = True
    numa: int = -1
    layout: str = ""
    instances: tuple[Instance, ...] = ()
    claim: tuple[str, str, str] = ("", "", "")
    parts: tuple[tuple[Instance, str], ...] = ()

    @property
    def table(self) -> Model | None:
        """The table's row of the card's model."""
        return _table(self.kind, self.model, self.layout)


@lru_cache(maxsize=1024)
def _table(kind: str, model: str, layout: str) -> Model | None:
    row = KINDS[kind]
    return row.by_model.get(layout) if layout else row.model_of(model)


@dataclass(frozen=True, slots=True)
class Use:
    """Sums of what pods hold of a card. `open` counts those that set no bound to their cores."""

    memory: int = 0
    cores: int = 0
    cpus: int = 0
    tenants: int = 0
    pods: int = 0
    whole: int = 0
    open: int = 0
    instances: tuple[Instance, ...] = ()

    def __add__(self, other: Use) -> Use:
        return self._combine(other, 1, tuple(sorted((*self.instances, *other.instances))))

    def __sub__(self, other: Use) -> Use:
        left = list(self.instances)
        for instance in other.instances:
            left.remove(instance)
        return self._combine(other, -1, tuple(left))

    def _combine(self, other: Use, sign: int, instances: tuple[Instance, ...]) -> Use:
        return Use(
            self.memory + sign * other.memory,
            self.cores + sign * other.cores,
            self.cpus + sign * other.cpus,
            self.tenants + sign * other.tenants,
            self.pods + sign * other.pods,
            self.whole + sign * other.whole,
            self.open + sign * other.open,
            instances,
        )


NOTHING = Use()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a node gives out, by its labels. `whole`: cards as a whole, `shares`: parts by memory.

    `cores`: whether shares must, may or must not bound their cores. `mixed`: whole cards and shares on one node at a time.
    `max_pods`: most pods on a card, 0 for no bound. `cards_by`: fill cards up or spread over them; "" leaves it to the policy.
    """

    whole: bool = True
    shares: bool = True
    cores: Literal["may", "must", "never"] = "may"
    mixed: bool = True
    max_pods: int = 0
    cards_by: Literal["", "binpack", "spread"] = ""
    source: str = ""


ANY = Rules()
"""A node that says nothing gives out everything."""


def use_of(parts: Iterable[Part]) -> Use:
    """The use of one card by containers that run together, as one pod."""
    memory = cores = cpus = tenants = whole = unbounded = 0
    instances = list[Instance]()
    for part in parts:
        memory += part.memory
        cores += part.cores
        cpus += part.cpus
        tenants += 1
        whole |= part.whole
        unbounded |= not part.cores and not part.whole
        if part.start >= 0:
            instances.append((part.profile, part.start))
    return Use(memory, cores, cpus, tenants, min(tenants, 1), whole, unbounded, tuple(sorted(instances)))


def collapse(seats: Sequence[Seat], parts: Iterable[Part]) -> dict[str, Use]:
    """Card id -> what a pod needs of it at any moment, by the one formula.

    An instance that an init container and a later container both name is one instance. Raises ValueError for a part of a
    container that the pod does not have, and for two containers that hold one instance at the same time.
    """
    held = dict[str, dict[str, list[Part]]]()
    names = {seat.container for seat in seats}
    for part in parts:
        if part.container not in names:
            raise ValueError(f"the pod has no container {part.container}: its containers are {', '.join(sorted(names))}")
        held.setdefault(part.device, {}).setdefault(part.container, []).append(part)
    return {device: _peak(device, seats, by_container) for device, by_container in held.items()}


def _peak(device: str, seats: Sequence[Seat], parts: dict[str, list[Part]]) -> Use:
    if len(parts) == 1:  # one container has the card: whenever that runs, it is the most
        only = use_of(next(iter(parts.values())))
        if len(set(only.instances)) < len(only.instances):
            raise ValueError(f"two containers hold the same part of {device} at the same time")
        return only
    staying, moments, instances = list[Part](), list[Use](), set[Instance]()
    for seat in seats:
        if seat.role == "app":
            continue
        now = use_of([*staying, *parts.get(seat.container, ())])
        moments.append(now)
        if seat.role == "sidecar":
            staying += parts.get(seat.container, ())
    moments.append(use_of([*staying, *(part for seat in seats if seat.role == "app" for part in parts.get(seat.container, ()))]))
    for moment in moments:
        if len(set(moment.instances)) < len(moment.instances):
            raise ValueError(f"two containers hold the same part of {device} at the same time")
        instances |= set(moment.instances)
    return Use(
        memory=max(moment.memory for moment in moments),
        cores=max(moment.cores for moment in moments),
        cpus=max(moment.cpus for moment in moments),
        tenants=max(moment.tenants for moment in moments),
        pods=1,
        whole=max(moment.whole for moment in moments),
        open=max(moment.open for moment in moments),
        instances=tuple(sorted(instances)),
    )


def lack(device: Device, used: Use, more: Use, rules: Rules = ANY) -> str:
    """What keeps `more` from fitting on a card that is used so far, "" if it fits. Words of `explain`."""
    if not device.healthy:
        return "card health"
    if more.whole and used.pods:
        return "idle cards"
    if used.whole:
        return "card taken whole"
    if rules.max_pods and used.pods + more.pods > rules.max_pods:
        return "pods per card"
    if device.tenants and used.tenants + more.tenants > device.tenants:
        return "containers per card"
    if bool(device.layout) != bool(more.instances):
        return "card is cut into parts" if device.layout else "card is not cut into parts"
    if device.layout:
        return "" if _disjoint(device, (*used.instances, *more.instances)) else "free slices"
    if used.memory + more.memory > device.memory and (device.memory or not more.whole):
        return "card memory"
    if device.cores and (used.cores + more.cores > device.cores or (more.open and used.cores + more.cores >= device.cores)):
        return "card cores"
    if device.cores and used.open and used.cores + more.cores >= device.cores:
        return "card cores"  # nothing would be left for those that set no bound
    if used.cpus + more.cpus > device.cpus:
        return "card processors"
    return ""


def _disjoint(device: Device, instances: Sequence[Instance]) -> bool:
    taken = 0
    for instance in instances:
        mask = mask_of(device.layout, device.kind, instance)
        if not mask or taken & mask or (device.instances and instance not in device.instances):
            return False
        taken |= mask
    return True


@lru_cache(maxsize=4096)
def mask_of(layout: str, kind: str, instance: Instance) -> int:
    """Slices of an instance as bits, 0 for one that the layout does not allow. Above the slices, a bit for each once-only
    profile."""
    model = KINDS[kind].by_model.get(layout)
    if model is None:
        return 0
    profile = model.profile(instance[0])
    if profile is None or instance[1] not in profile.starts:
        return 0
    mask = ((1 << profile.size) - 1) << instance[1]
    return mask | (1 << (model.slices + model.profiles.index(profile)) if profile.once else 0)


def mask(device: Device, used: Use) -> int:
    """All bits that are taken on a cut card."""
    taken = 0
    for instance in used.instances:
        taken |= mask_of(device.layout, device.kind, instance)
    return taken


def best_start(device: Device, used: Use, name: str) -> int:
    """Where a part of that profile goes so that most stays possible for others, -1 if nowhere. Lowest on ties."""
    cut = tuple(sorted(device.instances))
    return _best_start(device.kind, device.layout, cut, mask(device, used), name)


@lru_cache(maxsize=65536)
def _best_start(kind: str, layout: str, cut: tuple[Instance, ...], taken: int, name: str) -> int:
    model = KINDS[kind].by_model[layout]
    profile = model.profile(name)
    if profile is None:
        return -1
    best, most = -1, -1
    for start in profile.starts:
        bits = mask_of(layout, kind, (name, start))
        if taken & bits or (cut and (name, start) not in cut):
            continue
        worth = _possible(model, cut, taken | bits)
        if worth > most:
            best, most = start, worth
    return best


def _possible(model: Model, cut: tuple[Instance, ...], taken: int) -> int:
    """Slices of all the places where one part more could still go: what remains useful of a cut card."""
    return sum(
        profile.size
        for profile in model.profiles
        for start in profile.starts
        if not taken & (((1 << profile.size) - 1) << start) and (not cut or (profile.name, start) in cut)
    )


def template_of(device: Device, profile: str) -> Profile | None:
    """The profile of that name for this card's model."""
    table = device.table
    return table.profile(profile) if table else None


def free_milli(device: Device, used: Use) -> int:
    """Free part of a card in thousandths: the least of memory and cores, slices of a cut card; 0 of a sick one and one taken
    whole."""
    if not device.healthy or used.whole:
        return 0
    if device.layout:
        slices = KINDS[device.kind].by_model[device.layout].slices
        return 1000 * (slices - (mask(device, used) & ((1 << slices) - 1)).bit_count()) // slices
    left = 1000
    if device.memory:
        left = min(left, 1000 * max(0, device.memory - used.memory) // device.memory)
    if device.cores:
        left = min(left, 1000 * max(0, device.cores - used.cores) // device.cores)
    return left
