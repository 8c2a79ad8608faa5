"""The keeper record: what a mount must not forget when its daemon dies, in a memfd that the supervisor holds too.

    0       magic "FOREBAYK", version, header size                                      <8sII
    64      words: INIT request length, INIT reply length, unique of the last OPEN that was counted, daemon starts
    512     INIT request (at most 512 B)
    1024    INIT reply (at most 512 B)
    4096    the dispatcher's read buffer: the kernel itself copies each request to here
    16384   copies of the requests that wait in the pool, 320 B each; a length of 0 = free
    131072  the open table: 16 B per slot, inode number (0 = free) and one state word

A state word is `opens << 32 | passthrough << 31 | backing id` in one aligned 64-bit store (below 2^60: two digits of a
Python int), so that a daemon killed at any instruction leaves either the old or the new state of an inode, never half of
one. A count never falls below what the kernel holds: an OPEN is counted before it is answered, a RELEASE after. The unique
of the last counted OPEN tells the successor that a repeated one was counted already.

A request that was read and not answered is lost with its reader, and its caller cannot even be killed. Kernels from 6.9 on
resend it. For older ones the successor finds the very bytes here and serves them; what had been answered after all is
refused by the kernel (ENOENT) and does no harm, because every request of a read-only mount may be served twice.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator

VERSION = 1
MAGIC = b"FOREBAYK"
HEADER = 128 << 10
FIRST_SLOTS = 8192

_HEAD = struct.Struct("<8sII")
_INIT_IN_LEN, _INIT_OUT_LEN, LAST_OPEN, _STARTS = (64 // 8 + i for i in range(4))
"""Positions in `head`. LAST_OPEN holds the unique (without the resent bit) of the OPEN counted last."""
_INIT_IN_AT, _INIT_OUT_AT, _INIT_MAX = 512, 1024, 512
_BUFFER_AT, _POOL_AT, _POOL_SLOT = 4096, 16384, 320
POOL_SLOTS = (HEADER - _POOL_AT) // _POOL_SLOT
"""358: more wait only when as many processes ask at once."""
_LENGTH = struct.Struct("<I")
_UNIQUE = struct.Struct("<8xQ")

ONE = 1 << 32
"""One open."""
PASS = 1 << 31
ID_MASK = PASS - 1


class RecordError(Exception):
    """The memfd is no record that this build can use; `str()` is one sentence."""


def create_memfd() -> int:
    """An empty record for a new mount; the supervisor keeps it as long as the mount lives. Not inheritable by default."""
    fd = os.memfd_create("forebay-keeper", os.MFD_CLOEXEC)
    Record(fd).close()
    return fd


class Record:
    """Invariant: a slot's inode number is written after its word when it is taken, and cleared before it when it is freed.

    `head` and `words` are the header and the open table as 64-bit words, `buffer` is where requests are read to. Slots are
    changed under the lock of the modes; `words` is replaced when the table grows.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        if size == 0:
            size = HEADER + FIRST_SLOTS * 16
            os.ftruncate(fd, size)
            os.pwrite(fd, _HEAD.pack(MAGIC, VERSION, HEADER), 0)
        if size < _HEAD.size:
            raise RecordError(f"the keeper record has {size} bytes: stop the dataset and start it again")
        magic, version, header = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
        if magic != MAGIC:
            raise RecordError("the state descriptor is no keeper record: stop the dataset and start it again")
        if version > VERSION or header != HEADER or size <= HEADER:
            raise RecordError(f"keeper record version {version} is newer than this build's {VERSION}: start the newer forebay")
        self._header = mmap.mmap(fd, HEADER)
        self._bytes = memoryview(self._header)
        self.head = self._bytes.cast("Q")
        self.buffer = self._bytes[_BUFFER_AT:_POOL_AT]
        self._pool_free = list(range(_POOL_AT, _POOL_AT + POOL_SLOTS * _POOL_SLOT, _POOL_SLOT))
        self._map(size)
        self.slots: dict[int, int] = {}  # inode -> position of its state word
        self._next = 0
        for at in range(0, len(self.words), 2):
            if self.words[at]:
                self.slots[self.words[at]] = at + 1
                self._next = at + 2
        used = set(self.slots.values())
        self._free = [at for at in range(1, self._next, 2) if at not in used]

    def _map(self, size: int) -> None:
        self._table = mmap.mmap(self.fd, size - HEADER, offset=HEADER)
        self.words = memoryview(self._table).cast("Q")

    def _unmap(self) -> None:
        self.words.release()
        self._table.close()

    def close(self) -> None:
        self._unmap()
        for view in (self.head, self.buffer, self._bytes):
            view.release()
        self._header.close()

    # --- the open table ------------------------------------------------------------------------------------------

    def take(self, ino: int, word: int) -> int:
        """Give `ino` a slot that holds `word`; returns the position of the word."""
        if self._free:
            at = self._free.pop()
        else:
            if self._next + 2 > len(self.words):
                self._grow()
            at = self._next + 1
            self._next += 2
        self.words[at] = word
        self.words[at - 1] = ino
        self.slots[ino] = at
        return at

    def drop(self, ino: int) -> None:
        at = self.slots.pop(ino)
        self.words[at - 1] = 0
        self.words[at] = 0
        self._free.append(at)

    def items(self) -> Iterator[tuple[int, int]]:
        """Inode and word of every slot in use."""
        for ino, at in self.slots.items():
            yield ino, self.words[at]

    def _grow(self) -> None:
        size = HEADER + len(self.words) * 8 * 2
        os.ftruncate(self.fd, size)
        self._unmap()
        self._map(size)

    # --- requests in hand ----------------------------------------------------------------------------------------

    def note(self, request: bytes) -> int:
        """Keep a request that waits; returns the place for `done`, 0 when there is none or it is too long."""
        if len(request) > _POOL_SLOT:
            return 0
        try:
            at = self._pool_free.pop()
        except IndexError:
            return 0
        self._bytes[at + 4 : at + len(request)] = request[4:]
        self._bytes[at : at + 4] = request[:4]  # its length, last: from here on the slot holds a whole request
        return at

    def done(self, at: int) -> None:
        """The request was answered."""
        if at:
            self._bytes[at : at + 4] = b"\0\0\0\0"
            self._pool_free.append(at)

    def unanswered(self) -> list[bytes]:
        """Requests that the predecessor had read and perhaps not answered, forgotten by this call. Before the first read."""
        found: dict[int, bytes] = {}
        for at in (_BUFFER_AT, *range(_POOL_AT, _POOL_AT + POOL_SLOTS * _POOL_SLOT, _POOL_SLOT)):
            length = _LENGTH.unpack_from(self._bytes, at)[0]
            if 40 <= length <= (_POOL_AT - _BUFFER_AT if at == _BUFFER_AT else _POOL_SLOT):
                raw = bytes(self._bytes[at : at + length])
                found[_UNIQUE.unpack_from(raw)[0]] = raw
            self._bytes[at : at + 4] = b"\0\0\0\0"
        return list(found.values())

    # --- INIT ----------------------------------------------------------------------------------------------------

    @property
    def init(self) -> tuple[bytes, bytes] | None:
        """Request and reply of the INIT exchange, or None on a mount whose INIT nobody answered yet."""
        n_in, n_out = self.head[_INIT_IN_LEN], self.head[_INIT_OUT_LEN]
        if not n_out:
            return None
        return bytes(self._bytes[_INIT_IN_AT : _INIT_IN_AT + n_in]), bytes(self._bytes[_INIT_OUT_AT : _INIT_OUT_AT + n_out])

    def remember_init(self, request: bytes, reply: bytes) -> None:
        """Written before the reply is sent: a daemon killed between the two leaves a request that RESEND cannot lose."""
        if len(request) > _INIT_MAX or len(reply) > _INIT_MAX:
            raise RecordError(f"an INIT of {len(request)} and {len(reply)} bytes does not fit the keeper record")
        self._bytes[_INIT_IN_AT : _INIT_IN_AT + len(request)] = request
        self._bytes[_INIT_OUT_AT : _INIT_OUT_AT + len(reply)] = reply
        self.head[_INIT_IN_LEN] = len(request)
        self.head[_INIT_OUT_LEN] = len(reply)

    def started(self) -> int:
        """Count a start of a daemon on this mount; returns how many there were before."""
        before = self.head[_STARTS]
        self.head[_STARTS] = before + 1
        return before


def is_record(fd: int) -> bool:
    """Whether `fd` is a memfd with a record in it. For a supervisor that adopts descriptors."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return os.pread(fd, len(MAGIC), 0) == MAGIC
    except OSError:
        return False
