"""Our scheduler on a real API server: pods and gangs are bound, whatever goes wrong between deciding and binding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controlplane import ControlPlane
from schedulerlab import GANG, MINIMUM, Running, Site, for_seconds, live_plane, live_site

from forebay.kube.objects import Key
from forebay.kube.resources import PODS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("live")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


@pytest.fixture
def running(world: ControlPlane) -> Iterator[Running]:
    with Running(world.endpoint) as one:
        yield one


def test_plain_pods_are_bound_and_others_left_alone(site: Site, running: Running) -> None:
    node = site.node()
    ours, other = [site.pod(f"p{n}") for n in range(3)], site.pod("other", scheduler="somebody-else")
    site.all_bound(ours)
    assert set(site.where(ours)) == {node}
    assert site.where([other]) == [""]
    site.event(ours[0], "Scheduled", f"to {node}")


def test_a_pod_that_fits_nowhere_says_why_and_goes_when_there_is_room(site: Site, running: Running) -> None:
    node = site.node(cpu="2")
    big = site.pod("big", cpu="3")
    site.waits(big, "too small for cpu")
    site.event(big, "FailedScheduling", "too small for cpu")
    site.offer(node, {"cpu": "8", "memory": "64Gi", "pods": "110"})
    site.all_bound([big])
    more = site.pod("more", cpu="6")
    site.waits(more, "too little free cpu")
    site.client.delete(PODS, big, grace=0)
    site.all_bound([more])


def test_a_gang_starts_whole_or_not_at_all(site: Site, running: Running) -> None:
    site.node(cpu="2")
    site.node(cpu="1")
    gang = site.gang("train", 4, 4)
    site.waits(gang[0], "needs 4 pods at once and the empty cluster has room for 3")
    for_seconds(1.0, lambda: not any(site.where(gang)))
    site.all_bound([site.pod("between", cpu="2")])  # nothing is held for the gang
    site.client.delete(PODS, Key(site.namespace, "between"), grace=0)
    site.node(cpu="1")
    site.all_bound(gang)


def test_a_gang_waits_for_its_members(site: Site, running: Running) -> None:
    site.node(cpu="8")
    first = site.gang("late", 2, 4)
    site.waits(first[0], "2 of 4 pods exist")
    rest = [
        site.pod(
            f"late-{n}",
            labels={GANG: "late", MINIMUM: "4"},
        )
        for n in (2, 3)
    ]
    site.all_bound([*first, *rest])
