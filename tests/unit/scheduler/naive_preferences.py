"""Preferences as Kubernetes' documentation and its plugins tell them, node by node and pod by pod, with no thought of speed.

Shares no code with the scheduler but the API's structs. Points of each kind are those after kube-scheduler's normalisation over
the nodes that fit; exact fractions stand where it has floats, but for the logarithm.
"""

from __future__ import annotations

import math
from fractions import Fraction

from naive import World, _spread_counts, holds, node_affinity, term_means, terms, tolerates, untolerated

from forebay.api.kubernetes.core import Node, NodeTerm, Pod, PodAffinityTerm, SpreadConstraint

HOST = "kubernetes.io/hostname"


def points(world: World, pod: Pod, fits: set[str]) -> dict[str, int]:
    """3 x taints + 2 x node affinity + 2 x pod affinity + 2 x spread, each 0 to 100, of the nodes that fit."""
    kinds = [
        (3, taints(world, pod, fits)),
        (2, nodes(world, pod, fits)),
        (2, pods(world, pod, fits)),
        (2, spread(world, pod, fits)),
    ]
    return {name: sum(weight * found[name] for weight, found in kinds) for name in fits}


def taints(world: World, pod: Pod, fits: set[str]) -> dict[str, int]:
    found = {
        name: sum(
            taint.effect == "PreferNoSchedule" and not any(tolerates(one, taint) for one in pod.spec.tolerations)
            for taint in world.nodes[name].spec.taints
        )
        for name in fits
    }
    most = max(found.values(), default=0)
    return {name: 100 - (100 * count // most if most else 0) for name, count in found.items()}


def meets(term: NodeTerm, node: Node) -> bool:
    """A term that says nothing means no node."""
    return bool(term.match_expressions or term.match_fields) and (
        all(holds(one, node.metadata.labels) for one in term.match_expressions)
        and all(holds(one, {"metadata.name": node.metadata.name}) for one in term.match_fields)
    )


def nodes(world: World, pod: Pod, fits: set[str]) -> dict[str, int]:
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    preferred = affinity.preferred if affinity else ()
    found = {name: sum(one.weight for one in preferred if meets(one.preference, world.nodes[name])) for name in fits}
    most = max(found.values(), default=0)
    return {name: 100 * weight // most if most else 0 for name, weight in found.items()}


def wishes(pod: Pod) -> list[tuple[int, PodAffinityTerm]]:
    affinity = pod.spec.affinity
    if affinity is None:
        return []
    near = affinity.pod_affinity.preferred if affinity.pod_affinity else ()
    far = affinity.pod_anti_affinity.preferred if affinity.pod_anti_affinity else ()
    return [(one.weight, one.pod_affinity_term) for one in near] + [(-one.weight, one.pod_affinity_term) for one in far]


def pods(world: World, pod: Pod, fits: set[str]) -> dict[str, int]:
    """What the pod wants of others, what others want of it, and a required affinity of theirs as a wish of weight 1."""
    found = dict.fromkeys(fits, 0)
    for other in world.bound():
        place = world.nodes[other.spec.node_name].metadata.labels
        speaks = [(weight, term) for weight, term in wishes(pod) if term_means(world, pod, term, other)]
        theirs = [*wishes(other), *((1, term) for term in terms(other, anti=False))]
        speaks += [(weight, term) for weight, term in theirs if term_means(world, other, term, pod)]
        for weight, term in speaks:
            for name in fits:
                labels = world.nodes[name].metadata.labels
                if term.topology_key in place and labels.get(term.topology_key) == place[term.topology_key]:
                    found[name] += weight
    least, most = min(found.values(), default=0), max(found.values(), default=0)
    return {name: int(100 * Fraction(weight - least, most - least)) if most > least else 0 for name, weight in found.items()}


def spread(world: World, pod: Pod, fits: set[str]) -> dict[str, int]:
    soft = [one for one in pod.spec.topology_spread_constraints if one.when_unsatisfiable == "ScheduleAnyway"]
    if not soft:
        return dict.fromkeys(fits, 0)
    whole = {name for name in fits if all(one.topology_key in world.nodes[name].metadata.labels for one in soft)}
    found = {}
    for name in whole:
        exact = sum(_fullness(world, pod, one, name, soft, whole) for one in soft)
        found[name] = math.floor(exact + 0.5)
    least, most = min(found.values(), default=0), max(found.values(), default=0)
    done = {name: 100 * (most + least - full) // most if most else 100 for name, full in found.items()}
    return {name: done.get(name, 0) for name in fits}


def _fullness(world: World, pod: Pod, one: SpreadConstraint, name: str, soft: list[SpreadConstraint], whole: set[str]) -> float:
    key = one.topology_key
    there = world.nodes[name].metadata.labels[key]
    if key == HOST:
        count, places = sum(_spread_counts(pod, one, other) for other in world.bound(name)), len(whole)
    else:
        places = len({world.nodes[other].metadata.labels[key] for other in whole})
        count = sum(
            _spread_counts(pod, one, other)
            for node in world.nodes.values()
            if node.metadata.labels.get(key) == there and _counted(pod, one, node, soft)
            for other in world.bound(node.metadata.name)
        )
    return count * math.log(places + 2) + (one.max_skew - 1)


def _counted(pod: Pod, one: SpreadConstraint, node: Node, soft: list[SpreadConstraint]) -> bool:
    if any(each.topology_key not in node.metadata.labels for each in soft):
        return False
    if one.node_affinity_policy == "Honor" and not node_affinity(pod, node):
        return False
    return one.node_taints_policy != "Honor" or not untolerated(pod, node.spec.taints)
