"""A labelled pod lands beside its data; what can never be right is refused at once; without the webhook pods run all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.machine import ClusterError
from lakekit import SYSTEM, Lake
from podkit import Pods, until

LABEL = "fuse.serverful.fluid.io/inject"
NAME = "deployment/forebay-webhook"


def labelled(lake: Lake, name: str, **labels: str) -> dict[str, Any]:
    thing = lake.reader(name)
    thing["metadata"]["labels"] = {LABEL: "true", **labels}
    return thing


@pytest.fixture
def home(lake: Lake, pods: Pods) -> Iterator[str]:
    """The node of the dataset's one worker, which has Fluid's label: what labels nodes may be off in an installation."""
    lake.apply(workers=1)
    lake.bound()
    (worker,) = json.loads(pods.kubectl("get", "pods", "-l", "forebay.io/component=worker", "-o", "json"))["items"]
    node, label = worker["spec"]["nodeName"], f"fluid.io/s-{pods.namespace}-{lake.name}"
    pods.cluster.kubectl("label", "node", node, f"{label}=true", "--overwrite")
    called(lake, pods, label)
    yield node
    pods.cluster.kubectl("label", "node", node, f"{label}-")


def called(lake: Lake, pods: Pods, label: str) -> None:
    """Until the webhook's copies have it and the API server calls it: seconds after an installation."""

    def steered() -> bool:
        made = json.loads(
            pods.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(labelled(lake, "try")))
        )
        return label in json.dumps(made["spec"].get("affinity"))

    until(steered, "the API server does not call the webhook")


def test_pods_are_steered_mistakes_refused_and_nothing_waits_for_the_webhook(lake: Lake, pods: Pods, home: str) -> None:
    land_beside_their_data(lake, pods, home)
    wait_where_it_cannot_be(lake, pods, home)
    refuse_what_can_never_be_right(lake, pods)
    go_on_without_it(lake, pods)


def land_beside_their_data(lake: Lake, pods: Pods, home: str) -> None:
    """The scheduler alone would spread them."""
    demanded = {f"fluid.io/dataset.{lake.name}.sched": "required"}
    for name, labels in (("near-0", {}), ("near-1", {}), ("near-2", {}), ("there", demanded)):
        until(lambda: schedulable(pods, home), f"{home} is tainted")  # a wish does not bring a pod to a node that is not ready
        until(lambda name=name, labels=labels: steered(lake, pods, labelled(lake, name, **labels)), f"{name} is not steered")
    for name in ("near-0", "near-1", "near-2", "there"):
        until(lambda name=name: pods.phase(name) in ("Succeeded", "Failed"), f"pod {name} has not ended")
        assert json.loads(pods.log(name)) == lake.hashes
        found = pods.get(name)
        assert found["spec"]["nodeName"] == home, name
        mounts = found["spec"]["containers"][0]["volumeMounts"]
        assert [m.get("mountPropagation") for m in mounts if m["name"] == "data"] == ["HostToContainer"]


def schedulable(pods: Pods, node: str) -> bool:
    return pods.cluster.kubectl("get", "node", node, "-o", "jsonpath={.spec.taints}") == ""


def steered(lake: Lake, pods: Pods, thing: dict[str, Any]) -> bool:
    """Makes a pod, and again where nobody steered it: the API server does not wait 2 s for a webhook, and asks either of two,
    one of which may not have the label of the node yet."""
    pods.apply(thing)
    if f"fluid.io/s-{pods.namespace}-{lake.name}" in json.dumps(pods.get(thing["metadata"]["name"])["spec"].get("affinity")):
        return True
    pods.delete("pod", thing["metadata"]["name"])
    return False


def wait_where_it_cannot_be(lake: Lake, pods: Pods, home: str) -> None:
    """Its data must be there, and it must not: the two demands together have no answer."""
    thing = labelled(lake, "apart", **{f"fluid.io/dataset.{lake.name}.sched": "required"})
    thing["spec"]["nodeSelector"] = {"kubernetes.io/hostname": next(node for node in pods.cluster.nodes if node != home)}
    pods.apply(thing)

    def why() -> str:
        conditions = pods.get("apart")["status"].get("conditions", [])
        return str(next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), ""))

    until(lambda: "affinity" in why(), "the scheduler does not say that it waits")
    pods.delete("pod", "apart")


def refuse_what_can_never_be_right(lake: Lake, pods: Pods) -> None:
    wrong = lake.mounts_also({"mountPoint": "s3://bucket/x", "name": "more", "options": {"forebay.io/freshness": "soon"}})
    second = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "AlluxioRuntime", "metadata": {"name": lake.name}}
    for thing, why in (
        (wrong, '"soon" is no freshness; '),
        ({**second, "spec": {"replicas": 1}}, "is a second runtime for one dataset"),
    ):
        until(lambda thing=thing, why=why: why in refusal(pods, thing), f"nobody says {why!r}")
    assert lake.status()["phase"] == "Bound"


def refusal(pods: Pods, thing: dict[str, Any]) -> str:
    """What is said of it, "" where it would be taken: so it is when the webhook has not answered in time. Nothing is written."""
    try:
        pods.kubectl("apply", "--dry-run=server", "-f", "-", text=json.dumps(thing))
    except ClusterError as error:
        return str(error)
    return ""


def go_on_without_it(lake: Lake, pods: Pods) -> None:
    pods.cluster.kubectl("-n", SYSTEM, "scale", NAME, "--replicas=0")
    try:
        label = "forebay.io/component=webhook"
        until(lambda: not pods.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", label, "-o", "name").strip(), "it still runs")
        assert json.loads(pods.run(labelled(lake, "alone"))) == lake.hashes
        assert not pods.get("alone")["spec"].get("affinity")
        pods.kubectl("annotate", "dataset", lake.name, "a=b")
    finally:
        pods.cluster.kubectl("-n", SYSTEM, "scale", NAME, "--replicas=2")
    called(lake, pods, f"fluid.io/s-{pods.namespace}-{lake.name}")
