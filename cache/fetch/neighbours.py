"""Which files come after those that a reader opened, and what of them has to be fetched: the answer to a `ScanAhead`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Container
from itertools import islice
from typing import Any, NamedTuple, Protocol

from forebay.cache.disk.index import DIR, FILE, ROOT, UNRESOLVED, Index, Row, unpack_row
from forebay.cache.disk.records import Records
from forebay.cache.door import Fault
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.ahead import FILES_FIRST, SCAN_BYTES
from forebay.cache.fetch.machine import SMALL
from forebay.cache.fetch.messages import Thing
from forebay.cache.log import log
from forebay.cache.stores.base import StoreError
from forebay.cache.tree.namespace import Namespace

SIBLINGS = 64
"""Names looked at to find the directory that comes next."""


class Things(Protocol):
    """Who knows what an inode shows: the engine."""

    def thing(self, ino: int) -> Thing | None: ...

    def remember(self, row: Row, parent: int) -> Thing: ...


class _Found(NamedTuple):
    """Files of a directory: all, those that have to be fetched, those whose size is not known; bytes to fetch."""

    inos: list[int]
    things: list[Thing]
    unresolved: list[int]
    bytes: int


class Neighbours:
    """`moving` holds the objects being fetched, `leaving` those whose files are being unlinked: neither is fetched ahead."""

    def __init__(
        self,
        things: Things,
        *,
        index: Index,
        records: Records,
        namespace: Namespace,
        moving: Container[bytes],
        leaving: Container[bytes],
    ) -> None:
        self._things = things
        self._index = index
        self._records = records
        self._namespace = namespace
        self._moving = moving
        self._leaving = leaving

    async def find(self, scan: m.ScanAhead) -> AsyncGenerator[m.Ahead, None]:
        """The answer, and where the directory ends before the window does a second one for the directory that follows it."""
        with self._index.env.begin() as txn:
            here = self._files(txn, scan.parent, scan.after, scan.count, SCAN_BYTES)
            left = 0 if scan.spare else scan.count - len(here.inos)
            beyond = self._next_directory(txn, scan.parent) if left >= FILES_FIRST else 0
            there = self._files(txn, beyond, 0, left, SCAN_BYTES - here.bytes) if beyond else None
        yield m.Ahead(scan.parent, here.inos, await self._fetchable(scan.parent, here), time.monotonic(), scan.spare)
        if there is not None and there.inos:
            yield m.Ahead(beyond, there.inos, await self._fetchable(beyond, there), time.monotonic(), onward=True)

    def _files(self, txn: Any, parent: int, after: int, count: int, room: int) -> _Found:
        """Files of a directory above an inode: at most `count`, and no more once `room` bytes have to be fetched."""
        inos: list[int] = []
        things: list[Thing] = []
        unresolved: list[int] = []
        size = 0
        for raw in self._index.scan(txn, parent, after):
            row = unpack_row(raw)
            if row.kind != FILE:
                continue
            if len(inos) >= count or size >= room:
                break
            inos.append(row.ino)
            if row.flags & UNRESOLVED:
                unresolved.append(row.ino)
            elif self._absent(txn, row.oid, row.size):
                things.append(self._things.remember(row, parent))
                size += row.size
        return _Found(inos, things, unresolved, size)

    def _absent(self, txn: Any, oid: bytes, size: int) -> bool:
        return size <= SMALL and oid not in self._moving and not self._records.complete_now(txn, oid)

    def _next_directory(self, txn: Any, ino: int) -> int:
        """The directory that arrived after `ino` in its parent; 0 when there is none near."""
        if ino == ROOT:
            return 0
        for raw in islice(self._index.scan(txn, self._index.parent(txn, ino), ino), SIBLINGS):
            row = unpack_row(raw)
            if row.kind == DIR:
                return row.ino
        return 0

    async def _fetchable(self, parent: int, found: _Found) -> list[Thing]:
        """What has to be fetched of the files found."""
        things = found.things
        if found.unresolved:
            things = things + await self._resolved(parent, found.unresolved)
        return [t for t in things if t.oid not in self._leaving]

    async def _resolved(self, parent: int, inos: list[int]) -> list[Thing]:
        """Things of rows whose listing told names only, after the store was asked for the rest."""
        try:
            await self._namespace.resolve(parent, inos)
        except StoreError as e:
            log("cache", "resolve_ahead_failed", parent=parent, error=str(e))
            return []
        found = []
        for ino in inos:
            try:
                found.append(self._things.thing(ino))
            except Fault:
                continue  # it was removed, or became a directory, while the store was asked
        with self._index.env.begin() as txn:  # some became complete, or are being fetched, meanwhile
            return [t for t in found if t is not None and self._absent(txn, t.oid, t.size)]
