"""Cache files: one sparse file per object version in a tier directory, and the buffers and slots bytes pass through.

Everything here blocks and is called from threads, except where it says otherwise. A cache file's bytes are only ever
written once per block, through `receive`; a file is removed by unlinking, never truncated or punched, because readers
hold descriptors of it.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

from forebay.cache.disk.extents import block_range, blocks_of, checksum
from forebay.cache.disk.index import BLOCK, object_path
from forebay.cache.stores.base import BadReply, Body, Unavailable

CHUNK = 2 << 20
"""Bytes written at once, where a run allows it to a multiple of as many: the kernel then caches them in one folio of 2 MiB.

Compaction moves smaller ones, and splits into pages of 4 KiB what it finds no room for as a whole: 8 to 34 % of a file written
1 MiB at a time after one pass. With 5 % of its bytes in such pages a file of 256 MiB is read at 0.80 of the speed, with 20 % at
0.63 (ext4 itself, Linux 6.18). A folio of a pageblock's size is left whole.
"""
BUFFERS = 8
"""Receive buffers of the process; a lane without one waits."""

BESIDE = ".new"
"""Suffix of bytes written beside a cache file that is there already."""
BESIDE_AGE = 60.0
"""Seconds after which such a file belongs to nobody: a small object is written within its store's deadline of 10 s."""


class Buffers:
    """A bounded pool of page-aligned receive buffers. They are shared anonymous memory, given back to the kernel when idle."""

    def __init__(self, count: int = BUFFERS, size: int = CHUNK) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self._bound = threading.BoundedSemaphore(count)

    def take(self, timeout: float = 60.0) -> mmap.mmap:
        if not self._bound.acquire(timeout=timeout):
            raise TimeoutError("no receive buffer became free: every lane is stalled")
        with self._lock:
            if self._free:
                return self._free.pop()
        return mmap.mmap(-1, self.size)

    def give(self, buffer: mmap.mmap) -> None:
        with self._lock:
            self._free.append(buffer)
        self._bound.release()

    def trim(self) -> None:
        """Drop idle buffers."""
        with self._lock:
            idle, self._free = self._free, []
        for b in idle:
            try:
                b.close()
            except BufferError:
                pass  # a view of it lives on in an error's traceback: its memory goes with that


def prepare(tier: str) -> None:
    """Make the folders of a tier's objects, once, so that creating a file never has to. The last one tells of all."""
    base = Path(tier) / "objects"
    if (base / "ff").is_dir():
        return
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    for i in range(256):
        (base / f"{i:02x}").mkdir(exist_ok=True, mode=0o700)


def create(tier: str, oid: bytes, size: int, *, make: bool = True) -> int:
    """Open an object's cache file for writing, made with its exact size if it is new. The caller closes the descriptor.

    Without `make` the file must be there and have its size: FileNotFoundError otherwise.
    """
    path = object_path(tier, oid)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    try:
        if os.fstat(fd).st_size != size:
            if not make:
                raise FileNotFoundError(errno.ENOENT, "the cache file has another size", path)
            os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_small(tier: str, oid: bytes) -> tuple[int, str | None]:
    """A new, empty file for one write of all of an object's bytes, and the name it must be `put` in place from, if any.

    A file that is there already may be complete and open through passthrough: it is never emptied. The new bytes then go to
    a file beside it, which takes its place whole.
    """
    path = object_path(tier, oid)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o600), None
    except FileExistsError:
        beside = path + BESIDE
        return os.open(beside, flags | os.O_TRUNC, 0o600), beside


def put(tier: str, oid: bytes, beside: str) -> None:
    """Let a file written beside an object's cache file take its place; who has the old one open keeps it."""
    os.rename(beside, object_path(tier, oid))


def identity(tier: str, oid: bytes) -> tuple[int, int]:
    """Device and inode number of an object's cache file. FileNotFoundError when it is gone."""
    st = os.stat(object_path(tier, oid))
    return st.st_dev, st.st_ino


def occupied(tier: str, oid: bytes) -> int:
    """Bytes an object's cache file occupies. FileNotFoundError when it is gone."""
    return os.stat(object_path(tier, oid)).st_blocks * 512


def open_read(tier: str, oid: bytes) -> int:
    """A read-only descriptor of a cache file. FileNotFoundError when it is gone."""
    return os.open(object_path(tier, oid), os.O_RDONLY | os.O_CLOEXEC)


