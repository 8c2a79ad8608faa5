"""What the scheduler reads of `resource.k8s.io/v1` (Kubernetes 1.36): claims on devices, their classes, and devices as drivers
publish them. Fields that nothing here reads are not decoded; what is written back unread (configuration) stays as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.api.kubernetes.core import Meta, NodeSelector, Quantities

FINALIZER = "resource.kubernetes.io/delete-protection"
"""Keeps an allocated claim until nobody uses it. Whoever allocates adds it; the controller manager takes it away."""
CLASS_RESOURCE = "deviceclass.resource.kubernetes.io/"
"""Prefix of the extended resource that stands for a DeviceClass."""


class Toleration(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class Taint(msgspec.Struct, frozen=True, omit_defaults=True):
    key: str
    value: str = ""
    effect: str = ""


class CEL(msgspec.Struct, frozen=True):
    expression: str


class DeviceSelector(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cel` None: a kind of selector that is not known here."""

    cel: CEL | None = None


# --- claims -----------------------------------------------------------------------------------------------------------


class Capacity(msgspec.Struct, frozen=True, omit_defaults=True):
    requests: Quantities = {}


class Exactly(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`ExactDeviceRequest`, and with a `name` `DeviceSubRequest`."""

    name: str = ""
    device_class_name: str = ""
    selectors: tuple[DeviceSelector, ...] = ()
    allocation_mode: str = "ExactCount"
    count: int = 1
    admin_access: bool | None = None
    tolerations: tuple[Toleration, ...] = ()
    capacity: Capacity | None = None


class DeviceRequest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    exactly: Exactly | None = None
    first_available: tuple[Exactly, ...] = ()


class DeviceConstraint(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    requests: tuple[str, ...] = ()
    match_attribute: str | None = None
    distinct_attribute: str | None = None


class ClaimConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    requests: tuple[str, ...] = ()
    opaque: Any = None


class DeviceClaim(msgspec.Struct, frozen=True, omit_defaults=True):
    requests: tuple[DeviceRequest, ...] = ()
    constraints: tuple[DeviceConstraint, ...] = ()
    config: tuple[ClaimConfig, ...] = ()


class ResourceClaimSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    devices: DeviceClaim = DeviceClaim()


class Result(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One allocated device. With `admin_access` it is watched, not held."""

    request: str = ""
    driver: str = ""
    pool: str = ""
    device: str = ""
    admin_access: bool | None = None
    binding_conditions: tuple[str, ...] = ()


class AllocatedDevices(msgspec.Struct, frozen=True, omit_defaults=True):
    results: tuple[Result, ...] = ()


class Allocation(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`node_selector` None: the devices can be used from every node."""

    devices: AllocatedDevices = AllocatedDevices()
    node_selector: NodeSelector | None = None


class ConsumerReference(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    api_group: str = ""
    resource: str = ""
    name: str = ""
    uid: str = ""


class ResourceClaimStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    allocation: Allocation | None = None
    reserved_for: tuple[ConsumerReference, ...] = ()


class ClaimMeta(Meta, frozen=True, rename="camel", omit_defaults=True):
    finalizers: tuple[str, ...] = ()


class ResourceClaim(msgspec.Struct, frozen=True, gc=False):
    metadata: ClaimMeta
    spec: ResourceClaimSpec = ResourceClaimSpec()
    status: ResourceClaimStatus = ResourceClaimStatus()


# --- classes ----------------------------------------------------------------------------------------------------------


class ClassConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    opaque: Any = None


class DeviceClassSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    selectors: tuple[DeviceSelector, ...] = ()
    config: tuple[ClassConfig, ...] = ()
    extended_resource_name: str | None = None


class DeviceClass(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: DeviceClassSpec = DeviceClassSpec()


# --- devices ----------------------------------------------------------------------------------------------------------


class Attribute(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of them is set; lists (alpha in 1.36) are not read."""

    number: int | None = msgspec.field(default=None, name="int")
    flag: bool | None = msgspec.field(default=None, name="bool")
    text: str | None = msgspec.field(default=None, name="string")
    version: str | None = None

    @property
    def value(self) -> int | bool | str | None:
        """Comparable with another attribute's, together with `kind`."""
        return next((one for one in (self.number, self.flag, self.text, self.version) if one is not None), None)

    @property
    def kind(self) -> str:
        named = zip(("int", "bool", "string", "version"), (self.number, self.flag, self.text, self.version), strict=True)
        return next((name for name, one in named if one is not None), "")


class Amount(msgspec.Struct, frozen=True):
    value: str | int


class Consumption(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    counter_set: str
    counters: dict[str, Amount] = {}


class SliceDevice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    attributes: dict[str, Attribute] = {}
    capacity: dict[str, Amount] = {}
    consumes_counters: tuple[Consumption, ...] = ()
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool | None = None
    taints: tuple[Taint, ...] = ()
    binds_to_node: bool | None = None
    binding_conditions: tuple[str, ...] = ()
    allow_multiple_allocations: bool | None = None
    node_allocatable_resource_mappings: dict[str, Any] = {}


class CounterSet(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    counters: dict[str, Amount] = {}


class SlicePool(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    generation: int = 0
    resource_slice_count: int = 1


class ResourceSliceSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    driver: str
    pool: SlicePool
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool | None = None
    per_device_node_selection: bool | None = None
    devices: tuple[SliceDevice, ...] = ()
    shared_counters: tuple[CounterSet, ...] = ()


class ResourceSlice(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: ResourceSliceSpec
