"""What a node publishes of a dataset that its pods read: from a real mount's own cache, over a real kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controlplane import ControlPlane
from crd_admission import read_crds
from csilab import CsiLab, until

from forebay.api import places, wire
from forebay.cache.client import Door
from forebay.fuse.csi.driver import Driver, Settings
from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.holding import held, total
from forebay.fuse.csi.hints.publisher import NODE_CACHES
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.site import Layout, Site
from forebay.fuse.csi.volumes.source import FolderSource
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import NotFound
from forebay.kube.objects import Key
from forebay.kube.transport import Transport

pytestmark = [
    pytest.mark.mount,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a CSI driver mounts: root and /dev/fuse"),
]
LONG = 180.0


class Node:
    """What the driver's own thread looks at: its records and folders. Whether a mount answers is asked of the kernel's table."""

    def __init__(self, lab: CsiLab) -> None:
        self.lab = lab
        layout = Layout(str(lab.base), str(lab.cache))
        self.caches = Caches(Known(layout.state), self, layout)  # type: ignore[arg-type]

    def holds(self, site: Site) -> bool:
        return site.mount in self.lab.mounts()

    def bytes(self) -> int:
        found = self.caches.look()[0]
        return total(held(found[0])) if found else -1

    def reads(self) -> tuple[int, int]:
        """Bytes that were here when they were read, and those that were not."""
        (one,) = self.caches.look()[0]
        return (one.reader.local, one.reader.missed) if one.reader is not None else (-1, -1)


def opens_told(lab: CsiLab) -> int:
    """By the mount to its client tier."""
    with Door(lab.run / places.WORKER_SOCK) as door:
        found = door.call(wire.Stats())
    assert isinstance(found, wire.Report)
    return int(str(found.values["opens_told"]))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CsiLab]:
    with CsiLab(tmp_path) as lab:
        yield lab


def test_a_node_knows_what_its_pods_have_read(lab: CsiLab) -> None:
    whole = sum(map(len, lab.files.values()))
    pod = lab.pod("one")
    node = Node(lab)  # the driver's records, as another process sees them
    until(lambda: node.bytes() == 0, LONG, node.caches.look)
    (one,) = node.caches.look()[0]
    assert (one.namespace, one.name, one.wanted, one.mounted) == ("default", "lab", True, True)
    assert held(one).role == "Client"

    def read() -> None:
        for name, data in lab.files.items():
            assert (pod / name).read_bytes() == data

    read()
    until(lambda: node.bytes() == whole, LONG, node.caches.look)
    until(lambda: node.reads() == (0, whole), LONG, node.reads)
    # opens are told once a second, each file once: those of a second time are not to be among the first
    until(lambda: opens_told(lab) == len(lab.files), LONG)
    read()
    until(lambda: node.reads() == (whole, whole), LONG, node.reads)

    lab.unpublish("one")
    lab.unstage()
    again = Node(lab).caches.look()[0]
    assert [(c.wanted, c.mounted) for c in again] == [(False, True)], "it stays until the dataset goes, and stays warm"


class Published(CsiLab):
    """The same with the driver in this process, whose hints go to a real API server."""

    def __init__(self, root: Path, client: Client) -> None:
        super().__init__(root)
        self.client = client
        self.inside: Driver | None = None

    def start(self, *more: str) -> None:
        layout = Layout(str(self.base), str(self.cache))
        settings = Settings(
            node="n1",
            kubelet=str(self.kubelet),
            endpoint=self.socket,
            layout=layout,
            tier_roots=(str(self.cache), str(self.root / "roots")),
            register=False,
        )
        self.inside = Driver(settings, FolderSource(str(self.datasets)), self.client)
        self.inside.start()

    def close(self) -> None:
        if self.inside is not None:
            self.inside.stop()
        super().close()

    def status(self) -> dict[str, Any]:
        """Of the NodeCache, {} without one."""
        try:
            found = self.client.get(NODE_CACHES, Key("", "n1"), dict[str, Any])
        except NotFound:
            return {}
        status: dict[str, Any] = found.get("status") or {}
        return status

    def held(self) -> dict[str, Any]:
        found = self.status().get("datasets") or [{}]
        assert len(found) == 1
        return dict(found[0])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with ControlPlane(tmp_path / "plane") as plane:
        transport = Transport(plane.endpoint)
        made = Client(transport, manager="forebay-hints")
        crd = next(x for x in read_crds().values() if x["spec"]["names"]["kind"] == "NodeCache")
        made.apply(r.CRDS, Key("", crd["metadata"]["name"]), crd)
        made.apply(r.NODES, Key("", "n1"), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        yield made
        transport.close()


def test_the_driver_publishes_a_datasets_life_on_its_node(tmp_path: Path, client: Client) -> None:
    with Published(tmp_path / "lab", client) as lab:
        whole = sum(map(len, lab.files.values()))
        assert lab.status() == {}
        pod = lab.pod("one")
        until(lambda: lab.held().get("mounted") and "reader" in lab.held(), LONG, lab.status)
        assert (lab.held()["namespace"], lab.held()["name"], lab.held()["role"]) == ("default", "lab", "Client")
        for name, data in lab.files.items():
            assert (pod / name).read_bytes() == data
        until(lambda: lab.held().get("tiers") == [{"medium": "SSD", "bytes": whole}], LONG, lab.status)
        until(lambda: lab.held()["reader"]["missedBytes"] == whole, LONG, lab.status)
        assert lab.status()["cachedBytes"] == whole
        assert lab.inside is not None
        assert lab.inside.publisher is not None
        before = lab.inside.publisher.writes
        time.sleep(15.0)  # not a wait for something: three of the worker's looks, in which nothing may be written
        assert lab.inside.publisher.writes == before, "nothing changes, nothing is written"
        lab.unpublish("one")
        lab.unstage()
        lab.config.unlink()  # the dataset is deleted
        until(lambda: lab.status() == {}, LONG, lab.status)
