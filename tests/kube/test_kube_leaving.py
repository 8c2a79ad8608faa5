"""Uninstalling with datasets present, in any order of mistakes: nothing hangs, nothing is left but what users made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controllerlab import INSTALLED, SPACE, Cluster, Running, as_account, installed, key_of, may
from controlplane import ControlPlane
from controlplane_kit import until
from leavinglab import Uninstall, bound, finalizers

from forebay.api.fluid.names import DATASET_FINALIZER, runtime_finalizer
from forebay.controller.install import parts as install
from forebay.controller.install import removal, rights
from forebay.controller.nodes.labelling import MANAGER
from forebay.controller.nodes.labels import APPLIED
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(400)
JOBS = Resource("batch", "v1", "jobs", "Job")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A server of its own: whoever uninstalls lets go of every dataset there is, those of other tests too."""
    with installed(tmp_path_factory.mktemp("leaving")) as running:
        yield running


@pytest.fixture
def granted(cluster: Cluster) -> Iterator[None]:
    """What the uninstaller may do, and no more."""
    objects = [obj for obj in removal.wanted(install.Install()) if obj["kind"] != "Job"]
    for obj in objects:
        cluster.client.apply(INSTALLED[obj["kind"]], key_of(obj), obj)
    yield
    for obj in objects:
        cluster.client.delete(INSTALLED[obj["kind"]], key_of(obj))


@pytest.fixture
def uninstall(site: ControlPlane, tmp_path: Path, granted: None) -> Uninstall:
    return Uninstall(site, tmp_path)


def let_go(cluster: Cluster, key: Key) -> None:
    assert finalizers(cluster, "Dataset", key) == []
    assert finalizers(cluster, "CacheRuntime", key) == []
    left = [x for x in cluster.left(key) if not x.startswith("Secret ")]
    assert left == [], "nobody here may delete Secrets: they go with the Dataset"
    assert cluster.phase(key) == "NotBound"
    assert cluster.condition(key)["reason"] == "Uninstalled"
    assert cluster.runtime(key)["worker"]["reason"] == "Uninstalled"


def delete_at_once(cluster: Cluster, key: Key) -> None:
    """Without a controller: nothing holds it."""
    cluster.delete("CacheRuntime", key)
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key) and cluster.gone("CacheRuntime", key), 60, lambda: cluster.read("Dataset", key))
    until(lambda: not cluster.left(key), 60, lambda: cluster.left(key))


