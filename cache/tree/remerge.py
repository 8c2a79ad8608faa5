"""Mounts come and go while the tree lives: what that does to the directories of mount paths, in one transaction.

A directory that only leads to a mount path keeps its inode when it becomes one, and when it stops to be one. At a mount path
itself another tree begins, so there the inode is new. What lost its name stays readable for who holds it.
"""

from __future__ import annotations

from forebay.cache.disk.index import COMPLETE_LIST, DIR, FIXED, LISTING, NO_MOUNT, ROOT, Row
from forebay.cache.tree.changes import Writer, plant
from forebay.cache.tree.mounts import Place


class Remerge:
    """Brings the planted directories from one tree of mounts to another. `fixed` is then what `Core.fixed` is to be;
    `again` the directories whose names, and those of all below, have to be asked for again."""

    def __init__(self, w: Writer, now: int) -> None:
        self.w = w
        self.now = now
        self.fixed: dict[int, dict[bytes, int]] = {}
        self.again: list[int] = []

    def root(self, old: Place | None, new: Place) -> None:
        self._place(old, new, 0, b"")

    def _place(self, old: Place | None, new: Place, parent: int, name: bytes) -> int:
        w = self.w
        row = w.index.row(w.txn, ROOT) if parent == 0 else w.index.find(w.txn, parent, name)
        kept = row is not None and row.kind == DIR and (bool(row.flags & FIXED) or not new.own)
        if row is None or not kept:
            ino = plant(w, new, parent, name, self.now)
        else:
            ino = row.ino
            self._keep(parent, row, new)
        self.fixed[ino] = {}
        if parent:
            self.fixed[parent][name] = ino
        had = {} if old is None else old.children
        for child_name, child in new.children.items():
            self._place(had.get(child_name), child, ino, child_name)
        left = [n for n in had if n not in new.children]
        for child_name in left:
            self._unplant(had[child_name], ino, child_name, new.sources)
        if left and new.sources:  # what they hid may show now
            d = w.dir(ino)
            if d is not None:
                w.put_dir(ino, d._replace(state=min(d.state, LISTING), listed=0))
        return ino

    def _keep(self, parent: int, row: Row, place: Place) -> None:
        w, ino = self.w, row.ino
        mount = place.own[0] if place.own else NO_MOUNT
        d = w.dir(ino)
        if d is not None and d.sources != place.sources:
            self.again.append(ino)
            if place.sources:
                # names are missing where a source came: what was listed before may not stand in when that does not answer
                state = d.state if set(place.sources) <= set(d.sources) else min(d.state, LISTING)
                w.put_dir(ino, d._replace(state=state, listed=0, sources=place.sources))
            else:
                w.put_dir(ino, d._replace(state=COMPLETE_LIST, listed=self.now, epoch=d.epoch + 1, sources=()))
        if row.mount != mount or not row.flags & FIXED:
            w.rewrite(parent, row, row._replace(mount=mount, flags=row.flags | FIXED, checked=self.now))

    def _unplant(self, old: Place, parent: int, name: bytes, outer: tuple[int, ...]) -> None:
        """A directory of the old tree of mounts that the new one does not need."""
        w = self.w
        row = w.index.find(w.txn, parent, name)
        if row is None or not row.flags & FIXED:
            return
        plain = row._replace(flags=row.flags & ~FIXED)
        d = w.dir(row.ino)
        if not outer or old.own or d is None or d.sources != outer:
            w.remove(parent, plain, self.now)
            return
        w.rewrite(parent, row, plain._replace(mount=outer[0], checked=0))
        w.put_dir(row.ino, d._replace(state=min(d.state, LISTING), listed=0))
        for child_name, child in old.children.items():
            self._unplant(child, row.ino, child_name, outer)
