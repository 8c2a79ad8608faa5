"""The fields of Fluid's fourteen kinds (`data.fluid.io/v1alpha1`, chart 1.1.0), as data.

`used(...)` marks what a data path acts on; everything else is known, checked, and reported as not acted on yet.
Core types of Kubernetes (pod templates, selectors, tolerations) are checked for their outer shape only.
"""

from __future__ import annotations

from forebay.api.schema import (
    ANY,
    ANY_LIST,
    ANY_MAP,
    BOOL,
    INT,
    INT64,
    MAP,
    QUANTITY,
    STR,
    Field,
    Int,
    List,
    MapOf,
    Obj,
    Str,
    Type,
    need,
    obj,
    used,
    words,
)

GROUP = "data.fluid.io"
API_VERSION = "data.fluid.io/v1alpha1"

# --- shared blocks --------------------------------------------------------------------------------------------------

STRS = List(STR)
IMG = words("image imageTag imagePullPolicy", STR)
VERSION = obj(IMG)
RESOURCES = obj(limits=MapOf(QUANTITY), requests=MapOf(QUANTITY), claims=ANY_LIST)
POD_META = obj(labels=MAP, annotations=MAP)
NET = Str(enum=("HostNetwork", "ContainerNetwork", ""))
CLEAN_CACHE = obj(gracePeriodSeconds=INT, maxRetryAttempts=INT)
MANAGEMENT = obj(cleanCachePolicy=CLEAN_CACHE, metadataSyncPolicy=obj(autoSync=BOOL))
USER = obj(uid=need(INT64, used=True), gid=need(INT64, used=True), user=need(STR, used=True), group=need(STR, used=True))
REPLICAS = Int(min=1)
ENVS = List(obj(name=need(STR), value=STR, valueFrom=ANY_MAP))
PORTS = List(obj(containerPort=need(INT), hostIP=STR, hostPort=INT, name=STR, protocol=STR))
PORT_MAP = MapOf(INT)
CONDITIONS = List(obj(words("type status reason message lastProbeTime lastTransitionTime lastUpdateTime lastHeartbeatTime", STR)))

ENCRYPT_OPTION = obj(
    name=need(STR, used=True),
    valueFrom=used(obj(secretKeyRef=used(obj(name=need(STR, used=True), key=used(STR), optional=used(BOOL))))),
)
ENCRYPT_OPTIONS = List(ENCRYPT_OPTION)
MOUNT = obj(
    mountPoint=need(Str(min=5), used=True),
    name=used(STR),
    path=used(STR),
    options=used(MAP),
    readOnly=used(BOOL),
    shared=Field(BOOL, note="every mount is shared by the readers of its dataset"),
    encryptOptions=used(ENCRYPT_OPTIONS),
)
TIERED_STORE = obj(
    levels=used(
        List(
            obj(
                mediumtype=need(Str(enum=("MEM", "SSD", "HDD")), used=True),
                volumeType=used(Str(enum=("hostPath", "emptyDir", ""))),
                volumeSource=Field(ANY_MAP, note="the tier is the directory `path` of this machine"),
                path=used(Str(min=1)),
                quota=used(QUANTITY),
                quotaList=used(STR),
                high=used(STR),
                low=used(STR),
            )
        )
    )
)
OPERATIONS = ("DataLoad", "DataBackup", "DataMigrate", "DataProcess")
OPERATION_REF = obj(
    apiVersion=STR,
    kind=need(Str(enum=OPERATIONS)),
    name=need(STR),
    namespace=STR,
    affinityStrategy=obj(
        policy=STR,
        dependOn=obj(apiVersion=STR, kind=need(Str(enum=OPERATIONS)), name=need(STR), namespace=STR),
        requires=List(obj(name=need(STR))),
        prefers=List(obj(name=need(STR), weight=need(INT))),
    ),
)
OPERATION_STATUS = obj(
    words("phase duration lastScheduleTime lastSuccessfulTime", STR),
    conditions=CONDITIONS,
    infos=MAP,
    waitingFor=obj(operationComplete=BOOL),
    nodeAffinity=ANY_MAP,
)
METADATA = obj(
    words(
        "name generateName namespace uid resourceVersion selfLink creationTimestamp deletionTimestamp generation "
        "deletionGracePeriodSeconds ownerReferences finalizers managedFields",
        ANY,
    ),
    labels=MAP,
    annotations=MAP,
)

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

