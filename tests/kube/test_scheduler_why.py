"""`forebay why` on a real API server: what it says is what the scheduler would do, and it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from controlplane import ControlPlane
from schedulerlab import MINIMUM, Running, Site, live_site

from forebay.cli.why import why
from forebay.kube.resources import PODS

pytestmark = pytest.mark.timeout(300)

FLAGS = ["--disable-admission-plugins=TaintNodesByCondition"]
OFF = "--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("why"), api_flags=FLAGS, manager_flags=[OFF]) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def ask(world: ControlPlane, site: Site, name: str, *more: str) -> Result:
    return CliRunner().invoke(why, [name, "-n", site.namespace, "--kubeconfig", str(world.kubeconfig), *more])


def told(world: ControlPlane, site: Site, name: str) -> dict[str, object]:
    done = ask(world, site, name, "-o", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_gang_without_room(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="4")
    other = site.node(cpu="1")
    blocker = site.pod("blocker", cpu="3")
    site.bind(blocker, node)
    gang = site.gang("train", 3, 3)
    for name in ("train", gang[0].name, f"{site.namespace}/train"):  # by the gang, by one of its pods
        answer = told(world, site, name)
        assert answer["state"] == "waiting"
        assert answer["reason"] == "the gang needs 3 pods at once, 2 fit; of 2 nodes: 2 cpu"
        assert answer["free"] == {"node": node, "places": 2, "pods": [f"{site.namespace}/blocker"]}
    text = ask(world, site, "train").output
    assert f"to start now, free 2 places on {node}, held by {site.namespace}/blocker" in text
    assert site.where(gang) == ["", "", ""]
    assert not any(site.said(key) for key in gang)  # it only looks
    site.client.delete(PODS, blocker, grace=0)
    answer = told(world, site, "train")
    assert (answer["state"], answer["nodes"]) in [("fits", {node: 3}), ("fits", {node: 2, other: 1})]


def test_the_same_words_as_the_schedulers(world: ControlPlane, site: Site) -> None:
    site.node(cpu="1")
    gang = site.gang("train", 2, 2)
    with Running(world.endpoint):
        site.waits(gang[0], "needs 2 pods at once")
        assert told(world, site, "train")["reason"] == site.said(gang[0])
        site.node(cpu="1")
        site.all_bound(gang)
    answer = told(world, site, "train")
    assert answer["state"] == "running"
    assert sorted(answer["nodes"].values()) == [1, 1]  # type: ignore[attr-defined]


def test_what_is_missing_or_contradicts_itself(world: ControlPlane, site: Site) -> None:
    site.node()
    site.gang("short", 1, 2)
    reason = f"gang {site.namespace}/short: 1 of 2 pods exist; create 1 more, or lower the minimum"
    assert told(world, site, "short")["reason"] == reason
    first = site.gang("torn", 1, 2)[0]
    labels = {"pod-group.scheduling.sigs.k8s.io/name": "torn", MINIMUM: "3"}
    site.pod("torn-1", labels=labels)
    assert "labels contradict each other, minimum" in str(told(world, site, first.name)["reason"])


def test_what_is_not_ours_and_what_nobody_knows(world: ControlPlane, site: Site) -> None:
    site.pod("other", scheduler="somebody-else")
    answer = told(world, site, "other")
    assert (answer["state"], answer["reason"]) == (
        "elsewhere",
        'pod other is of schedulerName "somebody-else", which is another\'s',
    )
    site.pod("gated", schedulingGates=[{"name": "example.com/later"}])
    assert told(world, site, "gated")["reason"] == "pod gated waits at example.com/later"
    done = ask(world, site, "nobody")
    assert done.exit_code == 1
    assert f'no pod and no gang "nobody" is in namespace {site.namespace}' in done.output


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: []\n")
    done = CliRunner().invoke(why, ["x", "--kubeconfig", str(config)])
    assert done.exit_code == 1
    assert "context" in done.output
    assert CliRunner().invoke(why, ["x", "--at", "3"]).exit_code == 2
