"""ACK's GPU sharing and the gpushare extender: `aliyun.com/gpu-mem` and its annotations v1, v2, v3.

Sources: the plugin as it stands in koordinator-sh/koordinator (pkg/scheduler/plugins/ack), its tests (pkg/util/transformer), the
extender AliyunContainerService/gpushare-scheduler-extender, and ACK's documentation of node labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import ANY, Device, Part, Rules, Seat
from forebay.scheduler.devices.pod import Object, Pod, amounts, mapping, texts
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import GIB, MOST_CARDS, MOST_MEMORY
from forebay.scheduler.devices.vendors.table import KINDS, SHARED
from forebay.scheduler.quota.inputs.check import Findings

MEMORY, COUNT = "aliyun.com/gpu-mem", "aliyun.com/gpu-count"
CORES, TFLOPS = "aliyun.com/gpu-core.percentage", "aliyun.com/gpu-core.tflops"
PLACEMENT, WHOLE_DEVICE = "ack.gpushare.placement", "require-whole-device"
MODE, ORDER, MAX_PODS = "ack.node.gpu.schedule", "ack.node.gpu.placement", "ack.node.gpu.max-pod"
UNHEALTHY = "unhealthy-gpu-"
STEP = 5
"""Cores come in multiples of 5 percent."""

V1_INDEX, V1_POD, V1_CARD = "ALIYUN_COM_GPU_MEM_IDX", "ALIYUN_COM_GPU_MEM_POD", "ALIYUN_COM_GPU_MEM_DEV"
V1_ASSIGNED, V1_TIME = "ALIYUN_COM_GPU_MEM_ASSIGNED", "ALIYUN_COM_GPU_MEM_ASSUME_TIME"
V2, V2_ASSIGNED, V2_TIME = (f"scheduler.framework.gpushare.{word}" for word in ("allocation", "assigned", "assume-time"))
V2_CORES = "gpushare.alibabacloud.com/core-percentage"
V3, V3_CARDS = "gpushare.alibabacloud.com/gpumemory", "gpushare.alibabacloud.com/device-resource"

MODES: dict[str, Rules] = {
    "default": Rules(shares=False),
    "topology": Rules(shares=False),
    "cgpu": Rules(whole=False, cores="never"),
    "share": Rules(whole=False, cores="never"),
    "mps": Rules(whole=False, cores="never"),
    "core_mem": Rules(whole=False, cores="must"),
}
"""What a node's mode gives out. core_mem nodes take pods without a bound on cores only where mixing is enabled."""


def asks(pod: Pod) -> bool:
    """Whether any container asks in these names."""
    return any(name in box.resources for box in pod.boxes for name in (MEMORY, CORES, TFLOPS))


