"""Which keys have a name in a tree, and times as stores write them. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

NAME_MAX = 255
_UNUSABLE = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)|\0|[^/]{256}")
"""What `usable` refuses, anywhere in a key: one search instead of a call per part."""
_EPOCH = datetime(1970, 1, 1).toordinal()
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d+))?(?:Z|\+00:00)?\Z", re.ASCII)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, (\d{1,2} [A-Z][a-z]{2} \d{4}) ([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60) GMT\Z", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def usable(name: bytes) -> bool:
    """Whether `name` can be a file's name: what the kernel takes, and nothing that walks elsewhere."""
    return 0 < len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name and name != b"." and name != b".."  # noqa: PLR1714


def usable_key(key: bytes) -> bool:
    """Whether every component of `key` is usable. A caller only has such keys from a listing; a request may bring others."""
    clean = key[:-1] if key.endswith(b"/") else key
    return bool(clean) and _UNUSABLE.search(clean) is None


def show(key: bytes) -> str:
    """A key for sentences: one line, whatever its bytes."""
    text = key.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


class Label:
    """Store and key for a sentence, put into words only when one is written."""

    __slots__ = ("_base", "_key")

    def __init__(self, base: str, key: bytes) -> None:
        self._base = base
        self._key = key

    def __str__(self) -> str:
        return f"{self._base}/{show(self._key)}"


def iso_ns(text: str) -> int:
    """`2009-10-12T17:50:30.000Z` in nanoseconds since the epoch, 0 when it is no such time."""
    match = _ISO.match(text)
    if match is None:
        return 0
    date, hour, minute, second, fraction = match.groups()
    return _moment(_iso_day(date), hour, minute, second) + int((fraction or "").ljust(9, "0")[:9])


@lru_cache(maxsize=1024)
def http_date_ns(text: str) -> int:
    """`Wed, 21 Oct 2015 07:28:00 GMT` in nanoseconds since the epoch, 0 when it is no such time."""
    match = _HTTP_DATE.match(text)
    if match is None:
        return 0
    date, hour, minute, second = match.groups()
    return _moment(_http_day(date), hour, minute, second)


def _moment(day: int | None, hour: str, minute: str, second: str) -> int:
    return 0 if day is None else (day * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)) * 1_000_000_000


@lru_cache(maxsize=4096)
def _iso_day(date: str) -> int | None:
    try:
        return datetime.fromisoformat(date).toordinal() - _EPOCH
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _http_day(date: str) -> int | None:
    day, month, year = date.split(" ")
    try:
        return datetime(int(year), _MONTHS.index(month) + 1, int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
