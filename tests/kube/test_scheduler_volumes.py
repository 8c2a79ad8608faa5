"""Volumes that are made for their first pod, on a real API server with the real volume controller.

`kubernetes.io/host-path` is the volume controller's own provisioner. The other one is a stand-in (`provisioner.py`): a CSI driver
with nodes, capacity and failures cannot run where nodes are only objects.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from provisioner import Provisioner
from schedulerlab import PATIENCE, Running, Site, live_plane, live_site
from schedulerrights import SPACE, scheduler_account

from forebay.api.kubernetes.storage import SELECTED_NODE, PersistentVolumeClaim
from forebay.kube.config import Endpoint
from forebay.kube.objects import Key
from forebay.kube.resources import CLAIMS, CRDS, STORAGE_CLASSES, Resource

pytestmark = pytest.mark.timeout(400)

KOORDINATOR = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "devices.scheduling.koordinator.sh"},
    "spec": {
        "group": "scheduling.koordinator.sh",
        "scope": "Cluster",
        "names": {"kind": "Device", "plural": "devices", "singular": "device", "listKind": "DeviceList"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
DEVICES = Resource("scheduling.koordinator.sh", "v1alpha1", "devices", "Device", namespaced=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    flags = ["--enable-hostpath-provisioner=true"]
    with live_plane(tmp_path_factory.mktemp("volumes"), manager_flags=flags) as plane:
        yield plane


@pytest.fixture(scope="module")
def account(world: ControlPlane) -> Iterator[Endpoint]:
    with scheduler_account(world) as endpoint:
        yield endpoint


@pytest.fixture
def site(world: ControlPlane) -> Iterator[Site]:
    yield from live_site(world)


@pytest.fixture
def running(account: Endpoint) -> Iterator[Running]:
    with Running(account, namespace=SPACE) as one:
        yield one


def selected(site: Site, name: str) -> str:
    claim = site.client.get(CLAIMS, Key(site.namespace, name), PersistentVolumeClaim)
    return claim.metadata.annotations.get(SELECTED_NODE, "")


def test_a_volume_is_made_only_where_its_driver_has_enough_left(site: Site, running: Running) -> None:
    small, large = site.node(cpu="64"), site.node(cpu="2")
    with Provisioner(site, "room.example.com", says_capacity=True) as driver:
        nowhere = site.pod("nowhere", volumes=[driver.claim("nowhere", "5Gi")])
        site.waits(nowhere, "too little storage of class room.example.com left for claim")
        driver.left(small, "1Gi")
        driver.left(large, "100Gi")
        big = site.pod("big", volumes=[driver.claim("big", "10Gi")])
        site.all_bound([nowhere, big])
        assert site.where([nowhere, big]) == [large, large]
        assert selected(site, "big") == large
        tiny = site.pod("tiny", volumes=[driver.claim("tiny", "1Gi")])  # the large node has no CPU left
        site.all_bound([tiny])
        assert site.where([tiny]) == [small]
        huge = site.pod("huge", volumes=[driver.claim("huge", "1Ti")])
        site.waits(huge, "too little storage of class room.example.com left")
        driver.left(small, "2Ti")
        site.all_bound([huge])


def test_a_provisioner_that_fails_on_a_node_gets_another(site: Site, running: Running) -> None:
    with Provisioner(site, "fails.example.com") as driver:
        bad = site.node(cpu="2")
        driver.refuses.add(bad)
        pod = site.pod("data", volumes=[driver.claim("data", "1Gi")])
        site.waits(pod, "its provisioner cannot make a volume for node")
        good = site.node(cpu="2")
        site.offer(bad, {"cpu": "0", "memory": "64Gi", "pods": "110"})
        site.all_bound([pod])
        assert driver.refused
        assert site.where([pod]) == [good]
        assert selected(site, "data") == good


def test_the_volume_controllers_own_provisioner_waits_for_our_node(site: Site, running: Running) -> None:
    folder = Path("/tmp/hostpath_pv")  # where that provisioner makes its folders, whatever it is told
    there = folder.exists()
    node, name = site.node(), f"host-path-{site.namespace}"
    kind = {"provisioner": "kubernetes.io/host-path", "volumeBindingMode": "WaitForFirstConsumer"}
    site.client.create(
        STORAGE_CLASSES, "", {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, **kind}
    )
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": name, "resources": {"requests": {"storage": "1Gi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    site.client.create(CLAIMS, site.namespace, body)
    try:
        pod = site.pod("reader", volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])
        site.all_bound([pod])
        assert selected(site, "data") == node
        assert site.client.get(CLAIMS, Key(site.namespace, "data"), PersistentVolumeClaim).status.phase == "Bound"
    finally:
        site.client.delete(STORAGE_CLASSES, Key("", name))
        if not there:
            shutil.rmtree(folder, ignore_errors=True)


def test_cards_are_what_koordinators_device_says(world: ControlPlane, account: Endpoint, site: Site) -> None:
    site.client.apply(CRDS, Key("", KOORDINATOR["metadata"]["name"]), KOORDINATOR)  # type: ignore[index]
    until(lambda: site.client.transport.request("GET", DEVICES.path("")).code == 200, PATIENCE, "the kind is not served")
    node = site.node(
        **{"koordinator.sh/gpu-core": "200", "koordinator.sh/gpu-memory-ratio": "200", "koordinator.sh/gpu-memory": "160Gi"}
    )
    amounts = {"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory": "80Gi", "koordinator.sh/gpu-memory-ratio": "100"}
    listed = [{"type": "gpu", "minor": n, "id": f"GPU-{n}", "health": n == 1, "resources": amounts} for n in range(2)]
    meta = {"name": node, "labels": {"node.koordinator.sh/gpu-vendor": "nvidia"}}
    body = {"apiVersion": DEVICES.api_version, "kind": "Device", "metadata": meta, "spec": {"devices": listed}}
    with Running(account, namespace=SPACE):
        site.client.create(DEVICES, "", body)
        half = {"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"}
        pods = [site.pod(f"p{n}", limits=half) for n in range(2)]
        site.all_bound(pods)
        said = [site.get(key).metadata.annotations["scheduling.koordinator.sh/device-allocated"] for key in pods]
        assert all('"minor":1' in one and "GPU-1" in one for one in said)
        third = site.pod("third", limits=half)
        site.waits(third, "card")
        listed[0]["health"] = True
        site.client.merge(DEVICES, Key("", node), {"spec": {"devices": listed}})
        site.all_bound([third])
        assert '"minor":0' in site.get(third).metadata.annotations["scheduling.koordinator.sh/device-allocated"]