def allocated(fd: int) -> int:
    """Bytes a file occupies."""
    return os.fstat(fd).st_blocks * 512


def reserve(fd: int, offset: int, length: int) -> None:
    """Allocate a range before bytes are written to it: a full disk says ENOSPC here, and large ranges lie together."""
    os.posix_fallocate(fd, offset, length)


def receive(
    body: Body,
    fd: int,
    size: int,
    first: int,
    count: int,
    *,
    buffer: memoryview,
    lock: threading.Lock,
    arrived: Callable[[int, bytes], None],
) -> None:
    """Read blocks [first, first+count) of an object of `size` bytes from `body` into `fd`.

    Each write ends on a multiple of `buffer`'s length (see `CHUNK`), or where the blocks end.
    `arrived(first, sums)` is called after each written run. `lock` is held while writing: the kernel takes writers of one
    file one at a time anyway, and makes those that wait spin (8 lanes: 0.9 CPU s/GiB against 0.4). Raises what the body
    raises, `BadReply` when it ends early, and OSError of the file. A body that has compared its blocks with checksums it was
    told gives those by `proved(blocks)` (`RoutedBody`): nothing is hashed twice.
    """
    offset = first * BLOCK
    proved: Callable[[int], bytes] | None = getattr(body, "proved", None)
    end = min((first + count) * BLOCK, size)
    while offset < end:
        want = min(len(buffer) - offset % len(buffer), end - offset)
        got, hashed, sums = 0, 0, b""
        while got < want:
            try:
                n = body.readinto(buffer[got:want])
            except OSError as e:  # of the store's connection: only errors of the cache file may look like the disk's
                raise Unavailable(f"the answer was cut: {e}") from e
            if n <= 0:
                raise BadReply(f"the store ended an answer {end - offset - got} bytes early: ask again, or check the server")
            got += n
            whole = got if got == want else got - got % BLOCK
            if proved is None and whole > hashed:  # while they lie in L2
                sums += _sums(buffer[hashed:whole])
                hashed = whole
        if proved is not None:
            sums = proved(blocks_of(got)) or _sums(buffer[:got])
        with lock:
            write_all(fd, buffer[:got], offset)
        arrived(offset // BLOCK, sums)
        offset += got


def _sums(data: memoryview) -> bytes:
    """Checksums of the blocks of `data`, which begins with one."""
    return b"".join([checksum(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)])


def write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


RWF_DONTCACHE = 0x80
"""preadv2 flag (6.14, ext4 and xfs): what was not in the page cache is not left there."""


def check(fd: int, size: int, block: int, known: bytes, buffer: memoryview, *, flags: int = 0) -> bool:
    """Whether a block of a file has the checksum `known`."""
    offset, length = block_range(size, block)
    view = buffer[:length]
    return read_into(fd, view, offset, flags=flags) == length and checksum(view) == known


def read_into(fd: int, view: memoryview, offset: int, *, flags: int = 0) -> int:
    """Fill `view` from a file; fewer bytes only at its end."""
    done = 0
    while done < len(view):
        n = os.preadv(fd, [view[done:]], offset + done, flags)
        if n == 0:
            break
        done += n
    return done


def slot(size: int) -> int:
    """A new buffer slot: an unlinked tmpfs file with the object's size, sparse, so that its offsets are the object's."""
    fd = os.memfd_create("forebay-slot", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def readonly(fd: int) -> int:
    """A read-only descriptor of the same file, to hand to a reader."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def assemble(size: int, pieces: list[tuple[int, int, int]]) -> int:
    """One unlinked file that holds ranges [offset, end) of several: `(fd, offset, end)` each. Read-only, the caller's."""
    out = slot(size)
    try:
        with mmap.mmap(-1, CHUNK) as m, memoryview(m) as view:
            for fd, offset, end in pieces:
                while offset < end:
                    n = read_into(fd, view[: min(CHUNK, end - offset)], offset)
                    if n == 0:
                        raise OSError(errno.EIO, "a cache file ended before its object")
                    write_all(out, view[:n], offset)
                    offset += n
        return readonly(out)
    finally:
        os.close(out)


def unlink(tier: str, oid: bytes) -> int:
    """Remove a cache file; the bytes that frees (0 when there was none). Descriptors of it stay readable."""
    path = object_path(tier, oid)
    try:
        st = os.stat(path)
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return st.st_blocks * 512
