"""Our scheduler on a real API server: what it writes on PodGroups of every API, with the rights of its own account."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import OPEN, PATIENCE, Running, Site, for_seconds, live_plane, live_site, serve
from schedulerrights import SPACE, scheduler_account

from forebay.kube.config import Endpoint
from forebay.kube.errors import Conflict, NotFound
from forebay.kube.objects import Key
from forebay.kube.resources import PODS, Resource

pytestmark = pytest.mark.timeout(300)
NATIVE = Resource("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup")
PLUGINS = Resource("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup")
SIGS = Resource("scheduling.sigs.k8s.io", "v1alpha1", "podgroups", "PodGroup")
VOLCANO = Resource("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup")
SERVED = ("--feature-gates=GenericWorkload=true,GangScheduling=true", "--runtime-config=scheduling.k8s.io/v1alpha2=true")
NUMBER = {"type": "integer"}
COUNTS = {"phase": {"type": "string"}, "running": NUMBER, "succeeded": NUMBER, "failed": NUMBER}
CONDITION = {
    "type": "object",
    "properties": {
        name: {"type": "string"} for name in ("type", "status", "reason", "message", "lastTransitionTime", "transitionID")
    },
}
STATUS = {
    PLUGINS: COUNTS,
    SIGS: {**COUNTS, "scheduled": NUMBER},
    VOLCANO: {**COUNTS, "conditions": {"type": "array", "items": CONDITION}},
}
"""As these projects define it; of them scheduler-plugins alone has the status as a subresource."""


def serve_groups(site: Site, resource: Resource) -> None:
    status = {"type": "object", "properties": STATUS[resource]}
    schema = {"type": "object", "properties": {"spec": OPEN, "status": status}}
    serve(site, resource, schema, subresources=("status",) if resource is PLUGINS else ())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("groupstatus"), api_flags=SERVED) as plane:
        yield plane


@pytest.fixture(scope="module")
def account(world: ControlPlane) -> Iterator[Endpoint]:
    with scheduler_account(world) as endpoint:
        yield endpoint


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def group(site: Site, resource: Resource, name: str = "train", least: int = 2) -> Key:
    spec = {"schedulingPolicy": {"gang": {"minCount": least}}} if resource is NATIVE else {"minMember": least}
    body = {"apiVersion": resource.api_version, "kind": "PodGroup", "metadata": {"name": name}, "spec": spec}
    site.client.create(resource, site.namespace, body)
    return Key(site.namespace, name)


def member(site: Site, name: str, resource: Resource, of: str = "train") -> Key:
    if resource is NATIVE:
        return site.pod(name, schedulingGroup={"podGroupName": of})
    if resource is VOLCANO:
        meta = {"name": name, "annotations": {"scheduling.k8s.io/group-name": of}}
        container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {"schedulerName": "forebay", "containers": [container]},
        }
        site.client.create(PODS, site.namespace, body)
        return Key(site.namespace, name)
    return site.pod(
        name, labels={("scheduling.x-k8s.io/pod-group" if resource is PLUGINS else "pod-group.scheduling.sigs.k8s.io"): of}
    )


def look(site: Site, resource: Resource, key: Key) -> dict[str, Any]:
    answer = site.client.transport.request("GET", resource.at(key))
    found: dict[str, Any] = json.loads(answer.body)
    return found


def status(site: Site, resource: Resource, key: Key) -> dict[str, Any]:
    found: dict[str, Any] = look(site, resource, key).get("status") or {}
    return found


def conditions(site: Site, resource: Resource, key: Key) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in status(site, resource, key).get("conditions") or ()}


def says(site: Site, resource: Resource, key: Key, holds: Callable[[dict[str, Any]], bool]) -> None:
    until(lambda: holds(status(site, resource, key)), PATIENCE, lambda: status(site, resource, key))


def phase(site: Site, keys: list[Key], phase: str) -> None:
    """As a kubelet says it."""
    for key in keys:
        site.client.merge(PODS, key, {"status": {"phase": phase}}, sub="status")


def test_kubernetes_own_condition_says_why_and_then_that_it_started(account: Endpoint, site: Site) -> None:
    site.node(cpu="1")
    key = group(site, NATIVE)
    with Running(account, elect=True, namespace=SPACE) as running:
        pods = [member(site, f"p{n}", NATIVE) for n in range(2)]
        until(
            lambda: "room for 1" in conditions(site, NATIVE, key).get("PodGroupScheduled", {}).get("message", ""),
            PATIENCE,
            lambda: status(site, NATIVE, key),
        )
        one = conditions(site, NATIVE, key)["PodGroupScheduled"]
        assert (one["status"], one["reason"]) == ("False", "Unschedulable")
        assert one["message"] == site.said(pods[0])
        assert one.get("observedGeneration", 0) == look(site, NATIVE, key)["metadata"].get("generation", 0)  # 1.36 counts none
        owner = [f for f in look(site, NATIVE, key)["metadata"]["managedFields"] if f.get("subresource") == "status"]
        assert {field["manager"] for field in owner} == {"forebay-scheduler"}
        site.node(cpu="1")
        site.all_bound(pods)
        until(lambda: conditions(site, NATIVE, key)["PodGroupScheduled"]["status"] == "True", PATIENCE)
        version = look(site, NATIVE, key)["metadata"]["resourceVersion"]
        site.client.delete(PODS, pods[0], grace=0)  # it has started once, and says no more than that
        for_seconds(2.0, lambda: look(site, NATIVE, key)["metadata"]["resourceVersion"] == version)
        assert not running.scheduler.teller.failed


def test_a_basic_group_is_told_of_its_first_pod(account: Endpoint, site: Site) -> None:
    site.node(cpu="1")
    body = {"apiVersion": NATIVE.api_version, "kind": "PodGroup", "metadata": {"name": "plain"}}
    site.client.create(NATIVE, site.namespace, {**body, "spec": {"schedulingPolicy": {"basic": {}}}})
    key = Key(site.namespace, "plain")
    with Running(account, elect=True, namespace=SPACE):
        site.all_bound([member(site, "only", NATIVE, "plain")])
        until(lambda: conditions(site, NATIVE, key).get("PodGroupScheduled", {}).get("status") == "True", PATIENCE)


@pytest.mark.parametrize("resource", [PLUGINS, SIGS], ids=lambda one: one.group)
def test_phase_and_counts_follow_the_pods(account: Endpoint, site: Site, resource: Resource) -> None:
    serve_groups(site, resource)
    site.node(cpu="1")
    key = group(site, resource)
    with Running(account, elect=True, namespace=SPACE) as running:
        pods = [member(site, f"p{n}", resource) for n in range(2)]
        says(site, resource, key, lambda said: said.get("phase") == "Pending")
        site.node(cpu="1")
        says(site, resource, key, lambda said: said.get("phase") == "Scheduling")
        phase(site, pods, "Running")
        says(site, resource, key, lambda said: (said.get("phase"), said.get("running")) == ("Running", 2))
        phase(site, pods, "Succeeded")
        says(site, resource, key, lambda said: (said["phase"], said["running"], said["succeeded"]) == ("Finished", 0, 2))
        assert status(site, resource, key).get("scheduled", 2) == 2
        for pod in pods:
            site.client.delete(PODS, pod, grace=0)
        for_seconds(2.0, lambda: status(site, resource, key)["phase"] == "Finished")
        assert not running.scheduler.teller.failed
        assert look(site, resource, key)["spec"] == {"minMember": 2}


def test_volcanos_phase_and_conditions_keep_what_others_wrote(account: Endpoint, site: Site) -> None:
    serve_groups(site, VOLCANO)
    site.node(cpu="1")
    key = group(site, VOLCANO)
    theirs = {"type": "Theirs", "status": "True", "reason": "Kept"}
    site.client.merge(VOLCANO, key, {"status": {"phase": "Pending", "conditions": [theirs]}})
    with Running(account, elect=True, namespace=SPACE) as running:
        pods = [member(site, f"p{n}", VOLCANO) for n in range(2)]
        says(site, VOLCANO, key, lambda said: said.get("phase") == "Inqueue" and len(said["conditions"]) == 2)
        until(lambda: conditions(site, VOLCANO, key)["Unschedulable"]["reason"] == "NotEnoughResources", PATIENCE)
        site.node(cpu="1")
        site.all_bound(pods)
        until(lambda: conditions(site, VOLCANO, key).get("Scheduled", {}).get("status") == "True", PATIENCE)
        assert conditions(site, VOLCANO, key)["Unschedulable"]["status"] == "False"
        assert conditions(site, VOLCANO, key)["Theirs"] == theirs
        phase(site, pods, "Running")
        says(site, VOLCANO, key, lambda said: (said.get("phase"), said.get("running")) == ("Running", 2))
        assert not running.scheduler.teller.failed


class Between:
    """Does something between the decision to write a status and the write, once; counts what the server said to writes."""

    def __init__(self, running: Running, first: Callable[[], None]) -> None:
        self._first: Callable[[], None] | None = first
        self.refused = list[type[Exception]]()
        self._through = running.scheduler.client.strategic
        running.scheduler.client.strategic = self._call  # type: ignore[method-assign, assignment]

    def _call(self, resource: Any, key: Key, body: Any, *, sub: str = "") -> Any:
        if resource != NATIVE:
            return self._through(resource, key, body, sub=sub)
        if self._first is not None:
            first, self._first = self._first, None
            first()
        try:
            return self._through(resource, key, body, sub=sub)
        except (Conflict, NotFound) as error:
            self.refused.append(type(error))
            raise


def test_somebody_who_writes_in_between_loses_nothing_and_we_write_again(account: Endpoint, site: Site) -> None:
    site.node(cpu="2")
    key = group(site, NATIVE)
    theirs = {"type": "Theirs", "status": "True", "reason": "Kept", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    with Running(account, elect=True, namespace=SPACE) as running:
        between = Between(running, lambda: site.client.strategic(NATIVE, key, {"status": {"conditions": [theirs]}}, sub="status"))  # type: ignore[arg-type, return-value]
        site.all_bound([member(site, f"p{n}", NATIVE) for n in range(2)])
        until(lambda: "PodGroupScheduled" in conditions(site, NATIVE, key), PATIENCE, lambda: status(site, NATIVE, key))
        assert between.refused == [Conflict]
        assert conditions(site, NATIVE, key)["Theirs"] == theirs
        version = look(site, NATIVE, key)["metadata"]["resourceVersion"]
        for_seconds(2.0, lambda: look(site, NATIVE, key)["metadata"]["resourceVersion"] == version)
        assert not running.scheduler.teller.failed


def test_a_group_that_is_deleted_in_the_middle_harms_nobody(account: Endpoint, site: Site) -> None:
    site.node(cpu="3")
    key = group(site, NATIVE)
    finalizers = {"metadata": {"finalizers": None}}

    def delete() -> None:
        site.client.delete(NATIVE, key)
        if site.client.transport.request("GET", NATIVE.at(key)).code == 200:
            site.client.merge(NATIVE, key, finalizers)

    with Running(account, elect=True, namespace=SPACE) as running:
        between = Between(running, delete)
        site.all_bound([member(site, f"p{n}", NATIVE) for n in range(2)])
        until(lambda: bool(between.refused), PATIENCE)
        assert between.refused == [NotFound]
        assert group(site, NATIVE) == key  # another of that name: its pods are bound, and it says so
        until(lambda: conditions(site, NATIVE, key).get("PodGroupScheduled", {}).get("status") == "True", PATIENCE)
        site.all_bound([site.pod("other")])
        assert not running.scheduler.teller.failed
        assert not running.scheduler.unhealthy()
