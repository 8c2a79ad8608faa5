"""Hints on a real API server: what a node plugin writes with its own rights and no others, what the controller makes of it, and
that nothing is written where nothing changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from controllerlab import SMALL, Cluster, Running, as_account
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.api import places
from forebay.api.hints.said import Said, SaidTier, encode
from forebay.controller.install import rights
from forebay.controller.install.node_policy import NODE_CLAIM
from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.publisher import AGAIN, NODE_CACHES, Publisher
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.records import Kept, Published, Staged
from forebay.fuse.csi.volumes.site import Layout, Site
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Forbidden, Invalid
from forebay.kube.objects import Bare, Key
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation

pytestmark = pytest.mark.timeout(400)

MIB = 1 << 20


class Node:
    """A node's plugin: its records, its workers' files, its publisher with its own rights; and a clock that the test moves."""

    def __init__(self, site: ControlPlane, name: str, folder: Path) -> None:
        self.name, self.folder, self.now = name, folder / name, 1000.0
        self.layout = Layout(str(self.folder / "plugins"), str(self.folder / "cache"))
        os.makedirs(self.layout.state)
        self.known = Known(self.layout.state)
        self.answering: set[str] = set()
        endpoint = as_account(site.endpoint, rights.NODE)
        extra = (f"Impersonate-Extra-{NODE_CLAIM.replace('/', '%2F')}", name)
        self.transport = Transport(msgspec.structs.replace(endpoint, impersonate=(*endpoint.impersonate, extra)))
        self.client = Client(self.transport, manager="forebay-hints")
        self.publisher = self.started()

    def started(self) -> Publisher:
        """The plugin, started anew."""
        caches = Caches(self.known, self, self.layout, dead=1e9)  # type: ignore[arg-type]
        return Publisher(self.name, caches, self.client, random=Random(1), clock=lambda: self.now)

    def holds(self, site: Site) -> bool:
        """Of `Mounts`."""
        return site.id in self.answering

    def serves(self, space: str, said: Said) -> None:
        target = self.folder / f"{space}-worker"
        (target / "run").mkdir(parents=True, exist_ok=True)
        self.known.published.put(Published(str(target), "v", "x", "worker", space, "d"))
        (target / "run" / places.SAID).write_bytes(encode(said))

    def reads(self, space: str, said: Said) -> None:
        site = self.layout.site(space, "d")
        os.makedirs(site.run, exist_ok=True)
        self.known.kept.put(Kept(site.id, space, "d", "c", "s"))
        self.known.staged.put(Staged(f"/staged/{space}", "v", "x", space, "d", "c", "s", ""))
        self.answering.add(site.id)
        Path(site.run, places.SAID).write_bytes(encode(said))

    def look(self, seconds: float = 20.0) -> int:
        """A look so much later; writes so far."""
        self.now += seconds
        self.publisher.look()
        return self.publisher.writes


def said(bytes_: int, *, owns: bool = True, total: int = 100 * MIB, **more: Any) -> Said:
    tier = SaidTier(medium="SSD", quota=1 << 30, used=bytes_, held=bytes_, room=1 << 40)
    return Said(owns=owns, tiers=(tier,), total=total, files=4, listed=True, **more)


@pytest.fixture
def nodes(site: ControlPlane, cluster: Cluster, tmp_path: Path) -> Iterator[list[Node]]:
    """Two nodes; their objects are gone afterwards."""
    made = []
    for name in ("hint-a", "hint-b"):
        labels = {"topology.kubernetes.io/zone": f"zone-{name[-1]}"}
        cluster.client.apply(
            r.NODES, Key("", name), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        )
        cluster.client.merge(
            r.NODES, Key("", name), {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, sub="status"
        )
        made.append(Node(site, name, tmp_path))
    yield made
    for node in made:
        node.transport.close()
        cluster.client.delete(r.NODES, Key("", node.name))
        until(lambda node=node: cluster.gone("NodeCache", Key("", node.name)), 120, "the NodeCache goes with its node")  # type: ignore[misc]


def status(cluster: Cluster, node: Node) -> Any:
    return (cluster.read("NodeCache", Key("", node.name)) or {}).get("status")


def test_a_node_publishes_what_it_holds_and_nothing_when_nothing_changes(
    cluster: Cluster, nodes: list[Node], site: ControlPlane
) -> None:
    node = nodes[0]
    assert node.look() == 0
    assert cluster.gone("NodeCache", Key("", node.name)), "a node with nothing has no object"
    node.serves("ns", said(30 * MIB))
    node.reads("ns", said(20 * MIB, owns=False, local=5))
    assert node.look() == 1
    found = cluster.read("NodeCache", Key("", node.name))
    assert found is not None
    assert [(o["kind"], o["name"]) for o in found["metadata"]["ownerReferences"]] == [("Node", node.name)]
    held = found["status"]["datasets"][0]
    assert (held["namespace"], held["name"], held["role"], held["mounted"]) == ("ns", "d", "Owner", True)
    assert held["tiers"] == [{"medium": "SSD", "bytes": 44 * MIB}], "30 and 20 of 100, of which 6 are the same"
    assert (held["worker"]["totalBytes"], held["worker"]["files"], held["worker"]["listed"]) == (100 * MIB, 4, True)
    assert found["status"]["cached"] == "44.00MiB"
    before = node.client.statistics().writes
    for _ in range(200):
        node.look(60.0)
    assert node.publisher.writes == 1
    assert node.client.statistics().writes == before, "nothing was asked of the server but what it has"
    node.publisher = node.started()
    for _ in range(5):
        node.look(60.0)
    assert node.publisher.writes == 0, "a new start says nothing again"
    node.serves("ns", said(90 * MIB))
    assert node.look(15.0) == 1
    assert status(cluster, node)["datasets"][0]["tiers"] == [{"medium": "SSD", "bytes": 92 * MIB}]
    cluster.delete("NodeCache", Key("", node.name))
    node.look(1.3 * AGAIN)
    assert node.look() == 2
    assert status(cluster, node)["datasetCount"] == 1, "taken away by hand: it is there again"
    node.known.published.clear()
    node.known.kept.clear()
    node.known.staged.clear()
    assert node.look() == 3
    assert cluster.gone("NodeCache", Key("", node.name)), "it goes with the last dataset"
    assert node.look(1000.0) == 3
    node.known.staged.put(Staged("/staged/ns", "v", "x", "ns", "d", "c", "s", ""))
    node.known.kept.put(Kept("ns/d", "ns", "d", "c", "s"))
    node.answering.clear()
    os.unlink(Path(node.layout.site("ns", "d").run, places.SAID))
    assert node.look(1000.0) == 4
    assert status(cluster, node)["datasets"] == [{"namespace": "ns", "name": "d", "role": "Client", "silent": True}]


def test_a_node_plugin_writes_its_own_nodecache_and_no_other(cluster: Cluster, nodes: list[Node], site: ControlPlane) -> None:
    first, second = nodes
    for node in nodes:
        node.serves("ns", said(MIB))
        assert node.look() == 1
    body: dict[str, Any] = {"apiVersion": NODE_CACHES.api_version, "kind": "NodeCache", "metadata": {"name": second.name}}
    zero: dict[str, Any] = {"cachedBytes": 0, "capacityBytes": 0, "cached": "", "capacity": "", "datasetCount": 0}
    head = body["metadata"]
    some = [{"medium": "SSD", "capacityBytes": 1, "usedBytes": 1}]
    zero |= {"observedTime": "2026-11-27T12:00:00Z", "tiers": some}
    for write in (
        lambda: first.client.apply(NODE_CACHES, Key("", second.name), {**body, "metadata": {**head, "labels": {"a": "b"}}}),
        lambda: first.client.apply_status(NODE_CACHES, Key("", second.name), {**body, "status": zero}),
        lambda: first.client.create(NODE_CACHES, "", {**body, "metadata": {"name": "no-node"}}),
        lambda: first.client.delete(NODE_CACHES, Key("", second.name)),
    ):
        with pytest.raises((Invalid, Forbidden), match="of its own node alone"):
            write()
    nameless = Transport(as_account(site.endpoint, rights.NODE))  # a token that names no node
    with pytest.raises((Invalid, Forbidden), match="of its own node alone"):
        Client(nameless).apply(NODE_CACHES, Key("", first.name), {**body, "metadata": {"name": first.name}})
    nameless.close()
    for forbidden in (
        lambda: first.client.list_all(NODE_CACHES, Bare),
        lambda: first.client.merge(r.NODES, Key("", first.name), {"metadata": {"labels": {"a": "b"}}}),
    ):
        with pytest.raises(Forbidden):
            forbidden()
    assert status(cluster, second)["datasets"][0]["tiers"] == [{"medium": "SSD", "bytes": MIB}]


def pending(space: str, claim: str) -> dict[str, Any]:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    container = {"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    meta = {"name": "waits", "namespace": space}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], "volumes": volumes}}


@pytest.fixture
def bound(cluster: Cluster, nodes: list[Node], site: ControlPlane, space: str) -> Iterator[tuple[Running, Key]]:
    """A controller that labels nodes, and a dataset whose workers run on the two nodes; all of it goes at the end."""
    wanted = Installation(default_engine="native", fluid_node_labels=True)
    cluster.client.apply(  # what an installation with that setting has
        r.Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
        Key("", rights.CONTROLLER),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": rights.CONTROLLER},
            "rules": [*rights.controller(), *rights.node_labels()],
        },
        manager="admin",
    )  # fmt: skip
    key = Key(space, "d")
    with Running(site.endpoint, wanted) as running:
        cluster.apply(SMALL.replace("SPACE", space))
        until(lambda: len(cluster.pods(key)) == 2, 60, "two pods")
        for pod, node in zip(cluster.pods(key), nodes, strict=True):
            cluster.run(pod, node.name)
        until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
        yield running, key
        cluster.client.delete(r.PODS, Key(space, "waits"), grace=0)  # a claim that is named keeps its dataset
        if not cluster.gone("Dataset", key):
            cluster.delete("Dataset", key)
        until(lambda: cluster.gone("Dataset", key), 60)
        until(lambda: not cluster.left(key), 60, lambda: cluster.left(key))
    cluster.client.apply(
        r.Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
        Key("", rights.CONTROLLER),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": rights.CONTROLLER},
            "rules": rights.controller(),
        },
        manager="admin",
    )  # fmt: skip


def labels(cluster: Cluster, node: Node) -> dict[str, str]:
    found = (cluster.read("Node", Key("", node.name)) or {"metadata": {}})["metadata"].get("labels", {})
    return {k: v for k, v in found.items() if k.startswith("fluid")}


def test_a_dataset_follows_what_its_nodes_say(cluster: Cluster, nodes: list[Node], bound: tuple[Running, Key]) -> None:
    running, key = bound
    first, second = nodes
    assert cluster.status(key)["ufsTotal"] == cluster.status(key)["fileNum"] == "[Calculating]"
    first.serves(key.namespace, said(60 * MIB, from_store=60 * MIB))
    second.serves(key.namespace, said(40 * MIB, from_store=40 * MIB))
    second.reads(key.namespace, said(50 * MIB, owns=False, local=100 * MIB, missed=100 * MIB))
    for node in nodes:
        node.look()
    until(lambda: cluster.status(key).get("measured", {}).get("cachedBytes") == 100 * MIB, 60, lambda: cluster.status(key))
    until(lambda: cluster.status(key)["cacheStates"].get("cacheHitRatio"), 90, lambda: cluster.status(key))
    found = cluster.status(key)
    assert (found["ufsTotal"], found["fileNum"]) == ("100.00MiB", "4")
    assert found["cacheStates"]["cachedPercentage"] == "100.0%"
    assert found["cacheStates"]["cacheHitRatio"] == "50.0%"
    until(lambda: cluster.runtime(key).get("client", {}).get("readyReplicas") == 1, 60, lambda: cluster.runtime(key))
    common = {f"fluid.io/s-{key.namespace}-d": "true", "fluid.io/dataset-num": "1", "fluid_exclusive": f"{key.namespace}_d"}
    until(lambda: common.items() <= labels(cluster, first).items(), 60, lambda: labels(cluster, first))
    until(lambda: labels(cluster, second).get(f"fluid.io/f-{key.namespace}-d") == "true", 60, lambda: labels(cluster, second))
    assert f"fluid.io/f-{key.namespace}-d" not in labels(cluster, first)
    assert labels(cluster, first)[f"fluid.io/s-h-cache-t-{key.namespace}-d"] == "1GiB"
    running.settle(3.0)
    before = running.controller.client.statistics().writes
    made = running.controller.workers.statistics().handed_out
    for node in nodes:
        node.look(60.0)
    running.settle(3.0)
    assert running.controller.client.statistics().writes == before
    assert running.controller.workers.statistics().handed_out == made, "nothing new was said: nobody was woken"
    first.serves(key.namespace, said(60 * MIB, revision="before", places=("/b",)))
    first.look()
    until(lambda: cluster.phase(key) == "Updating", 60, lambda: cluster.status(key))
    assert cluster.condition(key)["status"] == "True", "who reads goes on reading"
    first.serves(key.namespace, said(60 * MIB))
    first.look()
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))


def test_hints_of_a_dataset_that_a_pod_waits_for(cluster: Cluster, nodes: list[Node], bound: tuple[Running, Key]) -> None:
    running, key = bound
    for node, bytes_ in zip(nodes, (60, 40), strict=True):
        node.serves(key.namespace, said(bytes_ * MIB))
        node.look()
    running.settle(2.0)
    assert cluster.gone("DatasetHints", key), "nobody waits"
    cluster.client.create(r.PODS, key.namespace, pending(key.namespace, "d"))
    until(lambda: (cluster.read("DatasetHints", key) or {}).get("status"), 60, "hints come")
    hints = cluster.read("DatasetHints", key)
    assert hints is not None
    assert [(o["kind"], o["name"]) for o in hints["metadata"]["ownerReferences"]] == [("Dataset", "d")]
    found = hints["status"]
    assert (found["totalBytes"], found["cachedBytes"], found["cachedPercent"], found["nodeCount"]) == (
        100 * MIB,
        100 * MIB,
        100,
        2,
    )
    assert [(n["name"], n["bytes"]) for n in found["nodes"]] == [("hint-a", 60 * MIB), ("hint-b", 40 * MIB)]
    assert [(z["name"], z["bytes"]) for z in found["zones"]] == [("zone-a", 60 * MIB), ("zone-b", 40 * MIB)]
    until(lambda: cluster.status(key).get("measured", {}).get("cachedBytes") == 100 * MIB, 60, lambda: cluster.status(key))
    running.settle(2.0)
    before = running.controller.client.statistics().writes
    running.settle(12.0)
    assert running.controller.client.statistics().writes == before
    cluster.client.delete(r.PODS, Key(key.namespace, "waits"), grace=0)
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("DatasetHints", key), 120, "hints go with their dataset")
