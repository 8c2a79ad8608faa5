"""Gangs that fit and wait all the same: for a load, for room near their data, for their turn at the store; and all of it ends."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from datakit import CLAIM, Lake, claim
from livekit import JOB, T0, aged, bound, gang, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.fuse.csi.hints.pacing import BUDGET, SPREAD
from forebay.scheduler.live.config import Configuration, Locality
from forebay.scheduler.live.copies import NodeCache
from forebay.scheduler.live.instructions import Tell
from forebay.scheduler.live.questions.when import when
from forebay.scheduler.locality.waiting import STALL, stall


def steps(lake: Lake, until: float, every: float = 1.0) -> dict[str, str]:
    """Passes until something starts."""
    while lake.now < until:
        if started := lake.decide():
            return started
        lake.now += every
    return {}


def train(size: int = 4, seconds: float = 0.0, dataset: str = "lake", name: str = "big") -> list[Pod]:
    """A gang that takes a node."""
    return gang(name, size, seconds=seconds, **claim(dataset))


# --- a load that runs ---


def test_it_waits_for_a_load_where_it_could_start_and_starts_there() -> None:
    lake = Lake()
    lake.says("b", 60, eta=40)
    lake.arrive(*train())
    assert lake.decide() == {}
    assert lake.reason("big0") == (
        "its data n/lake is loaded on b, 40 s left; starting now costs 32 s, so it waits for that until 2026-01-01T00:00:32Z "
        "at the latest"
    )
    started = steps(lake, 60)
    assert set(started.values()) == {"b"}
    # it has waited as long as the rest costs then: at most twice the better choice, however long the load would have taken
    assert 16 <= lake.now <= 22


def test_it_starts_at_once_when_the_load_is_done() -> None:
    lake = Lake()
    lake.says("b", 60, eta=40)
    lake.arrive(*train())
    assert steps(lake, 10) == {}
    lake.says("b", 100)
    assert set(steps(lake, 16).values()) == {"b"}


def test_a_load_that_takes_longer_than_going_is_not_waited_for() -> None:
    lake = Lake()
    lake.says("b", 90, eta=500)  # what is missing comes sooner by reading it
    lake.arrive(*train())
    assert set(lake.decide().values()) == {"b"}


def test_a_wait_costs_no_more_than_going() -> None:
    lake = Lake()
    lake.says("b", 97, eta=3)
    lake.arrive(*train())
    steps(lake, 20)
    assert lake.started["big0"] <= 3.0 + 1.0


def test_a_load_of_a_part_or_of_a_share_is_not_waited_for() -> None:
    lake = Lake()
    lake.says("b", 30, eta=20, remaining=20)
    lake.arrive(*train())
    assert set(lake.decide().values()) == {"b"}  # where most of it is


def test_a_load_that_the_store_gives_nothing_for_is_not_waited_for() -> None:
    lake = Lake()
    lake.says("b", 60, eta=40)
    lake.caches["b"]["lake"]["worker"]["trouble"] = "connection refused"
    lake.says("b", 60, "other")  # told anew
    lake.arrive(*train())
    assert set(lake.decide().values()) == {"b"}


def test_what_nobody_holds_yet_and_a_node_loads_draws_its_gang_there() -> None:
    lake = Lake()
    lake.says("b", 0, eta=100)
    lake.arrive(*train())
    assert lake.decide() == {}
    assert lake.reason("big0").startswith("its data n/lake is loaded on b, 100 s left; starting now costs 100 s")
    assert set(steps(lake, 120).values()) == {"b"}
    assert 50 <= lake.now <= 56


def test_where_a_load_runs_and_there_is_no_room_both_are_said() -> None:
    lake = Lake()
    lake.arrive(bound(pod("old", 4, **JOB), "b"))
    lake.says("b", 60, eta=40)
    lake.arrive(*train())
    assert lake.decide() == {}
    reason = lake.reason("big0")
    assert reason.startswith(
        "its data n/lake is on b (55.88GiB, and loaded there, 40 s left) of 93.13GiB, where there is no room"
    )
    lake.end("old")
    lake.says("b", 100)
    assert set(steps(lake, 10).values()) == {"b"}


@pytest.mark.parametrize("end", ["late", "silent", "gone", "node gone", "switched off"])
def test_a_load_that_ends_in_nothing_lets_it_go(end: str) -> None:
    rates = {"store_bytes_per_second": 10**8, "node_bytes_per_second": 10**8}
    lake = Lake(locality=Locality(**rates))
    lake.says("b", 60, eta=40 if end == "late" else 300)
    lake.arrive(*train())  # 40 GB at 0.1 GB/s, 400 s: it waits for 300 s of a load
    assert lake.decide() == {}
    if end == "silent":
        assert steps(lake, 119, 5.0) == {}
        assert set(steps(lake, 130).values())  # the hint is none any more; its data is nowhere
        return
    if end == "gone":
        lake.says("b", 60)
    elif end == "node gone":
        lake.core.apply("Node", node("b", 4), None)
    elif end == "switched off":
        lake.core.configure(Configuration(preemption=False, locality=Locality(wait=False)))
    assert len(steps(lake, 50 if end == "late" else 7)) == 4


def test_a_lie_that_is_told_again_and_again_costs_what_it_says_and_no_more() -> None:
    lake = Lake()
    lake.arrive(*train())
    while "big0" not in lake.started and lake.now < 1000:
        lake.says("b", 10, eta=50)  # always 50 s more
        lake.decide()
        lake.now += 5.0
    assert lake.started["big0"] <= 60.0


def test_nothing_is_waited_for_longer_than_is_set() -> None:
    lake = Lake(locality=Locality(longest_wait_seconds=30.0))
    lake.arrive(*train())
    while "big0" not in lake.started and lake.now < 1000:
        lake.says("b", 10, eta=70)
        lake.decide()
        lake.now += 5.0
    assert lake.started["big0"] <= 35.0


def test_its_wait_began_when_it_was_made_whoever_schedules() -> None:
    lake = Lake()
    lake.now = 30.0
    lake.says("b", 60, eta=40)
    lake.arrive(*train(seconds=10.0))  # by a run that died; it is 20 s old
    assert lake.decide() == {}
    assert set(steps(lake, 45).values()) == {"b"}
    assert 40 <= lake.now <= 46  # 30 s old, 30 s left


def test_a_wall_clock_that_stands_before_its_pods_does_not_hold_them() -> None:
    lake = Lake()
    lake.core._time_ns = lambda: int(T0 * 1e9)  # days behind: no pod ever gets older
    lake.says("b", 60, eta=40)
    lake.arrive(*train(seconds=3000.0))
    assert set(steps(lake, 60).values()) == {"b"}


def test_what_is_said_is_said_once_while_it_holds() -> None:
    lake = Lake()
    lake.says("b", 60, eta=40)
    lake.arrive(*train())
    told = list[Tell]()
    while "big0" not in lake.started:
        done = lake.core.decide(lake.now)
        told += [one for one in done if isinstance(one, Tell) and one.pod.name == "big0"]
        if any(not isinstance(one, Tell) for one in done):
            break
        lake.now += 5.0
        assert lake.now < 60.0
    assert len(told) == 1, told


def test_why_says_what_it_waits_for_and_till_when() -> None:
    lake = Lake()
    lake.says("b", 60, eta=40)
    lake.arrive(*train())
    lake.decide()
    job = lake.core.queue.jobs["gang n/big"]
    found = when(lake.core, job, "n/lake", T0 + lake.now)
    assert found.eta_seconds == pytest.approx(32.0)
    assert found.because == "it starts then where its data is loaded, or elsewhere if a place is free there only"
    assert found.loading == {"b": pytest.approx(40.0)}
    lake.end("big0")
    for n in range(1, 4):
        lake.end(f"big{n}")
    lake.now += 200.0
    lake.decide()
    assert lake.core.nearness.awaiting.of == {}


# --- room that is held for it ---


def test_who_waits_for_room_near_its_data_keeps_the_place_that_is_held_there() -> None:
    lake = Lake()
    lake.says("b", 100)
    lake.arrive(bound(pod("service-a", 4), "a"), bound(pod("service-c", 4), "c"), bound(pod("old", 4, **JOB), "b"))
    lake.arrive(*train())
    lake.decide()
    holder = lake.core.keeping.nodes.holders["gang n/big"]
    assert dict(holder.pods) == {"b": 4}
    lake.end("service-c")
    lake.now += 15.0
    assert lake.decide() == {}
    assert "so it waits for room there until" in lake.reason("big0")
    assert lake.core.keeping.nodes.holders == {"gang n/big": holder}
    found = when(lake.core, lake.core.queue.jobs["gang n/big"], "n/lake", T0 + lake.now)
    assert (found.reserved, found.because) == (["b"], "it starts elsewhere then, where a place is free")
    lake.arrive(aged(pod("small", **JOB), 15.0))
    lake.end("old")
    lake.now += 15.0
    assert lake.decide() == {**{f"big{n}": "b" for n in range(4)}, "small": "c"}


def test_who_waits_for_other_room_than_is_held_for_it_holds_nothing() -> None:
    lake = Lake()
    lake.says("a", 100)
    lake.arrive(bound(pod("service-a", 4), "a"), bound(pod("service-c", 4), "c"), bound(pod("old", 4, **JOB), "b"))
    lake.arrive(*train())
    lake.decide()
    holder = lake.core.keeping.nodes.holders["gang n/big"]
    assert dict(holder.pods) == {"b": 4}
    lake.end("service-c")
    lake.now += 15.0
    assert lake.decide() == {}
    assert "its data n/lake is on a" in lake.reason("big0")
    assert lake.core.keeping.nodes.holders == {}


# --- its turn at the store ---


class Store(Lake):
    """Two gangs too large for three nodes wait for x and y, which the nodes a and b are asked to load; 4 cores are free on c."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(("lake", "x", "y"), **settings)
        self.arrive(bound(pod("old-a", 2, **JOB), "a"), bound(pod("old-b", 2, **JOB), "b"))
        for name in ("x", "y"):
            self.arrive(*gang(f"wide-{name}", 4, 4, **claim(name)))
        self.decide()
        self.where = {one.name: one.nodes for one in self.wrote}
        self.share = 0

    def grow(self) -> None:
        """Ten seconds in which a GB comes for each."""
        self.now += 10.0
        self.share += 1
        for name, where in self.where.items():
            self.hinted(where, name)
            self.says(where, self.share, name)

    def loads(self) -> None:
        """Until it is seen that what is asked for comes."""
        for _ in range(3):
            self.grow()
            self.decide()


