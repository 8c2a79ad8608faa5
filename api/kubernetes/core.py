"""What the scheduler reads of Kubernetes' core types: pods, nodes, namespaces. Fields that nothing here reads are not decoded.

Names, defaults and meanings are those of `core/v1` of Kubernetes 1.36. Quantities stay text (`api/quantity.py` reads them);
times stay text, they are only compared with "not set".

`gc=False`: what was decoded holds no cycles, and the collector need not walk it. With 150,000 pods that is two thirds of the time
that reading them takes.
"""

from __future__ import annotations

import msgspec

Quantities = dict[str, str | int]
"""Quantity by resource name, as written."""


class Meta(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`meta/v1.ObjectMeta`."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


# --- selectors --------------------------------------------------------------------------------------------------------


class Expression(msgspec.Struct, frozen=True, gc=False):
    """`meta/v1.LabelSelectorRequirement` and `core/v1.NodeSelectorRequirement`."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[Expression, ...] = ()


class NodeTerm(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    match_expressions: tuple[Expression, ...] = ()
    match_fields: tuple[Expression, ...] = ()


class NodeSelector(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    node_selector_terms: tuple[NodeTerm, ...] = ()


# --- pods -------------------------------------------------------------------------------------------------------------


class ClaimUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """DRA: a container uses the pod's claim `name`, all of it or one `request` of it."""

    name: str
    request: str = ""


class Resources(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    requests: Quantities = {}
    limits: Quantities = {}
    claims: tuple[ClaimUse, ...] = ()


class Port(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    container_port: int = 0
    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class EnvVar(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Literal values only."""

    name: str
    value: str = ""


class Container(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`restart_policy` is "Always" for an init container that is a sidecar."""

    name: str = ""
    resources: Resources = Resources()
    ports: tuple[Port, ...] = ()
    restart_policy: str = ""
    env: tuple[EnvVar, ...] = ()


class Toleration(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class PreferredNodeTerm(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`core/v1.PreferredSchedulingTerm`; `weight` 1 to 100."""

    weight: int
    preference: NodeTerm = NodeTerm()


class NodeAffinity(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    required: NodeSelector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: tuple[PreferredNodeTerm, ...] = msgspec.field(default=(), name="preferredDuringSchedulingIgnoredDuringExecution")


class PodAffinityTerm(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: LabelSelector | None = None
    match_label_keys: tuple[str, ...] = ()
    mismatch_label_keys: tuple[str, ...] = ()


class PreferredPodTerm(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`core/v1.WeightedPodAffinityTerm`; `weight` 1 to 100."""

    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """Of podAffinity and podAntiAffinity."""

    required: tuple[PodAffinityTerm, ...] = msgspec.field(default=(), name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: tuple[PreferredPodTerm, ...] = msgspec.field(default=(), name="preferredDuringSchedulingIgnoredDuringExecution")


class Affinity(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class SpreadConstraint(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    max_skew: int
    topology_key: str
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str = "Honor"
    node_taints_policy: str = "Ignore"
    match_label_keys: tuple[str, ...] = ()


class ClaimVolume(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    claim_name: str
    read_only: bool = False


class Ephemeral(msgspec.Struct, frozen=True, gc=False):
    """A claim's template, unread: the claim that was made from it says all."""


class Volume(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """A volume of a pod, as far as it is a claim. `ephemeral`: the claim is made for the pod and called `<pod>-<volume>`."""

    name: str
    persistent_volume_claim: ClaimVolume | None = None
    ephemeral: Ephemeral | None = None


class PodResourceClaim(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """DRA: `name` inside the pod; the claim's own name, or the template it is made from."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class SchedulingGate(msgspec.Struct, frozen=True, gc=False):
    name: str


class SchedulingGroup(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """Which PodGroup of scheduling.k8s.io the pod belongs to (1.36, gate GenericWorkload)."""

    pod_group_name: str = ""


class PodSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    overhead: Quantities = {}
    resources: Resources = Resources()
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[SpreadConstraint, ...] = ()
    volumes: tuple[Volume, ...] = ()
    resource_claims: tuple[PodResourceClaim, ...] = ()
    scheduling_gates: tuple[SchedulingGate, ...] = ()
    scheduling_group: SchedulingGroup | None = None
    scheduler_name: str = ""
    priority: int = 0
    priority_class_name: str = ""
    preemption_policy: str = ""
    restart_policy: str = ""
    active_deadline_seconds: int | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """What a running container was given, where that differs from what its spec asks (resize in place)."""

    name: str
    resources: Resources | None = None
    allocated_resources: Quantities = {}


class PodCondition(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class PodResourceClaimStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """The claim that was made for `PodResourceClaim.name`; no claim where none was needed."""

    name: str
    resource_claim_name: str | None = None


class PodStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    phase: str = ""
    start_time: str = ""
    nominated_node_name: str = ""
    conditions: tuple[PodCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    resource_claim_statuses: tuple[PodResourceClaimStatus, ...] = ()


class Pod(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


# --- nodes and namespaces ---------------------------------------------------------------------------------------------


class Taint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    key: str
    effect: str
    value: str = ""


class NodeSpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    capacity: Quantities = {}
    allocatable: Quantities = {}


class Node(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Namespace(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
