"""What one pass writes, in which order, and what it does not; over copies filled by hand and a server that only takes notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import controllerworld as w
import msgspec
import pytest

from forebay.controller.copies import COPIED, Copies
from forebay.controller.datasets.looking import Looker
from forebay.controller.datasets.reconciler import Reconciler
from forebay.controller.kinds import RESOURCES
from forebay.controller.telling import AGAIN, Teller
from forebay.controller.writing import Writer
from forebay.kube.client import Client
from forebay.kube.errors import AlreadyExists, Conflict, Forbidden, NotFound, Status
from forebay.kube.eventlog import Note
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import Resource
from forebay.runtimes.engine import LEAVING, Finding, Installation

D = Key("ns", "d")
NATIVE = Installation(default_engine="native")
NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)


class Server(Client):
    """Takes notes of calls, keeps what is written, and shows it to the copies as an informer would."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self.calls: list[str] = []
        self.bodies: list[Any] = []
        self.refuse: dict[str, Exception] = {}
        self.version = 100
        self.hidden: dict[tuple[str, Key], dict[str, Any]] = {}  # what the copies do not show

    def _note(self, what: str, body: Any = None) -> None:
        self.calls.append(what)
        self.bodies.append(body)
        for part, error in self.refuse.items():
            if part in what:
                raise error

    def _made(self) -> Bare:
        self.version += 1
        return Bare(ObjectMeta(resource_version=str(self.version)))

    def get(self, resource: Resource, key: Key, type_: Any, sub: str = "") -> Any:
        found = self.hidden.get((resource.kind, key))
        if found is None:
            raise NotFound("GET", Status(code=404))
        return found

    def create(self, resource: Resource, namespace: str, body: Any, *, dry_run: bool = False) -> Bare:
        self._note(f"create {resource.kind}", body)
        return self._made()

    def apply(self, resource: Resource, key: Key, body: Any, **more: Any) -> Bare:
        self._note(f"apply {resource.kind}{'/' + more['sub'] if more.get('sub') else ''}", body)
        made = self._made()
        if resource.kind in COPIED and not more.get("sub"):
            meta = {"uid": "u", **body["metadata"], "namespace": key.namespace, "resourceVersion": made.metadata.resource_version}
            old = self.copies.stores[resource.kind].get(key)
            known = {} if old is None else {"spec": old.spec, "status": old.status}
            kept = {k: v for k, v in known.items() if v is not msgspec.UNSET}
            if old is not None:
                meta = {**msgspec.to_builtins(old.metadata), **meta}
            w.put(self.copies, {**kept, **json.loads(json.dumps(body)), "metadata": meta})
        if more.get("sub") and resource.kind in COPIED:
            old = self.copies.stores[resource.kind].get(key)
            meta = msgspec.structs.replace(old.metadata, resource_version=made.metadata.resource_version)
            self.copies.stores[resource.kind].upsert(key, msgspec.structs.replace(old, metadata=meta, status=body["status"]))
        return made

    def merge(self, resource: Resource, key: Key, body: Any, *, sub: str = "") -> Bare:
        self._note(f"merge {resource.kind}", body)
        return self._made()

    def delete(self, resource: Resource, key: Key, *, uid: str = "", **more: Any) -> bool:
        self._note(f"delete {resource.kind}", uid)
        return True


class World:
    def __init__(self, *objects: dict[str, Any], installation: Installation = NATIVE) -> None:
        self.copies = Copies()
        w.put(self.copies, *objects)
        self.server = Server(self.copies)
        self.said: list[Note] = []
        self.reconciler = Reconciler(
            Looker(self.copies, installation), Writer(self.server), Teller(self.said.append), wall=lambda: NOW
        )

    def run(self, key: Key = D) -> list[str]:
        self.server.calls.clear()
        self.server.bodies.clear()
        self.reconciler.reconcile(key)
        return list(self.server.calls)

    def settled(self) -> World:
        for _ in range(3):
            self.run()
        return self


def test_the_first_pass_makes_everything_in_order_and_the_last_writes_nothing() -> None:
    world = World(w.dataset(), w.runtime())
    assert world.run() == [
        "create Secret",
        "apply Dataset",
        "apply CacheRuntime",
        "apply ConfigMap",
        "apply Service",
        "apply PodDisruptionBudget",
        "apply StatefulSet",
        "apply PersistentVolume",
        "apply PersistentVolumeClaim",
        "apply Dataset/status",
        "apply CacheRuntime/status",
    ]
    assert set(world.run()) <= {"apply Dataset/status", "apply CacheRuntime/status"}
    assert world.run() == []
    assert world.run() == []


