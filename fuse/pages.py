"""Directory pages: the bytes of READDIR and READDIRPLUS replies, built from raw index rows in one loop.

A hundred thousand entries are 512 pages of 32 KiB; at 2 us an entry the building is a fifth of what the kernel needs to
turn them into inodes, so no object is made per entry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from forebay.cache.disk.index import _PAIR, _ROW, DIR, UNRESOLVED

S_IFDIR, S_IFREG = 0o040000, 0o100000
DIR_MODE = S_IFDIR | 0o555
FILE_MODE = S_IFREG | 0o444
DT_DIR, DT_REG = 4, 8
BLKSIZE = 4096
"""As ext4 says. A larger one would make every buffered random read of a large file that much longer (Python, stdio)."""
DIR_SIZE = 4096
SECOND = 1_000_000_000

COOKIE_SHIFT = 2
"""A cookie is the inode number of the entry before, plus 2: 1 and 2 stand behind "." and ".."."""

_HEAD = struct.Struct("<BBHIQqQ16xH2x")  # a row up to its name: kind, flags, mount, checked, size, mtime, ino, length of the name
# nodeid, entry ttl, attr ttl | ino, size, blocks, 3 times, 3 nsec, mode, nlink, uid, gid, blksize | ino, off, namelen, type
_PLUS = struct.Struct("<Q8xQQ8xQQQQQQIIIIIII4xI4xQQII")
_PLAIN = struct.Struct("<QQII")
_DOT_PLUS = struct.Struct("<128xQQII8s")
_DOT_PLAIN = struct.Struct("<QQII8s")
PLUS_SIZE = _PLUS.size
assert PLUS_SIZE == 152
assert _HEAD.size == _ROW.size


class Page(NamedTuple):
    """`data` is the reply's body, `cookie` where the next page begins, `more` whether rows were left out for want of room."""

    data: bytes
    cookie: int
    more: bool


class Place(NamedTuple):
    """What a READDIR asks for: rows behind `cookie`, at most `room` bytes, with attributes or without."""

    cookie: int
    room: int
    plus: bool


def build(
    cursor: Any, who: tuple[int, int], place: Place, owner: tuple[int, int], ttl_of: Callable[[tuple[int, int, int]], int]
) -> Page:
    """One page of the directory and parent `who`; files belong to `owner` (uid, gid).

    `cursor` iterates the `children` database. `ttl_of((flags, mount, checked))` gives the kernel's timeout in seconds; rows
    without attributes yet, and rows whose timeout is 0, go out with nodeid 0: a name and a type, nothing believed.
    """
    parent, up = who
    cookie, room, plus = place
    uid, gid = owner
    out = bytearray(room)
    at = 0
    if cookie < COOKIE_SHIFT:
        dot, size = (_DOT_PLUS, 160) if plus else (_DOT_PLAIN, 32)
        if cookie == 0:
            if size > room:
                return Page(b"", cookie, True)
            dot.pack_into(out, 0, parent, 1, 1, DT_DIR, b".")
            at, cookie = size, 1
        if at + size > room:
            return Page(bytes(out[:at]), cookie, True)
        dot.pack_into(out, at, up, 2, 2, DT_DIR, b"..")
        at, cookie = at + size, 2
    # the last row of the directory is known beforehand, so that the loop needs no keys
    last = _last(cursor, parent)
    if last <= cookie - COOKIE_SHIFT or not cursor.set_range(_PAIR.pack(parent, cookie - COOKIE_SHIFT + 1)):
        return Page(bytes(out[:at]), cookie, False)
    head = PLUS_SIZE if plus else 24
    unpack, fixed = _HEAD.unpack_from, _ROW.size
    pack_plus, pack_plain = _PLUS.pack_into, _PLAIN.pack_into
    ttl, last_flags, last_mount, last_checked, ino = 0, -1, -1, -1, 0
    for raw in cursor.iternext(False, True):
        kind, flags, mount, checked, length, mtime, ino, n = unpack(raw)
        name_at = at + head
        after = (name_at + n + 7) & ~7
        if after > room:
            return Page(bytes(out[:at]), cookie, True)
        if plus:
            if checked != last_checked or mount != last_mount or flags != last_flags:
                last_flags, last_mount, last_checked = flags, mount, checked
                ttl = 0 if flags & UNRESOLVED else ttl_of((flags, mount, checked))
            s, ns = divmod(mtime, SECOND)
            if s < 0:
                s += 1 << 64
            if not ttl:
                pack_plus(out, at, *_NOTHING, ino, ino + 2, n, DT_DIR if kind == DIR else DT_REG)
            elif kind == DIR:
                pack_plus(
                    out, at, ino, ttl, ttl, ino, DIR_SIZE, 8, s, s, s, ns, ns, ns, DIR_MODE, 2, uid, gid, BLKSIZE,
                    ino, ino + 2, n, DT_DIR,
                )  # fmt: skip
            else:
                pack_plus(
                    out, at, ino, ttl, ttl, ino, length, (length + 511) >> 9, s, s, s, ns, ns, ns, FILE_MODE, 1, uid, gid,
                    BLKSIZE, ino, ino + 2, n, DT_REG,
                )  # fmt: skip
        else:
            pack_plain(out, at, ino, ino + 2, n, DT_DIR if kind == DIR else DT_REG)
        out[name_at : name_at + n] = raw[fixed : fixed + n]
        at = after
        cookie = ino + 2
        if ino == last:
            break
    return Page(bytes(out[:at]), cookie, False)


def _last(cursor: Any, parent: int) -> int:
    """The largest inode number among the children of a directory, 0 when it has none."""
    found = cursor.prev() if cursor.set_range(_PAIR.pack(parent + 1, 0)) else cursor.last()
    if not found:
        return 0
    up, ino = _PAIR.unpack(cursor.key())
    return ino if up == parent else 0


_NOTHING = (0,) * 17
