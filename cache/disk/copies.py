"""Copies: what a node keeps of bytes that belong to another. They go first when room is made, and are counted apart.

A row says by its flag whether it is a copy. The flag is set when the row is written first, and again by `Reflag` when the
members changed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from forebay.cache.disk.index import COPY, IndexError_, Object
from forebay.cache.disk.policy import allocation
from forebay.cache.log import log

if TYPE_CHECKING:
    from forebay.cache.disk.records import Records

SETTLE = 2.0
"""Seconds a member list stands before rows are looked at: several members seldom change in one instant."""
PAUSE = 0.02
"""Seconds between steps: readers have the thread for ten times as long as a step takes, and a million rows pass in a minute."""
AGAIN = 5.0
"""Seconds until a step is tried again that the index could not take."""


class Copies:
    """Objects that are copies, and the bytes they allocate, of each tier; and what all objects hold, copies or not.

    `held` and `content` are bytes of objects: what is allocated is rounded up for each, which matters where files are small.
    """

    def __init__(self) -> None:
        self.objects: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()
        self.content: Counter[int] = Counter()  # of copies
        self.held: Counter[int] = Counter()  # of all objects

    def changed(self, old: Object | None, new: Object | None) -> None:
        """A row became another; None where there is none."""
        for o, sign in ((old, -1), (new, 1)):
            if o is None:
                continue
            self.held[o.tier] += sign * o.present
            if o.flags & COPY:
                self.objects[o.tier] += sign
                self.bytes[o.tier] += sign * allocation(o.present)
                self.content[o.tier] += sign * o.present

    def total(self) -> dict[str, int]:
        """`objects` and `bytes` of all tiers."""
        return {"objects": self.objects.total(), "bytes": self.bytes.total()}


class Reflag:
    """Sets the flags of all rows anew, after a start and whenever it is told that the members changed."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.passes = 0
        self._asked = True
        self._event = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def wake(self) -> None:
        """Owners changed. From any thread."""
        self._asked = True
        token = self._token
        if token is not None:
            try:
                token.run_sync_soon(self._ring)
            except trio.RunFinishedError:
                pass  # the next worker begins with a pass

    def _ring(self) -> None:
        self._event.set()

    async def run(self) -> None:
        """Until cancelled. One that changes on and on is followed from pass to pass, never from the start of one."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            while not self._asked:
                self._event = trio.Event()
                await self._event.wait()
            await trio.sleep(SETTLE)
            self._asked = False
            await self._pass()
            self.passes += 1

    async def _pass(self) -> None:
        after = b""
        while True:
            try:
                after = self.records.reflag(after)
            except IndexError_ as e:
                log("cache", "reflag_waits", error=str(e))
                await trio.sleep(AGAIN)
                continue
            if not after:
                return
            await trio.sleep(PAUSE)