def test_it_waits_for_its_turn_while_others_are_seen_to_be_loaded_and_then_goes_where_its_load_is() -> None:
    lake = Store()
    assert sorted(lake.where.items()) == [("x", "a"), ("y", "b")] or sorted(lake.where.items()) == [("x", "b"), ("y", "a")]
    lake.loads()
    assert lake.core.nearness.line.loading == ("n/x", "n/y")
    lake.arrive(*train(2, lake.now))
    assert lake.decide() == {}
    assert lake.reason("big0") == (
        "only the store has its data n/lake, and others' data is loaded from there first; reading it now costs 560 s, so it "
        "waits for its turn until 2026-01-01T00:09:50Z at the latest"
    )
    found = when(lake.core, lake.core.queue.jobs["gang n/big"], "n/lake", T0 + lake.now)
    assert found.eta_seconds == pytest.approx(560.0)
    assert found.because == "it starts then where a place is free, and reads from the store itself if nobody loads for it"
    for _ in range(10):
        lake.grow()
        assert lake.decide() == {}
    free = lake.where["x"]
    lake.says(free, 100, "x")  # x is done
    lake.now += 6.0
    assert lake.decide() == {}
    assert [one.nodes for one in lake.wrote if one.name == "lake"] == [free]  # nobody else loads there
    lake.hinted(free)
    lake.now += 6.0
    assert lake.decide() == {}
    assert f"its data n/lake is loaded on {free}, " in lake.reason("big0")  # though no hint says so yet
    lake.says(free, 1, eta=100)
    lake.now += 6.0
    assert set(lake.decide().values()) == {free}  # it has waited for more than that


