"""How the controller fares with many datasets: from applied to Bound, memory, and what it does when nothing changes.

    .venv/bin/pytest -m long -s tests/kube/test_kube_controller_scale.py      # FOREBAY_DATASETS=500

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

import pytest
from controllerlab import SMALL, Cluster, Command, installed
from controlplane import ControlPlane
from controlplane_kit import until

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
MORE = 100
SPACE = "scale"
ONE = SMALL.replace("SPACE", SPACE).replace("replicas: 2", "replicas: 1")


class Kubelet:
    """Binds each worker's pod and says at once that it is ready."""

    def __init__(self, transport: Transport) -> None:
        self._cluster = Cluster(Client(transport, manager="kubelet"))
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
        elif not pod.ready:
            meta = {"namespace": key.namespace, "name": key.name}
            self._cluster.run({"metadata": meta, "spec": {"nodeName": pod.spec.node_name}}, "n")


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
    cluster, kubelet, bounds = Cluster(Client(transport, manager="user")), Kubelet(transport), Bounds(transport)
    command = Command(plane, tmp_path)
    try:
        for part in (kubelet, bounds):
            part.informer.start()
        kubelet.workers.start()
        until(command.leads, 120, command.log.read_text)
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: apply(cluster, f"d{i}"), range(COUNT)))
        until(lambda: len(bounds.at) == COUNT, 3000, lambda: f"{len(bounds.at)} of {COUNT} are Bound")
        print(f"\n{COUNT} datasets at once: all Bound after {time.monotonic() - began:.0f} s")
        settle(command)
        applied = {}
        for i in range(MORE):
            name = f"m{i}"
            applied[name] = apply(cluster, name)
            until(lambda: name in bounds.at, 300, lambda: f"{name} is not Bound")  # noqa: B023 - called at once
        took = sorted(bounds.at[name] - since for name, since in applied.items())
        print(f"applied to Bound with {COUNT} live: median {median(took):.2f} s, p99 {took[int(0.99 * len(took))]:.2f} s")
        settle(command)
        writes, cpu, since = wrote(command), cpu_of(command), time.monotonic()
        time.sleep(120)  # not a wait for something: the idle time in which nothing may be written
        idle = time.monotonic() - since
        busy, written = (cpu_of(command) - cpu) / idle, wrote(command) - writes
        print(f"idle: {busy:.4f} cores, {written:.0f} writes in {idle:.0f} s beyond leases")
        print(f"memory: {anonymous(command) / 2**20:.0f} MiB anonymous")
        assert wrote(command) == writes
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
        kubelet.workers.stop(drain=False)
        kubelet.informer.stop()
        bounds.informer.stop()
        transport.close()


def apply(cluster: Cluster, name: str) -> float:
    since = time.monotonic()
    for _ in range(5):
        try:
            cluster.apply(ONE.replace("name: d,", f"name: {name},"))
            return since
        except (ApiError, Unreachable):
            time.sleep(1)
    raise AssertionError(f"{name} cannot be applied")


def settle(command: Command) -> None:
    """Until nothing was written for ten seconds."""
    seen, since = wrote(command), time.monotonic()
    while time.monotonic() - since < 10:
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
