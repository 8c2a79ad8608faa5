"""Which keys have a name in a tree, and times as stores write them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

NAME_MAX = 255
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, (\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT\Z", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def usable(name: bytes) -> bool:
    """Whether `name` can be a file's name: what the kernel takes, and nothing that walks elsewhere."""
    return 0 < len(name) <= NAME_MAX and name not in {b".", b".."} and b"\0" not in name and b"/" not in name


def usable_key(key: bytes) -> bool:
    """Whether every component of `key` is usable. A caller only has such keys from a listing; a request may bring others."""
    return all(usable(part) for part in key.removesuffix(b"/").split(b"/"))


def show(key: bytes) -> str:
    """A key for sentences: one line, whatever its bytes."""
    text = key.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def iso_ns(text: str) -> int:
    """`2009-10-12T17:50:30.000Z` in nanoseconds since the epoch, 0 when it is no such time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return _ns(moment)


def http_date_ns(text: str) -> int:
    """`Wed, 21 Oct 2015 07:28:00 GMT` in nanoseconds since the epoch, 0 when it is no such time."""
    match = _HTTP_DATE.match(text)
    if match is None:
        return 0
    day, month, *rest = match.groups()
    try:
        year, hour, minute, second = (int(part) for part in rest)
        moment = datetime(year, _MONTHS.index(month) + 1, int(day), hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return 0
    return _ns(moment)


def _ns(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1000
