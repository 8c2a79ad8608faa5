"""The best rates of real traffic, from counters that are looked at again and again. Pure.

A link's or a store's rate shows only while it is asked for all it can give, so it is the best of any look that counts; it
fades by 1 % with each look at which there was traffic, so that what is no longer reached is forgotten in minutes of use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from forebay.api.hints.nodecache import Bandwidth
from forebay.api.hints.said import Said

FADE = 0.99
SHORTEST = 1.0
"""Seconds between looks below which a rate says more of the clock than of the traffic."""
DIGITS = 2


class Counters(NamedTuple):
    """Bytes since the start of one process."""

    store: int
    peers: int
    read: int


def counters(said: Said) -> Counters:
    return Counters(said.from_store, said.from_peers, said.local + said.missed)


class Rates:
    """Counters are by process; one that starts anew, or comes, counts from its next look."""

    def __init__(self) -> None:
        self._last: dict[str, Counters] = {}
        self._at = 0.0
        self._best = (0.0, 0.0, 0.0)

    def look(self, now: float, said: Mapping[str, Counters]) -> None:
        past = now - self._at
        if self._last and past < SHORTEST:
            return
        if self._last:
            came = [0, 0, 0]
            for key, new in said.items():
                old = self._last.get(key)
                if old is not None and all(a <= b for a, b in zip(old, new, strict=True)):
                    came = [n + b - a for n, a, b in zip(came, old, new, strict=True)]
            self._best = (
                _next(self._best[0], came[0], past),
                _next(self._best[1], came[1], past),
                _next(self._best[2], came[2], past),
            )
        self._last, self._at = dict(said), now

    def bandwidth(self) -> Bandwidth | None:
        """None before the first byte."""
        if not any(self._best):
            return None
        store, peers, read = map(_rounded, self._best)
        return Bandwidth(store_bytes_per_second=store, peer_bytes_per_second=peers, read_bytes_per_second=read)


def _next(best: float, came: int, past: float) -> float:
    return best if not came else max(best * FADE, came / past)


def _rounded(rate: float) -> int:
    """To two digits: more would say that it is known."""
    return int(float(f"{rate:.{DIGITS - 1}e}"))
