"""Mounts of this node, made and taken away by root: binds, memory, and what mountinfo says. Never looks into a mounted tree."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from forebay.cache.log import log
from forebay.fuse import mounting

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096


def _mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [os.fsencode(text) for text in (source, target, fstype)]
    if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source} at {target} failed ({os.strerror(number)})")


def bind(source: str, target: str, *, read_only: bool = False, options: Sequence[str] = ()) -> None:
    """Show `source` (a directory, or /proc/self/fd/N) at `target`. Set-id bits and device files never count there."""
    _mount(source, target, "", MS_BIND)
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    if "noexec" in options:
        flags |= MS_NOEXEC
    try:
        _mount("", target, "", flags)
    except OSError:
        unmount_all(target)
        raise


def memory(target: str, size: int, mode: int, name: str) -> None:
    """A tmpfs of at most `size` bytes."""
    _mount(name, target, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode={mode:o}")


def below(path: str) -> list[mounting.MountEntry]:
    """Mounts at `path` and below it, in mount order."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return [e for e in mounting.entries() if e.path == real or e.path.startswith(real + "/")]


def stacked(path: str) -> int:
    """Mounts at exactly `path`, one on top of the other."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return sum(e.path == real for e in mounting.entries())


def unmount_all(path: str) -> None:
    """Take away every mount at and below `path`, stacked ones too. One in use is detached under its users, and that is logged.

    Raises OSError when one does not go.
    """
    for _ in range(256):
        found = below(path)
        if not found:
            return
        entry = max(found, key=lambda e: e.path.count("/"))
        try:
            mounting.umount(entry.path)
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            log("csi", "busy", path=entry.path, detached=True)
            mounting.umount(entry.path, lazy=True)
    raise OSError(errno.EBUSY, f"mounts at {path} come back as fast as they are taken away: somebody else mounts there")
