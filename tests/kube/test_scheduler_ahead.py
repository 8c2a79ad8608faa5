"""A queued gang's data is loaded ahead, on a real API server: our scheduler with its account's rights wishes, the controller with
its own makes a load of one node, and takes it back when the gang goes elsewhere. No kubelet runs: it says what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from controllerlab import SMALL, Cluster, Object, Running
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import Running as Scheduling
from schedulerlab import Site

from forebay.api.hints.datasethints import LOAD_ON
from forebay.controller.install import parts as install
from forebay.controller.install import scheduler as scheduler_part
from forebay.controller.kinds import RESOURCES
from forebay.controller.loads import ahead
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Forbidden
from forebay.kube.objects import Bare, Key
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(400)
SPACE = "forebay-system"
GB = 10**9
JOB = {"restartPolicy": "Never"}
CLAIM = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}]}


@pytest.fixture
def admin(site: ControlPlane) -> Iterator[Client]:
    """With the scheduler's account installed."""
    transport = Transport(site.endpoint)
    client = Client(transport, manager="admin")
    kinds = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings"}
    for objects in install.parts(install.Install(scheduler=True)).values():
        for obj in objects:
            if obj["metadata"]["name"].startswith(scheduler_part.NAME) and obj["kind"] in kinds:
                kind = r.Resource("rbac.authorization.k8s.io", "v1", kinds[obj["kind"]], obj["kind"], namespaced=False)
                client.apply(kind, Key("", obj["metadata"]["name"]), obj)
    yield client
    transport.close()


@pytest.fixture
def place(admin: Client, space: str) -> Iterator[Site]:
    found = Site(admin, space)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": space}}
    admin.apply(r.SERVICE_ACCOUNTS, Key(space, "default"), account)
    for _ in range(2):  # of names that no other test has put pods on: nobody here would end those
        admin.merge(r.NODES, Key("", found.node(cpu="4")), {"spec": {"taints": []}})
    yield found
    for name in found.nodes:
        admin.delete(r.NODE_CACHES, Key("", name))
    found.clear()


def endpoint(site: ControlPlane) -> object:
    """With the rights of the scheduler's account, and no others."""
    user = f"system:serviceaccount:{SPACE}:{scheduler_part.NAME}"
    groups = ("system:serviceaccounts", "system:authenticated")
    who = (("Impersonate-User", user), *(("Impersonate-Group", group) for group in groups))
    return msgspec.structs.replace(site.endpoint, impersonate=who)


