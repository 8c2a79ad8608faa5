"""What is done with a DataLoad, by what is known of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from forebay.api.fluid.status import Progress
from forebay.api.loadresult import LoadResult
from forebay.api.manifests.dataload import dataset_of, read_load
from forebay.controller.loads.deciding import AT_ONCE, NOT_SERVED, WORKERS, DatasetFacts, Facts, PodFacts, decide, duration
from forebay.runtimes.engine import Finding, Loading, Ref

NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)
JOB = Ref("Job", "ns", "l-loader-job")
MADE = ({"kind": "Role"}, {"kind": "Job"})
BOUND = DatasetFacts(uid="d-uid", bound=True)


def load(status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    found = {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "DataLoad",
        "metadata": {"name": "l", "namespace": "ns", "uid": "l-uid", "generation": 3, **meta},
        "spec": {"dataset": {"name": "d"}, **(spec or {})},
    }
    return found if status is None else {**found, "status": status}


def facts(obj: dict[str, Any] | None = None, **more: Any) -> Facts:
    obj = obj or load()
    given: dict[str, Any] = {"dataset": BOUND, "loading": Loading(objects=MADE, job=JOB), **more}
    return Facts(load=obj, spec=read_load(obj), dataset_key=dataset_of(obj), **given)


def job(end: str = "", reason: str = "", *, minutes: int = 2) -> dict[str, Any]:
    at = NOW.isoformat().replace("+00:00", "Z")
    begun = (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    said = [{"type": end, "status": "True", "reason": reason, "message": "backoff", "lastTransitionTime": at}] if end else []
    return {
        "kind": "Job",
        "metadata": {"name": "l-loader-job", "namespace": "ns", "uid": "j"},
        "status": {"startTime": begun, "conditions": said},
    }


def said(facts_: Facts) -> tuple[str, str]:
    """Phase, and the reason of the condition that holds; "" where it executes."""
    status = decide(facts_, NOW).status
    assert status is not None
    assert {c.type for c in status.conditions} == {"Complete", "Failed", "Waiting"}
    assert all(c.observed_generation == 3 for c in status.conditions)
    holds = [c for c in status.conditions if c.status == "True"]
    assert len(holds) == (0 if status.phase == "Executing" else 1)
    assert all(c.message for c in holds)
    return status.phase, holds[0].reason if holds else ""


BEFORE = {"runAfter": {"kind": "DataLoad", "name": "first"}}
WAITS: dict[str, tuple[str, str, Facts]] = {
    "no dataset": ("Pending", "TargetDatasetNotFound", facts(dataset=None)),
    "a dataset that goes": ("Pending", "TargetDatasetDeleting", facts(dataset=DatasetFacts(uid="d", ending=True, bound=True))),
    "not bound": ("Pending", "TargetDatasetNotReady", facts(dataset=DatasetFacts(uid="d", message="no worker"))),
    "no engine": ("Pending", "EngineNotDriven", facts(dataset=DatasetFacts(uid="d", unserved=("EngineNotDriven", "jindo")))),
    "many ahead": ("Pending", "OperationsAhead", facts(ahead=tuple("abcd"))),
    "not so many": ("Executing", "", facts(ahead=tuple("abc"))),
    "a foreign job": ("Pending", "NameTaken", facts(taken=True)),
    "cron": ("Pending", "PolicyNotServed", facts(load(spec={"policy": "Cron", "schedule": "1 2 * * *"}))),
    "on event": ("Pending", "PolicyNotServed", facts(load(spec={"policy": "OnEvent"}))),
    "after one that is missing": ("Pending", "RunAfter", facts(load(spec=BEFORE))),
    "after one that runs": ("Pending", "RunAfter", facts(load(spec=BEFORE), before=load({"phase": "Executing"}))),
    "after one that failed": ("Failed", "PredecessorFailed", facts(load(spec=BEFORE), before=load({"phase": "Failed"}))),
    "after one that is done": ("Executing", "", facts(load(spec=BEFORE), before=load({"phase": "Complete"}))),
    "after a process": ("Pending", "RunAfterNotServed", facts(load(spec={"runAfter": {"kind": "DataProcess", "name": "p"}}))),
    "a reference": ("Failed", "DataOperationNotSupport", facts(dataset=DatasetFacts(uid="d", reference="dataset://a/b"))),
    "an engine that loads nothing": ("Failed", "DataOperationNotSupport", facts(loading=None)),
    "another namespace": (
        "Failed",
        "TargetDatasetNamespaceNotSame",
        facts(load(spec={"dataset": {"name": "d", "namespace": "other"}})),
    ),
    "a bad spec": (
        "Failed",
        "SpecRefused",
        facts(loading=Loading(job=JOB, findings=(Finding("error", "SpecRefused", "spec.target[0].path"),))),
    ),
}


@pytest.mark.parametrize("case", WAITS)
def test_when_it_begins_and_what_it_waits_for(case: str) -> None:
    phase, reason, known = WAITS[case]
    assert said(known) == (phase, reason)
    decision = decide(known, NOW)
    assert decision.create == (MADE if phase == "Executing" else ())
    assert (decision.told is not None) == (phase == "Failed" or reason in NOT_SERVED)
    assert decision.status is not None
    assert (decision.status.waiting_for is not msgspec.UNSET) == (reason in ("RunAfter", "RunAfterNotServed"))
    assert decision.status.duration == ("0s" if phase == "Failed" else "Unfinished")


def test_what_is_not_served_is_told_in_an_event() -> None:
    for case in ("cron", "on event", "after a process"):
        told = decide(WAITS[case][2], NOW).told
        assert told is not None
        assert told[0] == "DataOperationNotSupport"
        assert "this version" in told[1]


# --- workers that are not ready yet ---


def some(ready: int, since: str = "2026-11-27T04:59:30Z", **more: Any) -> DatasetFacts:
    return DatasetFacts(uid="d-uid", bound=True, since=since, wanted=3, ready=ready, **more)


def test_it_waits_for_workers_that_are_still_to_come_but_not_for_ever() -> None:
    waits = facts(dataset=some(1))
    decision = decide(waits, NOW)
    assert said(waits) == ("Pending", "WorkersStarting")
    assert (decision.create, decision.told, decision.until) == ((), None, NOW + WORKERS - timedelta(seconds=30))
    assert decision.status is not None
    (text,) = (c.message for c in decision.status.conditions if c.status == "True")
    assert (
        text
        == "1 of 3 workers of Dataset d are ready; the load begins when all are, and at 2026-11-27T05:01:30Z with those that are"
    )
    assert said(facts(dataset=some(3))) == ("Executing", "")
    assert said(facts(dataset=some(1, since="2026-11-27T04:58:00Z"))) == ("Executing", ""), "it is over"
    late = load(creationTimestamp="2026-11-27T04:59:59Z")
    assert said(facts(late, dataset=some(1, since="2026-11-27T04:00:00Z"))) == ("Pending", "WorkersStarting"), "one may restart"
    assert decide(facts(late, dataset=some(1)), NOW).until == NOW + WORKERS - timedelta(seconds=1)
    assert (
        said(facts(load(creationTimestamp="2026-11-27T04:00:00Z"), dataset=some(2, since="2026-11-27T04:00:00Z")))[0]
        == "Executing"
    )
    assert said(facts(dataset=some(2, since="")))[0] == "Executing", "nobody knows since when"
    assert said(facts(dataset=some(1), job=job(), pod=PodFacts(name="p"))) == ("Executing", ""), "it has begun"


def test_a_load_that_waits_for_workers_takes_no_turn_from_others() -> None:
    assert said(facts(dataset=some(1), ahead=tuple("abcd"))) == ("Pending", "WorkersStarting")


def test_the_dataset_owns_it_unless_it_goes() -> None:
    assert decide(facts(), NOW).own == "d-uid"
    assert decide(facts(dataset=DatasetFacts(uid="d", ending=True)), NOW).own == ""
    assert decide(facts(dataset=None), NOW).own == ""


def test_at_once_leaves_room_for_drains_at_a_door() -> None:
    from forebay.cache.peers import control

    assert AT_ONCE * 2 <= control.LONG


# --- with a job ---

RESULT = LoadResult(progress=Progress(total_bytes=5, done_bytes=5, total_files=2, done_files=2, percent=100), notes="a note")
REFUSED = LoadResult(reason="TargetNotFound", message="no such path")
WITH_JOB: dict[str, tuple[str, str, Facts]] = {
    "it runs": ("Executing", "", facts(job=job(), pod=PodFacts(name="p"))),
    "though it would have to wait now": ("Executing", "", facts(job=job(), ahead=tuple("abcdef"))),
    "though the dataset is not bound now": ("Executing", "", facts(job=job(), dataset=DatasetFacts(uid="d", message="gone"))),
    "its pod is not made": ("Executing", "", facts(job=job(), warned="FailedCreate: exceeded quota")),
    "complete": ("Complete", "DataLoadComplete", facts(job=job("Complete"), pod=PodFacts(name="p", ended=True, result=RESULT))),
    "complete, the pod is gone": ("Complete", "DataLoadComplete", facts(job=job("Complete"))),
    "complete as the dataset went": ("Complete", "DataLoadComplete", facts(job=job("Complete"), dataset=None)),
    "complete, but the pod's copy is behind": ("Executing", "", facts(job=job("Complete"), pod=PodFacts(name="p"))),
    "refused": ("Failed", "TargetNotFound", facts(job=job("Failed"), pod=PodFacts(name="p", ended=True, result=REFUSED))),
    "crashed": (
        "Failed",
        "DataOperationExecutionFailed",
        facts(job=job("Failed"), pod=PodFacts(name="p", ended=True, words="x\nlast")),
    ),
    "too late": ("Failed", "DeadlineExceeded", facts(job=job("Failed", "DeadlineExceeded"))),
    "the dataset goes": ("Failed", "TargetDatasetDeleted", facts(job=job(), dataset=DatasetFacts(uid="d", ending=True))),
    "the dataset is gone": ("Failed", "TargetDatasetDeleted", facts(job=job(), dataset=None)),
}


@pytest.mark.parametrize("case", WITH_JOB)
def test_what_a_job_says(case: str) -> None:
    phase, reason, known = WITH_JOB[case]
    assert said(known) == (phase, reason)
    decision = decide(known, NOW)
    assert decision.create == ()
    assert decision.delete == ((JOB,) if reason == "TargetDatasetDeleted" else ())
    assert decision.status is not None
    took = "0s" if reason == "TargetDatasetDeleted" else "2m0s"  # that one's Job has not ended
    assert decision.status.duration == ("Unfinished" if phase == "Executing" else took)


def test_the_result_comes_into_the_status() -> None:
    status = decide(WITH_JOB["complete"][2], NOW).status
    assert status is not None
    assert status.progress == RESULT.progress
    complete = next(c for c in status.conditions if c.type == "Complete")
    assert complete.message == "2 files, 5 bytes are loaded; a note"
    running = decide(WITH_JOB["it runs"][2], NOW).status
    assert running is not None
    assert running.progress is msgspec.UNSET, "it is written by who loads"


def test_a_job_that_somebody_removed_is_made_again() -> None:
    assert decide(facts(load({"phase": "Executing"})), NOW).create == MADE


# --- the end ---


def ended(phase: str = "Complete", ttl: int | None = None, at: str = "2026-11-27T04:59:00Z") -> dict[str, Any]:
    conditions = [{"type": phase, "status": "True", "lastTransitionTime": at}]
    return load({"phase": phase, "conditions": conditions}, {} if ttl is None else {"ttlSecondsAfterFinished": ttl})


@pytest.mark.parametrize("phase", ["Complete", "Failed"])
def test_what_has_ended_is_not_begun_again(phase: str) -> None:
    for known in (facts(ended(phase)), facts(ended(phase), job=job("Failed")), facts(ended(phase), dataset=None)):
        assert json.loads(msgspec.json.encode(decide(known, NOW).create)) == []
        assert decide(known, NOW).status is None
        assert decide(known, NOW).until is None
    assert decide(facts(ended(phase), job=job()), NOW).delete == (JOB,)


@pytest.mark.parametrize(("ttl", "removed", "in_seconds"), [(0, True, 0), (60, True, 0), (61, False, 1), (3600, False, 3540)])
def test_it_goes_when_its_time_is_over(ttl: int, removed: bool, in_seconds: int) -> None:
    decision = decide(facts(ended(ttl=ttl)), NOW)
    assert decision.remove == removed
    assert decision.until == (None if removed else NOW + timedelta(seconds=in_seconds))


def test_the_pass_that_sees_the_end_comes_back_for_it() -> None:
    known = facts(load(spec={"ttlSecondsAfterFinished": 30}), job=job("Complete"))
    assert decide(known, NOW).until == NOW + timedelta(seconds=30)


def test_one_that_is_being_deleted_is_let_go() -> None:
    decision = decide(facts(load(deletionTimestamp="2026-11-27T04:59:00Z"), job=job()), NOW)
    assert (decision.release, decision.status, decision.create) == (True, None, ())


def test_conditions_keep_their_times_while_they_say_the_same() -> None:
    first = decide(facts(dataset=None), NOW).status
    assert first is not None
    known = load(json.loads(msgspec.json.encode(first)))
    assert decide(facts(known, dataset=None), NOW + timedelta(hours=1)).status == first


def test_durations_are_written_as_go_does() -> None:
    assert [duration(s) for s in (0, 59, 60, 3599, 3600, 90061)] == ["0s", "59s", "1m0s", "59m59s", "1h0m0s", "25h1m1s"]
