"""DataLoads on a real API server with its Job controller: each with the rights of its own account. No kubelet runs: the test
says what pods have become, and writes progress as a load's pod does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from controllerlab import SMALL, Cluster, Command, Object, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.api.fluid.status import Progress
from forebay.api.loadresult import LoadResult, encode
from forebay.cli.processes.loading import About, Reporter
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import Forbidden
from forebay.kube.objects import Bare, Key
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(400)

LOAD = """
apiVersion: data.fluid.io/v1alpha1
kind: DataLoad
metadata: {name: NAME, namespace: SPACE}
spec: {dataset: {name: d}, target: [{path: /a}, {path: "/b/*.tar", replicas: 2}]MORE}
"""
HALF = Progress(total_bytes=100, done_bytes=50, total_files=4, done_files=2, bytes_per_second=10, eta_seconds=5, percent=50)
WHOLE = Progress(
    total_bytes=100, done_bytes=100, total_files=4, done_files=4, failed_files=0, bytes_per_second=20, eta_seconds=0, percent=100
)


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


class Loads:
    """The loads of a namespace, and what a kubelet does with their pods."""

    def __init__(self, cluster: Cluster, space: str) -> None:
        self.cluster, self.space = cluster, space

    def key(self, name: str) -> Key:
        return Key(self.space, name)

    def make(self, name: str, more: str = "") -> None:
        self.cluster.apply(LOAD.replace("NAME", name).replace("SPACE", self.space).replace("MORE", more))

    def bound(self) -> None:
        self.cluster.apply(SMALL.replace("SPACE", self.space))
        self.cluster.serve(self.key("d"), 2)
        until(lambda: self.cluster.phase(self.key("d")) == "Bound", 60, lambda: self.cluster.status(self.key("d")))

    def read(self, name: str) -> Object:
        return self.cluster.read("DataLoad", self.key(name)) or {}

    def status(self, name: str) -> Object:
        found: Object = self.read(name).get("status") or {}
        return found

    def reason(self, name: str) -> str:
        """Of the condition that holds."""
        return next((c["reason"] for c in self.status(name).get("conditions", ()) if c["status"] == "True"), "")

    def comes(self, name: str, phase: str, reason: str | None = None) -> Object:
        until(lambda: self.status(name).get("phase") == phase, 60, lambda: f"{name} is not {phase}: {self.status(name)}")
        if reason is not None:
            until(lambda: self.reason(name) == reason, 60, lambda: f"not {reason}: {self.status(name)}")
        return self.status(name)

    def pods(self, name: str) -> list[Object]:
        labels = f"batch.kubernetes.io/job-name={name}-loader-job"
        listed, _ = self.cluster.client.list_all(r.PODS, Bare, self.space, labels=labels)
        return [p for each in listed if (p := self.cluster.read("Pod", self.key(each.metadata.name))) is not None]

    def pod(self, name: str) -> Object:
        """The one that has not ended."""

        def there() -> list[Object]:
            return [p for p in self.pods(name) if p["status"].get("phase") not in ("Succeeded", "Failed")]

        until(there, 60, f"no pod of {name}")
        return there()[0]

    def ends(self, pod: Object, code: int, result: LoadResult) -> None:
        """A kubelet says how a pod's container ended."""
        at = "2026-11-27T05:00:00Z"
        state = {"terminated": {"exitCode": code, "message": encode(result).decode(), "startedAt": at, "finishedAt": at}}
        container = {"name": "loader", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
        phase = "Succeeded" if code == 0 else "Failed"
        body = {"status": {"phase": phase, "containerStatuses": [container]}}
        self.cluster.client.merge(r.PODS, Key(self.space, pod["metadata"]["name"]), body, sub="status")


@pytest.fixture
def loads(cluster: Cluster, running: Running, space: str) -> Loads:
    return Loads(cluster, space)


def as_load(site: ControlPlane, pod: Object) -> Client:
    """A client with the rights of a load's pod, and no others."""
    account = f"system:serviceaccount:{pod['metadata']['namespace']}:{pod['spec']['serviceAccountName']}"
    groups = ("system:serviceaccounts", "system:authenticated")
    who = (("Impersonate-User", account), *(("Impersonate-Group", group) for group in groups))
    return Client(Transport(msgspec.structs.replace(site.endpoint, impersonate=who)), "forebay-loader")


def test_a_controller_that_is_killed_goes_on_where_it_was(
    site: ControlPlane, cluster: Cluster, space: str, tmp_path: Path
) -> None:
    """The first of this file: `running`, which the others ask for, would do in its place what is looked for here."""
    loads = Loads(cluster, space)
    first = Command(site, tmp_path)
    try:
        until(first.leads, 90, first.log.read_text)
        loads.bound()
        loads.make("l")
        pod = loads.pod("l")
    finally:
        first.kill(signal.SIGKILL)
    loads.ends(pod, 0, LoadResult(progress=WHOLE))
    loads.make("later")
    second = Command(site, tmp_path)
    try:
        until(second.leads, 90, second.log.read_text)
        loads.comes("l", "Complete", "DataLoadComplete")
        assert len(loads.pods("l")) == 1
        loads.comes("later", "Executing")
        assert loads.status("l")["phase"] == "Complete"
    finally:
        assert second.kill(signal.SIGTERM) == 0


def test_a_load_waits_runs_and_is_complete(site: ControlPlane, loads: Loads, cluster: Cluster, running: Running) -> None:
    loads.make("l")
    loads.comes("l", "Pending", "TargetDatasetNotFound")
    cluster.apply(SMALL.replace("SPACE", loads.space))
    loads.comes("l", "Pending", "TargetDatasetNotReady")
    loads.bound()
    loads.comes("l", "Executing")
    until(lambda: cluster.status(loads.key("d")).get("operationRef") == {"DataLoad": "l"}, 60, "operationRef")
    pod = loads.pod("l")
    assert "--target=1:/a" in pod["spec"]["containers"][0]["args"]
    assert "--target=2:/b/*.tar" in pod["spec"]["containers"][0]["args"]

    client = as_load(site, pod)
    reporter = Reporter(client, About(loads.space, "l", loads.read("l")["metadata"]["uid"]))
    reporter.say(HALF)
    until(lambda: loads.status("l").get("progress") == msgspec.to_builtins(HALF), 60, lambda: loads.status("l"))
    running.settle()
    assert loads.status("l")["progress"] == msgspec.to_builtins(HALF), "the controller leaves it alone"
    with pytest.raises(Forbidden):
        client.apply_status(RESOURCES["DataLoad"], loads.key("other"), {"metadata": {"name": "other"}})
    with pytest.raises(Forbidden):
        client.get(RESOURCES["DataLoad"], loads.key("l"), Bare)
    with pytest.raises(Forbidden):
        client.list_all(r.SECRETS, Bare, loads.space)

    loads.ends(pod, 0, LoadResult(progress=WHOLE, milliseconds=5000))
    status = loads.comes("l", "Complete", "DataLoadComplete")
    assert status["progress"] == msgspec.to_builtins(WHOLE)
    assert status["duration"].endswith("s")
    until(lambda: not cluster.status(loads.key("d")).get("operationRef"), 60, "operationRef stays")
    until(lambda: [e["reason"] for e in cluster.events(loads.key("l"), "DataLoad")] == ["DataOperationSucceed"], 60, "no Event")
    owner = loads.read("l")["metadata"]["ownerReferences"]
    assert [(o["kind"], o["name"]) for o in owner] == [("Dataset", "d")]
    cluster.delete("Dataset", loads.key("d"))
    until(lambda: not loads.read("l"), 120, "the Dataset owns its loads")
    until(lambda: cluster.gone("Job", loads.key("l-loader-job")), 60, "the Job stays")


def test_a_pod_that_fails_is_followed_by_another_and_a_refusal_ends_it(loads: Loads) -> None:
    loads.bound()
    loads.make("l")
    first = loads.pod("l")
    loads.ends(first, 1, LoadResult(reason="Incomplete", message="a worker is full"))
    until(lambda: len(loads.pods("l")) == 2, 60, "no second pod")
    assert loads.status("l")["phase"] == "Executing"
    loads.ends(loads.pod("l"), 2, LoadResult(reason="TargetNotFound", message="no such path in the dataset (/a): correct it"))
    status = loads.comes("l", "Failed", "TargetNotFound")
    assert "correct it" in str(status["conditions"])
    assert len(loads.pods("l")) == 2, "another try would meet the same"


def test_the_time_to_live_begins_with_the_end(loads: Loads, cluster: Cluster) -> None:
    loads.bound()
    loads.make("l", ", ttlSecondsAfterFinished: 2")
    loads.ends(loads.pod("l"), 0, LoadResult(progress=WHOLE))
    until(lambda: not loads.read("l"), 60, "it stays")
    until(lambda: cluster.gone("Job", loads.key("l-loader-job")), 60, "the Job stays")
    loads.make("l")
    loads.comes("l", "Executing")
    loads.ends(loads.pod("l"), 0, LoadResult(progress=WHOLE))
    loads.comes("l", "Complete")


def test_deleted_in_the_middle_it_leaves_nothing(loads: Loads, cluster: Cluster) -> None:
    loads.bound()
    loads.make("l")
    pod = loads.pod("l")
    cluster.delete("DataLoad", loads.key("l"))
    until(lambda: not loads.read("l"), 60, "it stays")
    for kind, name in (("Job", "l-loader-job"), ("ServiceAccount", pod["spec"]["serviceAccountName"])):
        until(lambda: cluster.gone(kind, loads.key(name)), 60, f"{kind} {name} stays")  # noqa: B023
    for kind in ("Role", "RoleBinding"):
        until(lambda: cluster.gone(kind, loads.key(pod["spec"]["serviceAccountName"])), 60, f"{kind} stays")  # noqa: B023
    until(lambda: not cluster.status(loads.key("d")).get("operationRef"), 60, "operationRef stays")


def test_a_dataset_deleted_in_the_middle_ends_the_load(loads: Loads, cluster: Cluster) -> None:
    loads.bound()
    reader: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reader", "namespace": loads.space},
        "spec": {
            "containers": [{"name": "c", "image": "x"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "d"}}],
        },
    }
    cluster.client.create(r.PODS, loads.space, reader)  # holds the Dataset, so that the end of the load can be seen
    loads.make("l")
    loads.pod("l")
    cluster.delete("Dataset", loads.key("d"))
    loads.comes("l", "Failed", "TargetDatasetDeleted")
    until(lambda: cluster.gone("Job", loads.key("l-loader-job")), 60, "the Job goes on")
    cluster.kill(loads.key("reader"))
    until(lambda: not loads.read("l"), 120, "the load stays without its Dataset")


