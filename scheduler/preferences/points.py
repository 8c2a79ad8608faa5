"""Preferences as points, as kube-scheduler 1.36 counts them: each kind from 0 to 100 over the nodes that fit, then weighed.

The four kinds, and how what was counted becomes points. Integers throughout but where kube-scheduler has floats, in its order of
operations: so points are equal to its own, and equal nodes tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.types import Bools, Floats, Ints

MOST = 100
"""Points of a node that meets a kind best."""
WEIGHTS = {"taints": 3, "nodes": 2, "pods": 2, "spread": 2}
"""kube-scheduler's weights of TaintToleration, NodeAffinity, InterPodAffinity and PodTopologySpread."""
FULL = 2 * MOST
"""Points between a node that meets all of one kind of affinity and one that meets nothing of it."""


@dataclass(frozen=True, slots=True)
class Points:
    """Of n nodes that fit, each int64[n], 0 to 100; None for a kind that does not weigh."""

    taints: Ints | None = None
    nodes: Ints | None = None
    pods: Ints | None = None
    spread: Ints | None = None

    @property
    def total(self) -> Ints | None:
        """The weighted sum; None where nothing weighs."""
        total: Ints | None = None
        for kind, weight in WEIGHTS.items():
            points: Ints | None = getattr(self, kind)
            if points is not None:
                total = weight * points if total is None else total + weight * points
        return total


def of_taints(counts: Ints) -> Ints:
    """Of PreferNoSchedule taints that are not tolerated [n]."""
    most = int(counts.max(initial=0))
    points: Ints = MOST - MOST * counts // most if most else np.full(len(counts), MOST)
    return points


def of_nodes(weights: Ints) -> Ints:
    """Of the weights of the node terms that each node meets [n]."""
    most = int(weights.max(initial=0))
    points: Ints = MOST * weights // most if most else weights
    return points


def of_pods(sums: Ints) -> Ints:
    """Of the weights of pod terms, once for each pod that is meant [n]; below 0 for those that are to be far."""
    if not len(sums) or (most := int(sums.max())) == (least := int(sums.min())):
        return np.zeros(len(sums), np.int64)
    return (MOST * ((sums - least) / (most - least))).astype(np.int64)


def of_spread(uneven: Floats, placed: Bools) -> Ints:
    """Of how full the places of each node are [n]; nodes that are not `placed` lack a key."""
    points = np.zeros(len(uneven), np.int64)
    some = np.floor(uneven[placed] + 0.5).astype(np.int64)  # rounded half away from 0, as Go does; nothing is below 0
    most, least = int(some.max(initial=0)), int(some.min()) if len(some) else 0
    points[placed] = MOST * (most + least - some) // most if most else MOST
    return points
