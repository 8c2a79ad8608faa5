"""The node plugin with a real kubelet: what it refuses, what it says where people look, and which mount a pod has afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.cluster import Cluster
from lakekit import SYSTEM, Lake, deploy
from podkit import Pods, pod, until

NODE = "node-1"


@pytest.fixture(scope="module", autouse=True)
def installation(cluster: Cluster) -> None:
    deploy(cluster)


@pytest.fixture
def lake(pods: Pods) -> Lake:
    lake = Lake(pods)
    lake.apply(workers=1)
    lake.bound()
    return lake


def inline(name: str, attributes: dict[str, str]) -> dict[str, Any]:
    """A pod with an inline volume of ours, as anybody in a namespace may write it."""
    volume = {"name": "v", "csi": {"driver": "forebay.io", "volumeAttributes": attributes}}
    made = pod(name, ["sleep", "1000"], node=NODE, image="busybox:dev", volumes=[volume])
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    return made


def said(pods: Pods, name: str) -> str:
    """Messages of the pod's Events."""
    events = json.loads(pods.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json"))
    return "\n".join(event["message"] for event in events["items"])


WORKER = {"forebay.io/part": "worker", "forebay.io/service": "s"}
HOST = {"forebay.io/part": "host", "forebay.io/dataset": "lake"}


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"forebay.io/dataset": "kube-system/lake"}, "use its claim"),
        ({**WORKER, "forebay.io/dataset": "kube-system/lake", "forebay.io/tier-0": "SSD 0"}, "is no name"),
        ({**WORKER, "forebay.io/dataset": "lake", "forebay.io/tier-0": "SSD 0 /etc"}, "--tier-root"),
        ({**HOST, "forebay.io/path": "/etc/kubernetes"}, "--host-path-root"),
        ({**HOST, "forebay.io/path": "/var/../etc"}, "no absolute path"),
    ],
)
def test_what_a_pod_may_not_ask_its_node_for_is_an_event_with_the_reason(
    pods: Pods, attributes: dict[str, str], why: str
) -> None:
    pods.apply(inline("curious", attributes))
    until(lambda: why in said(pods, "curious"), f"no Event with {why!r}")
    assert pods.phase("curious") == "Pending"
    pods.delete("pod", "curious")


def test_pods_of_a_node_share_one_mount_and_keep_it_while_all_who_serve_it_die(lake: Lake, pods: Pods) -> None:
    for name in ("one", "two"):
        pods.running(lake.steady(name, NODE, 1))
    before = devices(pods, lake)
    assert len(before) == 3, "the dataset's mount and a bind for each pod"
    assert len(set(before.values())) == 1, "all of one file system"
    for _ in range(2):
        found = pods.cluster.run(NODE, ["pgrep", "-f", "forebay mounts"]).split()
        # process 1 of its container: all who serve the mount die with it, and one may before the signal
        pods.cluster.run(NODE, ["kill", "-9", *found], check=False)
        for name in ("one", "two"):
            seen = pods.log(name).count("reads")
            until(lambda name=name, seen=seen: pods.log(name).count("reads") > seen, f"{name} stands still")
    assert devices(pods, lake) == before, "the same mount, not a new one"
    assert not [line for name in ("one", "two") for line in pods.log(name).splitlines() if not line.startswith("reads")]


def devices(pods: Pods, lake: Lake) -> dict[str, str]:
    """Mounts of the dataset on the node, and the device of each."""
    rows = [line.split() for line in pods.cluster.run(NODE, ["cat", "/proc/self/mountinfo"]).splitlines()]
    return {row[4]: row[2] for row in rows if f"forebay:{pods.namespace}/{lake.name}" in row}


def test_a_node_that_is_being_emptied_tells_its_workers(lake: Lake, pods: Pods) -> None:
    worker = f"{lake.name}-worker-0"
    node = pods.get(worker)["spec"]["nodeName"]
    look = ("exec", worker, "--", "python3", "-c", "import os; print(os.listdir('/var/lib/forebay/members'))")
    until(lambda: "members.yaml" in pods.kubectl(*look), "no member list")
    assert "leaving" not in pods.kubectl(*look)
    pods.cluster.kubectl("cordon", node)
    try:
        until(lambda: "leaving" in pods.kubectl(*look), "the worker is not told")
    finally:
        pods.cluster.kubectl("uncordon", node)
    until(lambda: "leaving" not in pods.kubectl(*look), "the worker is told for ever")


def test_kubelet_knows_the_driver_again_after_the_plugin_was_replaced(lake: Lake, pods: Pods) -> None:
    pods.run(lake.reader("before", NODE))
    pods.cluster.kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/forebay-node")
    pods.cluster.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/forebay-node", "--timeout=240s", seconds=300)
    assert json.loads(pods.run(lake.reader("after", NODE))) == lake.hashes
    drivers = json.loads(pods.cluster.kubectl("get", "csinode", NODE, "-o", "json"))["spec"]["drivers"]
    assert [(driver["name"], driver["nodeID"]) for driver in drivers] == [("forebay.io", NODE)]


def test_an_upgrade_changes_both_pods_of_each_node_and_readers_notice_nothing(lake: Lake, pods: Pods) -> None:
    for name in ("one", "two"):
        pods.running(lake.steady(name, NODE, 1))
    before = devices(pods, lake)
    both = ("daemonset/forebay-node", "daemonset/forebay-mounts")
    pods.cluster.kubectl("-n", SYSTEM, "rollout", "restart", *both)
    for what in both:
        pods.cluster.kubectl("-n", SYSTEM, "rollout", "status", what, "--timeout=240s", seconds=300)
    for name in ("one", "two"):
        seen = pods.log(name).count("reads")
        until(lambda name=name, seen=seen: pods.log(name).count("reads") > seen, f"{name} stands still")
    assert devices(pods, lake) == before, "the same mount, not a new one"
    assert not [line for name in ("one", "two") for line in pods.log(name).splitlines() if not line.startswith("reads")]
