"""Fields of requests: which are needed, what they may hold. Pure; everything wrong is INVALID_ARGUMENT."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from forebay.fuse.csi.protocol.messages import Access, VolumeCapability
from forebay.fuse.csi.protocol.refusal import malformed

TEXT_MOST, MAP_MOST = 128, 4096
"""Bytes of a string and of a map, as the specification limits them; paths are exempt."""
PATH_MOST = 4095
FLAGS = frozenset(("ro", "nodev", "nosuid", "noexec", "noatime", "nodiratime", "relatime"))
"""Mount flags that a dataset's mount can follow or follows anyway."""
FS_TYPES = frozenset(("", "fuse", "fuse.forebay"))
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


def needed(field: str, text: str) -> str:
    """A string that has to be there."""
    if not text:
        raise malformed(field, "is missing")
    if len(text.encode()) > TEXT_MOST:
        raise malformed(field, f"has {len(text.encode())} bytes, at most {TEXT_MOST} are allowed")
    return text


def path(field: str, text: str, below: str) -> str:
    """An absolute, normalised path strictly below `below`."""
    if not text:
        raise malformed(field, "is missing")
    if "\0" in text or len(text.encode()) > PATH_MOST:
        raise malformed(field, "is no path")
    if not text.startswith("/") or posixpath.normpath(text) != text.rstrip("/") or text.startswith("//"):
        raise malformed(field, f"{text!r} is no absolute path without '.', '..' and doubled slashes")
    if not text.startswith(below.rstrip("/") + "/"):
        raise malformed(field, f"{text!r} is not below {below}: start the plugin with --kubelet of the kubelet's --root-dir")
    return text.rstrip("/")


def capability(found: VolumeCapability | None) -> Access:
    """The access mode of a capability that can be served."""
    field = "volume_capability"
    if found is None:
        raise malformed(field, "is missing")
    if found.access_mode is None or found.access_mode.mode not in set(Access):
        raise malformed(f"{field}.access_mode", "is missing or unknown")
    if found.block is not None:
        raise malformed(f"{field}.block", "is not served: a dataset is a file tree; use volumeMode Filesystem")
    if found.mount is None:
        raise malformed(f"{field}.mount", "is missing")
    if found.mount.fs_type not in FS_TYPES:
        raise malformed(f"{field}.mount.fs_type", f"{found.mount.fs_type!r} is not served: leave it out")
    if wrong := sorted(set(found.mount.mount_flags) - FLAGS):
        raise malformed(f"{field}.mount.mount_flags", f"{wrong[0]!r} is not served; known are {', '.join(sorted(FLAGS))}")
    return Access(found.access_mode.mode)


def capabilities(found: list[VolumeCapability]) -> list[Access]:
    if not found:
        raise malformed("volume_capabilities", "is missing")
    return [capability(one) for one in found]


def bounded(field: str, found: Mapping[str, str]) -> None:
    if sum(len(k.encode()) + len(v.encode()) for k, v in found.items()) > MAP_MOST:
        raise malformed(field, f"has more than {MAP_MOST} bytes")


def label(field: str, text: str) -> str:
    """A DNS label: the name of a namespace, a dataset, a service."""
    if not _LABEL.match(text):
        raise malformed(field, f"{text!r} is no name: lower-case letters, digits and '-', at most 63" if text else "is missing")
    return text


def object_name(field: str, text: str) -> str:
    """The name of any object: labels joined by dots."""
    if len(text) > 253 or not all(_LABEL.match(part) for part in text.split(".")):
        raise malformed(field, f"{text!r} is no name of an object" if text else "is missing")
    return text