# --- the six classic runtimes ---------------------------------------------------------------------------------------

RUNTIME_STATUS = obj(
    words(
        "valueFile masterPhase workerPhase fusePhase masterReason workerReason fuseReason setupDuration selector mountTime", STR
    ),
    words(
        "desiredMasterNumberScheduled currentMasterNumberScheduled masterNumberReady desiredWorkerNumberScheduled "
        "currentWorkerNumberScheduled workerNumberReady workerNumberAvailable workerNumberUnavailable "
        "desiredFuseNumberScheduled currentFuseNumberScheduled fuseNumberReady fuseNumberAvailable fuseNumberUnavailable",
        INT,
    ),
    conditions=CONDITIONS,
    cacheStates=MAP,
    apiGateway=obj(endpoint=STR),
    mounts=List(MOUNT),
    cacheAffinity=ANY_MAP,
)

_ENGINE = "our own engine serves this dataset here; the field is for the engine of this kind"
_REPLICAS = Field(REPLICAS, note="one machine runs one worker of a dataset")
_POD = words("volumeMounts imagePullSecrets", ANY_LIST)


def runtime(*bases: dict[str, Field], **members: Type | Field) -> Obj:
    """A runtime's spec: what is not marked otherwise is the foreign engine's business."""
    fields = obj(*bases, **members).fields
    return Obj({k: f if f.used or f.note else Field(f.type, f.required, note=_ENGINE) for k, f in fields.items()})


def _alluxio_component() -> Obj:
    return obj(
        _POD,
        replicas=REPLICAS,
        jvmOptions=STRS,
        properties=MAP,
        ports=PORT_MAP,
        resources=RESOURCES,
        env=MAP,
        enabled=BOOL,
        nodeSelector=MAP,
        networkMode=NET,
        podMetadata=POD_META,
    )


INIT_USERS = obj(IMG, env=MAP, resources=RESOURCES)
ALLUXIO = runtime(
    words("master jobMaster worker jobWorker apiGateway", _alluxio_component()),
    alluxioVersion=VERSION,
    initUsers=INIT_USERS,
    fuse=obj(
        IMG,
        _POD,
        jvmOptions=STRS,
        properties=MAP,
        env=MAP,
        resources=RESOURCES,
        args=STRS,
        nodeSelector=MAP,
        cleanPolicy=STR,
        networkMode=NET,
        podMetadata=POD_META,
    ),
    properties=MAP,
    jvmOptions=STRS,
    replicas=_REPLICAS,
    data=obj(replicas=INT, pin=BOOL),
    tieredstore=used(TIERED_STORE),
    runAs=USER,
    disablePrometheus=BOOL,
    hadoopConfig=STR,
    volumes=ANY_LIST,
    podMetadata=POD_META,
    management=MANAGEMENT,
    imagePullSecrets=ANY_LIST,
)

_JINDO = obj(
    _POD,
    replicas=REPLICAS,
    properties=MAP,
    ports=PORT_MAP,
    resources=RESOURCES,
    env=MAP,
    nodeSelector=MAP,
    tolerations=ANY_LIST,
    labels=MAP,
    podMetadata=POD_META,
    disabled=BOOL,
)
JINDO = runtime(
    words("master worker", _JINDO),
    jindoVersion=VERSION,
    fuse=obj(
        IMG,
        imagePullSecrets=ANY_LIST,
        properties=MAP,
        env=MAP,
        resources=RESOURCES,
        args=STRS,
        nodeSelector=MAP,
        tolerations=ANY_LIST,
        labels=MAP,
        podMetadata=POD_META,
        cleanPolicy=STR,
        disabled=BOOL,
        logConfig=MAP,
        metrics=obj(enabled=BOOL, scrapeTarget=STR),
    ),
    properties=MAP,
    replicas=_REPLICAS,
    tieredstore=used(TIERED_STORE),
    runAs=USER,
    user=STR,
    hadoopConfig=STR,
    secret=STR,
    labels=MAP,
    podMetadata=POD_META,
    logConfig=MAP,
    networkmode=NET,
    cleanCachePolicy=CLEAN_CACHE,
    volumes=ANY_LIST,
    imagePullSecrets=ANY_LIST,
)

