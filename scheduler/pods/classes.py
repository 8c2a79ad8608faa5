"""Everything but amounts that decides where a pod may go, hashable: pods with equal classes are interchangeable.

Read from the API's object once; the scheduler's filters know only this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from forebay.api.kubernetes.core import (
    Affinity,
    Container,
    NodeSelector,
    NodeTerm,
    Pod,
    PodAffinityTerm,
    PodSpec,
    SpreadConstraint,
)
from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.pods.amounts import SIDECAR
from forebay.scheduler.pods.selectors import (
    Requirement,
    Selector,
    equalities,
    ordered,
    read_expressions,
    read_selector,
)

DO_NOT_SCHEDULE, ANYWAY = "DoNotSchedule", "ScheduleAnyway"
HONOR = "Honor"


class Tolerated(NamedTuple):
    key: str
    operator: str
    value: str
    effect: str


class NodeRule(NamedTuple):
    """`always` must hold, and one of `terms` (None: there are none). A term without requirements holds nowhere."""

    always: Selector = ()
    terms: tuple[Selector, ...] | None = None


ANYWHERE = NodeRule()


class PodTerm(NamedTuple):
    """Pods that a required (anti-)affinity speaks of, and the label whose equal values are "the same place".

    A pod is meant if its namespace is one of `namespaces` or meets `namespace_selector`, and its labels meet `selector`.
    """

    key: str
    selector: Selector | None
    namespaces: tuple[str, ...]
    namespace_selector: Selector | None


class Spread(NamedTuple):
    key: str
    max_skew: int
    min_domains: int
    selector: Selector | None
    honor_affinity: bool
    honor_taints: bool


class Preferred(NamedTuple):
    """What weighs and decides nothing alone: node terms and pod terms by weight (of anti-affinity below 0), spread."""

    nodes: tuple[tuple[int, Selector], ...] = ()
    pods: tuple[tuple[int, PodTerm], ...] = ()
    spread: tuple[Spread, ...] = ()


NOTHING = Preferred()


class HostPort(NamedTuple):
    protocol: str
    port: int
    ip: str


@dataclass(frozen=True, slots=True)
class PodClass:
    """See the module.

    `claims`: PersistentVolumeClaims of the pod's namespace. `devices`: names of DRA claims, "" for one that is not made yet.
    `unknown`: amounts of resources that no node has ever offered; the cluster fills this in. `leaving`: the pod is being
    deleted; it still holds its place, but spread constraints do not count it.
    """

    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    tolerations: tuple[Tolerated, ...] = ()
    nodes: NodeRule = ANYWHERE
    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()
    ports: tuple[HostPort, ...] = ()
    claims: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    leaving: bool = False
    preferred: Preferred = NOTHING


def read_pod(pod: Pod) -> PodClass:
    """The class of a pod."""
    spec, meta = pod.spec, pod.metadata
    affinity, anti = _pod_terms(pod)
    return PodClass(
        namespace=meta.namespace,
        labels=tuple(sorted(meta.labels.items())),
        priority=spec.priority,
        tolerations=tuple(sorted({Tolerated(t.key, t.operator or "Equal", t.value, t.effect) for t in spec.tolerations})),
        nodes=_node_rule(spec),
        affinity=affinity,
        anti_affinity=anti,
        spread=_spreads(pod, DO_NOT_SCHEDULE),
        ports=_ports(spec),
        claims=read_claims(pod),
        devices=read_devices(pod),
        leaving=meta.deletion_timestamp is not None,
        preferred=_preferred(pod) if spec.affinity is not None or spec.topology_spread_constraints else NOTHING,
    )


def _node_rule(spec: PodSpec) -> NodeRule:
    always = ordered(equalities(spec.node_selector))
    required = spec.affinity.node_affinity.required if spec.affinity and spec.affinity.node_affinity else None
    return NodeRule(always) if required is None else node_terms(required)._replace(always=always)


def node_terms(selector: NodeSelector) -> NodeRule:
    """The rule of a node selector, fields by NAME."""
    return NodeRule((), tuple(_node_term(term) for term in selector.node_selector_terms))


def _node_term(term: NodeTerm) -> Selector:
    fields = read_expressions(term.match_fields)
    named = [one._replace(key=NAME) if one.key == "metadata.name" else one for one in fields]
    return ordered([*read_expressions(term.match_expressions), *named])


def _preferred(pod: Pod) -> Preferred:
    """Terms in the order in which they are written, which is also that of `why`'s sentence."""
    affinity = pod.spec.affinity or Affinity()
    space, labels = pod.metadata.namespace, pod.metadata.labels
    nodes = affinity.node_affinity.preferred if affinity.node_affinity else ()
    near = affinity.pod_affinity.preferred if affinity.pod_affinity else ()
    far = affinity.pod_anti_affinity.preferred if affinity.pod_anti_affinity else ()
    weighed = [(one.weight, one) for one in near] + [(-one.weight, one) for one in far]
    return Preferred(
        tuple((one.weight, _node_term(one.preference)) for one in nodes),
        tuple((weight, _pod_term(one.pod_affinity_term, space, labels)) for weight, one in weighed if weight),
        _spreads(pod, ANYWAY),
    )


