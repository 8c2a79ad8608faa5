"""DatasetHints: what they say, when they are written, when they go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import controllerworld as w
import msgspec
import pytest

from forebay.api.hints.datasethints import MAX_NODES, DatasetHintsStatus, NodeHint, ZoneHint
from forebay.api.hints.nodecache import Bandwidth, HeldBytes, HeldDataset, Served, Warming
from forebay.controller.copies import Copies
from forebay.controller.datasets.hinting import BURST, LATER, Hinter, Situation
from forebay.controller.datasets.hints import EVERY, LINGER, SLOWLY, Do, Known, Place, step, summary, wanted
from forebay.controller.datasets.looking import Looker
from forebay.kube.client import Client
from forebay.kube.errors import NotFound, Status
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import Resource
from forebay.runtimes.engine import Installation

GIB = 1 << 30
D = Key("ns", "d")
NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
SAID = "2026-11-27T12:00:00Z"


def place(node: str, bytes_: int, owned: int | None = None, *, zone: str = "", size: int = 100 * GIB, **more: Any) -> Place:
    worker = {} if owned is None else {"worker": Served(owned_bytes=owned, capacity_bytes=0, total_bytes=size, listed=True)}
    tiers = (HeldBytes(medium="SSD", bytes=bytes_),) if bytes_ else ()
    held = HeldDataset(namespace="ns", name="d", role="Owner", tiers=tiers, **worker, **more)
    return Place(node, zone, held, Bandwidth(store_bytes_per_second=3, read_bytes_per_second=7))


def test_bytes_that_several_nodes_hold_count_once() -> None:
    workers = [place("a", 60 * GIB, 60 * GIB, zone="x"), place("b", 40 * GIB, 30 * GIB, zone="x")]
    reader = place("c", 95 * GIB, zone="y", mounted=True)
    said = summary([*workers, reader], SAID)
    assert (said.total_bytes, said.cached_bytes, said.cached_percent) == (100 * GIB, 95 * GIB, 95)
    assert (said.total, said.cached) == ("100.00GiB", "95.00GiB")
    assert [n.name for n in said.nodes] == ["c", "a", "b"]
    assert said.nodes[0] == NodeHint(name="c", bytes=95 * GIB, mounted=True, read_bytes_per_second=7)
    assert said.zones == (ZoneHint(name="y", bytes=95 * GIB, nodes=1), ZoneHint(name="x", bytes=90 * GIB, nodes=2))
    assert said.store_bytes_per_second == 9
    assert summary(workers, SAID).cached_bytes == 90 * GIB, "two workers own disjoint shares"
    assert summary([place("a", 150 * GIB, 150 * GIB)], SAID).cached_bytes == 100 * GIB, "never more than there is"


def test_nothing_is_held_and_nothing_is_known() -> None:
    said = summary([], SAID)
    assert (said.total_bytes, said.cached_percent, said.node_count, said.nodes, said.zones) == (0, 0, 0, (), ())
    cold = summary([place("a", 0, 0, size=7)], SAID)
    assert (cold.total_bytes, cold.nodes) == (7, ()), "its size is known before anybody holds any of it"
    loading = summary(
        [place("a", 0, 0, warming=Warming(remaining_bytes=10, bytes_per_second=1, eta_seconds=10), mounted=True)], SAID
    )
    assert (loading.node_count, loading.eta_seconds) == (0, 10)
    assert loading.nodes[0].mounted


def test_a_thousand_nodes_are_a_hundred_by_name_and_a_sum() -> None:
    said = summary([place(f"n{i:04}", i) for i in range(1, 1001)], SAID)
    assert len(said.nodes) == MAX_NODES
    assert said.nodes[0].name == "n1000"
    assert (said.node_count, said.other_bytes) == (1000, sum(range(1, 901)))


@pytest.mark.parametrize(
    ("meta", "waiting", "is_wanted"),
    [
        ({}, 0, False),
        ({}, 1, True),
        ({"annotations": {"forebay.io/watch": "true"}}, 0, True),
        ({"annotations": {"forebay.io/watch": "no"}}, 0, False),
        ({"deletionTimestamp": SAID}, 1, False),
    ],
)
def test_who_wants_hints(meta: dict[str, Any], waiting: int, is_wanted: bool) -> None:
    assert wanted({"metadata": {"name": "d", **meta}}, waiting) is is_wanted


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


BEFORE = summary([place("a", 60 * GIB, 60 * GIB)], SAID)
STEPS: dict[str, tuple[DatasetHintsStatus | None, float, Do]] = {
    "the same, later": (summary([place("a", 60 * GIB, 60 * GIB)], "2026-11-27T13:00:00Z"), 3600, Do.NOTHING),
    "a large step at once": (summary([place("a", 70 * GIB, 70 * GIB)], SAID), 5, Do.NOTHING),
    "a large step": (summary([place("a", 70 * GIB, 70 * GIB)], SAID), 10, Do.WRITE),
    "a small step": (summary([place("a", 60 * GIB + 5, 60 * GIB)], SAID), 59, Do.NOTHING),
    "a small step, later": (summary([place("a", 60 * GIB + 5, 60 * GIB)], SAID), 60, Do.WRITE),
    "another node": (summary([place("a", 60 * GIB, 60 * GIB), place("b", 1)], SAID), 10, Do.WRITE),
    "mounted there": (summary([place("a", 60 * GIB, 60 * GIB, mounted=True)], SAID), 10, Do.WRITE),
    "wanted no more": (None, 599, Do.NOTHING),
    "wanted no more, for long": (None, 600, Do.DELETE),
}


@pytest.mark.parametrize("case", STEPS)
def test_when_hints_are_written(case: str) -> None:
    new, seconds, do = STEPS[case]
    assert step(new, Known(BEFORE, NOW, NOW), at(seconds)).do is do


def test_more_steps() -> None:
    assert step(None, Known(None, None, None), NOW) == (Do.NOTHING, None)
    assert step(BEFORE, Known(None, None, None), NOW).do is Do.WRITE
    assert step(BEFORE, Known(None, NOW, NOW), at(1)).do is Do.WRITE, "somebody took it away"
    assert step(STEPS["a large step"][0], Known(BEFORE, NOW, NOW), at(4)).again == EVERY - timedelta(seconds=4)
    assert step(STEPS["a small step"][0], Known(BEFORE, NOW, NOW), at(4)).again == SLOWLY - timedelta(seconds=4)
    assert step(None, Known(BEFORE, NOW, None), at(4)).again == LINGER, "a new start knows not since when"


# --- over copies


class Server(Client):
    """Takes notes, and shows the copies what is written, when told to."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.calls, self.shown = copies, list[str](), True
        self.version = 1

    def apply(self, resource: Resource, key: Key, body: Any, **more: Any) -> Bare:
        self.calls.append(f"apply {resource.kind}{'/status' if more.get('sub') else ''}")
        self.version += 1
        made = Bare(ObjectMeta(resource_version=str(self.version)))
        if self.shown:
            old = self.copies.stores[resource.kind].get(key)
            if old is None and more.get("sub"):
                raise NotFound("PATCH", Status(code=404))
            known = {} if old is None else {k: v for k, v in msgspec.to_builtins(old).items() if v is not None}
            new = {**known, **msgspec.to_builtins(body), "kind": resource.kind}
            new["metadata"] = {**known.get("metadata", {}), **body["metadata"], "uid": "h"}
            w.put(self.copies, new)
        return made

    def delete(self, resource: Resource, key: Key, *, uid: str = "", **more: Any) -> bool:
        self.calls.append(f"delete {resource.kind} {uid}")
        w.drop(self.copies, resource.kind, *key)
        return True


