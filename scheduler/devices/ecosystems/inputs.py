"""Whatever names a pod or a node uses: one ask, one list of cards, one record. What contradicts itself is a sentence, never a
guess."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from forebay.api.kubernetes import core as corev1
from forebay.scheduler.devices import record as own
from forebay.scheduler.devices.ask import Api, PodAsk
from forebay.scheduler.devices.card import Device, Part, Rules
from forebay.scheduler.devices.ecosystems import ack, dra, hami, koordinator
from forebay.scheduler.devices.pod import Object, Pod, amounts, mapping, plain, text, texts
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import GIB, MIB, MOST_CARDS, MOST_MEMORY
from forebay.scheduler.devices.vendors.table import KINDS
from forebay.scheduler.pods.fill import Order
from forebay.scheduler.quota.inputs.check import Findings


@dataclass(frozen=True)
class Settings:
    """Of a cluster. `unit`: bytes of one `aliyun.com/gpu-mem`; `mix_cores`: core_mem nodes take pods without a bound too.

    `mix_whole`: a node gives out whole cards and shares at a time, on different cards; else what it gave out first.
    `cards_by`: how cards of nodes are filled whose label does not say.
    """

    unit: int = GIB
    mix_cores: bool = False
    mix_whole: bool = True
    cards_by: Order = ""


DEFAULT = Settings()


@dataclass(frozen=True)
class Inventory:
    """What is known of a node's cards: in `api`'s words they are named and handed out."""

    devices: tuple[Device, ...] = ()
    rules: Rules = field(default_factory=Rules)
    api: Api = "plugin"


def read_ask(
    pod: Pod,
    findings: Findings,
    *,
    claims: Mapping[str, Object] = {},
    settings: Settings = DEFAULT,
) -> PodAsk | None:
    """What a pod asks of devices; None for nothing, and where it contradicts itself: then there is an error in `findings`."""
    before = len(findings.problems)
    spoken = list[tuple[str, Callable[[], PodAsk | None]]]()
    if ack.asks(pod):
        spoken.append((ack.MEMORY, lambda: ack.read_ask(pod, findings, settings.unit)))
    if koordinator.asks(pod):
        spoken.append(("koordinator.sh/gpu-*", lambda: koordinator.read_ask(pod, findings)))
    if pod.claims:
        spoken.append(("resource claims", lambda: dra.read_ask(pod, claims, findings)))
    read = [(name, ask) for name, reader in spoken if (ask := reader()) is not None]
    plain = hami.read_ask(pod, findings)
    if plain is not None:
        read.append(("cards by count", plain))
    if any(problem.severity == "error" for problem in findings.problems[before:]):
        return None
    if len(read) > 1:
        names = " and ".join(name for name, _ in read)
        remedy = "ask for devices in one way"
        findings.add("error", pod.source, "devices", None, f"are asked in several ways, {names}", remedy)
        return None
    if not read:
        return None
    ask = read[0][1]
    for one in ask.asks:
        if one.cards > MOST_CARDS or one.memory > MOST_MEMORY:
            what = f"{one.cards} cards with {one.memory // MIB} MiB"
            findings.add(
                "error", pod.source, f"container {one.container} devices", what, "is more than a node has", "ask for less"
            )
            return None
    return ask


def read_node(
    node: Object | corev1.Node,
    findings: Findings,
    *,
    device: Object | None = None,
    slices: Sequence[Object] = (),
    unhealthy: Collection[int] = (),
    settings: Settings = DEFAULT,
) -> Inventory:
    """Cards and policy of a node, from what is most exact: DRA slices, Koordinator's Device, HAMi's registration, counts.

    `device`: the Device object of that name; `unhealthy`: numbers of sick cards (ConfigMap `unhealthy-gpu-<node>`). Where two
    tell of different cards the more exact one counts, and a warning says so.
    """
    node = plain(node)
    meta = mapping(node.get("metadata"))
    name, labels = text(meta.get("name")), texts(meta.get("labels"))
    rules = ack.read_rules(labels, f"Node {name}", findings, mix_cores=settings.mix_cores)
    rules = replace(rules, mixed=rules.mixed and settings.mix_whole, cards_by=rules.cards_by or settings.cards_by)
    told: list[tuple[Api, tuple[Device, ...]]] = [
        ("dra", dra.read_cards(slices, name, findings)),
        ("koordinator", koordinator.read_cards(device, labels, findings) if device is not None else ()),
        ("hami", hami.read_cards(node, findings)),
        ("ack", ack.read_cards(node, findings, unit=settings.unit, unhealthy=unhealthy)),
        ("plugin", _counted(node, findings)),
    ]
    heard = [(api, devices) for api, devices in told if devices]
    if not heard:
        return Inventory(rules=rules)
    api, devices = heard[0]
    for other, listed in heard[1:]:
        if other != "plugin" and len(listed) != len(devices) and {d.kind for d in listed} <= {d.kind for d in devices}:
            message = f"has {len(devices)} cards after {api} and {len(listed)} after {other}"
            findings.add("warning", f"Node {name}", "devices", None, message, f"{api} counts; make the device plugins agree")
    if unhealthy:
        devices = tuple(replace(one, healthy=one.healthy and one.index not in unhealthy) for one in devices)
    if rules.source == "ack" and rules.cores == "never":
        devices = tuple(one if one.layout else replace(one, cores=0) for one in devices)  # compute is shared by all
    return Inventory(devices, rules, "ack" if rules.source == "ack" and rules.shares else api)


@lru_cache(maxsize=4096)
def served(resource: str) -> bool:
    """Whether a resource name asks for devices, in any API."""
    return resource in _SERVED or any(kind.part_name(resource) for kind in KINDS.values())


_SERVED = frozenset(
    name
    for kind in KINDS.values()
    for name in (*kind.whole, *(one for names in kind.names for one in (names.count, names.memory, names.percent, names.cores)))
    if name
) | {ack.MEMORY, ack.CORES, ack.TFLOPS, *koordinator.RESOURCES}


def _counted(node: Object, findings: Findings) -> tuple[Device, ...]:
    """Whole cards of a node that only counts them: its device plugin chooses, and what we book is how many are left."""
    meta, status = mapping(node.get("metadata")), mapping(node.get("status"))
    name, labels, found = text(meta.get("name")), texts(meta.get("labels")), list[Device]()
    for kind in KINDS.values():
        resources = dict.fromkeys((*kind.whole, *(names.count for names in kind.names)))
        have = amounts(status.get("allocatable"), resources, f"Node {name}", findings)
        for resource, count in have.items():
            if count > MOST_CARDS or any(device.kind == kind.name for device in found):
                continue
            model = next((one.model for one in kind.names if one.count == resource), "") or labels.get(
                kind.labels.get("product", ""), ""
            )
            size = labels.get(kind.labels.get("memory", ""), "")
            memory = min(int(size) * MIB, MOST_MEMORY) if size.isascii() and size.isdigit() and len(size) < 20 else 0
            row = kind.model_of(model)
            cores, cpus = (row.cores, row.cpus) if row else (kind.cores, 0)
            memory = memory or (row.memory if row else 0)
            found += [Device(f"{kind.name}-{index}", index, kind.name, model, memory, cores, cpus) for index in range(count)]
    return tuple(found)


def read_record(
    pod: Pod, inventory: Inventory, *, claims: Mapping[str, Object] = {}, settings: Settings = DEFAULT
) -> Record | None:
    """What a bound pod holds, None for nothing: after our own annotation, else after whatever else tells of it.

    Raises ValueError with a sentence where the notation that is read is unreadable, or tells of another node.
    """
    record = own.read(pod.annotations)
    if record is not None and record.node == pod.node:
        return record
    devices = inventory.devices
    parts: tuple[Part, ...] = (
        dra.read(pod.claims, claims, pod.seats, devices)
        or (hami.read(pod.annotations, pod.seats, devices) if pod.annotations.get(hami.NODE, pod.node) == pod.node else ())
        or koordinator.read(pod.annotations, pod.seats, devices)
        or ack.read(pod.annotations, pod.seats, devices, settings.unit)
    )
    if not parts:
        return None
    read = Record(pod.uid, pod.full_name, pod.node, pod.seats, parts, inventory.api)
    try:
        read.uses()
    except ValueError as wrong:
        raise ValueError(f"{pod.source}: {wrong}") from wrong
    return read


def render(record: Record, inventory: Inventory, settings: Settings = DEFAULT) -> dict[str, str]:
    """All annotations that a pod gets with its node: ours, and those of the API that it asked in or that hands out the node's
    cards."""
    result = own.render(record)
    api = record.api if record.api != "plugin" else inventory.api
    if api == "ack":
        result |= ack.render(record, inventory.devices, settings.unit)
    elif api == "hami":
        result |= hami.render(record, inventory.devices)
    elif api == "koordinator":
        result |= koordinator.render(record, inventory.devices)
    return result