_JUICEFS = obj(
    replicas=REPLICAS,
    ports=PORTS,
    resources=RESOURCES,
    options=MAP,
    env=ENVS,
    enabled=BOOL,
    nodeSelector=MAP,
    volumeMounts=ANY_LIST,
    podMetadata=POD_META,
    networkMode=NET,
)
JUICEFS = runtime(
    words("master worker jobWorker", _JUICEFS),
    juicefsVersion=VERSION,
    initUsers=INIT_USERS,
    fuse=obj(
        IMG,
        env=ENVS,
        resources=RESOURCES,
        options=MAP,
        nodeSelector=MAP,
        cleanPolicy=STR,
        podMetadata=POD_META,
        networkMode=NET,
        volumeMounts=ANY_LIST,
    ),
    tieredstore=used(TIERED_STORE),
    configs=STRS,
    replicas=_REPLICAS,
    runAs=USER,
    disablePrometheus=BOOL,
    volumes=ANY_LIST,
    podMetadata=POD_META,
    management=MANAGEMENT,
    volumeClaimTemplates=ANY_LIST,
)

_PROBES = words("livenessProbe readinessProbe", ANY_MAP)
THIN_WORKER = obj(
    IMG,
    _POD,
    _PROBES,
    ports=PORTS,
    resources=RESOURCES,
    env=ENVS,
    enabled=BOOL,
    replicas=REPLICAS,
    nodeSelector=MAP,
    networkMode=NET,
)
THIN_FUSE = obj(
    IMG,
    _POD,
    _PROBES,
    ports=PORTS,
    resources=RESOURCES,
    env=ENVS,
    command=STRS,
    args=STRS,
    options=MAP,
    nodeSelector=MAP,
    cleanPolicy=STR,
    networkMode=NET,
    lifecycle=ANY_MAP,
    podMetadata=POD_META,
)
THIN = runtime(
    profileName=Field(STR, note=_ENGINE),
    worker=THIN_WORKER,
    fuse=THIN_FUSE,
    tieredstore=used(TIERED_STORE),
    replicas=_REPLICAS,
    runAs=USER,
    disablePrometheus=BOOL,
    volumes=ANY_LIST,
    management=MANAGEMENT,
    imagePullSecrets=ANY_LIST,
)
THIN_PROFILE = obj(
    fileSystemType=need(STR),
    worker=THIN_WORKER,
    fuse=THIN_FUSE,
    volumes=ANY_LIST,
    imagePullSecrets=ANY_LIST,
    nodePublishSecretPolicy=Str(
        enum=(
            "NotMountNodePublishSecret",
            "MountNodePublishSecretIfExists",
            "CopyNodePublishSecretAndMountIfNotExists",
        )
    ),
)

_EFC = obj(
    version=VERSION,
    replicas=REPLICAS,
    properties=MAP,
    ports=PORT_MAP,
    resources=RESOURCES,
    disabled=BOOL,
    nodeSelector=MAP,
    podMetadata=POD_META,
    networkMode=NET,
)
EFC = runtime(
    words("master worker", _EFC),
    initFuse=obj(version=VERSION),
    fuse=obj(
        version=VERSION,
        properties=MAP,
        resources=RESOURCES,
        nodeSelector=MAP,
        cleanPolicy=STR,
        podMetadata=POD_META,
        networkMode=NET,
    ),
    tieredstore=used(TIERED_STORE),
    replicas=_REPLICAS,
    osAdvise=obj(osVersion=STR, enabled=BOOL),
    cleanCachePolicy=CLEAN_CACHE,
    podMetadata=POD_META,
)

