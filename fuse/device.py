"""The device descriptor: replies, notifications, and the ioctls of passthrough."""

from __future__ import annotations

import errno
import fcntl
import os

from forebay.fuse import protocol as p

_NOBODY_WAITS = frozenset((errno.ENOENT, errno.ENODEV, errno.ECONNABORTED))


def reply(fd: int, data: bytes) -> bool:
    """Write one reply. False: the kernel no longer waits for it (interrupted, aborted, or answered by a predecessor)."""
    try:
        os.write(fd, data)
    except OSError as e:
        if e.errno in _NOBODY_WAITS:
            return False
        raise
    return True


def notify(fd: int, packet: bytes) -> bool:
    """Send a notification. False when the kernel does not have what it names, or is gone.

    May wait for locks that are held by whoever waits for a reply of ours: only from a thread that answers nothing.
    """
    try:
        os.write(fd, packet)
    except OSError as e:
        if e.errno in _NOBODY_WAITS or e.errno == errno.ENOTDIR:
            return False
        raise
    return True


def backing_open(fd: int, file: int) -> int:
    """Register descriptor `file` with the connection; returns the backing id, at least 1."""
    # a bytearray: with immutable bytes fcntl.ioctl returns the bytes, not the result
    return int(fcntl.ioctl(fd, p.IOC_BACKING_OPEN, bytearray(p.BACKING_MAP.pack(file, 0, 0)), True))


def backing_close(fd: int, backing_id: int) -> None:
    """Nothing when the id or the connection is gone."""
    try:
        fcntl.ioctl(fd, p.IOC_BACKING_CLOSE, bytearray(backing_id.to_bytes(4, "little")), True)
    except OSError as e:
        if e.errno not in _NOBODY_WAITS:
            raise
