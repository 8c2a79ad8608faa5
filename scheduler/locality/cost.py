"""What it costs, in seconds, to run a gang where its data is not. Pure formulas over arrays.

A node that runs `k` of a gang's `n` pods reads k / n of the dataset each time the gang reads it. Which part that is changes from
epoch to epoch, so in the end the node comes to hold all of it. With READS readings counted, it lacks

    lack = min(1, READS x k / n) x (size - held + READS x crowd)     bytes, unless a load that runs there is quicker

(`crowd`: bytes of what others read there now that its own would push out of the cache, so that they are fetched again)

and the gang costs

    seconds = sum over its nodes of lack / nic  +  (what no node holds, of what they lack) / (store / (1 + users))

The NICs' part is a sum, not the slowest node: what one node takes from its peers' links is missing elsewhere. The store's part is
counted once for the gang, since a byte that one node fetched is served to the others, and shared with who uses the store now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forebay.scheduler.arrays.types import Bools, Floats, Ints

READS = 2
"""Readings of the dataset that are counted: training reads its data more than once, nobody says how often."""
NIC = 1.25e9
"""Bytes per second of a node where nobody measured any: 10 Gb/s."""
STORE = 0.625e9
"""The same for the store: 5 Gb/s."""


@dataclass(frozen=True, slots=True)
class Links:
    """Bytes per second of one node and of the store; who uses the store now. Unknown rates (0 or less) count as slow ones."""

    nic: float = 0.0
    store: float = 0.0
    users: int = 0

    @property
    def per_node(self) -> float:
        return self.nic if self.nic > 0 else NIC

    @property
    def store_share(self) -> float:
        """What one more user gets of the store."""
        return (self.store if self.store > 0 else STORE) / (1 + max(self.users, 0))


def together(held: Ints, size: int) -> float:
    """Bytes that at least one node holds, of [N] bytes held; the nodes' bytes taken as independent draws of the dataset."""
    if size <= 0:
        return 0.0
    some = held[held.nonzero()[0]]  # the others' factors are 1
    return float(size * (1.0 - np.prod(1.0 - np.minimum(some / size, 1.0))))


@dataclass(frozen=True, slots=True)
class Data:
    """What is believed of one dataset now, on N nodes.

    `size` bytes; `held` bytes [N]; `eta` seconds until a load there is done [N], inf where none runs; `joint` bytes that any node
    holds; `crowd` bytes [N] that it would push out of what is read on the node.
    """

    size: int
    held: Ints
    eta: Floats
    joint: float
    crowd: Floats

    @classmethod
    def unknown(cls, nodes: int) -> Data:
        """A gang without a dataset, or one of which nobody knows anything: it is nowhere, and costs nothing anywhere."""
        return cls(0, np.zeros(nodes, np.int64), np.full(nodes, np.inf), 0.0, np.zeros(nodes))

    def on(self, rows: Ints) -> Data:
        """The same of some nodes."""
        return Data(self.size, self.held[rows], self.eta[rows], self.joint, self.crowd[rows])

    @property
    def known(self) -> Ints:
        """Rows of nodes that hold or load some of it, or would push out others: all others cost the same."""
        return ((self.held > 0) | (self.eta < np.inf) | (self.crowd > 0)).nonzero()[0]

    @property
    def nowhere(self) -> bool:
        """Whether no node holds any of it, or loads it."""
        return not self.held.any() and not np.isfinite(self.eta).any()

    def loaded(self, rows: Bools) -> Data:
        """The same once the loads on these rows [N] have ended."""
        held = np.where(rows, self.size, self.held)
        return replace(self, held=held, eta=np.where(rows, np.inf, self.eta), joint=float(self.size))

    def lack(self, part: Floats | float) -> Floats:
        """Bytes [N] that nodes with `part` of the gang's pods (0..1, one for all or [N]) will have to fetch."""
        result: Floats = np.minimum(1.0, READS * np.asarray(part)) * (np.maximum(self.size - self.held, 0) + READS * self.crowd)
        return result

    def absent(self, part: Floats | float) -> Floats:
        """Bytes [N] of these that no node holds. What is pushed out elsewhere has come from some node."""
        result: Floats = np.minimum(1.0, READS * np.asarray(part)) * np.maximum(
            self.size - np.maximum(self.held, self.joint), 0.0
        )
        return result


def node_seconds(part: Floats | float, data: Data, links: Links) -> Floats:
    """Seconds [N] for each node alone, if it ran `part` of the gang. 0 for a dataset of unknown size."""
    if data.size <= 0:
        return np.zeros(len(data.held))
    result: Floats = np.minimum(data.lack(part) / links.per_node + data.absent(part) / links.store_share, data.eta)
    return result


def soon(data: Data, links: Links) -> Bools:
    """bool[N]: where a load ends before the node would have fetched by reading what it lacks."""
    result: Bools = np.isfinite(data.eta)
    if result.any():
        result &= data.eta <= data.lack(1.0) / links.per_node + data.absent(1.0) / links.store_share
    return result


def gang_seconds(counts: Ints, pods: int, data: Data, links: Links) -> float:
    """Seconds for a gang of `pods` with `counts` of them on each of these nodes. Arrays over the gang's nodes only."""
    if data.size <= 0 or not len(counts):
        return 0.0
    part, late = counts / pods, np.isinf(data.eta)
    store = min(float(data.absent(part)[late].sum()), max(data.size - data.joint, 0.0))
    return float(np.minimum(data.lack(part) / links.per_node, data.eta).sum()) + store / links.store_share
