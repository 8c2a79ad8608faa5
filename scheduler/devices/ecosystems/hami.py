"""HAMi: several resource names per kind, and the string of cards in pod and node annotations.

Sources: Project-HAMi/HAMi, pkg/device/devices.go (coding of strings), pkg/device/{nvidia,ascend}/device.go (requests, templates),
pkg/device/nvidia/mig_allocations.go, pkg/device/initContainer.go. Amounts of memory are MiB there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import msgspec

from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Part, Seat, template_of
from forebay.scheduler.devices.pod import Box, Object, Pod, mapping, text, texts
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import MIB, MOST_CARDS, MOST_MEMORY, Kind, Names, Words
from forebay.scheduler.devices.vendors.table import KINDS
from forebay.scheduler.pods.fill import Order
from forebay.scheduler.quota.inputs.check import Findings

CARDS_BY, NODES_BY = "hami.io/gpu-scheduler-policy", "hami.io/node-scheduler-policy"
NODE, TIME, PHASE, BOUND = "hami.io/vgpu-node", "hami.io/vgpu-time", "hami.io/bind-phase", "hami.io/bind-time"
PARTS = "hami.io/vgpu-mig-allocations"
MOST = 1 << 20
"""Containers or cores of a card."""
CORDON = "hami.io/device-cordon"


def rows() -> list[tuple[Kind, Names]]:
    """All names of the table that HAMi has words for."""
    return [(kind, names) for kind in KINDS.values() for names in kind.names if names.words]


@cache
def asking() -> frozenset[str]:
    """Annotations that `read_ask` reads, and nothing else does."""
    words = [names.words for _, names in rows() if names.words]
    some = [key for word in words for key in (word.use_type, word.no_use_type, word.use_id, word.no_use_id, word.numa)]
    return frozenset(key for key in (*some, CARDS_BY, NODES_BY) if key)


def extras(box: Box) -> bool:
    """Whether a container asks in names that only HAMi has."""
    return any(name in box.resources for _, names in rows() for name in (names.memory, names.percent, names.cores) if name)


def read_ask(pod: Pod, findings: Findings) -> PodAsk | None:
    """What the pod asks; None where it asks nothing, or contradicts itself (with a finding)."""
    found = list[Ask]()
    for box in pod.boxes:
        for kind, names in rows():
            asked = _container(kind, names, box, pod, findings)
            if asked is None:
                return None
            found += asked
        for kind in KINDS.values():
            for resource, count in box.resources.items():
                profile = kind.part_name(resource)
                if profile and count > MOST_CARDS:
                    most = f"ask for at most {MOST_CARDS}"
                    findings.add("error", pod.source, f"container {box.name} {resource}", count, "is more than a node has", most)
                    return None
                if profile:
                    found += [Ask(box.name, kind.name, box.role, profile=profile)] * count
        for kind in KINDS.values():
            for resource in kind.whole:
                if box.resources.get(resource) and not any(names.count == resource for names in kind.names):
                    found.append(Ask(box.name, kind.name, box.role, box.resources[resource], whole=True))
    if not found:
        return None
    words = [names.words for kind, names in rows() if names.words and any(ask.kind == kind.name for ask in found)]
    return PodAsk(
        tuple(found),
        pod.seats,
        "hami" if any(extras(box) for box in pod.boxes) else "plugin",
        types=_listed(pod, [word.use_type for word in words]),
        not_types=_listed(pod, [word.no_use_type for word in words]),
        ids=_listed(pod, [word.use_id for word in words]),
        not_ids=_listed(pod, [word.no_use_id for word in words]),
        one_numa=any(value.lower() in ("true", "1", "t") for value in _listed(pod, [word.numa for word in words])),
        cards_by=_order(pod, CARDS_BY, findings),
        nodes_by=_order(pod, NODES_BY, findings),
    )


def _container(kind: Kind, names: Names, box: Box, pod: Pod, findings: Findings) -> list[Ask] | None:
    count, memory, percent, cores = (
        box.resources.get(name, 0) if name else 0 for name in (names.count, names.memory, names.percent, names.cores)
    )
    if not (count or memory or percent or cores):
        return []
    count = count or 1  # HAMi's webhook adds one card to a container that asks for memory or cores alone
    where = f"container {box.name}"

    def wrong(name: str, amount: int, message: str, remedy: str) -> None:
        findings.add("error", pod.source, f"{where} {name}", amount, message, remedy)

    for name, amount in ((names.percent, percent), (names.cores, cores)):
        if amount > 100:
            wrong(name, amount, "is more than a card has", "write 1 to 100: it counts for each card")
            return None
    if memory and percent:
        wrong(names.percent, percent, f"stands beside {names.memory}", "ask for one of the two")
        return None
    model = kind.by_model.get(names.model)
    if model and count % model.multiple:
        if count != 1:
            wrong(names.count, count, "cuts a module apart", f"ask for a multiple of {model.multiple}")
            return None
        count = model.multiple
    if not (memory or percent or cores):
        return [Ask(box.name, kind.name, box.role, count, whole=True, model=names.model)]
    if not kind.several_shared and count > 1:
        wrong(names.count, count, "shares several cards", f"ask for whole ones: leave {names.memory} out")
        return None
    if kind.round_up and cores and not memory:
        wrong(names.cores, cores, f"stands without {names.memory}", f"add {names.memory}")
        return None
    held = memory * names.unit
    return [Ask(box.name, kind.name, box.role, count, held, percent if held else percent or 100, cores, model=names.model)]


def _listed(pod: Pod, keys: Sequence[str]) -> tuple[str, ...]:
    """Values of annotations that hold lists with commas."""
    return tuple(
        part.strip() for key in dict.fromkeys(keys) if key for part in pod.annotations.get(key, "").split(",") if part.strip()
    )


def _order(pod: Pod, key: str, findings: Findings) -> Order:
    chain = [word.strip() for word in pod.annotations.get(key, "").split(",") if word.strip()]
    for word in chain:
        if word == "binpack":
            return "binpack"
        if word == "spread":
            return "spread"
    if chain:
        remedy = "write binpack or spread; until then the scheduler's policy decides"
        findings.add("warning", pod.source, f"annotation {key}", ",".join(chain), "is no order that is known here", remedy)
    return ""


# nodes


def read_cards(node: Object, findings: Findings) -> tuple[Device, ...]:
    """Cards that HAMi's device plugins registered on a node. A registration that is unreadable is a finding and counts as
    none."""
    meta = mapping(node.get("metadata"))
    annotations, source = texts(meta.get("annotations")), f"Node {text(meta.get('name'))}"
    cordoned = {word.strip() for word in annotations.get(CORDON, "").split(",")}
    found = list[Device]()
    for kind, names in rows():
        assert names.words is not None
        value = annotations.get(names.words.register)
        if not value:
            continue
        try:
            listed = _json_cards(kind, names, value) if value.lstrip().startswith("[") else _string_cards(kind, names, value)
        except ValueError as wrong:
            remedy = "restart the device plugin of the node; until then its cards are not used"
            findings.add("error", source, f"annotation {names.words.register}", value, f"is no registration ({wrong})", remedy)
            continue
        found += [replace(device, healthy=False) if device.id in cordoned else device for device in listed]
    return tuple(found)


class _Registered(msgspec.Struct):
    id: str
    index: int = 0
    count: int = 0
    devmem: int = 0
    devcore: int = 100
    type: str = ""
    numa: int = 0
    mode: str = ""
    health: bool = False


def _json_cards(kind: Kind, names: Names, value: str) -> list[Device]:
    try:
        listed = msgspec.json.decode(value, type=list[_Registered])
    except msgspec.MsgspecError as wrong:
        raise ValueError(str(wrong)) from wrong
    return [_device(kind, names, one) for one in listed]


def _string_cards(kind: Kind, names: Names, value: str) -> list[Device]:
    if ":" not in value:
        raise ValueError("it has no separator")
    found = list[Device]()
    for number, one in enumerate(piece for piece in value.split(":") if piece):
        fields = one.split(",")
        if len(fields) not in (7, 9):
            raise ValueError(f"a card has {len(fields)} fields instead of 7 or 9")
        index = int(fields[7]) if len(fields) == 9 else number
        mode = fields[8] if len(fields) == 9 else ""
        shown = _Registered(
            fields[0], index, int(fields[1]), int(fields[2]), int(fields[3]), fields[4], int(fields[5]), mode, fields[6] == "true"
        )
        found.append(_device(kind, names, shown))
    return found


def _device(kind: Kind, names: Names, one: _Registered) -> Device:
    within = 0 <= one.index < MOST_CARDS and 0 <= one.devmem * MIB <= MOST_MEMORY
    if not one.id or not within or not 0 <= one.count < MOST or not 0 <= one.devcore < MOST:
        raise ValueError(f"card {one.id or one.index} has no id, or an amount that no card has")
    model = kind.by_model.get(names.model) or kind.model_of(one.type)
    cut = model.name if model and model.slices and one.mode == "mig" else ""
    return Device(
        one.id,
        one.index,
        kind.name,
        names.model or one.type,
        one.devmem * MIB,
        one.devcore,
        model.cpus if model else 0,
        0 if cut else one.count,
        one.health,
        one.numa,
        cut,
    )


# pods


def render(record: Record, devices: Sequence[Device]) -> dict[str, str]:
    """Annotations as HAMi's scheduler writes them, by kind: one string for init containers and containers, in order.

    Init containers are listed only where one of them holds a card, as older device plugins know none.
    """
    result = dict[str, str]()
    cards = {device.id: device for device in devices}
    seats = _listed_seats(record.seats, record.parts)
    for kind, names in rows():
        mine = [part for part in record.parts if part.kind == kind.name and _belongs(part, cards, names)]
        if not mine:
            continue
        assert names.words is not None
        held = [[part for part in mine if part.container == seat.container] for seat in seats]
        string = "".join("".join(_string(names.words, part, cards) for part in parts) + ";" for parts in held)
        result |= {names.words.to_allocate: string, names.words.allocated: string}
        if names.words.runtime:
            runtime = [_runtime(part) for parts in held for part in parts]
            result[names.words.runtime] = json.dumps(runtime, separators=(",", ":"))
        parts_ = [
            {
                "containerIndex": number,
                "deviceIndex": at,
                "gpuUUID": part.device,
                "profile": part.profile,
                "placement": {"start": part.start, "size": size},
            }
            for number, parts in enumerate(held)
            for at, part in enumerate(parts)
            if part.start >= 0 and (size := _size(part, cards))
        ]
        if parts_:
            result[PARTS] = json.dumps(parts_, separators=(",", ":"))
    seconds = str(record.time // 10**9)
    return result | {NODE: record.node, TIME: seconds, PHASE: "allocating", BOUND: seconds} if result else {}


def _listed_seats(seats: Sequence[Seat], parts: Sequence[Part]) -> list[Seat]:
    holding = {part.container for part in parts}
    early = any(seat.role != "app" and seat.container in holding for seat in seats)
    return [seat for seat in seats if early or seat.role == "app"]


def _belongs(part: Part, cards: Mapping[str, Device], names: Names) -> bool:
    table = cards[part.device].table if part.device in cards else None
    return not names.model or (table is not None and table.name == names.model)


def _string(words: Words, part: Part, cards: Mapping[str, Device]) -> str:
    device = cards.get(part.device)
    cores = part.cores
    if device is not None and device.cores not in (0, 100) and cores:  # HAMi counts percent, we count cores of the card
        cores = 0 if part.profile or part.whole else 100 * cores // device.cores
    return f"{part.device},{words.word},{part.memory // MIB},{cores}:"


def _runtime(part: Part) -> dict[str, object]:
    if part.cores and not part.profile and not part.whole:
        return {"UUID": part.device, "memory": part.memory // MIB, "core": part.cores}
    return {"UUID": part.device, "temp": part.profile} if part.profile else {"UUID": part.device}


def _size(part: Part, cards: Mapping[str, Device]) -> int:
    device = cards.get(part.device)
    found = template_of(device, part.profile) if device else None
    return found.size if found else 0


def read(annotations: Mapping[str, str], seats: Sequence[Seat], devices: Sequence[Device]) -> tuple[Part, ...]:
    """Parts that the annotations tell of, () for none. Raises ValueError with a sentence."""
    cards = {device.id: device for device in devices}
    found = list[Part]()
    for kind, names in rows():
        assert names.words is not None
        value = annotations.get(names.words.allocated) or annotations.get(names.words.to_allocate)
        if value:
            key = names.words.allocated if annotations.get(names.words.allocated) else names.words.to_allocate
            found += _read_string(kind, key, value, seats, cards, _read_parts(annotations.get(PARTS, "[]")))
    return tuple(found)


class _Placement(msgspec.Struct, frozen=True):
    start: int
    size: int


class _Located(msgspec.Struct, rename="camel"):
    container_index: int
    device_index: int
    gpu_uuid: str = msgspec.field(name="gpuUUID")
    profile: str = ""
    placement: _Placement = _Placement(0, 0)


def _read_parts(value: str) -> dict[tuple[int, int], _Located]:
    try:
        listed = msgspec.json.decode(value, type=list[_Located])
    except msgspec.MsgspecError as wrong:
        raise ValueError(f"{PARTS} is no list of parts ({wrong}): delete the annotation, or the pod") from wrong
    return {(one.container_index, one.device_index): one for one in listed}


def _read_string(  # noqa: PLR0917 - a string and what explains it
    kind: Kind,
    key: str,
    value: str,
    seats: Sequence[Seat],
    cards: Mapping[str, Device],
    located: Mapping[tuple[int, int], _Located],
) -> list[Part]:
    pieces = value.split(";")
    if pieces and not pieces[-1]:
        pieces.pop()
    apps = [seat for seat in seats if seat.role == "app"]
    order = list(seats) if len(pieces) == len(seats) else apps
    if len(pieces) > len(order):
        raise ValueError(f"{key} lists {len(pieces)} containers, the pod has {len(seats)}: delete the annotation, or the pod")
    found = list[Part]()
    for number, (seat, piece) in enumerate(zip(order, pieces, strict=False)):
        for at, one in enumerate(word for word in piece.split(":") if word):
            found.append(_read_part(kind, key, seat.container, one, cards, located.get((number, at))))
    return found


def _read_part(  # noqa: PLR0917 - one field of a string and what explains it
    kind: Kind, key: str, container: str, one: str, cards: Mapping[str, Device], located: _Located | None
) -> Part:
    fields = one.split(",")
    try:
        name, word, memory, cores = fields[0], fields[1], int(fields[2]) * MIB, int(fields[3])
        if not name or not word or memory < 0 or cores < 0:
            raise ValueError("it names no card or a negative amount")
    except (ValueError, IndexError) as wrong:
        raise ValueError(f"{key} holds {one!r}, which is no card ({wrong}): delete the annotation, or the pod") from wrong
    device = cards.get(name)
    index = device.index if device else -1
    if located is not None and located.gpu_uuid == name:
        profile = template_of(device, located.profile) if device else None
        cores = profile.cores if profile else cores
        memory = profile.memory if profile else memory
        return Part(container, name, index, kind.name, memory, cores, profile=located.profile, start=located.placement.start)
    if device is not None and device.cores not in (0, 100):
        cores = -(-device.cores * cores // 100)
    if device is not None and kind.round_up and not cores and device.table:
        template = next((profile for profile in device.table.profiles if profile.memory == memory), None)
        if template is not None:
            return Part(container, name, index, kind.name, memory, template.cores, template.cpus, template.name)
        return Part(container, name, index, kind.name, device.memory, device.cores, device.cpus, whole=True)
    return Part(container, name, index, kind.name, memory, cores)
