"""What is written under `.status` of Fluid's kinds: Fluid's fields, and beside its strings the numbers they are made of.

A field without a default is one that Fluid's schema requires: it must stand in every write. The others leave out their
zero values, as Fluid's own encoder does. Sizes are bytes, rates bytes per second, times RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from forebay.api.conditions import Conditions
from forebay.api.crd.structs import Written, count, moment, size, told
from forebay.api.fluid.blocks import MOUNT
from forebay.api.fluid.core_shapes import NODE_AFFINITY
from forebay.api.quantity import format_bytes
from forebay.api.schema import List

DatasetPhase = Literal["", "Pending", "NotBound", "Bound", "Failed", "Updating", "DataMigrating"]
RuntimePhase = Literal["", "NotReady", "PartialReady", "Ready"]
OperationPhase = Literal["", "Pending", "Executing", "Complete", "Failed"]

DATASET_CONDITIONS = ("RuntimeScheduled", "Ready", "NotReady", "UpdateReady", "Updating", "Initialized")
RUNTIME_CONDITIONS = (
    "MasterInitialized",
    "MasterReady",
    "WorkersInitialized",
    "WorkersReady",
    "WorkersScaledIn",
    "WorkersScaledOut",
    "FusesInitialized",
    "FusesReady",
    "FusesScaledIn",
    "FusesScaledOut",
)
OPERATION_CONDITIONS = ("Complete", "Failed")
"""Fluid's condition types, by kind; `kubectl wait --for=condition=Ready dataset/x` is what people write."""

CACHE_STATES = (
    "cached",
    "cachedPercentage",
    "cacheCapacity",
    "cacheHitRatio",
    "localHitRatio",
    "remoteHitRatio",
    "cacheThroughputRatio",
    "localThroughputRatio",
    "remoteThroughputRatio",
    "lowWaterMark",
    "highWaterMark",
    "nonCacheable",
)
"""Keys of `cacheStates`, all for people: sizes as "1.50GiB", shares as "45.6%"."""

CALCULATING = "[Calculating]"
"""`ufsTotal` and `fileNum` until the stores are listed."""

_MOUNTS: dict[str, Any] = {"shape": List(MOUNT)}
_AFFINITY: dict[str, Any] = {"shape": NODE_AFFINITY}

Generation = Annotated[int, told("metadata.generation of the object that this status was derived from.", ge=0)]
CacheStates = Annotated[
    dict[str, str], told("Size, share and hit ratios of the cache, for people; the numbers stand under measured.")
]


# --- Dataset --------------------------------------------------------------------------------------------------------


class Hcfs(Written, frozen=True):
    endpoint: Annotated[str, told("URL for clients that speak Hadoop's file system interface.")] = ""
    underlayer_file_system_version: Annotated[str, told("Version of the file system behind it.")] = ""


class BoundRuntime(Written, frozen=True):
    name: Annotated[str, told("Name of the runtime.")] = ""
    namespace: Annotated[str, told("Namespace of the runtime.")] = ""
    category: Annotated[str, told("Always Accelerate.")] = ""
    type: Annotated[str, told("Engine: alluxio, jindo, juicefs, thin, efc, vineyard or cache.")] = ""
    master_replicas: Annotated[int, count("Masters of the engine.")] = 0


class Measured(Written, frozen=True):
    """The numbers behind `ufsTotal`, `fileNum` and `cacheStates`."""

    total_bytes: Annotated[int, size("Bytes of the dataset in its stores, as far as they are listed.")] = 0
    files: Annotated[int, size("Files of the dataset, as far as they are listed.")] = 0
    listed: Annotated[bool, told("Whether the stores are listed whole, so that total and files are final.")] = False
    cached_bytes: Annotated[int, size("Bytes of the dataset that at least one worker holds.")] = 0
    capacity_bytes: Annotated[int, size("Bytes that the tiers of all workers may hold.")] = 0
    local_bytes: Annotated[int, size("Bytes read from the cache of the reader's node since that started.")] = 0
    remote_bytes: Annotated[int, size("Bytes read from what workers held, since those started.")] = 0
    store_bytes: Annotated[int, size("Bytes that readers had to wait for from the stores, since the workers started.")] = 0


