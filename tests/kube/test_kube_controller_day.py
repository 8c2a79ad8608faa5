"""What a dataset lives through: scaling, edits by hand, names that are taken, grants, runtimes too many and datasets too few."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.objects import Key
from forebay.runtimes.engine import LEAVING, REVISION

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


@pytest.fixture
def key(cluster: Cluster, running: Running, space: str) -> Iterator[Key]:
    """A dataset that is Bound."""
    found = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space))
    cluster.serve(found, 2)
    until(lambda: cluster.phase(found) == "Bound", 60, lambda: cluster.status(found))
    yield found
    cluster.delete("Dataset", found)
    until(lambda: cluster.gone("Dataset", found) and not cluster.left(found), 60, lambda: cluster.left(found))


def scale(cluster: Cluster, key: Key, replicas: int) -> None:
    cluster.client.merge(RESOURCES["CacheRuntime"], key, {"spec": {"replicas": replicas}}, sub="scale")


def replicas(cluster: Cluster, key: Key) -> int:
    found = cluster.read("StatefulSet", Key(key.namespace, f"{key.name}-worker"))
    return -1 if found is None else int(found["spec"]["replicas"])


def order(cluster: Cluster, key: Key, ordinal: int) -> str:
    pod = cluster.read("Pod", Key(key.namespace, f"{key.name}-worker-{ordinal}"))
    return "" if pod is None else pod["metadata"].get("annotations", {}).get(LEAVING, "")


def test_more_workers_come_at_once(cluster: Cluster, key: Key) -> None:
    scale(cluster, key, 3)
    until(lambda: replicas(cluster, key) == 3, 60, "the set grows")
    cluster.serve(key, 3)
    until(lambda: cluster.runtime(key)["worker"].get("readyReplicas") == 3, 60, lambda: cluster.runtime(key))


def told(cluster: Cluster, key: Key) -> list[str]:
    """Which configuration each worker's kubelet was told of."""
    return [pod["metadata"].get("annotations", {}).get(REVISION, "") for pod in cluster.pods(key)]


def test_kubelets_are_told_when_the_mounts_change(cluster: Cluster, key: Key) -> None:
    """A kubelet looks at ConfigMaps once a minute by itself, and at once when the pod changes."""
    assert told(cluster, key) == ["", ""]
    cluster.client.merge(RESOURCES["Dataset"], key, {"spec": {"mounts": [{"mountPoint": "https://h/y/", "name": "b"}]}})
    until(lambda: all(told(cluster, key)), 60, lambda: told(cluster, key))
    config = cluster.read("ConfigMap", Key(key.namespace, "d-forebay"))
    assert config is not None
    assert set(told(cluster, key)) == {config["metadata"]["annotations"][REVISION]}


def test_a_worker_goes_only_after_it_handed_out(cluster: Cluster, running: Running, key: Key) -> None:
    """The order is an annotation of its pod; that it stopped serving is the answer."""
    scale(cluster, key, 1)
    until(lambda: order(cluster, key, 1), 60, "the order to leave")
    running.settle()
    assert replicas(cluster, key) == 2
    assert order(cluster, key, 0) == ""
    assert cluster.phase(key) == "Bound"
    cluster.ready(Key(key.namespace, "d-worker-1"), ready=False)
    until(lambda: replicas(cluster, key) == 1, 60, "the set shrinks")


def test_scaling_in_that_is_taken_back_starts_the_drained_worker_again(cluster: Cluster, running: Running, key: Key) -> None:
    scale(cluster, key, 1)
    until(lambda: order(cluster, key, 1), 60, "the order to leave")
    scale(cluster, key, 2)
    running.settle()
    cluster.ready(Key(key.namespace, "d-worker-1"), ready=False)
    name = Key(key.namespace, "d-worker-1")
    until(lambda: (p := cluster.read("Pod", name)) is None or p["metadata"].get("deletionTimestamp"), 60, "it is deleted")
    cluster.kill(name)
    cluster.serve(key, 2)
    assert order(cluster, key, 1) == ""
    until(lambda: cluster.runtime(key)["worker"].get("readyReplicas") == 2, 60, lambda: cluster.runtime(key))


def test_to_nothing_and_back(cluster: Cluster, key: Key) -> None:
    scale(cluster, key, 0)
    until(lambda: replicas(cluster, key) == 0, 60, "the set is empty")
    for i in range(2):
        cluster.kill(Key(key.namespace, f"d-worker-{i}"))
    until(lambda: cluster.condition(key).get("reason") == "ScaledToZero", 60, lambda: cluster.status(key))
    scale(cluster, key, 1)
    cluster.serve(key, 1)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))


def test_a_worker_that_fails_is_said_and_the_last_one_serves(cluster: Cluster, key: Key) -> None:
    cluster.ready(Key(key.namespace, "d-worker-1"), ready=False)
    until(lambda: "1 of 2" in cluster.condition(key)["message"], 60, lambda: cluster.status(key))
    assert cluster.phase(key) == "Bound"
    cluster.ready(Key(key.namespace, "d-worker-0"), ready=False)
    until(lambda: cluster.phase(key) == "NotBound", 60, lambda: cluster.status(key))
    until(lambda: [e for e in cluster.events(key) if e["reason"] == "WorkersStarting"], 60, "an Event")
    cluster.ready(Key(key.namespace, "d-worker-0"))
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))


