"""Pages of one S3 directory put in order: where a key is hidden by a directory of its name, and where a listing runs in
circles. Pure; what must be remembered between pages travels in the token, so any process can go on.
"""

from __future__ import annotations

import msgspec

from forebay.cache.stores.base import BadReply, Entry, Page
from forebay.cache.stores.s3.xml import Listing, Unparsable

MAX_EMPTY = 100
"""Truncated pages without one key that are believed in a row."""


class Resume(msgspec.Struct, frozen=True, array_like=True):
    """`held` are files whose directory of the same name could still come: `a` sorts before `a.txt` and that before `a/`.
    They are never more than the last key has bytes."""

    token: str
    last: bytes
    empty: int
    held: list[Entry]


def decode_token(token: bytes | None) -> Resume | None:
    if token is None:
        return None
    try:
        return msgspec.msgpack.decode(token, type=Resume)
    except (msgspec.DecodeError, ValueError) as e:
        raise BadReply("a listing was resumed with a token that is none of ours; list the directory from its start") from e


def merge(prefix: bytes, listing: Listing, resume: Resume | None, *, ordered: bool) -> Page:
    """The page to give out. `ordered`: keys come in byte order over all pages (all buckets but S3 directory buckets).

    Raises `Unparsable` when the listing cannot come to an end.
    """
    before = resume.last if resume is not None else b""
    empty = 0
    if listing.keys == 0 and listing.token is not None:
        empty = (resume.empty if resume is not None else 0) + 1
        if empty > MAX_EMPTY:
            raise Unparsable(f"{MAX_EMPTY} empty pages in a row, each promising more")
    if resume is not None and listing.token == resume.token:
        raise Unparsable("the next page is the page itself")
    if ordered and resume is not None and listing.keys and listing.last <= before:
        raise Unparsable("the next page lies before the one already read")
    last = max(before, listing.last)
    dirs = {entry.name for entry in listing.dirs}
    entries = listing.dirs
    held: list[Entry] = []
    skipped = listing.skipped
    for entry in [*(resume.held if resume is not None else ()), *listing.files]:
        if entry.name in dirs:
            skipped += 1
        elif ordered and listing.token is not None and prefix + entry.name + b"/" > last:
            held.append(entry)
        else:
            entries.append(entry)
    token = None
    if listing.token is not None:
        token = msgspec.msgpack.encode(Resume(listing.token, last, empty, held))
    return Page(entries, token, skipped)
