"""Pins and evictions of everything at and below a path. In the trio thread, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import trio

from forebay.cache.disk import files
from forebay.cache.disk.index import PINNED, UNRESOLVED, IndexError_, Object
from forebay.cache.disk.policy import allocation
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.messages import Counted
from forebay.cache.peers.controlwire import Changed
from forebay.cache.stores.base import Unavailable
from forebay.cache.tree.globs import matching
from forebay.cache.tree.namespace import Namespace

EVICT_SLICE = 256

Change = Callable[[dict[bytes, int]], Awaitable[tuple[int, int]]]
"""From sizes by object to how many had bytes here, and how many bytes."""


class Marks:
    """See the module."""

    def __init__(self, namespace: Namespace, engine: Engine) -> None:
        self._namespace = namespace
        self._engine = engine

    async def each(self, path: bytes, change: Change) -> Changed:
        total = changed = nbytes = 0
        for top in await matching(self._namespace, path):
            walk = self._namespace.walk(top.ino, metadata_only=True)
            async with aclosing(walk) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    total += len(batch)
                    sizes = {row.oid: row.size for row in batch if not row.flags & UNRESOLVED}
                    try:
                        some, much = await change(sizes)
                    except IndexError_ as e:
                        raise Unavailable(str(e)) from e
                    changed += some
                    nbytes += much
                    await trio.lowlevel.checkpoint()
        return Changed(total, changed, nbytes)

    async def pin(self, sizes: dict[bytes, int]) -> tuple[int, int]:
        found = self._engine.records.pin(sizes)
        return len(found), sum(sizes[oid] for oid in found)

    async def unpin(self, sizes: dict[bytes, int]) -> tuple[int, int]:
        found = self._engine.records.unpin(sizes)
        return len(found), sum(sizes[oid] for oid in found)

    async def evict(self, sizes: dict[bytes, int]) -> tuple[int, int]:
        """Out of the index, commit, tell the mounts, unlink. What is pinned, open or in motion stays."""
        engine, records = self._engine, self._engine.records
        objects = nbytes = 0
        oids = list(sizes)
        for at in range(0, len(oids), EVICT_SLICE):
            going = []
            for oid in oids[at : at + EVICT_SLICE]:
                if oid in engine.machine or oid in engine.opened:
                    continue
                with records.index.env.begin() as txn:
                    o = records.index.object(txn, oid)
                if o is None or not o.flags & PINNED:
                    going.append(oid)
            rows = records.drop(going)
            if not rows:
                continue
            engine.on_evicted([o.ino for _, o in rows])
            freed = await trio.to_thread.run_sync(self._unlink, rows)
            for tier, count in freed:
                engine.tell(Counted(tier, -count))
                nbytes += count
            objects += len(rows)
        return objects, nbytes

    def _unlink(self, rows: list[tuple[bytes, Object]]) -> list[tuple[int, int]]:
        """Tier and bytes that came free, in a thread."""
        tiers = self._engine.tiers
        return [(o.tier, files.unlink(tiers[o.tier].path, oid) or allocation(o.present)) for oid, o in rows]
