"""Whether an apply would change anything: what the server adds or writes differently is no difference, everything else is one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from forebay.controller.comparing import APPLIED, digest, holds, same_status, signed, surplus


def test_another_key_in_a_selector_is_a_difference() -> None:
    assert not holds({"spec": {"selector": {"a": "b", "c": "d"}}}, {"spec": {"selector": {"a": "b"}}})
    assert holds({"spec": {"labels": {"a": "b", "c": "d"}}}, {"spec": {"labels": {"a": "b"}}})


WANTED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "w", "labels": {"a": "b"}, "ownerReferences": [{"uid": "1", "kind": "X"}]},
    "spec": {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "c", "args": ["x", "y"], "resources": {"limits": {"memory": "1Gi"}}}]}},
        "empty": {},
        "none": [],
        "zero": 0,
    },
}


def live(**changes: Any) -> dict[str, Any]:
    """As the server has it: defaults added, zero values left out."""
    found = copy.deepcopy(WANTED)
    found["metadata"] |= {"uid": "u", "resourceVersion": "7", "creationTimestamp": "t"}
    found["metadata"]["ownerReferences"].append({"uid": "2", "kind": "Y"})
    found["spec"]["podManagementPolicy"] = "OrderedReady"
    found["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    for name in ("empty", "none", "zero"):
        del found["spec"][name]
    found["status"] = {"replicas": 2}
    for where, value in changes.items():
        *path, last = where.split("__")
        at: Any = found
        for part in path:
            at = at[int(part)] if part.isdigit() else at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return found


def test_what_the_server_adds_is_no_difference() -> None:
    assert holds(live(), WANTED)
    assert not holds(None, WANTED)


CONTAINER = "spec__template__spec__containers__0__"


@pytest.mark.parametrize(
    "change",
    [
        {"spec__replicas": 3},
        {"spec__replicas": True},
        {"metadata__labels": None},
        {"metadata__labels": {"a": "c"}},
        {"metadata__ownerReferences": []},
        {CONTAINER + "args": ["y", "x"]},
        {CONTAINER + "args": ["x", "y", "z"]},
        {CONTAINER + "args": ["x"]},
        {CONTAINER + "name": "d"},
        {CONTAINER + "resources": {"limits": {"memory": "2Gi"}}},
        {"spec__template__spec__containers": []},
        {"spec__zero": 1},
        {"spec": None},
    ],
)
def test_what_somebody_changed_is_one(change: dict[str, Any]) -> None:
    assert not holds(live(**change), WANTED)


@pytest.mark.parametrize(("mine", "theirs"), [("1Gi", "1024Mi"), ("1000m", "1"), ("0.5Gi", "512Mi")])
def test_a_quantity_may_be_written_differently(mine: str, theirs: str) -> None:
    equal = mine != "1000m"  # thousandths are rounded up: in doubt it is applied
    wanted = {"spec": {"q": mine}}
    assert holds({"spec": {"q": theirs}}, wanted) == equal
    assert not holds({"spec": {"q": "200m"}}, {"spec": {"q": "100m"}})
    assert not holds({"spec": {"q": "x"}}, {"spec": {"q": "y"}})


def test_a_field_that_is_wanted_no_more_shows_in_the_digest() -> None:
    body = signed(WANTED)
    less = {**WANTED, "spec": {k: v for k, v in WANTED["spec"].items() if k != "replicas"}}
    there = {**live(), "metadata": {**live()["metadata"], "annotations": {APPLIED: digest(WANTED), "others": "too"}}}
    assert holds(there, body)
    assert not holds(there, signed(less))
    assert digest(WANTED) == digest(dict(reversed(WANTED.items())))
    assert "annotations" not in WANTED["metadata"]


READY = {"type": "Ready", "status": "True"}
OLD = {"type": "Old", "status": "False"}


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ({"phase": "Bound", "conditions": [READY, OLD]}, {"phase": "Bound", "conditions": [OLD, READY]}, True),
        ({"phase": "Bound", "conditions": [READY, OLD]}, {"phase": "Bound", "conditions": [READY]}, False),
        ({"phase": "Bound"}, {"phase": "NotBound"}, False),
        ({"phase": "Bound", "mounts": []}, {"phase": "Bound"}, False),
        ({"phase": "Bound"}, {"phase": "Bound", "engine": "forebay"}, False),
        (None, {"phase": "Bound"}, False),
        ({}, {}, True),
    ],
)
def test_a_status_is_the_same_when_it_says_the_same(found: Any, wanted: dict[str, Any], same: bool) -> None:
    assert same_status(found, wanted) == same


def test_what_a_status_says_beyond_what_is_wanted() -> None:
    live = {
        "phase": "Ready",
        "worker": {"phase": "Ready", "readyReplicas": 9},
        "ufsTotal": "9PiB",
        "conditions": [],
        "mounts": [1],
    }
    assert surplus(live, {"phase": "NotReady", "worker": {"phase": "NotReady"}}) == {
        "worker": {"readyReplicas": None},
        "ufsTotal": None,
    }
    assert surplus(live, live) == {}
    assert surplus(None, {"phase": ""}) == {}
