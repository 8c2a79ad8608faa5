"""Clusters in a few words for tables of cases: nodes and pods as the dicts that a manifest would be."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np

from forebay.api.kubernetes.core import Namespace, Node, Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.pods.request import Request

NUMBERS = itertools.count()
Fields = dict[str, Any]


def node(name: str, labels: Fields | None = None, taints: list[Fields] | None = None, **allocatable: str) -> Node:
    """`cpu="8"` and so on in place of the defaults; `cordoned="yes"` for spec.unschedulable."""
    cordoned = allocatable.pop("cordoned", "") == "yes"
    offered = {"cpu": "8", "memory": "32Gi", "pods": "110", **allocatable}
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "spec": {"taints": taints or [], "unschedulable": cordoned},
            "status": {"allocatable": offered},
        },
        Node,
    )


def pod(
    on: str = "", labels: Fields | None = None, namespace: str = "default", requests: Fields | None = None, **spec: Any
) -> Pod:
    """A pod with one container that asks `requests`, unless `containers` are given; bound to the node `on`."""
    name = f"pod-{next(NUMBERS)}"
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels or {}},
            "spec": {"containers": [{"name": "main", "resources": {"requests": requests or {}}}], "nodeName": on, **spec},
        },
        Pod,
    )


def cluster(nodes: list[Node], pods: list[Pod] | None = None, spaces: dict[str, Fields] | None = None) -> Cluster:
    made = Cluster()
    for name, labels in (spaces or {}).items():
        made.set_namespace(msgspec.convert({"metadata": {"name": name, "labels": labels}}, Namespace))
    for one in nodes:
        made.set_node(one)
    for each in pods or []:
        made.set_pod(each)
    return made


def where(made: Cluster, wanted: Pod | Request) -> str:
    """Names of the nodes that a pod may go to, sorted, with blanks between."""
    request = wanted if isinstance(wanted, Request) else made.request(wanted)
    ok = made.feasible(request, made.rows)
    allowed = made.allowed(request)
    return " ".join(sorted(made.names[row] for row in np.flatnonzero(ok if allowed is None else ok & allowed)))
