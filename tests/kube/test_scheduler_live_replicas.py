"""Two replicas, settings that change, and the rights that the install manifests give: on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from prometheus_client.exposition import generate_latest
from schedulerlab import PATIENCE, Running, Site, for_seconds, live_plane, live_site
from schedulerrights import SPACE, scheduler_account

from forebay.controller.install import scheduler as scheduler_part
from forebay.kube import resources as r
from forebay.kube.config import Endpoint
from forebay.scheduler.live import config

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("replicas")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def test_the_second_replica_takes_over_with_books_that_are_right(world: ControlPlane, site: Site) -> None:
    site.node(cpu="4")
    with Running(world.endpoint, elect=True) as first:
        until(lambda: first.scheduler.leader.leading, PATIENCE)  # type: ignore[union-attr]
        with Running(world.endpoint, elect=True) as second:
            pods = [site.pod(f"a{n}") for n in range(3)]
            site.all_bound(pods)
            assert not second.scheduler.leader.leading  # type: ignore[union-attr]
            assert not second.scheduler.core.counts.attempts["scheduled"]
            first.stop()
            more = [site.pod(f"b{n}") for n in range(2)]
            until(lambda: sum(map(bool, site.where(more))) == 1, PATIENCE)
            for_seconds(1.0, lambda: sum(map(bool, site.where(more))) == 1)  # the fourth core is taken, there is no fifth
            assert second.scheduler.core.counts.attempts["scheduled"] == 1
    events = json.loads(site.client.transport.request("GET", r.EVENTS.path(site.namespace)).body)["items"]
    assert {one["reportingController"] for one in events if one["reason"] == "Scheduled"} == {"forebay.io/scheduler"}


def replaced(file: Path, text: str) -> None:
    """As a kubelet changes a ConfigMap's file: whoever looks meanwhile never finds it empty."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_settings_are_read_anew_and_a_bad_file_changes_nothing(world: ControlPlane, site: Site, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("schedulerName: forebay\n")
    site.node(cpu="4")
    text = file.read_text()
    with Running(world.endpoint, config.read(text, str(file)), config=file, text=text) as running:
        core = running.scheduler.core
        replaced(file, "backof: {firstSeconds: 3}\n")
        until(lambda: running.scheduler.metrics.reloads["bad"] == 1, PATIENCE)
        assert core.settings == config.Configuration()
        replaced(file, "backoff: {firstSeconds: 3}\npolicy: packing\nbindThreads: 3\n")
        until(lambda: (core.settings.policy, core.planner.policy.name, core.queue.first) == ("packing", "packing", 3), PATIENCE)
        site.all_bound([site.pod("after")])

        def metrics() -> str:
            """The scheduler shows what it has done at the end of a turn: perhaps after the server has the pod bound."""
            return generate_latest(running.scheduler.registry).decode()

        one = 'scheduler_schedule_attempts_total{profile="forebay",result="scheduled"} 1.0'
        until(lambda: one in metrics(), PATIENCE, metrics)
        assert 'forebay_scheduler_config_reloads_total{result="bad"} 1.0' in metrics()
        assert 'forebay_copy_age_seconds{copy="pods"}' in metrics()

        def said() -> list[str]:
            items = json.loads(site.client.transport.request("GET", r.EVENTS.path("default")).body)["items"]
            return [f"{one['reason']}: {one['note']}" for one in items]

        until(lambda: any("InvalidConfiguration" in one and 'did you mean "backoff"?' in one for one in said()), PATIENCE, said)
        until(lambda: any("bindThreads" in one and "after a restart" in one for one in said()), PATIENCE, said)


@pytest.fixture
def account(world: ControlPlane) -> Iterator[Endpoint]:
    with scheduler_account(world, gates=True) as endpoint:
        yield endpoint


def test_the_account_of_the_manifests_suffices_and_has_no_more(account: Endpoint, site: Site) -> None:
    site.node(cpu="2")
    with Running(account, elect=True, namespace=SPACE) as running:
        pods = site.gang("pair", 2, 2)
        site.all_bound(pods)
        waiting = site.pod("waiting")
        site.waits(waiting, "too little free cpu")
        site.event(waiting, "FailedScheduling")
        site.event(pods[0], "Scheduled")
        assert running.scheduler.teller.failed == 0
        assert running.scheduler.recorder.failed == 0
    for rule in (*scheduler_part.rules(), *scheduler_part.lease_rules(), *scheduler_part.gate_rules()):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "pods/exec", "nodes/status", "configmaps"} & set(rule["resources"])
