"""A pod as the API server has it, reduced to what devices need: names, labels, annotations, and what each container asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from forebay.api.kubernetes import core as corev1
from forebay.api.quantity import QuantityError, parse_quantity
from forebay.scheduler.devices.card import Role, Seat
from forebay.scheduler.quota.inputs.check import Findings

Object = Mapping[str, object]


@dataclass(frozen=True)
class Box:
    """One container. `resources`: extended resources it asks for, in whole units; `claims`: (claim, request) it uses, request ""
    for all of the claim."""

    name: str
    role: Role
    resources: Mapping[str, int] = field(default_factory=dict)
    claims: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pod:
    """`boxes` in the pod's order: init containers and sidecars, then containers. `claims`: the pod's name of a claim -> object
    name."""

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    boxes: tuple[Box, ...]
    node: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def source(self) -> str:
        """How messages name it."""
        return f"Pod {self.full_name}"

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple(Seat(box.name, box.role) for box in self.boxes)


def plain(value: Object | msgspec.Struct) -> Object:
    """An object as JSON has it."""
    return mapping(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else value


def mapping(value: object) -> Object:
    """The value if it is a mapping, else an empty one."""
    if type(value) is dict:  # nearly always, and ten times as fast as asking for any mapping
        return value
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> Sequence[Object]:
    """The mappings of a list; whatever else it holds is left out."""
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return [one for one in listed if isinstance(one, Mapping)]


def texts(value: object) -> dict[str, str]:
    """Labels or annotations."""
    return {str(key): str(text) for key, text in mapping(value).items()}


def text(value: object) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def read_pod(value: Object | corev1.Pod, findings: Findings) -> Pod:
    """A pod object, typed or as JSON has it. What is unreadable in it becomes a finding and counts as not asked."""
    value = plain(value)
    meta, spec, status = mapping(value.get("metadata")), mapping(value.get("spec")), mapping(value.get("status"))
    source = f"Pod {text(meta.get('namespace')) or 'default'}/{text(meta.get('name'))}"
    boxes = list[Box]()
    for one in items(spec.get("initContainers")):
        role: Role = "sidecar" if one.get("restartPolicy") == "Always" else "init"
        boxes.append(_box(one, role, source, findings))
    boxes += [_box(one, "app", source, findings) for one in items(spec.get("containers"))]
    generated = {text(one.get("name")): text(one.get("resourceClaimName")) for one in items(status.get("resourceClaimStatuses"))}
    claims = {
        text(one.get("name")): text(one.get("resourceClaimName")) or generated.get(text(one.get("name")), "")
        for one in items(spec.get("resourceClaims"))
    }
    return Pod(
        text(meta.get("uid")),
        text(meta.get("namespace")) or "default",
        text(meta.get("name")),
        texts(meta.get("labels")),
        texts(meta.get("annotations")),
        tuple(boxes),
        text(spec.get("nodeName")),
        claims,
    )


def _box(value: Object, role: Role, source: str, findings: Findings) -> Box:
    name = text(value.get("name"))
    resources = mapping(value.get("resources"))
    asked = dict[str, int]()
    for key, amount in {**mapping(resources.get("requests")), **mapping(resources.get("limits"))}.items():
        if "/" not in str(key):  # cpu, memory, hugepages: not devices
            continue
        try:
            count = _quantity(amount if isinstance(amount, int) else str(amount))
        except QuantityError as wrong:
            findings.add("error", source, f"container {name} {key}", amount, str(wrong), wrong.remedy)
            continue
        if count < 0:
            findings.add("error", source, f"container {name} {key}", amount, "is negative", "ask for 0 or more")
        elif count:
            asked[str(key)] = count
    claims = tuple((text(one.get("name")), text(one.get("request"))) for one in items(resources.get("claims")))
    return Box(name, role, asked, claims)


@lru_cache(maxsize=4096)
def _quantity(amount: str | int) -> int:
    """Of thousands of pods there are few different ones, and a restart reads them all."""
    return parse_quantity(amount)


def amounts(value: object, names: Iterable[str], source: str, findings: Findings) -> dict[str, int]:
    """Named resources of a node's list, in whole units; those it does not have are left out."""
    found = dict[str, int]()
    for name in names:
        amount = mapping(value).get(name)
        if amount is None:
            continue
        try:
            found[name] = _quantity(amount if isinstance(amount, int) else str(amount))
        except QuantityError as wrong:
            findings.add("error", source, name, amount, str(wrong), wrong.remedy)
    return found
