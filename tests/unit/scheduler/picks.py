"""Where random clusters get their numbers from: Hypothesis, which shrinks what it finds, or plain chance, which is quicker.

The long tier goes by chance and fixed seeds: of 5 ms for a case of reclaim, Hypothesis took more than 4 to draw it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Picks(Protocol):
    def number(self, low: int, high: int) -> int: ...
    def of(self, choices: Sequence[T]) -> T: ...


class Drawn:
    """By Hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def of(self, choices: Sequence[T]) -> T:
        return self._draw(st.sampled_from(choices))


class Chance:
    """By a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def of(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)