EDITS = {
    "a service deleted": ("Service", "svc-d-worker", None),
    "a configuration deleted": ("ConfigMap", "d-forebay", None),
    "a budget deleted": ("PodDisruptionBudget", "d-worker", None),
    "workers deleted": ("StatefulSet", "d-worker", None),
    "a claim deleted": ("PersistentVolumeClaim", "d", None),
    "other mounts": ("ConfigMap", "d-forebay", {"data": {"config.json": "{}"}}),
    "another image": (
        "StatefulSet",
        "d-worker",
        {"spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "evil"}]}}}},
    ),
    "another count": ("StatefulSet", "d-worker", {"spec": {"replicas": 5}}),
    "labels of workers": ("StatefulSet", "d-worker", {"metadata": {"labels": None}}),
    "labels of a volume": ("PersistentVolume", "SPACE-d", {"metadata": {"labels": None}}),
    "another selector": ("Service", "svc-d-worker", {"spec": {"selector": {"app": "other"}}}),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_somebody_changes_by_hand_is_put_right(cluster: Cluster, running: Running, key: Key, what: str) -> None:
    kind, name, patch = EDITS[what]
    name = name.replace("SPACE", key.namespace)
    at = Key("" if kind == "PersistentVolume" else key.namespace, name)
    before = cluster.read(kind, at)
    assert before is not None
    if patch is None:
        cluster.delete(kind, at)
    else:
        cluster.client.merge(RESOURCES[kind], at, patch)
    scaled_in = what == "another count"

    def right() -> bool:
        if kind == "StatefulSet" and patch is None:
            cluster.serve_those(key)
        if scaled_in:
            for i in range(2, 5):
                if cluster.read("Pod", Key(key.namespace, f"d-worker-{i}")) is not None:
                    cluster.kill(Key(key.namespace, f"d-worker-{i}"))
        now = cluster.read(kind, at)
        return now is not None and not now["metadata"].get("deletionTimestamp") and said(now) == said(before)

    until(right, 60, lambda: (said(cluster.read(kind, at) or {}), said(before)))

    def bound() -> bool:
        """The pods of a StatefulSet that was deleted are collected at any later moment, and others come in their place."""
        if kind == "StatefulSet" and patch is None:
            cluster.serve_those(key)
        return cluster.phase(key) == "Bound"

    until(bound, 60, lambda: cluster.status(key))


def test_a_status_that_somebody_writes_does_not_become_true(cluster: Cluster, running: Running, key: Key) -> None:
    """Nor do fields in it that the controller has nothing to say in: of another writer, an apply leaves them."""
    lies = {
        "Dataset": {"phase": "Failed", "ufsTotal": "9PiB", "hcfs": {"endpoint": "x"}, "operationRef": {"DataLoad": "none"}},
        "CacheRuntime": {
            "phase": "NotReady",
            "client": {"phase": "Ready", "readyReplicas": 9},
            "mountTime": "2026-01-01T00:00:00Z",
        },
    }
    running.settle()
    for kind, lie in lies.items():
        before = (cluster.read(kind, key) or {})["status"]
        cluster.client.merge(RESOURCES[kind], key, {"status": lie}, sub="status")
        until(lambda: (cluster.read(kind, key) or {})["status"] == before, 60, lambda: (before, cluster.read(kind, key)))  # noqa: B023
    running.settle()


def test_a_number_that_somebody_adds_to_a_status_which_leaves_it_out_goes(cluster: Cluster, running: Running, key: Key) -> None:
    """Of no workers none is said to be ready: an apply of what is said leaves a number that is not, and changes nothing."""
    scale(cluster, key, 0)
    until(lambda: replicas(cluster, key) == 0 and not cluster.runtime(key)["worker"].get("readyReplicas"), 60, "workers stay")
    for pod in cluster.pods(key):
        cluster.kill(Key(key.namespace, pod["metadata"]["name"]))
    running.settle()
    before = cluster.runtime(key)
    cluster.client.merge(RESOURCES["CacheRuntime"], key, {"status": {"worker": {"readyReplicas": 9}}}, sub="status")
    until(lambda: cluster.runtime(key) == before, 60, lambda: cluster.runtime(key))


def said(obj: dict[str, object]) -> object:
    """An object without what the server writes into it."""
    meta = obj.get("metadata") or {}
    assert isinstance(meta, dict)
    spec = obj.get("spec")
    spec = {k: v for k, v in spec.items() if k != "claimRef"} if isinstance(spec, dict) else spec
    if isinstance(spec, dict) and "clusterIPs" in spec:
        spec = {k: spec[k] for k in ("selector", "ports", "clusterIP")}
    return {"labels": meta.get("labels"), "spec": spec, "data": obj.get("data")}


def test_an_object_of_somebody_else_is_left_alone(cluster: Cluster, running: Running, space: str) -> None:
    mine = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "svc-d-worker", "namespace": space}}
    cluster.client.create(r.SERVICES, space, {**mine, "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]}})
    before = cluster.read("Service", Key(space, "svc-d-worker"))
    key = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space))
    until(lambda: cluster.condition(key).get("reason"), 60, lambda: cluster.status(key))
    until(lambda: [e for e in cluster.events(key) if e["reason"] == "NameTaken"], 60, lambda: cluster.events(key))
    running.settle()
    assert cluster.read("Service", Key(space, "svc-d-worker")) == before
    assert cluster.left(key) == []
    cluster.delete("Service", Key(space, "svc-d-worker"))
    cluster.annotate("Dataset", key, {"touched": "yes"})  # without it a minute would go by
    cluster.annotate("Dataset", key, {"touched": "yes"})
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))


