"""Dynamic resource allocation: ResourceClaims as requests, ResourceSlices as cards, and allocations as they are written in a
claim.

Source: resource.k8s.io/v1 (Kubernetes API reference); what NVIDIA's driver publishes: NVIDIA/k8s-dra-driver-gpu (attributes type,
uuid, productName, profile, parentUUID; capacities memory and memorySliceN of a part). A claim lasts as long as its pod, so
what it holds counts like a container's, also where only an init container uses it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from forebay.api.quantity import QuantityError, format_quantity, parse_quantity
from forebay.scheduler.devices.ask import Ask, PodAsk
from forebay.scheduler.devices.card import Device, Instance, Part, Seat
from forebay.scheduler.devices.pod import Object, Pod, items, mapping, text
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import MOST_MEMORY, Dra, Kind
from forebay.scheduler.devices.vendors.table import KINDS
from forebay.scheduler.quota.inputs.check import Findings

_EQUALS = re.compile(r"device\.attributes\[['\"](?P<domain>[^'\"]+)['\"]\]\.(?P<name>\w+)\s*==\s*['\"](?P<value>[^'\"]+)['\"]")
_DRIVER = re.compile(r"device\.driver\s*==\s*['\"](?P<value>[^'\"]+)['\"]")
SPACE = uuid.UUID("6f0cf3ab-6a3a-5f56-9a3e-2f3f3c9f6c1d")
"""Share ids are derived from pod, claim and card, so that a retry writes the same."""


def rows() -> list[tuple[Kind, Dra]]:
    """Kinds of the table that have a driver."""
    return [(kind, kind.dra) for kind in KINDS.values() if kind.dra is not None]


def read_ask(pod: Pod, claims: Mapping[str, Object], findings: Findings) -> PodAsk | None:
    """What the pod's claims ask for devices of known kinds; None where they ask nothing, or with a finding.

    `claims`: ResourceClaim objects by name, of the pod's namespace. Selectors are understood where they compare attributes
    with ==.
    """
    found, types, ids = list[Ask](), list[str](), list[str]()
    for alias, name in pod.claims.items():
        claim = claims.get(name)
        if claim is None:
            findings.add("error", pod.source, f"claim {alias}", name or None, "does not exist yet", "wait for it, or create it")
            return None
        for request in items(mapping(mapping(claim.get("spec")).get("devices")).get("requests")):
            asked = _request(pod, alias, name, request, findings)
            if asked is None:
                return None
            ask, wanted_types, wanted_ids = asked
            found += ask
            types += wanted_types
            ids += wanted_ids
    seats = pod.seats
    return PodAsk(tuple(found), seats, "dra", types=tuple(dict.fromkeys(types)), ids=tuple(dict.fromkeys(ids))) if found else None


def _request(
    pod: Pod, alias: str, name: str, request: Object, findings: Findings
) -> tuple[list[Ask], list[str], list[str]] | None:
    source, label = f"ResourceClaim {pod.namespace}/{name}", text(request.get("name"))
    exact = mapping(request.get("exactly")) or request  # v1beta1 has the fields in the request itself
    field = f"spec.devices.requests[{label}]"

    def wrong(part: str, value: object, message: str, remedy: str) -> None:
        findings.add("error", source, f"{field}.{part}", value, message, remedy)

    if request.get("firstAvailable"):
        wrong("firstAvailable", None, "is not decided here", "write the request with exactly")
        return None
    kind = next(((kind, dra) for kind, dra in rows() if exact.get("deviceClassName") in (dra.whole, dra.part)), None)
    if kind is None:
        return [], [], []  # another driver's devices are not ours to count
    count = exact.get("count", 1)
    if exact.get("allocationMode", "ExactCount") != "ExactCount" or not isinstance(count, int) or not 1 <= count <= 64:
        wrong("count", count, "is no number of cards that is decided here", "write allocationMode ExactCount and count 1 to 64")
        return None
    attributes = _selected(kind[1], exact, wrong)
    if attributes is None:
        return None
    container = _holder(pod, alias, label)
    profile = attributes.get(kind[1].profile, "")
    if exact.get("deviceClassName") == kind[1].part and not profile:
        wrong("selectors", None, "names no profile", f"add one that compares {kind[1].profile} with ==")
        return None
    try:
        wanted = mapping(mapping(exact.get("capacity")).get("requests"))
        memory = parse_quantity(str(wanted.get(kind[1].memory, 0)))
        cores = parse_quantity(str(wanted.get(kind[1].cores, 0)))
    except QuantityError as error:
        wrong("capacity.requests", None, str(error), error.remedy)
        return None
    claim = (name, label)
    if profile:
        asks = [Ask(container, kind[0].name, profile=profile, claim=claim)] * count
    else:
        asks = [Ask(container, kind[0].name, "app", count, memory, 0, cores, whole=not memory, claim=claim)]
    product, one = attributes.get(kind[1].product, ""), attributes.get(kind[1].uuid, "")
    return asks, [product] * bool(product), [one] * bool(one)


def _selected(dra: Dra, exact: Object, wrong: object) -> dict[str, str] | None:
    """Attributes that the request's selectors compare with ==; None if they say anything else."""
    found = dict[str, str]()
    for selector in items(exact.get("selectors")):
        for term in text(mapping(selector.get("cel")).get("expression")).split("&&"):
            match, driver = _EQUALS.fullmatch(term.strip()), _DRIVER.fullmatch(term.strip())
            if match and match["domain"] == dra.driver and match["name"] in (dra.profile, dra.product, dra.uuid, "type"):
                found[match["name"]] = match["value"]
            elif not driver or driver["value"] != dra.driver:
                assert callable(wrong)
                wrong(
                    "selectors",
                    term.strip(),
                    "is not evaluated here",
                    f"compare {dra.profile}, {dra.product} or {dra.uuid} with ==",
                )
                return None
    return found


