"""An allocation as it is written in a claim's status, and as it is read back.

Source: `resource.k8s.io/v1` AllocationResult. A node selector has one term; devices of one node pin the claim to it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from forebay.api.kubernetes.core import Expression, NodeSelector, NodeTerm
from forebay.api.kubernetes.resource import Allocation, DeviceClass, ResourceClaim
from forebay.scheduler.claims.asks import Asked, Choice, Wanted
from forebay.scheduler.claims.pools import Device, DeviceId
from forebay.scheduler.claims.search import Given


@dataclass(frozen=True, slots=True)
class Allotted:
    """What a claim gets: `body` is `status.allocation`."""

    devices: tuple[DeviceId, ...]
    selector: NodeSelector | None
    body: Mapping[str, Any]


def held(allocation: Allocation | None) -> tuple[DeviceId, ...]:
    """Devices that nobody else may get. Admin access holds nothing."""
    if allocation is None:
        return ()
    return tuple(DeviceId(one.driver, one.pool, one.device) for one in allocation.devices.results if not one.admin_access)


def allot(claim: ResourceClaim, wanted: Wanted, given: Given, node: str, classes: Mapping[str, DeviceClass]) -> Allotted:
    """The claim's allocation, decided for that node."""
    choices = {choice.name: (asked, choice) for asked in wanted.asked for choice in asked.choices}
    selector = _selector([device for _, device in given.results], node)
    devices: dict[str, Any] = {"results": [_result(choices[name][1], device) for name, device in given.results]}
    chosen = [choices[name] for name in dict.fromkeys(name for name, _ in given.results)]
    if config := _config(claim, chosen, classes):
        devices["config"] = config
    body: dict[str, Any] = {"devices": devices}
    if selector is not None:
        body["nodeSelector"] = msgspec.to_builtins(selector)
    return Allotted(tuple(device.id for _, device in given.results), selector, body)


def _result(choice: Choice, device: Device) -> dict[str, Any]:
    one: dict[str, Any] = {"request": choice.name, "driver": device.id.driver, "pool": device.id.pool, "device": device.id.device}
    if choice.tolerations:
        one["tolerations"] = msgspec.to_builtins(choice.tolerations)
    return one


def _config(
    claim: ResourceClaim, chosen: Sequence[tuple[Asked, Choice]], classes: Mapping[str, DeviceClass]
) -> list[dict[str, Any]]:
    """First what classes say, then the claim: a driver lets the later one win."""
    found = list[dict[str, Any]]()
    for name in dict.fromkeys(choice.device_class for _, choice in chosen):
        requests = [choice.name for _, choice in chosen if choice.device_class == name]
        found += [{"source": "FromClass", "requests": requests, "opaque": one.opaque} for one in classes[name].spec.config]
    names = {name for asked, choice in chosen for name in (asked.name, choice.name)}
    for one in claim.spec.devices.config:
        if not one.requests:
            found.append({"source": "FromClaim", "opaque": one.opaque})
        elif names & set(one.requests):
            found.append({"source": "FromClaim", "requests": list(one.requests), "opaque": one.opaque})
    return found


def _selector(devices: Sequence[Device], node: str) -> NodeSelector | None:
    """Where the devices can be used; None for everywhere."""
    if any(device.node or device.published.binds_to_node for device in devices):
        return NodeSelector((NodeTerm(match_fields=(Expression("metadata.name", "In", (node,)),)),))
    fields, labels = dict[Expression, None](), dict[Expression, None]()
    for device in devices:
        for term in device.selector.node_selector_terms[:1] if device.selector is not None else ():
            fields.update(dict.fromkeys(term.match_fields))
            labels.update(dict.fromkeys(term.match_expressions))
    if not fields and not labels:
        return None
    return NodeSelector((NodeTerm(tuple(labels), tuple(fields)),))
