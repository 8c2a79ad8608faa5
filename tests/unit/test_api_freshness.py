"""Values of our own annotations."""

from __future__ import annotations

import pytest

from forebay.api.manifests.freshness import NO_LIMIT, parse_duration, parse_floor, parse_freshness
from forebay.api.spec import Freshness


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("60s", 60), ("5m", 300), ("1h", 3600), ("1d", 86400), ("1.5s", 1.5), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("immutable", Freshness("immutable")),
        ("event", Freshness("event")),
        ("validate", Freshness("validate")),
        ("ttl=5m", Freshness("ttl", 300.0)),
        ("ttl=500ms", Freshness("ttl", 0.5)),
    ],
)
def test_freshness(text: str, mode: Freshness) -> None:
    assert parse_freshness(text) == mode


@pytest.mark.parametrize(
    "text", ["", "ttl", "ttl=", "ttl=60", "ttl=-1s", "ttl=1w", "Immutable", "immutable ", "60s", "ttl=1s,2s", "ttl=٣s"]
)
def test_freshness_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_freshness(text)


@pytest.mark.parametrize(
    ("text", "ratio", "size"),
    [
        ("15%,20Gi", 0.15, 20 << 30),
        ("20Gi,15%", 0.15, 20 << 30),
        ("10%", 0.1, NO_LIMIT),
        ("5Gi", 1.0, 5 << 30),
        ("0", 1.0, 0),
        ("0%", 0.0, NO_LIMIT),
        ("2.5%, 1G", 0.025, 10**9),
    ],
)
def test_floor(text: str, ratio: float, size: int) -> None:
    assert parse_floor(text) == (ratio, size)


@pytest.mark.parametrize("text", ["", "%", "100%", "15%,10%", "1Gi,2Gi", "-1Gi", "15 %", "15%,20Gb", "15%,20Gi,1"])
def test_floor_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_floor(text)
