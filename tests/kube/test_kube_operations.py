"""Operations that this version does not carry out, on a real API server: each says so and goes when it is told to. The
controller has the rights of its own account, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controllerlab import SMALL, Cluster, Object, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.copies import UNDRIVEN
from forebay.controller.kinds import RESOURCES
from forebay.controller.operations import REASON
from forebay.kube.objects import Key

SPECS = {
    "DataMigrate": "{from: {externalStorage: {uri: 's3://b/x'}}, to: {dataset: {name: d, namespace: SPACE}}, policy: Once}",
    "DataBackup": "{dataset: d, backupPath: 'pvc://c/x', runAfter: {kind: DataLoad, name: first}}",
    "DataProcess": """{dataset: {name: d, mountPath: /d}, policy: Cron, schedule: '1 2 * * *', ttlSecondsAfterFinished: 0,
                       processor: {script: {image: busybox, imageTag: latest, command: [sh], source: 'true'}}}""",
}
REMEDY = {"DataMigrate": "a tool of the stores", "DataBackup": "need no backup", "DataProcess": "mounts claim d"}


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


def make(cluster: Cluster, kind: str, space: str, name: str = "o", **meta: object) -> Key:
    head = {"name": name, "namespace": space, **meta}
    text = f"apiVersion: data.fluid.io/v1alpha1\nkind: {kind}\nmetadata: {head}\nspec: {SPECS[kind].replace('SPACE', space)}"
    cluster.apply(text)
    return Key(space, name)


def status(cluster: Cluster, kind: str, key: Key) -> Object:
    found: Object = (cluster.read(kind, key) or {}).get("status") or {}
    return found


def says_so(cluster: Cluster, kind: str, key: Key) -> Object:
    """Its Failed condition, once it says what is so."""

    def said() -> Object:
        conditions = status(cluster, kind, key).get("conditions", ())
        found: Object = next((c for c in conditions if c["type"] == "Failed" and c["status"] == "True"), {})
        return found

    until(lambda: said().get("reason") == REASON, 60, lambda: cluster.read(kind, key))
    return said()


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_it_is_told_so_and_stays_told(cluster: Cluster, running: Running, space: str, kind: str) -> None:
    key = make(cluster, kind, space)
    told = says_so(cluster, kind, key)
    assert kind in told["message"]
    assert REMEDY[kind] in told["message"]
    until(lambda: cluster.events(key, kind), 60, "no Event")
    (event,) = cluster.events(key, kind)
    assert (event["type"], event["reason"], event["note"]) == ("Warning", REASON, told["message"])
    found = cluster.read(kind, key)
    assert found is not None
    assert (found["status"]["phase"], found["status"]["observedGeneration"]) == ("Failed", found["metadata"]["generation"])

    # nothing more is written, by a second controller that starts over it neither
    with Running(running.transport.endpoint, identity="second") as second:
        second.settle()
        again = cluster.read(kind, key)
    assert again is not None
    assert again["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
    assert len(cluster.events(key, kind)) == 1

    # by hand it does not become true
    wrong = {"phase": "Executing", "duration": "1s", "conditions": []}
    cluster.client.merge(RESOURCES[kind], key, {"status": wrong}, sub="status")
    says_so(cluster, kind, key)
    assert status(cluster, kind, key)["phase"] == "Failed"

    cluster.delete(kind, key)
    until(lambda: cluster.gone(kind, key), 60, lambda: cluster.read(kind, key))


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_one_that_fluid_left_behind_goes(cluster: Cluster, running: Running, space: str, kind: str) -> None:
    """Its finalizer would be taken by nobody else."""
    key = make(cluster, kind, space, finalizers=[f"fluid-{kind.lower()}-controller-finalizer"])
    says_so(cluster, kind, key)
    assert (cluster.read(kind, key) or {})["metadata"]["finalizers"], "it lives"
    cluster.delete(kind, key)
    until(lambda: cluster.gone(kind, key), 60, lambda: cluster.read(kind, key))


def test_a_dataset_is_held_up_by_none_of_them(cluster: Cluster, running: Running, space: str) -> None:
    cluster.apply(SMALL.replace("SPACE", space))
    at = Key(space, "d")
    cluster.serve(at, 2)
    until(lambda: cluster.phase(at) == "Bound", 60, lambda: cluster.status(at))
    for kind in UNDRIVEN:
        make(cluster, kind, space, finalizers=[f"fluid-{kind.lower()}-controller-finalizer"])
    for kind in UNDRIVEN:
        says_so(cluster, kind, Key(space, "o"))
    assert "operationRef" not in cluster.status(at)
    cluster.delete("Dataset", at)
    until(lambda: cluster.gone("Dataset", at), 120, lambda: cluster.read("Dataset", at))
    until(lambda: not cluster.left(at), 120, lambda: cluster.left(at))
