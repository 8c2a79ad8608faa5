"""Opening, reading and releasing: which descriptor or backing id carries an inode's bytes, and whose turn it is to know."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from forebay.api import wire
from forebay.cache.disk.extents import SUM, blocks_in_segment
from forebay.cache.disk.index import BLOCK, BLOCKS_PER_SEGMENT, COMPLETE, FILE, boot_id, object_path
from forebay.fuse.files import Damaged, OpenFile, Sums
from forebay.fuse.modes import Modes
from forebay.fuse.protocol import FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH, MAX_READ
from forebay.fuse.view import DOOR_DEADLINE, View, WouldBlock, unpack_fixed, unpack_object

_WRITING = os.O_ACCMODE | os.O_TRUNC
SPECIAL = _WRITING | os.O_DIRECT
"""Open flags that need a look at the inode."""
CACHED = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH
PASSTHROUGH = FOPEN_PASSTHROUGH | FOPEN_NOFLUSH  # with KEEP_CACHE the kernel answers EIO


class Backing(NamedTuple):
    """Registering descriptors for passthrough with the kernel; None where the mount has none."""

    open: Callable[[int], int]  # descriptor -> backing id >= 1; OSError
    close: Callable[[int], None]


class Opens:
    """Open inodes of one mount.

    Thread-safe. `lock` guards modes, open files and the order in which OPEN replies reach the kernel: whoever answers an
    open holds it from `enter` or `admit` until the reply was written.
    """

    def __init__(self, view: View, modes: Modes, backing: Backing | None) -> None:
        self.view = view
        self.modes = modes
        self.backing = backing
        self.passthrough = backing is not None
        self.lock = threading.Lock()
        self.files: dict[int, OpenFile] = {}  # inodes with cached opens
        self.boot = boot_id()
        self.used: set[int] = set()  # inodes opened since the last `touched`
        self.changed: set[int] = set()  # inodes released since
        self.announced: set[int] = set()  # inodes the worker knows to be open
        self._begin = view.begin
        self.validating = any(m.freshness.mode == "validate" for m in view.spec.mounts)
        self._sweeping: list[int] = []

    def enter(self, ino: int, flags: int, unique: int) -> tuple[int, int] | None:
        """Count an open that needs nobody's help and return (open flags, backing id); None: `fetch`, then `admit`.

        The caller holds `lock` until its reply is written.
        """
        if flags & SPECIAL or self.validating:
            if flags & _WRITING:
                raise OSError(errno.EROFS, "read-only")
            if self._validates(ino, flags):
                return None
        backing_id = self.modes.enter(ino, unique)
        if backing_id is not None:
            self.used.add(ino)
            return (PASSTHROUGH, backing_id) if backing_id else (CACHED, 0)
        found = self._whole(ino)
        if found is None:
            return None
        fd, size = found
        if self.passthrough:
            backing_id = self._back(fd)
            if backing_id:
                os.close(fd)
                self.modes.register(ino, backing_id, unique)
                self.used.add(ino)
                return PASSTHROUGH, backing_id
        return self._cached(OpenFile(ino, fd, size, complete=True), unique)

    def fetch(self, ino: int, flags: int) -> OpenFile:
        """Ask the worker for an object. May wait for the store; a small one is complete afterwards.

        `OSError(ESTALE)`: the store has a newer version, and the name another inode.
        """
        opened, fd = self.view.door.open(ino, validate=self._validates(ino, flags), timeout=DOOR_DEADLINE)
        return OpenFile(ino, fd, opened.size, complete=opened.complete, cached=opened.cached)

    def admit(self, file: OpenFile, unique: int) -> tuple[int, int]:
        """Count an open of what `fetch` brought. The caller holds `lock` until its reply is written."""
        ino = file.ino
        backing_id = self.modes.enter(ino, unique)
        if backing_id is None:
            if not self.passthrough or not file.complete or not (backing_id := self._back(file.fd)):
                return self._cached(file, unique)
            self.modes.register(ino, backing_id, unique)
            if not file.cached:
                self.modes.evict(ino)  # an unlinked buffer: let go of it at the last release
        self.used.add(ino)
        if backing_id:
            file.close()
            return PASSTHROUGH, backing_id
        self._keep(file)
        return CACHED, 0

    def _cached(self, file: OpenFile, unique: int) -> tuple[int, int]:
        self.modes.cache(file.ino, unique)
        self.used.add(file.ino)
        self._keep(file)
        return CACHED, 0

    def _back(self, fd: int) -> int:
        """A new backing id for a complete file; 0 when this process or file system gets none, ever."""
        assert self.backing is not None
        try:
            return self.backing.open(fd)
        except OSError as e:
            if e.errno not in {errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            self.passthrough = False  # for new inodes; ids that exist go on
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
        if ino in self.files and not self.modes.opens(ino):
            self.files.pop(ino).close()

    def evicted(self, inos: list[int]) -> None:
        """The cache files of these inodes are gone, or bytes in them are wrong: let go of the blocks that idle backing ids
        hold; what is open asks the worker again before it reads."""
        with self.lock:
            self._close_ids([i for ino in inos if (i := self.modes.evict(ino))])
            for ino in inos:
                self._doubt(ino)

    def _doubt(self, ino: int) -> None:
        self.view.door.forget(ino)
        file = self.files.get(ino)
        if file is not None:
            file.complete, file.verified = False, 0

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
            gone = [i for i in some if not self._is_whole(self.view.row(txn, i), txn)]
        self.evicted(gone)

    def _is_whole(self, raw: bytes | None, txn: Any) -> bool:
        found = None if raw is None else txn.get(unpack_fixed(raw)[7], None, self.view.index.objects)
        return found is not None and unpack_object(found)[0] == COMPLETE

    def _close_ids(self, ids: list[int]) -> None:
        if self.backing is not None:
            for backing_id in ids:
                self.backing.close(backing_id)

    def _validates(self, ino: int, flags: int) -> bool:
        """Whether this open must ask the store which version is current: `validate` mounts, and O_DIRECT except on
        immutable ones."""
        with self._begin() as txn:
            row = self.view.index.row(txn, ino)
        mounts = self.view.spec.mounts
        if row is None or row.mount >= len(mounts):
            return False
        mode = mounts[row.mount].freshness.mode
        return mode == "validate" or (bool(flags & os.O_DIRECT) and mode != "immutable")

    def _whole(self, ino: int) -> tuple[int, int] | None:
        """Descriptor and size of the cache file of an object that is complete and was verified in this boot; None: ask
        the worker."""
        txn = self._begin()
        try:
            raw = self.view.row(txn, ino)
            if raw is None:
                return None
            kind, _, _, _, size, _, _, oid, _, _ = unpack_fixed(raw)
            found = txn.get(oid, None, self.view.index.objects) if kind == FILE else None
        finally:
            txn.abort()
        if found is None:
            return None
        state, tier, _, _, _, _, boot, _ = unpack_object(found)
        if state != COMPLETE or boot != self.boot or tier >= len(self.view.spec.tiers):
            return None
        try:
            fd = os.open(object_path(self.view.spec.tiers[tier].path, oid), os.O_RDONLY | os.O_CLOEXEC)
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
            self.view.ask(wire.Suspect(ino=file.ino, offset=e.block * BLOCK, length=BLOCK), wire.Done)
        except OSError as why:
            raise OSError(
                errno.EIO, f"inode {file.ino}: block {e.block} is damaged in the cache, and stays ({why.strerror})"
            ) from why
        with self.lock:
            self._doubt(file.ino)

    def _sums(self, ino: int, size: int) -> Sums:
        """Checksums of an inode's blocks, one index row a 64 MiB segment."""
        rows: dict[int, bytes] = {}

        def of(block: int) -> int | None:
            segment, within = divmod(block, BLOCKS_PER_SEGMENT)
            n = blocks_in_segment(size, segment)
            head = (n + 7) // 8
            if segment not in rows:
                with self._begin() as txn:
                    raw = self.view.row(txn, ino)
                    key = b"-" if raw is None else unpack_fixed(raw)[7] + segment.to_bytes(4, "big")
                    rows[segment] = txn.get(key, b"", self.view.index.extents)
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
                    moved = self.view.door.ensure(ino, offset, size, file.fd, timeout=DOOR_DEADLINE)
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
