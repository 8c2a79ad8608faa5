"""Flags of rows, written anew when the members changed: what belongs to another node is a copy from then on (`copies.py`)."""

from __future__ import annotations

import trio

from forebay.cache.disk.index import IndexError_
from forebay.cache.disk.records import Records
from forebay.cache.log import log

SETTLE = 2.0
"""Seconds a member list stands before rows are looked at: several members seldom change in one instant."""
PAUSE = 0.02
"""Seconds between steps: readers have the thread for ten times as long as a step takes, and a million rows pass in a minute."""
AGAIN = 5.0
"""Seconds until a step is tried again that the index could not take."""


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
