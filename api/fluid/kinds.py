"""The fields of Fluid's fourteen kinds (`data.fluid.io/v1alpha1`, chart 1.1.0), as data.

`used(...)` marks what a data path acts on; everything else is known, checked, and reported as not acted on yet.
"""

from __future__ import annotations

from forebay.api.crd.structs import struct_table
from forebay.api.fluid import status
from forebay.api.fluid.blocks import (
    ENCRYPT_OPTIONS,
    ENVS,
    IMG,
    METADATA,
    MOUNT,
    OPERATION_REF,
    OPERATIONS,
    POD_META,
    RESOURCES,
    STRS,
    USER,
)
from forebay.api.fluid.core_shapes import (
    AFFINITY,
    NODE_SELECTOR,
    OPEN,
    POD_SPEC,
    POD_TEMPLATE,
    TOLERATIONS,
    VOLUME_MOUNTS,
    VOLUMES,
    core_map,
)
from forebay.api.fluid.runtimes import (
    ALLUXIO,
    CACHE,
    EFC,
    JINDO,
    JUICEFS,
    THIN,
    THIN_PROFILE,
    VINEYARD,
)
from forebay.api.schema import BOOL, INT, MAP, STR, Field, Int, List, Obj, Str, loose, need, obj, used, words

GROUP = "data.fluid.io"
API_VERSION = "data.fluid.io/v1alpha1"

# --- Dataset --------------------------------------------------------------------------------------------------------

DATASET_RUNTIME = List(obj(words("name namespace category type", STR), masterReplicas=INT))
ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_PLACED = "one machine has no other node to place it on"
MAX_MOUNTS = 512
DATASET = obj(
    mounts=used(List(MOUNT, min=1, max=MAX_MOUNTS)),
    sharedOptions=used(MAP),
    sharedEncryptOptions=used(ENCRYPT_OPTIONS),
    accessModes=used(List(Str(enum=ACCESS_MODES))),
    owner=used(USER),
    placement=Field(Str(enum=("Exclusive", "", "Shared")), note=_PLACED),
    nodeAffinity=Field(obj(required=NODE_SELECTOR), note=_PLACED),
    tolerations=Field(TOLERATIONS, note=_PLACED),
    dataRestoreLocation=Field(obj(path=STR, nodeName=STR), note="a warm cache directory is found again by itself"),
    runtimes=Field(DATASET_RUNTIME, note="a runtime binds by equal name and namespace"),
)

# --- the class of a CacheRuntime ------------------------------------------------------------------------------------

_ENTRY = obj(command=need(STRS), timeout=INT)
TOPOLOGY_COMPONENT = obj(
    options=MAP,
    template=POD_TEMPLATE,
    service=obj(headless=core_map(OPEN)),
    dependencies=obj(
        secretMount=obj(enabled=BOOL),
        extraResources=obj(configMaps=List(obj(name=need(Str(max=253)), mountPath=STR), max=64)),
    ),
    executionEntries=obj(mountUFS=_ENTRY, reportSummary=_ENTRY),
)

# --- data operations ------------------------------------------------------------------------------------------------

_TARGET = obj(name=need(STR), namespace=STR)
_POLICY = Field(Str(enum=("Once", "Cron", "OnEvent")), default="Once")
_JOB = obj(
    podMetadata=POD_META,
    affinity=AFFINITY,
    tolerations=TOLERATIONS,
    nodeSelector=MAP,
    schedulerName=STR,
    policy=_POLICY,
    schedule=Str(max=253),
    runAfter=OPERATION_REF,
    ttlSecondsAfterFinished=INT,
    resources=RESOURCES,
).fields
_END = obj(
    dataset=obj(name=need(STR), namespace=need(STR), path=STR),
    externalStorage=obj(uri=need(Str(max=4096)), encryptOptions=ENCRYPT_OPTIONS),
)
DATA_LOAD = obj(
    _JOB,
    dataset=obj(name=need(STR), namespace=STR),
    loadMetadata=BOOL,
    target=List(obj(path=need(STR), replicas=INT)),
    options=MAP,
)
DATA_MIGRATE = obj(
    _JOB,
    IMG,
    {"from": need(_END), "to": need(_END)},
    block=BOOL,
    runtimeType=STR,
    options=MAP,
    parallelism=Field(Int(min=1), default=1),
    parallelOptions=MAP,
)
DATA_BACKUP = obj(dataset=STR, backupPath=Str(max=4096), runAs=USER, runAfter=OPERATION_REF, ttlSecondsAfterFinished=INT)
DATA_PROCESS = obj(
    {k: _JOB[k] for k in ("policy", "schedule", "runAfter", "ttlSecondsAfterFinished")},
    dataset=need(obj(name=need(STR), namespace=STR, mountPath=need(Str(max=512)), subPath=Str(max=4096))),
    processor=need(
        obj(
            serviceAccountName=STR,
            podMetadata=POD_META,
            job=obj(podSpec=POD_SPEC),
            script=obj(
                IMG,
                restartPolicy=Field(Str(enum=("Never", "OnFailure")), default="Never"),
                command=STRS,
                source=need(STR),
                env=ENVS,
                volumes=VOLUMES,
                volumeMounts=VOLUME_MOUNTS,
                resources=RESOURCES,
            ),
        )
    ),
)

# --- the kinds ------------------------------------------------------------------------------------------------------

RUNTIMES = {
    "AlluxioRuntime": ALLUXIO,
    "JindoRuntime": JINDO,
    "JuiceFSRuntime": JUICEFS,
    "EFCRuntime": EFC,
    "VineyardRuntime": VINEYARD,
    "ThinRuntime": THIN,
    "CacheRuntime": CACHE,
}
CLUSTER_SCOPED = ("ThinRuntimeProfile", "CacheRuntimeClass")


# A status is required to be whole where a controller writes one; in a manifest any part of it may stand.
STATUSES: dict[str, Obj] = {
    "Dataset": struct_table(status.DatasetStatus),
    **{k: struct_table(status.CacheRuntimeStatus if k == "CacheRuntime" else status.RuntimeStatus) for k in RUNTIMES},
    "ThinRuntimeProfile": obj(),
    **{k: struct_table(status.OperationStatus) for k in OPERATIONS},
}


def _kind(name: str, spec: Obj) -> Obj:
    return obj(
        apiVersion=used(STR),
        kind=used(STR),
        metadata=used(METADATA),
        spec=used(spec),
        status=Field(loose(STATUSES[name]), note="a status is observed, never read from a manifest"),
    )


SPECS: dict[str, Obj] = {
    "Dataset": DATASET,
    **RUNTIMES,
    "ThinRuntimeProfile": THIN_PROFILE,
    "DataLoad": DATA_LOAD,
    "DataMigrate": DATA_MIGRATE,
    "DataBackup": DATA_BACKUP,
    "DataProcess": DATA_PROCESS,
}
CACHE_RUNTIME_CLASS = obj(
    fileSystemType=need(STR),
    extraResources=obj(configMaps=List(obj(name=Str(max=253), data=MAP), max=64)),
    dataOperationSpecs=List(obj(name=need(Str(enum=OPERATIONS)), image=STR, command=STRS, args=STRS)),
    topology=obj(words("master worker client", TOPOLOGY_COMPONENT)),
)
"""The one kind without a `spec`: its fields stand at the top."""

KINDS: dict[str, Obj] = {
    **{kind: _kind(kind, spec) for kind, spec in SPECS.items()},
    "CacheRuntimeClass": obj(words("apiVersion kind", STR), CACHE_RUNTIME_CLASS.fields, metadata=METADATA),
}
