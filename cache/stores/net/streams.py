"""Answers of servers without ranges, kept open behind the last byte delivered.

Such a server answers every range with the whole object. Read range by range that would cost size^2 / range; with the last
few answers parked, the next range goes on where one of them stands, and a sequential read costs the size once per reader.
"""

from __future__ import annotations

import threading
import time

import msgspec

from forebay.cache.stores.net.response import Response

MAX_PARKED = 8


class _Parked(msgspec.Struct, frozen=True):
    key: bytes
    version: bytes
    position: int
    since: float
    response: Response


class Streams:
    """Thread-safe. A response is here or with one reader. One not asked for within `max_age` seconds goes at the next call."""

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._lock = threading.Lock()
        self._parked: list[_Parked] = []
        self._closed = False

    def take(self, key: bytes, version: bytes, offset: int) -> tuple[Response, int] | None:
        """The answer of this version that stands closest before `offset`, and where it stands."""
        if not self._parked:
            return None
        oldest = time.monotonic() - self._max_age
        with self._lock:
            stale = [p for p in self._parked if p.since < oldest]
            live = [p for p in self._parked if p.since >= oldest]
            fitting = [p for p in live if p.key == key and p.version == version and p.position <= offset]
            best = max(fitting, key=lambda p: p.position, default=None)
            self._parked = [p for p in live if p is not best]
        for old in stale:
            old.response.close()
        return None if best is None else (best.response, best.position)

    def parker(self, key: bytes, version: bytes, position: int) -> Parker:
        return Parker(self, key, version, position)

    def put(self, key: bytes, version: bytes, position: int, response: Response) -> None:
        spare: list[_Parked] = []
        with self._lock:
            self._parked.append(_Parked(key, version, position, time.monotonic(), response))
            keep = 0 if self._closed else MAX_PARKED
            while len(self._parked) > keep:
                spare.append(self._parked.pop(0))
        for old in spare:
            old.response.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            spare, self._parked = self._parked, []
        for old in spare:
            old.response.close()


class Parker:
    """Takes an answer over at `position`."""

    def __init__(self, streams: Streams, key: bytes, version: bytes, position: int) -> None:
        self._streams = streams
        self._at = (key, version, position)

    def __call__(self, response: Response) -> None:
        self._streams.put(*self._at, response)