@pytest.mark.parametrize(
    ("more", "phase", "reason"),
    [
        (', policy: Cron, schedule: "1 2 * * *"', "Pending", "PolicyNotServed"),
        (", policy: OnEvent", "Pending", "PolicyNotServed"),
        (", runAfter: {kind: DataLoad, name: nobody}", "Pending", "RunAfter"),
        (", runAfter: {kind: DataProcess, name: nobody}", "Pending", "RunAfterNotServed"),
        (', options: {timeout: "soon"}', "Failed", "SpecRefused"),
    ],
)
def test_what_is_not_carried_out_is_said(loads: Loads, more: str, phase: str, reason: str) -> None:
    loads.bound()
    loads.make("l", more)
    status = loads.comes("l", phase, reason)
    assert all(c["message"] for c in status["conditions"] if c["status"] == "True")
    assert not loads.pods("l")
    told = "DataOperationFailed" if phase == "Failed" else "DataOperationNotSupport"
    if reason != "RunAfter":
        until(lambda: told in [e["reason"] for e in loads.cluster.events(loads.key("l"), "DataLoad")], 60, "no Event")


def test_it_waits_for_the_workers_that_are_still_to_come(loads: Loads, cluster: Cluster) -> None:
    """One is enough for Bound; what began with it alone would lie with it alone."""
    cluster.apply(SMALL.replace("SPACE", loads.space))
    until(lambda: len(cluster.pods(loads.key("d"))) == 2, 60, "two pods")
    first, second = cluster.pods(loads.key("d"))
    cluster.run(first, "node-a")
    until(lambda: cluster.phase(loads.key("d")) == "Bound", 60, lambda: cluster.status(loads.key("d")))
    loads.make("l")
    status = loads.comes("l", "Pending", "WorkersStarting")
    assert "1 of 2 workers of Dataset d are ready" in str(status["conditions"])
    assert not loads.pods("l")
    cluster.run(second, "node-b")
    loads.comes("l", "Executing")


def test_one_after_the_other(loads: Loads) -> None:
    loads.bound()
    loads.make("second", ", runAfter: {kind: DataLoad, name: first}")
    assert loads.comes("second", "Pending", "RunAfter")["waitingFor"] == {"operationComplete": True}
    loads.make("first")
    loads.ends(loads.pod("first"), 0, LoadResult(progress=WHOLE))
    assert "waitingFor" not in loads.comes("second", "Executing")


def test_a_job_that_somebody_deletes_is_made_again(loads: Loads, cluster: Cluster) -> None:
    loads.bound()
    loads.make("l")
    name = loads.pod("l")["metadata"]["name"]
    cluster.delete("Job", loads.key("l-loader-job"))
    until(lambda: any(p["metadata"]["name"] != name for p in loads.pods("l")), 60, "no new pod")
    assert loads.comes("l", "Executing")["duration"] == "Unfinished"
