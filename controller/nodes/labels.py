"""Fluid's labels of a node, for who selects nodes by them: which datasets have a worker there, and which it shows. Pure.

    fluid.io/s-<namespace>-<name>=true              a worker is here
    fluid.io/s-<type>-<namespace>-<name>=true
    fluid.io/s-h-<type>-{m,d,t}-<namespace>-<name>=<quota>   memory, disk, both: "2GiB"
    fluid.io/f-<namespace>-<name>=true              it shows the dataset to pods
    fluid.io/dataset-num=<k>, fluid_exclusive=<namespace>_<name>

Source: fluid-cloudnative/fluid a826600a. A key of 63 characters and more has the Dataset's uid after its prefix, as there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from forebay.api.fluid.names import LABEL_MAX, node_label
from forebay.controller import copies as c
from forebay.controller.copies import Copies
from forebay.controller.kinds import Node, NodeCache, Pod
from forebay.kube.store import Change

COUNT, EXCLUSIVE = "fluid.io/dataset-num", "fluid_exclusive"
APPLIED = "forebay.io/labels"
"""Annotation of a node: a digest of the labels that were put there last."""


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset on a node. `type` is Fluid's word for its engine; quotas in bytes, 0 for none."""

    namespace: str
    name: str
    uid: str
    type: str
    exclusive: bool = True
    worker: bool = False
    shows: bool = False
    memory: int = 0
    disk: int = 0


def labels_of(datasets: Iterable[Labelled]) -> dict[str, str]:
    found: dict[str, str] = {}
    workers = 0
    for d in sorted(datasets, key=lambda d: (d.namespace, d.name)):
        if d.shows:
            found[_key("f", d)] = "true"
        if not d.worker:
            continue
        workers += 1
        found[_key("s", d)] = found[_key(f"s-{d.type}", d)] = "true"
        for letter, quota in (("m", d.memory), ("d", d.disk), ("t", d.memory + d.disk)):
            if quota:
                found[_key(f"s-h-{d.type}-{letter}", d)] = size(quota)
        if d.exclusive:
            joined = f"{d.namespace}_{d.name}"
            found[EXCLUSIVE] = joined if len(joined) <= LABEL_MAX else d.uid
    if workers:
        found[COUNT] = str(workers)
    return found


def _key(letter: str, d: Labelled) -> str:
    return node_label(letter, d.namespace, d.name, d.uid)


def size(quota: int) -> str:
    """In the largest unit of which it is a whole number, as a label may have it: "2GiB", "1536MiB"."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if quota % (1 << power) == 0:
            return f"{quota >> power}{unit}"
    return f"{quota}B"


def digest(labels: Mapping[str, str]) -> str:
    """ "" for none."""
    text = "\n".join(f"{k}={v}" for k, v in sorted(labels.items()))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest() if labels else ""


def settled(node: Node, labels: Mapping[str, str]) -> bool:
    """Whether the node has these of us, and no others."""
    has = node.metadata.labels
    return node.metadata.annotations.get(APPLIED, "") == digest(labels) and all(has.get(k) == v for k, v in labels.items())


def nodes(kind: str, change: Change[Any], copies: Copies) -> set[str]:
    """Nodes whose labels may have to change."""
    found: set[str] = set()
    if kind == "Node":
        counts = [
            None if n is None else (n.metadata.labels, n.metadata.annotations.get(APPLIED)) for n in (change.old, change.new)
        ]
        return {change.key.name} if counts[0] != counts[1] else found
    if kind == "NodeCache":
        shown = [_shown(cache) for cache in (change.old, change.new)]
        return {change.key.name} if shown[0] != shown[1] else found
    if kind == "Pod":
        places = [_place(pod) for pod in (change.old, change.new)]
        return {node for at in places if at is not None and places[0] != places[1] for node in at[1:]}
    if kind == "Dataset" or kind in c.RUNTIMES:
        pods: list[Pod] = copies.where("Pod", "worker", c.path(*change.key))
        caches: list[NodeCache] = copies.where("NodeCache", "dataset", c.path(*change.key))
        found = {pod.spec.node_name for pod in pods if pod.spec.node_name} | {cache.metadata.name for cache in caches}
    return found


def _shown(cache: NodeCache | None) -> frozenset[tuple[str, str]]:
    return frozenset((h.namespace, h.name) for h in cache.datasets if h.mounted) if cache is not None else frozenset()


def _place(pod: Pod | None) -> tuple[str, str] | None:
    """The dataset and the node of a worker that has not ended."""
    if pod is None or pod.ended or not pod.spec.node_name or not (of := c.worker_of(pod)):
        return None
    return of, pod.spec.node_name
