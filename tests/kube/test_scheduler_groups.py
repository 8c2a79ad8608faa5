"""Our scheduler on a real API server: gangs by Kubernetes' own PodGroup, as 1.36 serves it behind its gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from controlplane import ControlPlane
from schedulerlab import Running, Site, for_seconds, live_plane, live_site

from forebay.kube.objects import Key
from forebay.kube.resources import PRIORITY_CLASSES, Resource

pytestmark = pytest.mark.timeout(300)
GROUPS = Resource("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup")
SERVED = ("--feature-gates=GenericWorkload=true,GangScheduling=true", "--runtime-config=scheduling.k8s.io/v1alpha2=true")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("groups"), api_flags=SERVED) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def group(site: Site, name: str, **spec: Any) -> None:
    body = {"apiVersion": GROUPS.api_version, "kind": "PodGroup", "metadata": {"name": name}, "spec": spec}
    site.client.create(GROUPS, site.namespace, body)


def member(site: Site, name: str, of: str) -> Key:
    return site.pod(name, schedulingGroup={"podGroupName": of})


def test_a_gang_of_kubernetes_own_starts_whole_or_not_at_all(world: ControlPlane, site: Site) -> None:
    site.node(cpu="2")
    group(site, "train", schedulingPolicy={"gang": {"minCount": 3}})
    with Running(world.endpoint):
        pods = [member(site, f"t{n}", "train") for n in range(2)]
        site.waits(pods[0], "2 of 3 pods exist")
        pods.append(member(site, "t2", "train"))
        site.waits(pods[0], "needs 3 pods at once and the empty cluster has room for 2")
        for_seconds(1.0, lambda: not any(site.where(pods)))
        site.node(cpu="1")
        site.all_bound(pods)


def test_pods_of_a_basic_group_go_one_by_one(world: ControlPlane, site: Site) -> None:
    site.node(cpu="1")
    group(site, "plain", schedulingPolicy={"basic": {}})
    with Running(world.endpoint):
        first = member(site, "first", "plain")
        site.all_bound([first])
        site.waits(member(site, "second", "plain"), "too little free cpu")


def test_the_priority_of_a_group_decides_who_goes_first(world: ControlPlane, site: Site) -> None:
    body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000}
    site.client.apply(PRIORITY_CLASSES, Key("", "urgent"), body)
    group(site, "late", schedulingPolicy={"gang": {"minCount": 2}}, priorityClassName="urgent")
    early = [site.pod(f"early-{n}") for n in range(2)]
    late = [site.pod(f"late-{n}", schedulingGroup={"podGroupName": "late"}, priorityClassName="urgent") for n in range(2)]
    site.node(cpu="2")
    with Running(world.endpoint):
        site.all_bound(late)
        assert site.where(early) == ["", ""]
