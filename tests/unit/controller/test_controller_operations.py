"""Operations that are not carried out: each says so once, and holds nothing up; over copies filled by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import controllerworld as w
import pytest
from test_controller_passes import Server

from forebay.controller.copies import UNDRIVEN, Copies
from forebay.controller.datasets.mapping import datasets
from forebay.controller.operations import REASON, SEEN_AGAIN, OperationReconciler, operations
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer
from forebay.kube.errors import Conflict, Status
from forebay.kube.eventlog import Note
from forebay.kube.objects import Key
from forebay.kube.store import Change
from forebay.kube.workers import Again
from forebay.runtimes.engine import Ref

NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)
SPECS: dict[str, dict[str, Any]] = {
    "DataMigrate": {"from": {"externalStorage": {"uri": "s3://b/x"}}, "to": {"dataset": {"name": "d", "namespace": "ns"}}},
    "DataBackup": {"dataset": "d", "backupPath": "pvc://c/x"},
    "DataProcess": {"dataset": {"name": "d", "mountPath": "/d"}, "processor": {"script": {"source": "x"}}, "policy": "Cron"},
}
REMEDY = {"DataMigrate": "a tool of the stores", "DataBackup": "need no backup", "DataProcess": "mounts claim d"}


def operation(kind: str, status: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    found = {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "o", "namespace": "ns", "generation": 1, **meta},
        "spec": SPECS[kind],
    }
    return found if status is None else {**found, "status": status}


class World:
    def __init__(self, *objects: dict[str, Any]) -> None:
        self.copies = Copies()
        w.put(self.copies, *objects)
        self.server = Server(self.copies)
        self.said: list[Note] = []
        self.now = NOW
        self.reconciler = OperationReconciler(self.copies, Writer(self.server), Teller(self.said.append), wall=lambda: self.now)

    def run(self, kind: str) -> list[str]:
        self.server.calls.clear()
        assert self.reconciler.reconcile(Ref(kind, "ns", "o")) is None
        return list(self.server.calls)

    def status(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = self.copies.get(kind, "ns", "o").status
        return found


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_it_says_that_nothing_happens_and_what_to_do_instead_and_says_it_once(kind: str) -> None:
    world = World(operation(kind))
    assert world.run(kind) == [f"apply {kind}/status"]
    status = world.status(kind)
    assert (status["phase"], status["duration"], status["observedGeneration"]) == ("Failed", "0s", 1)
    conditions = {c["type"]: c for c in status["conditions"]}
    assert {t: (c["status"], c["reason"]) for t, c in conditions.items()} == {
        "Complete": ("False", REASON),
        "Failed": ("True", REASON),
    }
    assert kind in conditions["Failed"]["message"]
    assert REMEDY[kind] in conditions["Failed"]["message"]
    assert [(n.type, n.reason, n.note) for n in world.said] == [("Warning", REASON, conditions["Failed"]["message"])]
    world.now += timedelta(days=1)
    assert world.run(kind) == []
    assert World(operation(kind, status)).run(kind) == [], "a new start writes nothing"
    assert len(world.said) == 1


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_what_somebody_changes_by_hand_is_put_right(kind: str) -> None:
    world = World(operation(kind))
    world.run(kind)
    said = world.status(kind)
    for wrong in ({}, {"phase": "Executing"}, {**said, "phase": ""}, {**said, "phase": "Complete"}, {"conditions": "no list"}):
        again = World(operation(kind, wrong))
        assert again.run(kind) == [f"apply {kind}/status"], wrong
        assert again.status(kind)["phase"] == "Failed"
    edited = World(operation(kind, said, generation=2))
    assert edited.run(kind) == [f"apply {kind}/status"]
    assert edited.status(kind)["observedGeneration"] == 2
    assert edited.said == [], "it was told before"
    (failed,) = (c for c in edited.status(kind)["conditions"] if c["type"] == "Failed")
    assert failed["lastTransitionTime"] == "2026-11-27T05:00:00Z"


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_the_end_that_fluid_wrote_stays(kind: str) -> None:
    for phase, type_ in (("Complete", "Complete"), ("Failed", "Failed")):
        ended = {"phase": phase, "duration": "5s", "conditions": [{"type": type_, "status": "True", "reason": "Other"}]}
        world = World(operation(kind, ended))
        assert world.run(kind) == []
    assert World(operation(kind, {"phase": "Complete", "duration": "1s", "conditions": []})).run(kind) == []


@pytest.mark.parametrize("kind", UNDRIVEN)
def test_its_deletion_is_held_up_by_nothing(kind: str) -> None:
    own = f"fluid-{kind.lower()}-controller-finalizer"
    going = {"deletionTimestamp": "2026-11-27T04:00:00Z"}
    world = World(operation(kind, finalizers=[own, "somebody/else"], **going))
    assert world.run(kind) == [f"merge {kind}"]
    assert world.server.bodies[-1]["metadata"]["finalizers"] == ["somebody/else"]
    assert World(operation(kind, **going)).run(kind) == []
    assert World().run(kind) == []
    assert World(operation(kind, finalizers=[own])).run(kind) == [f"apply {kind}/status"], "it lives"


def test_one_that_changes_meanwhile_is_looked_at_again() -> None:
    world = World(operation("DataBackup"))
    world.server.refuse["status"] = Conflict("PATCH", Status(code=409))
    assert world.reconciler.reconcile(Ref("DataBackup", "ns", "o")) == Again(SEEN_AGAIN)
    assert world.said == []


def test_an_operation_wakes_itself_and_nobody_else() -> None:
    world = World(operation("DataProcess"), w.dataset(), w.runtime())
    change: Change[Any] = Change(Key("ns", "o"), None, world.copies.get("DataProcess", "ns", "o"))
    assert list(operations("DataProcess", change, world.copies)) == [Ref("DataProcess", "ns", "o")]
    assert datasets("DataProcess", change, world.copies) == set()
    assert list(operations("DataLoad", change, world.copies)) == []
