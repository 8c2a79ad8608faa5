"""The namespace index: every name, inode and cached object of one dataset on one node, in one LMDB environment.

One process (the worker) writes; the mount of the same node maps it read-only. Rows are fixed packed structs so that a
reader needs no decoder and memory does not grow with the number of files.

    children  parent ino, ino (16 B, big-endian)  -> Row         a directory in arrival order: readdir cookies are inode numbers
    names     parent ino (8 B) + name              -> ino         lookup
    inodes    ino                                  -> parent ino
    orphans   ino                                  -> Row         a version that no name points to any more, still readable
    dirs      ino                                  -> Dir         how far and when a directory was listed, and from which mounts
    objects   oid (16 B)                           -> Object      what of an object version is in the cache
    extents   oid + segment (4 B)                  -> bitmap and xxh3 of each 256 KiB block of one 64 MiB segment
    recency   turn (4 B) + oid                     -> tier (1 B)  who goes first: copies, then the rest, by last use
    meta      name                                 -> value

The root's row is the child (0, ROOT); a directory that lost its name keeps its children until it is swept, so that who
holds it can still read. Inode numbers only grow and are never reused. `oid` = xxh3-128 of (store identity, key, version):
the same bytes seen again under a new inode find their cache file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import xxhash

SCHEMA = 1
MAP_SIZE = 256 << 30
"""Address space, not memory: the file is sparse. 10^8 rows of 200 B need 20 GB."""
MAX_READERS = 512
ROOT = 1

BLOCK = 256 << 10
"""Unit of presence and of checksums: 2 GiB cost 64 KiB of checksums; a random 4 KiB read verifies 256 KiB (10 us)."""
SEGMENT = 64 << 20
BLOCKS_PER_SEGMENT = SEGMENT // BLOCK

DIR, FILE = 1, 2
UNRESOLVED = 1
"""Row flag: the listing gave a name but no size or version."""
FIXED = 2
"""Row flag: a directory of a mount path. Never expires, never vanishes, whatever a store says."""
UNCONFIRMED = 4
"""Row flag: listings of its store tell no version, so only `checked` vouches for it, not the parent's `listed`."""

UNLISTED, LISTING, COMPLETE_LIST = 0, 1, 2
PARTIAL, COMPLETE = 1, 2

_ROW = struct.Struct("<BBHIQqQ16sHH")
_DIR = struct.Struct("<BxHIQI")
_OBJECT = struct.Struct("<BBBxIQQIQ")
_COUNTS = struct.Struct("<QQQ")
_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_U32 = struct.Struct(">I")

ROW_FIXED = _ROW.size


class IndexError_(Exception):
    """The index cannot be used; `str()` says why and what to do."""


class Row(NamedTuple):
    """One child of a directory. `checked` is the unix second at which the store last confirmed it."""

    kind: int
    flags: int
    mount: int  # position in DatasetSpec.mounts; 0xFFFF for directories made of mount paths alone
    checked: int
    size: int
    mtime_ns: int
    ino: int
    oid: bytes  # 16 B, zeros for directories and unresolved files
    name: bytes
    version: bytes


class Dir(NamedTuple):
    """How far a directory was listed. `sources` are the mounts that may hold it, in order of precedence."""

    state: int
    listed: int  # unix second at which the last complete listing began
    entries: int
    epoch: int  # grows with every complete listing
    sources: tuple[int, ...]


class Counts(NamedTuple):
    """Rows of the tree, the root included; `bytes` without those of unresolved files."""

    dirs: int = 0
    files: int = 0
    bytes: int = 0


class Object(NamedTuple):
    """What of one object version is in the cache."""

    state: int  # PARTIAL or COMPLETE
    tier: int  # position in DatasetSpec.tiers
    flags: int
    used: int  # unix second of last use
    size: int
    present: int  # bytes
    boot: int  # low 32 bits of the boot in which it was verified; another boot's rows are doubtful
    ino: int  # an inode of it, for events


