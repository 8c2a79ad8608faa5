"""What a mount answers, whatever transport carries it: attributes, opens, bytes and directory pages of one dataset.

The index is read directly; the worker is asked through its door only for what the index does not know or may no longer
believe. Every operation takes `wait`: with False it raises `WouldBlock` where it would have to ask the door or a disk,
so that one thread can answer everything that needs neither.

An inode is one version of one object: its attributes and bytes never change, and freshness is only ever the question
which inode a name points to.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from forebay.api import wire
from forebay.api.spec import DatasetSpec
from forebay.cache import freshness as fr
from forebay.cache.index import (
    COMPLETE,
    COMPLETE_LIST,
    DIR,
    FILE,
    NO_OID,
    ROOT,
    UNRESOLVED,
    Dir,
    Index,
    Row,
    boot_id,
    object_path,
    unpack_row,
)
from forebay.fuse import pages
from forebay.fuse.files import Files, OpenFile
from forebay.fuse.modes import Modes
from forebay.fuse.protocol import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH, MAX_READ

DOOR_DEADLINE = 60.0
"""Seconds a request may wait for the worker; the store's own deadlines (10 s to a first byte) end earlier."""
RESOLVE_MOST = 64
DIRS_REMEMBERED = 1024

XATTRS = (b"user.forebay.store", b"user.forebay.key", b"user.forebay.version", b"user.forebay.cached")

CACHED_OPEN = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH
PASSTHROUGH_OPEN = FOPEN_PASSTHROUGH | FOPEN_NOFLUSH  # with KEEP_CACHE the kernel answers EIO


class WouldBlock(Exception):
    """Not now: the same call with `wait=True`, from a thread that may wait, answers it."""


class DoorLike(Protocol):
    """The part of `forebay.cache.client.Door` that a mount uses."""

    def call(self, request: wire.Request, timeout: float = ...) -> wire.AnyReply: ...
    def open(self, ino: int, *, validate: bool = False, timeout: float = ...) -> tuple[wire.Opened, int]: ...
    def ensure(self, ino: int, offset: int, length: int, held: int, timeout: float = ...) -> tuple[int, bool] | None: ...
    def touch(self, used: list[int], opened: list[int], closed: list[int], timeout: float = ...) -> bool: ...


class Backing(NamedTuple):
    """Registering descriptors for passthrough with the kernel; None where the mount has none."""

    open: Callable[[int], int]  # descriptor -> backing id >= 1; OSError
    close: Callable[[int], None]


class Attr(NamedTuple):
    """`row` of an inode and how many seconds the kernel may believe it (and the name that led to it)."""

    row: Row
    ttl: int


class Statfs(NamedTuple):
    """Blocks of `bsize` bytes."""

    blocks: int
    bfree: int
    files: int
    bsize: int


