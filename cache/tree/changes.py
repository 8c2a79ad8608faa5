"""Changes of the merged tree, each in one write transaction: rows, names, directories, orphans, counts and events together.

Invariants (checked by `Index.verify`): every name has its child and its inode, every child directory has a `dirs` row,
`Dir.entries` is the number of rows of the directory, `counts` is the number of rows in `children`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from forebay.api import wire
from forebay.cache.disk.index import (
    COMPLETE_LIST,
    DIR,
    FILE,
    FIXED,
    LISTING,
    NO_MOUNT,
    NO_OID,
    ROOT,
    UNCONFIRMED,
    UNLISTED,
    UNRESOLVED,
    Dir,
    Index,
    Row,
    object_id,
    pack_dir,
    pack_file,
    pack_row,
    unchanged,
    unpack_row,
)  # fmt: skip
from forebay.cache.stores.base import Entry
from forebay.cache.tree.merge import InoSet, Shown, Step, decide, unresolved, valid_name
from forebay.cache.tree.mounts import Place

_U64 = struct.Struct(">Q")
MTIME_LIMIT = 1 << 62
SIZE_LIMIT = (1 << 63) - 1
VERSION_MOST = 1024


class Source(NamedTuple):
    """One mount as the tree needs it: its number, its identity and, of a directory, the key prefix ("" or ending in "/")."""

    mount: int
    store: str
    prefix: bytes


def row_of(entry: Entry, source: Source, ino: int, checked: int) -> Row:
    """A new row for what a store said."""
    mtime = max(-MTIME_LIMIT, min(entry.mtime_ns, MTIME_LIMIT))
    if entry.is_dir:
        return Row(DIR, 0, source.mount, checked, 0, mtime, ino, NO_OID, entry.name, b"")
    if unresolved(entry):
        return Row(FILE, UNRESOLVED | UNCONFIRMED, source.mount, checked, max(0, entry.size), mtime, ino, NO_OID, entry.name, b"")
    oid = object_id(source.store, source.prefix + entry.name, entry.version)
    return Row(FILE, 0, source.mount, checked, min(entry.size, SIZE_LIMIT), mtime, ino, oid, entry.name, entry.version)


class Writer:
    """What one transaction does to the tree. `finish` writes directories and counts; the caller then commits and, only
    after that, tells `events` to subscribers and keeps `counts`."""

    def __init__(self, index: Index, txn: Any) -> None:
        self.index = index
        self.txn = txn
        self.counts = index.counts(txn)
        self.events: list[wire.Changed] = []
        self.new_dirs = False
        self.lost: list[int] = []  # directories that have no name any more
        self._dirs: dict[int, Dir] = {}

    def dir(self, ino: int) -> Dir | None:
        d = self._dirs.get(ino)
        return d if d is not None else self.index.dir(self.txn, ino)

    def put_dir(self, ino: int, d: Dir) -> None:
        self._dirs[ino] = d

    def finish(self) -> None:
        if self._dirs:
            with self.txn.cursor(db=self.index.dirs) as cursor:
                cursor.putmulti([(_U64.pack(ino), pack_dir(d)) for ino, d in self._dirs.items()])
            self._dirs.clear()
        self.index.put_counts(self.txn, self.counts)

    # one row

    def grew(self, parent: int, change: int) -> None:
        """A directory has `change` rows more."""
        d = self.dir(parent)
        if d is not None:
            self.put_dir(parent, d._replace(entries=max(0, d.entries + change)))

    def _count(self, row: Row, sign: int) -> None:
        c = self.counts
        if row.kind == DIR:
            self.counts = c._replace(dirs=c.dirs + sign)
        else:
            self.counts = c._replace(files=c.files + sign, bytes=c.bytes + sign * row.size)

    def add(self, parent: int, row: Row, sources: tuple[int, ...] = ()) -> None:
        """A child under a name that is free."""
        self.index.put_row(self.txn, parent, row)
        if row.kind == DIR:
            self.new_dirs = True
            self.put_dir(row.ino, Dir(UNLISTED, 0, 0, 0, sources))
        self._count(row, 1)
        self.grew(parent, 1)

    def take(self, parent: int, row: Row, *, orphan: bool) -> None:
        """Take a child out of its directory; counts follow. What is below a directory counts until it is emptied (`orphans`)."""
        self.index.drop_row(self.txn, parent, row, orphan=orphan)
        if row.kind == DIR and orphan:
            self.lost.append(row.ino)
        self._count(row, -1)
        self.grew(parent, -1)

    def forget_dir(self, ino: int) -> None:
        """A directory that has neither name nor children: its listing state goes."""
        self._dirs.pop(ino, None)
        self.txn.delete(_U64.pack(ino), db=self.index.dirs)

    def remove(self, parent: int, row: Row, now: int, *, replaced: bool = False) -> None:
        """Take the name from a child. Who holds its inode can still read its row until it is reaped (`orphans`)."""
        self.take(parent, row._replace(checked=now), orphan=True)
        if not replaced:
            self.events.append(wire.Changed(parent, row.name, row.ino, 0))

    def replace(self, parent: int, old: Row, new: Row, now: int, sources: tuple[int, ...] = ()) -> None:
        """Another object under the same name."""
        self.remove(parent, old, now, replaced=True)
        self.add(parent, new, sources)
        self.events.append(wire.Changed(parent, old.name, old.ino, new.ino))

    def rewrite(self, parent: int, old: Row, new: Row) -> None:
        """The same inode with newer attributes."""
        if new != old:
            self.index.put_row(self.txn, parent, new)
            self._count(old, -1)
            self._count(new, 1)

    def resource(self, parent: int, old: Row, sources: tuple[int, ...], checked: int) -> None:
        """Another set of mounts may hold a known directory; one more makes its listing incomplete."""
        d = self.dir(old.ino) or Dir(UNLISTED, 0, 0, 0, ())
        if d.sources != sources:
            gained = not set(sources) <= set(d.sources)
            state, listed = (min(d.state, LISTING), 0) if gained else (d.state, d.listed)
            self.put_dir(old.ino, Dir(state, listed, d.entries, d.epoch, sources))
        mount = sources[0] if sources else NO_MOUNT
        if mount != old.mount or checked > old.checked:
            self.rewrite(parent, old, old._replace(mount=mount, checked=max(checked, old.checked)))

    # answers

    def confirm(
        self, parent: int, name: bytes, shown: Shown | None, source: Source | None, *, asked: int, now: int
    ) -> Row | None:
        """Write what all sources together said of one name (`None`: definitely absent); the row it now has, if any."""
        old = self.index.find(self.txn, parent, name)
        if old is not None and old.flags & FIXED:
            return old
        if shown is None or source is None:
            if old is None or old.checked > asked:
                return old
            self.remove(parent, old, now)
            return None
        entry = shown.entry
        step = decide(old, entry, shown.mount, seen=False, asked=asked, began=asked + 1)
        if old is None or step is Step.NEW:
            row = row_of(entry, source, self.index.next_ino(self.txn), asked)
            self.add(parent, row, shown.sources)
            return row
        if step is Step.JOIN:
            self.resource(parent, old, shown.sources, asked)
            return old
        if step in (Step.REPLACE, Step.DEFER):
            row = row_of(entry, source, self.index.next_ino(self.txn), asked)
            self.replace(parent, old, row, now, shown.sources)
            return row
        if step is Step.UPDATE:
            row = row_of(entry, source, old.ino, asked)
            row = row._replace(flags=row.flags | old.flags & UNCONFIRMED)
            self.rewrite(parent, old, row)
            return row
        if old.checked >= asked:
            return old
        row = old._replace(checked=asked)
        self.rewrite(parent, old, row)
        return row


class PageApply:
    """Applies the pages of one listing of one directory. One object per listing; `seen` tells what it confirmed."""

    def __init__(self, parent: int, began: int, fixed: frozenset[bytes]) -> None:
        self.parent = parent
        self.began = began
        self.seen = InoSet()
        self.skipped = 0
        self._fixed = fixed
        self._deferred: dict[bytes, Entry] = {}

    DEFER_LIMIT = 10_000

    def page(self, w: Writer, source: Source, entries: Sequence[Entry], asked: int) -> None:
        """One page of one source: new names are appended in bulk, known ones decided one by one (7 us and 5 us each)."""
        up = _U64.pack(self.parent)
        wanted: dict[bytes, Entry] = {}
        for e in entries:
            name = e.name
            if not valid_name(name) or len(e.version) > VERSION_MOST:
                self.skipped += 1
            elif name not in self._fixed and ((key := up + name) not in wanted or e.is_dir):
                wanted[key] = e
        with w.txn.cursor(db=w.index.names) as cursor:
            known = dict(cursor.getmulti(list(wanted)))
        if not known:
            self._append(w, source, list(wanted.values()), asked)
            return
        with w.txn.cursor(db=w.index.children) as cursor:
            rows = dict(cursor.getmulti([up + ino for ino in known.values()]))
        fresh = []
        add = self.seen.add
        for key, e in wanted.items():
            ino = known.get(key)
            if ino is None:
                fresh.append(e)
                continue
            raw = rows.get(up + ino)
            if raw is None:
                raise w.index.damaged(f"name {e.name!r} of directory {self.parent} has no row")
            if not e.is_dir and e.version and unchanged(raw, source.mount, e.size, e.mtime_ns, e.name + e.version):
                add(int.from_bytes(ino, "big"))
            else:
                self._known(w, source, e, unpack_row(raw), asked)
        if fresh:
            self._append(w, source, fresh, asked)

    def _append(self, w: Writer, source: Source, entries: list[Entry], asked: int) -> None:
        if not entries:
            return
        up = _U64.pack(self.parent)
        first = w.index.next_ino(w.txn, len(entries))
        children, names, inodes, dirs = [], [], [], []
        size = 0
        empty = pack_dir(Dir(UNLISTED, 0, 0, 0, (source.mount,)))
        add = self.seen.add
        for ino, e in enumerate(entries, first):
            raw = _U64.pack(ino)
            if e.version and 0 <= e.size <= SIZE_LIMIT and -MTIME_LIMIT < e.mtime_ns < MTIME_LIMIT and not e.is_dir:
                oid = object_id(source.store, source.prefix + e.name, e.version)
                packed = pack_file((0, source.mount, asked, e.size, e.mtime_ns, ino), oid, e.name, e.version)
                size += e.size
            else:
                row = row_of(e, source, ino, asked)
                packed = pack_row(row)
                size += row.size
                if e.is_dir:
                    dirs.append((raw, empty))
            children.append((up + raw, packed))
            names.append((up + e.name, raw))
            inodes.append((raw, up))
            add(ino)
        for db, items in (
            (w.index.children, children), (w.index.names, names), (w.index.inodes, inodes), (w.index.dirs, dirs),
        ):  # fmt: skip
            if items:
                with w.txn.cursor(db=db) as cursor:
                    cursor.putmulti(items)
        w.new_dirs = w.new_dirs or bool(dirs)
        c = w.counts
        w.counts = c._replace(dirs=c.dirs + len(dirs), files=c.files + len(entries) - len(dirs), bytes=c.bytes + size)
        w.grew(self.parent, len(entries))

    def _known(self, w: Writer, source: Source, e: Entry, old: Row, asked: int) -> None:
        name, number = e.name, old.ino
        if old.flags & FIXED:  # became a mount path since this listing began
            return
        seen = number in self.seen
        step = decide(old, e, source.mount, seen=seen, asked=asked, began=self.began)
        if step is Step.DEFER:
            if len(self._deferred) < self.DEFER_LIMIT:
                self._deferred[name] = e
                return
            step = Step.REPLACE
        if step is Step.JOIN:
            self._deferred.pop(name, None)
            d = w.dir(number)
            had = d.sources if d is not None else ()
            if source.mount not in had:
                w.resource(self.parent, old, tuple(sorted({*had, source.mount})), 0)
        elif step is Step.REPLACE:
            row = row_of(e, source, w.index.next_ino(w.txn), asked)
            w.replace(self.parent, old, row, asked, (source.mount,) if e.is_dir else ())
            number = row.ino
        elif step is Step.UPDATE:
            w.rewrite(self.parent, old, row_of(e, source, number, asked))
        elif step is Step.NAMED and not old.flags & UNCONFIRMED:
            w.rewrite(self.parent, old, old._replace(flags=old.flags | UNCONFIRMED))
        self.seen.add(number)

    def end_of_source(self, w: Writer, source: Source, asked: int) -> None:
        """The source was listed to its end: a file named where a directory stood, and no such directory, replaces it."""
        for name, e in self._deferred.items():
            old = w.index.find(w.txn, self.parent, name)
            if old is None or old.ino in self.seen:
                continue
            row = row_of(e, source, w.index.next_ino(w.txn), asked)
            w.replace(self.parent, old, row, asked)
            self.seen.add(row.ino)
        self._deferred.clear()

    def sweep(self, w: Writer, after: int, limit: int, now: int) -> int | None:
        """Remove rows that no source named, `limit` rows of the directory at a time; where to go on, None at the end.

        What a lookup confirmed since the listing began stays.
        """
        gone: list[Row] = []
        at = after
        n = 0
        for ino, raw in w.index.scan_raw(w.txn, self.parent, after):
            if n == limit:
                break
            n += 1
            at = ino
            if ino not in self.seen:
                row = unpack_row(raw)
                if not row.flags & FIXED and row.checked < self.began:
                    gone.append(row)
        for row in gone:
            w.remove(self.parent, row, now)
        return at if n == limit else None


def plant(w: Writer, place: Place, parent: int, name: bytes, now: int) -> int:
    """The fixed directory of a mount path (`parent` 0: the root); its inode number, the same at every start."""
    old = w.index.row(w.txn, ROOT) if parent == 0 else w.index.find(w.txn, parent, name)
    mount = place.own[0] if place.own else NO_MOUNT
    if old is not None and old.flags & FIXED:
        return old.ino
    if old is not None:
        w.remove(parent, old, now, replaced=True)
    ino = ROOT if parent == 0 else w.index.next_ino(w.txn)
    row = Row(DIR, FIXED, mount, now, 0, now * 1_000_000_000, ino, NO_OID, name, b"")
    w.add(parent, row, place.sources)
    if not place.sources:
        w.put_dir(ino, Dir(COMPLETE_LIST, now, 0, 1, ()))
    return ino
