"""The copies of all kinds that passes read, and what is looked up in them by index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from forebay.api.fluid.names import TYPES
from forebay.api.manifests.dataload import after_of, dataset_of
from forebay.controller.kinds import RESOURCES, Event, Node, NodeCache, Pod, Whole
from forebay.kube.informer import Informer, Selection
from forebay.kube.objects import Bare, Key
from forebay.kube.store import Change, Store, Undecodable
from forebay.kube.transport import Transport

OWNED = "app.kubernetes.io/managed-by=forebay"
"""Of kinds of which clusters have many, only ours are copied."""
CHILDREN = ("ConfigMap", "Service", "PodDisruptionBudget", "NetworkPolicy", "StatefulSet", "PersistentVolumeClaim")
RUNTIMES = tuple(TYPES)
UNDRIVEN = ("DataMigrate", "DataBackup", "DataProcess")
"""Data operations that this version does not carry out."""
DATASET_LABEL, COMPONENT_LABEL, WORKER, LOADER = "forebay.io/dataset", "forebay.io/component", "worker", "loader"
JOB_LABEL = "batch.kubernetes.io/job-name"
DATA = "forebay.io/dataset"
"""Attribute of a volume: namespace/name of the dataset whose bytes it shows."""

Indexers = Mapping[str, Callable[[Any], Iterable[str]]]


class Copied(NamedTuple):
    type_: type[Any]
    selection: Selection = Selection()
    indexers: Indexers = MappingProxyType({})


def path(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def target(dataset: Whole) -> str:
    """namespace/name of what a Dataset refers to, "" where it is no reference."""
    mounts = dataset.spec.get("mounts") if isinstance(dataset.spec, dict) else None
    for mount in mounts or ():
        point = str(mount.get("mountPoint", "")) if isinstance(mount, dict) else ""
        if point.lower().startswith("dataset://"):
            parts = point[len("dataset://") :].split("/")
            return "/".join(parts[:2]) if len(parts) > 1 else ""
    return ""


def named_class(runtime: Whole) -> str:
    """The CacheRuntimeClass or ThinRuntimeProfile that a runtime names."""
    spec = runtime.spec if isinstance(runtime.spec, dict) else {}
    return str(spec.get("runtimeClassName") or spec.get("profileName") or "")


def claim_of(volume: Whole) -> str:
    ref = (volume.spec or {}).get("claimRef") or {}
    return path(ref.get("namespace", ""), ref.get("name", ""))


def data_of(volume: Whole) -> str:
    return str((((volume.spec or {}).get("csi") or {}).get("volumeAttributes") or {}).get(DATA, ""))


def granted(grant: Whole) -> str:
    return path(grant.metadata.namespace, str((grant.spec or {}).get("dataset", "")))


def worker_of(pod: Pod) -> str:
    """namespace/name of the dataset whose worker a pod is, "" for any other pod."""
    labels = pod.metadata.labels
    if labels.get(COMPONENT_LABEL) != WORKER or not labels.get(DATASET_LABEL):
        return ""
    return path(pod.metadata.namespace, labels[DATASET_LABEL])


def job_of(pod: Pod) -> Iterable[str]:
    """namespace/name of the Job that a pod of a load belongs to."""
    labels = pod.metadata.labels
    name = labels.get(JOB_LABEL, "") if labels.get(COMPONENT_LABEL) == LOADER else ""
    return [path(pod.metadata.namespace, name)] if name else []


def loaded(load: Whole) -> Iterable[str]:
    """namespace/name of the dataset that a DataLoad is to load."""
    namespace, name = dataset_of({"metadata": {"namespace": load.metadata.namespace}, "spec": load.spec or {}})
    return [path(namespace, name)] if name else []


def loaded_after(load: Whole) -> Iterable[str]:
    """namespace/name of the DataLoad that must be Complete first."""
    after = after_of({"metadata": {"namespace": load.metadata.namespace}, "spec": load.spec or {}})
    return [path(after.namespace, after.name)] if after is not None and after.kind == "DataLoad" else []


def owning_load(job: Whole) -> Iterable[str]:
    """namespace/name of the DataLoad that a Job carries out."""
    return [path(job.metadata.namespace, o.name) for o in job.metadata.owner_references if o.kind == "DataLoad"]


def about(event: Event) -> str:
    return f"{event.regarding.kind} {path(event.regarding.namespace, event.regarding.name)}"


def _one(value: Callable[[Any], str]) -> Callable[[Any], Iterable[str]]:
    return lambda thing: [found] if (found := value(thing)) else []


_SPACE = {"namespace": _one(lambda thing: thing.metadata.namespace)}
_CLASS = {"class": _one(named_class)}
COPIED: Mapping[str, Copied] = {
    "Dataset": Copied(Whole, indexers={**_SPACE, "target": _one(target)}),
    **{kind: Copied(Whole, indexers=_CLASS) for kind in RUNTIMES},
    "CacheRuntimeClass": Copied(Whole),
    "ThinRuntimeProfile": Copied(Whole),
    "DatasetGrant": Copied(Whole, indexers={"dataset": _one(granted), **_SPACE}),
    "DatasetHints": Copied(Whole),
    "NodeCache": Copied(NodeCache, indexers={"dataset": lambda cache: [path(h.namespace, h.name) for h in cache.datasets]}),
    "Namespace": Copied(Bare),
    "Node": Copied(Node),
    "Pod": Copied(
        Pod,
        indexers={
            "worker": _one(worker_of),
            "claim": lambda pod: [path(pod.metadata.namespace, name) for name in pod.claims],
            "node": _one(lambda pod: pod.spec.node_name),
            "job": job_of,
        },
    ),
    "Event": Copied(Event, Selection(fields="type=Warning"), {"about": _one(about)}),
    **{kind: Copied(Whole, Selection(labels=OWNED)) for kind in CHILDREN},
    "DataLoad": Copied(Whole, indexers={"dataset": loaded, "after": loaded_after}),
    **{kind: Copied(Whole) for kind in UNDRIVEN},
    "Job": Copied(Whole, Selection(labels=OWNED), {"load": owning_load}),
    "PersistentVolume": Copied(Whole, Selection(labels=OWNED), {"claim": _one(claim_of), "data": _one(data_of)}),
}
"""No Secret: nobody of the control plane reads one."""


class Copies:
    """One store a kind. Kept by `informers`, once they are started; a test fills the stores itself."""

    def __init__(self) -> None:
        self.stores: dict[str, Store[Any]] = {kind: Store(copied.indexers) for kind, copied in COPIED.items()}
        self._readiness: dict[str, bool] = {}
        self.stores["Node"].subscribe(self._node)

    def informers(self, transport: Transport) -> dict[str, Informer[Any]]:
        return {
            kind: Informer(transport, RESOURCES[kind], copied.type_, self.stores[kind], copied.selection)
            for kind, copied in COPIED.items()
        }

    def get(self, kind: str, namespace: str, name: str) -> Any:
        """The object or None. Raises Undecodable."""
        return self.stores[kind].get(Key(namespace, name))

    def holds(self, kind: str, namespace: str, name: str) -> bool:
        """Whether there is such an object, readable or not."""
        try:
            return self.get(kind, namespace, name) is not None
        except Undecodable:
            return True

    def readable(self, kind: str, namespace: str, name: str) -> bool:
        """Whether there is such an object that can be read."""
        try:
            return self.get(kind, namespace, name) is not None
        except Undecodable:
            return False

    def where(self, kind: str, index: str, value: str) -> list[Any]:
        return self.stores[kind].where(index, value)

    @property
    def readiness(self) -> Mapping[str, bool]:
        """Node -> whether it is Ready. Never changed in place: a pass reads one of them to its end."""
        return self._readiness

    def _node(self, change: Change[Node]) -> None:
        name, ready = change.key.name, None if change.new is None else change.new.ready
        if self._readiness.get(name) == ready:
            return
        others = {n: r for n, r in self._readiness.items() if n != name}
        self._readiness = others if ready is None else {**others, name: ready}
