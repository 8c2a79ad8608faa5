"""Gates mode on a real API server: pods pinned and let go by us, bound by the real kube-scheduler; all of a gang, or none."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from controlplane import ControlPlane, programs
from servers import free_port

from forebay.api.corev1 import Pod
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import NAMESPACES, NODES, PODS
from forebay.kube.transport import Transport
from forebay.scheduler.live.gates import Gates
from forebay.scheduler.live.instructions import Bind, Named, Outcome
from forebay.scheduler.live.intentions import GATE, Intention, Opened, read

SPACE = "team"
NODE_NAMES = ("n0", "n1", "n2")
NUMBERS = itertools.count(1)
PATIENCE = 60.0
FLAGS = ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"]  # nobody makes accounts or says that nodes are ready
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A control plane with kube-scheduler as it is, three nodes, and no controllers."""
    program = programs(["kube-scheduler"])["kube-scheduler"]
    folder = tmp_path_factory.mktemp("scheduler")
    with ControlPlane(tmp_path_factory.mktemp("plane"), api_flags=FLAGS, controllers=False) as plane:
        transport = Transport(plane.endpoint)
        client = Client(transport, manager="test")
        client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        for name in NODE_NAMES:
            labels = {"kubernetes.io/hostname": f"host-of-{name}"}  # a name of its own: it is the node's name that pins
            client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
            amounts = {"cpu": "4", "memory": "4Gi", "pods": "20"}
            client.merge(NODES, Key("", name), {"status": {"capacity": amounts, "allocatable": amounts}}, sub="status")
        flags = ["--leader-elect=false", f"--secure-port={free_port()}", f"--cert-dir={folder}"]
        config = f"--kubeconfig={plane.kubeconfig}"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, config, *flags], stdout=log, stderr=log)
        try:
            yield client
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
        finally:
            process.kill()
            process.wait()
            transport.close()


def gated(client: Client, **spec: Any) -> Named:
    name = f"p{next(NUMBERS)}"
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}}}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "schedulingGates": [{"name": GATE}], **spec},
    }
    made = client.create(PODS, SPACE, body)
    return Named(SPACE, name, made.metadata.uid)


def get(client: Client, pod: Named) -> Pod:
    return client.get(PODS, Key(pod.namespace, pod.name), Pod)


def binds(pods: list[Named], *nodes: str) -> list[Bind]:
    notes = {"forebay.io/devices": "{}"}
    return [Bind(pod, node, n, notes, "team/train", gated=True) for n, (pod, node) in enumerate(zip(pods, nodes, strict=True), 1)]


def write(client: Client, asked: list[Bind]) -> dict[int, Outcome]:
    return {one.number: one for one in Gates(client, time.time).write(asked)}


def bound(client: Client, pods: list[Named]) -> list[str]:
    """Nodes of the pods, once all have one."""
    end = time.monotonic() + PATIENCE
    while True:
        nodes = [get(client, pod).spec.node_name for pod in pods]
        if all(nodes):
            return nodes
        assert time.monotonic() < end, [get(client, pod) for pod in pods]
        time.sleep(0.1)


def gates(client: Client, pod: Named) -> list[str]:
    return [gate.name for gate in get(client, pod).spec.scheduling_gates]


def test_a_gang_goes_where_it_was_meant_to(client: Client) -> None:
    pods = [gated(client) for _ in range(3)]
    before = time.time()
    outcomes = write(client, binds(pods, "n2", "n0", "n2"))
    assert [outcomes[n].result for n in (1, 2, 3)] == ["bound"] * 3
    assert bound(client, pods) == ["n2", "n0", "n2"]
    there = get(client, pods[0])
    assert there.metadata.annotations["forebay.io/devices"] == "{}"
    meant = read(there)
    assert meant is not None
    assert (meant.node, meant.gang) == ("n2", "team/train")
    assert before - 1 <= meant.since <= time.time()


def test_what_a_pod_demands_of_nodes_still_holds(client: Client) -> None:
    zone = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-of-n0"]}]}
    any_of = {"nodeSelectorTerms": [zone, {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]}
    pod = gated(client, affinity={"nodeAffinity": {REQUIRED: any_of}})
    assert write(client, binds([pod], "n0"))[1].result == "bound"
    assert bound(client, [pod]) == ["n0"]
    contradicted = gated(client, affinity={"nodeAffinity": {REQUIRED: any_of}})
    watched = Opened()
    assert write(client, binds([contradicted], "n1"))[1].result == "bound"
    watched.add(contradicted, Intention("n1", "", 0.0))
    end = time.monotonic() + PATIENCE
    while not any("nodes are available" in one.message for one in get(client, contradicted).status.conditions):
        assert time.monotonic() < end
        time.sleep(0.1)
    watched.see(get(client, contradicted))
    (late,) = watched.late(60.0, 60.0)  # kube-scheduler's own words are in the sentence
    assert "was meant for n1: 0/3 nodes are available" in late.sentence
    client.delete(PODS, Key(SPACE, contradicted.name), grace=0)


def test_one_that_cannot_go_holds_all_back(client: Client) -> None:
    pods = [gated(client) for _ in range(3)]
    client.delete(PODS, Key(SPACE, pods[1].name), grace=0)
    outcomes = write(client, binds(pods, "n0", "n1", "n2"))
    assert [outcomes[n].result for n in (1, 2, 3)] == ["withheld", "gone", "withheld"]
    assert pods[1].name in outcomes[1].sentence
    assert gates(client, pods[0]) == gates(client, pods[2]) == [GATE]
    assert read(get(client, pods[0])) is None


def test_another_pod_of_the_name_and_one_that_left_the_gate(client: Client) -> None:
    old = gated(client)
    other = Named(SPACE, old.name, "another uid")
    assert "another pod" in write(client, binds([other], "n0"))[1].sentence
    client.merge(PODS, Key(SPACE, old.name), {"spec": {"schedulingGates": None}})
    outcome = write(client, binds([old], "n0"))[1]
    assert (outcome.result, outcome.sentence) == ("gone", f"it does not wait at gate {GATE} any more")


def test_the_server_refuses_and_nothing_is_done(client: Client) -> None:
    pods = [gated(client) for _ in range(2)]
    asked = binds(pods, "n0", "no such name!")  # what matchFields may not say
    outcomes = write(client, asked)
    assert [outcomes[n].result for n in (1, 2)] == ["withheld", "failed"]
    assert gates(client, pods[0]) == gates(client, pods[1]) == [GATE]


def test_whoever_writes_to_the_pod_meanwhile_costs_another_try(client: Client) -> None:
    pod = gated(client)

    class Busy(Client):
        writes = 2

        def get(self, resource: Any, key: Key, type_: Any, sub: str = "") -> Any:
            found = super().get(resource, key, type_, sub)
            if self.writes:
                self.writes -= 1
                super().merge(resource, key, {"metadata": {"annotations": {"written": str(self.writes)}}})
            return found

    busy = Busy(client.transport, manager="test")
    assert write(busy, binds([pod], "n1"))[1].result == "bound"
    assert not busy.writes
    assert bound(client, [pod]) == ["n1"]


def test_gates_of_others_keep_the_pod(client: Client) -> None:
    pod = gated(client, schedulingGates=[{"name": "example.com/quota"}, {"name": GATE}])
    assert write(client, binds([pod], "n1"))[1].result == "bound"
    assert gates(client, pod) == ["example.com/quota"]
    client.merge(PODS, Key(SPACE, pod.name), {"spec": {"schedulingGates": None}})
    assert bound(client, [pod]) == ["n1"]
