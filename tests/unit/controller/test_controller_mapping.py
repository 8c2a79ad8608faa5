"""Which datasets a change is about."""

from __future__ import annotations

from typing import Any

import controllerworld as w
import pytest

from forebay.controller.copies import Copies
from forebay.controller.datasets.mapping import datasets
from forebay.kube.objects import Key
from forebay.kube.store import Broken, Change

D, VIEW = Key("ns", "d"), Key("other", "view")
NOW = "2026-11-27T05:00:00Z"


def world() -> Copies:
    """Dataset ns/d with a runtime and workers, and a reference to it from another namespace."""
    copies = Copies()
    w.put(
        copies,
        w.dataset(),
        w.dataset("view", "other", "dataset://ns/d/sub"),
        w.runtime(),
        w.node("node-a"),
        w.worker("d-worker-0", node="node-a"),
        w.child("StatefulSet", "d-worker"),
    )
    return copies


def keys(copies: Copies, obj: dict[str, Any], *, gone: bool = False) -> set[Key]:
    """What is told to be looked at when the object comes, or goes."""
    found: set[Key] = set()
    if gone:
        w.put(copies, obj)
    copies.stores[obj["kind"]].subscribe(lambda change: found.update(datasets(obj["kind"], change, copies)))
    found.clear()
    meta = obj["metadata"]
    if gone:
        w.drop(copies, obj["kind"], meta.get("namespace", ""), meta["name"])
    else:
        w.put(copies, obj)
    return found


CHANGES = {
    "a dataset, and who refers to it": (w.dataset(generation=2), {D, VIEW}),
    "a reference": (w.dataset("view", "other", "dataset://ns/d"), {VIEW}),
    "a runtime": (w.runtime(generation=2), {D}),
    "a runtime of another kind": (w.runtime(kind="AlluxioRuntime"), {D}),
    "a runtime without a dataset": (w.runtime("lonely"), {Key("ns", "lonely")}),
    "its class": ({"kind": "CacheRuntimeClass", "metadata": {"name": "forebay"}}, {D}),
    "another class": ({"kind": "CacheRuntimeClass", "metadata": {"name": "x"}}, set()),
    "a grant": ({"kind": "DatasetGrant", "metadata": {"name": "g", "namespace": "ns"}, "spec": {"dataset": "d"}}, {D, VIEW}),
    "a grant of what is not there": (
        {"kind": "DatasetGrant", "metadata": {"name": "g", "namespace": "x"}, "spec": {"dataset": "d"}},
        {Key("x", "d")},
    ),
    "a namespace": ({"kind": "Namespace", "metadata": {"name": "ns", "labels": {"a": "b"}}}, {D}),
    "a worker": (w.worker("d-worker-1"), {D}),
    "a reader": (w.reader("p"), {D}),
    "a reader of something else": (w.reader("p", "other"), set()),
    "any other pod": ({"kind": "Pod", "metadata": {"name": "x", "namespace": "ns"}}, set()),
    "its volume": (w.volume("ns/d", "ns/d"), {D}),
    "the volume of a reference": (w.volume("other/view", "ns/d"), {D, VIEW}),
    "a child": (w.child("ConfigMap", "d-forebay"), {D}),
    "its claim": (w.child("PersistentVolumeClaim", "d"), {D}),
    "an event about a worker": (w.event("Pod", "d-worker-0", "FailedMount", NOW), {D}),
    "an event about the workers": (w.event("StatefulSet", "d-worker", "FailedCreate", NOW), {D}),
    "an event about the claim": (w.event("PersistentVolumeClaim", "d", "ProvisioningFailed", NOW), {D}),
    "an event about something else": (w.event("Pod", "x", "FailedMount", NOW), set()),
    "an event about nothing": (w.event("Deployment", "d", "X", NOW), set()),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("gone", [False, True], ids=["comes", "goes"])
def test_what_comes_and_goes(what: str, gone: bool) -> None:
    obj, wanted = CHANGES[what]
    assert keys(world(), obj, gone=gone) == wanted


def test_a_label_that_is_taken_away_counts_before_and_after() -> None:
    copies = world()
    w.put(copies, w.child("Service", "svc", of="d"))
    assert keys(copies, w.child("Service", "svc", of="e")) == {D, Key("ns", "e")}


def test_a_node_is_news_only_when_its_readiness_changes() -> None:
    copies = world()
    assert keys(copies, w.node("node-a")) == set()
    assert copies.readiness == {"node-a": True}
    assert keys(copies, w.node("node-a", ready=False)) == {D}
    assert copies.readiness == {"node-a": False}
    assert keys(copies, w.node("node-a", ready=False), gone=True) == {D}
    assert copies.readiness == {}


def test_a_namespace_is_news_only_by_labels_and_annotations() -> None:
    copies = world()
    w.put(copies, {"kind": "Namespace", "metadata": {"name": "ns", "labels": {"a": "b"}}})
    same = {"kind": "Namespace", "metadata": {"name": "ns", "labels": {"a": "b"}, "resourceVersion": "2"}}
    assert keys(copies, same) == set()
    assert keys(copies, {"kind": "Namespace", "metadata": {"name": "ns", "annotations": {"x": "y"}}}) == {D}


def test_a_dataset_that_cannot_be_read_is_looked_at_and_hides_none() -> None:
    copies = world()
    copies.stores["Dataset"].upsert(D, Broken("9", "no"))
    assert datasets("Dataset", Change(D, None, None), copies) == {D}
    assert keys(copies, w.reader("p")) == {D}
    assert keys(copies, w.worker("d-worker-0", node="node-b")) == {D}
