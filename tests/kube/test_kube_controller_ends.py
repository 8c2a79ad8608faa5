"""Deleting, in every order: nothing of a dataset is left, nothing goes while it is read, and no finalizer holds for ever."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.objects import Key

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


def bound(cluster: Cluster, space: str) -> Key:
    key = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    return key


def nothing_left(cluster: Cluster, key: Key) -> None:
    until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
    until(lambda: cluster.gone("CacheRuntime", key), 60, lambda: cluster.read("CacheRuntime", key))
    until(lambda: not cluster.left(key), 60, lambda: f"left: {cluster.left(key)}")


ORDERS = [
    *itertools.permutations(("Dataset", "CacheRuntime", "StatefulSet")),
    ("PersistentVolume", "PersistentVolumeClaim", "Dataset"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: "-".join(k.lower() for k in o))
def test_whatever_is_deleted_first(cluster: Cluster, running: Running, space: str, order: tuple[str, ...]) -> None:
    key = bound(cluster, space)
    names = {"StatefulSet": Key(space, "d-worker"), "PersistentVolume": Key("", f"{space}-d")}
    for kind in order:
        cluster.delete(kind, names.get(kind, key))
    nothing_left(cluster, key)


def test_every_order_of_what_people_delete(cluster: Cluster, running: Running, space: str) -> None:
    """The Dataset, its runtime, its claim and the pod that reads it: twenty-four datasets at once, an order each."""
    orders = list(itertools.permutations(("Dataset", "CacheRuntime", "PersistentVolumeClaim", "Pod")))
    keys = [Key(space, f"d{at}") for at, _ in enumerate(orders)]
    for key in keys:
        cluster.apply(
            SMALL.replace("SPACE", space).replace("name: d,", f"name: {key.name},").replace("replicas: 2", "replicas: 1")
        )
    for key in keys:
        cluster.serve(key, 1)
    for key in keys:
        until(lambda key=key: cluster.phase(key) == "Bound", 60, lambda key=key: cluster.status(key))  # type: ignore[misc]
        cluster.client.create(r.PODS, space, reads(reader_of(key), key))
    running.settle()
    for key, order in zip(keys, orders, strict=True):
        for kind in order:
            cluster.kill(reader_of(key)) if kind == "Pod" else cluster.delete(kind, key)
    for key in keys:
        nothing_left(cluster, key)


def reader_of(key: Key) -> Key:
    return Key(key.namespace, f"reads-{key.name}")


def reads(pod: Key, key: Key) -> dict[str, Any]:
    """A pod that mounts the claim."""
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": key.name}}]
    containers = [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]
    meta = {"name": pod.name, "namespace": pod.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers, "volumes": volumes}}


def test_at_once_after_it_was_made(cluster: Cluster, running: Running, space: str) -> None:
    """Whatever of it exists when the deletion comes."""
    key = Key(space, "d")
    for _ in range(5):
        cluster.apply(SMALL.replace("SPACE", space))
        cluster.delete("Dataset", key)
        cluster.delete("CacheRuntime", key)  # the Dataset may go before it owns its runtime
        nothing_left(cluster, key)


def test_a_runtime_that_goes_and_comes_back(cluster: Cluster, running: Running, space: str) -> None:
    key = bound(cluster, space)
    cluster.delete("CacheRuntime", key)
    until(lambda: cluster.gone("CacheRuntime", key), 60, lambda: cluster.read("CacheRuntime", key))
    until(lambda: cluster.phase(key) == "NotBound", 60, lambda: cluster.status(key))
    for pod in cluster.pods(key):
        cluster.kill(Key(space, pod["metadata"]["name"]))
    cluster.apply(SMALL.replace("SPACE", space))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    cluster.delete("Dataset", key)
    nothing_left(cluster, key)


def test_nothing_goes_while_a_pod_reads(cluster: Cluster, running: Running, space: str) -> None:
    key = bound(cluster, space)
    reader = Key(space, "reader")
    cluster.client.create(r.PODS, space, reads(reader, key))
    running.settle()
    cluster.delete("Dataset", key)
    until(lambda: cluster.condition(key, "Deleting").get("reason") == "InUse", 60, lambda: cluster.status(key))
    assert "reader" in cluster.condition(key, "Deleting")["message"]
    assert cluster.phase(key) == "Bound"
    assert len(cluster.pods(key)) == 2
    until(lambda: [e for e in cluster.events(key) if e["reason"] == "InUse"], 60, "an Event that says who holds it")
    cluster.kill(reader)
    nothing_left(cluster, key)


def test_who_holds_a_dataset_up_is_said_too_where_no_engine_serves_it_any_more(
    cluster: Cluster, running: Running, space: str
) -> None:
    key = bound(cluster, space)
    reader = Key(space, "reader")
    cluster.client.create(r.PODS, space, reads(reader, key))
    cluster.annotate("Dataset", key, {"forebay.io/engine": "jindo"})
    until(lambda: cluster.condition(key).get("reason") == "EngineNotDriven", 60, lambda: cluster.status(key))
    cluster.delete("Dataset", key)
    until(lambda: cluster.condition(key, "Deleting").get("reason") == "InUse", 60, lambda: cluster.status(key))
    assert "reader" in cluster.condition(key, "Deleting")["message"]
    cluster.kill(reader)
    nothing_left(cluster, key)


@pytest.mark.parametrize("stripped", [False, True], ids=["in order", "its finalizer stripped"])
def test_pods_that_have_ended_keep_nothing(cluster: Cluster, running: Running, space: str, stripped: bool) -> None:
    """Kubernetes keeps a claim for them until somebody deletes them, as nobody does with those of a Job."""
    key, pod = bound(cluster, space), Key(space, "done")
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "d"}}
    spec = {"nodeName": "node-0", "containers": [{"name": "c", "image": "i"}], "volumes": [volume]}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.name, "namespace": space}, "spec": spec}
    cluster.client.create(r.PODS, space, made)
    cluster.client.merge(r.PODS, pod, {"status": {"phase": "Succeeded"}}, sub="status")
    running.settle()
    cluster.delete("Dataset", key)
    if stripped:
        cluster.strip("Dataset", key)

    def told() -> bool:
        claim = cluster.read("PersistentVolumeClaim", key)
        return claim is None or bool(claim["metadata"].get("deletionTimestamp"))

    until(told, 60, lambda: cluster.read("PersistentVolumeClaim", key))  # it may be let go of a moment later
    until(lambda: cluster.gone("Dataset", key), 120, lambda: cluster.read("Dataset", key))
    until(lambda: not cluster.left(key), 120, lambda: cluster.left(key))
    assert not cluster.gone("Pod", pod)
    cluster.kill(pod)


def test_a_dataset_that_others_refer_to_waits_for_them(cluster: Cluster, running: Running, space: str) -> None:
    key, other = bound(cluster, space), Key(space, "view")
    text = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: view, namespace: SPACE}\n"
    text += 'spec: {mounts: [{mountPoint: "dataset://SPACE/d", name: v}]}\n'
    cluster.apply(text.replace("SPACE", space))
    until(lambda: cluster.phase(other) == "Bound", 60, lambda: cluster.status(other))
    until(lambda: cluster.status(key).get("datasetRef") == [f"{space}/view"], 60, lambda: cluster.status(key))
    cluster.delete("Dataset", key)
    until(lambda: cluster.condition(key, "Deleting").get("reason") == "InUse", 60, lambda: cluster.status(key))
    cluster.delete("Dataset", other)
    nothing_left(cluster, other)
    nothing_left(cluster, key)


def test_who_was_granted_nothing_holds_nothing_up(cluster: Cluster, running: Running, space: str) -> None:
    """Else any namespace could keep another's dataset from being deleted."""
    key, other = bound(cluster, space), Key(f"{space}-foreign", "view")
    text = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: view, namespace: SPACE-foreign}\n"
    text += 'spec: {mounts: [{mountPoint: "dataset://SPACE/d", name: v}]}\n'
    cluster.apply(text.replace("SPACE", space))
    until(lambda: cluster.condition(other).get("reason") == "NotGranted", 60, lambda: cluster.status(other))
    cluster.delete("Dataset", key)
    nothing_left(cluster, key)
    until(lambda: cluster.condition(other).get("reason") == "SourceMissing", 60, lambda: cluster.status(other))
    cluster.delete("Dataset", other)
    nothing_left(cluster, other)
    cluster.client.delete(r.NAMESPACES, Key("", other.namespace))


