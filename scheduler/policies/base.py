"""The seam between the planner and a policy: a score for every feasible row, and which card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from forebay.scheduler.arrays.state import NO_CARD, State
from forebay.scheduler.arrays.types import Floats, Ints, Shorts
from forebay.scheduler.pods.request import Request


@dataclass(frozen=True, slots=True)
class Rating:
    """Scores (higher is better) and, per row, the card a one-card request should take; NO_CARD leaves it to the tightest."""

    scores: Floats
    cards: Shorts

    @classmethod
    def of(cls, scores: Floats) -> Rating:
        """Scores with the card left to the planner's rule."""
        return cls(scores, np.full(len(scores), NO_CARD, np.int16))


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy may be made from. `history` are requests known beforehand; only FGD's published protocol reads it."""

    seed: int = 0
    history: Sequence[Request] = ()


class Policy(ABC):
    """A judgement of rows. Scores of a row may depend on that row, the request and what was observed, on no other row.

    `epoch` grows when earlier scores of unchanged rows no longer hold. `by_look`: of the row a score (of a request without
    devices) reads only what `State.look` says, so equal rows are rated once.
    """

    name: ClassVar[str]
    by_look: ClassVar[bool] = False
    epoch: int = 0

    def observe(self, state: State, request: Request) -> None:  # noqa: B027 - most policies learn nothing from it
        """A pod arrived: before it is placed, whether or not it fits."""

    @abstractmethod
    def rate(self, state: State, request: Request, rows: Ints) -> Rating:
        """Scores of rows that are feasible for the request."""

    def pick(self, scores: Floats) -> int | None:
        """The row to take, of scores that are -inf where nothing fits. The first of the best."""
        if not len(scores):
            return None
        row = int(np.argmax(scores))
        return None if scores[row] == -np.inf else row
