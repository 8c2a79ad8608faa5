"""Our filters beside the real kube-scheduler: the same random clusters and pods, and for every node the same answer.

kube-scheduler runs with one profile a node, `on-<node>`, whose `addedAffinity` admits only that node: a pod of that scheduler
name is bound if and only if the node passes all its filters. Preemption is off. Pods that were bound stay, so that the cluster
fills up and each pod meets those before it. No kubelet and no controller runs: nodes are objects, what they offer stands in their
status.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from controlplane import ControlPlane, programs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from servers import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "scheduler"))

from clusters import CLAIMS as CLAIM_NAMES
from clusters import CLASSES, claims, nodes, one_of, pods, volumes
from clusters import VOLUMES as VOLUME_NAMES
from filterlab import where

from forebay.api.kubernetes.core import (
    ClaimVolume,
    Container,
    Meta,
    Namespace,
    Node,
    Pod,
    PodSpec,
    Port,
    Resources,
    Toleration,
    Volume,
)
from forebay.api.kubernetes.storage import (
    BIND_COMPLETED,
    ClaimStatus,
    CSINode,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
)
from forebay.kube.client import Client
from forebay.kube.errors import ApiError
from forebay.kube.objects import Key
from forebay.kube.resources import CLAIMS, NAMESPACES, NODES, PODS, VOLUMES, Resource
from forebay.kube.transport import Transport
from forebay.scheduler.arrays.cluster import Cluster

NAMES = ("n0", "n1", "n2", "n3")
NUMBERS = itertools.count()
LIMITS = {"n0": 1, "n1": 2}
"""Volumes that these nodes' driver can attach."""
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
FLAGS = [
    "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",  # nobody makes accounts or says that nodes are ready
]
ANSWER = 90.0
"""Seconds until kube-scheduler must have said something about a pod. 20 ms are usual."""


