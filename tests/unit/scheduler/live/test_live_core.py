"""The core without a server: random clusters, outcomes and deletions. Nothing is booked twice, nothing leaks, gangs are whole."""

from __future__ import annotations

import random

import pytest
from livekit import GANG, MINIMUM, binds, bound, core, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.live.config import Gangs
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind, Cancel, Delete, Outcome, Result, Tell


def test_priority_then_age_decides_who_goes_first() -> None:
    c = core(preemption=False)
    c.apply("Node", None, node("a", 1))
    c.apply("Pod", None, pod("first"))
    c.apply("Pod", None, pod("urgent", priority=5))
    assert binds(c.decide(0)) == {"urgent": "a"}


def test_a_sentence_is_told_once_and_again_when_it_changes() -> None:
    c = core()
    c.apply("Node", None, node("a", 1))
    c.apply("Pod", None, pod("big", 2))
    assert [one.sentence for one in c.decide(0) if isinstance(one, Tell)] == [
        "0 of 1 nodes: 1 too small for cpu; 1 node lacks nothing else: ask for at most 1 cpu or add larger nodes"
    ]
    c.apply("Node", None, node("b", 1))
    assert next(one for one in c.decide(100) if isinstance(one, Tell)).sentence.startswith("0 of 2 nodes")
    c.apply("Pod", None, pod("other"))
    assert not [one for one in c.decide(200) if isinstance(one, Tell)]


def test_a_contradiction_is_told_and_nothing_else_suffers() -> None:
    c = core()
    c.apply("Node", None, node("a", 4))
    c.apply("Pod", None, pod("wrong", limits={"aliyun.com/gpu-core.percentage": "30"}))
    c.apply("Pod", None, pod("right"))
    done = c.decide(0)
    assert binds(done) == {"right": "a"}
    assert [one.pod.name for one in done if isinstance(one, Tell)] == ["wrong"]


def test_a_gang_flies_whole_and_the_rest_is_called_back_when_one_fails() -> None:
    c = core()
    c.apply("Node", None, node("a", 4))
    pods = [pod(f"g{n}", gang=("g", 4)) for n in range(4)]
    for one in pods[:3]:
        c.apply("Pod", None, one)
    assert not binds(c.decide(0))
    c.apply("Pod", None, pods[3])
    done = [one for one in c.decide(0) if isinstance(one, Bind)]
    assert len(done) == 4
    assert c.books.cluster.free[0, 0] == 0
    c.outcome(Outcome(done[0].number, "g0", "bound"), 1)
    c.outcome(Outcome(done[1].number, "g1", "failed", "the server said no"), 1)
    more = c.decide(1)
    assert [one for one in more if isinstance(one, Cancel)] == [Cancel((done[2].number, done[3].number))]
    assert not binds(more)
    for one in done[2:]:
        c.outcome(Outcome(one.number, one.pod.uid, "withheld"), 1)
    c.apply("Pod", pods[0], bound(pods[0], "a"))
    assert sorted(binds(c.decide(5))) == ["g1", "g2", "g3"]  # one runs, three are still asked for


def test_two_shares_of_a_card_are_never_more_than_the_card() -> None:
    c = core()
    c.apply("Node", None, node("a", 16, **{"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"}))
    for n in range(5):
        c.apply("Pod", None, pod(f"p{n}", limits={"aliyun.com/gpu-mem": "8"}))
    done = c.decide(0)
    assert len(binds(done)) == 2
    cards = [one.annotations["ALIYUN_COM_GPU_MEM_IDX"] for one in done if isinstance(one, Bind)]
    assert sorted(cards) == ["0", "1"]
    used = c.books.devices.used("a")
    assert {use.memory >> 30 for use in used.values()} == {8}


def test_preemption_asks_once_and_waits() -> None:
    c = core()
    c.apply("Node", None, node("a", 2))
    low = [bound(pod(f"l{n}", priority=1), "a") for n in range(2)]
    for one in low:
        c.apply("Pod", None, one)
    c.apply("Pod", None, pod("high", 1, priority=9))
    done = c.decide(0)
    victims = [one.pod.name for one in done if isinstance(one, Delete)]
    assert len(victims) == 1
    assert [one.nominated for one in done if isinstance(one, Tell)] == ["a"]
    c.apply("Node", None, node("tiny", 0))  # a change: it is tried again, and nobody else is asked to go
    assert not [one for one in c.decide(20) if isinstance(one, Delete)]
    assert "waits until the pods that make room for it are gone" in c.queue.jobs["high"].reason
    c.apply("Pod", None, pod("sneaky", 1, priority=1))
    victim = next(one for one in low if one.metadata.name == victims[0])
    c.apply("Pod", victim, None)
    done = c.decide(100)
    assert binds(done) == {"high": "a"}  # the place was held


