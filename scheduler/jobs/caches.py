"""The nodes' caches in the simulation: bytes of each dataset on each node; the least recently read goes first.

Which bytes of a dataset a node holds is not followed, only how many: pods read in random order, so a byte that a node reads is
there with probability held / size. A dataset's *spread* is how many of its bytes at least one node holds. What eviction takes
from it is estimated: a byte leaves with the node that loses it unless another holds it, others taken as independent.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.types import Floats, Ints


class Caches:
    """`held` and `used` (when last read, seconds) [N, D], `spread` [D]; bytes as floats, 0 <= held <= size, rows <= capacity."""

    def __init__(self, nodes: int, sizes: Ints, capacity: int) -> None:
        self.size: Floats = sizes.astype(np.float64)
        self.capacity = float(capacity)
        self.held: Floats = np.zeros((nodes, len(sizes)))
        self.used: Floats = np.full((nodes, len(sizes)), -np.inf)
        self.spread: Floats = np.zeros(len(sizes))
        self.copies: Floats = np.zeros(len(sizes))  # bytes on all nodes together, each as often as it is held
        self.evicted = 0.0

    def touch(self, node: Ints, dataset: Ints, now: float) -> None:
        """Datasets that are read on these nodes."""
        self.used[node, dataset] = now

    def add(self, node: Ints, dataset: Ints, fetched: Floats, from_store: Floats) -> None:
        """Bytes arrive, pair by pair; pairs may repeat. Until `trim` a row may exceed its capacity."""
        np.add.at(self.held, (node, dataset), fetched)
        np.add.at(self.spread, dataset, from_store)
        np.minimum(self.held, self.size, out=self.held)
        self._bound()

    def trim(self) -> list[tuple[int, int, float]]:
        """Evict what exceeds the capacity. Returns node, dataset, and which share of the dataset's bytes there went."""
        gone = list[tuple[int, int, float]]()
        while True:
            over = self.held.sum(axis=1) - self.capacity
            rows = np.flatnonzero(over > self.capacity * 1e-12)
            if not len(rows):
                break
            gone.extend(self._evict(rows, over[rows]))
        if gone:
            self._bound()
        return gone

    def _bound(self) -> None:
        """What the estimate cannot undercut or exceed: some node holds that much, and all together hold no more."""
        self.held.sum(axis=0, out=self.copies)
        np.minimum(self.spread, np.minimum(self.size, self.copies), out=self.spread)
        np.maximum(self.spread, self.held.max(axis=0), out=self.spread)

    def _evict(self, rows: Ints, over: Floats) -> list[tuple[int, int, float]]:
        """Of each row the dataset whose turn it is; of those that are being read right now, which share one time, the largest."""
        held = self.held[rows]
        used = np.where(held > 0, self.used[rows], np.inf)
        oldest = used == used.min(axis=1)[:, None]
        which = np.where(oldest, held, -1.0).argmax(axis=1)
        each = np.arange(len(rows))
        there = held[each, which]
        out = np.minimum(over, there)
        absent = 1 - self.held[:, which] / self.size[which]
        absent[rows, each] = 1.0
        np.subtract.at(self.spread, which, out * absent.prod(axis=0))
        self.held[rows, which] = there - out
        self.evicted += float(out.sum())
        return list(zip(rows.tolist(), which.tolist(), (out / there).tolist(), strict=True))
