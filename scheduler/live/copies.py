"""What the scheduler reads of the API server, kind by kind. Some kinds are there only where somebody installed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.api.kubernetes.batch import Job
from forebay.api.kubernetes.core import Namespace, Node, Pod
from forebay.api.kubernetes.resource import DeviceClass, ResourceClaim, ResourceSlice
from forebay.api.kubernetes.storage import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
)
from forebay.kube import resources as r
from forebay.kube.informer import EVERYTHING, Informer, Selection
from forebay.kube.objects import ObjectMeta
from forebay.kube.resources import Resource
from forebay.kube.store import Change, Store
from forebay.kube.transport import Transport
from forebay.scheduler.groups import SOURCES


class Loose(msgspec.Struct, frozen=True, rename="camel"):
    """An object of a kind that we have no struct for."""

    metadata: ObjectMeta
    api_version: str = ""
    kind: str = ""
    spec: Any = None
    status: Any = None


class NodeCache(msgspec.Struct, frozen=True):
    """What a node says it holds; no status before it has said anything."""

    metadata: ObjectMeta
    status: NodeCacheStatus | None = None


class DatasetHints(msgspec.Struct, frozen=True):
    """What is said of a dataset."""

    metadata: ObjectMeta
    status: DatasetHintsStatus | None = None


class PriorityClass(msgspec.Struct, frozen=True):
    """How much a class is worth: objects of gangs name one, pods carry the number."""

    metadata: ObjectMeta
    value: int = 0


class ConfigMap(msgspec.Struct, frozen=True):
    """Of gpushare: which cards of a node are sick."""

    metadata: ObjectMeta
    data: dict[str, str] = {}


class Watched(NamedTuple):
    """`label` names the kind to the core; `optional` ones are watched once they are served; `selection`: which of them."""

    label: str
    resource: Resource
    type: type[Any]
    optional: bool = False
    selection: Selection = EVERYTHING


ALWAYS = (
    Watched("Node", r.NODES, Node),
    Watched("Namespace", r.NAMESPACES, Namespace),
    Watched("PersistentVolume", r.VOLUMES, PersistentVolume),
    Watched("PersistentVolumeClaim", r.CLAIMS, PersistentVolumeClaim),
    Watched("StorageClass", r.STORAGE_CLASSES, StorageClass),
    Watched("CSINode", r.CSI_NODES, CSINode),
    Watched("Pod", r.PODS, Pod),
)


def always(unhealthy_gpus: str = "") -> tuple[Watched, ...]:
    """What is watched in any case. `unhealthy_gpus`: the namespace where gpushare's ConfigMaps are, "" for nowhere."""
    sick = Watched("ConfigMap", r.CONFIG_MAPS, ConfigMap, selection=Selection(unhealthy_gpus))
    return (*ALWAYS, sick) if unhealthy_gpus else ALWAYS


QUOTAS = (
    Resource("scheduling.sigs.k8s.io", "v1beta1", "elasticquotatrees", "ElasticQuotaTree"),
    Resource("scheduling.sigs.k8s.io", "v1alpha1", "elasticquotas", "ElasticQuota"),
    Resource("scheduling.x-k8s.io", "v1alpha1", "elasticquotas", "ElasticQuota"),
)
FLAVORS = tuple(
    Resource("kueue.x-k8s.io", version, "resourceflavors", "ResourceFlavor", namespaced=False)
    for version in ("v1beta2", "v1beta1")
)
CLAIM_KINDS = ("ResourceSlice", "DeviceClass", "ResourceClaim")
ANSWERED = "ResourceClaim answered"
"""In place of a kind: a claim as the server has it after a write of ours."""
ORDER = (
    "Device",
    "Node",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "StorageClass",
    "CSINode",
    *CLAIM_KINDS,
    "Quota",
)
"""Of what was listed before the first decision: pods come last, because what they hold is read by what their nodes have."""