class DatasetStatus(Written, frozen=True):
    conditions: Conditions
    phase: Annotated[DatasetPhase, told("NotBound until an engine serves it, then Bound; derived on each pass.")] = ""
    observed_generation: Generation = 0
    engine: Annotated[str, told("The engine that serves the dataset, or the one that it waits for.")] = ""
    mounts: Annotated[tuple[dict[str, Any], ...], told("The mounts that are served now.", extra=_MOUNTS)] = ()
    ufs_total: Annotated[str, told("Size of the dataset for people; [Calculating] until it is listed.")] = ""
    file_num: Annotated[str, told("Number of files for people; [Calculating] until they are listed.")] = ""
    cache_states: CacheStates = msgspec.field(default_factory=dict)
    measured: Annotated[Measured | msgspec.UnsetType, told("The same facts as numbers.")] = msgspec.UNSET
    hcfs: Annotated[Hcfs | msgspec.UnsetType, told("Access for Hadoop clients; set by engines that have one.")] = msgspec.UNSET
    runtimes: Annotated[tuple[BoundRuntime, ...], told("The runtime that serves the dataset.")] = ()
    operation_ref: Annotated[dict[str, str], told("Data operations in progress: kind to names, separated by commas.")] = (
        msgspec.field(default_factory=dict)
    )
    dataset_ref: Annotated[tuple[str, ...], told("Datasets of other namespaces that refer to this one: namespace/name.")] = ()
    data_load_ref: Annotated[str, told("Deprecated: see operationRef.")] = ""
    data_backup_ref: Annotated[str, told("Deprecated: see operationRef.")] = ""


def phase_of(desired: int, ready: int) -> RuntimePhase:
    """The phase of a component, by Fluid's rule: nothing asked for is ready."""
    if ready >= desired:
        return "Ready"
    return "PartialReady" if ready > 0 else "NotReady"


def totals(measured: Measured) -> tuple[str, str]:
    """`ufsTotal` and `fileNum`."""
    if not measured.listed:
        return CALCULATING, CALCULATING
    return format_bytes(measured.total_bytes), str(measured.files)


def cache_states(measured: Measured) -> dict[str, str]:
    """`cacheStates` in Fluid's form. Shares of what is not known yet, and hit ratios before the first read, are left out."""
    states = {"cached": format_bytes(measured.cached_bytes), "cacheCapacity": format_bytes(measured.capacity_bytes)}
    if measured.listed:
        states["cachedPercentage"] = _percent(measured.cached_bytes, measured.total_bytes or 1)
    if read := measured.local_bytes + measured.remote_bytes + measured.store_bytes:
        states["cacheHitRatio"] = _percent(measured.local_bytes + measured.remote_bytes, read)
        states["localHitRatio"] = _percent(measured.local_bytes, read)
        states["remoteHitRatio"] = _percent(measured.remote_bytes, read)
    return states


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%"


# --- runtimes -------------------------------------------------------------------------------------------------------


class ApiGateway(Written, frozen=True):
    endpoint: Annotated[str, told("Address of the engine's HTTP interface.")] = ""


class RuntimeStatus(Written, frozen=True):
    """Alluxio, Jindo, JuiceFS, Thin, EFC and Vineyard: one block, thirteen required fields."""

    value_file: Annotated[str, told("Where Fluid keeps rendered chart values; empty here: nothing is rendered.")]
    master_phase: Annotated[RuntimePhase, told("Ready, PartialReady or NotReady.")]
    worker_phase: Annotated[RuntimePhase, told("Ready, PartialReady or NotReady.")]
    fuse_phase: Annotated[RuntimePhase, told("Ready, PartialReady or NotReady.")]
    desired_master_number_scheduled: Annotated[int, count("Masters asked for.")]
    current_master_number_scheduled: Annotated[int, count("Masters that have a node.")]
    master_number_ready: Annotated[int, count("Masters that are ready.")]
    desired_worker_number_scheduled: Annotated[int, count("Workers asked for.")]
    current_worker_number_scheduled: Annotated[int, count("Workers that have a node.")]
    worker_number_ready: Annotated[int, count("Workers that are ready.")]
    desired_fuse_number_scheduled: Annotated[int, count("Nodes that are to show the dataset.")]
    current_fuse_number_scheduled: Annotated[int, count("Nodes that a mount was started on.")]
    fuse_number_ready: Annotated[int, count("Nodes that show the dataset.")]
    master_reason: Annotated[str, told("Why the masters are not ready.")] = ""
    worker_reason: Annotated[str, told("Why the workers are not ready.")] = ""
    fuse_reason: Annotated[str, told("Why mounts are not ready.")] = ""
    worker_number_available: Annotated[int, count("Workers that are available.")] = 0
    worker_number_unavailable: Annotated[int, count("Workers that are not available.")] = 0
    fuse_number_available: Annotated[int, count("Mounts that are available.")] = 0
    fuse_number_unavailable: Annotated[int, count("Mounts that are not available.")] = 0
    observed_generation: Generation = 0
    engine: Annotated[str, told("The engine that serves the runtime, or the one that it waits for.")] = ""
    setup_duration: Annotated[str, told("How long the first setup took.")] = ""
    conditions: Conditions = ()
    cache_states: CacheStates = msgspec.field(default_factory=dict)
    measured: Annotated[Measured | msgspec.UnsetType, told("The same facts as numbers.")] = msgspec.UNSET
    selector: Annotated[str, told("Label selector of the worker pods, for the scale sub-resource.")] = ""
    api_gateway: Annotated[ApiGateway | msgspec.UnsetType, told("The engine's HTTP interface.")] = msgspec.UNSET
    mount_time: Annotated[str, moment("When the mounts were last applied.")] = ""
    mounts: Annotated[tuple[dict[str, Any], ...], told("The mounts that are applied.", extra=_MOUNTS)] = ()
    cache_affinity: Annotated[
        dict[str, Any], told("Nodes that workers may run on: nodeSelector and affinity merged.", extra=_AFFINITY)
    ] = msgspec.field(default_factory=dict)