@pytest.mark.parametrize("lacks", ["orders", "growth", "hints", "workers", "wait", "longest"])
def test_nobody_waits_for_a_turn_that_nobody_gives(lacks: str) -> None:
    locality = {"orders": Locality(orders=False), "wait": Locality(wait=False), "longest": Locality(longest_wait_seconds=0.0)}
    lake = Store(locality=locality.get(lacks, Locality()), workers=("a", "b"))
    for _ in range(3):
        if lacks == "growth":
            lake.now += 10.0
            lake.decide()
        else:
            lake.loads()
    if lacks == "hints":
        lake.core.apply("DatasetHints", lake.hints["lake"], None)
    elif lacks == "workers":
        for name, where in lake.where.items():
            del lake.caches[where]["lake"]
            lake.says(where, lake.share, name)
    lake.now += 6.0
    lake.decide()
    lake.arrive(*train(3, lake.now))
    assert len(lake.decide()) == 3


def test_its_turn_ends_when_no_byte_comes_for_two_minutes() -> None:
    lake = Store()
    lake.loads()
    came = lake.now
    lake.arrive(*train(3, lake.now))
    steps(lake, came + 300.0, 5.0)
    assert "big0" in lake.started
    assert STALL - 5.0 <= lake.now - came <= STALL + 15.0


