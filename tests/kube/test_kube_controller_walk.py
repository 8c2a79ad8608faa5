"""A random walk: datasets made, edited and deleted, workers that come and go, API faults, kills; then calm, and the truth.

FOREBAY_STEPS=2000 FOREBAY_SEED=1 .venv/bin/pytest -m long -s tests/kube/test_kube_controller_walk.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from random import Random

import pytest
from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from controlplane_kit import until
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, Lose, Say, status

from forebay.controller.kinds import RESOURCES
from forebay.kube.errors import ApiError
from forebay.kube.objects import Key

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

STEPS = int(os.environ.get("FOREBAY_STEPS", "2000"))
SEED = int(os.environ.get("FOREBAY_SEED", "1"))
NAMES = 6


class Walk:
    """One step at a time, each by the same random numbers."""

    def __init__(self, cluster: Cluster, front: KubeProxy, space: str) -> None:
        self.cluster, self.front, self.space = cluster, front, space
        self.random = Random(SEED)
        self.faults = False
        front.plan = self.plan
        self.running = self.start()

    def start(self) -> Running:
        running = Running(self.front.endpoint)
        running.controller.start()
        return running

    def plan(self, asked: Asked) -> Fault | None:
        if not self.faults or time.monotonic_ns() % 10:
            return None
        kinds: list[Fault] = [Lose(), Say(500, body=status(500, "InternalError")), Say(409, body=status(409, "Conflict"))]
        return CutAfter(3) if asked.watch else kinds[time.monotonic_ns() // 1000 % 3]

    def any(self) -> Key:
        return Key(self.space, f"d{self.random.randrange(NAMES)}")

    def step(self) -> str:
        what = self.random.choices(list(STEPS_OF), [weight for weight, _ in STEPS_OF.values()])[0]
        try:
            STEPS_OF[what][1](self)
        except ApiError as error:
            return f"{what}: {error.code}"  # what it was about is not there
        time.sleep(self.random.choice((0.0, 0.0, 0.05, 0.3)))
        return what

    # --- steps ---

    def make(self) -> None:
        self.cluster.apply(SMALL.replace("SPACE", self.space).replace("name: d,", f"name: {self.any().name},"))

    def delete(self) -> None:
        self.cluster.delete(self.random.choice(("Dataset", "Dataset", "CacheRuntime")), self.any())

    def child(self) -> None:
        key = self.any()
        names = {"StatefulSet": f"{key.name}-worker", "Service": f"svc-{key.name}-worker", "ConfigMap": f"{key.name}-forebay"}
        kind = self.random.choice([*names, "PersistentVolumeClaim"])
        self.cluster.delete(kind, Key(self.space, names.get(kind, key.name)))

    def edit(self) -> None:
        key, labels = self.any(), {"forebay.io/dataset": None}
        at = Key(self.space, f"svc-{key.name}-worker")
        self.cluster.client.merge(RESOURCES["Service"], at, {"metadata": {"labels": labels}})

    def scale(self) -> None:
        wanted = {"spec": {"replicas": self.random.randrange(3)}}
        self.cluster.client.merge(RESOURCES["CacheRuntime"], self.any(), wanted, sub="scale")

    def spec(self) -> None:
        mount = {"mountPoint": self.random.choice(("https://h/x/", "https://h/y/", "ftp://no/")), "name": "b"}
        self.cluster.client.merge(RESOURCES["Dataset"], self.any(), {"spec": {"mounts": [mount]}})

    def kubelets(self) -> None:
        for pod in self.cluster.pods(self.any()):
            key = Key(self.space, pod["metadata"]["name"])
            if pod["metadata"].get("deletionTimestamp"):
                self.cluster.kill(key)
            else:
                self.cluster.run(pod, "node-a", ready=self.random.random() < 0.8)

    def killed(self) -> None:
        """As a kill looks to the server: writes end in the middle of a pass."""
        self.front.plan = lambda asked: None if asked.verb == "GET" else Say(503, {"Retry-After": "60"}, status(503, "gone"))
        self.running.controller.stop()
        self.running.transport.close()
        self.front.plan = self.plan
        self.running = self.start()

    def weather(self) -> None:
        self.faults = not self.faults


STEPS_OF: dict[str, tuple[int, Callable[[Walk], None]]] = {
    "make": (25, Walk.make),
    "delete": (12, Walk.delete),
    "child": (10, Walk.child),
    "edit": (5, Walk.edit),
    "scale": (8, Walk.scale),
    "spec": (5, Walk.spec),
    "kubelets": (30, Walk.kubelets),
    "killed": (2, Walk.killed),
    "weather": (3, Walk.weather),
}


def test_a_random_walk_ends_in_truth(cluster: Cluster, site: ControlPlane, front: KubeProxy, space: str) -> None:
    walk = Walk(cluster, front, space)
    told: list[str] = []
    try:
        for _ in range(STEPS):
            told.append(walk.step())
        walk.faults = False
        print(f"\nseed {SEED}: {STEPS} steps, {sum(front.counts.values())} faults, {told.count('killed')} kills")
        keys = [Key(space, f"d{i}") for i in range(NAMES)]
        for key in keys:
            cluster.apply(SMALL.replace("SPACE", space).replace("name: d,", f"name: {key.name},"))
        for key in keys:
            until(lambda: serves(cluster, key), 180, lambda: (key, cluster.status(key)))  # noqa: B023 - called at once
        for key in keys:
            cluster.delete("Dataset", key)
        for key in keys:
            until(lambda: cluster.gone("Dataset", key), 180, lambda: cluster.read("Dataset", key))  # noqa: B023
            until(lambda: cluster.gone("CacheRuntime", key), 180, lambda: cluster.read("CacheRuntime", key))  # noqa: B023
            until(lambda: not cluster.left(key), 180, lambda: cluster.left(key))  # noqa: B023
    finally:
        walk.running.controller.stop()
        walk.running.transport.close()


def serves(cluster: Cluster, key: Key) -> bool:
    """Kubelets do their part until the dataset is Bound by both workers."""
    if cluster.gone("Dataset", key):  # its deletion was on the way
        cluster.apply(SMALL.replace("SPACE", key.namespace).replace("name: d,", f"name: {key.name},"))
    for pod in cluster.pods(key):
        try:
            if pod["metadata"].get("deletionTimestamp"):
                cluster.kill(Key(key.namespace, pod["metadata"]["name"]))
            else:
                cluster.run(pod, "node-a")
        except ApiError:
            continue
    return cluster.phase(key) == "Bound" and cluster.runtime(key)["worker"].get("readyReplicas") == 2
