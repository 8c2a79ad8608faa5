"""What a volume's attributes ask for. Pure: attributes in, one of three requests out, or a refusal with field and remedy.

Attributes of an inline volume can be written by whoever makes pods in a namespace; those of a persistent volume only by
whoever may make persistent volumes. So an inline volume reaches only its pod's own namespace, which kubelet states, and never a
dataset's bytes.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from typing import Literal, cast, get_args

import msgspec

from forebay.api.spec import Medium
from forebay.fuse.csi.protocol.checks import bounded, label, object_name
from forebay.fuse.csi.protocol.refusal import malformed

DATASET, PART, SERVICE, CONFIG = "forebay.io/dataset", "forebay.io/part", "forebay.io/service", "forebay.io/config"
UID, PATH, TIER, CLEAN = "forebay.io/uid", "forebay.io/path", "forebay.io/tier-", "forebay.io/clean-policy"
SUB_PATH = "fluid_sub_path"
EPHEMERAL, POD_NAMESPACE = "csi.storage.k8s.io/ephemeral", "csi.storage.k8s.io/pod.namespace"
POD_NAME, POD_UID = "csi.storage.k8s.io/pod.name", "csi.storage.k8s.io/pod.uid"
KUBELETS = "csi.storage.k8s.io/"
PROVISIONER = "storage.kubernetes.io/"
MOST_TIERS = 16
SECRET = "secret"
"""Key of the dataset's own secret in the secrets of a call."""
CleanPolicy = Literal["OnRuntimeDeleted", "OnDemand", "OnFuseChanged"]


class TierRequest(msgspec.Struct, frozen=True):
    """`directory` "": the node's own. `quota` in bytes, 0 = none, which memory may not have."""

    medium: Medium
    quota: int
    directory: str


class WorkerVolume(msgspec.Struct, frozen=True):
    """What a worker pod keeps on its node. `uid` None: the pod's user is not known."""

    namespace: str
    dataset: str
    service: str
    uid: int | None
    tiers: tuple[TierRequest, ...]


class HostVolume(msgspec.Struct, frozen=True):
    """A directory of the node, read-only."""

    namespace: str
    dataset: str
    path: str


class ClaimVolume(msgspec.Struct, frozen=True):
    """A dataset's tree, or what lies below `sub_path` ("" = all of it)."""

    namespace: str
    dataset: str
    config: str  # ConfigMap in the dataset's namespace
    service: str
    sub_path: str
    clean_policy: CleanPolicy

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.dataset}"


Request = WorkerVolume | HostVolume | ClaimVolume


def read(context: Mapping[str, str]) -> Request:
    """The request that a volume's attributes (with kubelet's pod information) are. Raises `Refusal`."""
    own = {k: v for k, v in context.items() if not k.startswith(KUBELETS)}
    bounded("volume_context", own)
    inline = context.get(EPHEMERAL) == "true"
    part = context.get(PART, "")
    if not inline:
        if part:
            raise malformed(PART, f"{part!r} goes with inline volumes of a pod only, not with a persistent volume")
        return claim(context)
    if part not in ("worker", "host"):
        remedy = "an inline volume names the part 'worker' or 'host'; to read a dataset use its claim (persistentVolumeClaim)"
        raise malformed(PART, f"{part!r} is unknown: {remedy}" if part else f"is missing: {remedy}")
    namespace = context.get(POD_NAMESPACE, "")
    if not namespace:
        raise malformed(POD_NAMESPACE, "is missing: the CSIDriver object needs podInfoOnMount: true")
    label(POD_NAMESPACE, namespace)
    dataset = label(DATASET, context.get(DATASET, ""))
    if part == "host":
        return HostVolume(namespace, dataset, directory(PATH, context.get(PATH, "")))
    service = label(SERVICE, context.get(SERVICE, ""))
    return WorkerVolume(namespace, dataset, service, _uid(context.get(UID, "")), _tiers(context))


def claim(context: Mapping[str, str]) -> ClaimVolume:
    """What a persistent volume's attributes name."""
    text = context.get(DATASET, "")
    namespace, slash, dataset = text.partition("/")
    if not slash:
        raise malformed(DATASET, f"{text!r} is not NAMESPACE/NAME" if text else "is missing: the volume was not made by forebay")
    label(DATASET, namespace)
    label(DATASET, dataset)
    policy = context.get(CLEAN, "") or "OnRuntimeDeleted"
    if policy not in get_args(CleanPolicy):
        raise malformed(CLEAN, f"{policy!r} is no policy; known are {', '.join(get_args(CleanPolicy))}")
    return ClaimVolume(
        namespace,
        dataset,
        object_name(CONFIG, context.get(CONFIG) or f"{dataset}-forebay"),
        label(SERVICE, context.get(SERVICE) or f"svc-{dataset}-worker"),
        sub_path(context.get(SUB_PATH, "")),
        cast(CleanPolicy, policy),
    )


def sub_path(text: str) -> str:
    """A relative path below the tree's root, without tricks."""
    parts = [p for p in text.split("/") if p]
    if any(p in (".", "..") for p in parts) or "\0" in text:
        raise malformed(SUB_PATH, f"{text!r} holds '.' or '..': write a plain path below the dataset's root")
    return "/".join(parts)


def directory(field: str, text: str) -> str:
    """An absolute directory as it is written, without tricks."""
    if not text:
        raise malformed(field, "is missing")
    if not text.startswith("/") or "\0" in text or posixpath.normpath(text) != text or text.startswith("//"):
        raise malformed(field, f"{text!r} is no absolute path without '.', '..', doubled or trailing slashes")
    return text


def _uid(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > (1 << 32) - 2:
        raise malformed(UID, f"{text!r} is no user id")
    return int(text)


def _tiers(context: Mapping[str, str]) -> tuple[TierRequest, ...]:
    named = [k for k in context if k.startswith(TIER)]
    if not named:
        raise malformed(f"{TIER}0", "is missing: a worker needs at least one tier")
    if len(named) > MOST_TIERS:
        raise malformed(TIER, f"names {len(named)} tiers, at most {MOST_TIERS} are allowed")
    found = []
    for i in range(len(named)):
        field = f"{TIER}{i}"
        if field not in context:
            raise malformed(field, f"is missing, though there are {len(named)} tiers: number them from 0")
        found.append(_tier(field, context[field]))
    return tuple(found)


def _tier(field: str, text: str) -> TierRequest:
    medium, _, rest = text.partition(" ")
    quota, _, where = rest.partition(" ")
    if medium not in get_args(Medium):
        raise malformed(field, f"{text!r}: {medium!r} is no medium; known are {', '.join(get_args(Medium))}")
    if not quota.isascii() or not quota.isdigit() or int(quota) >= 1 << 63:
        raise malformed(field, f"{text!r}: {quota!r} is no number of bytes")
    if medium == "MEM" and not int(quota):
        raise malformed(field, f"{text!r}: memory without a quota could take all of the node's; state one")
    return TierRequest(cast(Medium, medium), int(quota), directory(field, where) if where else "")


def digest(request: Request, *more: object) -> str:
    """Equal exactly where two calls ask for the same: what a repeated call is compared by."""
    text = json.dumps([type(request).__name__, msgspec.to_builtins(request), *more], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