@pytest.mark.parametrize(("age", "runtime", "waits"), [(1, False, True), (2, False, False), (-5, False, False), (1, True, False)])
def test_a_new_dataset_waits_a_moment_for_its_runtime(age: int, runtime: bool, waits: bool) -> None:
    made = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world = World(w.dataset(creationTimestamp=made), *([w.runtime()] if runtime else []))
    again = world.reconciler.reconcile(D)
    assert again is not None
    assert (again.after == 1.0) == waits
    assert (world.server.calls == []) == waits


def test_a_new_process_writes_nothing_of_what_is_so_already() -> None:
    world = World(w.dataset(), w.runtime()).settled()
    world.reconciler = Reconciler(
        Looker(world.copies, NATIVE),
        Writer(world.server),
        Teller(world.said.append),
        wall=lambda: NOW,
    )
    assert world.run() == []


def test_what_the_server_writes_differently_is_applied_once_to_each_version() -> None:
    world = World(w.dataset(), w.runtime()).settled()
    store = world.copies.stores["Service"]
    (service,) = store.values()
    odd = msgspec.structs.replace(service, spec={**service.spec, "ports": []})
    store.upsert(Key("ns", "svc-d-worker"), odd)

    class Stubborn(Server):
        def apply(self, resource: Resource, key: Key, body: Any, **more: Any) -> Bare:
            self._note(f"apply {resource.kind}", body)
            return Bare(ObjectMeta(resource_version=odd.metadata.resource_version))

    stubborn = Stubborn(world.copies)
    world.server, world.reconciler._write = stubborn, Writer(stubborn)
    assert world.run() == ["apply Service"]
    assert world.run() == []


def test_an_object_that_the_copies_do_not_show_is_not_taken_over() -> None:
    world = World(w.dataset(), w.runtime())
    foreign = {"metadata": {"name": "svc-d-worker", "namespace": "ns", "uid": "x", "labels": {"app": "mine"}}}
    world.server.hidden["Service", Key("ns", "svc-d-worker")] = foreign
    assert world.run() == ["apply Dataset/status", "apply CacheRuntime/status"]
    assert [n.reason for n in world.said] == ["NameTaken"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Forbidden("POST", Status(code=403, message="quota")), True),
        (Conflict("PATCH", Status(code=409, message="uid")), False),
    ],
)
def test_a_refusal_ends_the_pass_after_the_status_is_written(error: Exception, told: bool) -> None:
    world = World(w.dataset(), w.runtime())
    world.server.refuse["apply StatefulSet"] = error
    with pytest.raises(type(error)):
        world.run()
    assert world.server.calls[-3:] == ["apply StatefulSet", "apply Dataset/status", "apply CacheRuntime/status"]
    assert [n.reason for n in world.said] == (["Refused"] if told else [])


def test_a_secret_that_exists_is_as_good_as_made() -> None:
    world = World(w.dataset(), w.runtime())
    world.server.refuse["create Secret"] = AlreadyExists("POST", Status(code=409))
    assert "apply StatefulSet" in world.run()


def test_in_a_namespace_that_ends_nothing_is_made() -> None:
    ending = {"kind": "Namespace", "metadata": {"name": "ns", "deletionTimestamp": "2026-11-27T04:00:00Z"}}
    assert World(w.dataset(), w.runtime(), ending).run() == ["apply Dataset/status", "apply CacheRuntime/status"]


ENDING: Mapping[str, Any] = {"deletionTimestamp": "2026-11-27T04:00:00Z", "resourceVersion": "5"}


def test_deletion_takes_the_three_that_hold_and_then_lets_go() -> None:
    world = World(w.dataset(), w.runtime()).settled()
    old = world.copies.stores["Dataset"].get(D)
    held = ["theirs", *old.metadata.finalizers]
    meta = msgspec.structs.replace(old.metadata, deletion_timestamp=ENDING["deletionTimestamp"], finalizers=held)
    world.copies.stores["Dataset"].upsert(D, msgspec.structs.replace(old, metadata=meta))
    calls = world.run()
    deleted = [c for c in calls if c.startswith("delete")]
    assert deleted[:3] == ["delete PersistentVolumeClaim", "delete PersistentVolume", "delete StatefulSet"]
    assert "merge Dataset" not in calls
    for kind in ("PersistentVolumeClaim", "PersistentVolume", "StatefulSet"):
        for key in world.copies.stores[kind].all_keys():
            world.copies.stores[kind].remove(key)
    calls = world.run()
    assert "merge Dataset" in calls
    body = world.server.bodies[calls.index("merge Dataset")]["metadata"]
    assert body["finalizers"] == ["theirs"]
    assert body["resourceVersion"]
    assert "apply Dataset/status" not in calls


