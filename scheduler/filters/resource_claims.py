"""Claims on devices (DRA) that are allocated already: the pod goes where the allocation can be used.

Nothing here allocates devices: a claim without an allocation keeps the pod from everywhere, and says so.
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays import Bools, Ints
from forebay.scheduler.filters.base import Check, NodeMask
from forebay.scheduler.filters.volumes import MaskOf
from forebay.scheduler.lack import Lack
from forebay.scheduler.pod_class import node_terms
from forebay.scheduler.storage import ClaimKey, Storage

MOST_USERS = 256
"""Pods that one claim can be reserved for (`ResourceClaimReservedForMaxSize`)."""


class ResourceClaimCheck(Check):
    """`claims`: a name "" is a claim that is still to be made from its template."""

    def __init__(self, storage: Storage, mask_of: MaskOf, claims: tuple[ClaimKey, ...]) -> None:
        self._storage, self._mask_of, self._claims = storage, mask_of, claims
        self._version = -1
        self._blocked: Lack | None = None
        self._masks: list[NodeMask] = []

    def _read(self) -> None:
        if self._version == self._storage.version:
            return
        self._version = self._storage.version
        self._blocked, self._masks = None, []
        for key in self._claims:
            claim = self._storage.device_claims.get(key)
            if claim is None:
                what = f"ResourceClaim {key} does not exist" if key.name else "a ResourceClaim is not made from its template yet"
                self._blocked = Lack(what, "create it" if key.name else "look at the pod's events")
            elif claim.status.allocation is None:
                remedy = "let a scheduler that allocates devices place the pod"
                self._blocked = Lack(f"ResourceClaim {key} is not allocated", remedy)
            elif len(claim.status.reserved_for) >= MOST_USERS:
                self._blocked = Lack(f"ResourceClaim {key} has {MOST_USERS} users", "use another claim")
            elif claim.status.allocation.node_selector is not None:
                rule = node_terms(claim.status.allocation.node_selector)
                self._masks.append(self._mask_of(rule, f"devices of ResourceClaim {key}"))

    def passes(self, rows: Ints) -> Bools:
        self._read()
        passed = np.full(len(rows), self._blocked is None, np.bool_)
        for mask in self._masks:
            passed &= mask.passes(rows)
        return passed

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        self._read()
        if self._blocked is not None:
            return [(self._blocked, np.ones(len(rows), np.bool_))]
        return [(mask.lack(), ~mask.passes(rows)) for mask in self._masks]

    def lack(self) -> Lack:
        return Lack("ResourceClaims")
