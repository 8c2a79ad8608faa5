"""What a DatasetGrant's status says: whether it gives anything now, and who uses it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import msgspec

from forebay.api.conditions import Condition, merge
from forebay.api.grant import GrantSpec, GrantStatus, Reference, ended, refusal
from forebay.api.moments import rfc3339
from forebay.runtimes.engine import Object
from forebay.runtimes.states import generation, known_conditions

MOST = 1000


class Shown(NamedTuple):
    """A Dataset of another namespace that shows this one's data: its name, and what it asks for."""

    name: str
    asks: Reference


def status(grant: Object, *, there: bool, shown: Iterable[Shown], now: datetime) -> GrantStatus:
    """`there`: whether the Dataset that is given exists."""
    holds, reason, message = _judge(grant, there, now)
    users = sorted(f"{one.asks.namespace}/{one.name}" for one in shown if holds and _covers(grant, one.asks, now))
    ready = Condition(
        type="Ready", status="True" if holds else "False", reason=reason, message=message, observed_generation=generation(grant)
    )
    known = [c for c in known_conditions(grant) if c.type == ready.type]
    return GrantStatus(
        conditions=merge(known, [ready], rfc3339(now), "last_update_time"),
        observed_generation=generation(grant),
        referrers=tuple(users[:MOST]),
    )


def _judge(grant: Object, there: bool, now: datetime) -> tuple[bool, str, str]:
    meta = grant["metadata"]
    try:
        spec = msgspec.convert(grant["spec"], GrantSpec)
        over = ended(spec, now)
        refusal(spec, Reference(spec.dataset, "", {}), now)  # a selector that cannot be read
    except (msgspec.ValidationError, ValueError, KeyError) as e:
        return False, "GrantRefused", f"it cannot be read: {e}"
    if not there:
        return (
            False,
            "DatasetMissing",
            f"there is no Dataset {spec.dataset} in namespace {meta['namespace']}; make it, or a grant for another",
        )
    if over:
        return False, "Expired", f"it ended at {spec.expires}: who refers by it begins no pod any more; make a new grant"
    return True, "Given", ""


def _covers(grant: Object, asks: Reference, now: datetime) -> bool:
    try:
        return not refusal(msgspec.convert(grant["spec"], GrantSpec), asks, now)
    except ValueError:
        return False