def walking(examples: int) -> settings:
    """The same random clusters every time, drawn once: what fails is not made smaller, for kube-scheduler answers slowly."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def configuration(folder: Path, kubeconfig: Path) -> Path:
    """One profile a node."""
    profiles = []
    for name in NAMES:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        arguments = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "NodeAffinityArgs", "addedAffinity": required}
        profiles.append(
            {
                "schedulerName": f"on-{name}",
                "plugins": {"postFilter": {"disabled": [{"name": "*"}]}},
                "pluginConfig": [{"name": "NodeAffinity", "args": arguments}],
            }
        )
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 500},
        "profiles": profiles,
    }
    path = folder / "kube-scheduler.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def before_it_starts(client: Client) -> None:
    """What kube-scheduler must know from its first list on, because no pod can tell whether it has seen it."""
    for name, kind in CLASSES.items():
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": kind.provisioner,
        }
        client.create(STORAGE_CLASSES, "", {**body, "volumeBindingMode": kind.volume_binding_mode})
    for name, count in LIMITS.items():
        drivers = [{"name": "disk.example.com", "nodeID": name, "allocatable": {"count": count}}]
        body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": drivers}}
        client.create(CSI_NODES, "", body)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A control plane without controllers, and kube-scheduler."""
    program = programs(["kube-scheduler"])["kube-scheduler"]
    folder = tmp_path_factory.mktemp("scheduler")
    with ControlPlane(tmp_path_factory.mktemp("plane"), api_flags=FLAGS, controllers=False) as plane:
        transport = Transport(plane.endpoint)
        client = Client(transport, manager="test")
        before_it_starts(client)
        flags = [f"--config={configuration(folder, plane.kubeconfig)}", f"--secure-port={free_port()}", f"--cert-dir={folder}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, *flags], stdout=log, stderr=log)
        try:
            yield client
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
        finally:
            process.kill()
            process.wait()
            transport.close()


class Pair:
    """A cluster of the API server, and ours, which is fed what the API server says."""

    def __init__(self, client: Client) -> None:
        self.client, self.ours, self.number = client, Cluster(), next(NUMBERS)
        self.spaces = {"red": f"red-{self.number}", "blue": f"blue-{self.number}"}
        self.decided = self.bound = self.refused = 0
        for name, labels in (("red", {"team": "1"}), ("blue", {})):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.spaces[name], "labels": labels}}
            client.create(NAMESPACES, "", body)
            self.ours.set_namespace(client.get(NAMESPACES, Key("", self.spaces[name]), Namespace))
        for name in CLASSES:
            self.ours.storage.set_class(client.get(STORAGE_CLASSES, Key("", name), StorageClass))
        for name in LIMITS:
            self.ours.set_driver_limits(client.get(CSI_NODES, Key("", name), CSINode))

    def volume(self, volume: PersistentVolume) -> None:
        spec = msgspec.to_builtins(volume.spec)
        spec.pop("claimRef", None)
        if "csi" not in spec:
            spec["hostPath"] = {"path": "/data"}
        meta = {"name": f"{volume.metadata.name}-{self.number}", "labels": volume.metadata.labels}
        self.client.create(VOLUMES, "", {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec})
        self.ours.storage.set_volume(self.client.get(VOLUMES, Key("", meta["name"]), PersistentVolume))

    def claim(self, claim: PersistentVolumeClaim) -> None:
        """Bound or not as drawn: no controller is there to change it."""
        spec = msgspec.to_builtins(claim.spec)
        if claim.spec.volume_name:
            spec["volumeName"] = f"{claim.spec.volume_name}-{self.number}"
        elif spec.get("storageClassName") in ("local", "late"):
            return  # kube-scheduler would wait for a controller to bind or to make a volume
        key = Key(self.spaces[claim.metadata.namespace], claim.metadata.name)
        meta = {"name": key.name, "annotations": claim.metadata.annotations}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
        self.client.create(CLAIMS, key.namespace, body)
        self.client.merge(CLAIMS, key, {"status": {"phase": claim.status.phase}}, sub="status")
        self.ours.storage.set_claim(self.client.get(CLAIMS, key, PersistentVolumeClaim))

    def node(self, node: Node) -> None:
        """Makes the node in the API server and waits until kube-scheduler knows this very one."""
        name = node.metadata.name
        labels = {**node.metadata.labels, "made": str(self.number)}
        spec = msgspec.to_builtins(node.spec)
        self.client.create(
            NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}
        )
        offered = {**node.status.allocatable, "pods": "12"}
        self.client.merge(NODES, Key("", name), {"status": {"allocatable": offered, "capacity": offered}}, sub="status")
        self.ours.set_node(self.client.get(NODES, Key("", name), Node))
        probe = {"containers": [{"name": "c", "image": "none"}], "tolerations": [{"operator": "Exists"}]}
        seen = self._create("red", {"labels": {}}, {**probe, "nodeSelector": {"made": str(self.number)}}, name)
        assert self._wait(seen, lambda pod: bool(pod.spec.node_name)), f"kube-scheduler never saw node {name}"
        self.ours.set_pod(self._get(seen))

    def _create(self, space: str, meta: dict[str, Any], spec: dict[str, Any], node: str) -> Key:
        key = Key(self.spaces[space], f"p{next(NUMBERS)}")
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": key.name, **meta}}
        body["spec"] = {**spec, "schedulerName": f"on-{node}"}
        self.client.create(PODS, key.namespace, body)
        return key

    def _get(self, key: Key) -> Pod:
        return self.client.get(PODS, key, Pod)

    def _wait(self, key: Key, done: Callable[[Pod], bool]) -> bool:
        until = time.monotonic() + ANSWER
        while time.monotonic() < until:
            if done(self._get(key)):
                return True
            time.sleep(0.01)
        return False

    def pod(self, pod: Pod, draw: Callable[[Any], Any]) -> None:
        """Asks both about the pod and each node; where both say yes it is bound to one of the nodes and stays."""
        meta, spec = self._body(pod)
        try:
            first = self._create(pod.metadata.namespace, meta, spec, "nobody")
        except ApiError as error:
            if error.code != 422:
                raise
            self.refused += 1  # drawn by chance, and no pod
            return
        as_made = self._get(first)  # what the API server made of it: defaults, merged label keys
        self.client.delete(PODS, first, grace=0)
        ours = set(where(self.ours, as_made).split())
        for node in NAMES:
            if node in self.ours.row_of and node not in ours:
                probe = self._create(pod.metadata.namespace, meta, spec, node)
                assert self._wait(probe, decided), f"kube-scheduler said nothing about {probe}"
                said = self._get(probe)
                assert not said.spec.node_name, f"kube-scheduler takes {node}, we do not: {json.dumps(spec)} {meta}"
                self.client.delete(PODS, probe, grace=0)
                self.decided += 1
        if ours:
            node = draw(one_of(sorted(ours)))
            probe = self._create(pod.metadata.namespace, meta, spec, node)
            taken = self._wait(probe, lambda one: bool(one.spec.node_name))
            said = self._get(probe).status.conditions
            assert taken, f"we take {node}, kube-scheduler does not: {said} {json.dumps(spec)} {meta}"
            self.ours.set_pod(self._get(probe))
            self.decided += 1
            self.bound += 1

    def _body(self, pod: Pod) -> tuple[dict[str, Any], dict[str, Any]]:
        """As a manifest that the API server takes: extended resources with equal limits, no overhead without a RuntimeClass."""
        plain = msgspec.structs.replace(pod.spec, overhead={}, resources=Resources(), priority=0)
        spec = msgspec.to_builtins(plain)
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            container["image"] = "none"
            asked = container.get("resources", {})
            requests = {**asked.get("limits", {}), **asked.get("requests", {})}
            whole = {name: value for name, value in requests.items() if "/" in name or "-" in name}
            if any(name.startswith("hugepages") for name in whole):
                requests.setdefault("memory", "1Mi")
            container["resources"] = {"requests": requests, "limits": whole}
        affinity = spec.get("affinity") or {}
        for block in (affinity.get("podAffinity"), affinity.get("podAntiAffinity")):
            block = block or {}
            wishes = [one["podAffinityTerm"] for one in block.get("preferredDuringSchedulingIgnoredDuringExecution", ())]
            for term in (*block.get("requiredDuringSchedulingIgnoredDuringExecution", ()), *wishes):
                term["namespaces"] = [self.spaces[name] for name in term.get("namespaces", ())]
        return {"labels": pod.metadata.labels}, spec

    def clear(self) -> None:
        for space in self.spaces.values():
            for one in self.client.list_all(PODS, Pod, space)[0]:
                self.client.delete(PODS, Key(space, one.metadata.name), grace=0)
        for name in self.ours.storage.volumes:
            self.client.delete(VOLUMES, Key("", name))
        for name in list(self.ours.row_of):
            self.client.delete(NODES, Key("", name))


