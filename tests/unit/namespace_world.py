"""A store in memory with scripted faults, and a namespace over such stores: what the namespace tests share."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from forebay.api import wire
from forebay.api.spec import DatasetSpec, Freshness, Mount
from forebay.cache.disk.index import DIR, ROOT, Index, Row, unpack_row
from forebay.cache.stores.base import Entry, NotFound, Page, StoreError
from forebay.cache.tree.namespace import Namespace


class MemoryStore:
    """Objects in a dict. Lists as S3 does: in key order, a directory under its name with a slash."""

    strong = True

    def __init__(self, objects: dict[bytes, bytes] | None = None, *, page: int = 1000, versions: bool = True) -> None:
        self.objects = dict(objects or {})  # key -> version; a key's size is 100 + len(version)
        self.page = page
        self.versions = versions  # False: listings tell names only, as web servers do
        self.calls: list[tuple[str, bytes]] = []
        self.fault: Callable[[str, bytes, bytes | None], StoreError | None] = lambda op, key, token: None
        self.answer: Callable[[bytes, bytes | None], Page | None] = lambda prefix, token: None
        self.gate: threading.Event | None = None  # listings wait for it from their second page on
        self._lock = threading.Lock()

    def _enter(self, op: str, key: bytes, token: bytes | None = None) -> None:
        with self._lock:
            self.calls.append((op, key))
        error = self.fault(op, key, token)
        if error is not None:
            raise error

    def count(self, op: str) -> int:
        return sum(1 for o, _ in self.calls if o == op)

    def _entry(self, name: bytes, key: bytes, *, listed: bool = False) -> Entry:
        version = self.objects[key]
        if listed and not self.versions:
            return Entry(name, False)
        return Entry(name, False, 100 + len(version), 7_000_000_000, version)

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        self._enter("list", prefix, token)
        if token is not None and self.gate is not None:
            assert self.gate.wait(60)
        scripted = self.answer(prefix, token)
        if scripted is not None:
            return scripted
        found: dict[bytes, Entry] = {}
        for key in self.objects:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition(b"/")
                found[head + slash] = Entry(head, True) if slash else self._entry(head, key, listed=True)
        if not found and prefix and token is None:
            raise NotFound(f"no {prefix!r}")
        left = [k for k in sorted(found) if token is None or k > token]
        size = min(limit, self.page)
        return Page([found[k] for k in left[:size]], left[size - 1] if len(left) > size else None)

    def stat(self, key: bytes) -> Entry:
        self._enter("stat", key)
        if key not in self.objects:
            raise NotFound(f"no {key!r}")
        return self._entry(key.rpartition(b"/")[2], key)

    def is_dir(self, key: bytes) -> bool:
        self._enter("is_dir", key)
        return any(k.startswith(key + b"/") for k in self.objects)

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Any:
        raise AssertionError("the namespace reads no bytes")

    def whole(self, key: bytes) -> Any:
        raise AssertionError("the namespace reads no bytes")

    def probe(self) -> None: ...

    def close(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A namespace with one mount per store. Paths default to "/" for every store: a union."""

    def __init__(
        self,
        directory: Path,
        *stores: MemoryStore,
        paths: Sequence[str] = (),
        freshness: Freshness | Sequence[Freshness] = Freshness("ttl", 60.0),  # noqa: B008
        clock: Clock | None = None,
    ) -> None:
        self.stores = stores
        self.clock = clock or Clock()
        self.events: list[wire.Changed] = []
        modes = [freshness] * len(stores) if isinstance(freshness, Freshness) else list(freshness)
        self.spec = DatasetSpec(
            "ns",
            "data",
            [
                Mount(f"s3://bucket{i}", "s3", path, f"m{i}", freshness=mode)
                for i, (path, mode) in enumerate(zip(paths or ["/"] * len(stores), modes, strict=True))
            ],
            [],
            str(directory),
        )
        self.index = Index(directory / "live")
        self.ns = Namespace(self.spec, self.index, stores, clock=self.clock, on_changed=self.events.append)

    async def drain(self, ino: int) -> list[Row]:
        """A directory as a reader sees it: rows in arrival order, asking for more until it is complete."""
        rows: list[Row] = []
        after = 0
        while True:
            complete = await self.ns.list_dir(ino, after)
            with self.index.env.begin() as txn:
                more = [unpack_row(raw) for raw in self.index.scan(txn, ino, after)]
            rows += more
            if more:
                after = more[-1].ino
            elif complete:
                return rows
            else:
                raise AssertionError("neither complete nor a row above `after`")

    async def tree(self, ino: int = ROOT, path: bytes = b"") -> dict[bytes, Row]:
        """Every path and its row."""
        found: dict[bytes, Row] = {}
        for row in await self.drain(ino):
            found[path + b"/" + row.name] = row
            if row.kind == DIR:
                found |= await self.tree(row.ino, path + b"/" + row.name)
        return found

    def names(self, ino: int = ROOT) -> list[bytes]:
        with self.index.env.begin() as txn:
            return [unpack_row(raw).name for raw in self.index.scan(txn, ino, 0)]

    def row(self, ino: int) -> Row:
        with self.index.env.begin() as txn:
            row = self.index.row(txn, ino)
        assert row is not None
        return row

    def sound(self) -> None:
        with self.index.env.begin() as txn:
            assert self.index.verify(txn) == []


def run(world: World, body: Callable[[World], Awaitable[None]], *, limit: float = 120.0) -> None:
    """Run a test body with the namespace running; the index must be sound afterwards."""

    async def main() -> None:
        failure: Exception | None = None
        with trio.fail_after(limit):
            async with trio.open_nursery() as nursery:
                await nursery.start(world.ns.run)
                try:
                    await body(world)
                except Exception as e:  # noqa: BLE001 - raised below, bare instead of in a group
                    failure = e
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    try:
        trio.run(main)
        world.sound()
    finally:
        world.index.close()