@pytest.mark.parametrize(("phase", "goes"), [("Succeeded", True), ("Failed", True), ("Running", False)])
def test_pods_that_have_ended_keep_no_claim(phase: str, goes: bool) -> None:
    """Kubernetes would keep it for them: pods of a Job stay until somebody deletes the Job."""
    world = World(w.dataset(), w.runtime()).settled()
    for kind, key in (("Dataset", D), ("PersistentVolumeClaim", Key("ns", "d"))):
        old = world.copies.stores[kind].get(key)
        held = ["theirs", "kubernetes.io/pvc-protection", *old.metadata.finalizers]
        meta = msgspec.structs.replace(old.metadata, deletion_timestamp=ENDING["deletionTimestamp"], finalizers=held)
        world.copies.stores[kind].upsert(key, msgspec.structs.replace(old, metadata=meta))
    w.put(world.copies, w.reader("r", phase=phase))
    calls = world.run()
    assert ("merge PersistentVolumeClaim" in calls) == goes
    if goes:
        body = world.server.bodies[calls.index("merge PersistentVolumeClaim")]["metadata"]
        assert body["finalizers"] == ["theirs"]
        assert body["resourceVersion"]


def test_an_order_to_leave_is_given_once() -> None:
    world = World(w.dataset(), w.runtime()).settled()
    w.put(world.copies, w.worker("d-worker-0"), w.worker("d-worker-1"))
    world.settled()
    smaller = w.runtime()
    smaller["spec"]["worker"]["replicas"] = 1
    marks = msgspec.to_builtins(world.copies.stores["CacheRuntime"].get(D).metadata)
    w.put(world.copies, {**smaller, "metadata": {**marks, "generation": 2}})
    calls = world.run()
    assert "merge Pod" in calls
    order = world.server.bodies[calls.index("merge Pod")]["metadata"]
    assert order == {"uid": "uid-Pod-d-worker-1", "annotations": {LEAVING: "2026-11-27T05:00:00Z"}}
    w.put(world.copies, w.worker("d-worker-1", **{LEAVING: "2026-11-27T04:59:50Z"}))
    assert "merge Pod" not in world.run()
    w.put(world.copies, w.worker("d-worker-1", ready=False, **{LEAVING: "2026-11-27T04:59:50Z"}))
    calls = world.run()
    assert world.server.bodies[calls.index("apply StatefulSet")]["spec"]["replicas"] == 1


def test_a_runtime_without_a_dataset_is_told_so_and_let_go_when_it_is_deleted() -> None:
    world = World(w.runtime())
    assert world.run() == ["apply CacheRuntime/status"]
    assert world.run() == []
    ending = w.runtime(**ENDING, finalizers=["cache-runtime-controller-finalizer"])
    assert World(ending).run() == ["merge CacheRuntime"]


def test_a_volume_whose_dataset_is_gone_goes_unless_the_server_knows_better() -> None:
    world = World(w.volume("ns/d", "ns/d"))
    assert world.run() == ["delete PersistentVolume"]
    assert world.server.bodies == ["uid-PersistentVolume-ns-d"]
    world.server.hidden["Dataset", D] = w.dataset()
    assert world.run() == []


def test_a_second_runtime_is_said_and_released() -> None:
    alluxio = w.runtime(kind="AlluxioRuntime", creationTimestamp="2026-11-27T04:59:59Z")
    world = World(w.dataset(), w.runtime(creationTimestamp="2026-11-27T04:00:00Z"), alluxio)
    assert "apply AlluxioRuntime/status" in world.run()
    ending = w.runtime(
        kind="AlluxioRuntime", **ENDING, finalizers=["alluxio-runtime-controller-finalizer"], creationTimestamp="x"
    )
    w.put(world.copies, ending)
    assert "merge AlluxioRuntime" in world.run()


def test_what_is_said_is_said_once_in_half_an_hour() -> None:
    said: list[Note] = []
    clock = [0.0]
    teller = Teller(said.append, lambda: clock[0])
    obj, found = w.dataset(uid="u"), [Finding("warning", "FieldsIgnored", "spec.x is ignored")]
    teller.findings(obj, found)
    teller.findings(obj, found)
    assert [(n.reason, n.type, n.regarding.uid) for n in said] == [("FieldsIgnored", "Warning", "u")]
    clock[0] = AGAIN
    teller.findings(obj, found)
    assert len(said) == 2
    teller.serving(obj, "DatasetReady", "fine", was=False, is_=True)
    teller.serving(obj, "DatasetReady", "fine", was=True, is_=True)
    teller.serving(obj, "Crashing", "bad", was=True, is_=False)
    assert [(n.reason, n.type) for n in said[2:]] == [("DatasetReady", "Normal"), ("Crashing", "Warning")]


def test_every_kind_that_is_planned_has_a_place() -> None:
    world = World(w.dataset(), w.runtime(), installation=Installation(default_engine="native", network_policy=True))
    kinds = {c.split()[1].partition("/")[0] for c in world.run()}
    assert kinds <= set(RESOURCES)
    assert "NetworkPolicy" in kinds
