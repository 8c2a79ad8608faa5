"""Kubernetes quantities: the CRDs' grammar, exact values, remedies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.api.quantity import MAX, PATTERN, QuantityError, format_bytes, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        (1024, 1024),
        ("1Ki", 1024),
        ("1k", 1000),
        ("10Gi", 10 << 30),
        ("10G", 10**10),
        ("1.5Gi", 3 << 29),
        (".5Mi", 1 << 19),
        ("5.", 5),
        ("1e3", 1000),
        ("1E3", 1000),  # an exponent
        ("1E", 10**18),  # exa
        ("7Ei", 7 << 60),
        ("100m", 1),  # rounded up, as Value() does
        ("1500m", 2),
        ("1n", 1),
        ("-1Ki", -1024),
        ("+2Mi", 2 << 20),
        ("1e-3", 1),
    ],
)
def test_value(text: str | int, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("10Gb", "write 10Gi (powers of 1024) or 10G (powers of 1000)"),
        ("10GB", "write 10Gi (powers of 1024) or 10G (powers of 1000)"),
        ("10g", "write 10Gi (powers of 1024) or 10G (powers of 1000)"),
        ("10GiB", "write 10Gi"),
        ("10 Gi", "write 10Gi"),
        ("10K", "write 10Ki (powers of 1024) or 10k (powers of 1000)"),
        ("10KB", "write 10Ki (powers of 1024) or 10k (powers of 1000)"),
        ("100B", "write 100"),
        ("", "write a number with one of Ki Mi Gi Ti (powers of 1024) or k M G T (powers of 1000), such as 10Gi"),
        ("lots", "write a number with one of Ki Mi Gi Ti (powers of 1024) or k M G T (powers of 1000), such as 10Gi"),
        ("9Ei", "write less than 8Ei"),
        ("1e99", "write at most 8Ei"),
        ("1e999999999999", "write at most 8Ei"),
        ("1e1.5", "write a whole exponent, such as 1e9"),
        ("1\n", "write 1"),
        ("１Gi", "write a number with one of Ki Mi Gi Ti (powers of 1024) or k M G T (powers of 1000), such as 10Gi"),
    ],
)
def test_refused(text: str, remedy: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_quantity(text)
    assert caught.value.remedy == remedy


@given(st.integers(-MAX, MAX))
def test_round_trip(n: int) -> None:
    text = format_quantity(n)
    assert PATTERN.fullmatch(text)
    assert parse_quantity(text) == n


@given(st.integers(0, 1 << 20), st.sampled_from(["", "Ki", "Mi", "Gi", "Ti"]))
def test_format_is_short(n: int, suffix: str) -> None:
    assert len(format_quantity(parse_quantity(f"{n}{suffix}"))) <= len(f"{n}{suffix}")


@given(st.from_regex(PATTERN, fullmatch=True))
def test_pattern_never_crashes(text: str) -> None:
    try:
        value = parse_quantity(text)
    except QuantityError:
        value = 0
    assert abs(value) <= MAX


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00KiB"), (3 << 29, "1.50GiB"), (5 << 50, "5.00PiB"), (1 << 63, "8.00EiB")],
)
def test_format_bytes(n: int, text: str) -> None:
    assert format_bytes(n) == text
