"""Places that are held: nobody starves, others pass where they delay nobody, and what is held is given back."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from livekit import JOB, T0, World, aged, bound, ending, gang, node, pod

from forebay.api.kubernetes.batch import Job as BatchJob
from forebay.api.kubernetes.core import Node, Pod
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.instructions import Report


def test_nobody_passes_what_is_first() -> None:
    w = World({"a": 4, "b": 4})
    for n in range(4):
        w.arrive(bound(pod(f"old{n}", **JOB), "a"))
    w.arrive(*gang("big", 8))
    w.arrive(aged(pod("small", **JOB), 60))
    assert w.decide() == {}
    assert w.reason("big0").endswith("it is reserved on a, b, nobody knows when what runs there ends")
    assert w.reason("small") == (
        "0 of 2 nodes: 1 held for gang n/big, 1 too little free cpu; 1 node lacks nothing else: wait until that has started"
    )
    for n in range(4):
        w.end(f"old{n}")
        w.now += 20
        started = w.decide()
        assert (n < 3) == (started == {}), started
    assert sorted(started) == [f"big{n}" for n in range(8)]
    (holder,) = w.core.keeping.nodes.holders.values()
    assert holder.who == "pod n/small"  # the next that finds no room


def test_what_is_left_over_may_be_used() -> None:
    w = World({"a": 4, "b": 4})
    for n in range(3):
        w.arrive(bound(pod(f"old{n}", **JOB), "a"))
    w.arrive(*gang("big", 5))  # 5 of the 8 that there are; 3 are over when all has ended
    w.arrive(aged(pod("small", **JOB), 60), aged(pod("more", **JOB), 61))
    done = w.decide()
    assert sorted(done) == [f"big{n}" for n in range(5)]  # it fits at once
    w = World({"a": 4, "b": 6})
    for n in range(4):
        w.arrive(bound(pod(f"old{n}", **JOB), "a"))
    w.arrive(*gang("big", 2, 4))  # one on a, one on b
    w.arrive(*(aged(pod(f"small{n}", **JOB), 60) for n in range(3)))
    assert w.decide() == {"small0": "b", "small1": "b"}
    assert w.decide() == {}
    for n in range(4):
        w.end(f"old{n}")
    w.now += 20
    assert sorted(w.decide()) == ["big0", "big1"]


def test_who_ends_in_time_may_pass() -> None:
    w = World({"a": 4})
    w.arrive(bound(pod("old", 2, activeDeadlineSeconds=600, **JOB), "a"))
    w.arrive(pod("big", 4, **JOB))
    w.arrive(aged(pod("short", activeDeadlineSeconds=500, **JOB), 60))
    w.arrive(aged(pod("long", activeDeadlineSeconds=700, **JOB), 61), aged(pod("endless", **JOB), 62))
    assert w.decide() == {"short": "a"}
    assert "it is reserved on a, free by 2026-01-01T00:10:00Z by the deadlines of what runs there" in w.reason("big")
    assert "held for pod n/big" in w.reason("long")
    assert "held for pod n/big" in w.reason("endless")
    w.now = 605.0  # both have overrun: nothing starts any more on what it needs
    w.arrive(aged(pod("late", activeDeadlineSeconds=1, **JOB), 606))
    assert w.decide() == {}
    w.end("old")
    w.end("short")
    w.now = 700.0
    assert w.decide() == {"big": "a"}


def test_what_runs_for_ever_is_not_waited_for() -> None:
    w = World({"a": 4})
    w.arrive(bound(pod("service"), "a"))
    w.arrive(pod("big", 4, **JOB), aged(pod("small", **JOB), 60))
    assert w.decide() == {"small": "a"}
    assert not w.core.keeping.nodes.holders
    assert "held" not in w.reason("big")
    w.core.apply("Pod", w.pods["service"], ending(w.pods["service"]))  # somebody deletes it
    w.now += 60.0
    w.decide()
    assert "it is reserved on a" in w.reason("big")


def test_whoever_goes_before_takes_the_place() -> None:
    w = World({"a": 4})
    w.arrive(bound(pod("old", 2, **JOB), "a"))
    w.arrive(pod("big", 4, **JOB))
    w.decide()
    w.now += 10
    w.arrive(pod("urgent", priority=5, **JOB), pod("urgent-big", 3, priority=4, **JOB))
    assert w.decide() == {"urgent": "a"}
    (holder,) = w.core.keeping.nodes.holders.values()
    assert holder.who == "pod n/urgent-big"
    assert "reserved" in w.reason("urgent-big")


def test_a_place_that_is_lost_is_looked_for_anew() -> None:
    w = World({"a": 4, "b": 4})
    w.arrive(bound(pod("one", **JOB), "a"), bound(pod("two", 2, **JOB), "b"))
    w.arrive(pod("big", 4, **JOB))
    w.decide()
    assert "reserved on a," in w.reason("big")
    w.core.apply("Node", node("a", 4), None)
    w.now += 20
    w.decide()
    assert "reserved on b," in w.reason("big")


def test_it_can_be_turned_off_and_what_is_held_is_given_back_when_its_job_goes() -> None:
    w = World({"a": 4}, reservations=False)
    w.arrive(bound(pod("old", 2, **JOB), "a"))
    w.arrive(pod("big", 4, **JOB), aged(pod("small", **JOB), 60))
    assert w.decide() == {"small": "a"}
    w.core.configure(Configuration(preemption=False))
    w.now += 20
    w.arrive(aged(pod("next", **JOB), 70))
    assert w.decide() == {}
    w.end("big")
    w.now += 20
    assert w.decide() == {"next": "a"}


def test_a_gang_larger_than_the_cluster_is_told_so_at_once() -> None:
    w = World({"a": 4, "b": 4})
    w.arrive(bound(pod("old", **JOB), "a"))
    w.arrive(*gang("huge", 9), aged(pod("small", **JOB), 60))
    assert w.decide() == {"small": "b"} or w.started.keys() == {"small"}
    assert w.reason("huge0") == (
        "gang n/huge needs 9 pods at once and the empty cluster has room for 8: add nodes, or make the gang smaller"
    )


def test_a_gangs_own_time_is_told_once() -> None:
    w = World({"a": 4})
    w.core.apply("Group:PodGroup.scheduling.x-k8s.io", None, {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "metadata": {"namespace": "n", "name": "g", "uid": "u"},
        "spec": {"minMember": 2, "scheduleTimeoutSeconds": 90},
    })  # fmt: skip
    w.arrive(bound(pod("service"), "a"))
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
    for n in range(2):
        one = pod(f"g{n}", 3, **JOB)
        w.arrive(msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, labels=labels)))
    said = list[Report]()
    for _ in range(40):
        said += [one for one in w.core.decide(w.now) if isinstance(one, Report)]
        w.now += 5.0
    assert [(one.kind, one.name, one.reason) for one in said] == [("PodGroup", "g", "GangTimeout")]
    assert said[0].sentence.startswith("gang n/g has waited longer than the 90 s that it set: ")


TREE = {
    "apiVersion": "scheduling.sigs.k8s.io/v1beta1", "kind": "ElasticQuotaTree",
    "metadata": {"namespace": "kube-system", "name": "tree", "uid": "tree"},
    "spec": {"root": {"name": "root", "min": {"cpu": "8"}, "max": {"cpu": "8"}, "children": [
        {"name": "mine", "min": {"cpu": "1"}, "max": {"cpu": "4"}, "namespaces": ["n"]}]}},
}  # fmt: skip


def test_a_queue_is_kept_for_the_first_job_that_its_max_keeps_waiting() -> None:
    w = World({"a": 8})
    w.core.apply("Quota", None, TREE)
    w.arrive(bound(pod("old", 2, **JOB), "a"))
    w.arrive(pod("big", 4, **JOB), aged(pod("small", **JOB), 60))
    assert w.decide() == {}
    assert w.reason("small") == 'queue "mine" is reserved for pod n/big, which its max keeps waiting: wait until that has started'
    w.end("old")
    w.now += 20
    assert w.decide() == {"big": "a"}
    w.end("big")
    w.now += 20
    assert w.decide() == {"small": "a"}


# --- over days ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("deadlines", [False, True])
def test_no_gang_starves_and_the_cluster_stays_in_use(seed: int, deadlines: bool) -> None:
    """48 cores. Small pods of 1 or 2 cores for 50 to 300 s, so many that they never run out; gangs of up to all of it."""
    rng = random.Random(seed)
    cpu, count = 8, 6
    w = World({f"n{n}": cpu for n in range(count)})
    ends: list[tuple[float, str]] = []
    lasts: dict[str, float] = {}
    gangs: dict[str, tuple[float, list[str]]] = {}
    busy, number, horizon = 0.0, 0, 3500.0

    def small() -> None:
        nonlocal number
        number += 1
        seconds = rng.uniform(50, 300)
        limit = {"activeDeadlineSeconds": int(seconds) + 1} if deadlines else {}
        one = aged(pod(f"s{number}", rng.choice([1, 1, 2]), **JOB, **limit), min(w.now, 3599))
        lasts[one.metadata.uid] = seconds
        w.arrive(one)

    while w.now < horizon:
        while sum(not p.spec.node_name for p in w.pods.values() if p.metadata.uid.startswith("s")) < 12:
            small()
        if w.now > 100 and rng.random() < 0.01:
            number += 1
            size, each = rng.choice([(6, 8), (12, 4), (4, 8), (24, 2)])
            members = gang(f"g{number}-", size, each, min(w.now, 3599))
            gangs[f"g{number}"] = w.now, [one.metadata.uid for one in members]
            lasts.update({one.metadata.uid: 120.0 for one in members})
            w.arrive(*members)
        for uid in (name for name in w.decide()):
            heapq.heappush(ends, (w.now + lasts[uid], uid))
        step = 5.0
        used = sum(int(p.spec.containers[0].resources.requests["cpu"]) for p in w.pods.values() if p.spec.node_name)
        busy += step * used
        w.now += step
        while ends and ends[0][0] <= w.now:
            w.end(heapq.heappop(ends)[1])
    assert len(gangs) > 2
    began = {name: [w.started.get(uid) for uid in uids] for name, (_, uids) in gangs.items()}
    assert all(len(set(times)) == 1 for times in began.values())  # whole
    # each waits at most for those before it: 300 s until small pods older than it have started, 300 s for the last small pod to
    # end, 120 s for the gang before it, and back-offs
    queue = 0.0
    for name, (came, _) in gangs.items():
        queue = max(queue, came) + 300.0 + 300.0 + 120.0 + 30.0
        start = began[name][0]
        assert start is not None or queue > horizon, name
        assert start is None or start <= queue, (name, came, start)
    assert busy / (horizon * cpu * count) > 0.6, busy / (horizon * cpu * count)


def pooled(name: str, cpu: int, pool: str) -> Node:
    made = node(name, cpu)
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, labels={"pool": pool}))


def two_pools() -> World:
    """One node of 4 cores in each pool, half full of pods that end some time."""
    w = World({})
    for pool in ("x", "y"):
        w.core.apply("Node", None, pooled(pool, 4, pool))
        w.arrive(bound(pod(f"old-{pool}", 2, **JOB), pool))
    return w


def in_pool(pool: str) -> dict[str, Any]:
    return {**JOB, "nodeSelector": {"pool": pool}}


def test_the_first_of_each_pool_of_nodes_is_held_a_place() -> None:
    """What waits for nodes that nobody before it could use is not passed for ever because somebody waits elsewhere."""
    w = two_pools()
    w.arrive(pod("big-x", 4, **in_pool("x")), aged(pod("big-y", 4, **in_pool("y")), 1))
    for _ in range(3):  # one search a second
        w.decide()
        w.now += 2.0
    assert w.reason("big-x").endswith("it is reserved on x, nobody knows when what runs there ends")
    assert w.reason("big-y").endswith("it is reserved on y, nobody knows when what runs there ends")
    w.arrive(*(aged(pod(f"small-{pool}", 1, **in_pool(pool)), 60) for pool in ("x", "y")), aged(pod("any", 1, **JOB), 61))
    assert w.decide() == {}
    assert "held for pod n/big-x" in w.reason("any")
    assert "held for pod n/big-y" in w.reason("any")
    w.end("old-y")
    w.now += 30.0
    assert w.decide() == {"big-y": "y"}
    assert [one.who for one in w.core.keeping.nodes.holders.values()] == ["pod n/big-x", "pod n/small-y"]


def test_who_could_use_what_is_held_waits_behind_it_and_holds_nothing() -> None:
    w = two_pools()
    w.arrive(pod("big-x", 4, **in_pool("x")), aged(pod("big-any", 4, **JOB), 1))
    for _ in range(3):
        w.decide()
        w.now += 30.0
    assert "reserved" in w.reason("big-x")
    assert "reserved" not in w.reason("big-any")
    assert len(w.core.keeping.nodes.holders) == 1


def test_who_goes_before_takes_only_places_that_stand_in_its_way() -> None:
    w = two_pools()
    w.arrive(pod("big-x", 4, **in_pool("x")), aged(pod("big-y", 4, **in_pool("y")), 1))
    for _ in range(3):
        w.decide()
        w.now += 2.0
    w.arrive(aged(pod("urgent", 4, priority=5, **in_pool("x")), 60))
    for _ in range(3):
        w.decide()
        w.now += 2.0
    assert sorted(one.who for one in w.core.keeping.nodes.holders.values()) == ["pod n/big-y", "pod n/urgent"]


def job_of(name: str, seconds: int | None, started: str = "2026-01-01T00:00:00Z") -> BatchJob:
    spec = {} if seconds is None else {"activeDeadlineSeconds": seconds}
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": {"startTime": started}}, BatchJob
    )


def owned(one: Pod, name: str) -> Pod:
    labels = {**one.metadata.labels, "batch.kubernetes.io/controller-uid": name}
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, labels=labels))


def test_the_deadline_of_a_job_says_when_its_pods_end() -> None:
    """`activeDeadlineSeconds` of a Job stands in none of its pods; it counts from the Job's own start."""
    w = World({"a": 4})
    w.core.apply("Job", None, job_of("old", 600))
    w.core.apply("Job", None, job_of("quick", 300))
    w.core.apply("Job", None, job_of("slow", 3600))
    w.arrive(owned(bound(pod("old", 2, **JOB), "a"), "old"))
    w.arrive(pod("big", 4, **JOB))
    assert w.decide() == {}
    assert w.reason("big").endswith("it is reserved on a, free by 2026-01-01T00:10:00Z by the deadlines of what runs there")
    w.arrive(owned(aged(pod("slow", **JOB), 60), "slow"), owned(aged(pod("quick", **JOB), 61), "quick"))
    assert w.decide() == {"quick": "a"}  # it is over before
    w.core.apply("Job", job_of("slow", 3600), job_of("slow", 500))
    w.now += 20
    assert w.decide() == {"slow": "a"}
    w.core.apply("Job", job_of("old", 600), None)
    assert w.core.keeping.ends.of(w.pods["old"], "", T0) == math.inf


