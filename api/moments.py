"""Times as Kubernetes writes them (RFC 3339, UTC, whole seconds)."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(text: str | None) -> datetime | None:
    """None for what is no time, and for one without a zone, which could be any of a day's. RFC 3339 lets letters be small."""
    try:
        at = datetime.fromisoformat((text or "").upper())
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def rfc3339(at: datetime) -> str:
    """`at` knows its zone."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def over(since: float, seconds: float, now: float) -> bool:
    """Whether so much time has gone by. Of a time that lies ahead, because the clock was set back, nobody knows: it has."""
    return not 0.0 <= now - since < seconds
