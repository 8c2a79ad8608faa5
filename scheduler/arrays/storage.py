"""Volumes, claims and attachments as the scheduler sees them, with what it has decided of them and nobody has carried out yet.

Invariants: `version` grows with every change that can change an answer about a node other than the one a pod was put on;
`users[claim]` counts pods by row; a decision (`chosen`) about a claim lives as long as a pod that uses it;
`attached[driver][row]` counts different volumes of the row's pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from forebay.api.kubernetes.storage import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    class_of,
    volume_class_of,
)
from forebay.scheduler.arrays.types import Ints

NO_LIMIT = np.iinfo(np.int64).max >> 1
NOWHERE = -1
"""Row of pods whose node is not known."""


class ClaimKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Chosen(NamedTuple):
    """Of a claim that waits for its first pod: the volume it gets, or the row where one is to be made for it."""

    volume: str = ""
    row: int = NOWHERE


class Handle(NamedTuple):
    """What a driver attaches: one volume counts once on a node, however many pods use it."""

    driver: str
    volume: str


class Storage:
    """See the module."""

    def __init__(self) -> None:
        self.volumes: dict[str, PersistentVolume] = {}
        self.claims: dict[ClaimKey, PersistentVolumeClaim] = {}
        self.classes: dict[str, StorageClass] = {}
        self._counting: dict[str, None] = {}
        self._capacities: dict[tuple[str, str], CSIStorageCapacity] = {}
        self.users: dict[ClaimKey, Counter[int]] = {}
        self.chosen: dict[ClaimKey, Chosen] = {}
        self.version = 0
        self._count = 0
        self._by_class: dict[str, dict[str, PersistentVolume]] = {}
        self._limits: dict[str, Ints] = {}
        self._row_limits: dict[int, dict[str, int]] = {}
        self._attached: dict[str, Ints] = {}
        self._handles: dict[Handle, Counter[int]] = {}
        self._handle_of: dict[ClaimKey, Handle | None] = {}
        self._handles_at = -1

    # --- objects ---

    def set_volume(self, volume: PersistentVolume) -> None:
        self._replace_volume(volume.metadata.name, volume)

    def remove_volume(self, name: str) -> None:
        self._replace_volume(name, None)

    def _replace_volume(self, name: str, volume: PersistentVolume | None) -> None:
        old = self.volumes.pop(name, None)
        if old is not None:
            del self._by_class[volume_class_of(old)][name]
        if volume is not None:
            self.volumes[name] = volume
            self._by_class.setdefault(volume_class_of(volume), {})[name] = volume
        self.version += 1

    def set_claim(self, claim: PersistentVolumeClaim) -> None:
        self.claims[ClaimKey(claim.metadata.namespace, claim.metadata.name)] = claim
        self.version += 1

    def remove_claim(self, namespace: str, name: str) -> None:
        if self.claims.pop(ClaimKey(namespace, name), None) is not None:
            self.version += 1

    def set_class(self, kind: StorageClass) -> None:
        self.classes[kind.metadata.name] = kind
        self.version += 1

    def remove_class(self, name: str) -> None:
        if self.classes.pop(name, None) is not None:
            self.version += 1

    def set_driver(self, driver: CSIDriver) -> None:
        name = driver.metadata.name
        if driver.spec.storage_capacity == (name in self._counting):
            return
        if driver.spec.storage_capacity:
            self._counting[name] = None
        else:
            del self._counting[name]
        self.version += 1

    def remove_driver(self, name: str) -> None:
        if name in self._counting:
            del self._counting[name]
            self.version += 1

    def set_capacity(self, one: CSIStorageCapacity) -> None:
        self._capacities[one.metadata.namespace, one.metadata.name] = one
        self.version += 1

    def remove_capacity(self, namespace: str, name: str) -> None:
        if self._capacities.pop((namespace, name), None) is not None:
            self.version += 1

    def capacities(self, kind: StorageClass) -> list[CSIStorageCapacity] | None:
        """What the class's driver says is left where; None for a driver that says nothing of it."""
        if kind.provisioner not in self._counting:
            return None
        return [one for one in self._capacities.values() if one.storage_class_name == kind.metadata.name]

    def set_limits(self, row: int, node: CSINode | None) -> bool:
        """What the drivers of the row's node can attach; None for nothing known. Whether that changed."""
        drivers = (node.spec.drivers or ()) if node is not None else ()
        limits = {one.name: one.allocatable.count for one in drivers if one.allocatable and one.allocatable.count is not None}
        if self._row_limits.get(row, {}) == limits:
            return False
        for driver in self._row_limits.pop(row, {}):
            self._limits[driver][row] = NO_LIMIT
        for driver, count in limits.items():
            if driver not in self._limits:
                self._limits[driver] = np.full(self._count, NO_LIMIT, np.int64)
            self._limits[driver][row] = count
        if limits:
            self._row_limits[row] = limits
        return True

    def grow(self, count: int) -> None:
        more = count - self._count
        self._count = count
        for driver, limits in self._limits.items():
            self._limits[driver] = np.append(limits, np.full(more, NO_LIMIT, np.int64))
        for driver, attached in self._attached.items():
            self._attached[driver] = np.append(attached, np.zeros(more, np.int64))

    def of_class(self, name: str) -> Iterable[PersistentVolume]:
        return self._by_class.get(name, {}).values()

    # --- pods that use claims ---

    def decide(self, chosen: dict[ClaimKey, Chosen]) -> None:
        """What the claims of a pod that was placed are to get."""
        if any(self.chosen.get(claim) != what for claim, what in chosen.items()):
            self.chosen.update(chosen)
            self.version += 1

    def use(self, row: int, claims: Iterable[ClaimKey]) -> None:
        """A pod with these claims came to the row."""
        self._attachments()
        for claim in claims:
            users = self.users.setdefault(claim, Counter())
            users[row] += 1
            if users[row] == 1:
                self._attach(row, claim, 1)

    def leave(self, row: int, claims: Iterable[ClaimKey]) -> None:
        """The opposite of `use`."""
        self._attachments()
        for claim in claims:
            users = self.users[claim]
            users[row] -= 1
            assert users[row] >= 0, f"claim {claim} had no user on row {row}"
            if not users[row]:
                del users[row]
                self._attach(row, claim, -1)
            if not users:
                del self.users[claim]
                self._handle_of.pop(claim, None)
                if self.chosen.pop(claim, None) is not None:
                    self.version += 1

    # --- attachments ---

    def limit(self, driver: str) -> Ints | None:
        """int64[N]: volumes that each row's node can attach, None where no node says so."""
        return self._limits.get(driver)

    def attached(self, driver: str) -> Ints:
        """int64[N]: different volumes of the driver that the row's pods use."""
        self._attachments()
        if driver not in self._attached:
            self._attached[driver] = np.zeros(self._count, np.int64)
        return self._attached[driver]

    def rows_with(self, handle: Handle) -> list[int]:
        """Rows on which the volume is in use."""
        self._attachments()
        return [row for row in self._handles.get(handle, ()) if row != NOWHERE]

    def handle(self, claim: ClaimKey) -> Handle | None:
        """What is attached for the claim; None for what no driver counts. A volume not made yet is told apart by its claim."""
        there = self.claims.get(claim)
        if there is None:
            return None
        volume = self.volumes.get(there.spec.volume_name) if there.spec.volume_name else None
        if volume is not None:
            source = volume.spec.csi
            return Handle(source.driver, source.volume_handle) if source is not None else None
        kind = self.classes.get(class_of(there))
        return Handle(kind.provisioner, f"claim {claim}") if kind is not None else None

    def _attachments(self) -> None:
        """Counts anew if objects changed: a claim that is bound by now is another volume than before."""
        if self._handles_at == self.version:
            return
        self._handles_at = self.version
        changed = [claim for claim, handle in self._handle_of.items() if self.handle(claim) != handle]
        for claim in changed:
            rows = list(self.users.get(claim, ()))
            for row in rows:
                self._attach(row, claim, -1)
            self._handle_of[claim] = self.handle(claim)
            for row in rows:
                self._attach(row, claim, 1)

    def _attach(self, row: int, claim: ClaimKey, sign: int) -> None:
        if claim not in self._handle_of:
            self._handle_of[claim] = self.handle(claim)
        handle = self._handle_of[claim]
        if handle is None or row == NOWHERE:
            return
        there = self._handles.setdefault(handle, Counter())
        before = there[row] > 0
        there[row] += sign
        after = there[row] > 0
        if not after:
            del there[row]
        if not there:
            del self._handles[handle]
        if before != after:
            if handle.driver not in self._attached:
                self._attached[handle.driver] = np.zeros(self._count, np.int64)
            self._attached[handle.driver][row] += int(after) - int(before)
