"""Gates mode on a real API server: pods pinned and let go by us, bound by the real kube-scheduler; all of a gang, or none."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from controlplane import ControlPlane, programs
from controlplane_kit import until
from schedulerlab import Running, Site
from servers import free_port

from forebay.api.kubernetes.core import Pod
from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import NAMESPACES, NODES, PODS
from forebay.kube.transport import Transport
from forebay.scheduler.live.config import Configuration, Gangs
from forebay.scheduler.live.effects.gates import Gates
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


# --- the whole scheduler in gates mode ---


@pytest.fixture
def site(client: Client) -> Iterator[Site]:
    """A namespace of the test's own, and nodes that nobody else uses: `pool` names them."""
    made = client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "g-"}})
    place = Site(client, made.metadata.name)
    yield place
    place.clear()
    client.delete(NAMESPACES, Key("", made.metadata.name))


def crew(site: Site, count: int, scheduler: str = "default-scheduler", cpu: str = "1") -> list[Key]:
    """A gang at our gate, of another scheduler's pods, for the test's own nodes."""
    more = {"schedulingGates": [{"name": GATE}], "nodeSelector": {"pool": site.namespace}}
    return site.gang("train", count, count, scheduler=scheduler, cpu=cpu, **more)


def settings(**gangs: Any) -> Configuration:
    return Configuration(gates=True, gangs=Gangs(**gangs))


def test_kube_scheduler_binds_what_we_decided(client: Client, site: Site) -> None:
    node = site.node(cpu="2", labels={"pool": site.namespace})
    with Running(client.transport.endpoint, settings()):
        gang = crew(site, 3)
        site.waits(gang[0], "needs 3 pods at once, 2 fit")
        assert all(site.get(key).spec.scheduling_gates for key in gang)  # nothing is let go
        other = site.node(cpu="1", labels={"pool": site.namespace})
        site.all_bound(gang)
    assert sorted(site.where(gang)) == sorted([node, node, other])
    for key in gang:
        meant = read(site.get(key))
        assert meant is not None
        assert (meant.node, meant.gang) == (site.get(key).spec.node_name, f"{site.namespace}/train")


def test_what_its_scheduler_does_not_bind_is_told(client: Client, site: Site) -> None:
    node = site.node(cpu="4", labels={"pool": site.namespace})
    with Running(client.transport.endpoint, settings(repair_seconds=1.0)):
        gang = crew(site, 2, scheduler="nobody")
        until(lambda: not any(site.get(key).spec.scheduling_gates for key in gang), PATIENCE, lambda: "the gate is not open")
        site.bind(gang[0], node)
        site.event(gang[1], "PartialGang", f"1 of 2 pods of gang {site.namespace}/train are bound")
    assert [bool(one) for one in site.where(gang)] == [True, False]


def test_by_policy_all_of_it_is_deleted_to_begin_anew(client: Client, site: Site) -> None:
    site.node(cpu="4", labels={"pool": site.namespace})
    with Running(client.transport.endpoint, settings(repair_seconds=1.0, partial="Delete")):
        gang = crew(site, 2, scheduler="nobody")

        def left() -> list[str]:
            there = client.list_all(PODS, Pod, site.namespace)[0]
            return [one.metadata.name for one in there if not one.metadata.deletion_timestamp]

        until(lambda: not left(), PATIENCE, left)
    assert gang


def test_after_a_restart_an_open_intention_still_counts(client: Client, site: Site) -> None:
    node = site.node(cpu="2", labels={"pool": site.namespace})
    with Running(client.transport.endpoint, settings()):
        gang = crew(site, 2, scheduler="nobody")
        until(lambda: not any(site.get(key).spec.scheduling_gates for key in gang), PATIENCE, lambda: "the gate is not open")
    with Running(client.transport.endpoint, settings()):
        more = site.pod("more", nodeSelector={"pool": site.namespace})
        site.waits(more, "too little free cpu")  # the places of the gang are not given again
        site.bind(gang[0], node)
        site.client.delete(PODS, gang[1], grace=0)
        site.all_bound([more])


def test_without_the_setting_nobody_is_let_through(client: Client, site: Site) -> None:
    site.node(cpu="4", labels={"pool": site.namespace})
    with Running(client.transport.endpoint):
        gang = crew(site, 2)
        plain = site.pod("plain", nodeSelector={"pool": site.namespace})
        site.all_bound([plain])  # it decides, and it does not decide these
    assert all(site.get(key).spec.scheduling_gates for key in gang)
