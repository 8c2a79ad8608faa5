"""A dataset that another namespace shows: read where its owner granted it, refused with a condition where not, and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.machine import ClusterError
from lakekit import READ_ON, VERIFY, Lake
from podkit import Pods, pod, until

NODES = ["node-1", "node-2"]


@pytest.fixture
def other(pods: Pods) -> Iterator[Pods]:
    """A second namespace, of somebody else."""
    name = f"{pods.namespace}-other"
    pods.cluster.kubectl("create", "namespace", name)
    pods.cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    account = ("-n", name, "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
    until(lambda: pods.cluster.kubectl(*account).strip(), "no default service account")
    yield Pods(pods.cluster, name)
    pods.cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=110s")


def refer(here: Pods, name: str, point: str) -> None:
    meta = {"name": name}
    spec = {"mounts": [{"name": "v", "mountPoint": point}]}
    here.apply({"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": meta, "spec": spec})


def grant(lake: Lake, to: str, *paths: str) -> None:
    spec: dict[str, Any] = {"dataset": lake.name, "namespaces": [to], **({"paths": list(paths)} if paths else {})}
    lake.pods.apply({"apiVersion": "forebay.io/v1alpha1", "kind": "DatasetGrant", "metadata": {"name": "given"}, "spec": spec})


def ready(here: Pods, name: str) -> dict[str, Any]:
    """The condition."""
    status = json.loads(here.kubectl("get", "dataset", name, "-o", "json")).get("status") or {}
    found: dict[str, Any] = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return found


def because(here: Pods, name: str, reason: str) -> dict[str, Any]:
    until(lambda: ready(here, name).get("reason") == reason, f"{name} is not {reason}: {ready(here, name)}")
    return ready(here, name)


def with_claim(thing: dict[str, Any], claim: str) -> dict[str, Any]:
    thing["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    thing["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return thing


def claims(here: Pods) -> list[str]:
    return here.kubectl("get", "persistentvolumeclaim", "-o", "name").split()


def below(lake: Lake, folder: str) -> dict[str, str]:
    return {path.removeprefix(f"{folder}/"): said for path, said in lake.hashes.items() if path.startswith(f"{folder}/")}


def test_a_granted_part_is_read_and_nothing_beside_it(lake: Lake, other: Pods) -> None:
    lake.apply()
    lake.bound()
    source = f"dataset://{lake.pods.namespace}/{lake.name}"
    refer(other, "part", f"{source}/docs/d1")
    refer(other, "whole", source)
    with pytest.raises(ClusterError, match="write the path without it"):
        refer(other, "trick", f"{source}/docs/d1/../d2")
    for name in ("part", "whole"):
        said = because(other, name, "NotGranted")
        assert said["status"] == "False"
        assert f"its owner makes a DatasetGrant in namespace {lake.pods.namespace}" in said["message"]
        assert f"namespaces: [{other.namespace}]" in said["message"]
    assert claims(other) == []

    grant(lake, other.namespace, "/docs/d1")
    because(other, "part", "DatasetReady")
    wanted = below(lake, "docs/d1")
    assert wanted
    for node in NODES:
        reader = with_claim(pod(f"reader-{node}", ["python3", "-c", VERIFY], node=node), "part")
        assert json.loads(other.run(reader)) == wanted
    assert "given: it gives /docs/d1, not /" in because(other, "whole", "NotGranted")["message"]
    assert claims(other) == ["persistentvolumeclaim/part"]
    until(lambda: lake.status().get("datasetRef") == [f"{other.namespace}/part"], f"the source does not say so: {lake.status()}")


def test_a_grant_that_is_taken_back_lets_readers_end_and_no_other_begin(lake: Lake, other: Pods) -> None:
    lake.apply()
    lake.bound()
    grant(lake, other.namespace)
    refer(other, "whole", f"dataset://{lake.pods.namespace}/{lake.name}")
    because(other, "whole", "DatasetReady")
    steady = pod("steady", ["python3", "-c", READ_ON, json.dumps(lake.hashes), "1"], node="node-1")
    other.running(with_claim(steady, "whole"))
    until(lambda: "reads 20" in other.log("steady"), "the pod does not read")

    lake.pods.delete("datasetgrant", "given")
    because(other, "whole", "NotGranted")
    other.apply(with_claim(pod("late", ["python3", "-c", VERIFY], node="node-2"), "whole"))
    until(lambda: "being deleted" in other.kubectl("describe", "pod", "late"), "nobody says why the late pod waits")
    so_far = len(other.log("steady").splitlines())
    until(lambda: len(other.log("steady").splitlines()) > so_far + 2, "who reads was cut off")
    assert other.phase("late") == "Pending"
    assert all(line.startswith("reads") for line in other.log("steady").splitlines())

    other.delete("pod", "steady", "late")
    until(lambda: claims(other) == [], "the claim stays when nobody reads any more")
    grant(lake, other.namespace)
    because(other, "whole", "DatasetReady")
    again = with_claim(pod("again", ["python3", "-c", VERIFY], node="node-2"), "whole")
    assert json.loads(other.run(again)) == lake.hashes


def test_the_source_waits_for_who_shows_it_and_both_go(lake: Lake, other: Pods) -> None:
    lake.apply()
    lake.bound()
    grant(lake, other.namespace)
    refer(other, "whole", f"dataset://{lake.pods.namespace}/{lake.name}")
    because(other, "whole", "DatasetReady")
    lake.pods.kubectl("delete", "dataset", lake.name, "--wait=false")
    until(lambda: "InUse" in json.dumps(lake.status()), f"nothing says what holds it: {lake.status()}")
    assert f"{other.namespace}/whole" in json.dumps(lake.status())
    other.delete("dataset", "whole")
    until(lambda: not lake.pods.kubectl("get", "dataset", "-o", "name").strip(), "the source stays")
    assert claims(other) == []
