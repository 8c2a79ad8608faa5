"""The controller on a real API server with its controllers: from a manifest to Bound, and back to nothing.

No kubelet runs: the test says that pods are ready. The controller has the rights of its own service account, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from controllerlab import MANIFESTS, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.kube.objects import Key
from forebay.runtimes.forebay.names import Names

pytestmark = pytest.mark.timeout(400)  # the first one waits for the garbage collector to know Datasets

NOT_SERVED = {
    "scratch": "SourceRefused",  # juicefs://
    "homes": "SourceRefused",  # nfs://
    "corpus-view": "SourceMissing",  # refers to a dataset of another manifest
    "stranger": "NotGranted",
    "beyond": "NotGranted",
}
"""What is said of datasets that cannot be served here. All others reach Bound."""


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_a_manifest_comes_to_bound_and_goes(cluster: Cluster, running: Running, path: Path) -> None:
    objects = cluster.apply(path.read_text())
    keys = [Key(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "Dataset"]
    for key in keys:
        until(lambda: cluster.condition(key), 60, f"a condition of {key}")  # noqa: B023 - called at once
    running.settle()
    for key in keys:
        workers = cluster.read("StatefulSet", Key(key.namespace, Names(key.namespace, key.name, "").workers))
        if workers is not None:
            cluster.serve(key, workers["spec"]["replicas"])
    for key in keys:
        reason = NOT_SERVED.get(key.name, "DatasetReady")
        until(lambda: says(cluster, key, reason), 60, lambda: cluster.status(key))  # noqa: B023
        assert (cluster.phase(key) == "Bound") == (reason == "DatasetReady")
        assert cluster.condition(key)["observedGeneration"] == 1
        assert cluster.condition(key)["message"]
        if reason == "DatasetReady":
            claim = cluster.read("PersistentVolumeClaim", key)
            assert claim is not None
            assert claim["status"]["phase"] == "Bound"
    for key in reversed(keys):
        cluster.delete("Dataset", key)
        until(lambda: cluster.gone("Dataset", key), 60, f"{key} stays")  # noqa: B023
        until(lambda: not cluster.left(key), 60, lambda: f"left: {cluster.left(key)}")  # noqa: B023


def says(cluster: Cluster, key: Key, reason: str) -> bool:
    """Whether the dataset says so. Workers that came late are served, as kubelets do."""
    if cluster.condition(key)["reason"] == reason:
        return True
    cluster.serve_those(key)
    return False