def free_is_what_pods_leave(c: Core, nodes: dict[str, int], there: dict[str, Pod]) -> None:
    """In whole cores: what is bound, and what is in flight, and nothing else."""
    flying = {flight.pod.metadata.uid: flight.node for flight in c.flights}
    for name, cpu in nodes.items():
        asked = sum(int(p.spec.containers[0].resources.requests["cpu"]) for p in there.values() if p.spec.node_name == name)
        asked += sum(
            int(there[uid].spec.containers[0].resources.requests["cpu"])
            for uid, where in flying.items()
            if where == name and uid in there and not there[uid].spec.node_name
        )
        row = c.books.cluster.row_of[name]
        assert c.books.cluster.free[row, 0] == 1000 * (cpu - asked), name
        assert c.books.cluster.free[row, 0] >= 0


@pytest.mark.parametrize("seed", range(30))
def test_random_days(seed: int) -> None:
    """Pods and gangs come and go, bindings go well, fail, are refused or lost; watches lag. The books always equal the world."""
    rng = random.Random(seed)
    c = core(preemption=False)
    nodes = {f"n{n}": rng.randrange(2, 9) for n in range(4)}
    for name, cpu in nodes.items():
        c.apply("Node", None, node(name, cpu))
    there, sent = dict[str, Pod](), list[Bind]()
    now = 0.0
    for step in range(150):
        now += rng.random()
        what = rng.random()
        if what < 0.25:
            one = pod(f"p{step}", rng.randrange(1, 4), priority=rng.randrange(3))
            there[one.metadata.uid] = one
            c.apply("Pod", None, one)
        elif what < 0.4:
            size = rng.randrange(2, 5)
            for n in range(size):
                one = pod(f"g{step}-{n}", rng.randrange(1, 3), gang=(f"g{step}", size))
                there[one.metadata.uid] = one
                c.apply("Pod", None, one)
        elif what < 0.6 and there:
            one = there.pop(rng.choice(sorted(there)))
            c.apply("Pod", one, None)
        elif sent:
            bind = sent.pop(rng.randrange(len(sent)))
            results: list[Result] = ["bound", "bound", "bound", "failed", "refused", "withheld"]
            result = rng.choice(results) if bind.pod.uid in there else "gone"
            c.outcome(Outcome(bind.number, bind.pod.uid, result), now)
            if result == "bound":
                old = there[bind.pod.uid]
                there[bind.pod.uid] = bound(old, bind.node)
                c.apply("Pod", old, there[bind.pod.uid])
        done = c.decide(now)
        fresh = [one for one in done if isinstance(one, Bind)]
        for gang in {one.gang for one in fresh if one.gang}:
            members = [p for p in there.values() if p.metadata.labels.get(GANG) == gang.rpartition("/")[2]]
            minimum = int(members[0].metadata.labels[MINIMUM])
            flying = sum(one.gang == gang for one in c.flights)
            assert flying + sum(bool(p.spec.node_name) for p in members) >= minimum
        sent += fresh
        free_is_what_pods_leave(c, nodes, there)
    for bind in sent:
        c.outcome(Outcome(bind.number, bind.pod.uid, "withheld"), now)
    for one in there.values():
        c.apply("Pod", one, None)
    c.decide(now)
    assert not len(c.flights)
    assert not len(c.queue)
    assert not c.books.cluster.pods
    assert not c.books.quotas.ledger.charges
    free_is_what_pods_leave(c, nodes, {})


@pytest.mark.parametrize("repair", [0.5, 12.0, 60.0])
def test_a_gang_bound_in_part_is_told_in_time_though_nothing_else_happens(repair: float) -> None:
    c = core(gangs=Gangs(repair_seconds=repair, partial="Delete"))
    c.apply("Node", None, node("a", 1))
    c.apply("Pod", None, bound(pod("one", gang=("g", 2)), "a"))
    c.apply("Pod", None, pod("two", gang=("g", 2)))
    now: float | None = 0.0
    while now is not None and now < 100.0:
        deleted = [one.pod.name for one in c.decide(now) if isinstance(one, Delete)]
        if deleted:
            break
        now = c.queue.next_at(now)  # as the process does: it sleeps until then
    assert deleted == ["one"]
    assert now is not None
    assert repair <= now <= repair + 6.0


def test_what_is_kept_by_what_pods_ask_goes_with_them() -> None:
    """Amounts, names of containers and cards have no end: 40 kinds of pods that are gone are forgotten, not 40 forever."""
    c = core(preemption=False)
    c.apply("Node", None, node("a", 64, **{"aliyun.com/gpu-mem": "64", "aliyun.com/gpu-count": "2"}))
    cluster = c.books.cluster
    for n in range(40):
        one = pod(f"p{n}", n + 1, limits={"aliyun.com/gpu-mem": str(n % 30 + 1)})
        c.apply("Pod", None, one)
        c.decide(n)
        c.apply("Pod", one, None)
    assert cluster.devices is not None
    kept = [cluster._limits, cluster._least, cluster.devices._asked, cluster.devices._typical]
    assert all(len(one) >= 30 for one in kept)
    c.apply("Pod", None, pod("stays", 65))
    c.decide(1000)  # after more than SWEEP
    assert [len(one) <= 1 for one in kept] == [True] * 4, [len(one) for one in kept]
    assert c.queue.jobs
