"""Decisions of the namespace, without I/O: which of several answers a name shows, and what a listing does to a known row.

Order is the order of the mounts in the dataset: a lower number wins. Within one store a key `a` that has keys below `a/`
is a directory (the file is hidden), as every object-store mount does.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

from forebay.cache.disk.index import DIR, UNRESOLVED, Row
from forebay.cache.stores.base import Entry, StoreError

_valid = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,255}").fullmatch


def valid_name(name: bytes) -> bool:
    """Whether bytes can be one name of a tree: 1-255 bytes, no slash, no NUL, not "." or ".."."""
    return _valid(name) is not None


class Step(enum.Enum):
    """What to do with one entry of a listing or one answer of a lookup."""

    NEW = enum.auto()  # no such name yet
    KEEP = enum.auto()  # confirmed, nothing to write
    UPDATE = enum.auto()  # same object under the same inode, newer attributes
    NAMED = enum.auto()  # the name is confirmed, its version is not told
    JOIN = enum.auto()  # a directory that this source has too
    REPLACE = enum.auto()  # another object: a new inode under the same name
    DEFER = enum.auto()  # a file where a directory stood: the same listing may still name the directory
    SKIP = enum.auto()  # hidden by what is there


def unresolved(entry: Entry) -> bool:
    """Whether a listing told too little of a file to open it."""
    return not entry.is_dir and (entry.size < 0 or not entry.version)


def same_object(row: Row, entry: Entry) -> bool:
    """Whether a versioned entry is the very object a row of the same mount stands for."""
    return row.version == entry.version and row.size == entry.size


def decide(old: Row | None, entry: Entry, mount: int, *, seen: bool, asked: int, began: int) -> Step:
    """The step for `entry` of `mount` where the index has `old`.

    `seen`: this listing already confirmed `old` (from this or an earlier source). `asked`: unix second at which this answer
    was asked for; what was confirmed later is newer than it. `began`: second at which the whole listing began; an earlier
    source's row confirmed since then still has precedence.
    """
    if old is None:
        return Step.NEW
    newer = old.checked > asked if old.mount >= mount else old.checked >= began
    if entry.is_dir:
        if old.kind == DIR:
            return Step.JOIN
        if seen:
            return Step.REPLACE if old.mount == mount else Step.SKIP
        return Step.KEEP if newer else Step.REPLACE
    if old.kind == DIR:
        if seen:
            return Step.SKIP
        return Step.KEEP if newer else Step.DEFER
    if seen:
        return Step.SKIP
    if newer:
        return Step.KEEP
    if old.mount != mount:
        return Step.REPLACE
    if unresolved(entry):
        return Step.NAMED
    if old.flags & UNRESOLVED:
        return Step.UPDATE
    if not same_object(old, entry):
        return Step.REPLACE
    return Step.KEEP if old.mtime_ns == entry.mtime_ns else Step.UPDATE


class Answer(NamedTuple):
    """What one source said of one name. `entry` None and `error` None: definitely absent."""

    mount: int
    entry: Entry | None
    error: StoreError | None = None


class Shown(NamedTuple):
    """What a name shows: the entry, the mount it is from and, for a directory, every mount that may hold it."""

    mount: int
    entry: Entry
    sources: tuple[int, ...]


def merge(answers: Sequence[Answer]) -> Shown | None:
    """One name out of the answers of all sources, in their order. None: absent by a definite answer of each.

    Raises the error of a source that hides the truth: one without an answer ahead of the first that has the name. A source
    behind a directory that gave no answer stays among the directory's sources: its listing will tell.
    """
    shown: Shown | None = None
    for a in answers:
        if shown is None:
            if a.error is not None:
                raise a.error
            if a.entry is not None:
                shown = Shown(a.mount, a.entry, (a.mount,) if a.entry.is_dir else ())
                if not a.entry.is_dir:
                    return shown
        elif a.error is not None or (a.entry is not None and a.entry.is_dir):
            shown = shown._replace(sources=(*shown.sources, a.mount))
    return shown


class InoSet:
    """A set of inode numbers as a sparse bitmap: one bit each where they are dense, as those of one listing are.

    A directory of ten million entries costs 1.25 MB; a Python set would cost 600 MB.
    """

    _SHIFT = 12
    _BYTES = 1 << (_SHIFT - 3)

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, ino: int) -> bool:
        chunk = self._chunks.get(ino >> self._SHIFT)
        return chunk is not None and bool(chunk[(ino >> 3) & (self._BYTES - 1)] & (1 << (ino & 7)))

    def add(self, ino: int) -> None:
        chunk = self._chunks.get(ino >> self._SHIFT)
        if chunk is None:
            chunk = self._chunks[ino >> self._SHIFT] = bytearray(self._BYTES)
        at, bit = (ino >> 3) & (self._BYTES - 1), 1 << (ino & 7)
        if not chunk[at] & bit:
            chunk[at] |= bit
            self._count += 1


class EndlessGuard:
    """Tells a listing that goes in circles from a long one, in constant memory (Brent's cycle detection).

    It remembers one page (its token, its first and last name and its length) and renews that memory at page numbers that
    double, so a circle of n pages is found within 3 n pages.
    """

    EMPTY_PAGES = 16
    """Consecutive pages without a name: some stores send a few where many versions were deleted."""

    def __init__(self) -> None:
        self._token: bytes | None = None
        self._page: tuple[bytes, bytes, int] | None = None
        self._power = 1
        self._steps = 0
        self._empty = 0

    def endless(self, token: bytes, names: Sequence[bytes]) -> bool:
        """Feed one page that promises another. True when the listing makes no progress.

        `names` in the page's order, directories with a slash: an object store lists `a` and `a/` as two names.
        """
        page = (names[0], names[-1], len(names)) if names else None
        self._empty = 0 if names else self._empty + 1
        if token == self._token or (page is not None and page == self._page) or self._empty >= self.EMPTY_PAGES:
            return True
        self._steps += 1
        if self._steps >= self._power:
            self._token, self._page = token, page
            self._power *= 2
            self._steps = 0
        return False


MISSES_UNLISTED = 4
MISSES_LISTED = 16
PAGE = 1000


def worth_listing(misses: int, listed: bool, entries: int) -> bool:
    """Whether a directory asked for name by name is cheaper listed: as many single questions as the listing has pages."""
    if not listed:
        return misses >= MISSES_UNLISTED and misses * PAGE >= entries
    return misses >= MISSES_LISTED and misses * PAGE >= entries
