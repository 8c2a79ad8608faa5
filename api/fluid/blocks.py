"""Blocks that several of Fluid's kinds share (`data.fluid.io/v1alpha1`, chart 1.1.0), as data.

`used(...)` marks what a data path acts on. Core types of Kubernetes are checked for their outer shape only (admission
holds them to `core_shapes`). Bounds of lists and strings are far above what is written; without them the API server
refuses rules over them as too costly.
"""

from __future__ import annotations

from forebay.api.fluid.core_shapes import CLAIMS, ENV_SOURCE, VOLUME_SOURCE
from forebay.api.schema import (
    ANY_LIST,
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
    need,
    obj,
    used,
    words,
)

STRS = List(STR)
IMG = words("image imageTag imagePullPolicy", STR)
VERSION = obj(IMG)
RESOURCES = obj(limits=MapOf(QUANTITY), requests=MapOf(QUANTITY), claims=CLAIMS)
POD_META = obj(labels=MAP, annotations=MAP)
CLEAN_POLICY = Str(enum=("", "OnRuntimeDeleted", "OnDemand", "OnFuseChanged"))
NET = Str(enum=("HostNetwork", "ContainerNetwork", ""))
CLEAN_CACHE = obj(gracePeriodSeconds=Field(INT, default=60), maxRetryAttempts=Field(INT, default=3))
MANAGEMENT = obj(cleanCachePolicy=CLEAN_CACHE, metadataSyncPolicy=obj(autoSync=BOOL))
USER = obj(uid=need(INT64, used=True), gid=need(INT64, used=True), user=need(STR, used=True), group=need(STR, used=True))
REPLICAS = Int(min=1)
ENVS = List(obj(name=need(STR), value=STR, valueFrom=ENV_SOURCE))
PORTS = List(obj(containerPort=need(INT), hostIP=STR, hostPort=INT, name=STR, protocol=Field(STR, default="TCP")))
PORT_MAP = MapOf(INT)

ENCRYPT_OPTION = obj(
    name=need(Str(max=253), used=True),
    valueFrom=used(obj(secretKeyRef=used(obj(name=need(STR, used=True), key=used(STR), optional=used(BOOL))))),
)
ENCRYPT_OPTIONS = List(ENCRYPT_OPTION, max=64, keys=("name",))
MOUNT = obj(
    mountPoint=need(Str(min=5, max=2048), used=True),
    name=used(Str(max=4096)),
    path=used(Str(max=4096)),
    options=used(MAP),
    readOnly=used(BOOL),
    shared=Field(BOOL, note="every mount is shared by the readers of its dataset"),
    encryptOptions=used(ENCRYPT_OPTIONS),
)
MAX_LEVELS = 16
TIERED_STORE = obj(
    levels=used(
        List(
            obj(
                mediumtype=need(Str(enum=("MEM", "SSD", "HDD")), used=True),
                volumeType=used(Str(enum=("hostPath", "emptyDir", "")), default="hostPath"),
                volumeSource=Field(VOLUME_SOURCE, note="the tier is the directory `path` of this machine"),
                path=used(Str(min=1, max=4096)),
                quota=used(QUANTITY),
                quotaList=used(Str(max=2048)),
                high=used(Str(max=32)),
                low=used(Str(max=32)),
            ),
            max=MAX_LEVELS,
        )
    )
)
OPERATIONS = ("DataLoad", "DataBackup", "DataMigrate", "DataProcess")
OPERATION_REF = obj(
    apiVersion=STR,
    kind=need(Str(enum=OPERATIONS)),
    name=need(Str(max=253)),
    namespace=STR,
    affinityStrategy=obj(
        policy=STR,
        dependOn=obj(apiVersion=STR, kind=need(Str(enum=OPERATIONS)), name=need(STR), namespace=STR),
        requires=List(obj(name=need(STR))),
        prefers=List(obj(name=need(STR), weight=need(INT))),
    ),
)
METADATA = Obj(
    {
        name: used(field.type)
        for name, field in obj(
            words("name generateName namespace uid resourceVersion selfLink creationTimestamp deletionTimestamp", STR),
            words("generation deletionGracePeriodSeconds", INT64),
            words("ownerReferences finalizers managedFields", ANY_LIST),
            labels=MAP,
            annotations=MAP,
        ).fields.items()
    }
)
