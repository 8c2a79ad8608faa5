"""Where a dataset's bytes are, and what that makes of a pod's node affinity. Pure: facts in, terms out.

Fluid's labels are live: a term that names one is judged by the scheduler, when it places the pod. Where no node carries the
dataset's label (labelling is an option), the nodes are named, as their NodeCaches had it when the pod was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forebay.controller.admission.preferences import FUSE, NODE, Preferences

HOSTNAME = "kubernetes.io/hostname"
MOST_NODES = 100
"""Nodes named in one term: beyond that the pod's object becomes large, and the scheduler has choice enough."""
BANDS = ((2 / 3, 1.0), (1 / 3, 2 / 3), (0.0, 1 / 3))
"""Nodes that hold at least this share of what the fullest holds get this share of the weight."""

Object = dict[str, Any]


class Holder(msgspec.Struct, frozen=True):
    """A node with bytes of a dataset. `owner`: a worker is there, not only a reader's cache."""

    hostname: str
    bytes: int
    owner: bool = True
    labels: Mapping[str, str] = {}


class Locality(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset that a pod mounts by `claim`; `namespace` and `name` are those of the data, which a reference's are not.

    `held`, `shown`: keys of the node labels of those that hold it, and of those that show it. `marked`: which of the two at
    least one node carries. `bound`: topology keys and values that its workers are confined to (`status.cacheAffinity`).
    """

    claim: str
    namespace: str
    name: str
    held: str
    shown: str
    marked: frozenset[str] = frozenset()
    holders: tuple[Holder, ...] = ()
    bound: Mapping[str, tuple[str, ...]] = {}


def preferred(data: Locality, preferences: Preferences) -> list[Object]:
    """PreferredSchedulingTerms of one dataset, the nearest first."""
    terms: list[Object] = []
    for wanted in preferences.preferred:
        if wanted.name in (NODE, FUSE):
            label = data.held if wanted.name == NODE else data.shown
            graded = _graded(data, wanted.weight) if wanted.name == NODE and label not in data.marked else []
            terms += graded or [_term(wanted.weight, _is_true(label))]
        elif values := _values(data, wanted.name):
            terms.append(_term(wanted.weight, _in(wanted.name, values)))
    return terms


def required(data: Locality, preferences: Preferences) -> list[Object]:
    """Expressions that must all hold. A dataset that is nowhere yet has its label asked for: the pod waits until it is."""
    expressions: list[Object] = []
    for name in preferences.required:
        if name in (NODE, FUSE):
            label = data.held if name == NODE else data.shown
            named = _named(data) if name == NODE and label not in data.marked else []
            expressions.append(_in(HOSTNAME, named) if named else _is_true(label))
        elif values := _values(data, name):
            expressions.append(_in(name, values))
    return expressions


def is_nowhere(data: Locality) -> bool:
    """Whether no node is known to hold any of it."""
    return data.held not in data.marked and not data.holders


def _named(data: Locality) -> list[str]:
    """Nodes with a worker, or with any bytes where there is none."""
    owners = [h for h in data.holders if h.owner] or list(data.holders)
    return sorted(h.hostname for h in _fullest(owners))


def _graded(data: Locality, weight: int) -> list[Object]:
    """Nodes by how much they hold: half a dataset is worth more than none, and less than all of it."""
    holders = _fullest(data.holders)
    most = max((h.bytes for h in holders), default=0)
    if not most:
        return []
    terms, above = [], float("inf")
    for floor, share in BANDS:
        names = sorted(h.hostname for h in holders if h.bytes and floor <= h.bytes / most < above)
        if names:
            terms.append(_term(max(1, round(weight * share)), _in(HOSTNAME, names)))
        above = floor
    return terms


def _fullest(holders: Sequence[Holder]) -> list[Holder]:
    return sorted(holders, key=lambda h: (-h.bytes, h.hostname))[:MOST_NODES]


def _values(data: Locality, key: str) -> list[str]:
    """Zones (regions, ...) that workers are confined to, and those of the nodes that hold data."""
    return sorted({*data.bound.get(key, ()), *(h.labels[key] for h in data.holders if h.labels.get(key))})


def _is_true(label: str) -> Object:
    return {"key": label, "operator": "In", "values": ["true"]}


def _in(key: str, values: Sequence[str]) -> Object:
    return {"key": key, "operator": "In", "values": list(values)}


def _term(weight: int, expression: Object) -> Object:
    return {"weight": weight, "preference": {"matchExpressions": [expression]}}
