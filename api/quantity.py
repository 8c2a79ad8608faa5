"""Kubernetes quantities as whole bytes, and back.

The grammar is the one of the CRDs (`int-or-string` with a pattern); the value is rounded up to a whole number, as
`resource.Quantity.Value()` does.
"""

from __future__ import annotations

import re
from fractions import Fraction

PATTERN = re.compile(
    r"(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?"
)
"""The pattern of the CRDs, to be matched in full."""

MAX = (1 << 63) - 1
"""Quantities are int64 in Kubernetes."""

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SPLIT = re.compile(r"([+-]?[0-9.]+)(.*)", re.DOTALL)
_LIKELY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtTpPeE])?(i)?([bB]|bytes?)?", re.IGNORECASE)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class QuantityError(ValueError):
    """`str()` says what is wrong, `remedy` what to write instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def parse_quantity(value: str | int) -> int:
    """Bytes of a quantity such as `10Gi`, `1.5G`, `100m` or 1024; rounded up. Raises `QuantityError`."""
    amount = parse_exact(value)
    whole = -(-amount.numerator // amount.denominator)
    if abs(whole) > MAX:
        raise QuantityError("is out of range", "write less than 8Ei")
    return whole


def parse_exact(value: str | int) -> Fraction:
    """The quantity itself, nothing rounded. Raises `QuantityError`."""
    if isinstance(value, int):
        text = str(value)
    else:
        text = value
    if not PATTERN.fullmatch(text) or len(text) > 64:
        raise QuantityError("is no Kubernetes quantity", _suggest(text))
    match = _SPLIT.fullmatch(text)
    assert match is not None  # PATTERN matched
    number, suffix = match.groups()
    if number[-1] == ".":
        number = number[:-1]
    amount = Fraction(number)
    if suffix in _BINARY:
        amount *= 1 << _BINARY[suffix]
    elif suffix in _DECIMAL:
        amount *= Fraction(10) ** _DECIMAL[suffix]
    else:
        if not suffix[1:].lstrip("+-").isdigit():
            raise QuantityError("has an exponent that is no whole number", "write a whole exponent, such as 1e9")
        exponent = int(suffix[1:])
        if abs(exponent) > 64:
            raise QuantityError("is out of range", "write at most 8Ei")
        amount *= Fraction(10) ** exponent
    return amount


def format_quantity(n: int) -> str:
    """The shortest quantity that parses back to exactly `n`, binary suffixes first: `10Gi`, `1500M`, `17`."""
    sign, size = ("-", -n) if n < 0 else ("", n)
    if size:
        for suffix, bits in reversed(_BINARY.items()):
            if size % (1 << bits) == 0:
                return f"{sign}{size >> bits}{suffix}"
        for suffix in "EPTGMk":
            unit = 10 ** _DECIMAL[suffix]
            if size % unit == 0:
                return f"{sign}{size // unit}{suffix}"
    return str(n)


def format_bytes(n: int | float) -> str:
    """A size for people, in the form of Fluid's status: `1.50GiB`. Whole bytes have no fraction."""
    value = float(n)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f}B" if unit == "B" else f"{value:.2f}{unit}"
        value /= 1024
    raise AssertionError("unreachable")


def _suggest(text: str) -> str:
    """What somebody who wrote `10Gb`, `10 GB` or `10GiB` most likely meant."""
    match = _LIKELY.fullmatch(text.strip())
    if not match:
        return "write a number with one of Ki Mi Gi Ti (powers of 1024) or k M G T (powers of 1000), such as 10Gi"
    number, prefix, binary, _ = match.groups()
    if not prefix:
        return f"write {number}"
    upper = prefix.upper()
    decimal = f"{number}{'k' if upper == 'K' else upper}"
    return f"write {number}{upper}i" if binary else f"write {number}{upper}i (powers of 1024) or {decimal} (powers of 1000)"