def _pod_terms(pod: Pod) -> tuple[tuple[PodTerm, ...], tuple[PodTerm, ...]]:
    affinity = pod.spec.affinity
    if affinity is None:
        return (), ()
    near = affinity.pod_affinity.required if affinity.pod_affinity else ()
    far = affinity.pod_anti_affinity.required if affinity.pod_anti_affinity else ()
    space, labels = pod.metadata.namespace, pod.metadata.labels
    return tuple(_pod_term(one, space, labels) for one in near), tuple(_pod_term(one, space, labels) for one in far)


def _pod_term(term: PodAffinityTerm, namespace: str, labels: Mapping[str, str]) -> PodTerm:
    selector = read_selector(term.label_selector)
    if selector is not None:
        selector = _merged(selector, term.match_label_keys, labels, "In")
        selector = _merged(selector, term.mismatch_label_keys, labels, "NotIn")
    names = tuple(sorted(set(term.namespaces)))
    spaces = read_selector(term.namespace_selector)
    if not names and spaces is None:
        names = (namespace,)
    return PodTerm(term.topology_key, selector, names, spaces)


def _merged(selector: Selector, keys: tuple[str, ...], labels: Mapping[str, str], operator: str) -> Selector:
    """With the pod's own values of the keys. The API server has done so when the pod was made; labels may have changed since."""
    there = {one.key for one in selector if one.operator == operator and len(one.values) == 1}
    more = [Requirement(key, operator, (labels[key],)) for key in keys if key in labels and key not in there]
    return ordered([*selector, *more])


def _spreads(pod: Pod, kind: str) -> tuple[Spread, ...]:
    constraints = pod.spec.topology_spread_constraints
    return tuple(_spread(one, pod.metadata.labels) for one in constraints if one.when_unsatisfiable == kind)


def _spread(one: SpreadConstraint, labels: Mapping[str, str]) -> Spread:
    selector = read_selector(one.label_selector)
    if selector is not None:  # here the scheduler itself adds the pod's values, also to a selector that has others by now
        selector = ordered([*selector, *equalities({key: labels[key] for key in one.match_label_keys if key in labels})])
    minimum = 1 if one.min_domains is None else one.min_domains
    honor = one.node_affinity_policy == HONOR, one.node_taints_policy == HONOR
    return Spread(one.topology_key, one.max_skew, minimum, selector, *honor)


def _ports(spec: PodSpec) -> tuple[HostPort, ...]:
    """Of containers and sidecars; an init container that ends holds no port for long."""
    there: list[Container] = [one for one in spec.init_containers if one.restart_policy == SIDECAR]
    found = {
        HostPort(port.protocol or "TCP", port.host_port, port.host_ip or "0.0.0.0")
        for container in (*there, *spec.containers)
        for port in container.ports
        if port.host_port > 0
    }
    return tuple(sorted(found))


def read_claims(pod: Pod) -> tuple[str, ...]:
    """`PodClass.claims` of a pod."""
    names = []
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            names.append(volume.persistent_volume_claim.claim_name)
        elif volume.ephemeral is not None:
            names.append(f"{pod.metadata.name}-{volume.name}")
    return tuple(dict.fromkeys(names))


def read_devices(pod: Pod) -> tuple[str, ...]:
    """`PodClass.devices` of a pod."""
    made = {one.name: one.resource_claim_name for one in pod.status.resource_claim_statuses}
    names = (one.resource_claim_name or made.get(one.name, "") for one in pod.spec.resource_claims)
    return tuple(name for name in names if name is not None)
