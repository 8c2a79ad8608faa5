"""Koordinator: `koordinator.sh/gpu*`, the Device object, and the annotation `device-allocated`.

Sources: koordinator-sh/koordinator, apis/extension/device_share.go, pkg/scheduler/plugins/deviceshare/utils.go (which
combinations are valid). Koordinator counts a pod as a whole, so all its containers use the same cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec

from forebay.api.quantity import QuantityError, format_quantity, parse_quantity
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Part, Seat
from forebay.scheduler.devices.pod import Box, Object, Pod, amounts, items, mapping, text, texts
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import MOST_CARDS, MOST_MEMORY
from forebay.scheduler.devices.vendors.table import KINDS, SHARED, kind_of_vendor
from forebay.scheduler.quota.inputs.check import Findings

GPU, SHARES, CORES, MEMORY, RATIO = (
    f"koordinator.sh/{word}" for word in ("gpu", "gpu.shared", "gpu-core", "gpu-memory", "gpu-memory-ratio")
)
RESOURCES = (GPU, SHARES, CORES, MEMORY, RATIO)
ALLOCATED = "scheduling.koordinator.sh/device-allocated"
TYPE = "gpu"
"""Koordinator's device type of every accelerator, whatever its vendor."""
MODEL, VENDOR = "node.koordinator.sh/gpu-model", "node.koordinator.sh/gpu-vendor"


def asks(pod: Pod) -> bool:
    """Whether any container asks in these names."""
    return any(name in box.resources for box in pod.boxes for name in RESOURCES)


def read_ask(pod: Pod, findings: Findings) -> PodAsk | None:
    """What the pod asks; None where it asks nothing, or contradicts itself (with a finding)."""
    found = list[Ask]()
    for box in pod.boxes:
        ask = _container(box, pod, findings)
        if ask is None and any(name in box.resources for name in RESOURCES):
            return None
        if ask is not None:
            found.append(ask)
    counts = {ask.cards for ask in found}
    if len(counts) > 1:
        remedy = "give all containers the same number of cards"
        findings.add("error", pod.source, SHARES, None, "is not the same for all containers, which share their cards", remedy)
        return None
    return PodAsk(tuple(found), pod.seats, "koordinator", together=True) if found else None