class ComponentStatus(Written, frozen=True):
    """One of master, worker, client."""

    phase: Annotated[RuntimePhase, told("Ready, PartialReady or NotReady.")]
    reason: Annotated[str, told("One word for programs.")] = ""
    message: Annotated[str, told("One sentence for people.")] = ""
    desired_replicas: Annotated[int, count("Pods asked for.")] = 0
    current_replicas: Annotated[int, count("Pods that have a node.")] = 0
    ready_replicas: Annotated[int, count("Pods that are ready.")] = 0
    available_replicas: Annotated[int, count("Pods that are available.")] = 0
    unavailable_replicas: Annotated[int, count("Pods that are not available.")] = 0


class CacheRuntimeStatus(Written, frozen=True):
    phase: Annotated[RuntimePhase, told("All components in one word; Fluid's column of this name is always empty.")] = ""
    observed_generation: Generation = 0
    engine: Annotated[str, told("The engine that serves the runtime, or the one that it waits for.")] = ""
    value_file: Annotated[str, told("Where Fluid keeps rendered values; empty here: nothing is rendered.")] = ""
    setup_duration: Annotated[str, told("How long the first setup took.")] = ""
    conditions: Conditions = ()
    selector: Annotated[str, told("Label selector of the worker pods, for the scale sub-resource.")] = ""
    mount_time: Annotated[str, moment("When the mounts were last applied.")] = ""
    cache_affinity: Annotated[
        dict[str, Any], told("Nodes that workers may run on: nodeSelector and affinity merged.", extra=_AFFINITY)
    ] = msgspec.field(default_factory=dict)
    measured: Annotated[Measured | msgspec.UnsetType, told("Size and use of the cache, as numbers.")] = msgspec.UNSET
    master: Annotated[ComponentStatus | msgspec.UnsetType, told("The masters.")] = msgspec.UNSET
    worker: Annotated[ComponentStatus | msgspec.UnsetType, told("The workers.")] = msgspec.UNSET
    client: Annotated[ComponentStatus | msgspec.UnsetType, told("The mounts on nodes.")] = msgspec.UNSET


# --- data operations ------------------------------------------------------------------------------------------------


_Natural = Annotated[int, msgspec.Meta(ge=0)]


class WaitingFor(Written, frozen=True):
    operation_complete: Annotated[bool, told("True while the operation of runAfter is not Complete.")] = False


class Progress(Written, frozen=True):
    """How far an operation is. What is not known yet is left out.

    Two fields are written when they are 0 too: at the end that takes the place of what was written on the way.
    """

    total_bytes: Annotated[int, size("Bytes to be moved, as far as the targets are listed.")] = 0
    done_bytes: Annotated[int, size("Bytes moved, those that were there before included.")] = 0
    total_files: Annotated[int, size("Files to be moved, as far as the targets are listed.")] = 0
    done_files: Annotated[int, size("Files moved.")] = 0
    failed_files: Annotated[
        _Natural | msgspec.UnsetType, told("Files given up after all retries; the condition names the last.")
    ] = msgspec.UNSET
    bytes_per_second: Annotated[int, size("Rate over the last seconds; of an operation that has ended, its mean.")] = 0
    eta_seconds: Annotated[
        _Natural | msgspec.UnsetType, told("Seconds to the end at this rate; absent while nothing is known of it.")
    ] = msgspec.UNSET
    percent: Annotated[int, told("Share of the bytes that is done.", ge=0, le=100)] = 0
    last_error: Annotated[str, told("What the last file that failed met; such files are tried again.")] = ""


class OperationStatus(Written, frozen=True):
    """DataLoad, DataMigrate, DataBackup and DataProcess."""

    phase: Annotated[OperationPhase, told("Pending, Executing, then Complete or Failed.")]
    duration: Annotated[str, told("How long it took; Unfinished meanwhile.")]
    conditions: Conditions
    observed_generation: Generation = 0
    infos: Annotated[dict[str, str], told("What the operation left: where a backup lies, for one.")] = msgspec.field(
        default_factory=dict
    )
    progress: Annotated[Progress | msgspec.UnsetType, told("How far it is.")] = msgspec.UNSET
    last_schedule_time: Annotated[str, moment("Policy Cron: when a run last started.")] = ""
    last_successful_time: Annotated[str, moment("Policy Cron: when a run last ended well.")] = ""
    waiting_for: Annotated[WaitingFor | msgspec.UnsetType, told("What must happen first.")] = msgspec.UNSET
    node_affinity: Annotated[
        dict[str, Any], told("Where the operation ran, for followers that want to run there.", extra=_AFFINITY)
    ] = msgspec.field(default_factory=dict)
