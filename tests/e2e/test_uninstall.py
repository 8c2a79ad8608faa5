"""Uninstalling with datasets present, by the plain manifests and by Helm, on nodes that have mounts and workers of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from harness import build
from harness.cluster import Cluster
from lakekit import DEPLOY, HOST_ROOT, SYSTEM, Lake, caches_of, chosen, deploy, installed, mounts_of
from podkit import until

from forebay.controller.install import removal

NODES = ["node-1", "node-2"]
PLAIN = (
    "deployment,daemonset,job,service,clusterrole,clusterrolebinding,role,rolebinding,csidriver,serviceaccount,configmap,lease,secret,"
    "mutatingwebhookconfiguration,validatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding"
)


def uninstaller() -> str:
    return str(yaml.safe_dump_all(removal.wanted(chosen())))


def finalizers(lake: Lake, kind: str) -> list[str]:
    found: list[str] = json.loads(lake.pods.kubectl("get", kind, lake.name, "-o", "json"))["metadata"].get("finalizers", [])
    return found


def of_ours(cluster: Cluster) -> list[str]:
    """What is there of forebay itself, in whatever namespace."""
    return [x for x in cluster.kubectl("get", PLAIN, "-A", "-o", "name").split() if "forebay" in x]


def ended(cluster: Cluster, job: str) -> str:
    """Complete, Failed, or "" while it runs. A Job says that it will be so before it is."""
    found = json.loads(cluster.kubectl("-n", SYSTEM, "get", "job", job, "-o", "json"))
    said = {c["type"] for c in found.get("status", {}).get("conditions", ()) if c["status"] == "True"}
    return next((how for how in ("Complete", "Failed") if how in said), "")


def ran(cluster: Cluster) -> tuple[str, str]:
    """How the Job ended, and its words."""
    cluster.kubectl("apply", "-f", "-", text=uninstaller())
    until(lambda: ended(cluster, "forebay-uninstall") != "", "the Job does not end", 360)
    said = cluster.kubectl("-n", SYSTEM, "logs", "job/forebay-uninstall")
    how = ended(cluster, "forebay-uninstall")
    cluster.kubectl("-n", SYSTEM, "delete", "job", "forebay-uninstall", "--timeout=60s")
    return how, said


def nothing_on_nodes(cluster: Cluster, lake: Lake) -> None:
    inside = f"/{lake.pods.namespace}/"
    for node in NODES:
        assert not [m for m in mounts_of(cluster, node) if inside in m], f"a mount stays on {node}"
        assert not [f for f in caches_of(cluster, node) if inside in f], f"bytes stay on {node}"


def let_go(lake: Lake) -> None:
    assert finalizers(lake, "dataset") == []
    assert finalizers(lake, "cacheruntime") == []
    assert lake.status()["phase"] == "NotBound"
    assert "Uninstalled" in json.dumps(lake.status())
    left = lake.pods.kubectl(
        "get", "statefulset,persistentvolumeclaim,service,configmap,poddisruptionbudget,pod", "-o", "name"
    ).split()
    assert [x for x in left if "kube-root-ca" not in x] == []
    assert not [v for v in lake.cluster.kubectl("get", "pv", "-o", "name").split() if lake.pods.namespace in v]


def nobody_elses(cluster: Cluster) -> None:
    until(lambda: not cluster.kubectl("get", "dataset", "-A", "-o", "name").strip(), "datasets of other tests stay")


def test_with_datasets_by_the_plain_manifests(lake: Lake) -> None:
    cluster = lake.cluster
    nobody_elses(cluster)
    try:
        lake.apply()
        lake.bound()
        lake.pods.running(lake.steady("steady", "node-1", 1))
        how, said = ran(cluster)
        assert how == "Failed"
        assert f"pod {lake.pods.namespace}/steady read datasets" in said
        assert lake.status()["phase"] == "Bound"
        assert lake.pods.is_ready("steady")
        lake.pods.delete("pod", "steady")
        how, said = ran(cluster)
        assert how == "Complete", said
        let_go(lake)
        nothing_on_nodes(cluster, lake)
        cluster.kubectl(
            "delete", "-f", "-", "--timeout=100s", text=uninstaller() + "\n---\n" + installed(), seconds=200, check=False
        )
        own = [f"secret/{name}" for name in secrets(lake)]
        until(lambda: of_ours(cluster) == own, f"stays: {of_ours(cluster)}")
        cluster.kubectl("delete", "-f", str(DEPLOY / "crds"), "--timeout=100s", seconds=200)  # and the Dataset with its CRD
        assert "forebay" not in cluster.kubectl("get", "crd", "-o", "name")
        until(lambda: not of_ours(cluster), f"stays: {of_ours(cluster)}")
        for node in NODES:
            until(lambda node=node: not cluster.processes(node, "bin/forebay "), f"a process stays on {node}")
    finally:
        deploy(cluster)
    lake.apply()
    lake.bound()
    lake.pods.run(lake.reader("reader", "node-2"))


def helm(cluster: Cluster, folder: Path, *arguments: str) -> None:
    program = str(build.get(["helm"])["helm"])
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(cluster.place.kubeconfig)}
    command = [program, *arguments, "--namespace", SYSTEM, "--timeout", "300s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_with_datasets_by_helm(lake: Lake, tmp_path: Path) -> None:
    cluster = lake.cluster
    nobody_elses(cluster)
    cluster.kubectl("delete", "-f", "-", "--timeout=100s", text=installed(), seconds=200)
    try:
        file, values = (
            tmp_path / "values.yaml",
            {"image": "forebay:dev", "pullPolicy": "Never", "node": {"hostPathRoots": [HOST_ROOT]}, "fluidNodeLabels": True},
        )
        file.write_text(yaml.safe_dump(values))
        helm(
            cluster, tmp_path, "install", "forebay", str(DEPLOY / "chart"), "--create-namespace", "--values", str(file), "--wait"
        )
        lake.apply()
        lake.bound()
        wanted: dict[str, Any] = json.loads(lake.pods.run(lake.reader("reader", "node-1")))
        assert wanted == lake.hashes
        labels = (f"fluid.io/s-{lake.pods.namespace}-{lake.name}", f"fluid.io/f-{lake.pods.namespace}-{lake.name}")
        until(lambda: all(label in labels_of_nodes(cluster) for label in labels), f"not on nodes: {labels_of_nodes(cluster)}")
        lake.pods.delete("pod", "reader")
        off = ("--reuse-values", "--set", "fluidNodeLabels=false", "--wait")
        helm(cluster, tmp_path, "upgrade", "forebay", str(DEPLOY / "chart"), *off)
        assert labels[0] in labels_of_nodes(cluster), "what was wanted once stays until uninstalling"
        helm(cluster, tmp_path, "uninstall", "forebay", "--wait")
        let_go(lake)
        nothing_on_nodes(cluster, lake)
        assert not [key for key in labels_of_nodes(cluster) if "fluid" in key]
        cluster.kubectl("delete", "namespace", SYSTEM, "--timeout=100s", seconds=150)
        assert of_ours(cluster) == [f"secret/{name}" for name in secrets(lake)]
        for node in NODES:
            until(lambda node=node: not cluster.processes(node, "bin/forebay "), f"a process stays on {node}")
        for kind in ("cacheruntime", "dataset"):
            lake.pods.delete(kind, lake.name)  # nobody is there who could let go of it
        until(lambda: not of_ours(cluster), f"stays: {of_ours(cluster)}")
    finally:
        deploy(cluster)


def labels_of_nodes(cluster: Cluster) -> set[str]:
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return {key for node in nodes for key in node["metadata"].get("labels", {})}


def secrets(lake: Lake) -> list[str]:
    """The dataset's own, which goes with it: nobody of ours may delete a Secret."""
    found = lake.pods.kubectl("get", "secret", "-l", f"forebay.io/dataset={lake.name}", "-o", "name").split()
    return [name.removeprefix("secret/") for name in found]