def optional() -> list[list[Watched]]:
    """Kinds that may be served; of each list the first one that is."""
    found = [[Watched("Quota", resource, Loose, optional=True)] for resource in QUOTAS]
    found.append([Watched("PriorityClass", r.PRIORITY_CLASSES, PriorityClass, optional=True)])
    found.append([Watched("ResourceFlavor", resource, Loose, optional=True) for resource in FLAVORS])
    found.append([Watched("Job", r.JOBS, Job, optional=True)])
    found.append([Watched("PodDisruptionBudget", r.DISRUPTION_BUDGETS, Loose, optional=True)])
    found.append([Watched("CSIDriver", r.CSI_DRIVERS, CSIDriver, optional=True)])
    found.append([Watched("CSIStorageCapacity", r.CSI_CAPACITIES, CSIStorageCapacity, optional=True)])
    found.append([Watched("Device", r.KOORDINATOR_DEVICES, Loose, optional=True)])
    found.append([Watched("ResourceSlice", r.RESOURCE_SLICES, ResourceSlice, optional=True)])
    found.append([Watched("DeviceClass", r.DEVICE_CLASSES, DeviceClass, optional=True)])
    found.append([Watched("ResourceClaim", r.RESOURCE_CLAIMS, ResourceClaim, optional=True)])
    found.append([Watched("NodeCache", r.NODE_CACHES, NodeCache, optional=True)])
    found.append([Watched("DatasetHints", r.DATASET_HINTS, DatasetHints, optional=True)])
    for source in SOURCES:
        label = f"Group:{source.kind}.{source.group}"
        found.append(
            [Watched(label, Resource(source.group, v, source.plural, source.kind), Loose, optional=True) for v in source.versions]
        )
    return found


def served(transport: Transport, resource: Resource) -> bool:
    """Whether the server has the kind in that version. Raises what the transport raises."""
    group = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    answer = transport.request("GET", group)
    if answer.code != 200:
        return False
    listed = msgspec.json.decode(answer.body, type=_Listed)
    return any(one.name == resource.plural for one in listed.resources)


def as_object(watched: Watched, value: Any) -> Any:
    """A loose object as a mapping; typed ones as they are."""
    if not isinstance(value, Loose):
        return value
    resource = watched.resource
    return {
        "apiVersion": value.api_version or resource.api_version,
        "kind": value.kind or resource.kind,
        "metadata": msgspec.to_builtins(value.metadata),
        **({"spec": value.spec} if value.spec is not None else {}),
        **({"status": value.status} if value.status is not None else {}),
    }


def rank(label: str) -> int:
    """Place in `ORDER`; groups before pods."""
    return len(ORDER) + 1 if label == "Pod" else ORDER.index(label) if label in ORDER else len(ORDER)


class Copies:
    """Informers, and what they tell: `told(label, old, new)` on their threads. `watch` may be called at any time."""

    def __init__(self, transport: Transport, told: Callable[[str, Any, Any], None]) -> None:
        self._transport, self._told = transport, told
        self.informers: dict[str, Informer[Any]] = {}
        self._missing = optional()

    def watch(self, many: Iterable[Watched]) -> list[Informer[Any]]:
        """Informers of these kinds, started."""
        made = list[Informer[Any]]()
        for watched in many:
            store = Store[Any]()
            store.subscribe(self._teller(watched, store))
            informer = Informer(self._transport, watched.resource, watched.type, store, watched.selection)
            name = str(watched.resource)
            self.informers[name] = informer
            informer.start()
            made.append(informer)
        return made

    def discover(self) -> list[Informer[Any]]:
        """Watches what is served now and was not before. Raises what the transport raises."""
        found, missing = list[Watched](), list[list[Watched]]()
        for choices in self._missing:
            one = next((watched for watched in choices if served(self._transport, watched.resource)), None)
            if one is None:
                missing.append(choices)
            else:
                found.append(one)
        self._missing = missing
        return self.watch(found)

    def _teller(self, watched: Watched, store: Store[Any]) -> Callable[[Change[Any]], None]:
        def told(change: Change[Any]) -> None:
            if change.new is None and change.key in store.broken():
                return  # it exists and cannot be read: what was known of it goes on counting
            old, new = as_object(watched, change.old), as_object(watched, change.new)
            if old is not None or new is not None:
                self._told(watched.label, old, new)

        return told

    def unsynced(self) -> Sequence[tuple[str, str]]:
        """Copies that have not held a whole list yet, and what keeps them."""
        return [(name, i.health().problem) for name, i in self.informers.items() if not i.health().synced]

    def wait(self, timeout: float) -> bool:
        """Whether all copies have held a whole list."""
        return all(informer.wait_synced(timeout) for informer in list(self.informers.values()))

    def stop(self) -> bool:
        stopped = [informer.stop() for informer in self.informers.values()]
        return all(stopped)


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Listed(msgspec.Struct, frozen=True):
    resources: list[_Named] = []
