"""What passes over DataLoads write, and which DataLoads a change is about; over copies filled by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import controllerworld as w
import msgspec
import pytest
from test_controller_passes import NATIVE, Server

from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import Looker
from forebay.controller.datasets.mapping import datasets
from forebay.controller.loads.looking import LoadLooker
from forebay.controller.loads.mapping import loads
from forebay.controller.loads.reconciler import LoadReconciler
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer
from forebay.kube.errors import Conflict, Forbidden, Status
from forebay.kube.eventlog import Note
from forebay.kube.objects import Key

L, D = Key("ns", "l"), Key("ns", "d")
NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)
MADE = ["create ServiceAccount", "create Role", "create RoleBinding", "create Job"]
BOUND = {"status": {"phase": "Bound", "conditions": []}}
EXECUTING = {"status": {"phase": "Executing", "conditions": []}}


def load(name: str = "l", of: str = "d", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "creationTimestamp": "2026-11-27T04:00:00Z"}
    spec = {"dataset": {"name": of}, **more.pop("spec", {})}
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "DataLoad",
        "metadata": {**meta, **more.pop("meta", {})},
        "spec": spec,
        **more,
    }


def job(of: str = "l", end: str = "", uid: str = "") -> dict[str, Any]:
    owner = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "DataLoad", "name": of, "uid": uid or f"uid-{of}"}
    meta = {"name": f"{of}-loader-job", "namespace": "ns", "uid": "uid-job", "ownerReferences": [owner]}
    said = [{"type": end, "status": "True", "lastTransitionTime": "2026-11-27T04:59:00Z"}] if end else []
    labels = {"app.kubernetes.io/managed-by": "forebay", "forebay.io/dataset": "d"}
    return {"kind": "Job", "metadata": {**meta, "labels": labels}, "status": {"conditions": said}}


def pod(name: str, state: dict[str, Any], phase: str = "Running", of: str = "l") -> dict[str, Any]:
    labels = {"forebay.io/component": "loader", "batch.kubernetes.io/job-name": f"{of}-loader-job"}
    status = {"phase": phase, "containerStatuses": [{"name": "loader", "state": state}]}
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "labels": labels}, "spec": {}, "status": status}


class World:
    def __init__(self, *objects: dict[str, Any]) -> None:
        self.copies = Copies()
        w.put(self.copies, *objects)
        self.server = Server(self.copies)
        self.said: list[Note] = []
        looker = LoadLooker(self.copies, Looker(self.copies, NATIVE))
        self.reconciler = LoadReconciler(looker, Writer(self.server), Teller(self.said.append), wall=lambda: NOW)

    def run(self, key: Key = L) -> list[str]:
        self.server.calls.clear()
        self.server.bodies.clear()
        self.reconciler.reconcile(key)
        return list(self.server.calls)

    def status(self, key: Key = L) -> dict[str, Any]:
        return self.copies.get("DataLoad", *key).status


def bound(**more: Any) -> dict[str, Any]:
    return {**w.dataset(**more), **BOUND}


def test_it_begins_when_the_dataset_is_bound_and_a_settled_load_is_not_written_to() -> None:
    world = World(w.dataset(), w.runtime(), load())
    assert world.run() == ["apply DataLoad", "apply DataLoad/status"]
    assert world.status()["phase"] == "Pending"
    assert world.run() == []
    w.put(world.copies, bound())
    assert world.run() == [*MADE, "apply DataLoad/status"]
    assert world.status()["phase"] == "Executing"
    w.put(world.copies, job())
    assert set(world.run()) <= {"apply DataLoad/status"}
    assert world.run() == []
    status = {**world.status(), "progress": {"doneBytes": 5}}
    owners = msgspec.to_builtins(world.copies.get("DataLoad", *L).metadata.owner_references)
    w.put(world.copies, load(status=status, meta={"ownerReferences": owners}))
    assert world.run() == [], "progress is written by who loads"


def test_what_is_made_belongs_to_the_load_and_may_say_how_far_it_is() -> None:
    world = World(bound(), w.runtime(), load())
    world.run()
    made = {body["kind"]: body for body in world.server.bodies if body and body["kind"] != "DataLoad"}
    for obj in made.values():
        (owner,) = obj["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("DataLoad", "l", "uid-l")
    assert made["Role"]["rules"] == [
        {"apiGroups": ["data.fluid.io"], "resources": ["dataloads/status"], "resourceNames": ["l"], "verbs": ["patch"]}
    ]
    spec = made["Job"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == made["ServiceAccount"]["metadata"]["name"]
    assert made["RoleBinding"]["subjects"][0]["name"] == spec["serviceAccountName"]
    (mark,) = [body for body in world.server.bodies if body and body["kind"] == "DataLoad" and "status" not in body]
    assert mark["metadata"]["ownerReferences"] == [
        {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "name": "d", "uid": "uid-Dataset-d"}
    ]


def test_the_end_comes_with_the_pods_last_words_and_is_told_once() -> None:
    words = '{"milliseconds":3,"progress":{"totalBytes":9,"doneBytes":9,"percent":100}}'
    done = pod("p2", {"terminated": {"exitCode": 0, "message": words, "finishedAt": "2026-11-27T04:58:00Z"}}, "Succeeded")
    before = pod("p1", {"terminated": {"exitCode": 1, "message": "no", "finishedAt": "2026-11-27T04:57:00Z"}}, "Failed")
    world = World(bound(), w.runtime(), load(**EXECUTING), job(end="Complete"), before, done)
    assert "apply DataLoad/status" in world.run()
    assert world.status()["progress"] == {"totalBytes": 9, "doneBytes": 9, "percent": 100}
    assert [(n.type, n.reason) for n in world.said] == [("Normal", "DataOperationSucceed")]
    assert world.run() == []
    assert len(world.said) == 1


def test_a_pod_that_does_not_run_is_told_in_its_kubelets_words() -> None:
    waits = pod("p", {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}, "Pending")
    world = World(bound(), w.runtime(), load(**EXECUTING), job(), waits)
    world.run()
    complete = next(x for x in world.status()["conditions"] if x["type"] == "Complete")
    assert complete["message"] == "pod p: ErrImagePull: no such image"


def test_a_quota_that_lets_no_pod_be_made_is_told() -> None:
    said = w.event("Job", "l-loader-job", "FailedCreate", "2026-11-27T04:59:00Z", note="exceeded quota")
    world = World(bound(), w.runtime(), load(**EXECUTING), job(), said)
    world.run()
    assert "exceeded quota" in str(world.status()["conditions"])


def test_a_refusal_leaves_it_waiting_with_the_servers_words() -> None:
    world = World(bound(), w.runtime(), load())
    world.server.refuse["create Job"] = Forbidden("POST", Status(code=403, message="jobs are not for you"))
    with pytest.raises(Forbidden):
        world.run()
    assert world.status()["phase"] == "Pending"
    assert "jobs are not for you" in str(world.status()["conditions"])
    assert [n.reason for n in world.said] == ["Refused"]


def test_a_job_of_somebody_else_is_left_alone() -> None:
    world = World(bound(), w.runtime(), load())
    world.server.hidden["Job", Key("ns", "l-loader-job")] = {"metadata": {"name": "l-loader-job", "namespace": "ns"}}
    assert world.run() == ["apply DataLoad", "apply DataLoad/status"]
    assert "NameTaken" in str(world.status()["conditions"])


def test_a_job_of_an_earlier_load_of_the_name_is_waited_for() -> None:
    world = World(bound(), w.runtime(), load(), job(uid="uid-earlier"))
    assert world.run() == ["apply DataLoad", "apply DataLoad/status"]
    assert "NameTaken" in str(world.status()["conditions"])


def test_only_so_many_run_and_the_oldest_waits_in_front() -> None:
    others = [load(f"r{n}", **EXECUTING) for n in range(4)]
    waiting = {"status": {"phase": "Pending", "conditions": [{"type": "Waiting", "reason": "OperationsAhead", "status": "True"}]}}
    late = load("z", meta={"creationTimestamp": "2026-11-27T04:30:00Z"}, **waiting)
    world = World(bound(), w.runtime(), load(), late, *others)
    world.run()
    assert "r0, r1, r2, r3" in str(world.status()["conditions"])
    w.put(world.copies, load("r3", status={"phase": "Complete"}))
    world.run(Key("ns", "z"))
    assert world.status(Key("ns", "z"))["phase"] == "Pending", "l was there before"
    world.run()
    assert world.status()["phase"] == "Executing"


def test_a_load_that_fails_says_so_before_its_job_goes() -> None:
    """The Job is all that shows that it ran: were it gone first, the next pass would take the load for one that never began."""
    leaving = bound()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-27T04:59:00Z"
    world = World(leaving, w.runtime(), load(**EXECUTING), job())
    world.server.refuse["apply DataLoad/status"] = Conflict("PATCH", Status(code=409, message="it has changed"))
    assert "delete Job" not in world.run()
    world.server.refuse.clear()
    assert world.run() == ["apply DataLoad/status", "delete Job"]
    assert world.status()["phase"] == "Failed"


def test_a_job_whose_load_is_gone_goes_too() -> None:
    world = World(job())
    assert world.run() == ["delete Job"]
    assert world.server.bodies == ["uid-job"]


def test_a_load_whose_time_is_over_is_deleted_by_uid() -> None:
    conditions = [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-27T04:00:00Z"}]
    over = load(spec={"ttlSecondsAfterFinished": 5}, status={"phase": "Complete", "conditions": conditions})
    world = World(bound(), w.runtime(), over)
    assert world.run() == ["delete DataLoad"]
    assert world.server.bodies == ["uid-l"]


def workers(ready: int, of: int, **more: Any) -> dict[str, Any]:
    made = w.child("StatefulSet", "d-worker")
    return {**made, "spec": {"replicas": of}, "status": {"replicas": of, **({"readyReplicas": ready} if ready else {}), **more}}


def test_it_waits_for_the_workers_that_the_engine_makes() -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-27T04:59:59Z"}
    world = World({**w.dataset(), "status": {"phase": "Bound", "conditions": [ready]}}, w.runtime(), load(), workers(1, of=2))
    assert world.run() == ["apply DataLoad", "apply DataLoad/status"]
    assert [c["reason"] for c in world.status()["conditions"] if c["status"] == "True"] == ["WorkersStarting"]
    assert world.run() == []
    again = world.reconciler.reconcile(L)
    assert again is not None
    assert 119 < again.after < 120
    w.put(world.copies, workers(2, of=2))
    assert world.run() == [*MADE, "apply DataLoad/status"]


# --- which loads a change is about ---


def about(copies: Copies, obj: dict[str, Any]) -> tuple[set[Key], set[Key]]:
    """Loads and datasets that are to be looked at when an object comes."""
    found: tuple[set[Key], set[Key]] = (set(), set())

    def changed(change: Any) -> None:
        found[0].update(loads(obj["kind"], change, copies))
        found[1].update(datasets(obj["kind"], change, copies))

    copies.stores[obj["kind"]].subscribe(changed)
    for each in found:
        each.clear()  # what is there is told first
    w.put(copies, obj)
    return found


def test_what_a_change_is_about() -> None:
    copies = Copies()
    after = {"runAfter": {"kind": "DataLoad", "name": "l"}}
    w.put(copies, w.dataset(), load(), load("m"), load("elsewhere", of="x", spec=after), load("far", of="x"))
    assert about(copies, bound()) == ({L, Key("ns", "m")}, {D})
    assert about(copies, load(**EXECUTING)) == ({L, Key("ns", "m"), Key("ns", "elsewhere")}, {D})
    assert about(copies, load(status={"phase": "Executing", "progress": {"doneBytes": 1}})) == ({L}, set())
    assert about(copies, job()) == ({L}, set())
    assert about(copies, pod("p", {}))[0] == {L}
    assert about(copies, w.event("Job", "l-loader-job", "FailedCreate", "2026-11-27T04:59:00Z"))[0] == {L}
    assert about(copies, w.worker("d-worker-0"))[0] == set()
    done = {"status": {"phase": "Complete", "conditions": []}}
    w.put(copies, load("new"), load("done", **done), load())
    assert about(copies, workers(0, of=3)) == ({L, Key("ns", "m"), Key("ns", "new")}, {D})
    assert about(copies, workers(1, of=3))[0] == {L, Key("ns", "m"), Key("ns", "new")}
    assert about(copies, workers(1, of=3, updatedReplicas=2))[0] == set(), "as many are ready as before"


def test_the_dataset_names_what_runs() -> None:
    copies = Copies()
    w.put(copies, w.dataset(), w.runtime(), load(**EXECUTING), load("m", **EXECUTING), load("n"))
    looker = Looker(copies, NATIVE)
    subject = looker.subject(D)
    assert subject is not None
    for found in looker.look(subject, NOW).found.values():
        assert found.operations == {"DataLoad": "l,m"}
