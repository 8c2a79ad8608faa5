"""Versions of objects as answers and listings state them: an entity tag, else the time of change and the size. Pure.

Written as they are compared: `"tag"`, `W/"tag"`, or `t<seconds>;<size>` where the store has no tags (a versitygw over a plain
folder, Python's http.server). Seconds, because a listing may know milliseconds where a header cannot.
"""

from __future__ import annotations

from forebay.cache.stores.names import http_date_ns

_NS = 1_000_000_000


def tag(value: str) -> bytes:
    """An entity tag in its one canonical form, quoted; b"" when there is none. Some listings leave the quotes out."""
    value = value.strip()
    if not value or value in {'""', 'W/""'}:
        return b""
    if not value.endswith('"'):
        value = f'W/"{value[2:]}"' if value.startswith("W/") else f'"{value}"'
    return value.encode("latin-1", "replace")


def timed(mtime_ns: int, size: int) -> bytes:
    return b"t%d;%d" % (mtime_ns // _NS, size)


def is_strong(version: bytes) -> bool:
    """Whether it may go into `If-Match`."""
    return version.startswith(b'"')


def version_of(headers: dict[str, str], size: int) -> bytes:
    """The version of the object an answer is about. Only an entity tag can be strong."""
    return tag(headers.get("etag", "")) or timed(http_date_ns(headers.get("last-modified", "")), size)


def proves(version: bytes, headers: dict[str, str], total: int | None) -> bool | None:
    """Whether an answer is of `version`: yes, no, or None when it does not say. `total` is the whole size, if known."""
    if not version.startswith(b"t"):
        found = tag(headers.get("etag", ""))
        return found == version if found else None
    seconds, _, size = version[1:].partition(b";")
    found_ns = http_date_ns(headers.get("last-modified", ""))
    if found_ns // _NS != int(seconds):
        return False if found_ns else None
    if total is None:
        return True if found_ns else None
    return total == int(size)


def conditions(version: bytes) -> str:
    """Header lines that make the server refuse another version, where it can. `If-Unmodified-Since` is not used: a server
    that keeps fractions of a second (versitygw) then refuses the very version whose time it told."""
    return f"If-Match: {version.decode('latin-1')}\r\n" if is_strong(version) else ""