NO_OID = bytes(16)
NO_MOUNT = 0xFFFF
DURABLE = 1
PINNED = 2
"""Object flag: never evicted."""
COPY = 4
"""Object flag: most of it belongs to another node."""
_COPY_TURN = 0x40000000
"""Seconds by which a copy's turn comes before its last use: 34 years, so that all copies come before everything else."""
NEVER = b"\xff\xff\xff\xff"
"""The turn of pinned objects, after all others."""


def pack_row(row: Row) -> bytes:
    return (
        _ROW.pack(
            row.kind, row.flags, row.mount, row.checked, row.size, row.mtime_ns, row.ino, row.oid,
            len(row.name), len(row.version),
        )
        + row.name
        + row.version
    )  # fmt: skip


def pack_file(attributes: tuple[int, int, int, int, int, int], oid: bytes, name: bytes, version: bytes) -> bytes:
    """A file's packed row without the `Row`, for listings. `attributes`: flags, mount, checked, size, mtime_ns, ino."""
    return _ROW.pack(FILE, *attributes, oid, len(name), len(version)) + name + version


_UNCHANGED = struct.Struct("<Qq")
_PLAIN_FILE = bytes((FILE, 0))


def unchanged(raw: bytes, mount: int, size: int, mtime_ns: int, tail: bytes) -> bool:
    """Whether a packed row is a plain file of `mount` with these attributes; `tail` is name + version. Decodes nothing."""
    return (
        raw[:2] == _PLAIN_FILE
        and raw[ROW_FIXED:] == tail
        and raw[8:24] == _UNCHANGED.pack(size, mtime_ns)
        and raw[2] | raw[3] << 8 == mount
    )


def unpack_row(raw: Any) -> Row:
    kind, flags, mount, checked, size, mtime, ino, oid, nlen, vlen = _ROW.unpack_from(raw)
    end = ROW_FIXED + nlen
    return Row(kind, flags, mount, checked, size, mtime, ino, oid, bytes(raw[ROW_FIXED:end]), bytes(raw[end : end + vlen]))


def pack_dir(d: Dir) -> bytes:
    return _DIR.pack(d.state, len(d.sources), d.listed, d.entries, d.epoch) + struct.pack(f"<{len(d.sources)}H", *d.sources)


def unpack_dir(raw: Any) -> Dir:
    state, n, listed, entries, epoch = _DIR.unpack_from(raw)
    return Dir(state, listed, entries, epoch, struct.unpack_from(f"<{n}H", raw, _DIR.size))


def pack_object(o: Object) -> bytes:
    return _OBJECT.pack(o.state, o.tier, o.flags, o.used, o.size, o.present, o.boot, o.ino)


def unpack_object(raw: Any) -> Object:
    state, tier, flags, used, size, present, boot, ino = _OBJECT.unpack_from(raw)
    return Object(state, tier, flags, used, size, present, boot, ino)


object_fields = _OBJECT.unpack
"""The fields of a packed `Object` as a plain tuple: for those who look at every row there is."""


def turn(used: int, flags: int) -> bytes:
    """The place of an object among those that may go: the first 4 B of its key in `recency`."""
    if flags & PINNED:
        return NEVER
    return _U32.pack(max(used - _COPY_TURN, 0) if flags & COPY else used)


def object_id(store: str, key: bytes, version: bytes) -> bytes:
    """16 B that name one version of one object. `store` is `Mount.identity`, the tree the key is relative to."""
    s = store.encode()
    return bytes(xxhash.xxh3_128_digest(_U32.pack(len(s)) + s + _U32.pack(len(key)) + key + _U32.pack(len(version)) + version))


def object_path(tier_path: str, oid: bytes) -> str:
    """Place of a cache file below its tier directory; 256 folders keep each below a few thousand entries per million."""
    hexed = oid.hex()
    return f"{tier_path}/objects/{hexed[:2]}/{hexed}"


def boot_id() -> int:
    """Low 32 bits of this boot's identity."""
    return int(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[-8:], 16)


