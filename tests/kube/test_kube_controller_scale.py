"""How the controller fares with many datasets: from applied to Bound, memory, and what it does when nothing changes. Nodes say
what they hold as their plugins do (`NodeCache`), and every fifth dataset has hints (`DatasetHints`).

    .venv/bin/pytest -m long -s tests/kube/test_kube_controller_scale.py      # FOREBAY_DATASETS=500, FOREBAY_NODES=20

Prints its figures. Only what no slow machine excuses is asserted.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from zlib import crc32

import pytest
from controllerlab import SMALL, Cluster, Command, installed
from controlplane import ControlPlane
from controlplane_kit import until
from hintlab import MIB, HintNode, make_node, said
from msgspec import UNSET

from forebay.controller.kinds import RESOURCES, Pod, Whole
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import ApiError, Unreachable
from forebay.kube.informer import Informer, Selection
from forebay.kube.objects import Key
from forebay.kube.store import Change, Store
from forebay.kube.transport import Transport
from forebay.kube.workers import Workers

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

COUNT = int(os.environ.get("FOREBAY_DATASETS", "500"))
NODES = int(os.environ.get("FOREBAY_NODES", "20"))
HINTED = 5
"""Every so manieth dataset is annotated for hints."""
LAST_NEWS = 150.0
"""Seconds for which small news may be held back: 78 by a node, then 60 by the controller."""
MORE = 100
SPACE = "scale"
ONE = SMALL.replace("SPACE", SPACE).replace("replicas: 2", "replicas: 1")


class Kubelet:
    """Binds each worker's pod to one of the nodes and says at once that it is ready; what it holds is in its node's next word,
    and in that of the node beside it, where pods read the dataset."""

    def __init__(self, transport: Transport, nodes: list[HintNode]) -> None:
        self._cluster, self._nodes = Cluster(Client(transport, manager="kubelet")), nodes
        self.store = Store[Pod]()
        self.informer = Informer(transport, r.PODS, Pod, self.store, Selection(labels="forebay.io/component=worker"))
        self.workers = Workers[Key]("kubelet", self._serve, count=4)
        self.store.subscribe(lambda change: self.workers.add(change.key))

    def _serve(self, key: Key) -> None:
        pod = self.store.get(key)
        if pod is None:
            return
        if pod.metadata.deletion_timestamp:
            self._cluster.kill(key)
            self._hold(key, gone=True)
        elif not pod.ready:
            meta = {"namespace": key.namespace, "name": key.name}
            self._cluster.run({"metadata": meta, "spec": {"nodeName": pod.spec.node_name}}, self._nodes[self._at(key)].name)
            self._hold(key, gone=False)

    def _at(self, pod: Key) -> int:
        return crc32(pod.name.encode()) % len(self._nodes)

    def _hold(self, pod: Key, *, gone: bool) -> None:
        name, at = pod.name.removesuffix("-worker-0"), self._at(pod)
        here, beside = self._nodes[at], self._nodes[(at + 1) % len(self._nodes)]
        for node in (here, beside):
            if gone:
                node.held.pop((pod.namespace, name), None)
        if not gone:
            here.holds(pod.namespace, name, worker=said(60 * MIB, from_store=60 * MIB))
            beside.holds(pod.namespace, name, reader=said(20 * MIB, owns=False, local=MIB, missed=20 * MIB), mounted=True)


class Bounds:
    """When each dataset was first seen to be Bound."""

    def __init__(self, transport: Transport) -> None:
        self.at: dict[str, float] = {}
        self.lock = threading.Lock()
        self.store = Store[Whole]()
        self.informer = Informer(transport, RESOURCES["Dataset"], Whole, self.store)
        self.store.subscribe(self._changed)

    def _changed(self, change: Change[Whole]) -> None:
        if change.new is not None and (change.new.status or {}).get("phase") == "Bound":
            with self.lock:
                self.at.setdefault(change.key.name, time.monotonic())


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with installed(tmp_path / "plane", "--concurrent-statefulset-syncs=20") as running:
        yield running


def test_many_datasets(plane: ControlPlane, tmp_path: Path) -> None:
    transport = Transport(plane.endpoint)
    cluster, nodes = Cluster(Client(transport, manager="user")), [HintNode(plane, f"n{i}", seed=i) for i in range(NODES)]
    kubelet, bounds = Kubelet(transport, nodes), Bounds(transport)
    command = Command(plane, tmp_path)
    try:
        for node in nodes:
            make_node(cluster, node.name, zone=f"zone-{node.name[-1]}")
            node.publisher.start()
        for part in (kubelet, bounds):
            part.informer.start()
        kubelet.workers.start()
        until(command.leads, 120, command.log.read_text)
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: apply(cluster, f"d{i}"), range(COUNT)))
        until(lambda: len(bounds.at) == COUNT, 3000, lambda: f"{len(bounds.at)} of {COUNT} are Bound")
        print(f"\n{COUNT} datasets at once: all Bound after {time.monotonic() - began:.0f} s")
        until(lambda: measured(cluster) == COUNT, 600, lambda: f"{measured(cluster)} of {COUNT} say what is cached")
        until(lambda: hinted(cluster) == len(range(0, COUNT, HINTED)), 600, lambda: f"{hinted(cluster)} have hints")
        settle(command)
        applied = {}
        for i in range(MORE):
            name = f"m{i}"
            applied[name] = apply(cluster, name)
            until(lambda: name in bounds.at, 300, lambda: f"{name} is not Bound")  # noqa: B023 - called at once
        took = sorted(bounds.at[name] - since for name, since in applied.items())
        print(f"applied to Bound with {COUNT} live: median {median(took):.2f} s, p99 {took[int(0.99 * len(took))]:.2f} s")
        settle(command, LAST_NEWS)
        print(f"{hinted(cluster)} DatasetHints, {len(nodes)} NodeCaches of {sum(len(n.held) for n in nodes)} entries")
        published = sum(node.publisher.writes for node in nodes)
        writes, cpu, since = wrote(command), cpu_of(command), time.monotonic()
        time.sleep(120)  # not a wait for something: the idle time in which nothing may be written
        idle = time.monotonic() - since
        busy, written = (cpu_of(command) - cpu) / idle, wrote(command) - writes
        print(f"idle: {busy:.4f} cores, {written:.0f} writes in {idle:.0f} s beyond leases")
        print(f"memory: {anonymous(command) / 2**20:.0f} MiB anonymous")
        assert wrote(command) == writes
        assert sum(node.publisher.writes for node in nodes) == published
        assert anonymous(command) < 250 << 20
        assert "Traceback" not in command.log.read_text()
        for i in range(MORE):
            cluster.delete("Dataset", Key(SPACE, f"m{i}"))
        until(lambda: len(bounds.store) == COUNT, 300, lambda: f"{len(bounds.store) - COUNT} are left")
        until(lambda: not any(cluster.left(Key(SPACE, f"m{i}")) for i in range(MORE)), 300, "something is left")
        assert command.kill(signal.SIGTERM) == 0
    finally:
        if command.process.poll() is None:
            command.kill(signal.SIGKILL)
        for node in nodes:
            node.close()
        kubelet.workers.stop(drain=False)
        kubelet.informer.stop()
        bounds.informer.stop()
        transport.close()


def measured(cluster: Cluster) -> int:
    """Datasets that say how much of them is cached, and that it is what their nodes say."""
    listed, _ = cluster.client.list_all(RESOURCES["Dataset"], Whole, SPACE)
    return sum(((d.status or {}).get("measured") or {}).get("cachedBytes") == 60 * MIB for d in listed)


def hinted(cluster: Cluster) -> int:
    listed, _ = cluster.client.list_all(RESOURCES["DatasetHints"], Whole, SPACE)
    return sum((h.status or {}).get("nodeCount") == 2 for h in listed if h.status is not UNSET)


def apply(cluster: Cluster, name: str) -> float:
    since, manifest = time.monotonic(), ONE
    if int(name[1:]) % HINTED == 0:
        manifest = manifest.replace("metadata: {", "metadata: {annotations: {forebay.io/watch: 'true'}, ", 1)
    for _ in range(5):
        try:
            cluster.apply(manifest.replace("name: d,", f"name: {name},"))
            return since
        except (ApiError, Unreachable):
            time.sleep(1)
    raise AssertionError(f"{name} cannot be applied")


def settle(command: Command, quiet: float = 10.0) -> None:
    """Until nothing was written for so many seconds."""
    seen, since = wrote(command), time.monotonic()
    while time.monotonic() - since < quiet:
        time.sleep(0.5)
        if (now := wrote(command)) != seen:
            seen, since = now, time.monotonic()


def wrote(command: Command) -> float:
    """Writes of the controller, those of its lease not counted."""
    found = re.findall(r'forebay_api_calls_total\{client="[a-z]+",kind="writes"\} (\S+)', command.ask("/metrics")[1])
    assert len(found) == 2, "the controller's and the Events'"
    return sum(map(float, found))


def cpu_of(command: Command) -> float:
    """Seconds of CPU."""
    fields = Path(f"/proc/{command.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def anonymous(command: Command) -> int:
    """RssAnon in bytes."""
    text = Path(f"/proc/{command.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon"))) << 10
