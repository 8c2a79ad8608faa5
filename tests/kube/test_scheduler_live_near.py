"""Our scheduler on a real API server: gangs go where NodeCaches say that their data is, and start whatever those say."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import Running, Site, live_site

from forebay.kube.client import Client
from forebay.kube.objects import Key
from forebay.kube.resources import CLAIMS, CRDS, DATASET_HINTS, NODE_CACHES, PODS, VOLUMES
from forebay.kube.transport import Transport

pytestmark = pytest.mark.timeout(300)

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FLAGS = ["--disable-admission-plugins=TaintNodesByCondition"]
OFF = "--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller,-garbage-collector-controller"
NUMBERS = itertools.count(1)
GB = 10**9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Nodes are only objects: nobody taints them or takes their pods away. Our CRDs are there."""
    with ControlPlane(tmp_path_factory.mktemp("near"), api_flags=FLAGS, manager_flags=[OFF]) as plane:
        transport = Transport(plane.endpoint)
        client = Client(transport, manager="test")
        for name in ("nodecaches", "datasethints"):
            body = yaml.safe_load((DEPLOY / "crds" / f"forebay.io_{name}.yaml").read_text())
            client.apply(CRDS, Key("", body["metadata"]["name"]), body)
        for resource in (NODE_CACHES, DATASET_HINTS):
            until(lambda r=resource: transport.request("GET", r.path("")).code == 200, 60.0, lambda: "the kind is not served")
        transport.close()
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    for place in live_site(world):
        yield place
        for node in place.nodes:
            place.client.delete(NODE_CACHES, Key("", node))


@pytest.fixture
def running(world: ControlPlane) -> Iterator[Running]:
    with Running(world.endpoint) as one:
        yield one


def claim(site: Site) -> dict[str, Any]:
    """A bound claim `lake`, as the volume of a pod."""
    volume = f"{site.namespace}-lake"
    spec = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "capacity": {"storage": "1Gi"},
        "hostPath": {"path": "/data"},
        "claimRef": {"namespace": site.namespace, "name": "lake"},
    }
    site.client.create(VOLUMES, "", {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec})
    wanted = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume}
    body = {"metadata": {"name": "lake"}, "spec": {**wanted, "resources": {"requests": {"storage": "1Gi"}}}}
    site.client.create(CLAIMS, site.namespace, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **body})
    key = Key(site.namespace, "lake")
    until(lambda: site.client.get(CLAIMS, key, dict[str, Any]).get("status", {}).get("phase") == "Bound", 60.0, lambda: "unbound")
    return {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "lake"}}]}


def moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def says(site: Site, node: str, amount: int, at: str = "", **load: int) -> None:
    """The node's NodeCache: bytes of `lake`, and of a load there, whether or not it is true."""
    held: dict[str, Any] = {"namespace": site.namespace, "name": "lake", "role": "Owner"}
    held["tiers"] = [{"medium": "SSD", "bytes": amount}]
    if load:
        held["warming"] = {"remainingBytes": load["remaining"], "bytesPerSecond": GB, "etaSeconds": load["eta"]}
    totals = {"cachedBytes": amount, "capacityBytes": amount, "cached": "", "capacity": ""}
    status = {"observedTime": at or moment(), "tiers": [], **totals, "datasetCount": 1, "datasets": [held]}
    key, meta = Key("", node), {"apiVersion": "forebay.io/v1alpha1", "kind": "NodeCache", "metadata": {"name": node}}
    site.client.apply(NODE_CACHES, key, meta)
    site.client.apply_status(NODE_CACHES, key, {**meta, "status": status})


def sized(site: Site, total: int) -> None:
    key = Key(site.namespace, "lake")
    meta = {"apiVersion": "forebay.io/v1alpha1", "kind": "DatasetHints", "metadata": {"name": "lake", "namespace": key.namespace}}
    status = {"observedTime": moment(), "totalBytes": total, "cachedBytes": 0, "total": "", "cached": "", "cachedPercent": 0}
    site.client.apply(DATASET_HINTS, key, meta)
    site.client.apply_status(DATASET_HINTS, key, {**meta, "status": {**status, "nodeCount": 0}})


def believed(running: Running, site: Site, node: str) -> int:
    """What the scheduler has heard of it."""
    warmth = running.scheduler.core.nearness.warmth
    column = warmth.column_of.get(f"{site.namespace}/lake")
    row = warmth.row_of.get(node)
    return 0 if column is None or row is None else int(warmth.held[row, column])


def test_a_gang_goes_where_its_data_is(site: Site, running: Running) -> None:
    nodes = [site.node() for _ in range(4)]
    data = claim(site)
    sized(site, 100 * GB)
    says(site, nodes[2], 100 * GB)
    until(lambda: believed(running, site, nodes[2]) == 100 * GB, 60.0, lambda: "the hint did not come")
    gang = site.gang("train", 3, 3, **data)
    site.all_bound(gang)
    assert set(site.where(gang)) == {nodes[2]}
    single = site.pod("single", **data)
    site.all_bound([single])
    assert site.where([single]) == [nodes[2]]


