"""Selectors in one hashable form, and what they say of a label's value.

A selector is a tuple of requirements that must all hold: () holds for everything. Where Kubernetes distinguishes a selector that
is missing (it selects nothing) from an empty one (it selects everything), the missing one is None here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from forebay.api.kubernetes.core import Expression, LabelSelector

_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_INT64 = 1 << 63


class Requirement(NamedTuple):
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator in ("Exists", "DoesNotExist"):
            return f"{self.key} {self.operator}"
        if self.operator == "In" and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        return f"{self.key} {self.operator} {','.join(self.values)}"


Selector = tuple[Requirement, ...]


def satisfied(requirement: Requirement, value: str | None) -> bool:
    """Whether a label's value, None for a label that is not there, meets it. An operator that is not known is met by nothing.

    `Gt` and `Lt` compare whole numbers; what is none meets neither (`apimachinery/labels`).
    """
    operator, values = requirement.operator, requirement.values
    if operator == "In":
        return value is not None and value in values
    if operator == "NotIn":
        return value is None or value not in values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator in ("Gt", "Lt") and value is not None and len(values) == 1:
        ours, bound = whole(value), whole(values[0])
        if ours is None or bound is None:
            return False
        return ours > bound if operator == "Gt" else ours < bound
    return False


def whole(text: str) -> int | None:
    """The number a text is, if it is a 64-bit one."""
    if not _WHOLE.fullmatch(text):
        return None
    number = int(text)
    return number if -_INT64 <= number < _INT64 else None


def selects(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a selector; None selects nothing."""
    return selector is not None and all(satisfied(one, labels.get(one.key)) for one in selector)


def read_selector(selector: LabelSelector | None) -> Selector | None:
    """A label selector in the common form: sorted, so that equal ones are equal."""
    if selector is None:
        return None
    return ordered([*equalities(selector.match_labels), *read_expressions(selector.match_expressions)])


def read_expressions(expressions: Iterable[Expression]) -> list[Requirement]:
    return [Requirement(one.key, one.operator, tuple(sorted(set(one.values)))) for one in expressions]


def equalities(labels: Mapping[str, str]) -> list[Requirement]:
    """What a map of labels asks, as in `matchLabels` and `nodeSelector`."""
    return [Requirement(key, "In", (value,)) for key, value in labels.items()]


def ordered(requirements: Iterable[Requirement]) -> Selector:
    return tuple(sorted(set(requirements)))


def show(selector: Selector | None) -> str:
    """For a sentence: `app=web, tier In a,b`; `every pod` and `no pod` for the two that name no label."""
    if selector is None:
        return "no pod"
    return ", ".join(map(str, selector)) or "every pod"
