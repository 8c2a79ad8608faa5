"""What is wrong from outside, told to the live core: a sentence for its author, everybody else is placed, nothing leaks."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from livekit import GANG, MINIMUM, binds, bound, core, node, pod

from forebay.api.kubernetes.core import Node, Pod
from forebay.kube.objects import ObjectMeta
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.copies import ConfigMap
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind, Cancel, Outcome, Report, Tell

DAY = 86_400 * 10**9
SHARES = {"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"}


def labelled(name: str, labels: dict[str, str], **more: Any) -> Pod:
    one = pod(name, **more)
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, labels=labels))


def asking(name: str, **requests: str) -> Pod:
    """Amounts that `pod` would not write."""
    one = pod(name)
    container = {"name": "c", "resources": {"requests": {key.replace("_", "-"): value for key, value in requests.items()}}}
    spec = msgspec.convert({"schedulerName": "forebay", "containers": [container]}, type(one.spec))
    return msgspec.structs.replace(one, spec=spec)


def quota(name: str, labels: dict[str, str] | None = None, **spec: dict[str, str]) -> dict[str, Any]:
    meta = {"name": name, "namespace": "n", "labels": labels or {}}
    return {"apiVersion": "scheduling.sigs.k8s.io/v1alpha1", "kind": "ElasticQuota", "metadata": meta, "spec": spec}


def empty(c: Core) -> bool:
    """Nothing is booked, nobody waits or flies."""
    rows = c.books.cluster.nodes
    idle = bool((c.books.cluster.free[rows] == c.books.cluster.allocatable[rows]).all())
    return idle and not (c.books.cluster.pods or c.books.devices.records or c.books.quotas.ledger.charges or c.flights or c.queue)


PODS = {
    "two minimums in one gang": (
        [labelled(f"g{n}", {GANG: "g", MINIMUM: str(2 + n)}) for n in range(2)],
        "labels contradict each other",
    ),
    "a minimum that is none": ([labelled("g", {GANG: "g", MINIMUM: "many"})], "many"),
    "cores of a card without memory": ([pod("p", limits={"aliyun.com/gpu-core.percentage": "30"})], "stands without"),
    "cards in two APIs at once": (
        [pod("p", limits={"aliyun.com/gpu-mem": "1", "koordinator.sh/gpu": "100"})],
        "are asked in several ways",
    ),
    "memory that does not divide by the cards": (
        [labelled("p", {"aliyun.com/gpu-count": "2"}, limits={"aliyun.com/gpu-mem": "3"})],
        "does not divide",
    ),
    "more cards than any node can have": ([pod("p", limits={"nvidia.com/gpu": "9223372036854775807"})], "more than a node has"),
    "more CPU than fits in 64 bits": ([asking("p", cpu="9223372036854775807")], "cpu"),
    "an amount that is none": ([asking("p", cpu="plenty")], "an amount that it asks for is none"),
    "less than nothing": ([asking("p", cpu="-1")], "an amount that it asks for is none"),
    "a resource that nobody offers": ([asking("p", **{"example.com/thing": "1"})], "example.com/thing"),
}


@pytest.mark.parametrize("case", sorted(PODS))
def test_a_pod_that_cannot_be_right_is_told_and_the_others_go(case: str) -> None:
    wrong, sentence = PODS[case]
    c = core()
    c.apply("Node", None, node("a", 4, **SHARES, **{"nvidia.com/gpu": "2"}))
    for one in wrong:
        c.apply("Pod", None, one)
    c.apply("Pod", None, pod("right"))
    done = c.decide(0)
    assert binds(done) == {"right": "a"}
    told = [one for one in done if isinstance(one, Tell)]
    assert {one.pod.name for one in told} == {one.metadata.name for one in wrong}
    assert all(sentence in one.sentence for one in told), told
    assert not [one for one in c.decide(600) if isinstance(one, Tell)]  # once, though it is tried again
    for one in wrong:
        c.apply("Pod", one, None)
    c.apply("Pod", pod("right"), None)
    c.decide(601)
    assert empty(c)


CYCLE = [
    quota("x", {"quota.scheduling.koordinator.sh/parent": "y", "quota.scheduling.koordinator.sh/is-parent": "true"}),
    quota("y", {"quota.scheduling.koordinator.sh/parent": "x", "quota.scheduling.koordinator.sh/is-parent": "true"}),
]
QUOTAS = {
    "parents in a circle": ([*CYCLE, quota("z", {"quota.scheduling.koordinator.sh/parent": "y"})], "z"),
    "min over max": ([quota("z", min={"cpu": "8"}, max={"cpu": "2"})], "z"),
    "an amount that is none": ([quota("z", min={"cpu": "some"}, max={"cpu": "2"})], "z"),
    "a parent that does not exist": ([quota("z", {"quota.scheduling.koordinator.sh/parent": "nobody"})], "z"),
}


@pytest.mark.parametrize("case", sorted(QUOTAS))
def test_a_quota_that_cannot_be_right_is_told_and_stops_only_its_own(case: str) -> None:
    objects, name = QUOTAS[case]
    c = core()
    c.apply("Node", None, node("a", 4))
    for one in objects:
        c.apply("Quota", None, one)
    c.apply("Quota", None, quota("fine", max={"cpu": "4"}))
    label = "quota.scheduling.koordinator.sh/name"
    inside, beside = labelled("inside", {label: name}), labelled("beside", {label: "fine"})
    for one in (inside, beside):
        c.apply("Pod", None, one)
    done = c.decide(0)
    reports = [one for one in done if isinstance(one, Report) and one.kind == "ElasticQuota"]
    assert reports
    assert all(one.reason == "InvalidQuota" and one.sentence for one in reports)
    assert binds(done) == {"beside": "a"}
    assert [one.pod.name for one in done if isinstance(one, Tell)] == ["inside"]
    for old in objects:
        c.apply("Quota", old, None)
    c.apply("Quota", None, quota(name, max={"cpu": "4"}))  # corrected
    assert binds(c.decide(700)) == {"inside": "a"}


def test_a_card_that_is_lost_between_plan_and_bind_is_not_bound_to() -> None:
    c = core()
    whole = node("a", 8, **SHARES)
    c.apply("Node", None, whole)
    c.apply("Pod", None, pod("p", limits={"aliyun.com/gpu-mem": "15"}))
    (bind,) = [one for one in c.decide(0) if isinstance(one, Bind)]
    assert c.books.devices.records
    c.apply("Node", whole, node("a", 8))  # both cards fall off before the binding is sent
    done = c.decide(1)
    assert [one for one in done if isinstance(one, Cancel)] == [Cancel((bind.number,))]
    c.outcome(Outcome(bind.number, "p", "withheld"), 1)
    done = c.decide(30)
    assert not binds(done)
    assert not c.books.devices.records
    c.apply("Node", node("a", 8), whole)
    assert binds(c.decide(60)) == {"p": "a"}


def test_a_node_that_shrinks_between_plan_and_bind_takes_back_what_is_not_sent() -> None:
    c = core()
    c.apply("Node", None, node("a", 4))
    for n in range(4):
        c.apply("Pod", None, pod(f"p{n}"))
    flying = [one for one in c.decide(0) if isinstance(one, Bind)]
    c.apply("Node", node("a", 4), node("a", 2))
    called_back = {number for one in c.decide(1) if isinstance(one, Cancel) for number in one.numbers}
    assert called_back == {one.number for one in flying[2:]}


@pytest.mark.parametrize("seed", range(8))
def test_a_wall_clock_that_jumps_books_nothing_twice_and_leaks_nothing(seed: int) -> None:
    """Days forth and back, between and within passes; the monotonic clock goes on."""
    chance, at = random.Random(seed), [1_800_000_000 * 10**9]

    def clock() -> int:
        at[0] += chance.choice([0, 10**9, 10**9, -400 * DAY, 400 * DAY, 2 * DAY, -2 * DAY])
        return max(at[0], 0)

    c = Core(Configuration(), Groups(), clock)
    nodes = {f"n{n}": node(f"n{n}", 6, **SHARES) for n in range(3)}
    for one in nodes.values():
        c.apply("Node", None, one)
    there = dict[str, Pod]()
    now = 0.0
    for step in range(80):
        now += chance.random()
        gang = (f"g{step}", 2) if chance.random() < 0.4 else None
        for n in range(2 if gang else 1):
            one = pod(f"p{step}-{n}", 1, gang, {"aliyun.com/gpu-mem": str(chance.randrange(1, 9))})
            there[one.metadata.uid] = one
            c.apply("Pod", None, one)
        for bind in [one for one in c.decide(now) if isinstance(one, Bind)]:
            c.outcome(Outcome(bind.number, bind.pod.uid, "bound"), now)
            old = there[bind.pod.uid]
            assert not old.spec.node_name
            there[bind.pod.uid] = bound(old, bind.node, bind.annotations)
            c.apply("Pod", old, there[bind.pod.uid])
        cluster = c.books.cluster
        for name in nodes:
            on = sum(one.spec.node_name == name for one in there.values())
            assert cluster.free[cluster.row_of[name], 0] == 1000 * (6 - on) >= 0
            assert all(use.memory <= 15 << 30 for use in c.books.devices.used(name).values())
        if chance.random() < 0.5 and there:
            gone = there.pop(chance.choice(sorted(there)))
            c.apply("Pod", gone, None)
    assert any(one.spec.node_name for one in there.values())
    for one in there.values():
        c.apply("Pod", one, None)
    c.decide(now + 1)
    assert empty(c)


def test_a_node_whose_amounts_are_none_stays_as_it_was() -> None:
    c = core()
    good = node("a", 4)
    c.apply("Node", None, good)
    wrong = msgspec.convert({"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "lots", "pods": "110"}}}, Node)
    c.apply("Node", good, wrong)
    c.apply("Pod", None, pod("p"))
    assert binds(c.decide(0)) == {"p": "a"}


def sick(*numbers: str) -> ConfigMap:
    return ConfigMap(ObjectMeta(name="unhealthy-gpu-a", namespace="kube-system"), {"gpus": ",".join(numbers)})


def test_a_card_that_is_called_sick_between_plan_and_bind_is_not_bound_to() -> None:
    """gpushare says so in a ConfigMap, with the same effect as a card that is gone."""
    c = core()
    c.apply("Node", None, node("a", 8, **SHARES))
    c.apply("ConfigMap", None, ConfigMap(ObjectMeta(name="something-else", namespace="kube-system"), {"gpus": "0"}))
    c.apply("Pod", None, pod("p", limits={"aliyun.com/gpu-mem": "15"}))
    (bind,) = [one for one in c.decide(0) if isinstance(one, Bind)]
    card = bind.annotations["ALIYUN_COM_GPU_MEM_IDX"]
    c.apply("ConfigMap", None, sick(card))
    assert [one for one in c.decide(1) if isinstance(one, Cancel)] == [Cancel((bind.number,))]
    c.outcome(Outcome(bind.number, "p", "withheld"), 1)
    (again,) = [one for one in c.decide(30) if isinstance(one, Bind)]
    assert again.annotations["ALIYUN_COM_GPU_MEM_IDX"] != card
    c.apply("ConfigMap", sick(card), sick("0", "1", "many"))
    c.apply("Pod", None, pod("q", limits={"aliyun.com/gpu-mem": "1"}))
    assert any("card health" in one.sentence for one in c.decide(60) if isinstance(one, Tell))
    c.apply("ConfigMap", sick("0", "1", "many"), None)
    assert binds(c.decide(120))["q"] == "a"


def test_a_card_that_koordinator_calls_sick_between_plan_and_bind_is_not_bound_to() -> None:
    def device(healthy: bool) -> dict[str, Any]:
        held = {"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory": "16Gi", "koordinator.sh/gpu-memory-ratio": "100"}
        listed = [{"type": "gpu", "id": "GPU-0", "minor": 0, "health": healthy, "resources": held}]
        labels = {"node.koordinator.sh/gpu-vendor": "nvidia", "node.koordinator.sh/gpu-model": "T4"}
        return {"kind": "Device", "metadata": {"name": "a", "labels": labels}, "spec": {"devices": listed}}

    c = core()
    c.apply("Node", None, node("a", **{"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory-ratio": "100"}))
    c.apply("Device", None, device(True))
    c.apply("Pod", None, pod("p", limits={"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"}))
    (bind,) = [one for one in c.decide(0) if isinstance(one, Bind)]
    c.apply("Device", device(True), device(False))
    assert [one for one in c.decide(1) if isinstance(one, Cancel)] == [Cancel((bind.number,))]


def test_cards_that_hold_more_than_they_have_are_counted() -> None:
    """Somebody else's pods, or a card that shrank: it is there and is booked, and is shown."""
    c = core()
    c.apply("Node", None, node("a", 8, **SHARES))
    notes = {"ALIYUN_COM_GPU_MEM_IDX": "0", "ALIYUN_COM_GPU_MEM_POD": "10", "ALIYUN_COM_GPU_MEM_ASSIGNED": "true"}
    for n in range(2):
        c.apply("Pod", None, bound(pod(f"p{n}", limits={"aliyun.com/gpu-mem": "10"}), "a", notes))
    c.decide(0)
    assert c.books.overfull == 1
    c.apply("Pod", bound(pod("p0", limits={"aliyun.com/gpu-mem": "10"}), "a", notes), None)
    c.decide(1)
    assert c.books.overfull == 0
