"""What people write wrong and the schema lets pass, or what is not there: the condition that says so, the Event, and that the
controller comes to rest over it; then it is corrected and serves. No webhook runs here: it may be down.

What the server refuses by itself (wrong enums, quotas, names, mounts of one name) is in `test_crds.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from controllerlab import SMALL, Cluster, Object, Running
from controlplane import ControlPlane
from controlplane_kit import until

from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.errors import Invalid
from forebay.kube.objects import Key

DATASET, RUNTIME = (part.strip() for part in SMALL.split("---"))
WRONG: dict[str, tuple[str, str, str, str]] = {
    # what is applied, then: phase, reason, a part of the message
    "nothing of a spec": (f"{DATASET.partition('spec:')[0]}spec: {{}}\n---\n{RUNTIME}", "Failed", "SpecRefused", "spec.mounts"),
    "a store that no engine speaks": (SMALL.replace("https://h/x/", "ftp://h/x"), "Failed", "SourceRefused", "ftp"),
    "an engine that is not here": (
        SMALL.replace("{name: d, namespace: SPACE}", "{name: d, namespace: SPACE, annotations: {forebay.io/engine: jindo}}"),
        "NotBound",
        "EngineNotDriven",
        "forebay.io/engine=native",
    ),
    "an engine that is none": (
        SMALL.replace("{name: d, namespace: SPACE}", "{name: d, namespace: SPACE, annotations: {forebay.io/engine: nativ}}"),
        "NotBound",
        "EngineUnknown",
        "did you mean",
    ),
    "a reference to itself": (DATASET.replace("https://h/x/", "dataset://SPACE/d"), "NotBound", "SourceIsReference", "SPACE/d"),
    "a reference to nothing": (DATASET.replace("https://h/x/", "dataset://SPACE/none"), "NotBound", "SourceMissing", "none"),
    "a dataset of a foreign namespace": (
        DATASET.replace("https://h/x/", "dataset://kube-system/d"),
        "NotBound",
        "SourceMissing",
        "kube-system",
    ),
}


@pytest.fixture(scope="module")
def running(site: ControlPlane) -> Iterator[Running]:
    with Running(site.endpoint) as found:
        yield found


def says(cluster: Cluster, key: Key, phase: str, reason: str) -> Object:
    """The Ready condition, once it has that reason."""
    until(lambda: cluster.condition(key).get("reason") == reason, 60, lambda: cluster.status(key))
    assert cluster.phase(key) == phase
    found = cluster.condition(key)
    assert found["status"] == "False"
    assert found["observedGeneration"] == (cluster.read("Dataset", key) or {})["metadata"]["generation"]
    return found


def corrected(cluster: Cluster, key: Key) -> None:
    """Applied as it should be, it serves, and then it goes."""
    cluster.client.merge(RESOURCES["Dataset"], key, {"metadata": {"annotations": {"forebay.io/engine": None}}})
    if cluster.read("CacheRuntime", key) is not None:  # its class cannot be changed
        cluster.delete("CacheRuntime", key)
        until(lambda: cluster.gone("CacheRuntime", key), 60, lambda: cluster.read("CacheRuntime", key))
    cluster.apply(SMALL.replace("SPACE", key.namespace))
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    goes(cluster, key)


def goes(cluster: Cluster, key: Key) -> None:
    cluster.delete("Dataset", key)
    until(lambda: cluster.gone("Dataset", key), 60, lambda: cluster.read("Dataset", key))
    until(lambda: not cluster.left(key), 60, lambda: cluster.left(key))


@pytest.mark.parametrize("what", WRONG)
def test_it_is_said_and_can_be_corrected(cluster: Cluster, running: Running, space: str, what: str) -> None:
    text, phase, reason, part = WRONG[what]
    cluster.apply(text.replace("SPACE", space))
    key = Key(space, "d")
    told = says(cluster, key, phase, reason)
    assert part.replace("SPACE", space) in told["message"]
    until(
        lambda: any(e["reason"] == reason and e["type"] == "Warning" for e in cluster.events(key)),
        60,
        lambda: cluster.events(key),
    )
    running.settle()
    before = cluster.read("Dataset", key)
    running.settle(3.0)
    assert cluster.read("Dataset", key) == before, "it is said once"
    corrected(cluster, key)


def test_a_field_that_does_not_exist_is_refused_or_pruned_and_told(cluster: Cluster, running: Running, space: str) -> None:
    """`kubectl apply` asks for strict validation; who does not has it pruned, and a Dataset of no mounts."""
    body = {**yaml.safe_load(DATASET.replace("SPACE", space)), "spec": {"foo": "bar"}}
    with pytest.raises(Invalid, match="foo"):
        cluster.client.create(RESOURCES["Dataset"], space, body)
    path = RESOURCES["Dataset"].path(space)
    answer = cluster.client.transport.request("POST", path, body=json.dumps(body).encode(), content="application/json")
    assert answer.code == 201
    key = Key(space, "d")
    assert "foo" not in (cluster.read("Dataset", key) or {}).get("spec", {})
    cluster.apply(RUNTIME.replace("SPACE", space))
    says(cluster, key, "Failed", "SpecRefused")
    goes(cluster, key)


def test_a_class_that_nobody_made_is_said_of_a_dataset_that_is_served_all_the_same(
    cluster: Cluster, running: Running, space: str
) -> None:
    """The installation's default is our engine, whatever the class."""
    cluster.apply(SMALL.replace("SPACE", space).replace("runtimeClassName: forebay", "runtimeClassName: foreby"))
    key = Key(space, "d")
    until(lambda: any(e["reason"] == "ClassUnknown" for e in cluster.events(key)), 60, lambda: cluster.events(key))
    (told,) = [e["note"] for e in cluster.events(key) if e["reason"] == "ClassUnknown"]
    assert '"foreby" is no CacheRuntimeClass of this cluster' in told
    cluster.serve(key, 2)
    until(lambda: cluster.phase(key) == "Bound", 60, lambda: cluster.status(key))
    goes(cluster, key)


