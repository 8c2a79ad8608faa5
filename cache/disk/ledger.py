"""The durable ledger: what of which object is on disk for certain. It refills the live index after a lost boot.

The live index is never synced, so it survives the death of the process but not of the machine. The ledger is a second,
synced LMDB environment that only ever says less than the disk holds: rows are read, then the files they speak of are
synced, then the rows are committed here. tmpfs is never in it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from forebay.cache.disk.index import IndexError_, object_path, unpack_object

SCHEMA = 1
MAP_SIZE = 64 << 30
"""Address space: 10^8 objects of one block cost 15 GB."""
SYNCFS_FROM = 64
"""From so many files on one `syncfs` is cheaper than an `fdatasync` each."""
BATCH = 2000
_U32 = struct.Struct(">I")


class Change(NamedTuple):
    """An object's rows at one moment; `row` is None when the index no longer has it."""

    oid: bytes
    tier: int
    row: bytes | None
    extents: list[tuple[bytes, bytes]]  # key and value of `extents`


class Ledger:
    """The environment at `path`. Methods block; one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.env = lmdb.open(path, map_size=MAP_SIZE, max_dbs=4, max_readers=16, sync=True, readahead=False)
        with self.env.begin(write=True) as txn:  # one transaction: each would sync, and a busy disk takes a second for that
            self.objects = self.env.open_db(b"objects", txn=txn)
            self.extents = self.env.open_db(b"extents", txn=txn)
            self.meta = self.env.open_db(b"meta", txn=txn)
            raw = txn.get(b"schema", db=self.meta)
            if raw is None:
                txn.put(b"schema", _U32.pack(SCHEMA), db=self.meta)
            elif _U32.unpack(raw)[0] > SCHEMA:
                raise IndexError_(
                    f"{path}: ledger schema {_U32.unpack(raw)[0]} is newer than this build's {SCHEMA}: "
                    "upgrade forebay, or give another --cache-dir"
                )

    def write(self, changes: Iterable[Change]) -> None:
        """Commit rows whose files were synced, and take out those that are gone. Synced when it returns."""
        with self.env.begin(write=True) as txn:
            for c in changes:
                if c.row is None:
                    self._drop(txn, c.oid)
                    continue
                txn.put(c.oid, c.row, db=self.objects)
                for key, value in c.extents:
                    txn.put(key, value, db=self.extents)

    def _drop(self, txn: Any, oid: bytes) -> None:
        if txn.delete(oid, db=self.objects):
            self._drop_extents(txn, oid)

    def _drop_extents(self, txn: Any, oid: bytes) -> None:
        with txn.cursor(db=self.extents) as cursor:
            found = cursor.set_range(oid)
            while found and cursor.key()[:16] == oid:
                found = cursor.delete()

    def batches(self) -> Iterator[list[Change]]:
        """Everything the ledger has, some thousand objects at a time."""
        after = b""
        while True:
            out: list[Change] = []
            with self.env.begin() as txn, txn.cursor(db=self.objects) as cursor:
                found = cursor.set_range(after) if after else cursor.first()
                while found and len(out) < BATCH:
                    oid, row = bytes(cursor.key()), bytes(cursor.value())
                    out.append(Change(oid, unpack_object(row).tier, row, self._extents_of(txn, oid)))
                    found = cursor.next()
                after = bytes(cursor.key()) if found else b""
            if out:
                yield out
            if not after:
                return

    def _extents_of(self, txn: Any, oid: bytes) -> list[tuple[bytes, bytes]]:
        out = []
        with txn.cursor(db=self.extents) as cursor:
            found = cursor.set_range(oid)
            while found and cursor.key()[:16] == oid:
                out.append((bytes(cursor.key()), bytes(cursor.value())))
                found = cursor.next()
        return out

    def close(self) -> None:
        self.env.close()


def sync_files(changes: list[Change], tiers: dict[int, str]) -> list[Change]:
    """Sync the files of changed objects in durable tiers; returns the changes that may be committed.

    A file that vanished meanwhile is left out: the eviction that took it comes with the next round.
    """
    keep: list[Change] = []
    by_tier: dict[int, list[Change]] = {}
    for c in changes:
        if c.row is None:
            keep.append(c)
        elif c.tier in tiers:
            by_tier.setdefault(c.tier, []).append(c)
    for tier, mine in by_tier.items():
        if len(mine) >= SYNCFS_FROM:
            syncfs(tiers[tier])
            keep += mine
            continue
        for c in mine:
            try:
                fd = os.open(object_path(tiers[tier], c.oid), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            keep.append(c)
    return keep


def syncfs(path: str) -> None:
    """Write out everything of the file system `path` lies on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)


_libc = ctypes.CDLL(None, use_errno=True)
