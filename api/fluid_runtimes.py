"""Specs and status of Fluid's seven runtime kinds, as data. What is not `used` is the foreign engine's business."""

from __future__ import annotations

from forebay.api.fluid_blocks import (
    CLEAN_CACHE,
    CLEAN_POLICY,
    CONDITIONS,
    ENCRYPT_OPTIONS,
    ENVS,
    IMG,
    MANAGEMENT,
    MOUNT,
    NET,
    POD_META,
    PORT_MAP,
    PORTS,
    REPLICAS,
    RESOURCES,
    STRS,
    TIERED_STORE,
    USER,
    VERSION,
)
from forebay.api.schema import (
    ANY_LIST,
    ANY_MAP,
    BOOL,
    INT,
    MAP,
    QUANTITY,
    STR,
    Field,
    Int,
    List,
    Obj,
    Str,
    Type,
    need,
    obj,
    used,
    words,
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
_REPLICAS = Field(REPLICAS, note="one machine runs one worker of a dataset; `forebay up --workers N` runs N")
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
        cleanPolicy=CLEAN_POLICY,
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
        cleanPolicy=CLEAN_POLICY,
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
        cleanPolicy=CLEAN_POLICY,
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
    cleanPolicy=CLEAN_POLICY,
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
        cleanPolicy=CLEAN_POLICY,
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
    fuse=obj(IMG, env=MAP, cleanPolicy=CLEAN_POLICY, resources=RESOURCES, networkMode=NET, podMetadata=POD_META, options=MAP),
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
_CACHE_REPLICAS = Field(Int(min=0), note="one machine runs one worker of a dataset; `forebay up --workers N` runs N")
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
    words("valueFile setupDuration selector mountTime", STR),
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
