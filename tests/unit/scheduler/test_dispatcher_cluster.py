"""The dispatcher over a live cluster: constraints of pods, nodes that come and go, devices that are asked for by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devicekit import gpu
from devicekit import one as share
from filterlab import cluster, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.slots import slots
from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.decision import Ask
from forebay.scheduler.devices.request import request_of
from forebay.scheduler.devices.vendors.kinds import GIB
from forebay.scheduler.dispatcher import Dispatcher
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.locality.warmth import Warmth

GB = 10**9
APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    }
}


def gang(made: Cluster, name: str, pods: list[Pod], dataset: str = "ns/d", since: float = 0.0) -> Ask:
    members = [Member(f"{name}-{at}", made.request(one)) for at, one in enumerate(pods)]
    return Ask(Gang(name, members, len(members)), dataset, since)


def start(made: Cluster, **held: int) -> tuple[Dispatcher, Warmth]:
    """A dispatcher, and GB of `ns/d`, 100 GB large, by node."""
    warmth = Warmth(made.names, 5 * GB, 10 * GB)
    warmth.resize("ns/d", 100 * GB)
    say(warmth, 0.0, **held)
    return Dispatcher(made), warmth


def say(warmth: Warmth, now: float, **held: int) -> None:
    table = np.zeros_like(warmth.held)
    for name, amount in held.items():
        table[warmth.row_of[name], 0] = amount * GB
    warmth.set_all(table, now)


def nodes_of(one: Dispatcher, warmth: Warmth, now: float) -> list[str]:
    return sorted(place.node for plan in one.decide(now, warmth).plans for place in plan.placements)


TAINT: list[dict[str, Any]] = [{"key": "k", "value": "v", "effect": "NoSchedule"}]


def test_a_taint_keeps_a_gang_from_the_node_that_holds_its_data() -> None:
    made = cluster([node("a", taints=TAINT), node("b")])
    one, warmth = start(made, a=100)
    one.submit(gang(made, "g", [pod(requests={"cpu": "1"})] * 2))
    assert nodes_of(one, warmth, 0) == []
    assert nodes_of(one, warmth, 1000) == ["b", "b"]


def test_pods_that_keep_apart_start_on_different_nodes_the_warm_one_among_them() -> None:
    made = cluster([node(name) for name in "abcd"])
    one, warmth = start(made, c=100)
    apart = pod(labels={"app": "x"}, requests={"cpu": "1"}, affinity=APART)
    one.submit(gang(made, "g", [apart] * 3))
    found = nodes_of(one, warmth, 0) or nodes_of(one, warmth, 1000)
    assert len(set(found)) == 3
    assert "c" in found


def test_more_pods_that_keep_apart_than_nodes_wait_and_hold_nothing() -> None:
    made = cluster([node("a"), node("b")])
    one, warmth = start(made, a=100)
    before = made.free.copy()
    apart = pod(labels={"app": "x"}, requests={"cpu": "1"}, affinity=APART)
    one.submit(gang(made, "g", [apart] * 3))
    for now in (0, 1000, 100_000):
        assert nodes_of(one, warmth, now) == []
    assert (made.free == before).all()


@pytest.mark.parametrize(
    "spec", [{"labels": {"app": "x"}, "affinity": APART}, {"nodeSelector": {"disk": "none"}}, {"requests": {"cpu": "9"}}]
)
def test_one_that_can_never_start_holds_up_nobody(spec: dict[str, Any]) -> None:
    made = cluster([node("a"), node("b")])
    one, warmth = start(made, a=100)
    one.submit(gang(made, "never", [pod(**{"requests": {"cpu": "1"}, **spec})] * 3))
    for number in range(300):
        one.submit(gang(made, f"g{number}", [pod(requests={"cpu": "8"})]))
        (plan,) = one.decide(number, warmth).plans
        assert plan.gang == f"g{number}"
        one.finished(plan)
    entry = one.waiting.find("never")
    assert entry is not None
    assert one.waiting.passed(entry) == 300


def test_nodes_come_and_go() -> None:
    made = cluster([node("a"), node("b")])
    one, warmth = start(made, b=100)
    one.submit(gang(made, "first", [pod(requests={"cpu": "8"})]))
    assert nodes_of(one, warmth, 0) == ["b"]
    made.remove_node("a")
    made.set_node(node("c"))  # takes the row that `a` had
    made.set_node(node("d"))
    one.submit(gang(made, "second", [pod(requests={"cpu": "8"})], since=1.0))
    assert nodes_of(one, warmth, 1) == []
    assert warmth.held[warmth.row_of["b"], 0] == 100 * GB
    assert warmth.held[warmth.row_of["c"], 0] == 0
    say(warmth, 2, b=100, d=100)
    assert nodes_of(one, warmth, 2) == ["d"]
    made.remove_node("b")
    one.finished(one.running["first"].plan, release=False)
    assert set(one.running) == {"second"}
    for extra in range(80):  # more rows than a new cluster has
        made.set_node(node(f"n{extra}"))
    one.submit(gang(made, "third", [pod(requests={"cpu": "8"})] * 60, since=3.0))
    assert len(nodes_of(one, warmth, 5000)) == 60


def test_a_node_that_others_overcommitted_takes_nobody() -> None:
    made = cluster([node("a"), node("b")], [pod("a", requests={"cpu": "20"})])
    one, warmth = start(made, a=100)
    one.submit(gang(made, "g", [pod(requests={"cpu": "1"})]))
    assert nodes_of(one, warmth, 1000) == ["b"]


def test_pods_that_ask_for_memory_of_a_card_start_together_where_their_data_is() -> None:
    where = State([Node(f"n{row}", {"cpu": 64}, devices=(gpu(0), gpu(1))) for row in range(3)], ["cpu"])
    warmth = Warmth(where.names, 5 * GB, 10 * GB)
    warmth.resize("ns/d", 100 * GB)
    say(warmth, 0, n1=100)
    one = Dispatcher(where)
    request = request_of(where, (1,), share(memory=4 * GIB))
    assert slots(where, request, where.rows).tolist() == [8, 8, 8]  # two cards of 16 GiB
    one.submit(Ask(Gang("g", [Member(f"g-{at}", request) for at in range(6)], 6), "ns/d", 0.0))
    (plan,) = one.decide(0, warmth).plans
    assert {place.node for place in plan.placements} == {"n1"}
    assert {part.memory for place in plan.placements for part in place.devices} == {4 * GIB}
    assert slots(where, request, where.rows).tolist() == [8, 2, 8]
    one.finished(plan)
    assert slots(where, request, where.rows).tolist() == [8, 8, 8]
