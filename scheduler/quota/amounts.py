"""Amounts of resources as quotas count them: whole numbers, read from Kubernetes quantities, shown to people.

CPU is counted in thousandths of a core, everything else in whole units (bytes, cards, jobs). Python's integers have no width, so
bytes x weight, which passes 2^64 in a cluster of a few hundred terabytes, needs no care anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from forebay.api.quantity import QuantityError, format_bytes, format_quantity, parse_quantity

Amounts = Mapping[str, int]
"""Amount by resource name. A name that is missing means "not named", which is not always the same as 0."""

CPU = "cpu"
JOBS = "kube-queue/max-jobs"
"""ACK's key for the number of jobs a queue may have at once; the ledger counts it from gangs, nobody requests it."""
NOTHING: Amounts = {}

_SPLIT = re.compile(r"([+-]?[0-9.]+)(.*)")
_SMALL = {"n": -9, "u": -6, "m": -3}
_BYTES = re.compile(r"memory|ephemeral-storage|storage|hugepages-.+|.*[-/.]bytes")
_SHORT = 8


def parse_amount(resource: str, value: object) -> int:
    """Whole units of a quantity, thousandths for `cpu`; rounded up, as the API server's own arithmetic does.

    Raises `QuantityError`, whose `remedy` says what to write, also for what is no string and no number, and for what is below 0.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise QuantityError("is no Kubernetes quantity", 'write a number or a string, such as 8 or "64Gi"')
    text = str(value)
    whole = parse_quantity(text)
    exact = _exact(text)
    if exact < 0:
        raise QuantityError("is below 0", "write 0 or more")
    return math.ceil(exact * 1000) if resource == CPU else whole


def _exact(text: str) -> Fraction:
    match = _SPLIT.fullmatch(text)
    assert match is not None  # parse_quantity took it
    number, suffix = match.groups()
    if suffix in _SMALL:
        scale = Fraction(10) ** _SMALL[suffix]
    elif suffix[:1] in ("e", "E") and suffix[1:] not in ("", "i"):  # an exponent; "E" alone and "Ei" are exa
        scale = Fraction(10) ** int(suffix[1:])
    else:
        scale = Fraction(parse_quantity(f"1{suffix}"))
    return Fraction(number.rstrip(".")) * scale


def render_amount(resource: str, amount: int) -> str:
    """The quantity that `parse_amount` reads back as exactly this amount."""
    if resource == CPU:
        return str(amount // 1000) if amount % 1000 == 0 else f"{amount}m"
    return format_quantity(amount) if _BYTES.fullmatch(resource) else str(amount)


def show(resource: str, amount: int) -> str:
    """An amount in a sentence: `4`, `500m`, `64Gi`, `1.50GiB`."""
    text = render_amount(resource, amount)
    return format_bytes(amount) if len(text) > _SHORT and _BYTES.fullmatch(resource) else text


def show_all(amounts: Amounts) -> str:
    """`8 nvidia.com/gpu, 64Gi memory`; `nothing` where all are 0."""
    return ", ".join(f"{show(r, n)} {r}" for r, n in sorted(amounts.items()) if n) or "nothing"


def add(into: dict[str, int], amounts: Amounts, times: int = 1) -> None:
    """Adds in place; entries that come to 0 go, so that equal sums are equal dicts."""
    for resource, amount in amounts.items():
        total = into.get(resource, 0) + amount * times
        if total:
            into[resource] = total
        else:
            into.pop(resource, None)


def check_request(amounts: Amounts) -> None:
    """Raises `ValueError` for an amount below 0: such a request would free what others use."""
    for resource, amount in amounts.items():
        if amount < 0:
            raise ValueError(f"request of {amount} {resource} is below 0; a request is 0 or more")
