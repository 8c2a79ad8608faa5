"""Wishes that nodes load ahead: for whom, where, and when they are taken back."""

from __future__ import annotations

from datakit import CLAIM, Lake
from livekit import JOB, bound, gang, node, pod

from forebay.scheduler.live.config import Configuration, Locality


def full(lake: Lake) -> None:
    for name in ("a", "b", "c"):
        lake.arrive(bound(pod(f"old-{name}", 4, **JOB), name))


def test_the_node_that_is_held_for_a_gang_loads_its_data() -> None:
    lake = Lake()
    for name in ("a", "c"):
        lake.arrive(bound(pod(f"service-{name}", 1), name))  # runs for ever: four more never fit there
    lake.arrive(bound(pod("old", 4, **JOB), "b"))
    lake.arrive(*gang("big", 4, **CLAIM))
    lake.says("a", 30)  # which the rules for those without a place would choose
    lake.core.configure(Configuration(preemption=False, locality=Locality(wait=False)))
    lake.arrive(bound(pod("more-a", 3, **JOB), "a"), bound(pod("more-c", 3, **JOB), "c"))
    assert lake.wishes() == ["b"]
    (holder,) = lake.core.keeping.nodes.holders.values()
    assert dict(holder.pods) == {"b": 4}


def test_a_wish_is_written_until_it_is_seen_and_then_no_more() -> None:
    lake = Lake()
    full(lake)
    lake.arrive(*gang("big", 4, **CLAIM))
    assert lake.wishes() == ["a"]  # the reservation is there, and a worker is
    (holder,) = lake.core.keeping.nodes.holders.values()
    assert dict(holder.pods) == {"a": 4}
    assert lake.wishes() == []  # it is on its way
    assert lake.wishes(16.0) == ["a"]  # it got lost
    lake.hinted("a")
    assert lake.wishes() == lake.wishes(20.0) == []
    lake.says("a", 100)
    assert lake.wishes() == [""]  # done


def test_a_node_without_a_worker_is_not_asked() -> None:
    lake = Lake()
    full(lake)
    lake.end("old-c")
    lake.arrive(bound(pod("half", 1, **JOB), "c"))
    lake.arrive(*gang("big", 4, nodeSelector={"x": "y"}, **CLAIM))
    assert lake.wishes() == ["a"]  # it fits nowhere yet; the store alone has its data, and some node may begin
    assert not any("c" in one for one in lake.wishes(20.0))


def test_a_wish_is_taken_back_when_nobody_waits_any_more() -> None:
    lake = Lake()
    full(lake)
    lake.arrive(*gang("big", 4, **CLAIM))
    lake.wishes()
    lake.hinted("a")
    for n in range(4):
        lake.end(f"big{n}")
    assert lake.wishes() == [""]


def test_a_wish_goes_where_the_gang_went() -> None:
    lake = Lake()
    full(lake)
    lake.arrive(*gang("big", 4, **CLAIM))
    assert lake.wishes() == ["a"]
    lake.hinted("a")
    lake.end("old-b")  # sooner than what was expected
    assert lake.wishes(20.0) == [""]
    assert {one.spec.node_name for name, one in lake.pods.items() if name.startswith("big")} == {"b"}


def test_what_loads_where_the_gang_started_goes_on() -> None:
    lake = Lake()
    full(lake)
    lake.arrive(*gang("big", 4, **CLAIM))
    lake.wishes()
    lake.hinted("a")
    lake.says("a", 40)
    lake.end("old-a")
    assert lake.wishes(20.0) == lake.wishes() == []
    assert {one.spec.node_name for name, one in lake.pods.items() if name.startswith("big")} == {"a"}
    lake.says("a", 100)
    assert lake.wishes() == [""]


def test_it_can_be_turned_off_and_nodes_may_vanish() -> None:
    lake = Lake()
    full(lake)
    lake.arrive(*gang("big", 4, **CLAIM))
    assert lake.wishes() == ["a"]
    lake.hinted("a")
    lake.core.apply("Node", node("a", 4), None)
    assert lake.wishes(20.0) == ["b"]
    lake.core.configure(Configuration(preemption=False, locality=Locality(orders=False)))
    lake.hinted("b")
    assert lake.wishes() == [""]


def test_after_a_restart_what_stands_there_is_compared_with_what_is_needed() -> None:
    lake = Lake()
    lake.hinted("a,b,ghost")  # by an earlier run, or by somebody else
    assert lake.wishes() == [""]
    lake = Lake()
    full(lake)
    lake.hinted("b")
    lake.arrive(*gang("big", 4, **CLAIM))
    assert lake.wishes() == ["a"]
