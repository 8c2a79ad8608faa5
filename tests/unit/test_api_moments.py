"""Times as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from forebay.api.moments import moment, over, rfc3339

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


def test_time_that_lies_ahead_is_over_too() -> None:
    assert [over(100.0, 10.0, now) for now in (99.9, 100.0, 109.9, 110.0)] == [True, False, False, True]
    assert over(float("-inf"), 10.0, 0.0)


def test_letters_may_be_small() -> None:
    assert moment("2026-11-27t04:00:00z") == moment("2026-11-27T04:00:00Z")
