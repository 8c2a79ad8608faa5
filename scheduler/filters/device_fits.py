"""On which nodes devices for a set of wants are free: kept for all pods that want the same, node by node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.api.kubernetes.core import NodeSelector
from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.claims.asks import Wanted
from forebay.scheduler.claims.book import EVERYWHERE, ClaimBook
from forebay.scheduler.claims.pools import Device
from forebay.scheduler.claims.search import Given, Offer, search
from forebay.scheduler.filters.base import NodeMask
from forebay.scheduler.lack import Lack

MaskOf = Callable[[NodeSelector], NodeMask]

NOTHING = Lack("no devices that drivers publish", "add nodes with such devices", "devices")


class DeviceFits:
    """For `wanted`, all of one pod. `ok` and `lack` by row; brought up to date for nodes and devices that changed."""

    def __init__(self, nodes: NodeRows, book: ClaimBook, mask_of: MaskOf, wanted: tuple[Wanted, ...]) -> None:
        self._nodes, self._book, self._mask_of, self._wanted = nodes, book, mask_of, wanted
        self._ok: Bools = np.zeros(0, np.bool_)
        self._lack: list[Lack | None] = []
        self._row_of: dict[str, int] = {}
        self._name_of: list[str] = []
        self._tick = self._version = -1

    @property
    def ok(self) -> Bools:
        """bool[N], as of now."""
        self._read()
        return self._ok

    def lack(self, row: int) -> Lack | None:
        self._read()
        return self._lack[row]

    def give(self, row: int) -> tuple[Given, ...] | Lack:
        """Devices of the row's node for each of the wants."""
        self._read()
        return self._search(row)

    def _read(self) -> None:
        nodes, book = self._nodes, self._book
        if self._tick == nodes.tick and self._version == book.version:
            return
        more = len(nodes) - len(self._ok)
        if more:
            self._ok = np.append(self._ok, np.zeros(more, np.bool_))
            self._lack += [None] * more
            self._name_of += [""] * more
        rows = set(np.flatnonzero(nodes.stamp > self._tick).tolist())
        for row in rows:
            if self._row_of.get(self._name_of[row]) == row:
                del self._row_of[self._name_of[row]]
            name = self._name_of[row] = nodes.labels.get(row).get(NAME, "")
            if name:
                self._row_of[name] = row
        changed = book.changed_since(self._version)
        if changed is None:
            rows = set(range(len(nodes)))
        else:
            rows |= {self._row_of[name] for name in changed if name in self._row_of}
        self._tick, self._version = nodes.tick, book.version
        for row in rows:
            found = self._search(row) if self._name_of[row] else NOTHING
            self._lack[row] = found if isinstance(found, Lack) else None
            self._ok[row] = self._lack[row] is None

    def _search(self, row: int) -> tuple[Given, ...] | Lack:
        book, name = self._book, self._name_of[row]
        pools = {pool.id: pool for pool in (*book.pools.on(name), *book.pools.on(EVERYWHERE))}
        if not pools and any(wanted.asked for wanted in self._wanted):
            return NOTHING

        def reaches(device: Device) -> bool:
            if device.node:
                return device.node == name
            return device.selector is None or bool(self._mask_of(device.selector).mask[row])

        offer = Offer([pools[key] for key in sorted(pools)], reaches, book.taken, book.left, book.counted(name))
        return search(self._wanted, offer)


def lacks_by_row(fits: DeviceFits, rows: Ints) -> list[tuple[Lack, Bools]]:
    """Reasons of these rows, each with those that have it."""
    found: dict[Lack, Bools] = {}
    for at, row in enumerate(rows.tolist()):
        lack = fits.lack(row)
        if lack is not None:
            found.setdefault(lack, np.zeros(len(rows), np.bool_))[at] = True
    return list(found.items())
