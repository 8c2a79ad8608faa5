"""What a pass reads of each kind: users' objects and our children whole, of what there are many only the fields that count."""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.api.crd.kinds import KINDS, VERSION
from forebay.api.hints.nodecache import HeldDataset, NodeCacheStatus
from forebay.kube import resources as r
from forebay.kube.objects import ObjectMeta
from forebay.kube.resources import Resource
from forebay.runtimes.engine import Object

BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
JOBS = Resource("batch", "v1", "jobs", "Job")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")

RESOURCES = {k.kind: Resource(k.group, VERSION, k.plural, k.kind, k.scope == "Namespaced") for k in KINDS} | {
    x.kind: x
    for x in (
        r.NAMESPACES, r.NODES, r.PODS, r.SECRETS, r.CONFIG_MAPS, r.SERVICES, r.STATEFUL_SETS, r.VOLUMES, r.CLAIMS, r.EVENTS,
        BUDGETS, POLICIES, JOBS, ROLES, ROLE_BINDINGS, r.SERVICE_ACCOUNTS,
    )
}  # fmt: skip
"""Kind -> where it is served."""


class Whole(msgspec.Struct, frozen=True):
    """An object of which every field may count. Fields beside `spec` and `status` are those of ConfigMaps and classes."""

    metadata: ObjectMeta
    spec: Any = msgspec.UNSET
    status: Any = msgspec.UNSET
    data: Any = msgspec.UNSET
    file_system_type: Any = msgspec.field(default=msgspec.UNSET, name="fileSystemType")
    extra_resources: Any = msgspec.field(default=msgspec.UNSET, name="extraResources")
    data_operation_specs: Any = msgspec.field(default=msgspec.UNSET, name="dataOperationSpecs")
    topology: Any = msgspec.UNSET


class Meta(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Metadata of what there are many of."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Slight(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Metadata of what there are most of."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class ClaimSource(_Part, frozen=True):
    claim_name: str = ""


class Volume(_Part, frozen=True):
    persistent_volume_claim: ClaimSource | None = None


class PodSpec(_Part, frozen=True):
    node_name: str = ""
    volumes: tuple[Volume, ...] | None = ()
    termination_grace_period_seconds: int = 30


class Said(_Part, frozen=True):
    """A condition, or the state of a container, as others word it."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class Ended(_Part, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: str | None = None


class ContainerState(_Part, frozen=True):
    waiting: Said | None = None
    terminated: Ended | None = None


class ContainerStatus(_Part, frozen=True):
    name: str = ""
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(_Part, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Said, ...] | None = ()
    container_statuses: tuple[ContainerStatus, ...] | None = ()


class Pod(_Part, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ended(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def claims(self) -> list[str]:
        return [v.persistent_volume_claim.claim_name for v in self.spec.volumes or () if v.persistent_volume_claim]

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions or ())


class NodeStatus(_Part, frozen=True):
    conditions: tuple[Said, ...] | None = ()


class Node(_Part, frozen=True):
    metadata: Meta
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions or ())


class NodeCache(_Part, frozen=True):
    """What a node says of its caches. A field that a newer node writes is left out; one that it writes differently makes it no
    object that can be read."""

    metadata: Slight
    status: NodeCacheStatus | None = None

    @property
    def datasets(self) -> tuple[HeldDataset, ...]:
        return self.status.datasets if self.status is not None else ()


class Regarding(_Part, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class Series(_Part, frozen=True):
    last_observed_time: str | None = None


class Event(_Part, frozen=True):
    """`events.k8s.io/v1`; what still comes as `core/v1` has its time in a deprecated field."""

    metadata: Slight
    regarding: Regarding = Regarding()
    reason: str = ""
    note: str = ""
    type: str = ""
    event_time: str | None = None
    deprecated_last_timestamp: str | None = None
    series: Series | None = None

    @property
    def last(self) -> str:
        """When it was last said, "" if nobody says when."""
        return (self.series and self.series.last_observed_time) or self.deprecated_last_timestamp or self.event_time or ""


def as_object(resource: Resource, thing: msgspec.Struct) -> Object:
    """As JSON has it, with the `apiVersion` and `kind` that items of a list lack. What it holds is shared: not to be changed."""
    found: Object = {"apiVersion": resource.api_version, "kind": resource.kind}
    for field in msgspec.structs.fields(thing):
        value = getattr(thing, field.name)
        if value is not msgspec.UNSET:
            found[field.encode_name] = msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value
    return found
