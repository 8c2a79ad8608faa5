"""What kubelet and provisioner say to a CSI driver, and it to them: the messages of `csi.v1` that are served here.

Field numbers and meanings are facts of the specification (1.12). Fields that nothing reads are left out; the codec skips them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from forebay.fuse.csi.protocol.proto import Empty

IDENTITY, NODE, CONTROLLER = "csi.v1.Identity", "csi.v1.Node", "csi.v1.Controller"
REGISTRATION = "pluginregistration.Registration"


class Access(IntEnum):
    """Access modes."""

    SINGLE_NODE_WRITER = 1
    SINGLE_NODE_READER_ONLY = 2
    MULTI_NODE_READER_ONLY = 3
    MULTI_NODE_SINGLE_WRITER = 4
    MULTI_NODE_MULTI_WRITER = 5
    SINGLE_NODE_SINGLE_WRITER = 6
    SINGLE_NODE_MULTI_WRITER = 7


ONE_TARGET = frozenset((Access.SINGLE_NODE_WRITER, Access.SINGLE_NODE_READER_ONLY, Access.SINGLE_NODE_SINGLE_WRITER))
"""Modes in which a volume has one target path on a node at a time."""


class NodeRpc(IntEnum):
    STAGE_UNSTAGE_VOLUME = 1
    GET_VOLUME_STATS = 2
    VOLUME_CONDITION = 4
    SINGLE_NODE_MULTI_WRITER = 5


class ControllerRpc(IntEnum):
    CREATE_DELETE_VOLUME = 1
    SINGLE_NODE_MULTI_WRITER = 13


class PluginService(IntEnum):
    CONTROLLER_SERVICE = 1


class Unit(IntEnum):
    BYTES = 1
    INODES = 2


class Kind(msgspec.Struct, frozen=True):
    """The one number inside a capability."""

    type: Annotated[int, 1] = 0


class Capability(msgspec.Struct, frozen=True):
    """Of a node or a controller (`rpc`), or of a plugin (`service`): the same field."""

    rpc: Annotated[Kind | None, 1] = None


class Capabilities(msgspec.Struct, frozen=True):
    capabilities: Annotated[list[Capability], 1] = []


class PluginInfo(msgspec.Struct, frozen=True):
    name: Annotated[str, 1] = ""
    vendor_version: Annotated[str, 2] = ""


class BoolValue(msgspec.Struct, frozen=True):
    value: Annotated[bool, 1] = False


class Probed(msgspec.Struct, frozen=True):
    ready: Annotated[BoolValue | None, 1] = None


# --- what a volume may be


class MountVolume(msgspec.Struct, frozen=True):
    fs_type: Annotated[str, 1] = ""
    mount_flags: Annotated[list[str], 2] = []
    volume_mount_group: Annotated[str, 3] = ""


class AccessMode(msgspec.Struct, frozen=True):
    mode: Annotated[int, 1] = 0


class VolumeCapability(msgspec.Struct, frozen=True):
    block: Annotated[Empty | None, 1] = None
    mount: Annotated[MountVolume | None, 2] = None
    access_mode: Annotated[AccessMode | None, 3] = None


class CapacityRange(msgspec.Struct, frozen=True):
    required_bytes: Annotated[int, 1] = 0
    limit_bytes: Annotated[int, 2] = 0


# --- node


class NodeStage(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    staging_target_path: Annotated[str, 3] = ""
    volume_capability: Annotated[VolumeCapability | None, 4] = None
    secrets: Annotated[dict[str, str], 5] = {}
    volume_context: Annotated[dict[str, str], 6] = {}

    def __repr__(self) -> str:
        """Without what is secret: a request may end up in a trace."""
        return f"NodeStage({self.volume_id!r}, {self.volume_context!r})"


class NodeUnstage(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    staging_target_path: Annotated[str, 2] = ""


class NodePublish(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    staging_target_path: Annotated[str, 3] = ""
    target_path: Annotated[str, 4] = ""
    volume_capability: Annotated[VolumeCapability | None, 5] = None
    readonly: Annotated[bool, 6] = False
    secrets: Annotated[dict[str, str], 7] = {}
    volume_context: Annotated[dict[str, str], 8] = {}

    def __repr__(self) -> str:
        """Without what is secret: a request may end up in a trace."""
        return f"NodePublish({self.volume_id!r}, {self.volume_context!r})"


class NodeUnpublish(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    target_path: Annotated[str, 2] = ""


class NodeStats(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    volume_path: Annotated[str, 2] = ""
    staging_target_path: Annotated[str, 3] = ""


class Usage(msgspec.Struct, frozen=True):
    available: Annotated[int, 1] = 0
    total: Annotated[int, 2] = 0
    used: Annotated[int, 3] = 0
    unit: Annotated[int, 4] = 0


class VolumeCondition(msgspec.Struct, frozen=True):
    abnormal: Annotated[bool, 1] = False
    message: Annotated[str, 2] = ""


class Stats(msgspec.Struct, frozen=True):
    usage: Annotated[list[Usage], 1] = []
    volume_condition: Annotated[VolumeCondition | None, 2] = None


class NodeInfo(msgspec.Struct, frozen=True):
    node_id: Annotated[str, 1] = ""
    max_volumes_per_node: Annotated[int, 2] = 0


# --- controller


class CreateVolume(msgspec.Struct, frozen=True):
    name: Annotated[str, 1] = ""
    capacity_range: Annotated[CapacityRange | None, 2] = None
    volume_capabilities: Annotated[list[VolumeCapability], 3] = []
    parameters: Annotated[dict[str, str], 4] = {}
    volume_content_source: Annotated[Empty | None, 6] = None


class Volume(msgspec.Struct, frozen=True):
    capacity_bytes: Annotated[int, 1] = 0
    volume_id: Annotated[str, 2] = ""
    volume_context: Annotated[dict[str, str], 3] = {}


class CreatedVolume(msgspec.Struct, frozen=True):
    volume: Annotated[Volume | None, 1] = None


class DeleteVolume(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""


class Validate(msgspec.Struct, frozen=True):
    volume_id: Annotated[str, 1] = ""
    volume_context: Annotated[dict[str, str], 2] = {}
    volume_capabilities: Annotated[list[VolumeCapability], 3] = []
    parameters: Annotated[dict[str, str], 4] = {}


class Confirmed(msgspec.Struct, frozen=True):
    volume_context: Annotated[dict[str, str], 1] = {}
    volume_capabilities: Annotated[list[VolumeCapability], 2] = []
    parameters: Annotated[dict[str, str], 3] = {}


class Validated(msgspec.Struct, frozen=True):
    confirmed: Annotated[Confirmed | None, 1] = None
    message: Annotated[str, 2] = ""


# --- the kubelet's registration of plugins


class RegistrationInfo(msgspec.Struct, frozen=True):
    type: Annotated[str, 1] = ""
    name: Annotated[str, 2] = ""
    endpoint: Annotated[str, 3] = ""
    supported_versions: Annotated[list[str], 4] = []


class RegistrationStatus(msgspec.Struct, frozen=True):
    plugin_registered: Annotated[bool, 1] = False
    error: Annotated[str, 2] = ""
