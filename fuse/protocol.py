"""The FUSE kernel protocol as bytes: opcodes, flags and struct layouts of 7.45, and the two INIT packets.

Layouts hold for x86-64 and aarch64. Source: `include/uapi/linux/fuse.h` of Linux 6.18.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

MAJOR = 7
MINOR = 45
OLDEST_MINOR = 23
"""7.23 is Linux 3.15: the first whose INIT reply has today's length."""

# --- opcodes ---------------------------------------------------------------------------------------------------------

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = (
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
)
FSYNCDIR, GETLK, SETLK, SETLKW, ACCESS, CREATE, INTERRUPT, BMAP, DESTROY, IOCTL, POLL = 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40
NOTIFY_REPLY, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 41, 42, 43, 44, 45, 46, 47
SYNCFS, TMPFILE, STATX, COPY_FILE_RANGE_64 = 50, 51, 52, 53

WRITES = frozenset(
    (SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, RENAME2, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE,
     FALLOCATE, COPY_FILE_RANGE, COPY_FILE_RANGE_64, TMPFILE)
)  # fmt: skip
"""Everything that changes a tree: EROFS on a read-only mount."""

NAMES = {
    value: name.lower()
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, int) and name not in {"MAJOR", "MINOR", "OLDEST_MINOR"}
}
"""Opcode -> its name, for logs."""

RESENT = 1 << 63
"""Bit of `unique` in a request that RESEND put back; the answer must keep it."""

# --- INIT flags ------------------------------------------------------------------------------------------------------

ASYNC_READ = 1 << 0
BIG_WRITES = 1 << 5
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
PARALLEL_DIROPS = 1 << 18
ABORT_ERROR = 1 << 21
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
EXPLICIT_INVAL_DATA = 1 << 25
INIT_EXT = 1 << 30
HAS_EXPIRE_ONLY = 1 << 35
PASSTHROUGH = 1 << 37
HAS_RESEND = 1 << 39

WANTED = (
    ASYNC_READ | BIG_WRITES | DO_READDIRPLUS | ASYNC_DIO | PARALLEL_DIROPS | ABORT_ERROR | MAX_PAGES | CACHE_SYMLINKS
    | EXPLICIT_INVAL_DATA | INIT_EXT | HAS_EXPIRE_ONLY | PASSTHROUGH | HAS_RESEND
)  # fmt: skip
"""What a read-only mount asks for. READDIRPLUS without AUTO: under AUTO `ls -l` of a directory gets its attributes with
the first page only and one LOOKUP per name for all others."""

PAGE = 4096
MAX_WRITE = 4096
"""Nothing is written through this mount; the kernel's least value keeps the request buffer at 8 KiB."""
MAX_READ_PAGES = 256
MAX_READ = MAX_READ_PAGES * PAGE
REQUEST_BUFFER = 8192 + PAGE
MAX_BACKGROUND = 128
CONGESTION = 96

# --- open flags of a reply -------------------------------------------------------------------------------------------

FOPEN_KEEP_CACHE = 1 << 1
FOPEN_NOFLUSH = 1 << 5
FOPEN_PASSTHROUGH = 1 << 7

# --- notifications ---------------------------------------------------------------------------------------------------

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_RESEND, NOTIFY_INC_EPOCH, NOTIFY_PRUNE = 2, 3, 7, 8, 9
EXPIRE_ONLY = 1

# --- ioctls of /dev/fuse ---------------------------------------------------------------------------------------------

IOC_BACKING_OPEN = 0x4010E501
IOC_BACKING_CLOSE = 0x4004E502

# --- layouts ---------------------------------------------------------------------------------------------------------

