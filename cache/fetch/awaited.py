"""What readers of an engine wait for and hold."""

from __future__ import annotations

from collections import Counter

import trio

from forebay.cache.door import Fault
from forebay.cache.fetch.machine import Machine


class Released:
    """A reader's bytes: `fd` is a descriptor that has them when they are not in the cache file of `tier`.

    Every byte up to `upto` is there too.
    """

    __slots__ = ("fd", "tier", "upto")

    def __init__(self, tier: int, fd: int | None, upto: int) -> None:
        self.tier = tier
        self.fd = fd
        self.upto = upto


class Future:
    __slots__ = ("error", "event", "result")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.result: Released | None = None
        self.error: Fault | None = None


class Held:
    """What must not be evicted: objects in motion and objects somebody has open."""

    def __init__(self, machine: Machine, opened: Counter[bytes]) -> None:
        self._machine = machine
        self._opened = opened

    def __contains__(self, oid: object) -> bool:
        return oid in self._machine or oid in self._opened