_VINEYARD = obj(
    IMG,
    replicas=REPLICAS,
    nodeSelector=MAP,
    ports=PORT_MAP,
    env=MAP,
    options=MAP,
    resources=RESOURCES,
    networkMode=NET,
    volumeMounts=ANY_LIST,
    podMetadata=POD_META,
)
VINEYARD = runtime(
    master=obj(_VINEYARD.fields, endpoint=obj(uri=STR, encryptOptions=ENCRYPT_OPTIONS, options=MAP)),
    worker=_VINEYARD,
    fuse=obj(IMG, env=MAP, cleanPolicy=STR, resources=RESOURCES, networkMode=NET, podMetadata=POD_META, options=MAP),
    replicas=_REPLICAS,
    tieredstore=used(TIERED_STORE),
    disablePrometheus=BOOL,
    podMetadata=POD_META,
    volumes=ANY_LIST,
)

# --- CacheRuntime and its class -------------------------------------------------------------------------------------

CACHE_TIERS = obj(
    levels=used(
        List(
            obj(
                processMemory=used(obj(quota=need(QUANTITY, used=True))),
                emptyDir=used(obj(quota=need(QUANTITY, used=True), medium=used(Str(enum=("", "Memory"))))),
                hostPath=used(
                    obj(
                        paths=need(List(Str(min=1), min=1), used=True),
                        quotas=need(List(QUANTITY, min=1), used=True),
                        type=Field(STR, note="a missing directory is created"),
                    )
                ),
                high=used(STR),
                low=used(STR),
            )
        )
    )
)
_COMPONENT = {
    k: Field(f.type, note=_ENGINE)
    for k, f in obj(
        disabled=BOOL,
        runtimeVersion=VERSION,
        options=MAP,
        podMetadata=POD_META,
        resources=RESOURCES,
        env=ENVS,
        volumeMounts=ANY_LIST,
        args=STRS,
        nodeSelector=MAP,
        tolerations=ANY_LIST,
    ).fields.items()
}
_CACHE_REPLICAS = Field(Int(min=0), note="one machine runs one worker of a dataset")
CACHE = runtime(
    runtimeClassName=Field(STR, required=True, note="every class is served by our own engine on one machine"),
    options=MAP,
    podMetadata=POD_META,
    imagePullSecrets=ANY_LIST,
    volumes=ANY_LIST,
    master=obj(_COMPONENT, replicas=_CACHE_REPLICAS),
    worker=used(obj(_COMPONENT, replicas=_CACHE_REPLICAS, tieredStore=used(CACHE_TIERS))),
    client=used(
        obj(
            _COMPONENT,
            tieredStore=used(CACHE_TIERS),
            cleanPolicy=Field(Str(enum=("OnRuntimeDeleted", "OnDemand")), note=_ENGINE),
        )
    ),
)
CACHE_STATUS = obj(
    words("valueFile setupDuration selector mountTime phase", STR),
    words(
        "master worker client",
        obj(
            words("phase reason message", STR),
            words("readyReplicas currentReplicas desiredReplicas availableReplicas unavailableReplicas", INT),
        ),
    ),
    conditions=CONDITIONS,
    cacheAffinity=ANY_MAP,
)
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
        metadata=used(METADATA_USED),
        spec=used(spec),
        status=Field(status, note="a status is observed, never read from a manifest"),
    )


METADATA_USED = Obj({k: used(f.type) for k, f in METADATA.fields.items()})
KINDS: dict[str, Obj] = {
    "Dataset": _kind(DATASET, DATASET_STATUS),
    **{k: _kind(spec, CACHE_STATUS if k == "CacheRuntime" else RUNTIME_STATUS) for k, spec in RUNTIMES.items()},
    "ThinRuntimeProfile": _kind(THIN_PROFILE, obj()),
    "CacheRuntimeClass": obj(
        words("apiVersion kind", STR),
        metadata=METADATA_USED,
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
