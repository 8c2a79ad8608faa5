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
from forebay.cache.extents import SUM, blocks_in_segment
from forebay.cache.index import (
    _OBJECT,
    _ROW,
    _U64,
    BLOCK,
    BLOCKS_PER_SEGMENT,
    COMPLETE,
    COMPLETE_LIST,
    DIR,
    FILE,
    NO_MOUNT,
    NO_OID,
    ROOT,
    UNRESOLVED,
    Dir,
    Index,
    Row,
    boot_id,
    object_path,
    pack_row,
    unpack_row,
)
from forebay.fuse import pages
from forebay.fuse.files import Damaged, OpenFile, Sums
from forebay.fuse.modes import Modes
from forebay.fuse.protocol import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH, MAX_READ

DOOR_DEADLINE = 60.0
"""Seconds a request may wait for the worker; the store's own deadlines (10 s to a first byte) end earlier."""
RESOLVE_MOST = 64
DIRS_REMEMBERED = 1024

XATTRS = (b"user.forebay.store", b"user.forebay.key", b"user.forebay.version", b"user.forebay.cached")

_CACHED = (FOPEN_KEEP_CACHE | FOPEN_NOFLUSH, 0)
PASSTHROUGH_OPEN = FOPEN_PASSTHROUGH | FOPEN_NOFLUSH  # with KEEP_CACHE the kernel answers EIO


