"""Which engine serves what, and what is said where none does."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
import runtime_worlds as worlds
from runtime_worlds import CACHE, CLASSIC, DATASET

from forebay.api.conditions import find
from forebay.api.fluid import names as fluidnames
from forebay.api.fluid.status import CacheRuntimeStatus, RuntimeStatus
from forebay.runtimes import registry
from forebay.runtimes.engine import Found, Installation, Plan, Ref, Subject

PLAIN = Installation()
FOREIGN = CLASSIC.replace(", annotations: {forebay.io/engine: native}", "")
OTHER_CLASS = CACHE.replace("runtimeClassName: forebay", "runtimeClassName: curvine")
CLASS = "---\napiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntimeClass\nmetadata: {name: curvine}\nfileSystemType: x\n"


def subject(text: str, where: str = "", value: str = "native", default: str = "") -> Subject:
    """A subject with the annotation on `where`."""
    found = worlds.one(text, Installation(default_engine=default))
    noted: dict[str, Any] = {"annotations": {fluidnames.ENGINE_ANNOTATION: value}}

    def note(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "metadata": {**obj["metadata"], **noted}}

    match where:
        case "runtime":
            return msgspec.structs.replace(found, runtimes=tuple(map(note, found.runtimes)))
        case "dataset":
            return msgspec.structs.replace(found, dataset=note(found.dataset))
        case "namespace":
            return msgspec.structs.replace(found, namespace=note(found.namespace))
    return found


def test_our_engine_is_found_by_itself() -> None:
    assert set(registry.engines()) == {"forebay"}


@pytest.mark.parametrize(
    ("given", "engine", "reason"),
    [
        (subject(DATASET), "", "NoRuntime"),
        (subject(DATASET, default="native"), "forebay", ""),
        (subject(DATASET, "dataset"), "forebay", ""),
        (subject(DATASET, "namespace"), "forebay", ""),
        (subject(DATASET + FOREIGN), "alluxio", "EngineNotDriven"),
        (subject(DATASET + FOREIGN, default="native"), "forebay", ""),
        (subject(DATASET + FOREIGN, "runtime"), "forebay", ""),
        (subject(DATASET + FOREIGN, "dataset"), "forebay", ""),
        (subject(DATASET + FOREIGN, "namespace"), "forebay", ""),
        (subject(DATASET + FOREIGN, "runtime", "forebay"), "forebay", ""),
        (subject(DATASET + FOREIGN, "runtime", "alluxio", default="native"), "alluxio", "EngineNotDriven"),
        (subject(DATASET + FOREIGN, "dataset", "natve"), "natve", "EngineUnknown"),
        (subject(DATASET + CACHE), "forebay", ""),
        (subject(DATASET + OTHER_CLASS), "curvine", "ClassUnknown"),
        (subject(DATASET + OTHER_CLASS + CLASS), "curvine", "EngineNotDriven"),
        (subject(DATASET + OTHER_CLASS + CLASS, "namespace"), "forebay", ""),
    ],
)
def test_who_serves(given: Subject, engine: str, reason: str) -> None:
    choice = registry.choose(given)
    assert (choice.name, choice.reason, choice.engine is not None) == (engine, reason, not reason)


def test_what_is_not_driven_is_not_bound_and_says_the_remedy() -> None:
    given = subject(DATASET + FOREIGN)
    observed, planned = worlds.observe(given), worlds.plan(given)
    ready = find(observed.dataset.conditions, "Ready")
    assert ready is not None
    assert (observed.dataset.phase, observed.dataset.engine, observed.mountable) == ("NotBound", "alluxio", False)
    assert "engine alluxio of kind AlluxioRuntime is not driven" in ready.message
    assert "kubectl annotate dataset d -n ns forebay.io/engine=native" in ready.message
    assert ready.observed_generation == 4
    assert isinstance(observed.runtime, RuntimeStatus)
    assert ready.message == observed.runtime.worker_reason
    assert (planned.create, planned.apply, planned.delete) == ((), (), ())
    assert [(f.severity, f.reason) for f in planned.findings] == [("warning", "EngineNotDriven")]


def test_a_near_miss_is_named() -> None:
    assert 'did you mean "native"' in registry.choose(subject(DATASET, "dataset", "natve")).message


def test_a_dataset_that_is_given_up_is_taken_away_once_nobody_reads() -> None:
    served = subject(DATASET + FOREIGN, "dataset")
    found = worlds.settled(served)
    given_up = subject(DATASET + FOREIGN)
    held = worlds.plan(given_up, msgspec.structs.replace(found, users=("p",)))
    assert (held.delete, [f.reason for f in held.findings]) == ((), ["EngineNotDriven", "InUse"])
    gone = worlds.plan(given_up, found)
    assert Ref("PersistentVolumeClaim", "ns", "d") in gone.delete
    assert not gone.release


class Another:
    """A second engine, as a module would provide it."""

    name = "alluxio"
    drives = frozenset({"AlluxioRuntime"})
    classes: frozenset[str] = frozenset()
    adopts = False

    def children(self, subject: Subject) -> tuple[Ref, ...]:
        return (Ref("StatefulSet", "ns", "d-master"),)

    def plan(self, subject: Subject, found: Found, now: str) -> Plan:
        return Plan(apply=({"kind": "StatefulSet"},))

    def retire(self, subject: Subject, found: Found) -> Plan:
        return Plan(delete=tuple(found.objects), release=not found.objects)

    def observe(self, subject: Subject, found: Found, now: str) -> Any:
        raise AssertionError("choosing an engine observes nothing")


def test_a_second_engine_takes_its_kind_and_the_earlier_one_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {**registry.engines(), "alluxio": Another()}
    monkeypatch.setattr(registry, "engines", lambda: engines)
    assert registry.choose(subject(DATASET + FOREIGN)).name == "alluxio"
    assert registry.choose(subject(DATASET + FOREIGN, default="native")).name == "alluxio"  # a default is for what has none
    assert registry.choose(subject(DATASET + FOREIGN, "namespace")).name == "forebay"
    assert registry.choose(subject(DATASET, "dataset", "alluxio")).name == "alluxio"
    assert registry.choose(subject(DATASET + CACHE, "runtime", "alluxio")).reason == "EngineUnfit"

    ours = worlds.settled(subject(DATASET + FOREIGN, "dataset"))
    first = registry.plan(subject(DATASET + FOREIGN), {"forebay": ours, "alluxio": Found()}, worlds.NOW)
    assert first.apply == ()
    assert Ref("StatefulSet", "ns", "d-worker") in first.delete
    then = registry.plan(subject(DATASET + FOREIGN), {"forebay": Found(), "alluxio": Found()}, worlds.NOW)
    assert then.apply == ({"kind": "StatefulSet"},)


def test_of_two_runtimes_the_one_that_serves_stays() -> None:
    (given,) = worlds.subjects(worlds.documents(DATASET + CACHE + CLASSIC))
    cache, classic = given.runtimes
    old = {**classic, "metadata": {**classic["metadata"], "creationTimestamp": "2020-01-01T00:00:00Z"}}
    given = msgspec.structs.replace(given, runtimes=(cache, old))
    assert registry.bound_runtime(given) is old
    dataset = copy.deepcopy(given.dataset)
    dataset["status"] = {"runtimes": [{"name": "d", "namespace": "ns", "type": "cache"}], "conditions": []}
    bound = msgspec.structs.replace(given, dataset=dataset)
    assert registry.bound_runtime(bound) is cache
    ((told, status),) = registry.surplus_statuses(bound, worlds.NOW)
    assert told is old
    assert isinstance(status, RuntimeStatus)
    assert "served by CacheRuntime d; delete one of the two" in status.worker_reason
    assert registry.surplus_statuses(subject(DATASET), worlds.NOW) == ()


def test_a_runtime_without_a_dataset_says_so() -> None:
    (given,) = worlds.subjects(worlds.documents(DATASET + CACHE))
    status = registry.without_dataset(given.runtimes[0], worlds.NOW)
    assert isinstance(status, CacheRuntimeStatus)
    assert isinstance(status.worker, msgspec.Struct)
    assert (status.phase, status.worker.reason) == ("NotReady", "NoDataset")
    assert "there is no Dataset d in this namespace" in status.worker.message


def test_a_reference_is_served_by_the_engine_of_its_source() -> None:
    text = (worlds.HERE / "manifests" / "references.yaml").read_text()
    found = {s.key: s for s in worlds.subjects(worlds.documents(text), PLAIN)}
    assert registry.choose(found["default", "near"]).reason == "EngineNotDriven"  # the source's JindoRuntime
    native = {s.key: s for s in worlds.subjects(worlds.documents(text), worlds.NATIVE)}
    assert registry.choose(native["team-b", "granted"]).name == "forebay"
    alone = msgspec.structs.replace(native["default", "near"], source=None)
    assert registry.choose(alone).reason == "SourceMissing"
