"""Nodes that say what they hold, by the publisher of the node plugin and with its rights; what they hold is the test's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec
from controllerlab import Cluster, as_account
from controlplane import ControlPlane

from forebay.api.hints.said import Said, SaidTier
from forebay.controller.install import rights
from forebay.controller.install.node_policy import NODE_CLAIM
from forebay.fuse.csi.hints.holding import Cached
from forebay.fuse.csi.hints.publisher import Publisher
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.transport import Transport

MIB = 1 << 20


def said(bytes_: int, *, owns: bool = True, total: int = 100 * MIB, **more: Any) -> Said:
    """A worker (`owns`) or a cache for readers that holds so much of a dataset."""
    tier = SaidTier(medium="SSD", quota=1 << 30, used=bytes_, held=bytes_, room=1 << 40)
    return Said(owns=owns, tiers=(tier,), total=total, files=4, listed=True, **more)


class HintNode:
    """A node and its publisher. `held`: by namespace and name of the dataset, to be changed as the test likes."""

    def __init__(self, site: ControlPlane, name: str, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.held: dict[tuple[str, str], Cached] = {}
        endpoint = as_account(site.endpoint, rights.NODE)
        extra = (f"Impersonate-Extra-{NODE_CLAIM.replace('/', '%2F')}", name)
        self.transport = Transport(msgspec.structs.replace(endpoint, impersonate=(*endpoint.impersonate, extra)))
        self.client = Client(self.transport, manager="forebay-hints")
        self.publisher = Publisher(name, self, self.client, random=Random(seed), clock=clock)  # type: ignore[arg-type]

    def look(self) -> tuple[list[Cached], Mapping[str, Any]]:
        """Of `Caches`: what is cached here now."""
        return list(self.held.values()), {}

    def holds(self, namespace: str, name: str, *, worker: Said | None = None, reader: Said | None = None, **more: Any) -> None:
        self.held[namespace, name] = Cached(namespace=namespace, name=name, worker=worker, reader=reader, **more)

    def close(self) -> None:
        self.publisher.stop()
        self.transport.close()


def make_node(cluster: Cluster, name: str, *, zone: str = "", ready: bool = True) -> None:
    """A Node as its kubelet would write it."""
    meta = {"name": name, "labels": {"topology.kubernetes.io/zone": zone} if zone else {}}
    cluster.client.apply(r.NODES, Key("", name), {"apiVersion": "v1", "kind": "Node", "metadata": meta})
    condition = {"type": "Ready", "status": str(ready)}
    cluster.client.merge(r.NODES, Key("", name), {"status": {"conditions": [condition]}}, sub="status")
