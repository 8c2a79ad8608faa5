"""The fields of Fluid's fourteen kinds (`data.fluid.io/v1alpha1`, chart 1.1.0), as data.

`used(...)` marks what a data path acts on; everything else is known, checked, and reported as not acted on yet.
"""

from __future__ import annotations

from forebay.api.fluid_blocks import (
    CONDITIONS,
    ENCRYPT_OPTIONS,
    ENVS,
    IMG,
    METADATA,
    MOUNT,
    OPERATION_REF,
    OPERATION_STATUS,
    OPERATIONS,
    POD_META,
    RESOURCES,
    STRS,
    USER,
)
from forebay.api.fluid_runtimes import (
    ALLUXIO,
    CACHE,
    CACHE_STATUS,
    EFC,
    JINDO,
    JUICEFS,
    RUNTIME_STATUS,
    THIN,
    THIN_PROFILE,
    VINEYARD,
)
from forebay.api.schema import ANY, ANY_LIST, ANY_MAP, BOOL, INT, MAP, STR, Field, Int, List, Obj, Str, need, obj, used, words

GROUP = "data.fluid.io"
API_VERSION = "data.fluid.io/v1alpha1"

# --- Dataset --------------------------------------------------------------------------------------------------------

DATASET_RUNTIME = List(obj(words("name namespace category type", STR), masterReplicas=INT))
ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_PLACED = Field(ANY, note="one machine has no other node to place it on")
DATASET = obj(
    mounts=used(List(MOUNT, min=1)),
    sharedOptions=used(MAP),
    sharedEncryptOptions=used(ENCRYPT_OPTIONS),
    accessModes=used(List(Str(enum=ACCESS_MODES))),
    owner=used(USER),
    placement=Field(Str(enum=("Exclusive", "", "Shared")), note=_PLACED.note),
    nodeAffinity=Field(obj(required=ANY_MAP), note=_PLACED.note),
    tolerations=Field(ANY_LIST, note=_PLACED.note),
    dataRestoreLocation=Field(obj(path=STR, nodeName=STR), note="a warm cache directory is found again by itself"),
    runtimes=Field(DATASET_RUNTIME, note="a runtime binds by equal name and namespace"),
)
DATASET_STATUS = obj(
    words("phase ufsTotal fileNum dataLoadRef dataBackupRef", STR),
    mounts=List(MOUNT),
    conditions=CONDITIONS,
    cacheStates=MAP,
    hcfs=obj(endpoint=STR, underlayerFileSystemVersion=STR),
    runtimes=DATASET_RUNTIME,
    operationRef=MAP,
    datasetRef=STRS,
)

# --- the class of a CacheRuntime ------------------------------------------------------------------------------------

_ENTRY = obj(command=need(STRS), timeout=INT)
TOPOLOGY_COMPONENT = obj(
    options=MAP,
    template=ANY_MAP,
    service=obj(headless=ANY_MAP),
    dependencies=obj(
        secretMount=obj(enabled=BOOL),
        extraResources=obj(configMaps=List(obj(name=need(STR), mountPath=STR))),
    ),
    executionEntries=obj(mountUFS=_ENTRY, reportSummary=_ENTRY),
)

# --- data operations ------------------------------------------------------------------------------------------------

_TARGET = obj(name=need(STR), namespace=STR)
_POLICY = Str(enum=("Once", "Cron", "OnEvent"))
_JOB = obj(
    podMetadata=POD_META,
    affinity=ANY_MAP,
    tolerations=ANY_LIST,
    nodeSelector=MAP,
    schedulerName=STR,
    policy=_POLICY,
    schedule=STR,
    runAfter=OPERATION_REF,
    ttlSecondsAfterFinished=INT,
    resources=RESOURCES,
).fields
_END = obj(
    dataset=obj(name=need(STR), namespace=need(STR), path=STR),
    externalStorage=obj(uri=need(STR), encryptOptions=ENCRYPT_OPTIONS),
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
    parallelism=Int(min=1),
    parallelOptions=MAP,
)
DATA_BACKUP = obj(dataset=STR, backupPath=STR, runAs=USER, runAfter=OPERATION_REF, ttlSecondsAfterFinished=INT)
DATA_PROCESS = obj(
    {k: _JOB[k] for k in ("policy", "schedule", "runAfter", "ttlSecondsAfterFinished")},
    dataset=need(obj(name=need(STR), namespace=STR, mountPath=need(STR), subPath=STR)),
    processor=need(
        obj(
            serviceAccountName=STR,
            podMetadata=POD_META,
            job=obj(podSpec=ANY_MAP),
            script=obj(
                IMG,
                restartPolicy=Str(enum=("Never", "OnFailure")),
                command=STRS,
                source=need(STR),
                env=ENVS,
                volumes=ANY_LIST,
                volumeMounts=ANY_LIST,
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


def _kind(spec: Obj, status: Obj) -> Obj:
    return obj(
        apiVersion=used(STR),
        kind=used(STR),
        metadata=used(METADATA),
        spec=used(spec),
        status=Field(status, note="a status is observed, never read from a manifest"),
    )


KINDS: dict[str, Obj] = {
    "Dataset": _kind(DATASET, DATASET_STATUS),
    **{k: _kind(spec, CACHE_STATUS if k == "CacheRuntime" else RUNTIME_STATUS) for k, spec in RUNTIMES.items()},
    "ThinRuntimeProfile": _kind(THIN_PROFILE, obj()),
    "CacheRuntimeClass": obj(
        words("apiVersion kind", STR),
        metadata=METADATA,
        fileSystemType=need(STR),
        extraResources=obj(configMaps=List(obj(name=STR, data=MAP))),
        dataOperationSpecs=List(obj(name=need(Str(enum=OPERATIONS)), image=STR, command=STRS, args=STRS)),
        topology=obj(words("master worker client", TOPOLOGY_COMPONENT)),
    ),
    "DataLoad": _kind(DATA_LOAD, OPERATION_STATUS),
    "DataMigrate": _kind(DATA_MIGRATE, OPERATION_STATUS),
    "DataBackup": _kind(DATA_BACKUP, OPERATION_STATUS),
    "DataProcess": _kind(DATA_PROCESS, OPERATION_STATUS),
}
