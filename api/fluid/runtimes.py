"""Specs of Fluid's seven runtime kinds, as data. What is not `used` is the foreign engine's business."""

from __future__ import annotations

from msgspec.structs import replace

from forebay.api.fluid.blocks import (
    CLEAN_CACHE,
    CLEAN_POLICY,
    ENCRYPT_OPTIONS,
    ENVS,
    IMG,
    MANAGEMENT,
    MAX_LEVELS,
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
from forebay.api.fluid.core_shapes import (
    LIFECYCLE,
    PROBE,
    PULL_SECRETS,
    TOLERATIONS,
    VOLUME_CLAIMS,
    VOLUME_MOUNTS,
    VOLUMES,
)
from forebay.api.schema import (
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

_ENGINE = "our own engine serves this dataset here; the field is for the engine of this kind"
_REPLICAS = Field(Int(min=0), note="one machine runs one worker of a dataset; `forebay up --workers N` runs N")
_POD = {"volumeMounts": Field(VOLUME_MOUNTS), "imagePullSecrets": Field(PULL_SECRETS)}


def runtime(*bases: dict[str, Field], **members: Type | Field) -> Obj:
    """A runtime's spec: what is not marked otherwise is the foreign engine's business."""
    fields = obj(*bases, **members).fields
    return Obj({k: f if f.used or f.note else replace(f, note=_ENGINE) for k, f in fields.items()})


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
    volumes=VOLUMES,
    podMetadata=POD_META,
    management=MANAGEMENT,
    imagePullSecrets=PULL_SECRETS,
)

_JINDO = obj(
    _POD,
    replicas=REPLICAS,
    properties=MAP,
    ports=PORT_MAP,
    resources=RESOURCES,
    env=MAP,
    nodeSelector=MAP,
    tolerations=TOLERATIONS,
    labels=MAP,
    podMetadata=POD_META,
    disabled=BOOL,
)
JINDO = runtime(
    words("master worker", _JINDO),
    jindoVersion=VERSION,
    fuse=obj(
        IMG,
        imagePullSecrets=PULL_SECRETS,
        properties=MAP,
        env=MAP,
        resources=RESOURCES,
        args=STRS,
        nodeSelector=MAP,
        tolerations=TOLERATIONS,
        labels=MAP,
        podMetadata=POD_META,
        cleanPolicy=CLEAN_POLICY,
        disabled=BOOL,
        logConfig=MAP,
        metrics=obj(enabled=BOOL, scrapeTarget=Str(max=253)),
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
    volumes=VOLUMES,
    imagePullSecrets=PULL_SECRETS,
)

_JUICEFS = obj(
    replicas=REPLICAS,
    ports=PORTS,
    resources=RESOURCES,
    options=MAP,
    env=ENVS,
    enabled=BOOL,
    nodeSelector=MAP,
    volumeMounts=VOLUME_MOUNTS,
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
        volumeMounts=VOLUME_MOUNTS,
    ),
    tieredstore=used(TIERED_STORE),
    configs=STRS,
    replicas=_REPLICAS,
    runAs=USER,
    disablePrometheus=BOOL,
    volumes=VOLUMES,
    podMetadata=POD_META,
    management=MANAGEMENT,
    volumeClaimTemplates=VOLUME_CLAIMS,
)

_PROBES = words("livenessProbe readinessProbe", PROBE)
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
    lifecycle=LIFECYCLE,
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
    volumes=VOLUMES,
    management=MANAGEMENT,
    imagePullSecrets=PULL_SECRETS,
)
THIN_PROFILE = obj(
    fileSystemType=need(STR),
    worker=THIN_WORKER,
    fuse=THIN_FUSE,
    volumes=VOLUMES,
    imagePullSecrets=PULL_SECRETS,
    nodePublishSecretPolicy=Field(
        Str(
            enum=(
                "NotMountNodePublishSecret",
                "MountNodePublishSecretIfExists",
                "CopyNodePublishSecretAndMountIfNotExists",
            )
        ),
        default="MountNodePublishSecretIfExists",
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
    volumeMounts=VOLUME_MOUNTS,
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
    volumes=VOLUMES,
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
                        paths=need(List(Str(min=1, max=1024), min=1, max=64), used=True),
                        quotas=need(List(QUANTITY, min=1, max=64), used=True),
                        type=Field(STR, note="a missing directory is created"),
                    )
                ),
                high=used(Str(max=32)),
                low=used(Str(max=32)),
            ),
            max=MAX_LEVELS,
        )
    )
)
_COMPONENT = {
    k: replace(f, note=_ENGINE)
    for k, f in obj(
        disabled=BOOL,
        runtimeVersion=VERSION,
        options=MAP,
        podMetadata=POD_META,
        resources=RESOURCES,
        env=ENVS,
        volumeMounts=VOLUME_MOUNTS,
        args=STRS,
        nodeSelector=MAP,
        tolerations=TOLERATIONS,
    ).fields.items()
}
_CACHE_REPLICAS = Field(Int(min=0), note="one machine runs one worker of a dataset; `forebay up --workers N` runs N", default=1)
CACHE = runtime(
    runtimeClassName=Field(STR, required=True, note="every class is served by our own engine on one machine"),
    options=MAP,
    podMetadata=POD_META,
    imagePullSecrets=PULL_SECRETS,
    volumes=VOLUMES,
    master=obj(_COMPONENT, replicas=_CACHE_REPLICAS),
    worker=used(obj(_COMPONENT, replicas=_CACHE_REPLICAS, tieredStore=used(CACHE_TIERS))),
    client=used(
        obj(
            _COMPONENT,
            tieredStore=used(CACHE_TIERS),
            cleanPolicy=Field(Str(enum=("OnRuntimeDeleted", "OnDemand")), note=_ENGINE, default="OnRuntimeDeleted"),
        )
    ),
)
