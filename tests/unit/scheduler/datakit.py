"""A core under a clock of its own, with datasets that nodes hold, load, and are asked to load."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from livekit import T0, World, bound

from forebay.api.hints.datasethints import LOAD_ON
from forebay.api.kubernetes.storage import BIND_COMPLETED, PersistentVolume, PersistentVolumeClaim
from forebay.scheduler.live.copies import DatasetHints, NodeCache
from forebay.scheduler.live.instructions import Bind, Load

GB = 10**9
CLAIM = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "lake"}}]}


def claim(dataset: str) -> dict[str, Any]:
    """Of a pod's spec: it reads the dataset."""
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": dataset}}]}


class Lake(World):
    """Datasets of 100 GB in namespace n, `lake` for one, held nowhere. Nodes a and b have workers of them, c has none."""

    def __init__(self, datasets: Iterable[str] = ("lake",), workers: Iterable[str] = ("a", "b"), **settings: Any) -> None:
        super().__init__({"a": 4, "b": 4, "c": 4}, **settings)
        self.datasets = tuple(datasets)
        self.hints: dict[str, DatasetHints] = {}
        self.caches: dict[str, dict[str, dict[str, Any]]] = {}
        self.wrote: list[Load] = []
        for name in self.datasets:
            offered = {"accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"}}
            volume = {"metadata": {"name": f"n-{name}"}, "spec": offered}
            spec = {"volumeName": f"n-{name}", "accessModes": ["ReadOnlyMany"], "storageClassName": ""}
            self.core.apply("PersistentVolume", None, msgspec.convert(volume, PersistentVolume))
            meta = {"namespace": "n", "name": name, "annotations": {BIND_COMPLETED: "yes"}}
            made = {"metadata": meta, "spec": spec, "status": {"phase": "Bound"}}
            self.core.apply("PersistentVolumeClaim", None, msgspec.convert(made, PersistentVolumeClaim))
        for node in workers:
            for name in self.datasets:
                self.says(node, 0, name)
        for name in self.datasets:
            self.hinted("", name)

    def moment(self) -> str:
        return datetime.fromtimestamp(T0 + self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def says(self, node: str, held: int, name: str = "lake", **load: int) -> None:
        """The NodeCache of a node whose worker serves the dataset: GB there, and `Warming` of a load (`eta`, `remaining` GB)."""
        worker = {"ownedBytes": held * GB, "capacityBytes": 1000 * GB, "totalBytes": 100 * GB, "listed": True}
        one: dict[str, Any] = {"namespace": "n", "name": name, "role": "Owner", "tiers": [{"medium": "SSD", "bytes": held * GB}]}
        if load:
            left = load.get("remaining", 100 - held) * GB
            one["warming"] = {"remainingBytes": left, "bytesPerSecond": GB, "etaSeconds": load.get("eta", 0)}
        self.caches.setdefault(node, {})[name] = {**one, "worker": worker}
        totals = {"cachedBytes": 0, "capacityBytes": 0, "cached": "", "capacity": "", "datasetCount": 1}
        status = {"observedTime": self.moment(), "tiers": [], **totals, "datasets": list(self.caches[node].values())}
        self.core.apply("NodeCache", None, msgspec.convert({"metadata": {"name": node}, "status": status}, NodeCache))

    def hinted(self, nodes: str, name: str = "lake") -> None:
        """The DatasetHints, with what stands on it."""
        meta = {"namespace": "n", "name": name, "annotations": {LOAD_ON: nodes} if nodes else {}}
        totals = {"totalBytes": 100 * GB, "cachedBytes": 0, "total": "", "cached": "", "cachedPercent": 0, "nodeCount": 0}
        status = {"observedTime": self.moment(), **totals}
        old, self.hints[name] = self.hints.get(name), msgspec.convert({"metadata": meta, "status": status}, DatasetHints)
        self.core.apply("DatasetHints", old, self.hints[name])

    def decide(self) -> dict[str, str]:
        """What starts where; what is to be loaded is kept in `wrote`."""
        done = self.core.decide(self.now)
        self.wrote += [one for one in done if isinstance(one, Load)]
        started = {one.pod.uid: one.node for one in done if isinstance(one, Bind)}
        for uid, node in started.items():
            old, self.pods[uid] = self.pods[uid], bound(self.pods[uid], node)
            self.core.apply("Pod", old, self.pods[uid])
            self.started[uid] = self.now
        return started

    def wishes(self, after: float = 6.0) -> list[str]:
        """What is written of `lake` now."""
        self.now += after
        self.decide()
        found, self.wrote = self.wrote, []
        assert all((one.namespace, one.name) == ("n", "lake") for one in found)
        return [one.nodes for one in found]