def decided(pod: Pod) -> bool:
    """Whether kube-scheduler bound it, or said that it cannot."""
    return bool(pod.spec.node_name) or any(
        one.type == "PodScheduled" and one.status == "False" and one.reason == "Unschedulable" for one in pod.status.conditions
    )


Draw = Callable[[Any], Any]


def anything(draw: Draw, number: int) -> Pod:
    """A pod with constraints of all kinds."""
    return cast(Pod, draw(pods(f"q{number}", claims=number % 3 == 0)))


def ports_and_claims(draw: Draw, number: int) -> Pod:
    """A pod that goes anywhere but for one host port or one claim, so that these meet often."""
    spec = PodSpec((Container("c"),), tolerations=(Toleration(operator="Exists"),))
    if number % 2:
        port = Port(80, 80, draw(one_of(["TCP", "TCP", "UDP"])), draw(one_of(["", "10.0.0.1", "10.0.0.2"])))
        spec = msgspec.structs.replace(spec, containers=(Container("c", ports=(port,)),))
    else:
        spec = msgspec.structs.replace(spec, volumes=(Volume("v", ClaimVolume(draw(one_of(CLAIM_NAMES)))),))
    return Pod(Meta(name=f"q{number}", namespace=draw(one_of(["red", "blue"])), uid=f"q{number}"), spec)


def bound(claim: PersistentVolumeClaim, volume: str) -> PersistentVolumeClaim:
    meta = msgspec.structs.replace(claim.metadata, annotations={BIND_COMPLETED: "yes"})
    spec = msgspec.structs.replace(claim.spec, volume_name=volume, storage_class_name="late")
    return msgspec.structs.replace(claim, metadata=meta, spec=spec, status=ClaimStatus("Bound"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("drawn", "whole_claims", "least"), [(anything, False, 25), (ports_and_claims, True, 60)])
def test_every_node_gets_the_same_answer(real: Client, drawn: Callable[[Draw, int], Pod], whole_claims: bool, least: int) -> None:
    asked = {"decided": 0, "bound": 0, "refused": 0}

    @walking(20)
    @given(st.data())
    def walk(data: st.DataObject) -> None:
        pair = Pair(real)
        try:
            for name in VOLUME_NAMES:
                pair.volume(data.draw(volumes(name)))
            for space in pair.spaces:
                for name in CLAIM_NAMES:
                    claim = data.draw(claims(space, name))
                    pair.claim(bound(claim, data.draw(one_of(VOLUME_NAMES))) if whole_claims else claim)
            for name in NAMES:
                pair.node(data.draw(nodes(name)))
            for number in range(12):
                pair.pod(drawn(data.draw, number), data.draw)
        finally:
            pair.clear()
            asked["decided"] += pair.decided
            asked["bound"] += pair.bound
            asked["refused"] += pair.refused

    walk()
    print(asked)
    assert asked["decided"] > 200  # else the API server refused nearly all that was drawn, and nothing was compared
    assert asked["bound"] > least