IN = struct.Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, pad
OUT = struct.Struct("<IiQ")  # len, error, unique
INIT_IN = struct.Struct("<IIIII11I")
INIT_IN_OLD = struct.Struct("<IIII")
INIT_OUT = struct.Struct("<IIIIHHIIHHIIH11H")
ATTR_FORMAT = "QQQQQQIIIIIIIIII"  # ino, size, blocks, atime, mtime, ctime, 3 nsec, mode, nlink, uid, gid, rdev, blksize, flags
ATTR = struct.Struct("<" + ATTR_FORMAT)
ENTRY_FORMAT = "QQQQII" + ATTR_FORMAT  # nodeid, generation, entry ttl, attr ttl, 2 nsec
ENTRY_OUT = struct.Struct("<" + ENTRY_FORMAT)
ENTRY_REPLY = struct.Struct("<IiQ" + ENTRY_FORMAT)
ATTR_REPLY = struct.Struct("<IiQQII" + ATTR_FORMAT)  # header, ttl, ttl nsec, 0
OPEN_REPLY = struct.Struct("<IiQQIi")  # header, fh, open_flags, backing_id
OPEN_IN = struct.Struct("<II")
READ_IN = struct.Struct("<QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags
RELEASE_IN = struct.Struct("<QIIQ")
GETXATTR_IN = struct.Struct("<II")
XATTR_SIZE = struct.Struct("<II")
STATFS_OUT = struct.Struct("<QQQQQIIII6I")
INTERRUPT_IN = struct.Struct("<Q")
DIRENT = struct.Struct("<QQII")  # ino, off, namelen, type
DIRENTPLUS = struct.Struct("<" + ENTRY_FORMAT + "QQII")
BACKING_MAP = struct.Struct("<iIQ")
INVAL_INODE = struct.Struct("<IiQQqq")  # header, inode, offset, length
INVAL_ENTRY = struct.Struct("<IiQQII")  # header, parent, namelen, flags
BATCH_FORGET_IN = struct.Struct("<II")

IN_SIZE = IN.size
OUT_SIZE = OUT.size

SIZES = {
    IN: 40,
    OUT: 16,
    INIT_IN: 64,
    INIT_OUT: 64,
    ATTR: 88,
    ENTRY_OUT: 128,
    DIRENT: 24,
    DIRENTPLUS: 152,
    STATFS_OUT: 80,
    READ_IN: 40,
}

BODY = {
    FORGET: 8, GETATTR: 16, OPEN: 8, OPENDIR: 8, READ: 40, READDIR: 40, READDIRPLUS: 40, RELEASE: 24, RELEASEDIR: 24,
    GETXATTR: 8, LISTXATTR: 8, INTERRUPT: 8, BATCH_FORGET: 8, LOOKUP: 2, INIT: 16,
}  # fmt: skip
"""Opcode -> least length of its body; anything shorter is malformed."""


class Negotiated(NamedTuple):
    """What kernel and session agreed on. `minor` and `flags` are those of the reply."""

    minor: int
    flags: int
    max_read: int
    max_readahead: int

    @property
    def passthrough(self) -> bool:
        return bool(self.flags & PASSTHROUGH)

    @property
    def resend(self) -> bool:
        return bool(self.flags & HAS_RESEND)


class Unusable(Exception):
    """The kernel speaks a protocol that this session does not; `str()` is one sentence."""


def answer_init(
    raw: bytes, *, wanted: int = WANTED, stack_depth: int = 1, max_readahead: int = 8 << 20
) -> tuple[bytes, Negotiated | None]:
    """The reply to an INIT request, and what it settles.

    None when the kernel's major is larger: it sends another INIT after this reply. Only bits that the kernel offered
    are given back. `max_readahead` can only lower what the kernel's backing device says. `Unusable` below 7.23.
    """
    _, opcode, unique, *_ = IN.unpack_from(raw)
    if opcode != INIT or len(raw) < IN_SIZE + INIT_IN_OLD.size:
        raise Unusable(f"the kernel's first request is {NAMES.get(opcode, opcode)} of {len(raw)} bytes, not INIT")
    major, minor, _, flags = INIT_IN_OLD.unpack_from(raw, IN_SIZE)
    if major > MAJOR:
        return _init_reply(unique, MINOR, 0, 0, 0), None
    if major < MAJOR or minor < OLDEST_MINOR:
        raise Unusable(f"the kernel speaks FUSE {major}.{minor}, forebay needs {MAJOR}.{OLDEST_MINOR} (Linux 3.15) or newer")
    offered = flags
    if flags & INIT_EXT and len(raw) >= IN_SIZE + INIT_IN.size:
        offered |= INIT_IN.unpack_from(raw, IN_SIZE)[4] << 32
    granted = offered & wanted
    if not granted & INIT_EXT:
        granted &= 0xFFFFFFFF
    if minor < 40:
        granted &= ~(PASSTHROUGH | HAS_RESEND)
    pages = MAX_READ_PAGES if granted & MAX_PAGES else 32
    agreed = Negotiated(min(minor, MINOR), granted, pages * PAGE, max_readahead)
    depth = stack_depth if granted & PASSTHROUGH else 0
    return _init_reply(unique, agreed.minor, granted, max_readahead, depth), agreed


def _init_reply(unique: int, minor: int, flags: int, max_readahead: int, depth: int) -> bytes:
    pages = MAX_READ_PAGES if flags & MAX_PAGES else 0
    body = INIT_OUT.pack(
        MAJOR, minor, max_readahead, flags & 0xFFFFFFFF, MAX_BACKGROUND, CONGESTION, MAX_WRITE, 1, pages, 0, flags >> 32,
        depth, 0, *([0] * 11),
    )  # fmt: skip
    return OUT.pack(OUT_SIZE + len(body), 0, unique) + body


def error_reply(unique: int, number: int) -> bytes:
    """`number` is a positive errno."""
    return OUT.pack(OUT_SIZE, -number, unique)


def name_of(raw: bytes, offset: int = IN_SIZE) -> bytes:
    """The NUL-terminated name at `offset`. `OSError(EIO)` when there is no NUL."""
    end = raw.find(b"\0", offset)
    if end < 0:
        raise OSError(errno.EIO, "a name without its NUL")
    return raw[offset:end]


def resend_notice() -> bytes:
    return OUT.pack(OUT_SIZE, NOTIFY_RESEND, 0)


def inc_epoch_notice() -> bytes:
    return OUT.pack(OUT_SIZE, NOTIFY_INC_EPOCH, 0)


def inval_pages_notice(ino: int, offset: int, length: int) -> bytes:
    """Let the pages of a range go, and the attributes with them."""
    return INVAL_INODE.pack(INVAL_INODE.size, NOTIFY_INVAL_INODE, 0, ino, offset, length)


def inval_entry_notice(parent: int, name: bytes) -> bytes:
    return INVAL_ENTRY.pack(INVAL_ENTRY.size + len(name) + 1, NOTIFY_INVAL_ENTRY, 0, parent, len(name), 0) + name + b"\0"
