"""What a ResourceClaim wants, in the form that is searched for: read from its spec and the DeviceClasses that it names.

Hashable: claims made from one template want the same, so what was found for one holds for all. What is not done here is a
sentence, never a guess: admin access, capacity of shared devices, other constraints than equal and unlike attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forebay.api.kubernetes.resource import (
    DeviceClass,
    DeviceConstraint,
    DeviceRequest,
    DeviceSelector,
    Exactly,
    ResourceClaim,
    Toleration,
)
from forebay.scheduler.claims.selectors import Selector, SelectorError, compiled

MOST_DEVICES = 32
"""Of one claim (`AllocationResultsMaxSize`)."""


class NotDone(ValueError):
    """A claim that cannot be allocated here, whatever devices there are. `remedy` says what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to meet a request: `count` devices that all selectors mean, or (0) every one of them there is."""

    name: str
    device_class: str
    selectors: tuple[Selector, ...]
    count: int
    tolerations: tuple[Toleration, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its choices, the preferred one first."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """Devices of the `requests` (all of them if there are none) have the attribute, with one value or (`unlike`) each another."""

    attribute: str
    requests: tuple[str, ...]
    unlike: bool = False

    def concerns(self, asked: Asked, choice: Choice) -> bool:
        return not self.requests or asked.name in self.requests or choice.name in self.requests


@dataclass(frozen=True, slots=True)
class Wanted:
    """A claim without its name."""

    asked: tuple[Asked, ...]
    constraints: tuple[Constraint, ...] = ()


def read(claim: ResourceClaim, classes: Mapping[str, DeviceClass]) -> Wanted:
    """Raises NotDone."""
    devices = claim.spec.devices
    asked = tuple(_request(one, classes) for one in devices.requests)
    least = sum(min(max(choice.count, 1) for choice in one.choices) for one in asked)
    if least > MOST_DEVICES:
        raise NotDone(f"asks for {least} devices, a claim holds at most {MOST_DEVICES}", "spread them over several claims")
    return Wanted(asked, tuple(_constraint(one) for one in devices.constraints))


def _request(request: DeviceRequest, classes: Mapping[str, DeviceClass]) -> Asked:
    if request.exactly is not None:
        return Asked(request.name, (_choice(request.name, request.exactly, classes),))
    if not request.first_available:
        raise NotDone(f"request {request.name} is of a kind that is not known here", "write it with exactly or firstAvailable")
    choices = [_choice(f"{request.name}/{one.name}", one, classes) for one in request.first_available]
    return Asked(request.name, tuple(choices))


def _choice(name: str, one: Exactly, classes: Mapping[str, DeviceClass]) -> Choice:
    if one.admin_access:
        what = f"request {name} wants admin access, which is not given here"
        raise NotDone(what, "let the default scheduler place the pod")
    if one.capacity is not None and one.capacity.requests:
        what = f"request {name} wants a part of a device's capacity, which is not given here"
        raise NotDone(what, "ask for whole devices or for partitions")
    kind = classes.get(one.device_class_name)
    if kind is None:
        raise NotDone(f"DeviceClass {one.device_class_name} of request {name} does not exist", "create it or name another")
    if one.allocation_mode not in ("ExactCount", "All"):
        raise NotDone(
            f"request {name} has allocationMode {one.allocation_mode}, which is not known here", "write ExactCount or All"
        )
    try:
        selectors = tuple(_selector(each, name) for each in (*kind.spec.selectors, *one.selectors))
    except SelectorError as wrong:
        raise NotDone(
            f"request {name}: {wrong}", "write the selector in terms of device.driver, attributes and capacity"
        ) from wrong
    count = 0 if one.allocation_mode == "All" else one.count
    return Choice(name, one.device_class_name, selectors, count, one.tolerations)


def _selector(one: DeviceSelector, name: str) -> Selector:
    if one.cel is None:
        raise SelectorError(f"request {name} has a selector that is not CEL")
    return compiled(one.cel.expression)


def _constraint(one: DeviceConstraint) -> Constraint:
    requests = tuple(sorted(one.requests))
    if one.match_attribute is not None:
        return Constraint(one.match_attribute, requests)
    if one.distinct_attribute is not None:
        return Constraint(one.distinct_attribute, requests, unlike=True)
    raise NotDone("it has a constraint of a kind that is not known here", "use matchAttribute or distinctAttribute")
