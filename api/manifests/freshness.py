"""Values of our own annotations and mount options: durations, freshness, the free-space floor."""

from __future__ import annotations

import re

from forebay.api.quantity import QuantityError, parse_quantity
from forebay.api.spec import Freshness

FRESHNESS = "forebay.io/freshness"
FLOOR = "forebay.io/free-space-floor"

NO_LIMIT = (1 << 63) - 1
"""Bytes of a floor that only the ratio states."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `60s`, `5m`, `1h`, `1d`. `ValueError` with the remedy otherwise."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("write a number and one of ms, s, m, h, d, such as 60s")
    return float(match[1]) * _SECONDS[match[2]]


def parse_freshness(text: str) -> Freshness:
    """`immutable`, `ttl=60s`, `validate` or `event`. `ValueError` with the remedy otherwise."""
    if text == "immutable":
        return Freshness("immutable")
    if text == "event":
        return Freshness("event")
    if text == "validate":
        return Freshness("validate")
    word, _, value = text.partition("=")
    if word == "ttl" and value:
        return Freshness("ttl", parse_duration(value))
    raise ValueError("write immutable, ttl=60s, validate or event")


def parse_floor(text: str) -> tuple[float, int]:
    """`15%,20Gi`, `15%` or `20Gi` -> (ratio, bytes): cache admission stops at the smaller of the two. 0 switches it off.

    `ValueError` with the remedy otherwise.
    """
    ratio: float | None = None
    size: int | None = None
    for part in text.split(","):
        part = part.strip()
        match = _PERCENT.fullmatch(part)
        if match and ratio is None and float(match[1]) < 100:
            ratio = float(match[1]) / 100
        elif not match and size is None:
            try:
                size = parse_quantity(part)
            except QuantityError as e:
                raise ValueError("write a percentage, a size, or both, such as 15%,20Gi") from e
            if size < 0:
                raise ValueError("write a size of 0 or more")
        else:
            raise ValueError("write at most one percentage below 100% and one size, such as 15%,20Gi")
    return (1.0 if ratio is None else ratio), (NO_LIMIT if size is None else size)