def test_a_namespace_that_goes_takes_everything(cluster: Cluster, running: Running, space: str) -> None:
    key = bound(cluster, space)
    cluster.client.delete(r.NAMESPACES, Key("", space))
    until(lambda: not cluster.left(key), 60, lambda: f"left: {cluster.left(key)}")  # its pods end first, by its own order
    nothing_left(cluster, key)
    until(lambda: cluster.gone("Namespace", Key("", space)), 60, lambda: cluster.read("Namespace", Key("", space)))


def test_a_claim_whose_label_somebody_took_keeps_nothing(cluster: Cluster, running: Running, space: str) -> None:
    """The copies hold what carries our label alone, and while the spec is refused nobody puts it back; the volume stays as long
    as its claim does."""
    key = bound(cluster, space)
    wrong = {"spec": {"mounts": [{"mountPoint": "ftp://h/x", "name": "b"}]}}
    cluster.client.merge(RESOURCES["Dataset"], key, wrong)
    until(lambda: cluster.condition(key, "UpdateReady").get("reason") == "SpecRefused", 60, lambda: cluster.status(key))
    cluster.client.merge(r.CLAIMS, key, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
    running.settle()
    cluster.delete("Dataset", key)
    nothing_left(cluster, key)
    until(lambda: cluster.gone("PersistentVolumeClaim", key), 60, lambda: cluster.read("PersistentVolumeClaim", key))


def test_a_finalizer_stripped_by_hand_leaks_no_volume(cluster: Cluster, running: Running, space: str) -> None:
    key = bound(cluster, space)
    cluster.client.merge(r.CLAIMS, key, {"metadata": {"finalizers": None}})
    cluster.delete("Dataset", key)
    cluster.strip("Dataset", key)
    nothing_left(cluster, key)
