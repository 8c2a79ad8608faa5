"""Our scheduler on a real API server: what Jobs, ConfigMaps, PriorityClasses, queues and nodes' own words say is acted on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner
from controlplane import ControlPlane
from controlplane_kit import until
from schedulerlab import NUMBERS, QUOTAS, Running, Site, for_seconds, live_plane, live_site, serve

from forebay.cli.why import why
from forebay.kube.objects import Key
from forebay.kube.resources import CONFIG_MAPS, JOBS, NODES, PODS
from forebay.scheduler.live.config import Configuration

pytestmark = pytest.mark.timeout(300)
REGISTERED = "GPU-0,10,16384,100,NVIDIA-T4,0,true:GPU-1,10,16384,100,NVIDIA-T4,0,true:"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with live_plane(tmp_path_factory.mktemp("words")) as plane:
        yield plane


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


def annotate(site: Site, node: str, notes: Mapping[str, str]) -> None:
    site.client.merge(NODES, Key("", node), {"metadata": {"annotations": dict(notes)}})


def test_shares_in_hamis_names_on_a_node_that_offers_cards_alone(world: ControlPlane, site: Site) -> None:
    node = site.node(cpu="16", **{"nvidia.com/gpu": "20"})
    annotate(site, node, {"hami.io/node-nvidia-register": REGISTERED})
    with Running(world.endpoint):
        share = {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "9000", "nvidia.com/gpucores": "30"}
        two = [site.pod(f"share-{n}", limits=share) for n in range(2)]
        site.all_bound(two)
        written = [site.get(key).metadata.annotations for key in two]
        cards = {one["hami.io/vgpu-devices-to-allocate"].partition(",")[0] for one in written}
        assert cards == {"GPU-0", "GPU-1"}
        assert {one["hami.io/vgpu-node"] for one in written} == {node}
        third = site.pod("third", limits=share)
        site.waits(third, "card memory")


def test_a_jobs_deadline_tells_when_a_place_is_free(world: ControlPlane, site: Site) -> None:
    """Of a Job that the real Job controller runs: its pod does not carry the deadline."""
    site.node(cpu="2")
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "1"}}}
    pod = {"schedulerName": "forebay", "restartPolicy": "Never", "containers": [container]}
    spec = {"activeDeadlineSeconds": 5000, "template": {"spec": pod}}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "old"}, "spec": spec}
    with Running(world.endpoint):
        site.client.create(JOBS, site.namespace, body)
        until(lambda: any(one.spec.node_name for one in site.pods()), 60, lambda: [site.said(Key(site.namespace, "old"))])
        assert [one.spec.active_deadline_seconds for one in site.pods()] == [None]
        big = site.pod("big", cpu="2", restartPolicy="Never")
        site.waits(big, "by the deadlines of what runs there")
        asked = CliRunner().invoke(why, ["big", "-n", site.namespace, "--kubeconfig", str(world.kubeconfig), "-o", "json"])
        assert 4000 < json.loads(asked.stdout)["when"]["eta_seconds"] <= 5000, asked.output
        site.client.delete(JOBS, Key(site.namespace, "old"))


def test_a_card_that_gpushare_calls_sick_takes_nothing_new(world: ControlPlane, site: Site) -> None:
    node = site.node(
        cpu="16", labels={"ack.node.gpu.schedule": "cgpu"}, **{"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2"}
    )
    name = f"unhealthy-gpu-{node}"
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"gpus": "0"}}
    site.client.create(CONFIG_MAPS, "kube-system", made)
    with Running(world.endpoint, Configuration(unhealthy_gpus="kube-system")):
        first = site.pod("first", limits={"aliyun.com/gpu-mem": "15"})
        site.all_bound([first])
        assert site.get(first).metadata.annotations["ALIYUN_COM_GPU_MEM_IDX"] == "1"
        second = site.pod("second", limits={"aliyun.com/gpu-mem": "15"})
        site.waits(second, "0 of 1 nodes")
        site.client.delete(CONFIG_MAPS, Key("kube-system", name))
        site.all_bound([second])
        assert site.get(second).metadata.annotations["ALIYUN_COM_GPU_MEM_IDX"] == "0"


def test_the_first_of_each_pool_of_nodes_is_not_passed(world: ControlPlane, site: Site) -> None:
    pools = {pool: site.node(cpu="2", labels={"pool": pool}) for pool in ("x", "y")}
    old = {}
    for pool, node in pools.items():
        old[pool] = site.pod(f"old-{pool}", restartPolicy="Never")
        site.bind(old[pool], node)
    with Running(world.endpoint):
        job = {"restartPolicy": "Never"}
        big = {pool: site.pod(f"big-{pool}", cpu="2", nodeSelector={"pool": pool}, **job) for pool in pools}
        for pool, node in pools.items():
            site.waits(big[pool], f"it is reserved on {node}")
        small = {pool: site.pod(f"small-{pool}", nodeSelector={"pool": pool}, **job) for pool in pools}
        for pool, key in small.items():
            site.waits(key, f"held for pod {site.namespace}/big-{pool}")
        for_seconds(1.0, lambda: not any(site.where(small.values())))
        site.client.delete(PODS, old["y"], grace=0)
        site.all_bound([big["y"]])
        assert site.where([big["x"], *small.values()]) == ["", "", ""]


def test_a_queue_fills_nodes_its_way_and_counts_cache_bytes(world: ControlPlane, site: Site) -> None:
    serve(site, QUOTAS)
    for _ in range(2):
        site.node(cpu="8")
    meta: dict[str, Any] = {"name": "q", "annotations": {"forebay.io/nodes": "spread"}}
    spec = {"max": {"cpu": 100, "forebay.io/cache-bytes": "100Gi"}}
    quota = {"apiVersion": QUOTAS.api_version, "kind": QUOTAS.kind, "metadata": meta, "spec": spec}
    site.client.create(QUOTAS, site.namespace, quota)
    with Running(world.endpoint):
        spread = [site.pod(f"s{n}") for n in range(4)]
        site.all_bound(spread)
        where = site.where(spread)
        assert sorted(where.count(name) for name in site.nodes) == [2, 2]
        site.client.merge(QUOTAS, Key(site.namespace, "q"), {"metadata": {"annotations": {"forebay.io/nodes": "binpack"}}})
        until(lambda: _packed(site), 60, lambda: site.where([Key(site.namespace, one.metadata.name) for one in site.pods()]))
        site.waits(_cached(site, "much", "200Gi"), "forebay.io/cache-bytes")
        site.all_bound([_cached(site, "some", "50Gi")])
        site.waits(_cached(site, "more", "60Gi"), "forebay.io/cache-bytes")


def _packed(site: Site) -> bool:
    """Whether two pods that are made now come to one node, though the other is as empty: the changed quota has been read. Small
    ones, since they stay: there is room for some sixty looks."""
    made = [site.pod(f"p{next(NUMBERS)}", cpu="100m") for _ in range(2)]
    site.all_bound(made)
    return len(set(site.where(made))) == 1


def _cached(site: Site, name: str, size: str) -> Key:
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "100m"}}}
    meta = {"name": name, "annotations": {"forebay.io/cache-bytes": size}}
    spec = {"schedulerName": "forebay", "containers": [container]}
    site.client.create(PODS, site.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    return Key(site.namespace, name)