def read_ask(pod: Pod, findings: Findings, unit: int = GIB) -> PodAsk | None:
    """What the pod asks; None, with a finding, where it contradicts itself. `unit`: bytes of one `aliyun.com/gpu-mem`."""
    count = _count(pod, findings)
    alone = _alone(pod, findings)
    if count is None or alone is None:
        return None
    found = list[Ask]()
    for box in pod.boxes:
        memory, cores = box.resources.get(MEMORY, 0), box.resources.get(CORES, 0)
        where = f"container {box.name}"
        if box.resources.get(TFLOPS):
            findings.add(
                "error", pod.source, f"{where} {TFLOPS}", box.resources[TFLOPS], "is not scheduled here", f"ask for {CORES}"
            )
            return None
        if cores and not memory:
            findings.add("error", pod.source, f"{where} {CORES}", cores, f"stands without {MEMORY}", f"add {MEMORY}")
            return None
        if cores and (cores % STEP or not STEP <= cores <= 100 * count):
            most = f"write a multiple of {STEP} from {STEP} to {100 * count}"
            findings.add("error", pod.source, f"{where} {CORES}", cores, "is no share of the cards' cores", most)
            return None
        for name, amount in ((MEMORY, memory), (CORES, cores)):
            if amount % count:
                remedy = f"ask for a multiple of {count}, or change the label"
                findings.add("error", pod.source, f"{where} {name}", amount, f"does not divide by {COUNT} {count}", remedy)
                return None
        if memory:
            found.append(Ask(box.name, SHARED, box.role, count, memory // count * unit, cores=cores // count, alone=alone))
    if len({bool(ask.cores) for ask in found}) > 1:
        remedy = f"give every container that has {MEMORY} also {CORES}, or none"
        findings.add("error", pod.source, CORES, None, "is asked by some containers only", remedy)
        return None
    return PodAsk(tuple(found), pod.seats, "ack", together=True) if found else None


def _count(pod: Pod, findings: Findings) -> int | None:
    value = pod.labels.get(COUNT)
    if value is None:
        return 1
    if not value.isdigit() or not int(value) <= 64:
        findings.add("error", pod.source, f"label {COUNT}", value, "is no number of cards", "write a whole number, such as 2")
        return None
    return int(value) or 1


def _alone(pod: Pod, findings: Findings) -> bool | None:
    value = pod.labels.get(PLACEMENT)
    if value in (None, WHOLE_DEVICE):
        return value is not None
    findings.add(
        "error", pod.source, f"label {PLACEMENT}", value, "is no placement", f"write {WHOLE_DEVICE}, or remove the label"
    )
    return None


def read_rules(labels: Mapping[str, str], source: str, findings: Findings, *, mix_cores: bool = False) -> Rules:
    """A node's policy from its labels. A mode that is unknown gives out nothing; a placement that is unknown counts as none."""
    mode, order, most = labels.get(MODE), labels.get(ORDER, ""), labels.get(MAX_PODS, "")
    rules = ANY if mode is None else MODES.get(mode)
    if rules is None:
        findings.add("error", source, f"label {MODE}", mode, "is no mode", f"write one of {', '.join(MODES)}")
        return Rules(whole=False, shares=False, source="ack")
    if mix_cores and rules.cores == "must":
        rules = replace(rules, cores="may")
    cards_by: Literal["", "binpack", "spread"] = "binpack" if order == "binpack" else "spread" if order == "spread" else ""
    if order != cards_by:
        findings.add("warning", source, f"label {ORDER}", order, "is no placement and counts as none", "write binpack or spread")
    if most and not most.isdigit():
        findings.add("warning", source, f"label {MAX_PODS}", most, "is no number and counts as none", "write a whole number")
        most = ""
    if most and not int(most):
        findings.add("warning", source, f"label {MAX_PODS}", most, "lets no pod share a card", "write 1 or more, or remove it")
        rules = replace(rules, shares=False)
    return replace(rules, cards_by=cards_by, max_pods=int(most or 0), source="ack" if mode is not None else "")


def read_cards(node: Object, findings: Findings, *, unit: int = GIB, unhealthy: Collection[int] = ()) -> tuple[Device, ...]:
    """Cards of a node that says only how many there are and how much memory all have: equal ones, as gpushare has them."""
    meta, status = mapping(node.get("metadata")), mapping(node.get("status"))
    name, labels = str(meta.get("name")), texts(meta.get("labels"))
    have = amounts(status.get("capacity") or status.get("allocatable"), (MEMORY, COUNT, CORES), f"Node {name}", findings)
    count, total = have.get(COUNT, 0), have.get(MEMORY, 0)
    if not total:
        return ()
    if not count or total % count:
        what = f"does not divide by its {count} cards" if count else f"stands without {COUNT}"
        findings.add(
            "warning", f"Node {name}", MEMORY, total, what, "let the device plugin report each card; until then the rest is left"
        )
    count = count or 1
    if count > MOST_CARDS or total // count * unit > MOST_MEMORY:
        message, remedy = "is more than a node has", "repair the device plugin; until then its cards are not used"
        findings.add("error", f"Node {name}", MEMORY, f"{total} on {count} cards", message, remedy)
        return ()
    kind = KINDS[SHARED]
    model = labels.get(kind.labels.get("ack", ""), "") or labels.get(kind.labels.get("product", ""), "")
    memory, cores = total // count * unit, 100 if have.get(CORES) or labels.get(MODE) == "core_mem" else 0
    return tuple(
        Device(f"gpu-{index}", index, SHARED, model, memory, cores, healthy=index not in unhealthy) for index in range(count)
    )


def read_unhealthy(name: str, data: Mapping[str, str], findings: Findings) -> tuple[str, frozenset[int]]:
    """Node and numbers of its sick cards by gpushare's ConfigMap (`unhealthy-gpu-<node>`, key `gpus`); ("", none) of another."""
    node = name.removeprefix(UNHEALTHY)
    if node == name:
        return "", frozenset()
    listed = [one.strip() for one in data.get("gpus", "").split(",") if one.strip()]
    for one in listed:
        if not (one.isascii() and one.isdigit()):
            findings.add(
                "warning", f"ConfigMap {name}", "gpus", one, "is no number of a card and counts as none", "write such as 0,2"
            )
    return node, frozenset(int(one) for one in listed if one.isascii() and one.isdigit())


def render(record: Record, devices: Sequence[Device], unit: int = GIB) -> dict[str, str]:
    """Annotations v1 (pods on one card) and v2, and the card totals. Init containers have no place in them and are left out.

    Raises ValueError for memory that is no whole number of units: a reader would count it wrong.
    """
    cards = {device.id: device for device in devices}
    memory, cores = dict[str, dict[str, int]](), dict[str, dict[str, int]]()
    numbers = {seat.container: str(number) for number, seat in enumerate(s for s in record.seats if s.role == "app")}
    for part in record.parts:
        if part.container not in numbers:
            continue
        if part.memory % unit:
            raise ValueError(f"pod {record.name} holds {part.memory} bytes of card {part.index}, which is no multiple of {unit}")
        memory.setdefault(numbers[part.container], {})[str(part.index)] = part.memory // unit
        if part.cores and not part.whole:
            cores.setdefault(numbers[part.container], {})[str(part.index)] = part.cores
    totals = {str(cards[part.device].index): cards[part.device].memory // unit for part in record.parts if part.device in cards}
    result = {V2: _json(memory), V2_ASSIGNED: "false", V2_TIME: str(record.time), V3_CARDS: _json(totals)}
    if cores:
        result[V2_CORES] = _json(cores)
    if len(totals) == 1:
        index, total = next(iter(totals.items()))
        held = sum(next(iter(one.values())) for one in memory.values())
        result |= {V1_INDEX: index, V1_POD: str(held), V1_CARD: str(total), V1_ASSIGNED: "false", V1_TIME: str(record.time)}
    return result


def read(annotations: Mapping[str, str], seats: Sequence[Seat], devices: Sequence[Device], unit: int = GIB) -> tuple[Part, ...]:
    """Parts that the annotations tell of, newest notation first; () for none. Raises ValueError with a sentence."""
    cards = {device.index: device for device in devices if device.kind == SHARED}
    apps = [seat.container for seat in seats if seat.role == "app"]
    for key in (V3, V2):
        if key in annotations:
            bounds = _table(V2_CORES, annotations.get(V2_CORES, "{}"))
            return tuple(
                _part(_nth(apps, number, key), index, units * unit, bounds.get(number, {}).get(index, 0), cards)
                for number, held in _table(key, annotations[key]).items()
                for index, units in held.items()
            )
    if V1_INDEX in annotations and V1_POD in annotations:
        index, units = annotations[V1_INDEX], annotations[V1_POD]
        if not index.lstrip("-").isdigit() or not units.isdigit() or int(index) < 0:
            raise ValueError(
                f"{V1_INDEX} {index} and {V1_POD} {units} name no card and amount: delete the annotations, or the pod"
            )
        return (_part(_nth(apps, 0, V1_INDEX), int(index), int(units) * unit, 0, cards),)
    return ()


def _table(key: str, text: str) -> dict[int, dict[int, int]]:
    try:
        return msgspec.json.decode(text, type=dict[int, dict[int, int]], strict=False)
    except msgspec.MsgspecError as wrong:
        raise ValueError(f"{key} is no allocation ({wrong}): delete the annotation, or the pod") from wrong


def _nth(apps: Sequence[str], number: int, key: str) -> str:
    if not 0 <= number < len(apps):
        raise ValueError(f"{key} names container {number}, the pod has {len(apps)}: delete the annotation, or the pod")
    return apps[number]


def _part(container: str, index: int, memory: int, cores: int, cards: Mapping[int, Device]) -> Part:
    if memory < 0 or cores < 0:
        raise ValueError(f"the allocation of container {container} is negative: delete the annotation, or the pod")
    device = cards.get(index)
    return Part(container, device.id if device else f"gpu-{index}", index, SHARED, memory, cores)


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