def test_a_deadline_that_is_learned_later_is_told_and_lets_others_pass() -> None:
    """The pod of a Job may be seen, bound and waited for before its Job has a start."""
    w = World({"a": 4, "b": 4})
    w.arrive(owned(bound(pod("old", 2, **JOB), "a"), "old"), bound(pod("other", 4, **JOB), "b"))
    w.arrive(pod("big", 4, **JOB))
    assert w.decide() == {}
    assert w.reason("big").endswith("it is reserved on a, nobody knows when what runs there ends")
    w.core.apply("Job", None, job_of("old", 600))
    w.arrive(aged(pod("long", activeDeadlineSeconds=700, **JOB), 60), aged(pod("short", activeDeadlineSeconds=300, **JOB), 61))
    w.now += 20
    assert w.decide() == {"short": "a"}
    assert w.reason("big").endswith("it is reserved on a, free by 2026-01-01T00:10:00Z by the deadlines of what runs there")
    w.core.apply("Job", job_of("old", 600), job_of("old", 6000))
    w.now += 20
    assert w.decide() == {}
    assert "free by 2026-01-01T00:10:00Z" in w.reason("big"), "what was promised never moves later"


def test_who_waits_to_be_looked_at_keeps_its_back_off_and_the_first_is_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one search a second; all who found no room were tried anew for it each second, 40 times a minute."""
    w = World({"a": 4})
    tried, try_ = Counter[str](), w.core._try
    monkeypatch.setattr(w.core, "_try", lambda job, now: (tried.update(list(job.pods)), try_(job, now)))
    w.arrive(*(pod(f"p{n}", nodeSelector={"pool": "none"}) for n in range(50)))
    while w.now < 20:
        w.decide()
        w.now += 0.25
    assert max(tried.values()) <= 3, tried.most_common(3)
    w.arrive(pod("urgent", nodeSelector={"pool": "none"}, priority=5))
    while w.now < 23:
        w.decide()
        w.now += 0.25
    assert "urgent" in w.core.keeping.nodes.in_vain  # before most of the others
    assert len(w.core.keeping.nodes.in_vain) < 30


def test_a_clock_that_is_set_back_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are held, and hints believed, by the time of day; for the hour that it went back nobody was held a place."""
    w = World({"a": 4, "b": 4})
    w.run("old", "a")
    w.arrive(*gang("big", 8), pod("never", 9))
    for _ in range(3):
        w.decide()
        w.now += 2
    assert list(w.core.keeping.nodes.holders) == ["gang n/big"]
    assert list(w.core.keeping.nodes.in_vain) == ["never"]
    monkeypatch.setattr(w.core, "_time_ns", lambda: int((T0 + w.now - 3600) * 1e9))
    for n in range(8):
        w.end(f"big{n}")
    w.arrive(*gang("next", 8))
    for _ in range(20):
        w.now += 2
        w.decide()
    assert list(w.core.keeping.nodes.holders) == ["gang n/next"]
    assert T0 + w.now - 3600 - w.core.keeping.nodes.in_vain["never"] < 60
