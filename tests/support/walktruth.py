"""What is not so although a status says it, what is left of what is gone, and what hangs: by the server's objects alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controllerlab import CHILDREN, Cluster
from hintlab import HintNode

from forebay.controller.copies import OWNED, UNDRIVEN
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.objects import Bare, Key
from forebay.runtimes.engine import LEAVING

Object = dict[str, Any]
SERVES = ("Bound", "Updating")
ENDED = ("Complete", "Failed")


REFUSED = ("SpecRefused", "SourceRefused")
"""Why nothing is planned for a runtime: it keeps the workers that it has, and wants no others."""


class Truth:
    """All of some namespaces at one moment. Two reads are not of one moment: `untrue` must hold for a while to count."""

    def __init__(self, cluster: Cluster, spaces: Iterable[str]) -> None:
        self._cluster, self.spaces = cluster, tuple(spaces)

    def all(self, kind: str, labels: str = "") -> list[Object]:
        found: list[Object] = []
        for space in self.spaces:
            listed, _ = self._cluster.client.list_all(RESOURCES[kind], Bare, space, labels=labels)
            read = [self._cluster.read(kind, Key(space, each.metadata.name)) for each in listed]
            found += [each for each in read if each is not None]
        return found

    def untrue(self) -> list[str]:
        self.pods = self.all("Pod")
        self.datasets = {at(d): d for d in self.all("Dataset")}
        self.loads = {at(x): x for x in self.all("DataLoad")}
        self.jobs = self.all("Job", OWNED)
        self.claims = {at(x): x for x in self.all("PersistentVolumeClaim", OWNED)}
        volumes, _ = self._cluster.client.list_all(r.VOLUMES, Bare, labels=OWNED)
        read = [self._cluster.read("PersistentVolume", Key("", v.metadata.name)) for v in volumes]
        self.volumes = [v for v in read if v is not None and v["spec"].get("claimRef", {}).get("namespace") in self.spaces]
        return [
            *(f"Dataset {k}: {w}" for k, d in self.datasets.items() for w in self._dataset(k, d)),
            *(f"CacheRuntime {at(x)}: {w}" for x in self.all("CacheRuntime") for w in self._runtime(x)),
            *(f"DataLoad {k}: {w}" for k, x in self.loads.items() for w in self._load(k, x)),
            *(f"{x['kind']} {at(x)}: {w}" for kind in UNDRIVEN for x in self.all(kind) for w in _undriven(x)),
            *self._left(),
        ]

    # --- datasets ---

    def _workers(self, key: Key) -> list[Object]:
        labels = {"forebay.io/dataset": key.name, "forebay.io/component": "worker"}
        here = (p for p in self.pods if p["metadata"]["namespace"] == key.namespace)
        return [p for p in here if labels.items() <= (p["metadata"].get("labels") or {}).items()]

    def _serving(self, key: Key) -> list[Object]:
        return [p for p in self._workers(key) if ready(p) and not p["metadata"].get("deletionTimestamp")]

    def _dataset(self, key: Key, dataset: Object) -> Iterable[str]:
        status: Object = dataset.get("status") or {}
        phase, generation = status.get("phase"), dataset["metadata"]["generation"]
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        if status.get("observedGeneration") != generation:
            yield f"is of generation {status.get('observedGeneration')}, not {generation}"
        if any(c.get("observedGeneration") != generation for c in conditions.values()):
            yield "a condition is of another generation"
        says = conditions.get("Ready", {}).get("status") == "True"
        if says != (phase in SERVES):
            yield f"is {phase}, and Ready is {says}"
        claim = self.claims.get(key, {})
        mountable = (claim.get("status") or {}).get("phase") == "Bound" and not claim["metadata"].get("deletionTimestamp")
        serves = mountable and self._source_serves(dataset, key)
        if phase in SERVES and not serves:
            yield f"is {phase}: {len(self._serving(key))} workers are ready, its claim is {claim.get('status')}"
        native = (dataset["metadata"].get("annotations") or {}).get("forebay.io/engine") is None
        stays = native and not dataset["metadata"].get("deletionTimestamp")
        if phase not in SERVES and serves and stays and not _refers(dataset):
            yield f"is {phase}: {conditions.get('Ready')}, and {len(self._serving(key))} workers are ready"
        running = sorted(k.name for k, x in self.loads.items() if self._loads(x, key) and phase_of(x) == "Executing")
        if (status.get("operationRef") or {}).get("DataLoad", "") != ",".join(running):
            yield f"operationRef {status.get('operationRef')}, and {running} run"
        if dataset["metadata"].get("deletionTimestamp") and not self._held(key):
            yield f"hangs: {dataset['metadata'].get('finalizers')}, {conditions.get('Deleting')}"

    def _source_serves(self, dataset: Object, key: Key) -> bool:
        if not (point := _refers(dataset)):
            return bool(self._serving(key))
        namespace, name = point.removeprefix("dataset://").split("/")
        source = self.datasets.get(Key(namespace, name))
        return source is not None and phase_of(source) in SERVES

    def _held(self, key: Key) -> bool:
        """Whether somebody keeps the dataset: a pod that names its claim, or a volume elsewhere that shows its bytes."""
        if self._named(key):
            return True
        mine = f"{key.namespace}/{key.name}"
        shown = ((v["spec"].get("csi", {}).get("volumeAttributes", {}).get("forebay.io/dataset"), v) for v in self.volumes)
        return any(data == mine and v["spec"]["claimRef"]["name"] != key.name for data, v in shown)

    def _named(self, claim: Key) -> bool:
        """Whether a pod that has not ended names the claim."""
        for pod in self.pods:
            names = [v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["spec"].get("volumes", ())]
            ended = phase_of(pod) in ("Succeeded", "Failed")
            if pod["metadata"]["namespace"] == claim.namespace and claim.name in names and not ended:
                return True
        return False

    def _protected(self, claim: Key) -> bool:
        """Whether Kubernetes keeps a claim that is told to go, for the pods that use it: its Dataset's finalizer was stripped."""
        return bool(self.claims.get(claim, {"metadata": {}})["metadata"].get("deletionTimestamp")) and self._named(claim)

    def _runtime(self, runtime: Object) -> Iterable[str]:
        key, status = at(runtime), runtime.get("status") or {}
        generation = runtime["metadata"]["generation"]
        if status.get("observedGeneration") != generation:
            yield f"is of generation {status.get('observedGeneration')}, not {generation}"
        if runtime["metadata"].get("deletionTimestamp") and not self._held(key):
            yield f"hangs: {runtime['metadata'].get('finalizers')}"
        conditions = status.get("conditions", ())
        reason = next((c["reason"] for c in conditions if c["type"] == "WorkersReady"), "")
        if key not in self.datasets:
            if reason != "NoDataset":
                yield f"there is no Dataset, and it says {reason}"
            return
        if reason in ("SecondRuntime", "EngineNotDriven", "NoDataset"):
            if reason == "NoDataset":
                yield "there is a Dataset"
            return
        worker = status.get("worker") or {}
        leaving = [p for p in self._serving(key) if LEAVING in (p["metadata"].get("annotations") or {})]
        counted = len(self._serving(key)), len(self._serving(key)) - len(leaving)
        if worker.get("readyReplicas", 0) not in counted:
            yield f"{worker.get('readyReplicas')} workers are said to be ready, {counted} are"
        wanted = runtime["spec"].get("worker", {}).get("replicas")
        said = {reason, *(c["reason"] for c in (self.datasets[key].get("status") or {}).get("conditions", ()))}
        if wanted is not None and worker.get("desiredReplicas", 0) != wanted and not said & set(REFUSED):
            yield f"{wanted} workers are wanted, {worker.get('desiredReplicas')} it says: {reason}"

    # --- operations ---

    def _loads(self, load: Object, key: Key) -> bool:
        return (load["metadata"]["namespace"], load["spec"]["dataset"]["name"]) == key and not load["metadata"].get(
            "deletionTimestamp"
        )

    def _load(self, key: Key, load: Object) -> Iterable[str]:
        phase, uid = phase_of(load), load["metadata"]["uid"]
        own = [j for j in self.jobs if any(o["uid"] == uid for o in j["metadata"].get("ownerReferences", ()))]
        live = [j for j in own if not j["metadata"].get("deletionTimestamp") and not _finished(j)]
        holds = [c for c in (load.get("status") or {}).get("conditions", ()) if c["status"] == "True"]
        if load["metadata"].get("deletionTimestamp"):
            yield f"hangs: {load['metadata'].get('finalizers')}"
        elif phase == "Executing" and not own:
            yield "executes, and has no Job"
        elif phase in ENDED and live:
            yield f"is {phase}, and its Job runs"
        elif phase == "Pending" and (live or [c["type"] for c in holds] != ["Waiting"] or not holds[0]["message"]):
            yield f"is Pending: {holds}, Jobs {len(live)}"
        elif phase not in (*ENDED, "Executing", "Pending"):
            yield f"says {phase!r}"
        if phase == "Pending" and holds:
            dataset = self.datasets.get(Key(key.namespace, load["spec"]["dataset"]["name"]))
            if (holds[0]["reason"] == "TargetDatasetNotFound") != (dataset is None) and holds[0]["reason"] != "PolicyNotServed":
                yield f"waits: {holds[0]['reason']}, and the Dataset is {dataset and phase_of(dataset)}"
            if holds[0]["reason"] == "TargetDatasetNotReady" and dataset is not None and phase_of(dataset) in SERVES:
                yield "waits for a Dataset that is Bound"

    # --- what is left ---

    def _left(self) -> Iterable[str]:
        for kind in (*CHILDREN, "Job", "DatasetHints"):
            for obj in self.all(kind, OWNED if kind != "DatasetHints" else ""):
                owners = [o["name"] for o in obj["metadata"].get("ownerReferences", ())]  # all are called as their dataset
                name = (obj["metadata"].get("labels") or {}).get("forebay.io/dataset") or (owners or [obj["metadata"]["name"]])[0]
                kept = kind == "PersistentVolumeClaim" and self._protected(at(obj))
                if Key(obj["metadata"]["namespace"], name) not in self.datasets and not kept:
                    yield f"left: {kind} {at(obj)} of Dataset {name}"
        for volume in self.volumes:
            claim = Key(volume["spec"]["claimRef"]["namespace"], volume["spec"]["claimRef"]["name"])
            if claim not in self.datasets and not self._protected(claim):
                yield f"left: PersistentVolume {volume['metadata']['name']}"
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            for obj in self.all(kind, OWNED):
                owners = [o["uid"] for o in obj["metadata"].get("ownerReferences", ())]
                if not any(x["metadata"]["uid"] in owners for x in self.loads.values()):
                    yield f"left: {kind} {at(obj)}"


def hints_missing(truth: Truth, nodes: Iterable[HintNode]) -> list[str]:
    """Datasets that are to have hints and have none."""
    found = {at(x) for x in truth.all("DatasetHints") if x.get("status")}
    watched = [k for k, d in truth.datasets.items() if (d["metadata"].get("annotations") or {}).get("forebay.io/watch") == "true"]
    going = {k for k, d in truth.datasets.items() if d["metadata"].get("deletionTimestamp")}
    return [f"DatasetHints {key} are missing" for key in watched if key not in found and key not in going]


def at(obj: Object) -> Key:
    return Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def phase_of(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase") or "")


def ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _refers(dataset: Object) -> str:
    points = [str(m["mountPoint"]) for m in dataset["spec"].get("mounts", ())]
    return next((p for p in points if p.startswith("dataset://")), "")


def _finished(job: Object) -> bool:
    return any(c["type"] in ENDED and c["status"] == "True" for c in (job.get("status") or {}).get("conditions", ()))


def _undriven(operation: Object) -> Iterable[str]:
    if operation["metadata"].get("deletionTimestamp"):
        yield f"hangs: {operation['metadata'].get('finalizers')}"
    if phase_of(operation) != "Failed":
        yield f"says {phase_of(operation)!r}"
