"""Fluid's labels of nodes: which they are, when they are put there, and that nobody else's are touched."""

from __future__ import annotations

from typing import Any

import controllerworld as w
import pytest

from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import Looker
from forebay.controller.nodes.labelling import MANAGER, Labeller
from forebay.controller.nodes.labels import Labelled, digest, labels_of, nodes, size
from forebay.kube.client import Client
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import Resource
from forebay.runtimes.engine import Installation

GIB = 1 << 30
SAID = "2026-11-27T12:00:00Z"


def test_labels_are_fluids() -> None:
    one = Labelled(namespace="ns", name="d", uid="u", type="alluxio", worker=True, shows=True, memory=2 * GIB, disk=GIB // 2)
    reader = Labelled(namespace="other", name="e", uid="v", type="cache", shows=True)
    assert labels_of([reader, one]) == {
        "fluid.io/f-ns-d": "true",
        "fluid.io/s-ns-d": "true",
        "fluid.io/s-alluxio-ns-d": "true",
        "fluid.io/s-h-alluxio-m-ns-d": "2GiB",
        "fluid.io/s-h-alluxio-d-ns-d": "512MiB",
        "fluid.io/s-h-alluxio-t-ns-d": "2560MiB",
        "fluid_exclusive": "ns_d",
        "fluid.io/f-other-e": "true",
        "fluid.io/dataset-num": "1",
    }
    assert labels_of([]) == {}


def test_a_shared_dataset_is_not_exclusive_and_one_without_quota_has_no_capacity() -> None:
    one = Labelled(namespace="ns", name="d", uid="u", type="cache", exclusive=False, worker=True)
    assert labels_of([one]) == {"fluid.io/s-ns-d": "true", "fluid.io/s-cache-ns-d": "true", "fluid.io/dataset-num": "1"}


def test_keys_and_values_that_would_be_too_long_have_the_uid() -> None:
    uid = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    found = labels_of([Labelled(namespace="n" * 30, name="d" * 40, uid=uid, type="cache", worker=True, disk=GIB)])
    assert found["fluid_exclusive"] == uid
    assert found[f"fluid.io/s-h-cache-d-{uid}"] == "1GiB"
    assert all(len(key.partition("/")[2]) <= 63 for key in found)
    assert all(len(value) <= 63 for value in found.values())


@pytest.mark.parametrize(
    ("quota", "text"), [(2 << 40, "2TiB"), (3 << 29, "1536MiB"), (1, "1B"), (10 << 30, "10GiB"), (5 << 10, "5KiB")]
)
def test_sizes(quota: int, text: str) -> None:
    assert size(quota) == text


class Server(Client):
    """Takes notes, and shows the copies what is applied, as its one manager."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.bodies = copies, list[Any]()

    def apply(self, resource: Resource, key: Key, body: Any, *, manager: str = "", **more: Any) -> Bare:
        assert (resource.kind, manager) == ("Node", MANAGER)
        assert body["metadata"]["uid"], "else an apply makes a node that is gone"
        old = self.copies.get("Node", "", key.name).metadata
        mine = dict(self.bodies[-1]["metadata"]["labels"]) if self.bodies else {}
        labels = {k: v for k, v in old.labels.items() if k not in mine} | body["metadata"]["labels"]
        notes = {k: v for k, v in old.annotations.items() if k != "forebay.io/labels"} | body["metadata"].get("annotations", {})
        w.put(self.copies, {"kind": "Node", "metadata": {"name": key.name, "labels": labels, "annotations": notes}})
        self.bodies.append(body)
        return Bare(ObjectMeta())


class World:
    def __init__(self) -> None:
        self.copies = Copies()
        self.server = Server(self.copies)
        self.labeller = Labeller(self.copies, Looker(self.copies, Installation(default_engine="native")).subject, self.server)

    def labels(self) -> dict[str, str]:
        self.labeller.reconcile("a")
        found: dict[str, str] = self.copies.get("Node", "", "a").metadata.labels
        return found

    def woken(self, obj: dict[str, Any]) -> set[str]:
        found: set[str] = set()
        store = self.copies.stores[obj["kind"]]
        store.subscribe(lambda change: found.update(nodes(obj["kind"], change, self.copies)))
        found.clear()
        w.put(self.copies, obj)
        return found


def cache(*holds: tuple[str, bool]) -> dict[str, Any]:
    said = {
        "observedTime": SAID,
        "tiers": [],
        "cachedBytes": 0,
        "capacityBytes": 0,
        "cached": "",
        "capacity": "",
        "datasetCount": 1,
    }
    held = [{"namespace": "ns", "name": name, "role": "Client", "mounted": mounted} for name, mounted in holds]
    return {"kind": "NodeCache", "metadata": {"name": "a"}, "status": {**said, "datasets": held}}


def test_a_node_gets_the_labels_of_its_workers_and_mounts_and_loses_them() -> None:
    world = World()
    node = w.node("a")
    node["metadata"]["labels"] = {"mine": "x"}
    w.put(world.copies, node, w.dataset(), w.runtime(), w.dataset("e"), w.runtime("e"), w.worker("d-worker-0", node="a"))
    w.put(world.copies, cache(("d", False), ("e", True), ("gone", True)))
    assert world.labels() == {
        "mine": "x",
        "fluid.io/s-ns-d": "true",
        "fluid.io/s-cache-ns-d": "true",
        "fluid.io/s-h-cache-d-ns-d": "1GiB",
        "fluid.io/s-h-cache-t-ns-d": "1GiB",
        "fluid_exclusive": "ns_d",
        "fluid.io/dataset-num": "1",
        "fluid.io/f-ns-e": "true",
    }
    world.labels()
    assert len(world.server.bodies) == 1, "it is so already"
    edited = w.node("a")
    known = world.copies.get("Node", "", "a").metadata
    edited["metadata"] |= {"labels": {**known.labels, "fluid.io/s-ns-d": "false"}, "annotations": known.annotations}
    w.put(world.copies, edited)
    assert world.labels()["fluid.io/s-ns-d"] == "true", "put right"
    w.drop(world.copies, "Pod", "ns", "d-worker-0")
    w.put(world.copies, cache(("e", False)))
    assert world.labels() == {"mine": "x"}
    assert "annotations" not in world.server.bodies[-1]["metadata"]
    world.labels()
    assert len(world.server.bodies) == 3


def test_a_node_without_anything_of_ours_is_not_written() -> None:
    world = World()
    w.put(world.copies, w.node("a"), w.worker("x", of="lonely", node="a"))
    assert world.labels() == {}
    assert world.server.bodies == []
    world.labeller.reconcile("gone")
    assert digest({}) == ""


def test_who_is_looked_at() -> None:
    world = World()
    w.put(world.copies, w.dataset(), w.runtime())
    assert world.woken(w.node("a")) == {"a"}
    assert world.woken(w.node("a", ready=False)) == set(), "a heartbeat, or its end, changes no label"
    assert world.woken(w.worker("d-worker-0", node="")) == set()
    assert world.woken(w.worker("d-worker-0", node="a")) == {"a"}
    assert world.woken(w.worker("d-worker-0", node="a", ready=False)) == set()
    assert world.woken(w.reader("p")) == set()
    assert world.woken(cache(("d", True))) == {"a"}
    assert world.woken(cache(("d", True), ("e", False))) == set(), "bytes that come and go are no labels"
    assert world.woken(w.runtime(generation=2)) == {"a"}, "its quota may have changed"
    assert world.woken(w.dataset("other")) == set()
