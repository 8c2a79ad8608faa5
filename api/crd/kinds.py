"""The kinds that the API server learns: names, scope, sub-resources and the columns of `kubectl get`.

Columns, short names and categories of Fluid's kinds are Fluid's (chart 1.1.0). Beyond them: every runtime has a scale
sub-resource with a selector (an HPA needs one; Fluid's Jindo and EFC lack it, Thin and Cache have no scale at all), and the
phase that Fluid's CacheRuntime column shows exists.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from forebay.api.crd.structs import struct_table
from forebay.api.fluid import kinds as fluid
from forebay.api.fluid.blocks import OPERATIONS
from forebay.api.grant import GrantSpec, GrantStatus
from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.api.schema import Obj

OWN_GROUP = "forebay.io"
VERSION = "v1alpha1"

Scope = Literal["Namespaced", "Cluster"]
ColumnType = Literal["string", "integer", "boolean", "date"]


class Column(msgspec.Struct, frozen=True):
    """`priority` above 0: shown by `-o wide` alone."""

    name: str
    path: str
    type: ColumnType = "string"
    priority: int = 0


class Scale(msgspec.Struct, frozen=True):
    """Paths of the scale sub-resource."""

    wanted: str
    found: str
    selector: str = ".status.selector"


class Kind(msgspec.Struct, frozen=True):
    """One kind. `top`: fields beside `spec` and `status`. `needs_spec`: an object without a spec is refused."""

    group: str
    kind: str
    plural: str
    scope: Scope = "Namespaced"
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    scale: Scale | None = None
    spec: Obj | None = None
    status: Obj | None = None
    top: Obj = Obj({})
    needs_spec: bool = False

    @property
    def file(self) -> str:
        return f"{self.group}_{self.plural}.yaml"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_PHASE = Column("Phase", ".status.phase")
_DURATION = Column("Duration", ".status.duration")
_GATEWAY = Column("API Gateway", ".status.apiGateway.endpoint", priority=10)


def _component(name: str) -> tuple[Column, ...]:
    low, title = name.lower(), name
    return (
        Column(f"Ready {title}s", f".status.{low}NumberReady", "integer", 10),
        Column(f"Desired {title}s", f".status.desired{title}NumberScheduled", "integer", 10),
        Column(f"{title} Phase", f".status.{low}Phase"),
    )


_WORKER_FUSE = (*_component("Worker"), *_component("Fuse"))
_ALL = (*_component("Master"), *_WORKER_FUSE)
_SCALE = Scale(".spec.replicas", ".status.currentWorkerNumberScheduled")


def _fluid(
    kind: str,
    short: str,
    columns: tuple[Column, ...] = (),
    *,
    category: bool = True,
    scope: Scope = "Namespaced",
    scale: Scale | None = None,
) -> Kind:
    spec = fluid.SPECS.get(kind)
    return Kind(
        fluid.GROUP,
        kind,
        kind.lower() + ("es" if kind.endswith("s") else "s"),
        scope,
        (short,) if short else (),
        ("fluid",) if category else (),
        columns,
        scale,
        spec,
        fluid.STATUSES.get(kind),
        fluid.CACHE_RUNTIME_CLASS if spec is None else Obj({}),
        spec is not None and (any(f.required for f in spec.fields.values()) or kind in OPERATIONS),
    )


FLUID = (
    _fluid(
        "Dataset",
        "dataset",
        (
            Column("Ufs Total Size", ".status.ufsTotal"),
            Column("Cached", ".status.cacheStates.cached"),
            Column("Cache Capacity", ".status.cacheStates.cacheCapacity"),
            Column("Cached Percentage", ".status.cacheStates.cachedPercentage"),
            _PHASE,
            Column("HCFS URL", ".status.hcfs.endpoint", priority=10),
            Column("TOTAL FILES", ".status.fileNum", priority=11),
            Column("CACHE HIT RATIO", ".status.cacheStates.cacheHitRatio", priority=10),
            _AGE,
        ),
    ),
    _fluid("AlluxioRuntime", "alluxio", (*_ALL, _GATEWAY, _AGE), scale=_SCALE),
    _fluid("JindoRuntime", "jindo", (*_ALL, _AGE), scale=_SCALE),
    _fluid("JuiceFSRuntime", "juicefs", (*_WORKER_FUSE, _AGE), scale=_SCALE),
    _fluid("EFCRuntime", "efc", (*_ALL, _AGE), scale=_SCALE),
    _fluid("VineyardRuntime", "v6d", (*_ALL, _GATEWAY, _AGE), scale=_SCALE),
    _fluid("ThinRuntime", "", category=False, scale=_SCALE),
    _fluid("ThinRuntimeProfile", "", category=False, scope="Cluster"),
    _fluid(
        "CacheRuntime",
        "",
        (_AGE, Column("Status", ".status.phase")),
        scale=Scale(".spec.worker.replicas", ".status.worker.currentReplicas"),
    ),
    _fluid("CacheRuntimeClass", "", scope="Cluster"),
    _fluid("DataLoad", "load", (Column("Dataset", ".spec.dataset.name"), _PHASE, _AGE, _DURATION)),
    _fluid("DataMigrate", "migrate", (_PHASE, _AGE, _DURATION)),
    _fluid(
        "DataBackup",
        "backup",
        (
            Column("Dataset", ".spec.dataset"),
            _PHASE,
            Column("Path", ".status.infos.BackupLocationPath"),
            Column("NodeName", ".status.infos.BackupLocationNodeName"),
            _DURATION,
            _AGE,
        ),
    ),
    _fluid("DataProcess", "", (Column("Dataset", ".spec.dataset.name"), _PHASE, _AGE, _DURATION), category=False),
)

OWN = (
    Kind(
        OWN_GROUP,
        "NodeCache",
        "nodecaches",
        "Cluster",
        ("ncache",),
        ("forebay",),
        (
            Column("Cached", ".status.cached"),
            Column("Capacity", ".status.capacity"),
            Column("Datasets", ".status.datasetCount", "integer"),
            Column("Store B/s", ".status.bandwidth.storeBytesPerSecond", "integer", 1),
            Column("Peer B/s", ".status.bandwidth.peerBytesPerSecond", "integer", 1),
            Column("Version", ".status.version", priority=1),
            Column("Observed", ".status.observedTime", "date"),
        ),
        status=struct_table(NodeCacheStatus),
    ),
    Kind(
        OWN_GROUP,
        "DatasetHints",
        "datasethints",
        "Namespaced",
        ("hints",),
        ("forebay",),
        (
            Column("Total", ".status.total"),
            Column("Cached", ".status.cached"),
            Column("Percent", ".status.cachedPercent", "integer"),
            Column("Nodes", ".status.nodeCount", "integer"),
            Column("ETA s", ".status.etaSeconds", "integer"),
            Column("Observed", ".status.observedTime", "date"),
        ),
        status=struct_table(DatasetHintsStatus),
    ),
    Kind(
        OWN_GROUP,
        "DatasetGrant",
        "datasetgrants",
        "Namespaced",
        ("grant",),
        ("forebay",),
        (
            Column("Dataset", ".spec.dataset"),
            Column("Namespaces", ".spec.namespaces"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Expires", ".spec.expires", "date", 1),
            _AGE,
        ),
        spec=struct_table(GrantSpec),
        status=struct_table(GrantStatus),
        needs_spec=True,
    ),
)

KINDS = (*FLUID, *OWN)
