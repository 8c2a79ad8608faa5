"""Wishes that nodes load ahead: for whom, where, and when they are taken back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from livekit import JOB, T0, World, bound, gang, node, pod

from forebay.api.hints import LOAD_ON
from forebay.api.storagev1 import BIND_COMPLETED, PersistentVolume, PersistentVolumeClaim
from forebay.scheduler.live.config import Configuration, Locality
from forebay.scheduler.live.copies import DatasetHints, NodeCache
from forebay.scheduler.live.instructions import Bind, Load

GB = 10**9
CLAIM = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "lake"}}]}


class Lake(World):
    """Two nodes with workers of `n/lake` (100 GB, held nowhere), one without."""

    def __init__(self, **settings: Any) -> None:
        super().__init__({"a": 4, "b": 4, "c": 4}, **settings)
        self.hints: DatasetHints | None = None
        self.wrote: list[Load] = []
        volume = {"metadata": {"name": "n-lake"}, "spec": {"accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"}}}
        claim = {"volumeName": "n-lake", "accessModes": ["ReadOnlyMany"], "storageClassName": ""}
        self.core.apply("PersistentVolume", None, msgspec.convert(volume, PersistentVolume))
        meta = {"namespace": "n", "name": "lake", "annotations": {BIND_COMPLETED: "yes"}}
        made = {"metadata": meta, "spec": claim, "status": {"phase": "Bound"}}
        self.core.apply("PersistentVolumeClaim", None, msgspec.convert(made, PersistentVolumeClaim))
        for name in ("a", "b"):
            self.says(name, 0)
        self.hinted("")

    def moment(self) -> str:
        return datetime.fromtimestamp(T0 + self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def says(self, name: str, held: int) -> None:
        """The NodeCache of a node whose worker serves the dataset."""
        worker = {"ownedBytes": held * GB, "capacityBytes": 1000 * GB, "totalBytes": 100 * GB, "listed": True}
        tiers = [{"medium": "SSD", "bytes": held * GB}]
        lake = {"namespace": "n", "name": "lake", "role": "Owner", "tiers": tiers, "worker": worker}
        totals = {"cachedBytes": 0, "capacityBytes": 0, "cached": "", "capacity": "", "datasetCount": 1}
        status = {"observedTime": self.moment(), "tiers": [], **totals, "datasets": [lake]}
        self.core.apply("NodeCache", None, msgspec.convert({"metadata": {"name": name}, "status": status}, NodeCache))

    def hinted(self, nodes: str) -> None:
        """The DatasetHints, with what stands on it."""
        meta = {"namespace": "n", "name": "lake", "annotations": {LOAD_ON: nodes} if nodes else {}}
        totals = {"totalBytes": 100 * GB, "cachedBytes": 0, "total": "", "cached": "", "cachedPercent": 0, "nodeCount": 0}
        status = {"observedTime": self.moment(), **totals}
        old, self.hints = self.hints, msgspec.convert({"metadata": meta, "status": status}, DatasetHints)
        self.core.apply("DatasetHints", old, self.hints)

    def wishes(self, after: float = 6.0) -> list[str]:
        """What is written now."""
        self.now += after
        for one in self.core.decide(self.now):
            if isinstance(one, Load):
                self.wrote.append(one)
            elif isinstance(one, Bind):
                old = self.pods[one.pod.uid]
                self.pods[one.pod.uid] = bound(old, one.node)
                self.core.apply("Pod", old, self.pods[one.pod.uid])
        found, self.wrote = self.wrote, []
        assert all((one.namespace, one.name) == ("n", "lake") for one in found)
        return [one.nodes for one in found]


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
