"""Paths with `*`, `?`, `[...]` and `**`, as a shell takes them, in the dataset's tree."""

from __future__ import annotations

import fnmatch
import re

from forebay.cache.disk.index import DIR, Row, unpack_row
from forebay.cache.stores.base import NotFound, Unavailable
from forebay.cache.tree.mounts import components
from forebay.cache.tree.namespace import Namespace, NotADirectory

MATCHES_MOST = 100_000
_MAGIC = re.compile(rb"[*?\[]")


async def matching(namespace: Namespace, path: bytes) -> list[Row]:
    """What is at a path; a name that is there as it is written needs no pattern. Names with a leading dot match only patterns
    that have one.

    Raises `NotFound` when nothing matches, and `Unavailable` when more than `MATCHES_MOST` do.
    """
    try:
        return [await namespace.path(path)]
    except (NotFound, NotADirectory):
        if not _MAGIC.search(path):
            raise
    found: list[tuple[bytes, Row]] = [(b"", await namespace.path(b"/"))]
    for name in components(path):
        following: list[tuple[bytes, Row]] = []
        for where, row in found:
            if row.kind != DIR:
                continue
            if name == b"**":
                following += await _below(namespace, where, row)
            elif _MAGIC.search(name):
                following += [(where + b"/" + r.name, r) for r in await children(namespace, row.ino) if _matches(r.name, name)]
            else:
                try:
                    following.append((where + b"/" + name, await namespace.path(where + b"/" + name)))
                except (NotFound, NotADirectory):
                    continue
            if len(following) > MATCHES_MOST:
                raise Unavailable(
                    f"more than {MATCHES_MOST} names match {path.decode('utf-8', 'backslashreplace')}: name a directory"
                )
        found = list({r.ino: (where, r) for where, r in following}.values())  # `**` may lead to one place twice
    if not found:
        raise NotFound(f"nothing matches {path.decode('utf-8', 'backslashreplace')}")
    return [row for _, row in found]


async def children(namespace: Namespace, ino: int) -> list[Row]:
    """Every child of a directory, listed where it has to be. Raises `StoreError`."""
    index = namespace.index
    rows: list[Row] = []
    complete = False
    while not complete:
        complete = await namespace.list_dir(ino, rows[-1].ino if rows else 0)
        with index.env.begin() as txn:
            rows += [unpack_row(bytes(raw)) for raw in index.scan(txn, ino, rows[-1].ino if rows else 0)]
    return rows


async def _below(namespace: Namespace, where: bytes, top: Row) -> list[tuple[bytes, Row]]:
    """A directory and every one below it."""
    out = [(where, top)]
    for path, row in out:  # grows while it is gone through
        for child in await children(namespace, row.ino):
            if child.kind == DIR and not child.name.startswith(b"."):
                out.append((path + b"/" + child.name, child))
        if len(out) > MATCHES_MOST:
            break
    return out


def _matches(name: bytes, pattern: bytes) -> bool:
    return (not name.startswith(b".") or pattern.startswith(b".")) and fnmatch.fnmatchcase(name, pattern)
