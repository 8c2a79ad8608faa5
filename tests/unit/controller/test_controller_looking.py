"""What a pass is told of a dataset: what is wanted, what exists, and when time alone will change it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import controllerworld as w

from forebay.controller.copies import Copies
from forebay.controller.datasets.looking import FRESH, Looker
from forebay.kube.objects import Key
from forebay.runtimes.engine import LEAVING, Found, Installation, Ref, Subject, Warned

NOW = datetime(2026, 11, 27, 5, 0, 0, tzinfo=UTC)
D = Key("ns", "d")


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def look(*objects: dict[str, Any], key: Key = D) -> tuple[Subject, Found, datetime | None]:
    copies = Copies()
    w.put(copies, *objects)
    looker = Looker(copies, Installation(default_engine="native"))
    subject = looker.subject(key)
    assert subject is not None
    looked = looker.look(subject, NOW)
    return subject, looked.found["forebay"], looked.until


def test_a_subject_has_all_that_was_said_of_it() -> None:
    class_ = {"kind": "CacheRuntimeClass", "metadata": {"name": "forebay"}, "topology": {"worker": {}}}
    space = {"kind": "Namespace", "metadata": {"name": "ns", "annotations": {"forebay.io/engine": "native"}}}
    alluxio = w.runtime(kind="AlluxioRuntime")
    subject, _, until = look(w.dataset(), w.runtime(), alluxio, w.runtime("other"), class_, space)
    assert subject.key == ("ns", "d")
    assert subject.dataset["apiVersion"] == "data.fluid.io/v1alpha1"
    assert subject.dataset["spec"]["mounts"][0]["mountPoint"] == "https://h/x/"
    assert sorted(r["kind"] for r in subject.runtimes) == ["AlluxioRuntime", "CacheRuntime"]
    assert subject.namespace["metadata"]["annotations"] == {"forebay.io/engine": "native"}
    assert subject.classes[0]["topology"] == {"worker": {}}
    assert subject.source is None
    assert until is None


def test_there_is_no_subject_without_a_dataset() -> None:
    copies = Copies()
    w.put(copies, w.runtime())
    looker = Looker(copies, Installation())
    assert looker.subject(D) is None
    assert [r["kind"] for r in looker.runtimes(D)] == ["CacheRuntime"]


def test_a_reference_has_its_source_with_the_grants_beside_it() -> None:
    grant = {"kind": "DatasetGrant", "metadata": {"name": "g", "namespace": "ns"}, "spec": {"dataset": "d", "expires": at(60)}}
    other = {"kind": "DatasetGrant", "metadata": {"name": "g", "namespace": "x"}, "spec": {"dataset": "d"}}
    source = w.dataset() | {"status": {"phase": "Updating"}}
    subject, _, until = look(w.dataset("v", "b", "DATASET://ns/d/sub"), source, w.runtime(), grant, other, key=Key("b", "v"))
    assert subject.source is not None
    assert subject.source.subject.key == ("ns", "d")
    assert subject.source.subject.runtimes
    assert subject.source.bound
    assert [g["metadata"]["namespace"] for g in subject.source.grants] == ["ns"]
    assert until == NOW + timedelta(seconds=60), "a grant that ends is looked at again then"


def test_readers_count_until_they_have_ended() -> None:
    readers = [w.reader("a"), w.reader("b", phase="Succeeded"), w.reader("c", "x"), w.reader("e", phase="Pending")]
    _, found, _ = look(w.dataset(), *readers)
    assert found.users == ("a", "e")


def test_who_refers_is_who_shows_the_bytes() -> None:
    shown = [w.volume("ns/d", "ns/d"), w.volume("b/v", "ns/d"), w.volume("b/z", "ns/other")]
    _, found, _ = look(w.dataset(), w.dataset("ungranted", "c", "dataset://ns/d"), *shown)
    assert found.referrers == ("b/v",)
    assert Ref("PersistentVolume", "", "ns-d") in found.objects


def test_events_count_for_five_minutes() -> None:
    fresh, old = w.event("Pod", "d-worker-0", "FailedMount", at(-10)), w.event("Pod", "d-worker-0", "Old", at(-301))
    created = w.event("StatefulSet", "d-worker", "FailedCreate", at(-100))
    elsewhere = w.event("Pod", "x", "FailedMount", at(-1))
    workers = w.child("StatefulSet", "d-worker")
    _, found, until = look(w.dataset(), w.runtime(), w.worker("d-worker-0"), workers, fresh, old, created, elsewhere)
    assert found.warned == (
        Warned(Ref("Pod", "ns", "d-worker-0"), "FailedMount", "said"),
        Warned(Ref("StatefulSet", "ns", "d-worker"), "FailedCreate", "said"),
    )
    assert until == NOW + timedelta(seconds=-100) + FRESH


def test_an_event_of_the_new_form_has_its_time_in_its_series() -> None:
    event = w.event("Pod", "d-worker-0", "FailedMount", "")
    event |= {"deprecatedLastTimestamp": None, "eventTime": at(-4000), "series": {"lastObservedTime": at(-5)}}
    _, found, _ = look(w.dataset(), w.worker("d-worker-0"), event)
    assert [x.reason for x in found.warned] == ["FailedMount"]


def test_an_order_to_leave_is_done_when_the_worker_serves_no_more_and_overdue_by_its_grace() -> None:
    told, done, late = (
        w.worker("d-worker-0", **{LEAVING: at(-10)}),
        w.worker("d-worker-1", ready=False, **{LEAVING: at(-10)}),
        w.worker("d-worker-2", **{LEAVING: at(-101)}),
    )
    _, found, until = look(w.dataset(), told, done, late, w.worker("d-worker-3"))
    facts = {name: (f.drain, f.overdue) for name, f in found.workers.items()}
    assert facts == {"d-worker-0": ("Running", False), "d-worker-1": ("Done", False), "d-worker-2": ("Running", True)}
    assert until == NOW + timedelta(seconds=90)


def test_every_pass_has_another_secret_at_hand() -> None:
    _, one, _ = look(w.dataset())
    _, two, _ = look(w.dataset())
    assert len(one.fresh_secret) == 64
    assert one.fresh_secret != two.fresh_secret


def test_a_claim_that_is_kept_for_pods_that_have_ended_is_let_go_after_a_while() -> None:
    now = datetime(2026, 11, 27, 5, 0, 40, tzinfo=UTC)
    claim = w.child("PersistentVolumeClaim", "d")
    gone = {**claim, "metadata": {**claim["metadata"], "deletionTimestamp": "2026-11-27T05:00:00Z"}}
    copies = Copies()
    looker = Looker(copies, Installation())
    key = Key("ns", "d")
    assert looker.lingering(key, now) == (None, None)
    w.put(copies, claim, w.reader("done", phase="Succeeded"))
    assert looker.lingering(key, now) == (None, None), "nobody told it to go"
    w.put(copies, gone)
    found, later = looker.lingering(key, now)
    assert found is not None
    assert (found["metadata"]["name"], later) == ("d", None)
    assert looker.lingering(key, now - timedelta(seconds=20)) == (None, now - timedelta(seconds=10)), "05:00:30"
    w.put(copies, w.reader("reads"))
    assert looker.lingering(key, now) == (None, None), "a pod reads"