def test_a_gang_waits_for_room_near_its_data_and_says_so(site: Site, running: Running) -> None:
    near = site.node(cpu="2")
    site.node(cpu="2")  # free all the time
    data = claim(site)
    sized(site, 100 * GB)
    says(site, near, 100 * GB)
    until(lambda: believed(running, site, near) == 100 * GB, 60.0, lambda: "the hint did not come")
    blocker = site.pod("blocker", cpu="2", nodeSelector={"kubernetes.io/hostname": near})
    site.all_bound([blocker])
    gang = site.gang("train", 2, 2, **data)
    site.waits(gang[0], f"its data {site.namespace}/lake is on {near} (93.13GiB) of 93.13GiB, where there is no room now")
    site.client.delete(PODS, blocker, grace=0)
    site.all_bound(gang)
    assert set(site.where(gang)) == {near}


LONG = {"remaining": 6000 * GB, "eta": 5000}
"""A load of 6 TB: reading them would take longer than its 5,000 s, and the gang waits for ten minutes at the most."""


def loaded(site: Site, running: Running) -> tuple[str, list[Key]]:
    """Two free nodes, one of which loads the data of a gang that waits for that."""
    near, _ = site.node(cpu="2"), site.node(cpu="2")
    data = claim(site)
    sized(site, 10_000 * GB)
    says(site, near, 4000 * GB, **LONG)
    until(lambda: believed(running, site, near) == 4000 * GB, 60.0, lambda: "the hint did not come")
    gang = site.gang("train", 2, 2, **data)
    site.waits(gang[0], f"its data {site.namespace}/lake is loaded on {near}, ")
    return near, gang


def sentence(site: Site, near: str, key: Key) -> str:
    """What is said while the node tells anew that it lives: a hint counts for two minutes."""
    says(site, near, 4000 * GB, **LONG)
    return site.said(key)


@pytest.mark.parametrize("end", ["done", "in vain", "silent"])
def test_a_gang_waits_for_a_load_and_goes_however_that_ends(site: Site, running: Running, end: str) -> None:
    near, gang = loaded(site, running)
    assert " s left; starting now costs " in site.said(gang[0])
    if end == "done":
        says(site, near, 10_000 * GB)
    elif end == "in vain":
        says(site, near, 4000 * GB)  # it runs no more
    else:
        site.client.delete(NODE_CACHES, Key("", near))
    site.all_bound(gang)
    if end != "silent":
        assert set(site.where(gang)) == {near}


def test_a_restart_does_not_begin_the_wait_anew(site: Site, world: ControlPlane) -> None:
    with Running(world.endpoint) as first:
        near, gang = loaded(site, first)
        before = site.said(gang[0])
    deadline = before[before.index("so it waits for that until") :]
    created = datetime.fromisoformat(str(site.get(gang[0]).metadata.creation_timestamp))
    assert f"until {created + timedelta(seconds=600):%Y-%m-%dT%H:%M:%SZ} " in deadline, (created, before)
    says(site, near, 4000 * GB, **LONG)
    with Running(world.endpoint) as second:
        name = f"{site.namespace}/train"
        until(lambda: name in second.scheduler.core.nearness.awaiting.of, 60.0, lambda: sentence(site, near, gang[0]))
        assert second.scheduler.core.nearness.awaiting.of[name].sentence.endswith(deadline)
        says(site, near, 10_000 * GB)
        site.all_bound(gang)
        assert set(site.where(gang)) == {near}


@pytest.mark.parametrize("lie", ["everything is everywhere", "long ago", "in the future", "of no node", "gone in the middle"])
def test_hints_that_lie_or_vanish_keep_no_gang_from_starting(site: Site, running: Running, lie: str) -> None:
    nodes = [site.node() for _ in range(2)]
    data = claim(site)
    sized(site, 100 * GB)
    if lie == "everything is everywhere":
        for node in nodes:
            says(site, node, 9 * 10**18)
    elif lie == "long ago":
        says(site, nodes[0], 100 * GB, "1999-01-01T00:00:00Z")
    elif lie == "in the future":
        says(site, nodes[0], 100 * GB, "2999-01-01T00:00:00Z")
    elif lie == "of no node":
        says(site, f"ghost-{next(NUMBERS)}", 100 * GB)
    else:
        says(site, nodes[1], 100 * GB)
        until(lambda: believed(running, site, nodes[1]) == 100 * GB, 60.0, lambda: "the hint did not come")
        site.client.delete(NODE_CACHES, Key("", nodes[1]))
        until(lambda: believed(running, site, nodes[1]) == 0, 60.0, lambda: "the hint did not go")
    gang = site.gang("train", 4, 4, cpu="2", **data)  # both nodes are needed
    began = time.monotonic()
    site.all_bound(gang)
    assert sorted(site.where(gang)) == sorted([*nodes, *nodes])
    assert time.monotonic() - began < 60.0
