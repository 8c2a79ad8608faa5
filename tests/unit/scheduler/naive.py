"""The filters as the documentation of Kubernetes tells them, node by node and pod by pod, with no thought of speed.

Shares no code with the scheduler but the API's structs: amounts, selectors and all else are read anew here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from forebay.api.kubernetes.core import (
    Container,
    Expression,
    LabelSelector,
    Node,
    NodeSelector,
    Pod,
    PodAffinityTerm,
    SpreadConstraint,
    Taint,
    Toleration,
)
from forebay.api.kubernetes.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass


@dataclass
class World:
    """All objects, by name; pods by UID."""

    nodes: dict[str, Node] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    volumes: dict[str, PersistentVolume] = field(default_factory=dict)
    claims: dict[tuple[str, str], PersistentVolumeClaim] = field(default_factory=dict)
    classes: dict[str, StorageClass] = field(default_factory=dict)
    limits: dict[str, CSINode] = field(default_factory=dict)

    def bound(self, node: str | None = None) -> list[Pod]:
        """Pods that run on the node, or on any that is there."""
        there = [
            p for p in self.pods.values() if p.spec.node_name in self.nodes and p.status.phase not in ("Succeeded", "Failed")
        ]
        return there if node is None else [p for p in there if p.spec.node_name == node]


def fits(world: World, pod: Pod) -> set[str]:
    """Names of the nodes on which the pod may run, nominated pods of no lower priority heard too."""
    return {name for name in world.nodes if _fits(world, pod, name) and _fits_with_nominated(world, pod, name)}


def _fits_with_nominated(world: World, pod: Pod, name: str) -> bool:
    coming = [
        other
        for other in world.pods.values()
        if not other.spec.node_name
        and other.status.nominated_node_name == name
        and other.spec.priority >= pod.spec.priority
        and other.metadata.uid != pod.metadata.uid
        and other.status.phase not in ("Succeeded", "Failed")
    ]
    if not coming:
        return True
    import msgspec

    placed = {p.metadata.uid: msgspec.structs.replace(p, spec=msgspec.structs.replace(p.spec, node_name=name)) for p in coming}
    return _fits(
        World(world.nodes, {**world.pods, **placed}, world.namespaces, world.volumes, world.claims, world.classes, world.limits),
        pod,
        name,
    )


def _fits(world: World, pod: Pod, name: str) -> bool:
    node = world.nodes[name]
    return (
        resources(world, pod, node)
        and taints(pod, node)
        and node_affinity(pod, node)
        and ports(world, pod, name)
        and pod_affinity(world, pod, node)
        and spread(world, pod, node)
        and volumes(world, pod, node)
    )


# --- resources --------------------------------------------------------------------------------------------------------


SUFFIX = {"": 1, "m": Fraction(1, 1000), "k": 1000, "M": 10**6, "G": 10**9, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}


def number(value: str | int) -> Fraction:
    text = str(value)
    digits = text.rstrip("mkMGKi")
    return Fraction(digits) * SUFFIX[text[len(digits) :]]


def container_requests(container: Container) -> dict[str, Fraction]:
    asked = {name: number(value) for name, value in container.resources.requests.items()}
    for name, value in container.resources.limits.items():
        asked.setdefault(name, number(value))
    return asked


def requests(pod: Pod) -> dict[str, Fraction]:
    """The largest need at any moment of the pod's life."""
    names = (
        {name for c in (*pod.spec.containers, *pod.spec.init_containers) for name in container_requests(c)}
        | set(pod.spec.overhead)
        | set(pod.spec.resources.requests)
    )
    total = {}
    for name in names:
        moments = []
        sidecars = Fraction(0)
        for container in pod.spec.init_containers:
            here = container_requests(container).get(name, Fraction(0))
            if container.restart_policy == "Always":
                sidecars += here
                moments.append(sidecars)
            else:
                moments.append(sidecars + here)
        moments.append(sidecars + sum(container_requests(c).get(name, Fraction(0)) for c in pod.spec.containers))
        need = max(moments)
        if name in pod.spec.resources.requests and (name in ("cpu", "memory") or name.startswith("hugepages-")):
            need = number(pod.spec.resources.requests[name])
        total[name] = need + number(pod.spec.overhead.get(name, 0))
    return total


