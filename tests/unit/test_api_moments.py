"""Times as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from forebay.api.moments import moment, rfc3339

AT = datetime(2026, 11, 27, 10, 5, 7, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-27T10:05:07Z", "2026-11-27T12:05:07+02:00", "2026-11-27T10:05:07.000000Z"])
def test_a_time_is_read_in_any_zone(text: str) -> None:
    assert moment(text) == AT


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z", "2026-11-27T10:05:07", "2026-11-27"])
def test_what_is_no_time_or_has_no_zone_is_none(text: str | None) -> None:
    assert moment(text) is None


def test_a_time_is_written_in_utc_and_read_again() -> None:
    there = AT.astimezone(timezone(timedelta(hours=-5)))
    assert rfc3339(there) == "2026-11-27T10:05:07Z"
    assert moment(rfc3339(there)) == AT
