"""Why a request fits nowhere: nodes counted by what they lack."""

from __future__ import annotations

import numpy as np

from forebay.scheduler.request import Request
from forebay.scheduler.state import NO_CARD, State


def failed_constraints(state: State, request: Request) -> dict[str, int]:
    """Constraint -> number of nodes that fail it, most first; a node counts for each it fails. {} if every node fits.

    Constraints: the resource columns; `cards` for a node with fewer cards than asked; `card model` for too few accepted ones;
    `card share` for too few accepted ones with enough of each free, `idle cards` if whole ones are asked.
    """
    lacks = {column: int((state.free[:, at] < request.resources[at]).sum()) for at, column in enumerate(state.columns)}
    if request.cards:
        there = state.card_model != NO_CARD
        accepted = there if request.models is None else there & np.isin(state.card_model, request.models)
        enough = state.usable(request, state.rows)
        few = there.sum(axis=1) < request.cards
        wrong = ~few & (accepted.sum(axis=1) < request.cards)
        lacks["cards"] = int(few.sum())
        lacks["card model"] = int(wrong.sum())
        lacks["idle cards" if request.whole else "card share"] = int((~few & ~wrong & (enough.sum(axis=1) < request.cards)).sum())
    return {name: count for name, count in sorted(lacks.items(), key=lambda one: (-one[1], one[0])) if count}
