"""Helm on a real API server of its own: datasets keep no release from going, and what goes leaves nothing.
There is no kubelet: the test runs the command of the hook's Job, and says that its pod has ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controllerlab import INSTALLED, SPACE, Cluster, Running, wait_for_collector
from controlplane import ControlPlane, programs
from controlplane_kit import until
from leavinglab import Uninstall, bound, finalizers

from forebay.controller.install import parts as install
from forebay.controller.install import rights
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import NotFound
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(600)
CHART = Path(__file__).parents[2] / "deploy" / "chart"
JOBS = Resource("batch", "v1", "jobs", "Job")
KINDS = (*(resource for kind, resource in INSTALLED.items() if kind != "Namespace"), r.SECRETS, JOBS)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A server where nothing is installed."""
    off = "--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller"
    with ControlPlane(tmp_path_factory.mktemp("empty"), manager_flags=[off]) as running:
        yield running


@pytest.fixture
def there(empty: ControlPlane) -> Iterator[Cluster]:
    transport = Transport(empty.endpoint)
    yield Cluster(Client(transport, manager="admin"))
    transport.close()


class Helm:
    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._common = ["--kubeconfig", str(plane.kubeconfig), "--namespace", SPACE]
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self._log = folder / "helm.log"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig", "KILL", programs(("helm",))["helm"], *arguments, *self._common]
        with self._log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def words(self) -> str:
        return self._log.read_text()

    def run(self, *arguments: str) -> None:
        assert self.start(*arguments).wait(240) == 0, self.words()


@pytest.fixture
def helm(empty: ControlPlane, tmp_path: Path) -> Helm:
    return Helm(empty, tmp_path)


def ours(cluster: Cluster) -> set[str]:
    """Everything of ours that is no dataset's."""
    found = set()
    for resource in KINDS:
        try:
            listed, _ = cluster.client.list_all(resource, Bare)
        except NotFound:
            continue  # its CRD is not there
        found |= {f"{resource.kind} {o.metadata.name}" for o in listed if "forebay" in o.metadata.name}
    return found


def end(cluster: Cluster, phase: str) -> None:
    """The hook's pod ends, as a kubelet says it."""
    labels = f"batch.kubernetes.io/job-name={rights.UNINSTALL}"

    def waiting() -> list[Bare]:
        pods, _ = cluster.client.list_all(r.PODS, Bare, SPACE, labels=labels, fields="status.phase=Pending")
        return [pod for pod in pods if not pod.metadata.deletion_timestamp]

    until(waiting, 60, "the Job makes no pod")
    for pod in waiting():
        cluster.client.merge(r.PODS, Key(SPACE, pod.metadata.name), {"status": {"phase": phase}}, sub="status")


def job_is_there(cluster: Cluster) -> bool:
    try:
        cluster.client.get(JOBS, Key(SPACE, rights.UNINSTALL), Bare)
    except NotFound:
        return False
    return True


def namespace_is_there(cluster: Cluster) -> bool:
    try:
        cluster.client.get(r.NAMESPACES, Key("", SPACE), Bare)
    except NotFound:
        return False
    return True


def test_a_release_comes_changes_and_goes(helm: Helm, there: Cluster, empty: ControlPlane, tmp_path: Path) -> None:
    before = ours(there)
    assert before == set()
    helm.run("install", "forebay", str(CHART), "--create-namespace", "--set", "defaultEngine=native")
    wanted = {f"{o['kind']} {o['metadata']['name']}" for part in install.parts(install.Install()).values() for o in part}
    assert ours(there) >= wanted - {f"Namespace {SPACE}"}
    helm.run("upgrade", "forebay", str(CHART), "--reset-then-reuse-values", "--set", "controller.replicas=1")
    found: dict[str, Any] = there.client.get(r.DEPLOYMENTS, Key(SPACE, rights.CONTROLLER), dict[str, Any])
    assert found["spec"]["replicas"] == 1
    settings: dict[str, Any] = there.client.get(r.CONFIG_MAPS, Key(SPACE, rights.CONTROLLER), dict[str, Any])
    assert '"defaultEngine": "native"' in settings["data"]["settings.yaml"]

    wait_for_collector(there.client)
    with Running(empty.endpoint) as running:
        key = bound(there, "default")
        running.settle()
    process = helm.start("uninstall", "forebay", "--timeout=200s")
    until(lambda: job_is_there(there), 60, helm.words)
    assert f"Deployment {rights.CONTROLLER}" in ours(there), "something went before datasets were let go of"
    code, said = Uninstall(empty, tmp_path).run(there, key)
    assert code == 0, said
    end(there, "Succeeded")
    assert process.wait(120) == 0, helm.words()
    until(lambda: ours(there) == {f"Secret {name}" for name in there.left_of(key, "Secret")}, 60, lambda: ours(there))
    assert finalizers(there, "Dataset", key) == []

    there.client.delete(r.NAMESPACES, Key("", SPACE))
    for crd in there.client.list_all(r.CRDS, Bare)[0]:
        there.client.delete(r.CRDS, Key("", crd.metadata.name))
    until(lambda: not there.client.list_all(r.CRDS, Bare)[0], 60, "a Dataset holds its CRD up")
    until(lambda: ours(there) == set(), 60, lambda: ours(there))
    until(lambda: not namespace_is_there(there), 120, f"namespace {SPACE} is still ending")


def test_a_hook_that_fails_leaves_the_release_and_it_may_be_tried_again(helm: Helm, there: Cluster) -> None:
    helm.run("install", "forebay", str(CHART), "--create-namespace")
    process = helm.start("uninstall", "forebay", "--timeout=200s")
    until(lambda: job_is_there(there), 60, helm.words)
    end(there, "Failed")
    assert process.wait(120) != 0, helm.words()
    assert f"Deployment {rights.CONTROLLER}" in ours(there)
    assert f"DaemonSet {rights.NODE}" in ours(there)
    process = helm.start("uninstall", "forebay", "--timeout=200s")
    end(there, "Succeeded")
    assert process.wait(120) == 0, helm.words()
    until(lambda: ours(there) == set(), 60, lambda: ours(there))
