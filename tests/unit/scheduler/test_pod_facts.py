"""What is read once for all pods that are alike is what each of them says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from forebay.api.kubernetes.core import Node, Pod
from forebay.api.quantity import QuantityError
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.pods import facts as pod_facts
from forebay.scheduler.pods.amounts import pod_amounts
from forebay.scheduler.pods.classes import read_pod

META: dict[str, Any] = {"name": "a", "namespace": "n", "uid": "u", "labels": {"app": "x"}}
CONTAINER: dict[str, Any] = {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
SPEC: dict[str, Any] = {"containers": [CONTAINER], "volumes": [{"name": "kube-api-access-1"}]}


def made(meta: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> Pod:
    return msgspec.convert({"metadata": META | (meta or {}), "spec": SPEC | (spec or {}), "status": status or {}}, Pod)


def asks(amount: str, **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": {"cpu": amount, "memory": "1Gi"}}, **more}


HOST = "kubernetes.io/hostname"
TERM = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": HOST}
RESIZED = {"name": "c", "resources": {"requests": {"cpu": "4"}}, "allocatedResources": {"cpu": "4"}}
LATER = [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]
DIFFERENT = [
    made(),
    made({"namespace": "m"}),
    made({"labels": {"app": "y"}}),
    made({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    made(spec={"containers": [asks("2")]}),
    made(spec={"containers": [asks("1", ports=[{"containerPort": 80, "hostPort": 80}])]}),
    made(spec={"initContainers": [{**asks("3"), "name": "i"}]}),
    made(spec={"initContainers": [{**asks("3"), "name": "i", "restartPolicy": "Always"}]}),
    made(spec={"overhead": {"cpu": "1"}}),
    made(spec={"resources": {"requests": {"cpu": "5"}}}),
    made(spec={"nodeSelector": {"disk": "ssd"}}),
    made(spec={"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [TERM]}}}),
    made(spec={"tolerations": [{"key": "k", "operator": "Exists"}]}),
    made(
        spec={"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "x"}}}]}
    ),
    made(spec={"priority": 7}),
    made(spec={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
    made(spec={"volumes": [{"name": "v", "ephemeral": {}}]}),
    made({"name": "b"}, {"volumes": [{"name": "v", "ephemeral": {}}]}),
    made(spec={"resourceClaims": [{"name": "r", "resourceClaimName": "one"}]}),
    made(
        spec={"resourceClaims": [{"name": "r", "resourceClaimTemplateName": "t"}]},
        status={"resourceClaimStatuses": [{"name": "r", "resourceClaimName": "t-1"}]},
    ),
    made(status={"containerStatuses": [RESIZED]}),
    made(spec={"containers": [asks("9")]}, status={"containerStatuses": [RESIZED], "conditions": LATER}),
]


def test_pods_that_differ_in_what_decides_have_facts_of_their_own() -> None:
    reader = pod_facts.Reader()
    for _ in range(2):  # read, and looked up
        for pod in DIFFERENT:
            facts = reader.read(pod)
            assert (facts.amounts, facts.key) == (pod_amounts(pod), read_pod(pod))
    assert len({id(reader.read(pod)) for pod in DIFFERENT}) == len(DIFFERENT)


def test_pods_that_differ_in_nothing_else_share_them() -> None:
    reader, first = pod_facts.Reader(), made()
    others = [
        made({"name": "b", "uid": "v", "annotations": {"k": "v"}}),
        made(spec={"nodeName": "n1", "volumes": [{"name": "kube-api-access-2"}]}),
        made(status={"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    ]
    assert {id(reader.read(pod)) for pod in others} == {id(reader.read(first))}


def test_what_cannot_be_read_is_told_each_time() -> None:
    reader, wrong = pod_facts.Reader(), made(spec={"containers": [asks("much")]})
    for _ in range(2):
        with pytest.raises(QuantityError):
            reader.read(wrong)


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_facts, "MOST", 3)
    reader = pod_facts.Reader()
    for number in range(10):
        pod = made({"labels": {"app": str(number)}})
        assert reader.read(pod).key == read_pod(pod)
        assert len(reader._known) <= 3


def test_a_request_is_made_anew_for_new_columns_and_after_a_sweep() -> None:
    cluster, pod = Cluster(), made(spec={"containers": [asks("1")]})
    node = {"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"}}}
    before = cluster.request(pod)
    assert cluster.request(made({"name": "b"}, {"containers": [asks("1")]})) is before
    node["status"]["allocatable"]["example.com/thing"] = "1"  # type: ignore[index]
    cluster.set_node(msgspec.convert(node, Node))
    wide = cluster.request(pod)
    assert len(wide.resources) == len(before.resources) + 1
    cluster.sweep([])
    again = cluster.request(pod)
    assert again.constraints != wide.constraints  # a class's number is not given twice
    assert cluster.allowed(again) is not None