class Operations:
    """Answers for one mount of one dataset.

    Thread-safe. `lock` guards modes, open files and the order in which OPEN replies reach the kernel: whoever answers an
    open holds it from `enter` or `admit` until the reply was written.
    """

    def __init__(
        self, spec: DatasetSpec, index: Index, door: DoorLike, modes: Modes, *,
        uid: int, gid: int, backing: Backing | None = None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.index = index
        self.door = door
        self.modes = modes
        self.uid, self.gid = uid, gid
        self.backing = backing
        self.clock = clock
        self.lock = threading.Lock()
        self.files = Files(index)
        self.boot = boot_id()
        self.used: set[int] = set()  # inodes opened since the last `touched`
        self.changed: set[int] = set()  # inodes opened or released since
        self._begin = index.env.begin
        self._validating = any(m.freshness.mode == "validate" for m in spec.mounts)
        self._freshness = [m.freshness for m in spec.mounts]
        self._resolving: OrderedDict[int, tuple[int, int]] = OrderedDict()  # directory -> last inode asked for, window
        self._listings: OrderedDict[int, int] = OrderedDict()  # directory -> epoch of the listing the kernel caches

    # --- names and attributes ------------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, wait: bool) -> Attr | None:
        """The child of that name; None: absent, and `absent_ttl` says for how long that may be believed.

        `OSError(ENOENT)` when the store says so now; other errnos when the store cannot be asked.
        """
        index = self.index
        txn = self._begin()
        try:
            row = index.find(txn, parent, name)
            if row is not None:
                ttl = self._ttl(txn, parent, row)
                if ttl and not row.flags & UNRESOLVED:
                    return Attr(row, ttl)
            elif self._absent_ttl(txn, parent):
                return None
        finally:
            txn.abort()
        if not wait:
            raise WouldBlock
        if row is not None and row.flags & UNRESOLVED:
            self._resolve(parent, row)
        else:
            self._ask(wire.Lookup(parent=parent, name=name), wire.Found)
        with self._begin() as txn:
            row = index.find(txn, parent, name)
            if row is None:
                raise OSError(errno.ENOENT, "absent")
            if row.flags & UNRESOLVED:
                raise OSError(errno.EIO, "the store told neither size nor version")
            return Attr(row, self._ttl(txn, parent, row))

    def absent_ttl(self, parent: int) -> int:
        with self._begin() as txn:
            return self._absent_ttl(txn, parent)

    def getattr(self, ino: int, wait: bool) -> Attr:
        """Attributes of an inode the kernel knows. They never change, so an expired one costs no question."""
        with self._begin() as txn:
            row = self.index.row(txn, ino)
            if row is not None:
                if row.flags & UNRESOLVED:
                    if not wait:
                        raise WouldBlock
                else:
                    return Attr(row, self._ttl(txn, self.index.parent(txn, ino), row) or self._own_ttl(row))
            elif ino == ROOT:
                d = self.index.dir(txn, ROOT)
                return Attr(Row(DIR, 0, 0xFFFF, 0, 0, (d.listed if d else 0) * pages.SECOND, ROOT, NO_OID, b"", b""), 1)
            else:
                raise OSError(errno.ESTALE, f"inode {ino} is not in the index")
            parent = self.index.parent(txn, ino)
        self._resolve(parent, row)
        return self.getattr(ino, wait=False)

    def _ttl(self, txn: Any, parent: int, row: Row) -> int:
        """Whole seconds for the kernel; 0: the store must be asked."""
        f = fr.mount_freshness(self.spec.mounts, row.mount)
        now = self.clock()
        ttl = fr.entry_ttl(row, f, now)
        if ttl < 1 and not row.flags & UNRESOLVED:
            ttl = fr.entry_ttl(row, f, now, fr.listed_of(self.index.dir(txn, parent)))
        return int(ttl)

    def _own_ttl(self, row: Row) -> int:
        f = fr.mount_freshness(self.spec.mounts, row.mount)
        return int(fr.KERNEL_LIMIT if f is None else min(f.ttl, fr.KERNEL_LIMIT)) or 1

    def _absent_ttl(self, txn: Any, parent: int) -> int:
        d = self.index.dir(txn, parent)
        return 0 if d is None else int(fr.absent_ttl(d, fr.sources_freshness(self.spec.mounts, d), self.clock()))

    def _resolve(self, parent: int, row: Row) -> None:
        """Ask for size and version of an unresolved child, and of a growing number of the ones behind it while names
        are looked up in order: one question of 64 HEADs in parallel instead of 64 in turn."""
        last, window = self._resolving.get(parent, (0, 0))
        window = min(max(window * 2, 1), RESOLVE_MOST) if last < row.ino <= last + 2 * RESOLVE_MOST else 1
        inos = [row.ino]
        if window > 1:
            with self._begin() as txn:
                for raw in self.index.scan(txn, parent, row.ino):
                    if len(inos) >= window:
                        break
                    other = unpack_row(raw)
                    if other.flags & UNRESOLVED:
                        inos.append(other.ino)
        self._resolving[parent] = (inos[-1], window)
        self._resolving.move_to_end(parent)
        while len(self._resolving) > DIRS_REMEMBERED:
            self._resolving.popitem(last=False)
        self._ask(wire.Resolve(parent=parent, inos=inos), wire.Done)

    def _ask(self, request: wire.Request, expected: type[wire.Reply]) -> wire.AnyReply:
        reply = self.door.call(request, timeout=DOOR_DEADLINE)
        if isinstance(reply, wire.Failed):
            raise OSError(reply.errno, reply.message)
        if not isinstance(reply, expected):
            raise OSError(errno.EPROTO, f"the worker answered {type(request).__name__} with {type(reply).__name__}")
        return reply

    # --- open and release ----------------------------------------------------------------------------------------

    def enter(self, ino: int, flags: int, unique: int) -> tuple[int, int] | None:
        """Count an open that needs nobody's help and return (open flags, backing id); None: `fetch`, then `admit`.

        The caller holds `lock` until its reply is written.
        """
        if flags & os.O_ACCMODE or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, "read-only")
        if (self._validating or flags & os.O_DIRECT) and self._validates(ino, flags):
            return None
        modes = self.modes
        if ino in modes.table.slots:
            backing_id = modes.enter(ino, True, unique)
            self.used.add(ino)
            return (PASSTHROUGH_OPEN, backing_id) if backing_id else (CACHED_OPEN, 0)
        file = self._whole(ino)
        return None if file is None else self._count(file, unique)

    def fetch(self, ino: int, flags: int) -> OpenFile:
        """Ask the worker for an object. May wait for the store; a small one is complete afterwards.

        `OSError(ESTALE)`: the store has a newer version, and the name another inode.
        """
        opened, fd = self.door.open(ino, validate=self._validates(ino, flags), timeout=DOOR_DEADLINE)
        return OpenFile(ino, fd, opened.size, complete=opened.complete, cached=opened.cached)

    def admit(self, file: OpenFile, unique: int) -> tuple[int, int]:
        """Count an open of what `fetch` brought. The caller holds `lock` until its reply is written."""
        if file.ino in self.modes.table.slots:
            backing_id = self.modes.enter(file.ino, True, unique)
            if backing_id:
                file.close()
                self.used.add(file.ino)
                return PASSTHROUGH_OPEN, backing_id
            self._keep(file)
            self.used.add(file.ino)
            return CACHED_OPEN, 0
        return self._count(file, unique)

    def _count(self, file: OpenFile, unique: int) -> tuple[int, int]:
        """The first open of an inode nobody has open."""
        self.used.add(file.ino)
        self.changed.add(file.ino)
        if self.backing is not None and file.complete:
            try:
                backing_id = self.backing.open(file.fd)
            except OSError as e:
                if e.errno not in {errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL}:
                    raise
                self.backing = None  # the kernel granted passthrough, but not for this process or file system
                self.no_passthrough(e)
            else:
                file.close()
                self.modes.register(file.ino, backing_id, unique)
                if not file.cached:
                    self._close_ids(self.modes.evict(file.ino))
                return PASSTHROUGH_OPEN, backing_id
        self.modes.enter(file.ino, False, unique)
        self._keep(file)
        return CACHED_OPEN, 0

    def no_passthrough(self, why: OSError) -> None:
        """Called once when registering a backing file was refused for good. A session replaces it to say so."""

    def _keep(self, file: OpenFile) -> None:
        older = self.files.get(file.ino)
        if older is None:
            self.files.put(file)
        elif file.complete and not older.complete:
            self.files.put(file)  # closes the older one once no read uses it
        else:
            file.close()

    def release(self, ino: int) -> None:
        """Take one open back; at the last one a cached inode's descriptor is closed."""
        with self.lock:
            self.take_back(ino)

    def take_back(self, ino: int) -> None:
        """As `release`, for who holds `lock`."""
        closing = self.modes.release(ino)
        self.changed.add(ino)
        if closing:
            self._close_ids(closing)
        if ino in self.files and ino not in self.modes.table.slots:
            self.files.drop(ino)

    def evicted(self, inos: list[int]) -> None:
        """The cache files of these inodes are gone: let go of the blocks that idle backing ids hold."""
        with self.lock:
            for ino in inos:
                self._close_ids(self.modes.evict(ino))

    def evictions_missed(self) -> None:
        with self.lock:
            self._close_ids(self.modes.evict_all())
            self.changed.update(self.modes.table.slots)

    def _close_ids(self, ids: list[int]) -> None:
        if self.backing is not None:
            for backing_id in ids:
                self.backing.close(backing_id)

    def _validates(self, ino: int, flags: int) -> bool:
        """Whether this open must ask the store which version is current: `validate` mounts, and O_DIRECT except on
        immutable ones."""
        with self._begin() as txn:
            row = self.index.row(txn, ino)
        if row is None or row.mount >= len(self._freshness):
            return False
        mode = self._freshness[row.mount].mode
        return mode == "validate" or (bool(flags & os.O_DIRECT) and mode != "immutable")

    def _whole(self, ino: int) -> OpenFile | None:
        """The cache file of an object that is complete and was verified in this boot, opened; None: ask the worker."""
        txn = self._begin()
        try:
            row = self.index.row(txn, ino)
            if row is None or row.kind != FILE or row.oid == NO_OID:
                return None
            found = self.index.object(txn, row.oid)
        finally:
            txn.abort()
        if found is None or found.state != COMPLETE or found.boot != self.boot or found.tier >= len(self.spec.tiers):
            return None
        try:
            fd = os.open(object_path(self.spec.tiers[found.tier].path, row.oid), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # evicted since; the worker fetches it again
        if os.fstat(fd).st_size != row.size:
            os.close(fd)
            return None
        return OpenFile(ino, fd, row.size, complete=True, cached=True, oid=row.oid)

    def touched(self) -> tuple[list[int], list[int], list[int]]:
        """Used, opened and closed inodes since the last call, for `Touch`."""
        with self.lock:
            used, changed = self.used, self.changed
            self.used, self.changed = set(), set()
            opened = [i for i in used | changed if self.modes.opens(i)]
            closed = [i for i in used | changed if not self.modes.opens(i)]
        return list(used), opened, closed

    # --- bytes ---------------------------------------------------------------------------------------------------

    def read(self, ino: int, offset: int, size: int, buffer: memoryview, wait: bool) -> memoryview:
        """Bytes of an open inode, in `buffer` (at least MAX_READ + 2 blocks). Shorter only at the object's end."""
        file, size = self.locate(ino, offset, size, wait)
        try:
            return file.fill(offset, size, buffer, wait)
        finally:
            file.let_go()

    def locate(self, ino: int, offset: int, size: int, wait: bool) -> tuple[OpenFile, int]:
        """Where these bytes can be read now, and how many there are; waits until they have come.

        The file is held: the caller calls `let_go` after its `fill`.
        """
        while True:
            file = self.files.get(ino)
            if file is None:
                if not wait:
                    raise WouldBlock
                file = self._reopen(ino)
            if not file.hold():
                continue  # another read put a newer descriptor in its place
            size = max(min(size, file.size - offset, MAX_READ), 0)
            if file.complete or size == 0:
                return file, size
            try:
                whole = self._whole(ino)
                if whole is not None:
                    with self.lock:
                        self.files.put(whole)
                elif not wait:
                    raise WouldBlock
                else:
                    return self._ensure(file, offset, size), size
            finally:
                file.let_go()

    def _ensure(self, file: OpenFile, offset: int, size: int) -> OpenFile:
        moved = self.door.ensure(file.ino, offset, size, file.fd, timeout=DOOR_DEADLINE)
        if moved is None:
            file.hold()  # cannot fail: the caller holds it too
            return file
        fd, cached = moved
        other = OpenFile(file.ino, fd, file.size, complete=False, cached=cached)
        other.hold()
        if cached:
            with self.lock:
                self.files.put(other)
        else:
            other.close()  # when the read lets it go
        return other

    def _reopen(self, ino: int) -> OpenFile:
        """A cached open whose descriptor died with the daemon that held it."""
        file = self._whole(ino) or self.fetch(ino, 0)
        with self.lock:
            older = self.files.get(ino)
            if older is not None:
                file.close()
                return older
            self.files.put(file)
            return file

    # --- directories ---------------------------------------------------------------------------------------------

    def opendir(self, ino: int) -> int:
        """Open flags. The kernel may keep a listing it cached only while it is of the same epoch and still believed."""
        with self._begin() as txn:
            d = self.index.dir(txn, ino)
            fresh = d is not None and fr.listing_fresh(d, fr.sources_freshness(self.spec.mounts, d), self.clock()) is not None
        if d is None or not fresh:
            self._listings.pop(ino, None)
            return 0
        same = self._listings.get(ino) == d.epoch
        self._listings[ino] = d.epoch
        self._listings.move_to_end(ino)
        if len(self._listings) > DIRS_REMEMBERED:
            self._listings.popitem(last=False)
        return FOPEN_CACHE_DIR | (FOPEN_KEEP_CACHE if same else 0)

    def forget_listing(self, ino: int) -> None:
        """A name in this directory changed: the next OPENDIR drops what the kernel cached."""
        self._listings.pop(ino, None)

    def readdir(self, ino: int, cookie: int, room: int, plus: bool, wait: bool) -> pages.Page:
        """One page. From the index where the listing is whole (and, at its beginning, believed), else as names arrive."""
        after = max(cookie - pages.COOKIE_SHIFT, 0)
        deadline = time.monotonic() + DOOR_DEADLINE
        with self._begin() as txn:
            d = self.index.dir(txn, ino)
            if d is not None and self._listed(d, after):
                return self._page(txn, ino, d, pages.Place(cookie, room, plus))
        if not wait:
            raise WouldBlock
        while True:
            reply = self._ask(wire.ListDir(ino=ino, after=after), wire.Listed)
            with self._begin() as txn:
                page = self._page(txn, ino, self.index.dir(txn, ino), pages.Place(cookie, room, plus))
            if page.cookie > max(cookie, pages.COOKIE_SHIFT) or page.more or (isinstance(reply, wire.Listed) and reply.complete):
                return page
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"the listing of inode {ino} brought nothing for {DOOR_DEADLINE:g} s")

    def _listed(self, d: Dir, after: int) -> bool:
        if d.state != COMPLETE_LIST:
            return False
        return after > 0 or fr.listing_fresh(d, fr.sources_freshness(self.spec.mounts, d), self.clock()) is not None

    def _page(self, txn: Any, ino: int, d: Dir | None, at: pages.Place) -> pages.Page:
        now, listed, mounts = self.clock(), fr.listed_of(d), self.spec.mounts
        blank = Row(FILE, 0, 0, 0, 0, 0, 0, NO_OID, b"", b"")

        def ttl_of(flags: int, mount: int, checked: int) -> int:
            row = blank._replace(flags=flags, mount=mount, checked=checked)
            return int(fr.entry_ttl(row, fr.mount_freshness(mounts, mount), now, listed))

        up = self.index.parent(txn, ino)
        return pages.build(txn.cursor(db=self.index.children), (ino, up), at, (self.uid, self.gid), ttl_of)

    # --- the rest ------------------------------------------------------------------------------------------------

    def statfs(self) -> Statfs:
        """Capacity and free space of the tiers (the smaller of quota and file system), and names known so far."""
        blocks = free = 0
        seen: set[int] = set()
        for tier in self.spec.tiers:
            try:
                st = os.statvfs(tier.path)
                dev = os.stat(tier.path).st_dev
            except FileNotFoundError:
                continue
            if dev in seen and not tier.quota:
                continue
            seen.add(dev)
            total, avail = st.f_blocks * st.f_frsize // 4096, st.f_bavail * st.f_frsize // 4096
            quota = tier.quota // 4096 if tier.quota else total
            blocks += min(total, quota)
            free += min(avail, quota)
        with self._begin() as txn:
            files: int = txn.stat(self.index.children)["entries"]
        return Statfs(blocks, free, files, 4096)

    def listxattr(self, ino: int) -> bytes:
        return b"".join(name + b"\0" for name in XATTRS if self._xattr(ino, name) is not None)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Source, key, version of an inode, and how many of its bytes are in the cache.

        EOPNOTSUPP outside "user.": coreutils then asks no more for ACLs and SELinux labels on this file system.
        """
        if not name.startswith(b"user."):
            raise OSError(errno.EOPNOTSUPP, "no such name space")
        value = self._xattr(ino, name) if name in XATTRS else None
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def _xattr(self, ino: int, name: bytes) -> bytes | None:
        with self._begin() as txn:
            row = self.index.row(txn, ino)
            if row is None or row.mount >= len(self.spec.mounts):
                return None
            mount = self.spec.mounts[row.mount]
            if name == XATTRS[0]:
                return mount.source.encode("utf-8", "surrogateescape")
            if name == XATTRS[1]:
                return self._key(txn, row, mount.path)
            if row.kind == DIR:
                return None
            if name == XATTRS[2]:
                return row.version or None
            found = None if row.oid == NO_OID else self.index.object(txn, row.oid)
            return b"%d" % (found.present if found is not None else 0)

    def _key(self, txn: Any, row: Row, mount_path: str) -> bytes:
        names = []
        ino, name = row.ino, row.name
        while ino != ROOT:
            names.append(name)
            ino = self.index.parent(txn, ino)
            up = self.index.row(txn, ino)
            name = b"" if up is None else up.name
        prefix = [p for p in mount_path.encode("utf-8", "surrogateescape").split(b"/") if p]
        return b"/".join(names[::-1][len(prefix) :]) + (b"/" if row.kind == DIR else b"")
