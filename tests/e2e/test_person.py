"""What somebody who plays with `make cluster` types: its shell, kubectl with the plugin, completion, columns, names, scaling."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from harness import shell
from harness.cluster import Cluster
from lakekit import Lake
from podkit import Pods, until


def typed(cluster: Cluster, line: str, *, code: int = 0) -> str:
    """What a shell prints that has sourced the cluster's file, for a line of somebody's."""
    text = f"{shell.environment(cluster)}\n{line}"
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, f"{line}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_shell_has_all_programs_by_name(cluster: Cluster) -> None:
    assert "node-1" in typed(cluster, "kubectl get nodes")
    for program in ("kubectl", "helm", "kubectl-forebay", "kubectl_complete-forebay"):
        assert typed(cluster, f"command -v {program}").strip()
    assert typed(cluster, "command -v sh").strip() in ("/usr/bin/sh", "/bin/sh"), "nothing of the person's is hidden"
    assert "kubectl-forebay" in typed(cluster, "kubectl plugin list")


def test_an_interactive_bash_completes_the_plugin(cluster: Cluster) -> None:
    said = typed(cluster, "kubectl __complete forebay '' 2>/dev/null")
    assert [line.partition("\t")[0] for line in said.splitlines()] == ["status", "warm", "grant", "doctor", ":4"]
    lines = f"{shell.environment(cluster)}\ncomplete -p kubectl"
    done = subprocess.run(["bash", "--norc", "-ic", lines], capture_output=True, text=True, timeout=60, check=False)
    assert "__start_kubectl" in done.stdout, done.stderr


def test_the_plugin_through_kubectl_from_nothing_to_a_warm_dataset(lake: Lake, pods: Pods) -> None:
    at = f"-n {pods.namespace}"
    assert typed(pods.cluster, f"kubectl forebay status {at}") == f"no Dataset in namespace {pods.namespace}\n"
    lake.apply(workers=1)
    lake.bound()

    def shown() -> tuple[Any, ...]:
        """The runtime's status is written after the dataset's."""
        (one,) = json.loads(typed(pods.cluster, f"kubectl forebay status {at} -o json"))["datasets"]
        return one["name"], one["phase"], one["workers"]

    until(lambda: shown() == (lake.name, "Bound", {"ready": 1, "desired": 1}), f"status is {shown()}")
    assert typed(pods.cluster, f"kubectl __complete forebay status {at} {lake.name[:2]} 2>/dev/null").split() == [lake.name, ":4"]
    said = typed(pods.cluster, f"kubectl forebay warm {lake.name} {at}")
    assert f"{len(lake.hashes)} files" in said
    assert "may be used in lab" in typed(pods.cluster, f"kubectl forebay grant {lake.name} --to lab {at}")
    until(lambda: well(pods.cluster) >= WELL, f"not all is well: {WELL - well(pods.cluster)}")
    columns(lake, pods)
    scales(lake, pods)


WELL = {"kinds", "CSI driver", "class", "DaemonSet forebay-node", "DaemonSet forebay-mounts"}
WELL |= {"controller", "leader", "webhook", "datasets"}


def well(cluster: Cluster) -> set[str]:
    """What the doctor finds well, nothing while anything prevents work: then it exits with 1."""
    line = f"{shell.environment(cluster)}\nkubectl forebay doctor -o json"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=200, check=False)
    return {f["subject"] for f in json.loads(done.stdout)["findings"] if f["level"] == "ok"} if done.returncode == 0 else set()


def columns(lake: Lake, pods: Pods) -> None:
    """Fluid's, by Fluid's names; sizes once the node has told of them."""
    until(lambda: lake.status().get("ufsTotal") not in ("", "[Calculating]", None), "the size is not known")
    head, row = pods.kubectl("get", "dataset", "-o", "wide").splitlines()
    for name in ("UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "PHASE", "TOTAL FILES", "AGE"):
        assert name in head
    assert row.split()[0] == lake.name
    assert "Bound" in row
    assert f" {len(lake.hashes)} " in row
    assert f"cacheruntime.data.fluid.io/{lake.name}" in pods.kubectl("get", "fluid", "-o", "name")
    for short in ("load", "ncache"):
        assert pods.kubectl("get", short, "-o", "name").strip()


def scales(lake: Lake, pods: Pods) -> None:
    def workers() -> int:
        return len(pods.kubectl("get", "pods", "-l", "forebay.io/component=worker", "-o", "name").split())

    for count in (2, 1):
        typed(pods.cluster, f"kubectl scale cacheruntime {lake.name} --replicas={count} -n {pods.namespace}")
        until(lambda count=count: workers() == count, f"not {count} workers")
    typed(pods.cluster, f"kubectl wait --for=condition=Ready dataset/{lake.name} -n {pods.namespace} --timeout=150s")


@pytest.mark.parametrize("words", ["nosuch", "warm", "status --nosuch"])
def test_wrong_usage_of_the_plugin_is_exit_code_2(cluster: Cluster, words: str) -> None:
    typed(cluster, f"kubectl forebay {words}", code=2)
