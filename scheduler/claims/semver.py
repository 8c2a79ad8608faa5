"""Semantic versions 2.0.0 (semver.org): order by number, a pre-release before its release, build words ignored."""

from __future__ import annotations

import re
from functools import total_ordering
from typing import NamedTuple

_FORM = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


class _Order(NamedTuple):
    numbers: tuple[int, int, int]
    released: bool
    words: tuple[tuple[bool, int, str], ...]


@total_ordering
class Version:
    """Compared by precedence: two that differ in their build words alone are equal."""

    __slots__ = ("major", "minor", "order", "patch")

    def __init__(self, numbers: tuple[int, int, int], before: tuple[str, ...] = ()) -> None:
        self.major, self.minor, self.patch = numbers
        words = tuple((not one.isdigit(), int(one) if one.isdigit() else 0, one) for one in before)
        self.order = _Order(numbers, not before, words)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises ValueError."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no semantic version: write three numbers, such as 1.2.3")
        before = tuple(match[4].split(".")) if match[4] else ()
        return cls((int(match[1]), int(match[2]), int(match[3])), before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.order == other.order

    def __lt__(self, other: Version) -> bool:
        return self.order < other.order

    def __hash__(self) -> int:
        return hash(self.order)
