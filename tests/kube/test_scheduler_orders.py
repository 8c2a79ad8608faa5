"""Our scheduler on a real API server: places that are held, who passes and who does not, and what `forebay why` says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import Running, Site, for_seconds, live_plane, live_site

from forebay.cli.why import why
from forebay.kube.objects import Key
from forebay.kube.resources import PODS

pytestmark = pytest.mark.timeout(300)
JOB = {"restartPolicy": "Never"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("orders")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def told(world: ControlPlane, site: Site, name: str) -> tuple[dict[str, object], str]:
    """The answer as JSON's, and for people."""
    ask = [name, "-n", site.namespace, "--kubeconfig", str(world.kubeconfig)]
    done, text = CliRunner().invoke(why, [*ask, "-o", "json"]), CliRunner().invoke(why, ask)
    assert done.exit_code == text.exit_code == 0, done.output + text.output
    return json.loads(done.stdout), text.output


def later() -> None:
    """Ages are told in whole seconds: what is made now is younger than what was made before."""
    time.sleep(1.1)


def behind(site: Site, gang: list[Key], small: Key) -> None:
    site.waits(small, f"held for gang {site.namespace}/big")
    assert site.where([*gang, small]) == [""] * (len(gang) + 1)


def test_a_small_job_waits_behind_a_large_gang_also_after_a_restart(world: ControlPlane, site: Site) -> None:
    nodes = [site.node(cpu="2") for _ in range(2)]
    old = site.pod("old", cpu="1", **JOB)
    site.bind(old, nodes[0])
    with Running(world.endpoint):
        gang = site.gang("big", 4, 4, **JOB)
        site.waits(gang[0], f"it is reserved on {nodes[0]}, {nodes[1]}, nobody knows when what runs there ends")
        later()
        small = site.pod("small", **JOB)
        behind(site, gang, small)
    with Running(world.endpoint):  # nothing of it was written down
        another = site.pod("another", **JOB)
        behind(site, gang, another)
        for_seconds(2.0, lambda: site.where([small, another]) == ["", ""])
        answer, text = told(world, site, "big")
        start = answer["when"]
        assert isinstance(start, dict)
        assert (start["eta_seconds"], start["reserved"]) == (None, nodes)
        assert start["ending"] == [f"{site.namespace}/old"]
        assert "expected start: nobody can tell; what runs on the nodes reserved for it has no deadline" in text
        answer, text = told(world, site, "small")
        assert isinstance(answer["when"], dict)
        assert answer["when"]["behind"] == f"gang {site.namespace}/big"
        site.client.delete(PODS, old, grace=0)
        site.all_bound(gang)
        assert sorted(site.where(gang)) == sorted([*nodes, *nodes])
        for key in gang:
            site.client.delete(PODS, key, grace=0)
        site.all_bound([small, another])


def test_who_ends_in_time_passes_and_the_time_is_told(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="4")
    site.bind(site.pod("old", cpu="2", activeDeadlineSeconds=3600, **JOB), node)
    with Running(world.endpoint):
        big = site.pod("big", cpu="4", **JOB)
        site.waits(big, f"it is reserved on {node}, free by ")
        later()
        endless = site.pod("endless", **JOB)
        site.waits(endless, f"held for pod {site.namespace}/big")
        short = site.pod("short", activeDeadlineSeconds=60, **JOB)
        site.all_bound([short])
        answer, _ = told(world, site, "big")
        start = answer["when"]
        assert isinstance(start, dict)
        assert 3000 < float(start["eta_seconds"]) < 3660
        assert site.where([big, endless]) == ["", ""]


def test_a_gang_larger_than_the_cluster_is_told_and_holds_nothing(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="2")
    with Running(world.endpoint):
        gang = site.gang("huge", 3, 3, **JOB)
        site.waits(gang[0], "needs 3 pods at once and the empty cluster has room for 2: add nodes, or make the gang smaller")
        small = site.pod("small", **JOB)
        site.all_bound([small])
        assert site.where([small]) == [node]


def test_a_gang_that_waits_longer_than_it_set_is_told(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="2")
    site.bind(site.pod("service", cpu="1"), node)
    with Running(world.endpoint):
        gang = site.gang("train", 2, 2)
        for key in gang:
            site.client.merge(PODS, key, {"metadata": {"annotations": {"gang.scheduling.koordinator.sh/waiting-time": "3s"}}})
        until(
            lambda: any(one.get("reason") == "GangTimeout" for one in site.events(gang[0].name)),
            60.0,
            lambda: f"no event: {site.events(gang[0].name)}",
        )
