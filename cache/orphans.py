"""Versions and directories that no name points to any more: kept readable for who holds them, then reaped."""

from __future__ import annotations

import struct
from collections.abc import Callable

from forebay.cache.index import DIR, pack_row, unpack_row
from forebay.cache.tree import Writer

_U64 = struct.Struct(">Q")


def reap(w: Writer, limit: int, removed_before: float, held: Callable[[int], bool]) -> int:
    """Delete up to about `limit` rows that lost their name before unix second `removed_before` and that nobody holds.

    A directory is emptied first: its subdirectories become orphans of their own and go in a later call. Returns the number of
    rows deleted; 0: nothing more to do now.
    """
    index, txn = w.index, w.txn
    done = 0
    for key, raw in list(_first(w, limit, removed_before, held)):
        row = unpack_row(raw)
        if row.kind == DIR:
            done += _empty(w, row.ino, limit - done, row.checked, held)
            d = w.dir(row.ino)
            if d is not None and d.entries:
                if done >= limit:
                    break
                continue
            w.forget_dir(row.ino)
        txn.delete(key, db=index.orphans)
        txn.delete(key, db=index.inodes)
        done += 1
        if done >= limit:
            break
    return done


def _first(w: Writer, limit: int, removed_before: float, held: Callable[[int], bool]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for key, raw in w.txn.cursor(db=w.index.orphans):
        row = unpack_row(raw)
        if row.checked < removed_before and not held(row.ino):
            found.append((key, raw))
            if len(found) == limit:
                break
    return found


def _empty(w: Writer, ino: int, limit: int, removed: int, held: Callable[[int], bool]) -> int:
    """Take children out of a directory that has no name; what is held becomes an orphan of its own."""
    rows = []
    for _, raw in w.index.scan_raw(w.txn, ino, 0):
        rows.append(unpack_row(raw))
        if len(rows) >= max(1, limit):
            break
    for row in rows:
        keep = row.kind == DIR or held(row.ino)
        w.take(ino, row, orphan=keep)
        if keep:
            w.txn.put(_U64.pack(row.ino), pack_row(row._replace(checked=removed)), db=w.index.orphans)
    return len(rows)
