"""What the scheduler reads of Kubernetes' storage types: volumes, claims, their classes, and what a node's drivers can attach.

Names, defaults and meanings are those of `core/v1` and `storage/v1` of Kubernetes 1.36.
"""

from __future__ import annotations

import msgspec

from forebay.api.kubernetes.core import LabelSelector, Meta, NodeSelector, Quantities, Resources

LEGACY_CLASS = "volume.beta.kubernetes.io/storage-class"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
DELAYED = "WaitForFirstConsumer"
ONCE_POD = "ReadWriteOncePod"


class Reference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""


class CSISource(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    driver: str
    volume_handle: str = ""


class VolumeNodeAffinity(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    required: NodeSelector | None = None


class VolumeSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    capacity: Quantities = {}
    access_modes: tuple[str, ...] = ()
    storage_class_name: str = ""
    volume_mode: str = "Filesystem"
    volume_attributes_class_name: str | None = None
    claim_ref: Reference | None = None
    node_affinity: VolumeNodeAffinity | None = None
    csi: CSISource | None = None


class VolumeStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    phase: str = ""


class PersistentVolume(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    spec: VolumeSpec = VolumeSpec()
    status: VolumeStatus = VolumeStatus()


class ClaimSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    access_modes: tuple[str, ...] = ()
    resources: Resources = Resources()
    selector: LabelSelector | None = None
    storage_class_name: str | None = None
    volume_attributes_class_name: str | None = None
    volume_mode: str = "Filesystem"
    volume_name: str = ""


class ClaimStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    phase: str = ""


class PersistentVolumeClaim(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class TopologyExpression(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    key: str
    values: tuple[str, ...] = ()


class TopologyTerm(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    match_label_expressions: tuple[TopologyExpression, ...] = ()


class StorageClass(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    metadata: Meta
    provisioner: str = ""
    volume_binding_mode: str = "Immediate"
    allowed_topologies: tuple[TopologyTerm, ...] = ()


class DriverLimit(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`count` None: no limit is known."""

    count: int | None = None


class NodeDriver(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    name: str
    allocatable: DriverLimit | None = None


class CSINodeSpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`drivers` is null on the wire while there are none."""

    drivers: tuple[NodeDriver, ...] | None = ()


class CSINode(msgspec.Struct, frozen=True, gc=False):
    """Called as the node it speaks of."""

    metadata: Meta
    spec: CSINodeSpec = CSINodeSpec()


class CSIDriverSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`storage_capacity`: the driver says where how much is left, and wants to be asked."""

    storage_capacity: bool = False


class CSIDriver(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: CSIDriverSpec = CSIDriverSpec()


class CSIStorageCapacity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is left for volumes of a class on the nodes that `node_topology` means; None means none."""

    metadata: Meta
    storage_class_name: str = ""
    node_topology: LabelSelector | None = None
    capacity: str | int | None = None
    maximum_volume_size: str | int | None = None


def class_of(claim: PersistentVolumeClaim) -> str:
    """The claim's storage class; "" for none. The old annotation still wins over the field."""
    return claim.metadata.annotations.get(LEGACY_CLASS, claim.spec.storage_class_name or "")


def volume_class_of(volume: PersistentVolume) -> str:
    return volume.metadata.annotations.get(LEGACY_CLASS, volume.spec.storage_class_name)
