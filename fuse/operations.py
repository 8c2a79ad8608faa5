"""What a mount answers, whatever transport carries it: attributes, opens, bytes and directory pages of one dataset.

The index is read directly; the worker is asked through its door only for what the index does not know or may no longer
believe. Every operation takes `wait`: with False it raises `WouldBlock` where it would have to ask the door or a disk,
so that one thread can answer everything that needs neither.

An inode is one version of one object: its attributes and bytes never change, and freshness is only ever the question
which inode a name points to.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from forebay.api.spec import DatasetSpec
from forebay.cache.disk.index import DIR, NO_OID, ROOT, Index, Row
from forebay.fuse.modes import Modes
from forebay.fuse.names import Names
from forebay.fuse.opens import Backing, Opens
from forebay.fuse.view import DoorLike, View, WouldBlock

XATTRS = (b"user.forebay.store", b"user.forebay.key", b"user.forebay.version", b"user.forebay.cached")
STATFS_BLOCK = 4096


class Statfs(NamedTuple):
    """Blocks of `bsize` bytes."""

    blocks: int
    bfree: int
    files: int
    bsize: int


class Operations:
    """Answers for one mount of one dataset. Thread-safe."""

    def __init__(
        self, spec: DatasetSpec, index: Index, door: DoorLike, modes: Modes, *,
        uid: int, gid: int, backing: Backing | None = None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.view = View(spec, index, door, clock)
        self.owner = (uid, gid)
        self.names = Names(self.view, self.owner)
        self.opens = Opens(self.view, modes, backing)

    def statfs(self) -> Statfs:
        """Capacity and free space of the tiers (the smaller of quota and file system), and names known so far."""
        blocks = free = 0
        seen: set[int] = set()
        for tier in self.view.spec.tiers:
            try:
                st = os.statvfs(tier.path)
                dev = os.stat(tier.path).st_dev
            except FileNotFoundError:
                continue
            if dev in seen and not tier.quota:
                continue
            seen.add(dev)
            total, avail = st.f_blocks * st.f_frsize // STATFS_BLOCK, st.f_bavail * st.f_frsize // STATFS_BLOCK
            quota = tier.quota // STATFS_BLOCK if tier.quota else total
            blocks += min(total, quota)
            free += min(avail, quota)
        with self.view.begin() as txn:
            files: int = txn.stat(self.view.index.children)["entries"]
        return Statfs(blocks, free, files, STATFS_BLOCK)

    def listxattr(self, ino: int) -> bytes:
        return b"".join(name + b"\0" for name in XATTRS if self._xattr(ino, name) is not None)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Source, key, version of an inode, and how many of its bytes are in the cache.

        EOPNOTSUPP outside "user.": coreutils then asks no more for ACLs and SELinux labels on this file system.
        """
        if not name.startswith(b"user."):
            raise OSError(errno.EOPNOTSUPP, "no such name space")
        value = self._xattr(ino, name) if name in XATTRS else None
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def _xattr(self, ino: int, name: bytes) -> bytes | None:
        with self.view.begin() as txn:
            row = self.view.index.row(txn, ino)
            if row is None or row.mount >= len(self.view.spec.mounts):
                return None
            mount = self.view.spec.mounts[row.mount]
            if name == XATTRS[0]:
                return mount.source.encode("utf-8", "surrogateescape")
            if name == XATTRS[1]:
                return self._key(txn, row, mount.path)
            if row.kind == DIR:
                return None
            if name == XATTRS[2]:
                return row.version or None
            found = None if row.oid == NO_OID else self.view.index.object(txn, row.oid)
            return b"%d" % (found.present if found is not None else 0)

    def _key(self, txn: Any, row: Row, mount_path: str) -> bytes:
        names = []
        ino, name = row.ino, row.name
        while ino != ROOT:
            names.append(name)
            ino = self.view.index.parent(txn, ino)
            up = self.view.index.row(txn, ino)
            name = b"" if up is None else up.name
        prefix = [p for p in mount_path.encode("utf-8", "surrogateescape").split(b"/") if p]
        return b"/".join(names[::-1][len(prefix) :]) + (b"/" if row.kind == DIR else b"")


__all__ = ["Backing", "DoorLike", "Operations", "Statfs", "WouldBlock"]