def kubelet_says(cluster: Cluster, pod: Object, reason: str, note: str) -> None:
    """A Warning of a kubelet about a pod."""
    meta = pod["metadata"]
    at = "2999-01-01T00:00:00.000000Z"
    regarding = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    event: dict[str, Any] = {
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": f"{meta['name']}.x", "namespace": meta["namespace"]},
        "eventTime": at, "action": "x", "reason": reason, "note": note, "type": "Warning", "regarding": regarding,
        "reportingController": "kubelet", "reportingInstance": "n",
    }  # fmt: skip
    cluster.client.create(r.EVENTS, meta["namespace"], event)


def test_a_secret_that_is_not_there_is_named(cluster: Cluster, running: Running, space: str) -> None:
    secret = (
        "encryptOptions: [{name: aws.accessKeyId, valueFrom: {secretKeyRef: {name: keys, key: id}}}, "
        "{name: aws.secretKey, valueFrom: {secretKeyRef: {name: keys, key: key}}}], "
    )
    mount = f'mountPoint: "s3://bucket/x", {secret}options: {{endpoint: "https://h"}}'
    cluster.apply(SMALL.replace("SPACE", space).replace('mountPoint: "https://h/x/"', mount))
    key = Key(space, "d")
    until(lambda: len(cluster.pods(key)) == 2, 60, lambda: cluster.status(key))
    for pod in cluster.pods(key):
        target = {"apiVersion": "v1", "kind": "Node", "name": "n"}
        at = Key(space, pod["metadata"]["name"])
        cluster.client.create_sub(r.PODS, at, "binding", {"target": target, "metadata": {"name": at.name}})
        kubelet_says(cluster, pod, "FailedMount", 'MountVolume.SetUp failed for volume "secret-0": secret "keys" not found')
    until(lambda: 'secret "keys" not found' in cluster.condition(key).get("message", ""), 60, lambda: cluster.status(key))
    assert "make Secret keys in this namespace" in cluster.condition(key)["message"]
    until(
        lambda: any(e["reason"] == "MountFailed" and "make Secret keys" in e["note"] for e in cluster.events(key)),
        60,
        lambda: cluster.events(key),
    )
    assert cluster.phase(key) == "NotBound"
    running.settle()
    goes(cluster, key)


def test_a_quota_that_lets_no_worker_be_made_is_named(cluster: Cluster, running: Running, space: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": space},
        "spec": {"hard": {"pods": "0"}},
    }
    quotas = r.Resource("", "v1", "resourcequotas", "ResourceQuota")
    cluster.client.create(quotas, space, quota)
    until(
        lambda: cluster.client.get(quotas, Key(space, "q"), dict[str, Any]).get("status", {}).get("hard"), 60, "the quota counts"
    )
    cluster.apply(SMALL.replace("SPACE", space))
    key = Key(space, "d")
    told = says(cluster, key, "NotBound", "QuotaExceeded")
    assert "raise it" in told["message"]
    until(lambda: any(e["reason"] == "QuotaExceeded" for e in cluster.events(key)), 60, lambda: cluster.events(key))
    running.settle()
    goes(cluster, key)
