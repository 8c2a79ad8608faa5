"""Conditions as every status carries them, and the one way to change them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from forebay.api.crd.structs import Written, listing, moment, told

ConditionStatus = Literal["True", "False", "Unknown"]
Stamp = Literal["last_update_time", "last_probe_time"]
"""Which of its two times Fluid keeps in a condition: the first in Datasets, the second in the others."""


class Condition(Written, frozen=True):
    """One condition. Fluid writes `lastUpdateTime` for Datasets and `lastProbeTime` for the others; both are known."""

    type: Annotated[str, told("What the condition is about; one of each type.", min_length=1, max_length=316)]
    status: Annotated[ConditionStatus, told("Whether it holds.")]
    reason: Annotated[str, told("One word for programs.")] = ""
    message: Annotated[str, told("One sentence for people, with the remedy where there is one.")] = ""
    observed_generation: Annotated[int, told("metadata.generation of the object that this was derived from.", ge=0)] = 0
    last_transition_time: Annotated[str, moment("When the status last changed.")] = ""
    last_update_time: Annotated[str, moment("When the condition was last written (Datasets).")] = ""
    last_probe_time: Annotated[str, moment("When the condition was last looked at (runtimes, operations).")] = ""


Conditions = Annotated[tuple[Condition, ...], listing("What is known about the object, one entry a type.", "type")]


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    return next((c for c in conditions if c.type == type_), None)


def merge(
    known: Iterable[Condition], wanted: Iterable[Condition], now: str, stamp: Stamp = "last_update_time"
) -> tuple[Condition, ...]:
    """`known` with `wanted` (which carry no times) laid over it by type; `now` is an RFC 3339 time.

    The time of transition moves only when the status does, and a condition that says nothing new comes back as it was: a
    pass that finds nothing gives one equal to `known`, so that nothing is written.
    """
    merged = {c.type: c for c in known}
    for new in wanted:
        old = merged.get(new.type)
        if old is not None and _said(old) == _said(new):
            continue
        since = old.last_transition_time if old is not None and old.status == new.status else now
        merged[new.type] = msgspec.structs.replace(new, last_transition_time=since, **{stamp: now})
    return tuple(merged.values())


def _said(c: Condition) -> tuple[str, str, str, int]:
    return c.status, c.reason, c.message, c.observed_generation
