"""Devices in the live snapshot: nodes, cards and models come and go, and what the API says of pods is read from typed objects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from devicekit import gpu, one

from forebay.api.kubernetes.core import Node, Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.devices.ask import PodAsk
from forebay.scheduler.devices.card import ANY
from forebay.scheduler.devices.ecosystems.inputs import read_ask, read_node, read_record, render, served
from forebay.scheduler.devices.ledger import Ledger
from forebay.scheduler.devices.pod import read_pod
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.request import with_devices
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.explain import failed_constraints, why
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import Setting, make
from forebay.scheduler.quota.inputs.check import Findings


def node(name: str, mode: str = "cgpu", memory: int = 30, count: int = 2) -> Node:
    have = {"cpu": "16", "pods": "110", "aliyun.com/gpu-mem": str(memory), "aliyun.com/gpu-count": str(count)}
    labels = {"ack.node.gpu.schedule": mode}
    value = {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": have, "capacity": have}}
    return msgspec.convert(value, Node, strict=False)


def pod(name: str, memory: int = 5, where: str = "", **meta: Any) -> Pod:
    limits = {"aliyun.com/gpu-mem": str(memory)}
    spec = {"nodeName": where, "containers": [{"name": "c", "resources": {"limits": limits, "requests": {"cpu": "1", **limits}}}]}
    return msgspec.convert(
        {"metadata": {"uid": name, "namespace": "team", "name": name, **meta}, "spec": spec}, Pod, strict=False
    )


class Scheduler:
    """What an adapter does: it tells the snapshot and the ledger of nodes and pods, and writes what was decided."""

    def __init__(self) -> None:
        self.cluster, self.books, self.findings = Cluster(), Ledger(), Findings()
        self.planner = Planner(self.cluster, make("forebay", Setting()))

    def node(self, value: Node) -> None:
        self.cluster.set_node(value)
        found = read_node(value, self.findings)
        self.books.set_node(value.metadata.name, found.devices, found.rules)
        self.sync()

    def sync(self) -> None:
        for name in self.books.changes():
            if name in self.cluster.row_of:
                row = self.cluster.row_of[name]
                self.cluster.set_devices(row, self.books.devices(name), self.books.rules(name), self.books.used(name))

    def request(self, value: Pod) -> Any:
        ask = read_ask(read_pod(value, self.findings), self.findings)
        assert isinstance(ask, PodAsk)
        return with_devices(self.cluster, self.cluster.request(value), ask)

    def gang(self, pods: list[Pod], minimum: int | None = None) -> Any:
        members = [Member(value.metadata.uid, self.request(value)) for value in pods]
        done = plan(self.planner, Gang("g", members, len(pods) if minimum is None else minimum))
        by_uid = {value.metadata.uid: value for value in pods}
        requests = {member.pod: member.request for member in members}
        for placement in done.placements:
            request = requests[placement.pod]
            self.books.assume(
                Record(placement.pod, f"team/{placement.pod}", placement.node, request.devices.seats, placement.devices, "ack", 1)
            )
            self.cluster.adopt(by_uid[placement.pod], self.cluster.row_of[placement.node], request, placement.cards)
        self.books.changes()
        return done


def test_a_gang_of_gpu_mem_pods_on_nodes_that_came_one_by_one() -> None:
    s = Scheduler()
    s.node(node("n0"))
    s.node(node("n1", memory=64, count=4))  # more cards than there were places
    for number in range(70):  # more rows than there were
        s.node(node(f"e{number}", mode="default"))
    assert s.findings.problems == []
    done = s.gang([pod(f"p{n}") for n in range(18)])
    assert done.placed
    assert {placement.node for placement in done.placements} == {"n0", "n1"}
    assert sum(placement.node == "n0" for placement in done.placements) == 6
    assert not s.gang([pod("more")]).placed
    request = s.request(pod("why"))
    assert failed_constraints(s.cluster, request) == {"node shares no cards": 70, "card memory": 2}
    assert "card memory" in str(why(s.cluster, request))


def test_what_a_pod_asked_by_name_is_not_asked_of_columns_too() -> None:
    s = Scheduler()
    s.node(node("n0"))
    request = s.request(pod("p"))
    asked = dict(zip(s.cluster.columns, request.resources, strict=True))
    assert asked["cpu"] == 1000
    assert asked["aliyun.com/gpu-mem"] == 0
    assert served("aliyun.com/gpu-mem")
    assert served("nvidia.com/mig-1g.5gb")
    assert not served("example.com/nic")


def test_pods_end_nodes_go_and_come_back() -> None:
    s = Scheduler()
    s.node(node("n0"))
    s.node(node("n1"))
    assert s.gang([pod(f"p{n}") for n in range(12)]).placed
    s.cluster.remove_node("n0")
    s.books.drop_node("n0")
    s.sync()
    assert not s.gang([pod("q")]).placed
    s.node(node("n0"))  # its pods are still there
    assert not s.gang([pod("q")]).placed
    gone = next(uid for uid, record in s.books.records.items() if record.node == "n0")
    s.books.remove(gone)
    s.cluster.remove_pod(gone)
    s.sync()
    done = s.gang([pod("q")])
    assert [placement.node for placement in done.placements] == ["n0"]


def test_a_restart_reads_pods_back_from_their_annotations() -> None:
    s = Scheduler()
    s.node(node("n0"))
    assert s.gang([pod(f"p{n}", 7) for n in range(4)]).placed
    found = read_node(node("n0"), s.findings)
    bound = [pod(uid, 7, "n0", annotations=render(record, found)) for uid, record in s.books.records.items()]
    fresh = Scheduler()
    fresh.node(node("n0"))
    for value in reversed(bound):
        seen = read_pod(value, fresh.findings)
        record = read_record(seen, found)
        assert record is not None
        fresh.books.confirm(record, 1)
        fresh.cluster.set_pod(value, fresh.request(value))
    fresh.sync()
    assert fresh.books.used("n0") == s.books.used("n0")
    assert (fresh.cluster.card_free == s.cluster.card_free).all()
    assert not fresh.gang([pod("q", 2)]).placed
    assert fresh.gang([pod("q", 1)]).placed


def test_a_place_that_is_held_for_a_nominated_pod_is_held_on_the_card_too() -> None:
    s = Scheduler()
    s.node(node("n0", memory=15, count=1))
    high = msgspec.convert(
        {
            "metadata": {"uid": "h", "namespace": "team", "name": "h"},
            "spec": {"priority": 10, "containers": [{"name": "c", "resources": {"limits": {"aliyun.com/gpu-mem": "12"}}}]},
            "status": {"nominatedNodeName": "n0"},
        },
        Pod,
        strict=False,
    )
    s.cluster.set_pod(high, s.request(high))
    assert not s.gang([pod("low", 5)]).placed
    assert s.gang([pod("small", 2)]).placed
    assert s.cluster.devices is not None
    assert s.cluster.devices.used[0]["gpu-0"].memory == 2 * GIB


@pytest.mark.parametrize("count", [1, 3])
def test_arrays_grow_and_keep_what_they_hold(count: int) -> None:
    cluster = Cluster()
    for number in range(count):
        row = cluster.set_node(node(f"n{number}"))
        cluster.set_devices(row, (gpu(0),), read_node(node("x", "share"), Findings()).rules, {})
    request = with_devices(cluster, cluster.request(pod("p")), one(memory=GIB))
    assert cluster.feasible(request, cluster.nodes).all()
    row = cluster.set_node(node("wide"))
    cluster.set_devices(row, tuple(gpu(n, 80, "NVIDIA A100-SXM4-80GB") for n in range(16)), ANY, {})
    assert cluster.feasible(request, cluster.nodes).all()
    big = with_devices(cluster, cluster.request(pod("p")), one(memory=40 * GIB, cards=16))
    assert cluster.feasible(big, cluster.nodes).tolist() == [False] * count + [True]
    cluster.remove_node("wide")
    assert not cluster.feasible(big, cluster.rows).any()