class World:
    def __init__(self) -> None:
        self.copies = Copies()
        self.server = Server(self.copies)
        self.ticks = 0.0
        self.hinter = Hinter(self.server, clock=lambda: self.ticks)
        self.looker = Looker(self.copies, Installation(default_engine="native"))

    def look(self, seconds: float, key: Key = D) -> float | None:
        subject = self.looker.subject(key)
        assert subject is not None
        return self.hinter.look(self.looker.situation(subject), at(seconds))

    def calls(self) -> list[str]:
        made, self.server.calls = self.server.calls, []
        return made

    def hints(self, key: Key = D) -> dict[str, Any]:
        found: dict[str, Any] = self.copies.get("DatasetHints", *key).status
        return found


def cache(node: str, bytes_: int, **more: Any) -> dict[str, Any]:
    held = {"namespace": "ns", "name": "d", "role": "Client", "tiers": [{"medium": "SSD", "bytes": bytes_}], **more}
    said = {
        "observedTime": SAID,
        "tiers": [],
        "cachedBytes": 0,
        "capacityBytes": 0,
        "cached": "",
        "capacity": "",
        "datasetCount": 1,
    }
    return {"kind": "NodeCache", "metadata": {"name": node}, "status": {**said, "datasets": [held]}}


WROTE = ["apply DatasetHints", "apply DatasetHints/status"]


