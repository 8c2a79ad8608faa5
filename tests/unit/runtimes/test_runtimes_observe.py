"""What is said of a dataset, by what exists: one table of worlds, and that no phase outlives its cause."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
import runtime_worlds as worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_worlds import CACHE, CLAIM, CLASSIC, DATASET, NO_ROOM, SET, VOLUME, ending, unschedulable

from forebay.api.conditions import find
from forebay.api.fluid.status import CacheRuntimeStatus, RuntimeStatus
from forebay.runtimes.engine import Found, Observed, Ref, Subject, Warned, WorkerFacts

LATER = "2026-11-27T06:00:00Z"
WAITING: dict[str, Any] = {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 7}]}
CRASHED = copy.deepcopy(WAITING)
ENDED = {"exitCode": 2, "reason": "Error", "message": "x\nno such directory\n"}
CRASHED["containerStatuses"][0]["lastState"] = {"terminated": ENDED}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}


def pod(i: int, **status: Any) -> dict[str, Any]:
    return worlds.worker(f"d-worker-{i}", f"node-{i}", ready=not status, **status)


def without(found: Found, *refs: Ref) -> dict[Ref, Any]:
    return {k: v for k, v in found.objects.items() if k not in refs}


def changed(found: Found, ref: Ref, **more: Any) -> dict[Ref, Any]:
    return {**found.objects, ref: {**copy.deepcopy(found.objects[ref]), **more}}


SUBJECT = worlds.one(DATASET + CACHE)
READY = worlds.settled(SUBJECT)
PODS = READY.pods
APART = (
    "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules. no new claims to deallocate, preemption: 0/2 nodes "
    "are available: 2 No preemption victims found for incoming pod."
)

# world: what is different from "all is ready" -> phase, reason of Ready, part of its message, workers' phase, mountable
WORLDS: dict[str, tuple[dict[str, Any], tuple[str, str, str, str, bool]]] = {
    "nothing exists": (
        {"objects": {}, "pods": (), "workers": {}},
        ("NotBound", "WorkersMissing", "being made", "NotReady", False),
    ),
    "no pod yet": ({"pods": ()}, ("NotBound", "WorkersStarting", "no worker pod exists yet", "NotReady", False)),
    "pods start": (
        {"pods": (pod(0, phase="Pending"), pod(1, phase="Pending"))},
        ("NotBound", "WorkersStarting", "d-worker-0: it is starting on node-0", "NotReady", False),
    ),
    "one of three ready": (
        {"pods": (PODS[0], pod(1, phase="Pending"), unschedulable("d-worker-2"))},
        ("Bound", "DatasetReady", f"1 of 3 workers serve; d-worker-2: {NO_ROOM}", "PartialReady", True),
    ),
    "all ready": ({}, ("Bound", "DatasetReady", "The ddc runtime is ready.", "Ready", True)),
    "claim missing": (
        {"objects": without(READY, CLAIM)},
        ("NotBound", "ClaimMissing", "PersistentVolumeClaim d is being made", "Ready", False),
    ),
    "volume missing": (
        {"objects": without(READY, VOLUME)},
        ("NotBound", "ClaimMissing", "PersistentVolume ns-d is being made", "Ready", False),
    ),
    "claim pending": (
        {
            "objects": changed(READY, CLAIM, status={"phase": "Pending"}),
            "warned": (Warned(CLAIM, "VolumeMismatch", "Cannot bind"),),
        },
        ("NotBound", "ClaimNotBound", "d is Pending, PersistentVolume ns-d is Bound: Cannot bind", "Ready", False),
    ),
    "claim lost": (
        {"objects": changed(READY, CLAIM, status={"phase": "Lost"})},
        ("NotBound", "ClaimLost", "PersistentVolumeClaim d is Lost", "Ready", False),
    ),
    "claim ending": (
        {"objects": {**READY.objects, CLAIM: ending(READY.objects[CLAIM])}},
        ("NotBound", "ClaimEnding", "is being deleted", "Ready", False),
    ),
    "crash loop": (
        {"pods": (pod(0, **CRASHED), pod(1, phase="Pending"))},
        ("NotBound", "Crashing", "d-worker-0: exit code 2 (Error), 7 restarts: no such directory", "NotReady", False),
    ),
    "crash loop without an end known": (
        {"pods": (pod(0, **WAITING),)},
        ("NotBound", "Crashing", "d-worker-0: CrashLoopBackOff", "NotReady", False),
    ),
    "image missing": (
        {"pods": (pod(0, **waiting("ImagePullBackOff", "not found")),)},
        ("NotBound", "ImageMissing", "ImagePullBackOff: not found", "NotReady", False),
    ),
    "secret missing": (
        {
            "pods": (pod(0, phase="Pending"),),
            "warned": (Warned(Ref("Pod", "ns", "d-worker-0"), "FailedMount", 'secret "cred" not found'),),
        },
        ("NotBound", "MountFailed", 'secret "cred" not found', "NotReady", False),
    ),
    "unschedulable": (
        {"pods": (unschedulable("d-worker-0"), unschedulable("d-worker-1"))},
        ("NotBound", "Unschedulable", NO_ROOM, "NotReady", False),
    ),
    "evicted": (
        {"pods": (pod(0, phase="Failed", reason="Evicted", message="The node was low on memory."),)},
        ("NotBound", "Evicted", "Evicted: The node was low on memory.", "NotReady", False),
    ),
    "one node lost": (
        {"nodes": {"node-0": False, "node-1": True, "node-2": True}},
        ("Bound", "DatasetReady", "2 of 3 workers serve; d-worker-0: its node node-0 is not ready", "PartialReady", True),
    ),
    "all nodes lost": (
        {"nodes": {"node-9": True}},
        ("NotBound", "NodeLost", "its node node-0 is gone", "NotReady", False),
    ),
    "quota of the namespace": (
        {"pods": (), "warned": (Warned(SET, "FailedCreate", 'pods "d-worker-0" is forbidden: exceeded quota: q'),)},
        ("NotBound", "QuotaExceeded", "exceeded quota: q", "NotReady", False),
    ),
    "quota hit after the first": (
        {"pods": PODS[:1], "warned": (Warned(SET, "FailedCreate", "exceeded quota: q"),)},
        ("Bound", "DatasetReady", "1 of 3 workers serve: exceeded quota: q", "PartialReady", True),
    ),
    "pod security": (
        {"pods": (), "warned": (Warned(SET, "FailedCreate", 'violates PodSecurity "restricted:latest"'),)},
        ("NotBound", "PodRefused", "violates PodSecurity", "NotReady", False),
    ),
    "no room beside others": (
        {"pods": (unschedulable("d-worker-0", APART), unschedulable("d-worker-1", APART))},
        (
            "NotBound",
            "Unschedulable",
            "write placement: Shared in all of them, ask for fewer workers, or add nodes",
            "NotReady",
            False,
        ),
    ),
    "a store fails": (
        {"workers": {**READY.workers, "d-worker-1": WorkerFacts(trouble="/a: no answer from https://id:key@h/")}},
        (
            "Bound",
            "DatasetReady",
            "The ddc runtime is ready. But 1 of 3 workers get nothing from a store; d-worker-1: /a: no answer from https://h/;",
            "Ready",
            True,
        ),
    ),
    "a full disk": (
        {"workers": {**READY.workers, "d-worker-0": WorkerFacts(full="others leave less than 20% of the disk free")}},
        (
            "Bound",
            "DatasetReady",
            "The ddc runtime is ready. But 1 of 3 workers cache nothing; d-worker-0 on ",
            "Ready",
            True,
        ),
    ),
    "mounts of before": (
        {"workers": {p["metadata"]["name"]: WorkerFacts(revision="old", places=("/a",)) for p in PODS}},
        ("Updating", "DatasetReady", "3 of 3 ready workers still serve the mounts of before", "Ready", True),
    ),
}


def told(observed: Observed) -> tuple[str, str, str, str, bool]:
    ready = find(observed.dataset.conditions, "Ready")
    assert ready is not None
    runtime = observed.runtime
    assert isinstance(runtime, CacheRuntimeStatus)
    assert isinstance(runtime.worker, msgspec.Struct)
    assert runtime.worker.phase == runtime.phase
    assert (ready.status == "True") == (observed.dataset.phase in ("Bound", "Updating"))
    return observed.dataset.phase, ready.reason, ready.message, runtime.phase, observed.mountable


@pytest.mark.parametrize("world", WORLDS)
def test_status_by_what_exists(world: str) -> None:
    differences, (phase, reason, message, workers, mountable) = WORLDS[world]
    found = worlds.settled(SUBJECT, **differences)
    phase_, reason_, message_, workers_, mountable_ = told(worlds.observe(SUBJECT, found))
    assert (phase_, reason_, workers_, mountable_) == (phase, reason, workers, mountable)
    assert message in message_


@settings(deadline=None)  # a machine that does other things takes its time
@given(st.lists(st.sampled_from(sorted(WORLDS)), min_size=1, max_size=4))
def test_no_world_leaves_a_trace_in_the_next(history: list[str]) -> None:
    """The same is said of a world whatever was said before, but for the times."""
    subject = SUBJECT
    for world in history:
        observed = worlds.observe(subject, worlds.settled(SUBJECT, **WORLDS[world][0]))
        subject = written(subject, observed)
    fresh = worlds.observe(SUBJECT, worlds.settled(SUBJECT, **WORLDS[history[-1]][0]))
    for one, other in ((observed.dataset, fresh.dataset), (observed.runtime, fresh.runtime)):
        assert one is not None
        assert other is not None
        assert timeless(one) == timeless(other)


def written(subject: Subject, observed: Observed) -> Subject:
    """The subject after the status was written."""
    runtime = {**subject.runtimes[0], "status": json.loads(msgspec.json.encode(observed.runtime))}
    dataset = {**subject.dataset, "status": json.loads(msgspec.json.encode(observed.dataset))}
    return msgspec.structs.replace(subject, dataset=dataset, runtimes=(runtime,))


def timeless(status: msgspec.Struct) -> Any:
    found = json.loads(msgspec.json.encode(status))
    found.pop("setupDuration", None)  # it happened once: from then on it stays
    for condition in found["conditions"]:
        for key in ("lastTransitionTime", "lastUpdateTime", "lastProbeTime"):
            condition.pop(key, None)
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_a_pass_that_finds_nothing_new_writes_nothing_new(world: str) -> None:
    found = worlds.settled(SUBJECT, **WORLDS[world][0])
    first = worlds.observe(SUBJECT, found)
    again = worlds.observe(written(SUBJECT, first), found, LATER)
    assert again.dataset == first.dataset
    assert again.runtime == first.runtime


def test_transition_time_moves_with_the_status_alone() -> None:
    before = written(SUBJECT, worlds.observe(SUBJECT))
    after = worlds.observe(before, READY, LATER)
    ready, scheduled = (find(after.dataset.conditions, t) for t in ("Ready", "Updating"))
    assert ready is not None
    assert ready.last_transition_time == LATER
    assert ready.observed_generation == 4
    assert scheduled is not None
    assert scheduled.last_transition_time == worlds.NOW


def test_conditions_of_other_writers_are_theirs() -> None:
    dataset = copy.deepcopy(SUBJECT.dataset)
    dataset["status"] = {"conditions": [{"type": "Audited", "status": "True"}, {"type": "Ready", "status": "Maybe"}, {}]}
    observed = worlds.observe(msgspec.structs.replace(SUBJECT, dataset=dataset), READY)
    assert find(observed.dataset.conditions, "Audited") is None
    assert find(observed.dataset.conditions, "Ready") is not None


def test_numbers_stand_beside_fluids_strings() -> None:
    status = worlds.observe(SUBJECT, READY).dataset
    assert (status.ufs_total, status.file_num) == ("5.00GiB", "7")
    assert status.cache_states["cached"] == "3.00GiB"
    assert status.cache_states["cachedPercentage"] == "60.0%"
    assert status.cache_states["cacheCapacity"] == "12.00GiB"
    assert isinstance(status.measured, msgspec.Struct)
    assert (status.measured.cached_bytes, status.measured.capacity_bytes) == (3 << 30, 12 << 30)
    assert (status.observed_generation, status.engine) == (4, "forebay")


def test_what_nobody_reports_is_not_claimed() -> None:
    status = worlds.observe(SUBJECT, worlds.settled(SUBJECT, workers={})).dataset
    assert (status.ufs_total, status.file_num, status.cache_states) == ("[Calculating]", "[Calculating]", {})
    assert status.measured is msgspec.UNSET


def test_a_listing_in_progress_has_no_share() -> None:
    facts = {p["metadata"]["name"]: WorkerFacts(owned_bytes=5, total_bytes=9 * i, files=i) for i, p in enumerate(PODS)}
    status = worlds.observe(SUBJECT, worlds.settled(SUBJECT, workers=facts)).dataset
    assert status.ufs_total == "[Calculating]"
    assert "cachedPercentage" not in status.cache_states
    assert isinstance(status.measured, msgspec.Struct)
    assert (status.measured.cached_bytes, status.measured.total_bytes, status.measured.listed) == (15, 18, False)


def test_of_a_worker_that_says_nothing_nothing_is_measured() -> None:
    facts = {p["metadata"]["name"]: WorkerFacts(drain="Running", silent=True) for p in PODS}
    assert worlds.observe(SUBJECT, worlds.settled(SUBJECT, workers=facts)).dataset.measured is msgspec.UNSET


def test_mounts_are_those_that_every_ready_worker_serves() -> None:
    facts = {p["metadata"]["name"]: WorkerFacts(revision="old", places=("/a", "/gone")) for p in PODS}
    status = worlds.observe(SUBJECT, worlds.settled(SUBJECT, workers=facts)).dataset
    assert [m["name"] for m in status.mounts] == ["a"]
    assert [m["name"] for m in worlds.observe(SUBJECT, READY).dataset.mounts] == ["a", "b"]


@pytest.mark.parametrize("runtime", [CACHE, CLASSIC])
def test_scaled_to_0(runtime: str) -> None:
    subject = worlds.one(DATASET + runtime.replace("replicas: 3", "replicas: 0"))
    observed = worlds.observe(subject, worlds.settled(subject))
    ready = find(observed.dataset.conditions, "Ready")
    assert ready is not None
    assert (observed.dataset.phase, ready.reason, observed.mountable) == ("NotBound", "ScaledToZero", False)
    runtime = json.loads(msgspec.json.encode(observed.runtime))
    assert runtime.get("workerPhase", runtime.get("phase")) == "Ready"  # Fluid's rule: nothing asked for is ready


def test_a_classic_runtime_has_fluids_thirteen_fields() -> None:
    subject = worlds.one(DATASET + CLASSIC, worlds.Installation())
    found = worlds.settled(subject, pods=(PODS[0], pod(1, **CRASHED)), mounted={"n1": True, "n2": False})
    status = worlds.observe(subject, found).runtime
    assert isinstance(status, RuntimeStatus)
    assert (status.master_phase, status.worker_phase, status.fuse_phase) == ("Ready", "PartialReady", "PartialReady")
    assert (status.desired_worker_number_scheduled, status.current_worker_number_scheduled, status.worker_number_ready) == (
        3,
        2,
        1,
    )
    assert (status.worker_number_unavailable, status.fuse_number_unavailable) == (2, 1)
    assert status.worker_reason.startswith("Crashing: 1 of 3 are ready; d-worker-1: exit code 2")
    assert status.selector == "forebay.io/component=worker,forebay.io/dataset=d"
    fuses = find(status.conditions, "FusesReady")
    assert fuses is not None
    assert (fuses.status, fuses.message) == ("False", "on n2")


def test_spec_errors_before_and_after_it_was_served() -> None:
    """A quota list that does not fit: Failed where nothing serves, said beside a Bound dataset where workers still do."""
    bad = (DATASET + CLASSIC).replace("path: /c, quota: 1Gi", "path: '/c,/d', quotaList: '1Gi,2Gi,3Gi'")
    subject = worlds.one(bad)
    fresh = worlds.observe(subject)
    failed = find(fresh.dataset.conditions, "NotReady")
    assert failed is not None
    assert (fresh.dataset.phase, failed.status, failed.reason) == ("Failed", "True", "DatasetFailedToSetup")
    assert "quotaList" in failed.message
    assert "has 3 quantities for 2 paths" in failed.message
    assert worlds.plan(subject).apply == ()
    assert [f.severity for f in worlds.plan(subject).findings] == ["error"]

    before = worlds.one(DATASET + CLASSIC)
    kept = worlds.observe(subject, worlds.settled(before))
    update = find(kept.dataset.conditions, "UpdateReady")
    assert update is not None
    assert (kept.dataset.phase, kept.mountable, update.status, update.reason) == ("Bound", True, "False", "SpecRefused")
    assert "what was served before stays" in update.message
    assert "has 3 quantities for 2 paths" in update.message


def test_writing_is_not_served_and_said() -> None:
    for modes, reduced in (("ReadWriteMany", "True"), ("ReadOnlyMany", "False"), ("ReadOnlyMany, ReadWriteOnce", "True")):
        subject = worlds.one(DATASET.replace("spec: {", f"spec: {{accessModes: [{modes}], ") + CACHE)
        condition = find(worlds.observe(subject, worlds.settled(subject)).dataset.conditions, "AccessReduced")
        assert condition is not None
        assert condition.status == reduced
        assert (reduced == "True") == ("serves ReadOnlyMany" in condition.message)


def deleting(subject: Subject) -> Subject:
    return msgspec.structs.replace(subject, dataset=ending(subject.dataset))


def test_deletion_waits_for_users_and_says_for_whom() -> None:
    subject = deleting(SUBJECT)
    users = tuple(f"p{i}" for i in range(7))
    found = worlds.settled(SUBJECT, users=users)
    observed, planned = worlds.observe(subject, found), worlds.plan(subject, found)
    condition = find(observed.dataset.conditions, "Deleting")
    assert condition is not None
    assert (condition.reason, observed.dataset.phase, observed.mountable) == ("InUse", "Bound", False)
    assert "p0, p1, p2, p3, p4 and 2 more" in condition.message
    assert (planned.delete, planned.apply, planned.release) == ((), (), False)
    assert [f.reason for f in planned.findings] == ["InUse"]

    found = worlds.settled(SUBJECT, referrers=("b/view",))
    condition = find(worlds.observe(subject, found).dataset.conditions, "Deleting")
    assert condition is not None
    assert "b/view" in condition.message


def test_deletion_takes_the_claim_first_and_ends() -> None:
    subject, objects = deleting(SUBJECT), dict(READY.objects)
    for _ in range(3):
        planned = worlds.plan(subject, msgspec.structs.replace(READY, objects=objects))
        observed = worlds.observe(subject, msgspec.structs.replace(READY, objects=objects))
        condition = find(observed.dataset.conditions, "Deleting")
        assert condition is not None
        assert condition.reason == "TakingAway"
        if planned.release:
            break
        assert [r.kind for r in planned.delete[:3]] == ["PersistentVolumeClaim", "PersistentVolume", "StatefulSet"]
        for ref in planned.delete:
            del objects[ref]
    assert planned.release
    assert planned.delete == ()


@pytest.mark.parametrize("left", ["Service", "ConfigMap", "Secret", "PodDisruptionBudget"])
def test_what_owner_references_hold_keeps_no_finalizer(left: str) -> None:
    objects = {k: ending(v) for k, v in READY.objects.items() if k.kind == left}
    assert objects
    planned = worlds.plan(deleting(SUBJECT), msgspec.structs.replace(READY, objects=objects))
    assert (planned.release, planned.delete) == (True, ())


def test_a_runtime_that_is_deleted_takes_its_dataset_down() -> None:
    subject = msgspec.structs.replace(SUBJECT, runtimes=(ending(SUBJECT.runtimes[0]),))
    planned = worlds.plan(subject, READY)
    assert planned.apply == ()
    assert SET in planned.delete
    observed = worlds.observe(subject, worlds.settled(SUBJECT, pods=()))
    ready = find(observed.dataset.conditions, "Ready")
    assert ready is not None
    assert ready.reason == "TakingAway"


def test_whether_stores_answer_is_a_condition_and_an_event() -> None:
    def answer(**more: Any) -> tuple[str, str]:
        found = find(worlds.observe(SUBJECT, worlds.settled(SUBJECT, **more)).dataset.conditions, "StoresAnswer")
        assert found is not None
        return found.status, found.reason

    names = [p["metadata"]["name"] for p in PODS]
    assert answer(workers={}) == ("False", "NotAskedYet")
    assert answer(workers={name: WorkerFacts(listed=False) for name in names}) == ("True", "Listing")
    assert answer() == ("True", "Listed")
    failing = worlds.settled(SUBJECT, workers={name: WorkerFacts(trouble="/a: refused the credentials") for name in names})
    assert answer(workers=failing.workers) == ("False", "StoreFails")
    (told_,) = worlds.observe(SUBJECT, failing).findings
    assert told_.severity == "warning"
    assert told_.message.startswith("3 of 3 workers get nothing from a store; d-worker-0: /a: refused the credentials;")


def test_a_disk_that_others_filled_is_a_condition_and_an_event() -> None:
    def admits(**more: Any) -> tuple[str, str]:
        found = find(worlds.observe(SUBJECT, worlds.settled(SUBJECT, **more)).dataset.conditions, "CacheAdmits")
        assert found is not None
        return found.status, found.reason

    assert admits(workers={}) == ("False", "NotAskedYet")
    assert admits() == ("True", "RoomLeft")
    full = {"d-worker-1": WorkerFacts(full="others leave less than 20% of the disk free")}
    assert admits(workers=full) == ("False", "DiskFull")
    (told_,) = worlds.observe(SUBJECT, worlds.settled(SUBJECT, workers=full)).findings
    assert (told_.severity, told_.reason) == ("warning", "DiskFull")
    assert "d-worker-1 on " in told_.message


def test_a_pod_that_waits_for_a_claim_that_was_never_made_holds_nothing_up() -> None:
    subject = worlds.one(DATASET + CACHE)
    nothing = Found(users=("reader",))
    assert worlds.registry.leave(subject, {"forebay": nothing}) == worlds.registry.leave(subject, {"forebay": Found()})
    held = worlds.registry.leave(subject, {"forebay": worlds.settled(subject, users=("reader",))})
    assert [f.reason for f in held.findings] == ["InUse"]
