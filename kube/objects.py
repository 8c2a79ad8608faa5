"""The few fields of the API's own types that this room reads and writes. What is not named here is ignored when read."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec


class Key(NamedTuple):
    """Names an object of one kind. `namespace` is "" for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Meta(Protocol):
    """What a cache needs of an object's metadata, whoever's struct it is."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class Named(Protocol):
    """An object of any kind."""

    @property
    def metadata(self) -> Meta: ...


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`meta/v1.ObjectMeta`. Times are RFC 3339 text: they are shown, never compared with the local clock."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Bare(msgspec.Struct, frozen=True):
    """Any object, of which only the metadata is wanted."""

    metadata: ObjectMeta


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`coordination.k8s.io/v1.LeaseSpec`. `renew_time` and `acquire_time` are MicroTime text for people to read."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Reference(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`core/v1.ObjectReference`: what an Event is about."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


def key_of(named: Named) -> Key:
    return Key(named.metadata.namespace, named.metadata.name)
