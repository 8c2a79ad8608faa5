"""Blocks that several of Fluid's kinds share (`data.fluid.io/v1alpha1`, chart 1.1.0), as data.

`used(...)` marks what a data path acts on. Core types of Kubernetes are checked for their outer shape only.
"""

from __future__ import annotations

from forebay.api.schema import (
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
    need,
    obj,
    used,
    words,
)

STRS = List(STR)
IMG = words("image imageTag imagePullPolicy", STR)
VERSION = obj(IMG)
RESOURCES = obj(limits=MapOf(QUANTITY), requests=MapOf(QUANTITY), claims=ANY_LIST)
POD_META = obj(labels=MAP, annotations=MAP)
CLEAN_POLICY = Str(enum=("", "OnRuntimeDeleted", "OnDemand", "OnFuseChanged"))
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