def resources(world: World, pod: Pod, node: Node) -> bool:
    there = world.bound(node.metadata.name)
    if len(there) + 1 > number(node.status.allocatable.get("pods", 0)):
        return False
    for name, need in requests(pod).items():
        used = sum(requests(other).get(name, Fraction(0)) for other in there)
        if need > 0 and used + need > number(node.status.allocatable.get(name, 0)):
            return False
    return True


# --- taints, node affinity --------------------------------------------------------------------------------------------


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    if toleration.operator in ("", "Equal"):
        return toleration.value == taint.value
    try:
        bound, value = int(toleration.value), int(taint.value)
    except ValueError:
        return False
    return {"Gt": value > bound, "Lt": value < bound}.get(toleration.operator, False)


def untolerated(pod: Pod, taints_: Iterable[Taint]) -> list[Taint]:
    hard = [t for t in taints_ if t.effect in ("NoSchedule", "NoExecute")]
    return [t for t in hard if not any(tolerates(one, t) for one in pod.spec.tolerations)]


def taints(pod: Pod, node: Node) -> bool:
    cordon = [Taint("node.kubernetes.io/unschedulable", "NoSchedule")] if node.spec.unschedulable else []
    return not untolerated(pod, [*node.spec.taints, *cordon])


def holds(expression: Expression, labels: dict[str, str]) -> bool:
    there, value = expression.key in labels, labels.get(expression.key, "")
    match expression.operator:
        case "In":
            return there and value in expression.values
        case "NotIn":
            return not there or value not in expression.values
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
    try:
        ours, bound = int(value), int(expression.values[0])
    except ValueError:
        return False
    return there and (ours > bound if expression.operator == "Gt" else ours < bound)


def node_selector(selector: NodeSelector, node: Node) -> bool:
    fields = {"metadata.name": node.metadata.name}
    return any(
        (term.match_expressions or term.match_fields)
        and all(holds(one, node.metadata.labels) for one in term.match_expressions)
        and all(holds(one, fields) for one in term.match_fields)
        for term in selector.node_selector_terms
    )


