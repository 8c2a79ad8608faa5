"""Room for those who are due: pods are deleted, gracefully and never in vain, and the place is held. On a real API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import PATIENCE, QUOTAS, Running, Site, for_seconds, live_plane, live_site, serve

from forebay.kube.objects import Key
from forebay.kube.resources import DISRUPTION_BUDGETS, PODS, Resource
from forebay.scheduler.live.config import Configuration

pytestmark = pytest.mark.timeout(300)

PRIORITIES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("preempting")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    for place in live_site(world):
        for name, value in (("high", 1000), ("low", 10)):
            body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}
            place.client.apply(PRIORITIES, Key("", name), body)
        yield place


def gone(site: Site, keys: list[Key]) -> int:
    return sum(site.gone_or_leaving(key) for key in keys)


def test_a_higher_priority_takes_the_least_that_it_needs(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="4")
    with Running(world.endpoint) as running:
        low = [site.pod(f"low-{n}", priorityClassName="low", terminationGracePeriodSeconds=0) for n in range(4)]
        site.all_bound(low)
        high = site.pod("high", cpu="2", priorityClassName="high")
        site.all_bound([high])
        assert site.where([high]) == [node]
        assert gone(site, low) == 2
        assert running.scheduler.core.preemption.victims == 2
        again = site.pod("again", cpu="3", priorityClassName="low")
        site.waits(again, "too little free cpu")  # its equals do not yield
        for_seconds(1.0, lambda: gone(site, low) == 2)


def test_the_place_is_held_while_victims_end(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="2")
    with Running(world.endpoint):
        low = site.pod("low", cpu="2", priorityClassName="low", terminationGracePeriodSeconds=600)
        site.all_bound([low])
        started = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}
        site.client.merge(PODS, low, {"status": started}, sub="status")  # else the API server would not wait for a kubelet
        high = site.pod("high", cpu="2", priorityClassName="high")
        until(lambda: site.get(high).status.nominated_node_name == node, PATIENCE, lambda: site.said(high))
        until(lambda: site.get(low).metadata.deletion_timestamp, PATIENCE, "the victim is not told to end")  # it is told last
        assert any(c.type == "DisruptionTarget" and c.reason == "PreemptionByScheduler" for c in site.get(low).status.conditions)
        site.waits(high, "it waits until the pods that make room for it are gone")
        site.offer(node, {"cpu": "4", "memory": "64Gi", "pods": "110"})  # room for one of both: it is the higher one's
        site.all_bound([high])
        small = site.pod("small", cpu="1", priorityClassName="low")
        site.waits(small, "too little free cpu")
        site.client.delete(PODS, low, grace=0)
        site.all_bound([small])


def test_a_budget_and_a_pod_that_never_preempts_are_respected(world: ControlPlane, site: Site) -> None:
    site.node(cpu="1")
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "keep"}}
    budget["spec"] = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}  # type: ignore[assignment]
    site.client.create(DISRUPTION_BUDGETS, site.namespace, budget)
    with Running(world.endpoint):
        web = site.pod("web", labels={"app": "web"}, priorityClassName="low", terminationGracePeriodSeconds=0)
        site.all_bound([web])
        high = site.pod("high", priorityClassName="high")
        site.waits(high, "1 pods stay")
        assert not gone(site, [web])
        site.client.delete(DISRUPTION_BUDGETS, Key(site.namespace, "keep"))
        site.all_bound([high])


def test_preemption_can_be_off(world: ControlPlane, site: Site) -> None:
    site.node(cpu="1")
    with Running(world.endpoint, Configuration(preemption=False)):
        low = site.pod("low", priorityClassName="low")
        site.all_bound([low])
        high = site.pod("high", priorityClassName="high")
        site.waits(high, "too little free cpu")
        for_seconds(1.0, lambda: not gone(site, [low]))


def test_a_queue_gets_back_what_it_is_guaranteed(world: ControlPlane, site: Site) -> None:
    """Flat ElasticQuotas of scheduler-plugins: one namespace has borrowed all, the other asks for its min."""
    serve(site, QUOTAS)
    other = next(live_site_again := live_site(world))
    site.node(cpu="4")

    def quota(place: Site, least: int) -> None:
        body = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "ElasticQuota", "metadata": {"name": "q"}}
        body["spec"] = {"min": {"cpu": least}, "max": {"cpu": 4}}  # type: ignore[assignment]
        place.client.create(QUOTAS, place.namespace, body)

    quota(site, 2)
    quota(other, 2)
    with Running(world.endpoint):
        borrowed = [site.pod(f"b{n}", terminationGracePeriodSeconds=0) for n in range(4)]
        site.all_bound(borrowed)
        mine = [other.pod(f"m{n}") for n in range(2)]
        other.all_bound(mine)
        assert gone(site, borrowed) == 2
        third = other.pod("third")
        other.waits(third, "cpu")
        for_seconds(1.0, lambda: gone(site, borrowed) == 2)  # beyond its min nobody owes it anything
    for _ in live_site_again:
        pass