def _holder(pod: Pod, alias: str, request: str) -> str:
    """The container that the claim's devices are booked on: the first that uses it and runs, as a claim lasts as long as the
    pod."""
    running = [box for box in pod.boxes if box.role == "app"]
    using = [box for box in running if any(one == alias and part in ("", request) for one, part in box.claims)]
    return (using or running or list(pod.boxes))[0].name


# cards


def read_cards(slices: Sequence[Object], node: str, findings: Findings) -> tuple[Device, ...]:
    """Cards of a node, as its drivers publish them. Of a pool only its newest generation counts.

    A card that is published only in parts is cut into them. One that is published whole and in parts is given out whole.
    """
    newest = dict[tuple[str, str], int]()
    mine = [mapping(one.get("spec")) for one in slices if text(mapping(one.get("spec")).get("nodeName")) == node]
    for spec in mine:
        pool = mapping(spec.get("pool"))
        key, generation = (text(spec.get("driver")), text(pool.get("name"))), pool.get("generation")
        newest[key] = max(newest.get(key, 0), generation if isinstance(generation, int) else 0)
    whole, parts = list[Device](), dict[str, list[tuple[Kind, Object, tuple[str, str, str]]]]()
    for spec in mine:
        pool = mapping(spec.get("pool"))
        driver, name = text(spec.get("driver")), text(pool.get("name"))
        found = next(((kind, dra) for kind, dra in rows() if dra.driver == driver), None)
        if found is None or pool.get("generation", 0) != newest[driver, name]:
            continue
        kind, dra = found
        for one in items(spec.get("devices")):
            device = mapping(one.get("basic")) or one  # v1beta1
            claim = (driver, name, text(one.get("name")))
            parent = _attribute(device, "parentUUID")
            if parent:
                parts.setdefault(parent, []).append((kind, device, claim))
            else:
                whole.append(_whole(kind, dra, device, claim, len(whole)))
    known = {device.id for device in whole}
    for parent, listed in sorted(parts.items()):
        if parent in known:
            message, remedy = "is published whole and in parts", "it is given out whole; publish only its parts to have it cut"
            findings.add("warning", f"Node {node}", f"card {parent}", None, message, remedy)
            continue
        cut = _cut(parent, listed, len(whole), node, findings)
        if cut is not None:
            whole.append(cut)
    return tuple(whole)


def _attribute(device: Object, name: str) -> str:
    return text(mapping(mapping(device.get("attributes")).get(name)).get("string"))


def _capacity(device: Object, name: str) -> int:
    value = mapping(device.get("capacity")).get(name)
    amount = mapping(value).get("value") if isinstance(value, Mapping) else value
    try:
        return min(max(parse_quantity(str(amount)), 0), MOST_MEMORY) if amount is not None else 0
    except QuantityError:
        return 0


def _whole(kind: Kind, dra: Dra, device: Object, claim: tuple[str, str, str], place: int) -> Device:
    number = mapping(mapping(device.get("attributes")).get("index")).get("int")
    product = _attribute(device, dra.product)
    model = kind.model_of(product)
    tainted = any(text(taint.get("effect")) in ("NoSchedule", "NoExecute") for taint in items(device.get("taints")))
    return Device(
        _attribute(device, dra.uuid) or "/".join(claim),
        number if isinstance(number, int) else place,
        kind.name,
        product,
        _capacity(device, dra.memory),
        _capacity(device, dra.cores) or (model.cores if model else kind.cores),
        healthy=not tainted,
        claim=claim,
    )


