"""When a node writes what it has to say: never without news, news that matter at most every 10 s, the rest once a minute. Pure.

The budget is the cluster's: with more than 200 nodes each of them waits so much longer that all together write 20 times a second
at most, however much moves. Pauses are drawn anew each time, so that nodes which begin together part.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random

import msgspec

from forebay.api.hints import steps
from forebay.api.hints.nodecache import HeldDataset, NodeCacheStatus
from forebay.fuse.csi.hints.holding import total

EVERY = 10.0
"""Seconds between two writes, at least."""
BUDGET = 20.0
"""Writes a second by all nodes together, at most."""
SLOWER = 6
"""How much longer small news wait: counters of reads change all the time, and nobody acts on them at once."""
SPREAD = 1.3
DRIFT = 0.05
"""Free space of a disk comes and goes with everything else on it: below a twentieth of the capacity it is no news."""


class News(IntEnum):
    NONE, SMALL, LARGE = 0, 1, 2


def news(old: NodeCacheStatus | None, new: NodeCacheStatus) -> News:
    """What `new` says that `old`, written last, does not. None: nothing was ever written."""
    if old is None:
        return News.LARGE if new.datasets else News.NONE
    before = {(h.namespace, h.name): h for h in old.datasets}
    after = {(h.namespace, h.name): h for h in new.datasets}
    if not after:
        return News.LARGE if before else News.NONE  # the node has nothing any more: its object goes
    if before.keys() != after.keys() or old.version != new.version:
        return News.LARGE
    found = max((_of(before[key], after[key]) for key in after), default=News.NONE)
    return found or (News.SMALL if _drifted(old, new) else News.NONE)


def _of(old: HeldDataset, new: HeldDataset) -> News:
    if _states(old) != _states(new):
        return News.LARGE
    if _plain(old) == _plain(new):
        return News.NONE
    size = max(_size(new), _size(old), total(old), total(new))
    moved = abs(total(new) - total(old))
    grown = abs(_size(new) - _size(old))
    return News.LARGE if steps.large(max(moved, grown), size) else News.SMALL


def _plain(held: HeldDataset) -> HeldDataset:
    """Without what changes by itself: capacity with the disk, the words of a store with each try, those of a full disk with its
    use (`_states` has whether there are any), the estimate of a load with each look."""
    worker = held.worker
    if isinstance(worker, msgspec.Struct):
        worker = msgspec.structs.replace(worker, capacity_bytes=0, trouble="", full="")
    warming = held.warming
    if isinstance(warming, msgspec.Struct):
        warming = msgspec.structs.replace(warming, bytes_per_second=0, eta_seconds=0)
    return msgspec.structs.replace(held, worker=worker, warming=warming)


def _states(held: HeldDataset) -> tuple[object, ...]:
    """What others act on at once."""
    said: tuple[object, ...] = ()
    if isinstance(held.worker, msgspec.Struct):
        worker = held.worker
        said = worker.listed, worker.revision, worker.places, worker.drain, bool(worker.trouble), bool(worker.full)
    return (
        held.role, held.mounted, held.silent, held.version, isinstance(held.warming, msgspec.Struct),
        isinstance(held.reader, msgspec.Struct), said,
    )  # fmt: skip


def _size(held: HeldDataset) -> int:
    return held.worker.total_bytes if isinstance(held.worker, msgspec.Struct) else 0


def _drifted(old: NodeCacheStatus, new: NodeCacheStatus) -> bool:
    if [t.medium for t in old.tiers] != [t.medium for t in new.tiers]:
        return True
    return abs(new.capacity_bytes - old.capacity_bytes) > DRIFT * max(old.capacity_bytes, new.capacity_bytes)


def pause(nodes: int) -> float:
    """Seconds between two writes of one of so many nodes."""
    return max(EVERY, nodes / BUDGET)


class Pacer:
    """`due` says whether to write now; `wrote` and `failed` tell it what came of that. Times are of one steady clock."""

    FIRST_RETRY, LAST_RETRY = 5.0, 300.0

    def __init__(self, random: Random, now: float) -> None:
        self._random = random
        self.nodes = 1
        self._failures = 0
        self._from = now  # since when it counts
        self._draw = random.uniform(0.0, 1.0)  # nodes whose plugins start together

    def due(self, found: News, now: float) -> bool:
        if found is News.NONE:
            return False
        if self._failures:
            wait = min(self.FIRST_RETRY * 2.0 ** (self._failures - 1), self.LAST_RETRY)
        else:
            wait = pause(self.nodes) * (SLOWER if found is News.SMALL else 1)
        return now - self._from >= wait * self._draw

    def wrote(self, now: float) -> None:
        self._failures, self._from, self._draw = 0, now, self._random.uniform(1.0, SPREAD)

    def failed(self, now: float) -> None:
        self._failures += 1
        self._from, self._draw = now, self._random.uniform(1.0, SPREAD)
