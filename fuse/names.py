"""Names, attributes and directory pages: what the kernel may believe, and for how long."""

from __future__ import annotations

import errno
import threading
import time
from typing import Any, TypeVar

from forebay.api import wire
from forebay.cache.disk.index import COMPLETE_LIST, DIR, FILE, NO_MOUNT, NO_OID, ROOT, UNRESOLVED, Dir, Row, pack_row, unpack_row
from forebay.cache.tree import freshness as fr
from forebay.fuse import pages
from forebay.fuse.view import DOOR_DEADLINE, View, WouldBlock, unpack_fixed

_V = TypeVar("_V")

RESOLVE_MOST = 64
DIRS_REMEMBERED = 1024


class Names:
    """Answers about names. Thread-safe; everything it remembers is bounded and may be forgotten."""

    def __init__(self, view: View, owner: tuple[int, int]) -> None:
        self.view = view
        self.owner = owner
        self._begin = view.begin
        self._lock = threading.Lock()
        self._ttls: dict[tuple[int, int, int], int] = {}  # of this second
        self._ttl_second = 0
        self._resolving: dict[int, tuple[int, int]] = {}  # directory -> last inode asked for, window

    def lookup(self, parent: int, name: bytes, wait: bool) -> tuple[bytes, int] | None:
        """The raw row of the child of that name, and whole seconds for which the kernel may believe it (and its attributes).

        None: absent, and `absent_ttl` says for how long that may be believed. `OSError(ENOENT)` when the store says so
        now; other errnos when the store cannot be asked.
        """
        txn = self._begin()
        try:
            raw = self.view.find(txn, parent, name)
            flags = 0
            if raw is not None:
                _, flags, mount, checked, *_ = unpack_fixed(raw)
                ttl = self._ttl(txn, parent, (flags, mount, checked))
                if ttl is not None:
                    return raw, ttl
            elif self._absent_ttl(txn, parent):
                return None
        finally:
            txn.abort()
        if not wait:
            raise WouldBlock
        if raw is not None and flags & UNRESOLVED:
            self._resolve(parent, unpack_row(raw))
        else:
            self.view.ask(wire.Lookup(parent=parent, name=name), wire.Found)
        with self._begin() as txn:
            raw = self.view.find(txn, parent, name)
            if raw is None:
                raise OSError(errno.ENOENT, "absent")
            _, flags, mount, checked, *_ = unpack_fixed(raw)
            if flags & UNRESOLVED:
                raise OSError(errno.EIO, "the store told neither size nor version")
            return raw, self._ttl(txn, parent, (flags, mount, checked)) or 0

    def absent_ttl(self, parent: int) -> int:
        with self._begin() as txn:
            return self._absent_ttl(txn, parent)

    def getattr(self, ino: int, wait: bool) -> tuple[bytes, int]:
        """Raw row and timeout of an inode the kernel knows. Attributes never change, so an expired one costs no question."""
        with self._begin() as txn:
            raw = self.view.row(txn, ino)
            parent = self.view.index.parent(txn, ino)
            if raw is None:
                if ino != ROOT:
                    raise OSError(errno.ESTALE, f"inode {ino} is not in the index")
                d = self.view.index.dir(txn, ROOT)
                return pack_row(Row(DIR, 0, NO_MOUNT, 0, 0, (d.listed if d else 0) * pages.SECOND, ROOT, NO_OID, b"", b"")), 1
            _, flags, mount, checked, *_ = unpack_fixed(raw)
            if not flags & UNRESOLVED:
                return raw, self._ttl(txn, parent, (flags, mount, checked)) or self._own_ttl(mount)
        if not wait:
            raise WouldBlock
        self._resolve(parent, unpack_row(raw))
        return self.getattr(ino, wait=False)

    def _ttl(self, txn: Any, parent: int, key: tuple[int, int, int]) -> int | None:
        """Whole seconds for the kernel, of a row with these flags, mount and second of confirmation; None: ask the store."""
        now = self.view.clock()
        if int(now) != self._ttl_second or len(self._ttls) > 4096:
            self._ttl_second = int(now)
            self._ttls.clear()
        ttl = self._ttls.get(key)
        if ttl is None:
            ttl = self._ttls[key] = self.believed(key, self._ttl_second + 1, 0) or -1  # holds to the end of this second
        if ttl < 0:
            return self.believed(key, now, fr.listed_of(self.view.index.dir(txn, parent)))
        return ttl

    def believed(self, key: tuple[int, int, int], now: float, listed: int) -> int | None:
        """Whole seconds until a row with these flags, mount and second of confirmation must be asked for again; None: now."""
        flags, mount, checked = key
        row = Row(FILE, flags, mount, checked, 0, 0, 0, NO_OID, b"", b"")
        left = fr.entry_ttl(row, fr.mount_freshness(self.view.spec.mounts, mount), now, listed)
        return int(left) if left > 0 else None

    def _own_ttl(self, mount: int) -> int:
        f = fr.mount_freshness(self.view.spec.mounts, mount)
        return int(fr.KERNEL_LIMIT if f is None else min(f.ttl, fr.KERNEL_LIMIT)) or 1

    def _absent_ttl(self, txn: Any, parent: int) -> int:
        d = self.view.index.dir(txn, parent)
        return 0 if d is None else int(fr.absent_ttl(d, fr.sources_freshness(self.view.spec.mounts, d), self.view.clock()))

    def _resolve(self, parent: int, row: Row) -> None:
        """Ask for size and version of an unresolved child, and of a growing number of the ones behind it while names
        are looked up in order: one question of 64 HEADs in parallel instead of 64 in turn."""
        last, window = self._resolving.get(parent, (0, 0))
        window = min(max(window * 2, 1), RESOLVE_MOST) if last < row.ino <= last + 2 * RESOLVE_MOST else 1
        inos = [row.ino]
        if window > 1:
            with self._begin() as txn:
                for raw in self.view.index.scan(txn, parent, row.ino):
                    if len(inos) >= window:
                        break
                    other = unpack_row(raw)
                    if other.flags & UNRESOLVED:
                        inos.append(other.ino)
        with self._lock:
            _remember(self._resolving, parent, (inos[-1], window))
        self.view.ask(wire.Resolve(parent=parent, inos=inos), wire.Done)

    def readdir(self, ino: int, cookie: int, room: int, plus: bool, wait: bool) -> pages.Page:
        """One page. From the index where the listing is whole (and, at its beginning, believed), else as names arrive."""
        after = max(cookie - pages.COOKIE_SHIFT, 0)
        deadline = time.monotonic() + DOOR_DEADLINE
        with self._begin() as txn:
            d = self.view.index.dir(txn, ino)
            if d is not None and self._listed(d, after):
                return self._page(txn, ino, d, pages.Place(cookie, room, plus))
        if not wait:
            raise WouldBlock
        while True:
            reply = self.view.ask(wire.ListDir(ino=ino, after=after), wire.Listed)
            with self._begin() as txn:
                page = self._page(txn, ino, self.view.index.dir(txn, ino), pages.Place(cookie, room, plus))
            if page.cookie > max(cookie, pages.COOKIE_SHIFT) or page.more or (isinstance(reply, wire.Listed) and reply.complete):
                return page
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"the listing of inode {ino} brought nothing for {DOOR_DEADLINE:g} s")

    def _listed(self, d: Dir, after: int) -> bool:
        if d.state != COMPLETE_LIST:
            return False
        return after > 0 or self._fresh(d)

    def _fresh(self, d: Dir) -> bool:
        return fr.listing_fresh(d, fr.sources_freshness(self.view.spec.mounts, d), self.view.clock()) is not None

    def _page(self, txn: Any, ino: int, d: Dir | None, at: pages.Place) -> pages.Page:
        now, listed = self.view.clock(), fr.listed_of(d)

        def ttl_of(key: tuple[int, int, int]) -> int:
            return self.believed(key, now, listed) or 0

        up = self.view.index.parent(txn, ino)
        return pages.build(txn.cursor(db=self.view.index.children), (ino, up), at, self.owner, ttl_of)


def _remember(recent: dict[int, _V], key: int, value: _V) -> None:
    """Put a value last and forget the oldest beyond the bound."""
    recent.pop(key, None)
    recent[key] = value
    if len(recent) > DIRS_REMEMBERED:
        del recent[next(iter(recent))]
