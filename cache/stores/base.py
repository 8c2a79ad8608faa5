"""The one interface every store is read through, and the small fixed set of errors it may raise.

A store is synchronous and thread-safe: the worker calls it from a bounded pool of threads, each of which gets its own
pooled connection. Every call ends within the store's deadline (10 s to connect and for a first byte by default).
"""

from __future__ import annotations

from typing import Protocol

import msgspec

CONNECT_TIMEOUT = 8.0
"""Seconds to connect, so that an unreachable endpoint is answered within 10."""
STALL_TIMEOUT = 10.0
"""Seconds without one byte before an answer counts as stalled."""


class StoreError(Exception):
    """Base. `str()` is one sentence that names the store, the key and what to do next."""

    errno_name = "EIO"


class NotFound(StoreError):
    """A definite 404 (or ENOENT): the only error that may make a name absent."""

    errno_name = "ENOENT"


class Changed(StoreError):
    """The object is no longer of the version asked for."""

    errno_name = "ESTALE"


class Denied(StoreError):
    """The store refused the credentials, or has no such bucket for them."""

    errno_name = "EACCES"


class Unavailable(StoreError):
    """No answer, a cut or stalled answer, 429 or 5xx: worth another try within the caller's budget."""


class BadReply(StoreError):
    """An answer that makes no sense, twice. Not retried."""


class Entry(msgspec.Struct, frozen=True):
    """One name of a listing, or one object. `version` is b"" and `size` -1 where the listing does not tell."""

    name: bytes  # a single path component
    is_dir: bool
    size: int = -1
    mtime_ns: int = 0
    version: bytes = b""


class Page(msgspec.Struct, frozen=True):
    """One page of a directory. `token` is None on the last page; only a listing read to that end is complete."""

    entries: list[Entry]
    token: bytes | None
    skipped: int = 0  # keys that have no name in a tree (NUL, "..", empty parts, over 255 bytes)


class Body(Protocol):
    """An open ranged read. Yields exactly the bytes asked for, of exactly the version asked for, or raises."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill up to len(buffer) bytes; 0 only after the whole range was delivered."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """A tree of objects below one mount point. Keys are relative to it, without a leading slash; directories end in "/"."""

    @property
    def strong(self) -> bool:
        """True where `version` is a validator that changes with every change of the bytes."""
        ...

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        """One page of the directory `prefix` (b"" or ending in "/"). `NotFound` only when the store says so."""
        ...

    def stat(self, key: bytes) -> Entry:
        """Version, size and time of one object. `NotFound` when there is none."""
        ...

    def is_dir(self, key: bytes) -> bool:
        """Whether anything lives below `key` + "/" (one one-key listing)."""
        ...

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        """Open [offset, offset+length) of exactly that version; `Changed` when it is another."""
        ...

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        """One exchange for a small object: its current version and its bytes."""
        ...

    def probe(self) -> None:
        """One cheap exchange that proves reach and credentials; raises the error a person should read."""
        ...

    def close(self) -> None: ...
