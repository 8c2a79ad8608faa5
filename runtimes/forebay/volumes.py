"""Volume and claim by which pods read a dataset, their own or another namespace's.

Names, labels, class and attributes are Fluid's; the driver and the volumeHandle are ours, one handle for each volume:
two with one handle would share a staging directory.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from forebay.api.fluid import names as fluid
from forebay.runtimes.engine import Installation, Object, Ref
from forebay.runtimes.forebay.names import DATASET, Names
from forebay.runtimes.forebay.settings import DEFAULT_SIZE, Settings

MOUNT_TYPE = "fuse.forebay"
ACCESS = ["ReadOnlyMany"]


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim shows: `data` is the dataset that holds the bytes, another than `names` for a reference."""

    names: Names
    owner: Object  # the Dataset
    data: Names
    type: str  # Fluid's word for the runtime
    sub_path: str  # "" for the whole tree
    size: str = DEFAULT_SIZE
    fuse_selector: Mapping[str, str] = {}
    clean_policy: str = "OnRuntimeDeleted"
    symlink: bool = False
    skip_check: str | None = None
    meta: Mapping[str, Object] = {}
    installation: Installation


def claimed(names: Names, owner: Object, settings: Settings, installation: Installation) -> Claimed:
    return Claimed(
        names=names,
        owner=owner,
        data=names,
        type=fluid.TYPES.get(settings.kind, "cache"),
        sub_path="",
        size=settings.size,
        fuse_selector=settings.fuse_selector,
        clean_policy=settings.clean_policy,
        symlink=settings.symlink,
        skip_check=settings.skip_check,
        meta=settings.volume_meta,
        installation=installation,
    )


def volume(c: Claimed) -> Object:
    secret = {"name": c.data.secret, "namespace": c.data.namespace}
    spec: Object = {
        "accessModes": ACCESS,
        "capacity": {"storage": c.size},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": c.names.claim, "namespace": c.names.namespace},
        "csi": {
            "driver": c.installation.driver,
            "volumeHandle": c.names.handle,
            "readOnly": True,
            # At both steps: staging starts the node's mount, and after a lost one publishing starts it again.
            "nodeStageSecretRef": secret,
            "nodePublishSecretRef": secret,
            "volumeAttributes": dict(sorted(_attributes(c).items())),
        },
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": c.installation.storage_class,
        "volumeMode": "Filesystem",
    }
    if c.fuse_selector:
        terms = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(c.fuse_selector.items())]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
    meta = {"name": c.names.volume, **_meta(c, "PersistentVolume")}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}


def claim(c: Claimed) -> Object:
    meta = {
        "name": c.names.claim,
        "namespace": c.names.namespace,
        "ownerReferences": [c.owner],
        **_meta(c, "PersistentVolumeClaim"),
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta,
        "spec": {
            "accessModes": ACCESS,
            "resources": {"requests": {"storage": c.size}},
            "storageClassName": c.installation.storage_class,
            "volumeMode": "Filesystem",
            "volumeName": c.names.volume,
        },
    }


def stale(found: Mapping[Ref, Object], c: Claimed) -> str:
    """Why an existing volume can never serve the claim again, "" where it can: most of a volume cannot be changed."""
    existing = found.get(Ref("PersistentVolume", "", c.names.volume))
    if existing is None:
        return ""
    spec, wanted = existing.get("spec", {}), volume(c)["spec"]
    if existing.get("status", {}).get("phase") in ("Released", "Failed"):
        return f"is {existing['status']['phase']}: its claim was deleted"
    pvc = found.get(Ref("PersistentVolumeClaim", c.names.namespace, c.names.claim))
    bound = spec.get("claimRef", {}).get("uid")
    if pvc is not None and bound and pvc["metadata"].get("uid", bound) != bound:
        return "is bound to an earlier claim of the same name"
    for field in ("csi", "nodeAffinity", "storageClassName", "accessModes"):
        if spec.get(field) != wanted.get(field):
            return f"has another {field} than is wanted now, which cannot be changed"
    return ""


def _attributes(c: Claimed) -> dict[str, str]:
    found = {
        "fluid_path": fluid.fuse_path(c.type, c.data.namespace, c.data.name),
        "mount_type": MOUNT_TYPE,
        "runtime_namespace": c.data.namespace,
        "runtime_name": c.data.name,
        "mount_pod_node_selector_key": fluid.node_label("f", c.data.namespace, c.data.name, c.data.uid),
        DATASET: c.data.key,
        "forebay.io/config": c.data.config,
        "forebay.io/service": c.data.service,
        "forebay.io/clean-policy": c.clean_policy,
    }
    if c.sub_path:
        found["fluid_sub_path"] = c.sub_path
    if c.symlink:
        found["node_publish_method"] = "symlink"
    if c.skip_check is not None:
        found[fluid.SKIP_CHECK] = c.skip_check
    return found


def _meta(c: Claimed, kind: str) -> Object:
    """Labels and annotations of both; what the runtime wants on top never overrides them."""
    wanted = c.meta.get(kind) or {}
    labels = {
        **c.names.labels,
        fluid.node_label("s", c.names.namespace, c.names.name, c.names.uid): "true",
        fluid.MANAGED_BY: c.names.name,
    }
    if c.data != c.names and kind == "PersistentVolumeClaim":
        labels[fluid.REFERRING_NAME], labels[fluid.REFERRING_NAMESPACE] = c.data.name, c.data.namespace
    return {
        "labels": dict(sorted({**(wanted.get("labels") or {}), **labels}.items())),
        "annotations": dict(sorted({**(wanted.get("annotations") or {}), **fluid.CREATED_BY}.items())),
    }
