"""Who goes first: what objects of gangs say of their priority, and those that were made in the same second."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from livekit import aged, binds, bound, core, node, pod

from forebay.api.kubernetes.core import Pod
from forebay.kube.objects import ObjectMeta
from forebay.scheduler.live.copies import PriorityClass
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Delete

NATIVE, VOLCANO = "PodGroup.scheduling.k8s.io", "PodGroup.scheduling.volcano.sh"


def native(name: str, **spec: Any) -> dict[str, Any]:
    policy = {"schedulingPolicy": {"gang": {"minCount": 2}}}
    meta = {"name": name, "namespace": "n", "uid": name}
    return {"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": meta, "spec": {**policy, **spec}}


def volcano(name: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "n", "uid": name}
    return {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": meta, "spec": {"minMember": 2, **spec}}


def of_native(name: str, group: str, **more: Any) -> Pod:
    return pod(name, schedulingGroup={"podGroupName": group}, **more)


def of_volcano(name: str, group: str) -> Pod:
    made = pod(name)
    notes = {"scheduling.k8s.io/group-name": group}
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, annotations=notes))


def priority_class(name: str, value: int) -> PriorityClass:
    return PriorityClass(ObjectMeta(name=name), value)


def first(c: Core) -> set[str]:
    return set(binds(c.decide(0)))


@pytest.mark.parametrize(
    ("kind", "object_", "make"),
    [
        (NATIVE, native("late", priority=9), of_native),
        (NATIVE, native("late", priorityClassName="urgent"), of_native),
        (VOLCANO, volcano("late", priorityClassName="urgent"), of_volcano),
    ],
)
def test_the_priority_of_a_gang_is_what_its_object_says(kind: str, object_: dict[str, Any], make: Any) -> None:
    c = core(preemption=False)
    c.apply("Node", None, node("a", 2))
    c.apply("PriorityClass", None, priority_class("urgent", 1000))
    c.apply("Group:" + kind, None, object_)
    for n in range(2):
        c.apply("Pod", None, pod(f"early{n}"))
        c.apply("Pod", None, aged(make(f"late{n}", "late"), 50))
    assert first(c) == {"late0", "late1"}


def test_a_class_or_an_object_that_comes_later_changes_the_order() -> None:
    c = core(preemption=False)
    for n in range(2):
        c.apply("Pod", None, pod(f"early{n}", priority=5))
        c.apply("Pod", None, aged(of_native(f"late{n}", "late"), 50))
    c.apply("Group:" + NATIVE, None, native("late", priorityClassName="urgent"))
    assert c.decide(0)
    c.apply("PriorityClass", None, priority_class("urgent", 1000))
    c.apply("Node", None, node("a", 2))
    assert set(binds(c.decide(100))) == {"late0", "late1"}


def test_who_has_a_higher_object_is_not_evicted_for_the_numbers_of_its_pods() -> None:
    """Else two would evict each other in turn: one by its object, the other by its pods."""
    c = core()
    c.apply("Node", None, node("a", 2))
    c.apply("Group:" + NATIVE, None, native("runs", priority=100))
    for n in range(2):
        c.apply("Pod", None, bound(of_native(f"runs{n}", "runs"), "a"))
    c.apply("Pod", None, pod("other", priority=50))
    assert not [one for one in c.decide(0) if isinstance(one, Delete)]
    c.apply("Pod", None, pod("higher", priority=150))
    assert [one.pod.name for one in c.decide(1) if isinstance(one, Delete)]


def test_of_one_second_the_first_that_came_goes_first() -> None:
    """Times of objects have whole seconds; names say nothing."""
    c = core(preemption=False)
    c.apply("Node", None, node("a", 1))
    for name in ("z", "m", "a"):
        c.apply("Pod", None, pod(name))
    assert first(c) == {"z"}
    quota = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "ElasticQuota", "metadata": {"name": "q", "namespace": "n"}}
    c.apply("Quota", None, {**quota, "spec": {"max": {"cpu": "9"}}})
    c.apply("Node", None, node("b", 1))
    assert set(binds(c.decide(100))) == {"m"}


@pytest.mark.parametrize(("mode", "gone"), [("Pod", 1), ("PodGroup", 4), ({"single": {}}, 1), ({"all": {}}, 4), (None, 1)])
def test_a_group_says_whether_all_of_it_goes_when_one_has_to(mode: Any, gone: int) -> None:
    c = core()
    c.apply("Node", None, node("a", 4))
    c.apply("Group:" + NATIVE, None, native("runs", **({} if mode is None else {"disruptionMode": mode})))
    for n in range(4):  # two more than it needs
        c.apply("Pod", None, bound(of_native(f"runs{n}", "runs"), "a"))
    c.apply("Pod", None, pod("higher", priority=50))
    assert len([one for one in c.decide(0) if isinstance(one, Delete)]) == gone