def test_hints_come_with_a_pod_that_waits_and_go_ten_minutes_after_it_got_a_node() -> None:
    world = World()
    w.put(world.copies, w.dataset(), cache("a", 5 * GIB))
    assert world.look(0) is None
    assert world.calls() == [], "nobody wants any"
    zoned = w.node("a")
    zoned["metadata"]["labels"] = {"topology.kubernetes.io/zone": "z"}
    w.put(world.copies, zoned, w.reader("p", phase="Pending"))
    assert world.look(1) is None
    assert world.calls() == WROTE
    assert world.hints()["nodes"] == [{"name": "a", "bytes": 5 * GIB}]
    assert world.hints()["zones"] == [{"name": "z", "bytes": 5 * GIB, "nodes": 1}]
    owner = world.copies.get("DatasetHints", "ns", "d").metadata.owner_references[0]
    assert (owner.kind, owner.name, owner.uid) == ("Dataset", "d", "uid-Dataset-d")
    for second in range(2, 300):
        assert world.look(second) is None
    assert world.calls() == [], "nothing changes, nothing is written"
    w.put(world.copies, cache("a", 9 * GIB))
    world.look(301)
    assert world.calls() == WROTE[1:]
    bound = w.reader("p")
    bound["spec"]["nodeName"] = "a"
    w.put(world.copies, bound)
    assert world.look(302) == pytest.approx(599.1), "looked at again then"
    world.look(900)
    assert world.calls() == []
    assert world.look(901) is None
    assert world.calls() == ["delete DatasetHints h"]
    assert world.look(902) is None
    assert world.calls() == []


def test_what_the_copies_do_not_show_yet_is_not_written_twice() -> None:
    world = World()
    w.put(world.copies, w.dataset(), cache("a", GIB), w.reader("p", phase="Pending"))
    world.server.shown = False
    world.look(0)
    world.calls()
    for second in range(1, 9):
        world.look(second)
    assert world.calls() == []
    world.look(11)
    assert world.calls() == WROTE, "somebody took it away meanwhile: it is made anew"


def test_all_hints_together_have_a_budget() -> None:
    world = World()
    names = [f"d{i}" for i in range(BURST + 30)]
    for name in names:
        w.put(world.copies, w.dataset(name), w.reader(f"p-{name}", claim=name, phase="Pending"))
    waits = [world.look(0, Key("ns", name)) for name in names]
    assert waits.count(None) == BURST
    assert waits.count(LATER) == 30
    world.ticks += 100
    assert [world.look(1, Key("ns", name)) for name in names[:5]] == [None] * 5


def test_a_reference_shows_its_sources_bytes_once_it_is_bound() -> None:
    world = World()
    view = w.dataset("v", "b", "dataset://ns/d")
    w.put(world.copies, w.dataset(), view, cache("a", GIB), w.reader("p", claim="v", namespace="b", phase="Pending"))
    world.look(0, Key("b", "v"))
    assert world.hints(Key("b", "v")).get("nodes") is None, "not granted: nothing of it is told"
    w.put(world.copies, {**view, "status": {"phase": "Bound"}})
    world.look(20, Key("b", "v"))
    assert [n["name"] for n in world.hints(Key("b", "v"))["nodes"]] == ["a"]


def test_a_situation_without_wishes_costs_nothing() -> None:
    world = World()
    w.put(world.copies, w.dataset(), cache("a", GIB))
    subject = world.looker.subject(Key("ns", "d"))
    assert subject is not None
    assert world.looker.situation(subject) == Situation(subject.dataset, [], 0, None)