def _cut(
    parent: str, listed: Sequence[tuple[Kind, Object, tuple[str, str, str]]], place: int, node: str, findings: Findings
) -> Device | None:
    kind, first, claim = listed[0]
    dra = kind.dra
    assert dra is not None
    product = _attribute(first, dra.product)
    model = kind.model_of(product)
    if model is None or not model.slices:
        message, remedy = (
            "is of a model whose parts are not known here",
            "add it to the table of kinds; until then it is not used",
        )
        findings.add("error", f"Node {node}", f"card {parent}", product, message, remedy)
        return None
    names = dict[Instance, str]()
    for _, device, where in listed:
        slices = [n for n in range(model.slices) if _capacity(device, f"memorySlice{n}")]
        if slices:
            names[_attribute(device, dra.profile), slices[0]] = where[2]
    cut = Device(parent, place, kind.name, product, model.memory, model.cores, layout=model.name, claim=(claim[0], claim[1], ""))
    return replace(cut, instances=tuple(sorted(names)), parts=tuple(sorted(names.items())))


# allocations


def render(record: Record, devices: Sequence[Device]) -> dict[str, dict[str, object]]:
    """Claim name -> what its status gets: `allocation` and `reservedFor`. Raises ValueError for a card that DRA does not know."""
    cards, results = {device.id: device for device in devices}, dict[str, list[dict[str, object]]]()
    for part in record.parts:
        name, _, request = part.claim.partition("/")
        device = cards.get(part.device)
        if not name:
            continue
        found = "" if device is None else _published(device, part)
        if device is None or not found:
            raise ValueError(f"pod {record.name} holds card {part.device}, which no driver publishes on node {record.node}")
        one: dict[str, object] = {"request": request, "driver": device.claim[0], "pool": device.claim[1], "device": found}
        if not part.whole and part.start < 0:
            one["consumedCapacity"] = {"memory": format_quantity(part.memory)} | (
                {"cores": str(part.cores)} if part.cores else {}
            )
            one["shareID"] = str(uuid.uuid5(SPACE, f"{record.uid}/{part.claim}/{part.device}"))
        results.setdefault(name, []).append(one)
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [record.node]}]}
    pod = {"resource": "pods", "name": record.name.partition("/")[2], "uid": record.uid}
    return {
        name: {
            "allocation": {"devices": {"results": listed}, "nodeSelector": {"nodeSelectorTerms": [term]}},
            "reservedFor": [pod],
        }
        for name, listed in results.items()
    }


def _published(device: Device, part: Part) -> str:
    if part.start >= 0:
        return dict(device.parts).get((part.profile, part.start), "")
    return device.claim[2]


def read(
    pod_claims: Mapping[str, str], claims: Mapping[str, Object], seats: Sequence[Seat], devices: Sequence[Device]
) -> tuple[Part, ...]:
    """Parts that the claims of a pod hold, () for none. Raises ValueError for an allocation of cards that the node does not
    have."""
    by_name = {device.claim: (device, None) for device in devices if device.claim[2]}
    placed = {(*d.claim[:2], name): (d, instance) for d in devices for instance, name in d.parts}
    holder = next((seat.container for seat in seats if seat.role == "app"), "")
    found = list[Part]()
    for name in pod_claims.values():
        status = mapping(mapping(claims.get(name, {})).get("status"))
        for one in items(mapping(mapping(status.get("allocation")).get("devices")).get("results")):
            key = (text(one.get("driver")), text(one.get("pool")), text(one.get("device")))
            if not any(dra.driver == key[0] for _, dra in rows()):
                continue
            device, instance = by_name.get(key) or placed.get(key) or (None, None)
            if device is None:
                raise ValueError(f"claim {name} holds device {'/'.join(key)}, which no driver publishes: wait for its slice")
            found.append(_held(device, instance, one, holder, f"{name}/{text(one.get('request'))}"))
    return tuple(found)


def _held(device: Device, instance: Instance | None, one: Object, holder: str, claim: str) -> Part:
    if instance is not None:
        part = Ask(holder, device.kind, profile=instance[0]).part(device)
        memory, cores = (part.memory, part.cores) if part else (0, 0)
        return Part(holder, device.id, device.index, device.kind, memory, cores, 0, instance[0], instance[1], claim=claim)
    consumed = mapping(one.get("consumedCapacity"))
    if consumed:
        memory, cores = parse_quantity(str(consumed.get("memory", 0))), parse_quantity(str(consumed.get("cores", 0)))
        return Part(holder, device.id, device.index, device.kind, memory, cores, claim=claim)
    held = device.memory, device.cores, device.cpus
    return Part(holder, device.id, device.index, device.kind, *held, whole=True, claim=claim)
