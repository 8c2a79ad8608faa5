"""Where gangs go on a live cluster by what nodes say of their data, true or not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from filterlab import cluster, node, pod

from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus, Served
from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.gang import Gang, Member
from forebay.scheduler.live.config import Locality
from forebay.scheduler.live.nearness import Later, Nearness
from forebay.scheduler.plan import Plan
from forebay.scheduler.pods.request import Request

GB = 10**9
NOW = 1_800_000_000.0
DATA = "team/lake"


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def said(held: int, at: float = NOW, name: str = "lake") -> NodeCacheStatus:
    """A node with GB of the dataset."""
    tiers = [{"medium": "SSD", "bytes": held * GB}]
    dataset = {"namespace": "team", "name": name, "role": "Owner", "tiers": tiers}
    value = {
        "observedTime": moment(at), "tiers": [], "cachedBytes": held * GB, "capacityBytes": 1000 * GB, "cached": "",
        "capacity": "", "datasetCount": 1, "datasets": [dataset],
    }  # fmt: skip
    return msgspec.json.decode(json.dumps(value), type=NodeCacheStatus)


def sized(total: int, at: float = NOW) -> DatasetHintsStatus:
    value = {
        "observedTime": moment(at), "totalBytes": total * GB, "cachedBytes": 0, "total": "", "cached": "", "cachedPercent": 0,
        "nodeCount": 0,
    }  # fmt: skip
    return msgspec.json.decode(json.dumps(value), type=DatasetHintsStatus)


def start(*names: str, cpu: str = "4", **held: int) -> tuple[Cluster, Nearness]:
    """Nodes, and GB of the dataset on them; it has 100."""
    made = cluster([node(name, cpu=cpu) for name in names])
    near = Nearness(made)
    for name, amount in held.items():
        near.set_node(name, said(amount), NOW)
    near.set_hints(DATA, sized(100), NOW)
    return made, near


def gang(made: Cluster, count: int, cpu: str = "1", **more: object) -> Gang:
    request = made.request(pod(requests={"cpu": cpu}, **more))
    return Gang("team/train", [Member(f"p{at}", request) for at in range(count)], count)


def nodes(found: Plan | Later | None) -> list[str]:
    assert isinstance(found, Plan), found
    return sorted(one.node for one in found.placements)


def test_a_gang_goes_to_the_node_that_holds_its_data() -> None:
    made, near = start("a", "b", "c", b=100, c=40)
    assert nodes(near.place(gang(made, 3), DATA, 0.0, NOW)) == ["b", "b", "b"]
    assert int(made.free[made.row_of["b"], made.columns.index("cpu")]) == 1000  # it is placed: three of four cores are taken


def test_a_gang_larger_than_the_warm_node_spreads_from_there() -> None:
    made, near = start("a", "b", "c", b=100, c=90)
    assert nodes(near.place(gang(made, 6), DATA, 1000.0, NOW)) == ["b", "b", "b", "b", "c", "c"]


def test_one_that_is_full_is_waited_for_as_long_as_going_elsewhere_costs() -> None:
    made, near = start("a", "b", b=100)
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) == ["b"] * 4
    later = near.place(gang(made, 4), DATA, 10.0, NOW)
    assert isinstance(later, Later)
    assert later.seconds == pytest.approx(70.0)  # 100 GB at 10 Gb/s, of which 10 s are waited
    assert later.sentence == (
        "its data team/lake is on b (93.13GiB) of 93.13GiB, where there is no room now; starting elsewhere costs "
        "80 s, so it waits for room there until 2027-01-15T08:01:10Z at the latest"
    )
    assert nodes(near.place(gang(made, 4), DATA, 80.0, NOW)) == ["a"] * 4


def test_where_no_waiting_helps_nobody_waits() -> None:
    made, near = start("a", "b", b=100)
    assert nodes(near.place(gang(made, 8), DATA, 0.0, NOW)) == ["a"] * 4 + ["b"] * 4  # both are needed, empty or not


@pytest.mark.parametrize("dataset", ["", "team/unheard-of"])
def test_without_data_others_choose(dataset: str) -> None:
    made, near = start("a", "b", b=100)
    before = made.free.copy()
    assert near.place(gang(made, 2), dataset, 0.0, NOW) is None
    assert (made.free == before).all()


def test_a_dataset_that_nobody_holds_is_left_to_others() -> None:
    made, near = start("a", "b")
    assert near.place(gang(made, 2), DATA, 0.0, NOW) is None


def test_a_gang_that_does_not_fit_is_left_to_others_and_nothing_is_held() -> None:
    made, near = start("a", "b", b=100)
    before = made.free.copy()
    assert near.place(gang(made, 9), DATA, 0.0, NOW) is None
    assert (made.free == before).all()


def test_a_worker_that_has_listed_its_dataset_tells_how_large_it_is() -> None:
    made = cluster([node("a", cpu="4"), node("b", cpu="4")])
    near = Nearness(made)
    there = said(50)
    served = {"ownedBytes": 0, "capacityBytes": 0, "totalBytes": 100 * GB, "listed": True}
    worker = msgspec.json.decode(json.dumps(served), type=Served)
    near.set_node("b", msgspec.structs.replace(there, datasets=(msgspec.structs.replace(there.datasets[0], worker=worker),)), NOW)
    assert int(near.warmth.size[near.warmth.column_of[DATA]]) == 100 * GB
    near.set_hints(DATA, sized(60), NOW)
    near.set_node("b", msgspec.structs.replace(there, datasets=(msgspec.structs.replace(there.datasets[0], worker=worker),)), NOW)
    assert int(near.warmth.size[near.warmth.column_of[DATA]]) == 60 * GB


def test_silent_hints_are_none_unless_their_node_lives() -> None:
    made, near = start("a", "b", b=100)
    near.alive(NOW + 121)
    assert near.place(gang(made, 2), DATA, 0.0, NOW + 121) is None
    for other in (publisher("b", ready=False), publisher("b", namespace="team"), publisher("nowhere")):
        near.see(None, other)
        near.alive(NOW + 132)
        assert near.place(gang(made, 2), DATA, 0.0, NOW + 132) is None
    near.see(None, publisher("b"))
    near.alive(NOW + 143)
    assert nodes(near.place(gang(made, 2), DATA, 0.0, NOW + 143)) == ["b", "b"]
    near.see(publisher("b"), None)
    near.alive(NOW + 264)
    assert near.place(gang(made, 2), DATA, 0.0, NOW + 264) is None


def test_a_load_of_a_silent_node_gets_nearer_its_end_and_is_late_in_the_end() -> None:
    made, near = start("a", "b", b=100)
    near.see(None, publisher("b"))
    column, row = near.warmth.column_of[DATA], made.row_of["b"]
    near.warmth.eta[row, column] = 50.0
    for after, left in ((20.0, 30.0), (40.0, 10.0), (60.0, float("inf"))):
        near.alive(NOW + after)
        assert near.warmth.remaining(column, NOW + after)[row] == pytest.approx(left)


def publisher(on: str, *, ready: bool = True, namespace: str = "forebay-system") -> Pod:
    meta = {"name": "node", "namespace": namespace, "uid": f"{namespace} {on}", "labels": {"forebay.io/component": "node"}}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return msgspec.convert({"metadata": meta, "spec": {"nodeName": on}, "status": {"conditions": conditions}}, Pod)


def test_a_node_that_never_spoke_does_not_live_by_being_there() -> None:
    made, near = start("a", "b")
    near.see(None, publisher("a"))
    near.alive(NOW)
    assert near.place(gang(made, 2), DATA, 0.0, NOW) is None


def test_a_size_that_is_a_lie_holds_a_gang_no_longer_than_is_set() -> None:
    made, near = start("a", "b")
    near.set_hints(DATA, sized(10**9), NOW)
    near.set_node("b", said(10**9), NOW)
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) == ["b"] * 4
    later = near.place(gang(made, 4), DATA, 0.0, NOW)
    assert isinstance(later, Later)
    assert later.seconds == 600.0
    assert nodes(near.place(gang(made, 4), DATA, 600.0, NOW)) == ["a"] * 4


def test_waiting_can_be_switched_off() -> None:
    made, near = start("a", "b", b=100)
    near.settings = Locality(wait=False)
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) == ["b"] * 4
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) == ["a"] * 4


def test_rates_that_are_set_anew_count_at_once() -> None:
    made, near = start("a", "b", b=100)
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) == ["b"] * 4
    near.configure(Locality(node_bytes_per_second=5 * GB, store_bytes_per_second=7), 60.0)
    later = near.place(gang(made, 4), DATA, 0.0, NOW)
    assert isinstance(later, Later)
    assert later.seconds == pytest.approx(20.0)
    assert near.warmth.store == 7
    near.warmth.store = 9  # measured since
    near.configure(Locality(store_bytes_per_second=7), 60.0)
    assert near.warmth.store == 9


def test_a_lie_costs_time_and_stops_nobody() -> None:
    made, near = start("a", "b", a=10**7, b=100)  # a says that it holds more than there is
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) in (["a"] * 4, ["b"] * 4)
    assert nodes(near.place(gang(made, 4), DATA, 0.0, NOW)) in (["a"] * 4, ["b"] * 4)


def test_a_node_that_vanishes_takes_its_hint_along_and_brings_it_back() -> None:
    made, near = start("a", "b", b=100)
    made.remove_node("b")
    assert near.place(gang(made, 2), DATA, 0.0, NOW) is None
    made.set_node(node("b", cpu="4"))
    assert nodes(near.place(gang(made, 2), DATA, 0.0, NOW)) == ["b", "b"]
    near.set_node("b", None, NOW)
    assert near.place(gang(made, 2), DATA, 0.0, NOW) is None


def test_a_hint_that_comes_before_its_node() -> None:
    made = cluster([node("a", cpu="4")])
    near = Nearness(made)
    near.set_node("b", said(100), NOW)
    made.set_node(node("b", cpu="4"))
    assert nodes(near.place(gang(made, 2), DATA, 0.0, NOW)) == ["b", "b"]  # of unknown size: as large as what b has


def test_constraints_of_the_pods_hold() -> None:
    made, near = start("a", "b", b=100)
    only = {"kubernetes.io/hostname": "a"}
    made.set_node(node("a", labels=only, cpu="4"))
    assert nodes(near.place(gang(made, 2, nodeSelector=only), DATA, 0.0, NOW)) == ["a", "a"]


def test_the_dataset_of_a_pod_is_a_claim_that_somebody_told_of() -> None:
    _, near = start("a", "b", b=100)
    claims = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in ("scratch", "lake")]
    meta = {"name": "p", "namespace": "team"}
    reader = msgspec.convert({"metadata": meta, "spec": {"volumes": [{"name": "x"}, *claims]}}, Pod)
    assert near.dataset(reader) == DATA
    assert near.dataset(msgspec.convert({"metadata": {**meta, "namespace": "other"}, "spec": {"volumes": claims}}, Pod)) == ""


def test_single_pods_are_gangs_of_one() -> None:
    made, near = start("a", "b", b=100)
    request: Request = made.request(pod(requests={"cpu": "1"}))
    assert nodes(near.place(Gang("uid", [Member("uid", request)], 1), DATA, 0.0, NOW)) == ["b"]
