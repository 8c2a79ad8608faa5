"""Room on nodes that is kept for jobs that are first and do not fit yet, so that smaller ones do not pass them for ever.

Pure arrays. Who gets it, where and until when is `live/reserve/holding.py`'s; here is what it means for everybody else:

    asked <= free + coming - needs      on each node of the reservation, for each resource that both ask for

`coming`: what pods hold there that must end, or surely will, before the job starts. It is counted with what is free at the
moment, so that pods which are placed in the same pass, and taken back again, count too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.types import Ints
from forebay.scheduler.pods.request import Request


@dataclass(frozen=True, slots=True)
class Kept:
    """`rows` [n], `needs` and `coming` [n, R]. `cards`: nothing that asks for cards may go there, since which of them will be
    free is not known; `claims`: the same for claims on devices; `whole`: nothing at all (the job's own affinity or spread may be
    hurt by anybody)."""

    who: str
    rows: Ints
    needs: Ints
    coming: Ints
    cards: bool = False
    claims: bool = False
    whole: bool = False


class Holds:
    """By the key of the job that holds. `active` is set for each job that is tried: those that it may not pass."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.active: tuple[str, ...] = ()
        self.serial = 0
        """Grows with every change: sentences made before are out of date."""

    def set(self, key: str, kept: Kept | None) -> None:
        """What the job holds now, None for nothing."""
        self.active = ()
        self.serial += 1
        if kept is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = kept

    @property
    def standing(self) -> list[Kept]:
        """The active ones."""
        return [self.kept[key] for key in self.active]

    def shut(self, state: State, request: Request) -> Ints:
        """Rows where the request may not go as long as the active reservations stand."""
        rows = [shut_by(kept, state, request) for kept in self.standing]
        return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def shut_by(kept: Kept, state: State, request: Request) -> Ints:
    """Those of one reservation."""
    if kept.whole or (kept.cards and (request.cards or request.devices is not None)):
        return kept.rows
    if kept.claims and state.claims_of(request):
        return kept.rows
    asked = np.array(request.resources, np.int64)
    left = state.free[kept.rows] + kept.coming - kept.needs
    both = (asked > 0) & (kept.needs > 0)
    shut: Ints = kept.rows[(both & (left < asked)).any(axis=1)]
    return shut


def stack(vectors: Sequence[Ints], width: int) -> Ints:
    """int64[n, width]: amounts of which some were made before there were so many columns."""
    result = np.zeros((len(vectors), width), np.int64)
    for at, vector in enumerate(vectors):
        result[at, : len(vector)] = vector
    return result
