"""Parts of objects fetched because another node said so. In the trio thread."""

from __future__ import annotations

import os
from collections.abc import Mapping

import trio

from forebay.cache.disk.index import COMPLETE, IndexError_, object_id
from forebay.cache.door import Fault
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.machine import SMALL
from forebay.cache.fetch.messages import Goal
from forebay.cache.peers import controlwire as c
from forebay.cache.peers.wire import Refused
from forebay.cache.stores.base import StoreError
from forebay.cache.warm import FILE_DEADLINE, LARGE_AT_ONCE, REPORT, SMALL_AT_ONCE


class Taker:
    """Fetches parts, as many at a time as a warm-up does, however many orders there are. `mounts`: identity -> number."""

    def __init__(self, engine: Engine, mounts: Mapping[str, int]) -> None:
        self._engine = engine
        self._mounts = mounts
        self._small = trio.Semaphore(SMALL_AT_ONCE)
        self._large = trio.Semaphore(LARGE_AT_ONCE)
        self.fetched = 0  # bytes

    def begin(self, parts: list[c.Part]) -> Taking:
        """Fetch parts; cancel the `scope` of what this returns, or it goes on to its end."""
        taking = Taking(self, parts)
        self._engine.spawn(taking.run)
        return taking

    async def take(self, part: c.Part) -> None:
        """Fetch one part. Raises `Fault`, `Refused`."""
        engine, ref = self._engine, part.ref
        mount = self._mounts.get(ref.mount_source)
        if mount is None:
            raise Refused("Absent", f"{ref.mount_source[:200]} is no mount here: give all nodes the same manifest")
        oid = object_id(ref.mount_source, ref.key, ref.version)
        o = engine.records.object(oid)
        there = o is not None and o.state == COMPLETE and o.boot == engine.records.boot and o.size == ref.size
        if there and oid not in engine.machine:
            engine.records.touch((oid,))
            engine.mark()
            return
        thing = engine.foreign(oid, mount, ref.size, ref.key, ref.version)
        async with self._small if ref.size <= SMALL else self._large:
            got = await engine.want(thing, part.lo, part.hi, Goal.WARM, FILE_DEADLINE)
        if got.fd is not None:
            os.close(got.fd)
            raise Refused("Busy", "the tiers of this node are full and admit nothing: give it more space")
        self.fetched += part.hi - part.lo


class Taking:
    """Parts that are being fetched for `take`; in the trio thread."""

    def __init__(self, taker: Taker, parts: list[c.Part]) -> None:
        self.scope = trio.CancelScope()
        self.finished = False
        self._taker = taker
        self._parts = parts
        self._done: list[int] = []
        self._failed: dict[int, str] = {}
        self._end = trio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    for n, part in enumerate(self._parts):
                        nursery.start_soon(self._one, n, part)
        finally:
            self._end.set()

    async def _one(self, n: int, part: c.Part) -> None:
        try:
            await self._taker.take(part)
        except (Fault, Refused, StoreError, IndexError_, OSError) as e:
            self._failed[n] = str(e)
        else:
            self._done.append(n)

    async def taken(self) -> c.Taken:
        """What became of parts since the last time; every half second, and at the end."""
        with trio.move_on_after(REPORT):
            await self._end.wait()
        self.finished = self._end.is_set()
        taken = c.Taken(self._done, self._failed)
        self._done, self._failed = [], {}
        return taken
