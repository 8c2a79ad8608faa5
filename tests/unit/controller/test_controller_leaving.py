"""What a last pass takes away, lets go of, waits for and says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import controllerworld as w
import pytest

from forebay.api.fluid.names import DATASET_FINALIZER, runtime_finalizer
from forebay.controller.copies import Copies
from forebay.controller.datasets.leaving import AGAIN, FINALIZERS, OPERATIONS, Leaving, left
from forebay.controller.datasets.looking import Looker
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer
from forebay.kube.client import Client
from forebay.kube.errors import Conflict, Status
from forebay.kube.eventlog import Note
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import Resource
from forebay.runtimes.engine import Installation

D = Key("ns", "d")
CACHE = runtime_finalizer("CacheRuntime")


class Server(Client):
    """Takes notes. What is deleted is gone from the copies at once."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.calls, self.bodies = copies, list[str](), list[Any]()

    def delete(self, resource: Resource, key: Key, **more: Any) -> bool:
        self.calls.append(f"delete {resource.kind} {key}")
        w.drop(self.copies, resource.kind, *key)
        return True

    def merge(self, resource: Resource, key: Key, body: Any, **more: Any) -> Bare:
        self.calls.append(f"merge {resource.kind}")
        self.bodies.append(body)
        return Bare(ObjectMeta(resource_version="2"))

    def apply(self, resource: Resource, key: Key, body: Any, **more: Any) -> Bare:
        self.calls.append(f"apply {resource.kind}/{more.get('sub')}")
        self.bodies.append(body)
        return Bare(ObjectMeta(resource_version="3"))


class World:
    def __init__(self, *objects: Mapping[str, Any]) -> None:
        self.copies, self.notes = Copies(), list[Note]()
        w.put(self.copies, *objects)
        self.server = Server(self.copies)
        self.leaving = Leaving(Looker(self.copies, Installation()), Writer(self.server), Teller(self.notes.append))


def served() -> list[dict[str, Any]]:
    return [
        w.dataset(finalizers=[DATASET_FINALIZER, "else"]),
        w.runtime(finalizers=[CACHE]),
        w.child("StatefulSet", "d-worker"),
        w.child("PersistentVolumeClaim", "d"),
        w.child("ConfigMap", "d-forebay"),
        w.volume("ns/d", "ns/d"),
    ]


def test_what_is_ours_goes_first_and_then_the_finalizers() -> None:
    world = World(*served())
    assert world.leaving.reconcile(D).after == AGAIN  # type: ignore[union-attr]
    gone = [
        f"{kind} {name}"
        for kind, name in (("PersistentVolumeClaim", "ns/d"), ("PersistentVolume", "ns-d"), ("StatefulSet", "ns/d-worker"))
    ]
    assert world.server.calls == [f"delete {x}" for x in (*gone, "ConfigMap ns/d-forebay")]
    world.server.calls.clear()
    assert world.leaving.reconcile(D) is None
    assert world.server.calls == ["merge CacheRuntime", "apply CacheRuntime/status", "merge Dataset", "apply Dataset/status"]
    assert [b["metadata"]["finalizers"] for b in world.server.bodies[::2]] == [[], ["else"]]
    status = world.server.bodies[3]["status"]
    assert status["phase"] == "NotBound"
    assert {c["reason"] for c in status["conditions"]} == {"Uninstalled"}


def test_nothing_goes_while_a_pod_reads() -> None:
    world = World(*served(), w.reader("r"))
    assert world.leaving.reconcile(D).after == AGAIN  # type: ignore[union-attr]
    assert world.server.calls == []
    assert [(n.reason, "r" in n.note) for n in world.notes] == [("InUse", True)]


def test_a_runtime_and_a_volume_without_a_dataset_are_let_go_and_taken_away() -> None:
    world = World(w.runtime(finalizers=[CACHE]), w.volume("ns/d", "ns/d"))
    assert world.leaving.reconcile(D) is None
    assert world.server.calls == ["merge CacheRuntime", "delete PersistentVolume ns-d"]


def test_what_is_left_is_named() -> None:
    world = World(*served(), w.worker("d-worker-0", node="n1"), w.dataset("free"), w.reader("other", claim="x"))
    assert left(world.copies) == [
        "CacheRuntime ns/d has finalizer cache-runtime-controller-finalizer",
        "ConfigMap ns/d-forebay",
        "Dataset ns/d has finalizer fluid-dataset-controller-finalizer",
        "PersistentVolume ns-d",
        "PersistentVolumeClaim ns/d",
        "StatefulSet ns/d-worker",
        "worker ns/d-worker-0 on node n1",
    ]
    assert left(World(w.dataset("free"), w.runtime("free")).copies) == []


def test_a_status_that_changed_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(w.dataset(finalizers=[DATASET_FINALIZER]))

    def conflict(*_: Any, **__: Any) -> Bare:
        raise Conflict("PATCH", Status(code=409))

    monkeypatch.setattr(world.server, "apply", conflict)
    assert world.leaving.reconcile(D) is None
    assert world.server.calls == ["merge Dataset"]


def test_the_names_of_finalizers_are_fluids() -> None:
    assert FINALIZERS["JuiceFSRuntime"] == "juicefs-runtime-controller-finalizer"
    assert OPERATIONS["DataLoad"] == "fluid-dataload-controller-finalizer"