def test_datasets_stay_free_of_us_and_are_served_again(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    """While the controller runs as a Deployment's pod would: it ends, and the lease goes over."""
    with Running(site.endpoint, elect=True) as running:
        keys = [bound(cluster, space), bound(cluster, space, "e")]
        assert DATASET_FINALIZER in finalizers(cluster, "Dataset", keys[0])
        assert runtime_finalizer("CacheRuntime") in finalizers(cluster, "CacheRuntime", keys[0])
        running.settle()
        process = uninstall.start()
        until(lambda: "lease forebay-controller is held by test" in uninstall.log.read_text(), 60, uninstall.log.read_text)
        assert cluster.phase(keys[0]) == "Bound", "two wrote at once"
    code, said = uninstall.finish(process, cluster, *keys)  # the Deployment's pod has ended
    assert code == 0, said
    for key in keys:
        let_go(cluster, key)
    with Running(site.endpoint):
        for key in keys:
            cluster.serve(key, 2)
            until(lambda key=key: cluster.phase(key) == "Bound", 60, lambda key=key: cluster.status(key))  # type: ignore[misc]
        for key in keys:
            cluster.delete("Dataset", key)
            until(lambda key=key: cluster.gone("Dataset", key) and not cluster.left(key), 60, lambda key=key: cluster.left(key))  # type: ignore[misc]


def test_the_controllers_deployment_is_stopped_first(site: ControlPlane, cluster: Cluster, uninstall: Uninstall) -> None:
    (deployment,) = [o for o in install.parts(install.Install())["40-controller.yaml"] if o["kind"] == "Deployment"]
    at = Key(SPACE, rights.CONTROLLER)
    cluster.client.apply(r.DEPLOYMENTS, at, deployment)
    code, said = uninstall.run(cluster)
    assert code == 0, said
    found: dict[str, Any] = cluster.client.get(r.DEPLOYMENTS, at, dict[str, Any])
    assert found["spec"]["replicas"] == 0
    cluster.client.delete(r.DEPLOYMENTS, at)


def test_after_the_controller_was_deleted_too_early(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    """What hangs: a Dataset being deleted, whose controller is gone for good. A runtime without a Dataset, too."""
    with Running(site.endpoint) as running:
        key, other = bound(cluster, space), bound(cluster, space, "e")
        running.settle()
    cluster.delete("Dataset", key)
    cluster.strip("Dataset", other)
    cluster.delete("Dataset", other)
    until(lambda: cluster.gone("Dataset", other), 60)
    assert DATASET_FINALIZER in finalizers(cluster, "Dataset", key)
    code, said = uninstall.run(cluster, key, other)
    assert code == 0, said
    until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
    for each in (key, other):
        cluster.delete("CacheRuntime", each)
        until(lambda each=each: cluster.gone("CacheRuntime", each), 60, lambda each=each: cluster.read("CacheRuntime", each))  # type: ignore[misc]
        until(lambda each=each: not cluster.left(each), 60, lambda each=each: cluster.left(each))  # type: ignore[misc]


def test_a_pod_that_reads_is_named_and_nothing_is_touched(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    with Running(site.endpoint) as running:
        key = bound(cluster, space)
        running.settle()
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "d"}}
    spec = {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}
    cluster.client.create(r.PODS, space, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": spec})
    code, said = uninstall.run(cluster, key)
    assert code == 1
    assert f"pod {space}/reader read datasets: end these pods first" in said
    assert cluster.phase(key) == "Bound"
    assert DATASET_FINALIZER in finalizers(cluster, "Dataset", key)
    cluster.kill(Key(space, "reader"))
    code, said = uninstall.run(cluster, key)
    assert code == 0, said
    let_go(cluster, key)
    delete_at_once(cluster, key)


def test_a_worker_that_does_not_end_is_named_in_time_and_the_dataset_is_let_go(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    """Its node is gone, say. Finalizers do not wait for it."""
    with Running(site.endpoint) as running:
        key = bound(cluster, space)
        running.settle()
    code, said = uninstall.run(cluster, seconds=15)
    assert code == 1
    assert f"worker {space}/d-worker-0 on node node-0" in said
    assert "give the command again" in said
    assert finalizers(cluster, "Dataset", key) == []
    code, said = uninstall.run(cluster, key)
    assert code == 0, said
    let_go(cluster, key)
    delete_at_once(cluster, key)


def test_a_reference_and_its_source_are_let_go_together(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    with Running(site.endpoint):
        key, view = bound(cluster, space), Key(space, "view")
        text = "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: view, namespace: SPACE}\n"
        cluster.apply((text + 'spec: {mounts: [{mountPoint: "dataset://SPACE/d", name: v}]}\n').replace("SPACE", space))
        until(lambda: cluster.phase(view) == "Bound", 60, lambda: cluster.status(view))
    code, said = uninstall.run(cluster, key)
    assert code == 0, said
    let_go(cluster, key)
    assert finalizers(cluster, "Dataset", view) == []
    assert cluster.left(view) == []
    cluster.delete("Dataset", view)
    until(lambda: cluster.gone("Dataset", view), 60)
    delete_at_once(cluster, key)


def test_its_account_makes_nothing_and_reads_no_secret(site: ControlPlane, granted: None, space: str) -> None:
    transport = Transport(as_account(site.endpoint, rights.UNINSTALL))
    client = Client(transport)
    assert may(client, "delete", "statefulsets.apps", space)
    assert may(client, "patch", "datasets.data.fluid.io", space)
    for verb, what in (
        ("get", "secrets"),
        ("create", "secrets"),
        ("delete", "secrets"),
        ("create", "statefulsets.apps"),
        ("patch", "statefulsets.apps"),
        ("create", "pods/exec"),
        ("delete", "datasets.data.fluid.io"),
        ("patch", "deployments.apps/scale"),  # here: it may stop one Deployment, of its own namespace
    ):
        assert not may(client, verb, what, space), (verb, what)
    transport.close()


def test_the_server_takes_the_job(cluster: Cluster) -> None:
    for obj in removal.wanted(install.Install()):
        resource = JOBS if obj["kind"] == "Job" else INSTALLED[obj["kind"]]
        meta = obj["metadata"]
        cluster.client.apply(resource, Key(meta.get("namespace", ""), meta["name"]), obj, dry_run=True)


def test_a_load_is_ended_and_stays_as_it_was_written(
    site: ControlPlane, cluster: Cluster, uninstall: Uninstall, space: str
) -> None:
    with Running(site.endpoint):
        key, load = bound(cluster, space), Key(space, "ahead")
        text = "apiVersion: data.fluid.io/v1alpha1\nkind: DataLoad\nmetadata: {name: ahead, namespace: SPACE}\n"
        cluster.apply((text + "spec: {dataset: {name: d, namespace: SPACE}}\n").replace("SPACE", space))
        until(lambda: jobs(cluster, space), 60, lambda: cluster.read("DataLoad", load))
    code, said = uninstall.run(cluster, key)
    assert code == 0, said
    until(lambda: not jobs(cluster, space), 60, lambda: jobs(cluster, space))
    let_go(cluster, key)
    cluster.delete("DataLoad", load)
    until(lambda: cluster.gone("DataLoad", load), 60, lambda: cluster.read("DataLoad", load))
    delete_at_once(cluster, key)


def jobs(cluster: Cluster, space: str) -> list[str]:
    return [job.metadata.name for job in cluster.client.list_all(JOBS, Bare, space)[0]]


def test_labels_of_nodes_go_where_there_are_any(cluster: Cluster, uninstall: Uninstall) -> None:
    """Whether the installation wants them or did once: its setting may have been turned off since."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "labelled", "labels": {"kept": "yes"}}}
    cluster.client.create(r.NODES, "", node)
    ours = {"labels": {"fluid.io/s-ns-d": "true"}, "annotations": {APPLIED: "x"}, "name": "labelled"}
    cluster.client.apply(r.NODES, Key("", "labelled"), {**node, "metadata": ours}, manager=MANAGER)
    code, said = uninstall.run(cluster)
    assert code == 0, said
    found = cluster.client.get(r.NODES, Key("", "labelled"), Bare).metadata
    assert found.labels.get("kept") == "yes"
    assert not [key for key in (*found.labels, *found.annotations) if "fluid" in key or "forebay" in key]
    cluster.client.delete(r.NODES, Key("", "labelled"))