def says(admin: Client, space: str, node: str, held: int, *, total: int = 100, eta: int = 0) -> None:
    """A NodeCache: the worker of `d` there has so many GB of 100, and the rest in `eta` seconds."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    worker = {"ownedBytes": held * GB, "capacityBytes": 1000 * GB, "totalBytes": total * GB, "listed": True}
    tiers = [{"medium": "SSD", "bytes": held * GB}]
    lake = {"namespace": space, "name": "d", "role": "Owner", "tiers": tiers, "worker": worker}
    if eta:
        lake["warming"] = {"remainingBytes": (total - held) * GB, "bytesPerSecond": GB, "etaSeconds": eta}
    totals = {"cachedBytes": 0, "capacityBytes": 0, "cached": "", "capacity": "", "datasetCount": 1}
    head = {"apiVersion": "forebay.io/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}}
    admin.apply(r.NODE_CACHES, Key("", node), head)
    status = {"observedTime": at, "tiers": [], **totals, "datasets": [lake]}
    admin.apply_status(r.NODE_CACHES, Key("", node), {**head, "status": status})


def wish(cluster: Cluster, space: str) -> str:
    found: Object = cluster.read("DatasetHints", Key(space, "d")) or {"metadata": {}}
    return str((found["metadata"].get("annotations") or {}).get(LOAD_ON, ""))


def loads(cluster: Cluster, space: str) -> dict[str, Object]:
    """By node."""
    listed, _ = cluster.client.list_all(RESOURCES["DataLoad"], Bare, space, labels=ahead.AHEAD)
    found = [one for each in listed if (one := cluster.read("DataLoad", Key(space, each.metadata.name))) is not None]
    return {one["spec"]["options"]["nodes"]: one for one in found}


def served(cluster: Cluster, place: Site) -> None:
    """A worker on each node, and the dataset Bound."""
    key = Key(place.namespace, "d")
    until(lambda: len(cluster.pods(key)) == 2, 60, "two workers")
    for pod, node in zip(cluster.pods(key), place.nodes, strict=True):
        cluster.run(pod, node)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))


def nobody(admin: Client, place: Site) -> bool:
    """Whether no pod is left, workers included: there is no kubelet that would end them, and they take room on the nodes."""
    for pod in place.pods():
        admin.delete(r.PODS, Key(place.namespace, pod.metadata.name), grace=0)
    return not place.pods()


def test_what_a_gang_waits_for_is_loaded_where_it_will_run(
    site: ControlPlane, cluster: Cluster, space: str, admin: Client, place: Site
) -> None:
    with Running(site.endpoint):
        cluster.apply(SMALL.replace("SPACE", space))
        served(cluster, place)
        for node in place.nodes:
            says(admin, space, node, 0)
        olds = [place.pod(f"old-{n}", cpu="3", **JOB) for n in range(2)]
        for n, old in enumerate(olds):
            place.bind(old, place.nodes[n])
        with Scheduling(endpoint(site)):  # type: ignore[arg-type]
            gang = place.gang("train", 3, 3, **JOB, **CLAIM)  # beside the worker, four would not fit on a node
            until(lambda: wish(cluster, space), 90, lambda: [place.said(key) for key in gang])
            node = wish(cluster, space)
            assert node in place.nodes
            until(lambda: list(loads(cluster, space)) == [node], 60, lambda: loads(cluster, space))
            load = loads(cluster, space)[node]
            name = load["metadata"]["name"]
            until(lambda: cluster.read("Job", Key(space, f"{name}-loader-job")) is not None, 60, lambda: loads(cluster, space))
            job: Object = cluster.read("Job", Key(space, f"{name}-loader-job")) or {}
            assert f"--node={node}" in job["spec"]["template"]["spec"]["containers"][0]["args"]
            other = next(one for one in place.nodes if one != node)
            admin.delete(r.PODS, olds[place.nodes.index(other)], grace=0)  # sooner than expected: the gang goes there
            place.all_bound(gang)
            assert set(place.where(gang)) == {other}
            until(lambda: wish(cluster, space) == "", 60, lambda: wish(cluster, space))
            until(lambda: not loads(cluster, space), 60, lambda: loads(cluster, space))
            until(lambda: cluster.read("Job", Key(space, f"{name}-loader-job")) is None, 60, "the Job stays")
        cluster.delete("Dataset", Key(space, "d"))
        for key in gang:
            admin.delete(r.PODS, key, grace=0)
        until(lambda: cluster.gone("Dataset", Key(space, "d")), 120, lambda: cluster.status(Key(space, "d")))
    until(lambda: nobody(admin, place), 120, place.pods)


def test_a_gang_waits_for_the_load_that_was_made_for_it_when_another_node_comes_free(
    site: ControlPlane, cluster: Cluster, space: str, admin: Client, place: Site
) -> None:
    with Running(site.endpoint):
        cluster.apply(SMALL.replace("SPACE", space))
        served(cluster, place)
        for node in place.nodes:
            says(admin, space, node, 0, total=10_000)
        olds = [place.pod(f"old-{n}", cpu="3", **JOB) for n in range(2)]
        for n, old in enumerate(olds):
            place.bind(old, place.nodes[n])
        with Scheduling(endpoint(site)) as scheduling:  # type: ignore[arg-type]
            gang = place.gang("train", 3, 3, **JOB, **CLAIM)
            until(lambda: wish(cluster, space), 90, lambda: [place.said(key) for key in gang])
            node = wish(cluster, space)
            until(lambda: list(loads(cluster, space)) == [node], 60, lambda: loads(cluster, space))
            says(admin, space, node, 1000, total=10_000, eta=5000)  # reading it from the store would take hours
            warmth = scheduling.scheduler.core.nearness.warmth
            until(lambda: int(warmth.held.max()) == 1000 * GB, 60, warmth.held.tolist)
            other = next(one for one in place.nodes if one != node)
            admin.delete(r.PODS, olds[place.nodes.index(other)], grace=0)

            def waits() -> bool:
                says(admin, space, node, 1000, total=10_000, eta=5000)  # it lives: a hint counts for two minutes
                return f"is on {node} (931.32GiB, and loaded there, " in place.said(gang[0])

            until(waits, 60, lambda: [place.said(key) for key in gang])
            assert wish(cluster, space) == node
            says(admin, space, node, 10_000, total=10_000)
            admin.delete(r.PODS, olds[place.nodes.index(node)], grace=0)
            place.all_bound(gang)
            assert set(place.where(gang)) == {node}
        cluster.delete("Dataset", Key(space, "d"))
        for key in gang:
            admin.delete(r.PODS, key, grace=0)
        until(lambda: cluster.gone("Dataset", Key(space, "d")), 120, lambda: cluster.status(Key(space, "d")))
    until(lambda: nobody(admin, place), 120, place.pods)


def test_a_gang_starts_though_nobody_carries_out_what_is_wished(
    site: ControlPlane, cluster: Cluster, space: str, admin: Client, place: Site
) -> None:
    """No controller runs: the hints are ours, the wish stands there, and the gang goes where there is room."""
    head = {"apiVersion": "forebay.io/v1alpha1", "kind": "DatasetHints", "metadata": {"name": "d", "namespace": space}}
    volume = {
        "accessModes": ["ReadOnlyMany"], "storageClassName": "", "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
        "claimRef": {"namespace": space, "name": "d"},
    }  # fmt: skip
    meta = {"name": f"{space}-d"}
    admin.create(r.VOLUMES, "", {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": volume})
    asked = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": f"{space}-d"}
    claim = {"metadata": {"name": "d"}, "spec": {**asked, "resources": {"requests": {"storage": "1Gi"}}}}
    admin.create(r.CLAIMS, space, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim})
    admin.apply(r.DATASET_HINTS, Key(space, "d"), head)
    for node in place.nodes:
        says(admin, space, node, 0)
    olds = [place.pod(f"old-{n}", cpu="4", **JOB) for n in range(2)]
    for n, old in enumerate(olds):
        place.bind(old, place.nodes[n])
    with Scheduling(endpoint(site)):  # type: ignore[arg-type]
        gang = place.gang("train", 4, 4, **JOB, **CLAIM)
        until(lambda: wish(cluster, space), 60, lambda: [place.said(key) for key in gang])
        assert not loads(cluster, space)
        admin.delete(r.PODS, olds[0], grace=0)
        place.all_bound(gang)
        until(lambda: wish(cluster, space) in ("", place.where(gang)[0]), 60, lambda: wish(cluster, space))
    admin.delete(r.DATASET_HINTS, Key(space, "d"))
    admin.delete(r.VOLUMES, Key("", f"{space}-d"))


def test_the_scheduler_may_wish_and_no_more(site: ControlPlane, space: str, admin: Client) -> None:
    transport = Transport(endpoint(site))  # type: ignore[arg-type]
    client = Client(transport, manager="forebay-scheduler")
    try:
        load = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "DataLoad", "metadata": {"name": "x"}, "spec": {}}
        with pytest.raises(Forbidden):
            client.create(RESOURCES["DataLoad"], space, load)
        head = {"apiVersion": "forebay.io/v1alpha1", "kind": "DatasetHints", "metadata": {"name": "d", "namespace": space}}
        with pytest.raises(Forbidden):
            client.apply(r.DATASET_HINTS, Key(space, "d"), head)
        admin.apply(r.DATASET_HINTS, Key(space, "d"), head)
        client.merge(r.DATASET_HINTS, Key(space, "d"), {"metadata": {"annotations": {LOAD_ON: "n"}}})
        with pytest.raises(Forbidden):
            client.merge(r.DATASET_HINTS, Key(space, "d"), {"status": {}}, sub="status")
        with pytest.raises(Forbidden):
            client.list_all(r.SECRETS, Bare, space)
    finally:
        transport.close()
        admin.delete(r.DATASET_HINTS, Key(space, "d"))