GRANT = """
apiVersion: forebay.io/v1alpha1
kind: DatasetGrant
metadata: {name: g, namespace: SPACE}
spec: {dataset: d, namespaces: [SPACE-b]}
"""
VIEW = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: view, namespace: SPACE-b}
spec: {mounts: [{mountPoint: "dataset://SPACE/d", name: v}]}
"""


def test_a_grant_lets_another_namespace_in_and_taken_back_shuts_it_out(cluster: Cluster, key: Key) -> None:
    other = Key(f"{key.namespace}-b", "view")
    cluster.apply(VIEW.replace("SPACE", key.namespace))
    until(lambda: cluster.condition(other).get("reason") == "NotGranted", 60, lambda: cluster.status(other))
    cluster.apply(GRANT.replace("SPACE", key.namespace))
    until(lambda: cluster.phase(other) == "Bound", 60, lambda: cluster.status(other))
    grant = Key(key.namespace, "g")

    def given() -> tuple[str, list[str]]:
        said = (cluster.read("DatasetGrant", grant) or {}).get("status") or {}
        return next((c["reason"] for c in said.get("conditions", ())), ""), said.get("referrers", [])

    until(lambda: given() == ("Given", [f"{other.namespace}/view"]), 60, given)
    cluster.delete("DatasetGrant", grant)
    until(lambda: cluster.condition(other).get("reason") == "NotGranted", 60, lambda: cluster.status(other))
    until(lambda: cluster.gone("PersistentVolumeClaim", other), 60, "its claim goes")
    cluster.delete("Dataset", other)
    until(lambda: cluster.gone("Dataset", other) and not cluster.left(other), 60, lambda: cluster.left(other))
    cluster.client.delete(r.NAMESPACES, Key("", other.namespace))


def test_a_second_runtime_is_told_so(cluster: Cluster, key: Key) -> None:
    text = (
        "apiVersion: data.fluid.io/v1alpha1\nkind: AlluxioRuntime\nmetadata: {name: d, namespace: SPACE}\nspec: {replicas: 1}\n"
    )
    cluster.apply(text.replace("SPACE", key.namespace))

    def said_of_it() -> str:
        status = (cluster.read("AlluxioRuntime", key) or {}).get("status", {})
        return str(next((c["reason"] for c in status.get("conditions", ()) if c["type"] == "WorkersReady"), ""))

    until(lambda: said_of_it() == "SecondRuntime", 60, "the second runtime's status")
    assert cluster.phase(key) == "Bound"
    cluster.delete("AlluxioRuntime", key)
    until(lambda: cluster.gone("AlluxioRuntime", key), 60, "it goes")


def test_a_runtime_without_a_dataset_says_so_and_goes(cluster: Cluster, running: Running, space: str) -> None:
    key = Key(space, "d")
    cluster.apply(SMALL.replace("SPACE", space), only=lambda o: o["kind"] != "Dataset")

    def said_of_it() -> object:
        conditions = ((cluster.read("CacheRuntime", key) or {}).get("status") or {}).get("conditions", ())
        return [c["reason"] for c in conditions if c["reason"] == "NoDataset"]

    until(said_of_it, 60, lambda: cluster.read("CacheRuntime", key))
    cluster.delete("CacheRuntime", key)
    until(lambda: cluster.gone("CacheRuntime", key), 60, "it goes")


def test_credentials_in_plain_text_become_a_secret_that_nobody_reads(cluster: Cluster, running: Running, space: str) -> None:
    key = Key(space, "d")
    options = '{mountPoint: "s3://bucket/", name: b, options: {access_key: AK, secret_key: SK, endpoint: "http://s"}}'
    cluster.apply(SMALL.replace("SPACE", space).replace('{mountPoint: "https://h/x/", name: b}', options))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    secrets = [s for s in cluster.left_of(key, "Secret") if "credentials" in s]
    assert len(secrets) == 1
    made = cluster.read("StatefulSet", Key(space, "d-worker"))
    assert secrets[0] in str(made)
    assert "SK" not in str(made) + str(cluster.read("ConfigMap", Key(space, "d-forebay"))) + str(cluster.status(key))
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda: cluster.left(key))