pack_ino = _U64.pack
unpack_fixed = _ROW.unpack_from
unpack_object = _OBJECT.unpack
_ROOT_PARENT = pack_ino(0)


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
        self.files: dict[int, OpenFile] = {}  # inodes with cached opens
        self.boot = boot_id()
        self.used: set[int] = set()  # inodes opened since the last `touched`
        self.changed: set[int] = set()  # inodes released since
        self.announced: set[int] = set()  # inodes the worker knows to be open
        self._begin = index.env.begin
        self._validating = any(m.freshness.mode == "validate" for m in spec.mounts)
        self._freshness = [m.freshness for m in spec.mounts]
        self._sweeping: list[int] = []
        self._ttls: dict[tuple[int, int, int], int] = {}  # of this second
        self._ttl_second = 0
        self._resolving: OrderedDict[int, tuple[int, int]] = OrderedDict()  # directory -> last inode asked for, window
        self._listings: OrderedDict[int, int] = OrderedDict()  # directory -> epoch of the listing the kernel caches

    # --- names and attributes ------------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, wait: bool) -> tuple[bytes, int] | None:
        """The raw row of the child of that name, and whole seconds for which the kernel may believe it (and its attributes).

        None: absent, and `absent_ttl` says for how long that may be believed. `OSError(ENOENT)` when the store says so
        now; other errnos when the store cannot be asked.
        """
        txn = self._begin()
        try:
            raw = self._find(txn, parent, name)
            flags = 0
            if raw is not None:
                _, flags, mount, checked, *_ = unpack_fixed(raw)
                ttl = self._ttl(txn, parent, (flags, mount, checked))
                if ttl:
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
            self._ask(wire.Lookup(parent=parent, name=name), wire.Found)
        with self._begin() as txn:
            raw = self._find(txn, parent, name)
            if raw is None:
                raise OSError(errno.ENOENT, "absent")
            _, flags, mount, checked, *_ = unpack_fixed(raw)
            if flags & UNRESOLVED:
                raise OSError(errno.EIO, "the store told neither size nor version")
            return raw, self._ttl(txn, parent, (flags, mount, checked))

    def _find(self, txn: Any, parent: int, name: bytes) -> bytes | None:
        up = pack_ino(parent)
        ino = txn.get(up + name, None, self.index.names)
        raw: bytes | None = None if ino is None else txn.get(up + ino, None, self.index.children)
        return raw

    def _row(self, txn: Any, ino: int) -> bytes | None:
        key = pack_ino(ino)
        up = _ROOT_PARENT if ino == ROOT else txn.get(key, None, self.index.inodes)
        raw = None if up is None else txn.get(up + key, None, self.index.children)
        found: bytes | None = txn.get(key, None, self.index.orphans) if raw is None else raw
        return found

    def absent_ttl(self, parent: int) -> int:
        with self._begin() as txn:
            return self._absent_ttl(txn, parent)

    def getattr(self, ino: int, wait: bool) -> tuple[bytes, int]:
        """Raw row and timeout of an inode the kernel knows. Attributes never change, so an expired one costs no question."""
        with self._begin() as txn:
            raw = self._row(txn, ino)
            parent = self.index.parent(txn, ino)
            if raw is None:
                if ino != ROOT:
                    raise OSError(errno.ESTALE, f"inode {ino} is not in the index")
                d = self.index.dir(txn, ROOT)
                return pack_row(Row(DIR, 0, NO_MOUNT, 0, 0, (d.listed if d else 0) * pages.SECOND, ROOT, NO_OID, b"", b"")), 1
            _, flags, mount, checked, *_ = unpack_fixed(raw)
            if not flags & UNRESOLVED:
                return raw, self._ttl(txn, parent, (flags, mount, checked)) or self._own_ttl(mount)
        if not wait:
            raise WouldBlock
        self._resolve(parent, unpack_row(raw))
        return self.getattr(ino, wait=False)

    def _ttl(self, txn: Any, parent: int, key: tuple[int, int, int]) -> int:
        """Whole seconds for the kernel, of a row with these flags, mount and second of confirmation; 0: ask the store."""
        now = self.clock()
        if int(now) != self._ttl_second or len(self._ttls) > 4096:
            self._ttl_second = int(now)
            self._ttls.clear()
        ttl = self._ttls.get(key)
        if ttl is None:
            ttl = self._ttls[key] = self.believed(key, now, 0)
        if ttl == 0 and not key[0] & UNRESOLVED:
            return self.believed(key, now, fr.listed_of(self.index.dir(txn, parent)))
        return ttl

    def believed(self, key: tuple[int, int, int], now: float, listed: int) -> int:
        """Whole seconds until a row with these flags, mount and second of confirmation must be asked for again."""
        flags, mount, checked = key
        row = Row(FILE, flags, mount, checked, 0, 0, 0, NO_OID, b"", b"")
        return int(fr.entry_ttl(row, fr.mount_freshness(self.spec.mounts, mount), now, listed))

    def _own_ttl(self, mount: int) -> int:
        f = fr.mount_freshness(self.spec.mounts, mount)
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
        backing_id = self.modes.enter(ino, unique)
        if backing_id is not None:
            self.used.add(ino)
            return (PASSTHROUGH_OPEN, backing_id) if backing_id else _CACHED
        found = self._whole(ino)
        if found is None:
            return None
        fd, size = found
        if self.backing is not None:
            backing_id = self._back(fd)
            if backing_id:
                os.close(fd)
                self.modes.register(ino, backing_id, unique)
                self.used.add(ino)
                return PASSTHROUGH_OPEN, backing_id
        return self._cached(OpenFile(ino, fd, size, complete=True), unique)

    def fetch(self, ino: int, flags: int) -> OpenFile:
        """Ask the worker for an object. May wait for the store; a small one is complete afterwards.

        `OSError(ESTALE)`: the store has a newer version, and the name another inode.
        """
        opened, fd = self.door.open(ino, validate=self._validates(ino, flags), timeout=DOOR_DEADLINE)
        return OpenFile(ino, fd, opened.size, complete=opened.complete, cached=opened.cached)

    def admit(self, file: OpenFile, unique: int) -> tuple[int, int]:
        """Count an open of what `fetch` brought. The caller holds `lock` until its reply is written."""
        ino = file.ino
        backing_id = self.modes.enter(ino, unique)
        if backing_id is None:
            if self.backing is None or not file.complete or not (backing_id := self._back(file.fd)):
                return self._cached(file, unique)
            self.modes.register(ino, backing_id, unique)
            if not file.cached:
                self.modes.evict(ino)  # an unlinked buffer: let go of it at the last release
        self.used.add(ino)
        if backing_id:
            file.close()
            return PASSTHROUGH_OPEN, backing_id
        self._keep(file)
        return _CACHED

    def _cached(self, file: OpenFile, unique: int) -> tuple[int, int]:
        self.modes.cache(file.ino, unique)
        self.used.add(file.ino)
        self._keep(file)
        return _CACHED

    def _back(self, fd: int) -> int:
        """A new backing id for a complete file; 0 when this process or file system gets none, ever."""
        assert self.backing is not None
        try:
            return self.backing.open(fd)
        except OSError as e:
            if e.errno not in {errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            self.backing = None  # ids that exist stay valid; they are closed with the connection
            self.no_passthrough(e)
            return 0

    def no_passthrough(self, why: OSError) -> None:
        """Called once when registering a backing file was refused for good. A session replaces it to say so."""

    def _keep(self, file: OpenFile) -> None:
        older = self.files.get(file.ino)
        if older is not None and (older.complete or not file.complete):
            file.close()
        else:
            self._put(file)

    def _put(self, file: OpenFile) -> None:
        older = self.files.get(file.ino)
        self.files[file.ino] = file
        if older is not None:
            older.close()  # once no read uses it

    def release(self, ino: int) -> None:
        """Take one open back; at the last one a cached inode's descriptor is closed."""
        with self.lock:
            self.take_back(ino)

    def take_back(self, ino: int) -> None:
        """As `release`, for who holds `lock`."""
        closing = self.modes.release(ino)
        self.changed.add(ino)
        if closing:
            self._close_ids([closing])
        if ino in self.files and ino not in self.modes.table.slots:
            self.files.pop(ino).close()

    def evicted(self, inos: list[int]) -> None:
        """The cache files of these inodes are gone: let go of the blocks that idle backing ids hold."""
        with self.lock:
            self._close_ids([i for ino in inos if (i := self.modes.evict(ino))])

    def worker_restarted(self) -> None:
        """It does not know what is open. Evictions that were missed are found by `sweep`."""
        with self.lock:
            self.announced.clear()
            self.changed.update(self.modes.table.slots)

    def sweep(self, most: int = 1000) -> None:
        """Let go of backing files whose objects left the cache unseen: look at some of the inodes each time, all in turn."""
        with self.lock:
            if not self._sweeping:
                self._sweeping = list(self.modes.table.slots)
            some, self._sweeping = self._sweeping[:most], self._sweeping[most:]
        with self._begin() as txn:
            gone = [i for i in some if not self._is_whole(self._row(txn, i), txn)]
        self.evicted(gone)

    def _is_whole(self, raw: bytes | None, txn: Any) -> bool:
        found = None if raw is None else txn.get(unpack_fixed(raw)[7], None, self.index.objects)
        return found is not None and unpack_object(found)[0] == COMPLETE

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

    def _whole(self, ino: int) -> tuple[int, int] | None:
        """Descriptor and size of the cache file of an object that is complete and was verified in this boot; None: ask
        the worker."""
        txn = self._begin()
        try:
            raw = self._row(txn, ino)
            if raw is None:
                return None
            kind, _, _, _, size, _, _, oid, _, _ = unpack_fixed(raw)
            found = txn.get(oid, None, self.index.objects) if kind == FILE else None
        finally:
            txn.abort()
        if found is None:
            return None
        state, tier, _, _, _, _, boot, _ = unpack_object(found)
        if state != COMPLETE or boot != self.boot or tier >= len(self.spec.tiers):
            return None
        try:
            fd = os.open(object_path(self.spec.tiers[tier].path, oid), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # evicted since; the worker fetches it again
        if os.fstat(fd).st_size != size:
            os.close(fd)
            return None
        return fd, size

    def touched(self) -> wire.Touch:
        """What was used since the last call, and which inodes became open or closed: each once, however many opens."""
        with self.lock:
            used, changed = self.used, self.changed
            self.used, self.changed = set(), set()
            opens, announced = self.modes.opens, self.announced
            opened = [i for i in used | changed if i not in announced and opens(i)]
            closed = [i for i in changed if i in announced and not opens(i)]
            announced.update(opened)
            announced.difference_update(closed)
        return wire.Touch(list(used), opened, closed)

    def untouched(self, opened: list[int], closed: list[int]) -> None:
        """Nobody took these: they go with the next `touched`."""
        with self.lock:
            self.announced.difference_update(opened)
            self.announced.update(closed)
            self.changed.update(opened, closed)

    # --- bytes ---------------------------------------------------------------------------------------------------

    def read(self, ino: int, offset: int, size: int, buffer: memoryview, wait: bool) -> memoryview:
        """Bytes of an open inode, in `buffer` (at least MAX_READ + 2 blocks). Shorter only at the object's end."""
        for _ in range(2):
            file, size = self.locate(ino, offset, size, wait)
            try:
                return self.fill(file, offset, size, buffer, wait)
            except Damaged as e:
                if not wait:
                    raise WouldBlock from None
                self.damaged(file, e)
            finally:
                file.let_go()
        raise OSError(errno.EIO, f"inode {ino} is damaged in the cache again after it was fetched anew")

    def fill(self, file: OpenFile, offset: int, size: int, buffer: memoryview, wait: bool) -> memoryview:
        """Bytes of what `locate` found. `Damaged`: tell by `damaged`, and locate again."""
        if size == 0 or not file.complete or not file.cached:
            return file.fill(offset, size, buffer, wait)
        return file.fill_verified(offset, size, buffer, wait, self._sums(file.ino, file.size))

    def damaged(self, file: OpenFile, e: Damaged) -> None:
        """Let the worker compare the block with its checksum and drop it; reads then ask for it anew.

        `OSError(EIO)` when the worker cannot: no wrong byte is served.
        """
        try:
            self._ask(wire.Suspect(ino=file.ino, offset=e.block * BLOCK, length=BLOCK), wire.Done)
        except OSError as why:
            raise OSError(
                errno.EIO, f"inode {file.ino}: block {e.block} is damaged in the cache, and stays ({why.strerror})"
            ) from why
        with self.lock:
            if self.files.get(file.ino) is file:
                file.complete, file.verified = False, 0

    def _sums(self, ino: int, size: int) -> Sums:
        """Checksums of an inode's blocks, one index row a 64 MiB segment."""
        rows: dict[int, bytes] = {}

        def of(block: int) -> int | None:
            segment, within = divmod(block, BLOCKS_PER_SEGMENT)
            n = blocks_in_segment(size, segment)
            head = (n + 7) // 8
            if segment not in rows:
                with self._begin() as txn:
                    raw = self._row(txn, ino)
                    key = b"-" if raw is None else unpack_fixed(raw)[7] + segment.to_bytes(4, "big")
                    rows[segment] = txn.get(key, b"", self.index.extents)
            row = rows[segment]
            if len(row) != head + n * SUM or not row[within >> 3] >> (within & 7) & 1:
                return None
            return int.from_bytes(row[head + within * SUM : head + within * SUM + SUM], "little")

        return of

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
            moved = None
            try:
                whole = self._whole(ino)
                if whole is None:
                    if not wait:
                        raise WouldBlock
                    moved = self.door.ensure(ino, offset, size, file.fd, timeout=DOOR_DEADLINE)
                    if moved is None:
                        return file, size
            except BaseException:
                file.let_go()
                raise
            file.let_go()
            if moved is None:
                if whole is not None:
                    with self.lock:
                        self._put(OpenFile(ino, whole[0], whole[1], complete=True))
                continue
            other = OpenFile(ino, moved[0], file.size, complete=False, cached=moved[1])
            other.hold()
            if other.cached:
                with self.lock:
                    self._put(other)
            else:
                other.close()  # when the read lets it go
            return other, size

    def _reopen(self, ino: int) -> OpenFile:
        """A cached open whose descriptor died with the daemon that held it."""
        whole = self._whole(ino)
        file = self.fetch(ino, 0) if whole is None else OpenFile(ino, whole[0], whole[1], complete=True)
        with self.lock:
            self._keep(file)
            return self.files[ino]

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
        now, listed = self.clock(), fr.listed_of(d)

        def ttl_of(key: tuple[int, int, int]) -> int:
            return self.believed(key, now, listed)

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