def plugin(where: str) -> Pod:
    """The pod that publishes what a node holds."""
    made = bound(pod(f"plugin-{where}", 0), where)
    meta = msgspec.structs.replace(made.metadata, namespace="forebay-system", labels={"forebay.io/component": "node"})
    ready = msgspec.convert({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, type(made.status))
    return msgspec.structs.replace(made, metadata=meta, status=ready)


def test_on_a_large_cluster_its_turn_outlasts_the_pauses_of_hints() -> None:
    """Nodes of a cluster of 4,000 tell what they have every 260 s (`csi/hints/pacing.py`); with 120 s nobody waited there."""
    every = SPREAD * 4000 / BUDGET
    assert STALL < every < stall(4000) < every + 30.0
    assert stall(1500) == STALL
    lake = Store()
    lake.loads()
    for n in range(4000):
        lake.core.apply("Node", None, node(f"far{n}", 0))
    lake.arrive(*(plugin(name) for name in ("a", "b")))  # as long as these are ready, what they said holds
    lake.now += 6.0
    lake.decide()
    came = lake.now
    lake.arrive(*train(3, lake.now))
    steps(lake, came + every, 5.0)
    assert "big0" not in lake.started
    steps(lake, came + every + 60.0, 5.0)
    assert "big0" in lake.started  # nothing has come since


def test_its_turn_is_waited_for_no_longer_than_going_costs() -> None:
    rates = {"node_bytes_per_second": 10**11, "store_bytes_per_second": 10**11}
    lake = Store(locality=Locality(**rates))
    lake.loads()
    came = lake.now
    lake.arrive(*train(3, lake.now))
    assert lake.decide() == {}
    assert "reading it now costs 4 s" in lake.reason("big0")
    steps(lake, came + 30.0)
    assert lake.now - came <= 5.0


def test_its_turn_ends_when_it_has_waited_as_long_as_is_set() -> None:
    lake = Store(locality=Locality(longest_wait_seconds=60.0))
    lake.loads()
    came = lake.now
    lake.arrive(*train(3, lake.now))
    while "big0" not in lake.started and lake.now - came < 300.0:
        lake.grow()
        lake.decide()
    assert lake.started["big0"] - came <= 70.0


def test_after_a_restart_it_waits_on_behind_loads_that_are_seen_to_run() -> None:
    lake = Lake(("lake", "x", "y"))
    lake.now = 100.0
    lake.says("a", 10, "x", eta=300)
    lake.says("b", 10, "y", eta=300)
    lake.says("a", 0, "lake")
    lake.hinted("a", "x")
    lake.hinted("b", "y")
    lake.arrive(bound(pod("old-a", 2, **JOB), "a"), bound(pod("old-b", 2, **JOB), "b"))
    for name in ("x", "y"):
        lake.arrive(*gang(f"wide-{name}", 4, 4, **claim(name)))
    lake.arrive(*train(3, 90.0))
    assert lake.decide() == {}
    assert "so it waits for its turn until 2026-01-01T00:10:50Z" in lake.reason("big0")  # 560 s from when it was made
    assert not any(one.name in ("x", "y") for one in lake.wrote)  # their loads go on where they run
    steps(lake, 100.0 + 2 * STALL, 5.0)  # no byte comes
    assert STALL - 5.0 <= lake.now - 100.0 <= STALL + 15.0


# --- a gang of which less than all must start ---


def least(size: int, minimum: int) -> list[Pod]:
    return [pod(f"some{n}", 1, gang=("some", minimum), **JOB, **CLAIM) for n in range(size)]


def test_what_fits_of_a_gang_with_a_smaller_minimum_goes_near_its_data() -> None:
    lake = Lake()
    lake.now = 1000.0  # it has waited long enough for all of it to be near
    lake.says("b", 100)
    lake.arrive(bound(pod("old-a", 2, **JOB), "a"), bound(pod("old-b", 1, **JOB), "b"), bound(pod("old-c", 4, **JOB), "c"))
    lake.arrive(*least(8, 3))
    started = lake.decide()
    assert sorted(started.values()) == ["a", "a", "b", "b", "b"]
    assert lake.reason("some7")
    lake.end("old-b")
    lake.now += 20.0
    assert list(lake.decide().values()) == ["b"]


def test_less_than_its_minimum_does_not_start() -> None:
    lake = Lake()
    lake.says("b", 100)
    lake.arrive(*(bound(pod(f"old-{name}", 3, **JOB), name) for name in "abc"))
    lake.arrive(*least(8, 4))
    assert lake.decide() == {}
    assert "the gang needs 4 pods at once, 3 fit" in lake.reason("some0")


# --- over hours ---


@pytest.mark.parametrize("seed", range(3))
def test_whatever_hints_say_every_gang_starts_in_time(seed: int) -> None:
    """Hints of all kinds, true or not, at random; gangs that would fit never wait for their data longer than is set."""
    rng, longest = random.Random(seed), 90.0
    lake = Lake(("x", "y", "z"), workers=("a", "b", "c"), locality=Locality(longest_wait_seconds=longest))
    born: dict[str, float] = {}
    ends: list[tuple[float, str]] = []
    kinds = set[str]()
    number = 0

    def lie() -> None:
        name, node = rng.choice("xyz"), rng.choice("abc")
        kind = rng.randrange(5)
        if kind == 0 and node in lake.caches:
            lake.caches.pop(node)
            gone = msgspec.convert({"metadata": {"name": node}}, NodeCache)
            lake.core.apply("NodeCache", gone, None)
        elif kind == 1:
            lake.hinted(rng.choice(["", "a", "b", "c", "a,b", "ghost"]), name)
        elif kind == 2:
            held = rng.randrange(100)
            left = rng.choice([0, 50, 100 - held, 100 - held])
            lake.says(node, held, name, eta=rng.choice([0, 1, 20, 60, 10**9]), remaining=left)
        else:
            lake.says(node, rng.choice([0, 1, 50, 100, 10**6]), name)

    while lake.now < 1300.0:
        for _ in range(rng.randrange(3)):
            lie()
        if lake.now < 900.0 and len(born) - len(lake.started) < 10 and rng.random() < 0.3:
            number += 1
            for one in gang(f"g{number}-", rng.choice([1, 2, 3, 4, 6]), 1, lake.now, **claim(rng.choice("xyz"))):
                born[one.metadata.uid] = lake.now
                lake.arrive(one)
        for uid in lake.decide():
            ends.append((lake.now + rng.uniform(20.0, 60.0), uid))
        for name, awaited in lake.core.nearness.awaiting.of.items():
            kinds.add(awaited.what)
            job = lake.core.queue.jobs[f"gang {name}"]
            assert T0 + lake.now - job.since < longest, name
            assert awaited.until <= job.since + longest + 10.0, awaited
        lake.now += 5.0
        for end in [one for one in ends if one[0] <= lake.now]:
            ends.remove(end)
            lake.end(end[1])
    assert kinds >= {"room", "load"}
    assert born.keys() == lake.started.keys()
    assert max(lake.started[uid] - born[uid] for uid in born) <= longest + 300.0
