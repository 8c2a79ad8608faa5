"""Core types of Kubernetes as far as Fluid's kinds embed them: what admission holds them to.

`forebay check` sees their outer kind only. What users fill with whole pods or volumes (`POD_SPEC`, `VOLUMES`,
`VOLUME_CLAIMS`) keeps every field: the API server checks those when the pod is made, and a field of a newer Kubernetes
must not be pruned here. Shapes follow Kubernetes 1.36.
"""

from __future__ import annotations

from forebay.api.schema import (
    BOOL,
    INT,
    INT64,
    MAP,
    QUANTITY,
    STR,
    Any,
    IntOrString,
    List,
    Obj,
    Str,
    Type,
    need,
    obj,
    words,
)

_STRS = List(STR)


def core_map(shape: Type) -> Any:
    return Any(dict, shape)


def core_list(shape: Type) -> Any:
    return Any(list, shape)


OPEN = Obj({}, open=True)
"""A mapping that is passed on unread."""

# --- where pods go --------------------------------------------------------------------------------------------------

_REQUIREMENT = obj(key=need(STR), operator=need(STR), values=_STRS)
_TERM = obj(words("matchExpressions matchFields", List(_REQUIREMENT)))
_SELECTOR = obj(nodeSelectorTerms=need(List(_TERM)))
_NODE_AFFINITY = obj(
    requiredDuringSchedulingIgnoredDuringExecution=_SELECTOR,
    preferredDuringSchedulingIgnoredDuringExecution=List(obj(weight=need(INT), preference=need(_TERM))),
)
LABEL_SELECTOR = obj(matchLabels=MAP, matchExpressions=List(_REQUIREMENT))
_POD_TERM = obj(
    words("labelSelector namespaceSelector", LABEL_SELECTOR),
    words("namespaces matchLabelKeys mismatchLabelKeys", _STRS),
    topologyKey=need(STR),
)
_POD_AFFINITY = obj(
    requiredDuringSchedulingIgnoredDuringExecution=List(_POD_TERM),
    preferredDuringSchedulingIgnoredDuringExecution=List(obj(weight=need(INT), podAffinityTerm=need(_POD_TERM))),
)

NODE_SELECTOR = core_map(_SELECTOR)
NODE_AFFINITY = core_map(_NODE_AFFINITY)
AFFINITY = core_map(obj(words("podAffinity podAntiAffinity", _POD_AFFINITY), nodeAffinity=_NODE_AFFINITY))
TOLERATIONS = core_list(List(obj(words("key operator value effect", STR), tolerationSeconds=INT64)))

# --- containers -----------------------------------------------------------------------------------------------------

_KEY_REF = obj(key=need(STR), name=STR, optional=BOOL)
ENV_SOURCE = core_map(
    obj(
        words("secretKeyRef configMapKeyRef", _KEY_REF),
        fieldRef=obj(apiVersion=STR, fieldPath=need(STR)),
        resourceFieldRef=obj(containerName=STR, divisor=QUANTITY, resource=need(STR)),
        fileKeyRef=obj(key=need(STR), volumeName=need(STR), path=need(STR), optional=BOOL),
    )
)
CLAIMS = core_list(List(obj(name=need(STR), request=STR), keys=("name",)))
PULL_SECRETS = core_list(List(obj(name=STR)))
VOLUME_MOUNTS = core_list(
    List(
        obj(
            words("mountPropagation subPath subPathExpr recursiveReadOnly", STR),
            name=need(STR),
            mountPath=need(Str(max=4096)),
            readOnly=BOOL,
        ),
        max=256,
    )
)
_EXEC = obj(command=_STRS)
_HTTP_GET = obj(words("host path scheme", STR), port=need(IntOrString()), httpHeaders=List(obj(name=need(STR), value=need(STR))))
_TCP_SOCKET = obj(host=STR, port=need(IntOrString()))
PROBE = core_map(
    obj(
        words("failureThreshold initialDelaySeconds periodSeconds successThreshold timeoutSeconds", INT),
        exec=_EXEC,
        httpGet=_HTTP_GET,
        tcpSocket=_TCP_SOCKET,
        grpc=obj(port=need(INT), service=STR),
        terminationGracePeriodSeconds=INT64,
    )
)
_HANDLER = obj(exec=_EXEC, httpGet=_HTTP_GET, tcpSocket=_TCP_SOCKET, sleep=obj(seconds=need(INT64)))
LIFECYCLE = core_map(obj(words("postStart preStop", _HANDLER), stopSignal=STR))

# --- whole pods and volumes -----------------------------------------------------------------------------------------

VOLUMES = core_list(List(Obj(obj(name=need(STR)).fields, open=True), keys=("name",)))
VOLUME_SOURCE = core_map(OPEN)
VOLUME_CLAIMS = core_list(List(OPEN))
_MOUNTED = List(Obj(obj(mountPath=Str(max=4096)).fields, open=True), max=128)
_CONTAINER = Obj(obj(name=need(STR), volumeMounts=_MOUNTED).fields, open=True)
_POD = Obj(obj(containers=need(List(_CONTAINER, max=64)), initContainers=List(_CONTAINER, max=64)).fields, open=True)
POD_SPEC = core_map(_POD)
POD_TEMPLATE = core_map(Obj(obj(metadata=OPEN, spec=_POD).fields, open=True))
