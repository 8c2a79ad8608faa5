"""What the scheduler reads of `resource.k8s.io/v1`: claims on devices, as far as they say where they can be used."""

from __future__ import annotations

import msgspec

from forebay.api.corev1 import Meta, NodeSelector


class Allocation(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """`node_selector` None: the devices can be used from every node."""

    node_selector: NodeSelector | None = None


class ConsumerReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    resource: str = ""
    name: str = ""
    uid: str = ""


class ResourceClaimStatus(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    allocation: Allocation | None = None
    reserved_for: tuple[ConsumerReference, ...] = ()


class ResourceClaim(msgspec.Struct, frozen=True, gc=False):
    metadata: Meta
    status: ResourceClaimStatus = ResourceClaimStatus()
