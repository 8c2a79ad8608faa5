"""Host ports: two pods of a node must not listen on the same port of the same protocol and address.

The address 0.0.0.0, which is also what no address means, meets every other one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.filters.base import Check
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import HostPort

EVERY = "0.0.0.0"


class UsedPorts:
    """Addresses in use: `(protocol, port)` -> row -> how many pods listen on each address."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, int], dict[int, Counter[str]]] = {}

    def change(self, row: int, ports: tuple[HostPort, ...], sign: int) -> None:
        """A pod with these ports came to the row (1) or left it (-1)."""
        for protocol, port, ip in ports:
            by_row = self._used.setdefault((protocol, port), {})
            there = by_row.setdefault(row, Counter())
            there[ip] += sign
            assert there[ip] >= 0, f"{protocol} {port} was not in use on row {row}"
            if not there[ip]:
                del there[ip]
            if not there:
                del by_row[row]

    def rows(self, port: HostPort) -> dict[int, Counter[str]]:
        """Rows on which the port's number is in use, with the addresses."""
        return self._used.get((port.protocol, port.port), {})


class PortCheck(Check):
    def __init__(self, used: UsedPorts, ports: tuple[HostPort, ...]) -> None:
        self._used = used
        self._ports = ports

    def passes(self, rows: Ints) -> Bools:
        passed = np.ones(len(rows), np.bool_)
        for port in self._ports:
            passed &= self._free(port, rows)
        return passed

    def _free(self, port: HostPort, rows: Ints) -> Bools:
        by_row = self._used.rows(port)
        free = np.ones(len(rows), np.bool_)
        if by_row:
            for at, row in enumerate(rows.tolist()):
                there = by_row.get(row)
                if there is not None and (port.ip == EVERY or EVERY in there or port.ip in there):
                    free[at] = False
        return free

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        found = []
        for port in self._ports:
            where = f" of {port.ip}" if port.ip != EVERY else ""
            lack = Lack(f"host port {port.port}/{port.protocol}{where} in use", f"do without host port {port.port}")
            found.append((lack, ~self._free(port, rows)))
        return found

    def lack(self) -> Lack:
        return Lack("host port in use")