class Index:
    """The environment and its databases. Transactions are the caller's: `env.begin(write=True)` in the worker only."""

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        self.path = str(path)
        if not readonly:
            Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
        # sync=False: a killed process loses nothing (the pages are the kernel's), a lost boot is answered from the ledger
        self.env = lmdb.open(
            self.path, map_size=MAP_SIZE, max_dbs=16, max_readers=MAX_READERS, readonly=readonly,
            sync=False, metasync=False, readahead=False, create=not readonly,
        )  # fmt: skip
        make = not readonly
        self.children = self.env.open_db(b"children", create=make)
        self.names = self.env.open_db(b"names", create=make)
        self.inodes = self.env.open_db(b"inodes", create=make)
        self.orphans = self.env.open_db(b"orphans", create=make)
        self.dirs = self.env.open_db(b"dirs", create=make)
        self.objects = self.env.open_db(b"objects", create=make)
        self.extents = self.env.open_db(b"extents", create=make)
        self.recency = self.env.open_db(b"recency", create=make)
        self.meta = self.env.open_db(b"meta", create=make)

    def close(self) -> None:
        self.env.close()

    # Readers: every function takes the transaction it reads in.

    def find(self, txn: Any, parent: int, name: bytes) -> Row | None:
        """The row a name points to, or None when the index has none (which does not mean the store has none)."""
        ino = txn.get(_U64.pack(parent) + name, db=self.names)
        if ino is None:
            return None
        raw = txn.get(_U64.pack(parent) + bytes(ino), db=self.children)
        return None if raw is None else unpack_row(raw)

    def row(self, txn: Any, ino: int) -> Row | None:
        """The row of an inode, whether a name points to it or not."""
        key = _U64.pack(ino)
        parent = txn.get(key, db=self.inodes)
        if parent is not None:
            raw = txn.get(bytes(parent) + key, db=self.children)
            if raw is not None:
                return unpack_row(raw)
        raw = txn.get(key, db=self.orphans)
        return None if raw is None else unpack_row(raw)

    def orphan(self, txn: Any, ino: int) -> bool:
        """Whether an inode lost its name."""
        return txn.get(_U64.pack(ino), db=self.orphans) is not None

    def parent(self, txn: Any, ino: int) -> int:
        """Parent of an inode; the root is its own."""
        if ino == ROOT:
            return ROOT
        raw = txn.get(_U64.pack(ino), db=self.inodes)
        return ROOT if raw is None else int(_U64.unpack(raw)[0])

    def child(self, txn: Any, parent: int, ino: int) -> Row | None:
        """The row of a child of a directory, by number."""
        raw = txn.get(_PAIR.pack(parent, ino), db=self.children)
        return None if raw is None else unpack_row(raw)

    def scan(self, txn: Any, parent: int, after: int) -> Iterator[Any]:
        """Raw rows of a directory with inode numbers above `after`, in arrival order."""
        prefix = _U64.pack(parent)
        cursor = txn.cursor(db=self.children)
        if not cursor.set_range(_PAIR.pack(parent, after + 1)):
            return
        for key, value in cursor:
            if bytes(key[:8]) != prefix:
                return
            yield value

    def scan_raw(self, txn: Any, parent: int, after: int) -> Iterator[tuple[int, Any]]:
        """Inode number and raw row of a directory's children above `after`, in arrival order."""
        prefix = _U64.pack(parent)
        cursor = txn.cursor(db=self.children)
        if not cursor.set_range(_PAIR.pack(parent, after + 1)):
            return
        for key, value in cursor:
            if key[:8] != prefix:
                return
            yield int.from_bytes(key[8:], "big"), value

    def counts(self, txn: Any) -> Counts:
        """How many rows the tree has, kept in step by every change."""
        raw = txn.get(b"counts", db=self.meta)
        return Counts() if raw is None else Counts(*_COUNTS.unpack(raw))

    def dir(self, txn: Any, ino: int) -> Dir | None:
        raw = txn.get(_U64.pack(ino), db=self.dirs)
        return None if raw is None else unpack_dir(raw)

    def object(self, txn: Any, oid: bytes) -> Object | None:
        raw = txn.get(oid, db=self.objects)
        return None if raw is None else unpack_object(raw)

    # Writers: the worker's process only.

    def put_row(self, txn: Any, parent: int, row: Row) -> None:
        """Insert or replace the child `row.ino` and point its name to it. The caller moves an older version to orphans first."""
        ino = _U64.pack(row.ino)
        up = _U64.pack(parent)
        txn.put(up + ino, pack_row(row), db=self.children)
        txn.put(up + row.name, ino, db=self.names)
        txn.put(ino, up, db=self.inodes)

    def drop_row(self, txn: Any, parent: int, row: Row, *, orphan: bool) -> None:
        """Take a child out of its directory; `orphan` keeps its row readable for those who hold the inode."""
        ino = _U64.pack(row.ino)
        up = _U64.pack(parent)
        txn.delete(up + ino, db=self.children)
        if txn.get(up + row.name, db=self.names) == ino:
            txn.delete(up + row.name, db=self.names)
        if orphan:
            txn.put(ino, pack_row(row), db=self.orphans)
        else:
            txn.delete(ino, db=self.inodes)

    def forget_checked(self, txn: Any, parent: int, after: int, limit: int) -> int | None:
        """Set `checked` of up to `limit` rows above `after` to 0 (never); where to go on, None at the end of the directory."""
        up = _U64.pack(parent)
        patched: list[tuple[bytes, bytes]] = []
        at, n = after, 0
        for ino, raw in self.scan_raw(txn, parent, after):
            at, n = ino, n + 1
            if raw[4:8] != b"\0\0\0\0" and not raw[1] & FIXED:
                patched.append((up + _U64.pack(ino), raw[:4] + b"\0\0\0\0" + raw[8:]))
            if n == limit:
                break
        if patched:
            with txn.cursor(db=self.children) as cursor:
                cursor.putmulti(patched)
        return at if n == limit else None

    def put_dir(self, txn: Any, ino: int, d: Dir) -> None:
        txn.put(_U64.pack(ino), pack_dir(d), db=self.dirs)

    def put_object(self, txn: Any, oid: bytes, o: Object) -> None:
        """Write an object's row and move its place in the recency order."""
        old = self.object(txn, oid)
        place = turn(o.used, o.flags)
        if old is not None and (before := turn(old.used, old.flags)) != place:
            txn.delete(before + oid, db=self.recency)
        txn.put(place + oid, bytes((o.tier,)), db=self.recency)
        txn.put(oid, pack_object(o), db=self.objects)

    def drop_object(self, txn: Any, oid: bytes) -> None:
        old = self.object(txn, oid)
        if old is None:
            return
        txn.delete(turn(old.used, old.flags) + oid, db=self.recency)
        txn.delete(oid, db=self.objects)
        for segment in range((old.size + SEGMENT - 1) // SEGMENT):
            txn.delete(oid + _U32.pack(segment), db=self.extents)

    def put_counts(self, txn: Any, counts: Counts) -> None:
        txn.put(b"counts", _COUNTS.pack(*(max(0, n) for n in counts)), db=self.meta)

    def forget_tree(self, txn: Any) -> None:
        """Drop every name and inode; objects stay, found again by identity. Inode numbers go on where they were."""
        for db in (self.children, self.names, self.inodes, self.orphans, self.dirs):
            txn.drop(db, delete=False)
        self.put_counts(txn, Counts())

    def damaged(self, what: str) -> IndexError_:
        """The error for an index that contradicts itself."""
        return IndexError_(f"{self.path}: {what}: stop forebay and remove this directory; cached files are checked and kept")

    def verify(self, txn: Any) -> list[str]:
        """Every contradiction between the tree's databases, as sentences; none when it is sound. Reads everything."""
        wrong: list[str] = []
        per_dir: dict[int, int] = {}
        dirs = files = size = names = inodes = 0
        for key, raw in txn.cursor(db=self.children):
            parent, ino = _PAIR.unpack(key)
            row = unpack_row(raw)
            if row.ino != ino:
                wrong.append(f"child {ino} of {parent} says it is {row.ino}")
            if txn.get(key[:8] + row.name, db=self.names) != key[8:]:
                wrong.append(f"child {ino} of {parent}: its name {row.name!r} does not point to it")
            if txn.get(key[8:], db=self.inodes) != key[:8]:
                wrong.append(f"child {ino} of {parent}: its inode has another parent")
            if txn.get(key[8:], db=self.orphans) is not None:
                wrong.append(f"child {ino} of {parent} is an orphan too")
            per_dir[parent] = per_dir.get(parent, 0) + 1
            if row.kind == DIR:
                dirs += 1
                if txn.get(key[8:], db=self.dirs) is None:
                    wrong.append(f"directory {ino} has no listing state")
            else:
                files += 1
                size += row.size
                if txn.get(key[8:], db=self.dirs) is not None:
                    wrong.append(f"file {ino} has a listing state")
            if parent and txn.get(key[:8], db=self.dirs) is None:
                wrong.append(f"child {ino} is in {parent}, which is no directory")
        for key, ino_raw in txn.cursor(db=self.names):
            names += 1
            if txn.get(key[:8] + ino_raw, db=self.children) is None:
                wrong.append(f"name {key[8:]!r} in {_U64.unpack(key[:8])[0]} points to nothing")
        for key, up in txn.cursor(db=self.inodes):
            inodes += 1
            if txn.get(up + key, db=self.children) is None and txn.get(key, db=self.orphans) is None:
                wrong.append(f"inode {_U64.unpack(key)[0]} has no row")
        orphans = 0
        for key, raw in txn.cursor(db=self.orphans):
            orphans += 1
            if unpack_row(raw).ino != _U64.unpack(key)[0] or txn.get(key, db=self.inodes) is None:
                wrong.append(f"orphan {_U64.unpack(key)[0]} has no inode")
        for key, raw in txn.cursor(db=self.dirs):
            ino = _U64.unpack(key)[0]
            d = unpack_dir(raw)
            if d.entries != per_dir.get(ino, 0):
                wrong.append(f"directory {ino} counts {d.entries} entries and has {per_dir.get(ino, 0)}")
            if txn.get(key, db=self.inodes) is None:
                wrong.append(f"listing state of {ino}, which is no inode")
        if names != dirs + files or inodes != dirs + files + orphans:
            wrong.append(f"{dirs + files} children, {names} names, {inodes} inodes, {orphans} orphans")
        if self.counts(txn) != Counts(dirs, files, size):
            wrong.append(f"counts say {self.counts(txn)}, rows say {Counts(dirs, files, size)}")
        raw = txn.get(b"next_ino", db=self.meta)
        last = txn.cursor(db=self.inodes)
        if last.last() and _U64.unpack(last.key())[0] >= (ROOT + 1 if raw is None else _U64.unpack(raw)[0]):
            wrong.append("an inode number at or above the next one to be given")
        return wrong

    def next_ino(self, txn: Any, count: int = 1) -> int:
        """Reserve `count` inode numbers and return the first."""
        raw = txn.get(b"next_ino", db=self.meta)
        first = ROOT + 1 if raw is None else int(_U64.unpack(raw)[0])
        txn.put(b"next_ino", _U64.pack(first + count), db=self.meta)
        return first

    def check_schema(self, txn: Any) -> None:
        """Write the schema number into a new environment; refuse a newer one."""
        raw = txn.get(b"schema", db=self.meta)
        if raw is None:
            txn.put(b"schema", _U32.pack(SCHEMA), db=self.meta)
        elif _U32.unpack(raw)[0] > SCHEMA:
            raise IndexError_(
                f"{self.path}: index schema {_U32.unpack(raw)[0]} is newer than this build's {SCHEMA}: "
                "upgrade forebay, or give another --cache-dir"
            )
