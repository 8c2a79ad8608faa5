"""`kubectl forebay` on a real API server, beside a running controller."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.cli.kubectl import complete
from forebay.cli.kubectl.main import cli
from forebay.kube.objects import Key

pytestmark = pytest.mark.timeout(400)
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


@pytest.fixture
def command(site: ControlPlane, space: str) -> Command:
    """In the namespace of the test."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "-n", space, "--kubeconfig", str(site.kubeconfig)])

    return run


def said(found: Result) -> Any:
    assert found.exit_code in (0, 1), found.output
    return json.loads(found.stdout)


def test_status_from_nothing_to_serving(command: Command, cluster: Cluster, running: Running, space: str) -> None:
    assert command("status").output == f"no Dataset in namespace {space}\n"
    found = command("status", "d")
    assert (found.exit_code, "there is no Dataset d in namespace" in found.output) == (1, True)
    cluster.apply(SMALL.replace("SPACE", space))
    until(lambda: cluster.condition(Key(space, "d")).get("reason"), 60, "a condition")
    (one,) = said(command("status", "-o", "json"))["datasets"]
    assert (one["serves"], one["phase"]) == (False, "NotBound")
    assert one["message"]
    assert command("status").exit_code == 1
    cluster.serve(Key(space, "d"), 2)
    until(lambda: cluster.phase(Key(space, "d")) == "Bound", 60, lambda: cluster.status(Key(space, "d")))
    running.settle()
    (one,) = said(command("status", "d", "-o", "json"))["datasets"]
    assert (one["serves"], one["workers"], one["engine"]) == (True, {"ready": 2, "desired": 2}, "forebay")
    shown = command("status")
    assert shown.exit_code == 0
    assert "2/2" in shown.output


def test_warm_makes_a_load(command: Command, cluster: Cluster, running: Running, space: str) -> None:
    assert command("warm", "d:/a").exit_code == 1
    cluster.apply(SMALL.replace("SPACE", space))
    cluster.serve(Key(space, "d"), 2)
    made = said(command("warm", "d:/a", "d:/b", "--replicas", "2", "--no-wait", "-o", "json"))
    load = cluster.read("DataLoad", Key(space, made["name"]))
    assert load is not None
    assert load["spec"]["target"] == [{"path": "/a", "replicas": 2}, {"path": "/b", "replicas": 2}]
    until(lambda: (cluster.read("DataLoad", Key(space, made["name"])) or {}).get("status", {}).get("phase") == "Executing", 60)
    (one,) = said(command("status", "-o", "json"))["datasets"]
    assert [x["phase"] for x in one["loads"]] == ["Executing"]


def test_grants_are_given_listed_and_taken_back(command: Command, cluster: Cluster, running: Running, space: str) -> None:
    cluster.apply(SMALL.replace("SPACE", space))
    assert "nobody else may refer to d" in command("grant", "d").output
    given = command("grant", "d", "--to", "lab", "--to", "edge", "--for", "12h")
    assert given.exit_code == 0, given.output
    assert f"dataset://{space}/d" in given.output
    assert command("grant", "d", "--to", "lab", "--path", "/public").exit_code == 0
    grants = said(command("grant", "d", "-o", "json"))["grants"]
    assert sorted((g["namespaces"], g["paths"]) for g in grants) == [(["edge", "lab"], []), (["lab"], ["/public"])]
    refused = command("grant", "d", "--to", "lab", "--path", "/a/../b")
    assert (refused.exit_code, "paths" in refused.output) == (1, True)
    assert command("grant", "d", "--to", "lab", "--revoke").exit_code == 0
    (left,) = said(command("grant", "d", "-o", "json"))["grants"]
    assert left["namespaces"] == ["edge"]
    assert command("grant", "d", "--to", "edge", "--revoke").exit_code == 0
    assert said(command("grant", "d", "-o", "json"))["grants"] == []
    assert command("grant", "d", "--to", "edge", "--revoke").exit_code == 1


def test_the_doctor_finds_what_is_missing(command: Command, cluster: Cluster, running: Running, space: str) -> None:
    cluster.apply(SMALL.replace("SPACE", space))
    until(lambda: cluster.condition(Key(space, "d")).get("reason"), 60, "a condition")
    found = command("doctor", "-o", "json")
    assert found.exit_code == 1
    findings = {f["subject"]: f for f in said(found)["findings"]}
    assert findings["kinds"]["level"] == findings["CSI driver"]["level"] == findings["class"]["level"] == "ok"
    assert findings["DaemonSet forebay-node"]["level"] == "error", "the lab installs no workloads"
    assert findings["controller"]["remedy"]
    assert (findings["webhook"]["level"], findings["webhook"]["remedy"]) == ("info", "value webhook: true")
    assert findings[f"Dataset {space}/d"]["level"] == "warning"


def test_names_are_completed_from_the_cluster(
    site: ControlPlane, cluster: Cluster, running: Running, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.apply(SMALL.replace("SPACE", space).replace("name: d,", "name: completed,"))
    monkeypatch.setenv("KUBECONFIG", str(site.kubeconfig))
    assert complete.candidates(["status", "-n", space, "comp"]) == ["completed"]
