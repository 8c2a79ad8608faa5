"""What a web server's answer says about an object: its coding, its refusal. Pure."""

from __future__ import annotations

from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, StoreError, Unavailable
from forebay.cache.stores.net.retry import Throttled

_STORED = {
    "gzip": (b".gz", b".tgz", b".svgz"),
    "x-gzip": (b".gz", b".tgz", b".svgz"),
    "compress": (b".z",),
    "x-compress": (b".z",),
    "bzip2": (b".bz2", b".tbz"),
    "x-bzip2": (b".bz2", b".tbz"),
    "xz": (b".xz", b".txz"),
    "x-xz": (b".xz", b".txz"),
    "zstd": (b".zst", b".tzst"),
    "br": (b".br",),
}


def stored_coding(key: bytes, coding: str) -> str:
    """`coding` when the object's name says that its own bytes are so coded (Apache labels `a.tar.gz` so), else ""."""
    return coding if key.lower().endswith(_STORED.get(coding, ())) else ""


def error_for(status: int, label: object, *, signed: bool, retry_after: str = "") -> StoreError:
    """The error for a refusal."""
    if status in {404, 410}:
        return NotFound(f"{label}: the server has no such object (status {status})")
    if status in {401, 403, 407}:
        remedy = "correct the secret's username and password" if signed else "it may want a username and password as a secret"
        return Denied(f"{label}: the server refuses (status {status}); {remedy}, or allow the path (and its index) on the server")
    if status in {412, 416}:
        return Changed(f"{label}: the object has changed since it was listed; list it again")
    if status in {429, 503}:
        after = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        return Throttled(f"{label}: the server asks for fewer requests (status {status}); try again later", min(after, 3600.0))
    if status >= 500 or status in {408, 425}:
        return Unavailable(f"{label}: the server failed with status {status}; try again")
    return BadReply(f"{label}: unexpected status {status}; check the address")