def node_affinity(pod: Pod, node: Node) -> bool:
    if any(node.metadata.labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    return affinity is None or affinity.required is None or node_selector(affinity.required, node)


# --- ports ------------------------------------------------------------------------------------------------------------


def host_ports(pod: Pod) -> Iterator[tuple[str, int, str]]:
    for container in (*pod.spec.containers, *(c for c in pod.spec.init_containers if c.restart_policy == "Always")):
        for port in container.ports:
            if port.host_port:
                yield port.protocol, port.host_port, port.host_ip or "0.0.0.0"


def ports(world: World, pod: Pod, node: str) -> bool:
    for protocol, port, ip in host_ports(pod):
        for other in world.bound(node):
            for theirs, number_, address in host_ports(other):
                if (protocol, port) == (theirs, number_) and (ip == address or "0.0.0.0" in (ip, address)):
                    return False
    return True


# --- pods beside pods -------------------------------------------------------------------------------------------------


def label_selector(selector: LabelSelector | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    return all(labels.get(k) == v for k, v in selector.match_labels.items()) and all(
        holds(one, labels) for one in selector.match_expressions
    )


def term_means(world: World, owner: Pod, term: PodAffinityTerm, other: Pod) -> bool:
    """Whether a term of `owner` speaks of `other`."""
    spaces = set(term.namespaces)
    if term.namespace_selector is not None:
        spaces |= {name for name, labels in world.namespaces.items() if label_selector(term.namespace_selector, labels)}
    elif not spaces:
        spaces = {owner.metadata.namespace}
    labels, own = other.metadata.labels, owner.metadata.labels
    return (
        other.metadata.namespace in spaces
        and label_selector(term.label_selector, labels)
        and all(labels.get(key) == own[key] for key in term.match_label_keys if key in own)
        and all(labels.get(key) != own[key] for key in term.mismatch_label_keys if key in own)
    )


def terms(pod: Pod, anti: bool) -> tuple[PodAffinityTerm, ...]:
    if pod.spec.affinity is None:
        return ()
    block = pod.spec.affinity.pod_anti_affinity if anti else pod.spec.affinity.pod_affinity
    return block.required if block else ()


def pod_affinity(world: World, pod: Pod, node: Node) -> bool:
    labels = node.metadata.labels
    place = {other.metadata.uid: world.nodes[other.spec.node_name].metadata.labels for other in world.bound()}
    for term in terms(pod, anti=True):
        for other in world.bound():
            where = place[other.metadata.uid].get(term.topology_key)
            if term_means(world, pod, term, other) and where is not None and where == labels.get(term.topology_key):
                return False
    for other in world.bound():
        for term in terms(other, anti=True):
            where = place[other.metadata.uid].get(term.topology_key)
            if term_means(world, other, term, pod) and where is not None and where == labels.get(term.topology_key):
                return False
    wanted = terms(pod, anti=False)
    if not wanted:
        return True
    if any(term.topology_key not in labels for term in wanted):
        return False
    meant = [other for other in world.bound() if all(term_means(world, pod, term, other) for term in wanted)]
    placed = [other for other in meant if any(term.topology_key in place[other.metadata.uid] for term in wanted)]
    if not placed:
        return all(term_means(world, pod, term, pod) for term in wanted)
    return all(
        any(place[other.metadata.uid].get(term.topology_key) == labels[term.topology_key] for other in meant) for term in wanted
    )


def spread(world: World, pod: Pod, node: Node) -> bool:
    hard = [one for one in pod.spec.topology_spread_constraints if one.when_unsatisfiable == "DoNotSchedule"]
    if any(one.topology_key not in node.metadata.labels for one in hard):
        return False
    return all(_even(world, pod, node, one, hard) for one in hard)


def _even(world: World, pod: Pod, node: Node, one: SpreadConstraint, hard: list[SpreadConstraint]) -> bool:
    counts: dict[str, int] = {}
    for other in world.nodes.values():
        labels = other.metadata.labels
        if any(each.topology_key not in labels for each in hard):
            continue
        if one.node_affinity_policy == "Honor" and not node_affinity(pod, other):
            continue
        if one.node_taints_policy == "Honor" and untolerated(pod, other.spec.taints):
            continue
        place = labels[one.topology_key]
        counts.setdefault(place, 0)
        for there in world.bound(other.metadata.name):
            counts[place] += _spread_counts(pod, one, there)
    least = min(counts.values(), default=0)
    if len(counts) < (one.min_domains or 1):
        least = 0
    mine = int(label_selector(one.label_selector, pod.metadata.labels))
    return counts.get(node.metadata.labels[one.topology_key], 0) + mine - least <= one.max_skew


def _spread_counts(pod: Pod, one: SpreadConstraint, other: Pod) -> bool:
    if one.label_selector is not None and not (
        one.label_selector.match_labels
        or one.label_selector.match_expressions
        or any(key in pod.metadata.labels for key in one.match_label_keys)
    ):
        return False  # an empty selector counts nobody
    return (
        other.metadata.namespace == pod.metadata.namespace
        and other.metadata.deletion_timestamp is None
        and label_selector(one.label_selector, other.metadata.labels)
        and all(other.metadata.labels.get(k) == pod.metadata.labels[k] for k in one.match_label_keys if k in pod.metadata.labels)
    )


# --- volumes ----------------------------------------------------------------------------------------------------------

ZONE_KEYS = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


def claim_names(pod: Pod) -> list[str]:
    names = [v.persistent_volume_claim.claim_name for v in pod.spec.volumes if v.persistent_volume_claim]
    names += [f"{pod.metadata.name}-{v.name}" for v in pod.spec.volumes if v.ephemeral is not None]
    return list(dict.fromkeys(names))


def volumes(world: World, pod: Pod, node: Node) -> bool:
    space = pod.metadata.namespace
    claims = []
    for name in claim_names(pod):
        claim = world.claims.get((space, name))
        if claim is None or claim.metadata.deletion_timestamp is not None or claim.status.phase == "Lost":
            return False
        if "ReadWriteOncePod" in claim.spec.access_modes and any(
            other.metadata.namespace == space and name in claim_names(other) for other in world.bound()
        ):
            return False
        claims.append(claim)
    waiting = []
    for claim in claims:
        if claim.spec.volume_name and "pv.kubernetes.io/bind-completed" in claim.metadata.annotations:
            volume = world.volumes.get(claim.spec.volume_name)
            if volume is None or not _volume_reaches(volume, node) or not _zone(volume, node):
                return False
        else:
            kind = world.classes.get(claim.spec.storage_class_name or "")
            if kind is None or kind.volume_binding_mode != "WaitForFirstConsumer" or claim.spec.volume_name:
                return False
            waiting.append(claim)
    return _served(world, waiting, node) and attach(world, pod, node)


def _volume_reaches(volume: PersistentVolume, node: Node) -> bool:
    required = volume.spec.node_affinity.required if volume.spec.node_affinity else None
    return required is None or node_selector(required, node)


def _zone(volume: PersistentVolume, node: Node) -> bool:
    labels = node.metadata.labels
    if not any(key in labels for key in ZONE_KEYS):
        return True
    for key in ZONE_KEYS:
        if key in volume.metadata.labels:
            stable = f"topology.kubernetes.io/{key.rsplit('/', 1)[1]}"
            if labels.get(key, labels.get(stable)) not in volume.metadata.labels[key].split("__"):
                return False
    return True


def _served(world: World, waiting: list[PersistentVolumeClaim], node: Node) -> bool:
    taken: set[str] = set()

    def size(claim: PersistentVolumeClaim) -> Fraction:
        return number(claim.spec.resources.requests.get("storage", 0))

    for claim in sorted(waiting, key=lambda one: (size(one), one.metadata.name)):
        kind = world.classes[claim.spec.storage_class_name or ""]
        selected = claim.metadata.annotations.get("volume.kubernetes.io/selected-node")
        if selected is not None and selected != node.metadata.name:
            return False
        fitting = [] if selected is not None else _fitting(world, claim, node, taken)
        if fitting:
            taken.add(fitting[0])
        elif kind.provisioner == "kubernetes.io/no-provisioner" or not _made_here(kind, node):
            return False
    return True


def _made_here(kind: StorageClass, node: Node) -> bool:
    terms_ = kind.allowed_topologies
    return not terms_ or any(
        term.match_label_expressions and all(node.metadata.labels.get(e.key) in e.values for e in term.match_label_expressions)
        for term in terms_
    )


def _fitting(world: World, claim: PersistentVolumeClaim, node: Node, taken: set[str]) -> list[str]:
    found = []
    for name, volume in world.volumes.items():
        spec = volume.spec
        ref = spec.claim_ref
        mine = ref is not None and (ref.namespace, ref.name) == (claim.metadata.namespace, claim.metadata.name)
        if name in taken or spec.storage_class_name != claim.spec.storage_class_name or (ref is not None and not mine):
            continue
        capacity = number(spec.capacity.get("storage", 0))
        if capacity < number(claim.spec.resources.requests.get("storage", 0)) or spec.volume_mode != claim.spec.volume_mode:
            continue
        if mine:
            return [name] if _volume_reaches(volume, node) else []
        if (
            volume.status.phase == "Available"
            and set(claim.spec.access_modes) <= set(spec.access_modes)
            and _volume_reaches(volume, node)
        ):
            found.append((capacity, name))
    return [name for _, name in sorted(found)]


def attach(world: World, pod: Pod, node: Node) -> bool:
    def handles(one: Pod) -> set[tuple[str, str]]:
        found = set()
        for name in claim_names(one):
            claim = world.claims.get((one.metadata.namespace, name))
            if claim is None:
                continue
            volume = world.volumes.get(claim.spec.volume_name)
            if volume is not None:
                if volume.spec.csi is not None:
                    found.add((volume.spec.csi.driver, volume.spec.csi.volume_handle))
            elif (claim.spec.storage_class_name or "") in world.classes:
                kind = world.classes[claim.spec.storage_class_name or ""]
                found.add((kind.provisioner, f"{one.metadata.namespace}/{name}"))
        return found

    limits = world.limits.get(node.metadata.name)
    there = (
        set().union(*(handles(other) for other in world.bound(node.metadata.name))) if world.bound(node.metadata.name) else set()
    )
    more = handles(pod) - there
    for driver in (limits.spec.drivers or ()) if limits else ():
        new = sum(name == driver.name for name, _ in more)
        if driver.allocatable is None or driver.allocatable.count is None or not new:
            continue
        if sum(name == driver.name for name, _ in there) + new > driver.allocatable.count:
            return False
    return True
