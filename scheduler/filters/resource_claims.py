"""Claims on devices (DRA): the pod goes where its allocated ones can be used and where devices are free for the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forebay.scheduler.arrays.labels import NAME
from forebay.scheduler.arrays.node_rows import NodeRows
from forebay.scheduler.arrays.state import Overcommit
from forebay.scheduler.arrays.storage import ClaimKey
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.claims.asks import NotDone, Wanted, read
from forebay.scheduler.claims.book import ClaimBook
from forebay.scheduler.claims.written import Allotted, allot
from forebay.scheduler.filters.base import Check, NodeMask
from forebay.scheduler.filters.device_fits import DeviceFits, lacks_by_row
from forebay.scheduler.filters.volumes import MaskOf
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.classes import node_terms

MOST_USERS = 256
"""Pods that one claim can be reserved for (`ResourceClaimReservedForMaxSize`)."""

FitsOf = Callable[[tuple[Wanted, ...]], DeviceFits]


class ResourceClaimCheck(Check):
    """`claims`: a name "" is a claim that is still to be made from its template. Read anew when the book changed."""

    def __init__(self, nodes: NodeRows, book: ClaimBook, mask_of: MaskOf, fits_of: FitsOf, claims: tuple[ClaimKey, ...]) -> None:
        self._nodes, self._book, self._mask_of, self._fits_of, self._claims = nodes, book, mask_of, fits_of, claims
        self._version = -1
        self._blocked: Lack | None = None
        self._masks: list[NodeMask] = []
        self._open: dict[ClaimKey, Wanted] = {}
        self._fits: DeviceFits | None = None

    # --- answers ---

    def passes(self, rows: Ints) -> Bools:
        self._read()
        passed = np.full(len(rows), self._blocked is None, np.bool_)
        if self._blocked is not None:
            return passed
        for mask in self._masks:
            passed &= mask.passes(rows)
        if self._fits is not None:
            passed &= self._fits.ok[rows]
        return passed

    def choose(self, row: int) -> dict[ClaimKey, Allotted]:
        """What each claim that is not allocated yet gets on the row. Raises Overcommit for a row that does not pass."""
        self._read()
        if self._fits is None:
            return {}
        node = self._nodes.labels.get(row).get(NAME, "")
        given = self._fits.give(row)
        if isinstance(given, Lack):
            raise Overcommit(f"node {node} has not all devices of claims {', '.join(map(str, self._open))}: {given.what}")
        return {
            key: allot(self._book.claims[key], wanted, one, node, self._book.classes)
            for (key, wanted), one in zip(self._open.items(), given, strict=True)
        }

    def lacks(self, rows: Ints) -> list[tuple[Lack, Bools]]:
        self._read()
        if self._blocked is not None:
            return [(self._blocked, np.ones(len(rows), np.bool_))]
        found = [(mask.lack(), ~mask.passes(rows)) for mask in self._masks]
        return found if self._fits is None else [*found, *lacks_by_row(self._fits, rows)]

    def lack(self) -> Lack:
        return Lack("ResourceClaims")

    # --- reading objects ---

    def _read(self) -> None:
        if self._version == self._book.version:
            return
        self._version = self._book.version
        self._blocked, self._masks, self._open, self._fits = None, [], {}, None
        for key in self._claims:
            self._read_claim(key)
        if self._blocked is None and self._open:
            self._fits = self._fits_of(tuple(self._open.values()))

    def _read_claim(self, key: ClaimKey) -> None:
        claim = self._book.claims.get(key)
        if claim is None:
            what = f"ResourceClaim {key} does not exist" if key.name else "a ResourceClaim is not made from its template yet"
            self._block(what, "create it" if key.name else "look at the pod's events")
            return
        status, chosen = claim.status, self._book.chosen.get(key)
        if status.allocation is not None:
            if len(status.reserved_for) >= MOST_USERS:
                self._block(f"ResourceClaim {key} has {MOST_USERS} users", "use another claim")
            if any(one.binding_conditions for one in status.allocation.devices.results):
                self._block(f"ResourceClaim {key} has binding conditions, which are not waited for here", "use another claim")
            selector = status.allocation.node_selector
        elif claim.metadata.deletion_timestamp is not None:
            self._block(f"ResourceClaim {key} is being deleted", "use another claim")
            return
        elif chosen is not None:
            selector = chosen.selector
        else:
            try:
                self._open[key] = read(claim, self._book.classes)
            except NotDone as wrong:
                self._block(f"ResourceClaim {key}: {wrong}", wrong.remedy)
            return
        if selector is not None:
            self._masks.append(self._mask_of(node_terms(selector), f"devices of ResourceClaim {key}"))

    def _block(self, what: str, remedy: str) -> None:
        self._blocked = self._blocked or Lack(what, remedy)