def _container(box: Box, pod: Pod, findings: Findings) -> Ask | None:
    asked = {name: box.resources[name] for name in RESOURCES if name in box.resources}
    if not asked:
        return None

    def wrong(name: str, message: str, remedy: str) -> None:
        findings.add("error", pod.source, f"container {box.name} {name}", asked.get(name), message, remedy)

    if GPU in asked:
        if len(asked) > 1:
            wrong(GPU, "stands beside other names", f"ask for {GPU} alone, or for {CORES} and {RATIO}")
            return None
        asked = {CORES: asked[GPU], RATIO: asked[GPU]}
    if MEMORY in asked and RATIO in asked:
        wrong(RATIO, f"stands beside {MEMORY}", "ask for one of the two")
        return None
    if MEMORY not in asked and RATIO not in asked:
        wrong(CORES if CORES in asked else SHARES, "stands without memory", f"add {RATIO} or {MEMORY}")
        return None
    count = asked.get(SHARES, 0)
    if not count:
        most = max(asked.get(CORES, 0), asked.get(RATIO, 0))
        count = most // 100 if most > 100 else 1
    for name in (CORES, RATIO, MEMORY):
        amount = asked.get(name, 0)
        if amount % count:
            wrong(name, f"does not divide by {count} cards", f"ask for a multiple of {count}")
            return None
        if name != MEMORY and amount // count > 100:
            wrong(name, f"is more than {count} cards have", f"ask for at most {100 * count}, more only in steps of 100")
            return None
    memory, ratio, cores = (asked.get(name, 0) // count for name in (MEMORY, RATIO, CORES))
    return Ask(box.name, SHARED, box.role, count, memory, ratio, cores)


def read_cards(value: Object, labels: Mapping[str, str], findings: Findings) -> tuple[Device, ...]:
    """Cards of a Device object (scheduling.koordinator.sh/v1alpha1), named as its node. `labels` are the node's or the
    object's."""
    meta = mapping(value.get("metadata"))
    source = f"Device {text(meta.get('name'))}"
    both = {**labels, **texts(meta.get("labels"))}
    kind = kind_of_vendor(both[VENDOR]) if VENDOR in both else KINDS[SHARED]
    if kind is None:
        known = ", ".join(one.vendor for one in KINDS.values())
        findings.add("error", source, f"label {VENDOR}", both[VENDOR], "is no vendor that is known here", f"write one of {known}")
        return ()
    found = list[Device]()
    for one in items(mapping(value.get("spec")).get("devices")):
        if one.get("type") != TYPE:
            continue
        minor = one.get("minor")
        if not isinstance(minor, int) or not 0 <= minor < MOST_CARDS:
            findings.add(
                "error", source, "spec.devices[].minor", minor, "is no number of a card", "write 0 or more; the card is left out"
            )
            continue
        names = {"cores": CORES, "cpus": "", **kind.amounts}
        have = amounts(one.get("resources"), (MEMORY, names["cores"], names["cpus"]), source, findings)
        if any(not 0 <= amount <= MOST_MEMORY for amount in have.values()):
            findings.add(
                "error", source, f"spec.devices[{minor}].resources", None, "is more than a card has", "repair it; it is left out"
            )
            continue
        numa = mapping(one.get("topology")).get("nodeID")
        found.append(
            Device(
                text(one.get("id")) or f"{TYPE}-{minor}",
                minor,
                kind.name,
                both.get(MODEL, ""),
                have.get(MEMORY, 0),
                have.get(names["cores"], 0),
                have.get(names["cpus"], 0),
                healthy=one.get("health") is True,
                numa=numa if isinstance(numa, int) else -1,
            )
        )
    return tuple(found)


def render(record: Record, devices: Sequence[Device]) -> dict[str, str]:
    """The annotation: what the pod needs of each card, by the one formula."""
    cards = {device.id: device for device in devices}
    uses, listed = record.uses(), list[dict[str, object]]()
    for name in sorted(uses, key=lambda key: (cards[key].index if key in cards else -1, key)):
        use, device = uses[name], cards.get(name)
        index = next(part.index for part in record.parts if part.device == name)
        whole = bool(use.whole)
        resources = dict[str, str]()
        if use.cores or whole:
            resources[CORES] = "100" if whole else str(use.cores)
        resources[MEMORY] = format_quantity(use.memory)
        if device is not None and device.memory:
            resources[RATIO] = "100" if whole else str(100 * use.memory // device.memory)
        one: dict[str, object] = {"minor": index, "resources": resources}
        if not name.startswith(f"{TYPE}-"):
            one["id"] = name
        profile = next((part.profile for part in record.parts if part.device == name and part.profile), "")
        if profile:
            one["extension"] = {"gpuSharedResourceTemplate": profile}
        listed.append(one)
    return {ALLOCATED: json.dumps({TYPE: listed}, separators=(",", ":"))} if listed else {}


class _Extension(msgspec.Struct, rename="camel"):
    gpu_shared_resource_template: str = ""


class _Allocation(msgspec.Struct):
    minor: int
    resources: dict[str, str | int] = {}
    id: str = ""
    extension: _Extension | None = None


def read(annotations: Mapping[str, str], seats: Sequence[Seat], devices: Sequence[Device]) -> tuple[Part, ...]:
    """Parts that the annotation tells of, all with the pod's first container, as it names none. Raises ValueError with a
    sentence."""
    value = annotations.get(ALLOCATED)
    if value is None:
        return ()
    try:
        raw = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        listed = msgspec.json.decode(raw[TYPE], type=list[_Allocation]) if TYPE in raw else []
        apps = [seat.container for seat in seats if seat.role == "app"]
        return tuple(_part(one, apps[0], {device.index: device for device in devices}) for one in listed) if apps else ()
    except (msgspec.MsgspecError, QuantityError) as wrong:
        raise ValueError(f"{ALLOCATED} is no allocation ({wrong}): delete the annotation, or the pod") from wrong


def _part(one: _Allocation, container: str, cards: Mapping[int, Device]) -> Part:
    asked = {
        name.rpartition("/")[2]: parse_quantity(amount) for name, amount in one.resources.items()
    }  # older ones: kubernetes.io/
    device = cards.get(one.minor)
    total = device.memory if device else 0
    memory = asked.get("gpu-memory", total * asked.get("gpu-memory-ratio", 0) // 100)
    cores = asked.get("gpu-core", 0)
    if memory < 0 or cores < 0:
        raise ValueError(f"{ALLOCATED} holds a negative amount: delete the annotation, or the pod")
    name = one.id or (device.id if device else f"{TYPE}-{one.minor}")
    profile = one.extension.gpu_shared_resource_template if one.extension else ""
    return Part(container, name, one.minor, device.kind if device else SHARED, memory, cores, profile=profile)
