"""A directory of this machine, or of a network file system mounted on it.

Keys are resolved below the root and nowhere else: `openat2` with RESOLVE_BENEATH, and for absolute links (which it refuses)
a look at where the opened descriptor really lies. A symbolic link is followed when its target stays below the root and is no
directory that holds the link; all others are skipped and counted, as are sockets, pipes and devices.

A version is device, inode, size, mtime and ctime; of a directory that several nodes mount (`shared`) it is size and mtime, since
each of them may see another device, inode and ctime. Every piece of a body is proven by an fstat after it was read: device,
inode, size, mtime and ctime, always.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat as st
import struct
import threading
import time
from urllib.parse import unquote_to_bytes

from forebay.api.spec import Mount
from forebay.cache.stores.base import BadReply, Body, Changed, Denied, Entry, NotFound, Page, StoreError, Unavailable
from forebay.cache.stores.dirents import read_names
from forebay.cache.stores.names import show, usable, usable_key
from forebay.cache.stores.net.ranges import Empty
from forebay.cache.stores.net.transport import Timeouts

_VERSION = struct.Struct("<QQQqq")
_SHARED = struct.Struct("<Qq")
_TOKEN = struct.Struct("<Qq")
SETTLE = 0.1
"""Seconds until the ctime names the bytes. Kernels before 6.13 stamp by a tick of up to 10 ms, and a write stamps before it
copies: a writer that loses the processor in between (20 ms and more seen at a load of 9 on two cores) changes bytes later."""

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_BENEATH, _RESOLVE_NO_MAGICLINKS = 0x08, 0x02
_O_PATH = os.O_PATH | os.O_CLOEXEC
_HOW = struct.Struct("<QQQ")
_libc = ctypes.CDLL(None, use_errno=True)


def version_of(info: os.stat_result) -> bytes:
    """Of a file that one machine looks at: names every state of it, up to `SETTLE`."""
    return _VERSION.pack(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def shared_version_of(info: os.stat_result) -> bytes:
    """Of a file that several machines look at, each by a mount of its own: the same for all of them.

    A device's number is given out by each kernel, an inode's by FUSE file systems at each mount, and copies on the nodes' own
    disks have ctimes of their own. What is left does not see a rewrite that keeps the size and sets the old mtime again.
    """
    return _SHARED.pack(info.st_size, info.st_mtime_ns)


class FileBody:
    """`version`: `version_of` the descriptor, whatever the store calls a version; no other machine has to agree with it."""

    def __init__(self, fd: int, label: str, version: bytes, offset: int, length: int) -> None:
        self._fd = fd
        self._label = label
        self._version = version
        self._at = offset
        self._end = offset + length

    def readinto(self, buffer: memoryview) -> int:
        if self._at == self._end or not buffer:
            return 0
        if self._fd < 0:
            raise Unavailable(f"{self._label}: the body was closed before its end; read it again")
        try:
            got = os.preadv(self._fd, [buffer[: self._end - self._at]], self._at)
            now = version_of(os.fstat(self._fd))
        except OSError as e:
            raise error_of(e, self._label) from e
        if now != self._version or got == 0:
            raise Changed(f"{self._label}: the file was written while it was read; list it again")
        self._at += got
        if self._at == self._end:
            self.close()
        return got

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class FileStore:
    """The files below one directory. Thread-safe. `shared`: other nodes read the same tree by mounts of their own."""

    def __init__(self, root: bytes, *, shared: bool = False) -> None:
        self._root = root
        self.strong = not shared
        self._named = shared_version_of if shared else version_of
        self._name = f"local://{show(root)}"
        self._lock = threading.Lock()
        self._fd = -1
        self._device = -1
        self._beneath = True  # False once openat2 proved to be out of reach

    # -- the interface --

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        label = self._label(prefix)
        if prefix and not usable_key(prefix):
            raise NotFound(f"{label}: no directory in the tree can have this name")
        fd = self._open(prefix or b".", os.O_RDONLY | os.O_DIRECTORY, label)
        try:
            info = os.fstat(fd)
            cookie = 0
            if token is not None:
                if len(token) != _TOKEN.size:
                    raise BadReply(f"{label}: resumed with a token that is none of ours; list the directory from its start")
                inode, cookie = _TOKEN.unpack(token)
                if inode != info.st_ino:
                    raise Changed(f"{label}: another directory took its place while it was listed; list it from its start")
            entries: list[Entry] = []
            skipped = 0
            names, cookie = read_names(fd, cookie, limit)
            for name in names:
                entry = self._entry(fd, prefix, name)
                if entry is None:
                    skipped += 1
                elif entry.name:
                    entries.append(entry)
            return Page(entries, None if cookie < 0 else _TOKEN.pack(info.st_ino, cookie), skipped)
        except OSError as e:
            raise error_of(e, label) from e
        finally:
            os.close(fd)

    def stat(self, key: bytes) -> Entry:
        fd, info = self._open_file(key)
        os.close(fd)
        return Entry(key.rpartition(b"/")[2], False, info.st_size, info.st_mtime_ns, self._named(info))

    def is_dir(self, key: bytes) -> bool:
        label = self._label(key)
        if not usable_key(key):
            return False
        try:
            fd = self._open(key, _O_PATH | os.O_DIRECTORY, label)
        except NotFound:
            return False
        os.close(fd)
        return True

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        fd, info = self._open_file(key, settle=True)
        label = self._label(key)
        if self._named(info) != version:
            os.close(fd)
            raise Changed(f"{label}: the file has changed since it was listed; list it again")
        if offset + length > info.st_size:
            os.close(fd)
            raise BadReply(f"{label}: bytes up to {offset + length} were asked for, the file has {info.st_size}")
        return FileBody(fd, label, version_of(info), offset, length)

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        fd, info = self._open_file(key, settle=True)
        entry = Entry(key.rpartition(b"/")[2], False, info.st_size, info.st_mtime_ns, self._named(info))
        if info.st_size == 0:
            os.close(fd)
            return entry, Empty()
        return entry, FileBody(fd, self._label(key), version_of(info), 0, info.st_size)

    def probe(self) -> None:
        self.list(b"", None, 1)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- below the root --

    def _open_file(self, key: bytes, *, settle: bool = False) -> tuple[int, os.stat_result]:
        """A regular file, opened for reading, and its stat. A pipe or a device is looked at but never opened."""
        label = self._label(key)
        if not usable_key(key) or key.endswith(b"/"):
            raise NotFound(f"{label}: no file in the tree can have this name")
        path = self._open(key, _O_PATH, label)
        try:
            if not st.S_ISREG(os.fstat(path).st_mode):
                raise NotFound(f"{label}: no regular file")
            fd = os.open(f"/proc/self/fd/{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as e:
            raise error_of(e, label) from e
        finally:
            os.close(path)
        info = os.fstat(fd)
        if settle:
            # A version whose ctime is of this very tick may still name two states of the file.
            age = time.time() - info.st_ctime_ns / 1e9
            if -SETTLE < age < SETTLE:
                time.sleep(SETTLE - max(age, 0.0))
                info = os.fstat(fd)
        return fd, info

    def _open(self, path: bytes, flags: int, label: str) -> int:
        """Open `path` below the root. Raises a `StoreError`."""
        root = self._root_fd()
        try:
            return self._open_below(root, path, flags | os.O_CLOEXEC)
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ESTALE} and self._root_moved():
                try:
                    return self._open_below(self._root_fd(), path, flags | os.O_CLOEXEC)
                except OSError as again:
                    raise error_of(again, label) from again
            raise error_of(e, label) from e

    def _open_below(self, root: int, path: bytes, flags: int) -> int:
        if self._beneath:
            how = _HOW.pack(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
            for _ in range(8):
                fd: int = _libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_long(root), path, how, ctypes.c_long(_HOW.size))
                if fd >= 0:
                    return fd
                code = ctypes.get_errno()
                if code != errno.EAGAIN:  # a rename ran across the walk
                    break
            if code in {errno.ENOSYS, errno.EPERM}:
                self._beneath = False
            elif code != errno.EXDEV:
                raise OSError(code, os.strerror(code))
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=root)
        try:
            top = os.readlink(b"/proc/self/fd/%d" % root)
            here = os.readlink(b"/proc/self/fd/%d" % fd)
            if here != top and not here.startswith(top.rstrip(b"/") + b"/"):
                raise OSError(errno.EXDEV, "leads out of the mount's directory")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _root_fd(self) -> int:
        with self._lock:
            if self._fd < 0:
                try:
                    fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except OSError as e:
                    raise self._root_error(e) from e
                device = os.fstat(fd).st_dev
                if self._device not in {-1, device}:
                    os.close(fd)
                    raise Unavailable(
                        f"{self._name}: another file system lies there now (unmounted?); mount it again, or restart the dataset"
                    )
                self._fd, self._device = fd, device
            return self._fd

    def _root_moved(self) -> bool:
        """Whether the root's path leads to another directory than the one held open; it is opened anew then."""
        with self._lock:
            try:
                now, held = os.stat(self._root), os.fstat(self._fd)
            except OSError as e:
                raise self._root_error(e) from e
            if (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino):
                return False
            os.close(self._fd)
            self._fd = -1
            return True

    def _root_error(self, e: OSError) -> StoreError:
        if e.errno in {errno.EACCES, errno.EPERM}:
            return Denied(f"{self._name}: this user may not read the directory; grant it, or run as its owner")
        return Unavailable(f"{self._name}: cannot open the directory ({e.strerror}); create or mount it, or correct the path")

    def _entry(self, fd: int, prefix: bytes, name: bytes) -> Entry | None:
        """One name of a listing; None when it is skipped; an entry without a name when it went away meanwhile."""
        gone = Entry(b"", False)
        if not usable(name):
            return None
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return gone
        if st.S_ISLNK(info.st_mode):
            try:
                target = self._open_below(self._root_fd(), prefix + name, _O_PATH)
            except OSError:
                return None  # dangling, looping, or leading out
            try:
                info = os.fstat(target)
            finally:
                os.close(target)
            if st.S_ISDIR(info.st_mode) and (info.st_dev, info.st_ino) in self._line(prefix):
                return None
        if st.S_ISDIR(info.st_mode):
            return Entry(name, True, mtime_ns=info.st_mtime_ns)
        if st.S_ISREG(info.st_mode):
            return Entry(name, False, info.st_size, info.st_mtime_ns, self._named(info))
        return None

    def _line(self, prefix: bytes) -> set[tuple[int, int]]:
        """Device and inode of every directory from the root to `prefix`: a link to one of them would make the tree endless."""
        root = self._root_fd()
        infos = [os.fstat(root)]
        parts = prefix.rstrip(b"/").split(b"/") if prefix else []
        for n in range(len(parts)):
            fd = self._open_below(root, b"/".join(parts[: n + 1]), _O_PATH)
            try:
                infos.append(os.fstat(fd))
            finally:
                os.close(fd)
        return {(info.st_dev, info.st_ino) for info in infos}

    def _label(self, key: bytes) -> str:
        return f"{self._name}/{show(key)}"


def error_of(e: OSError, label: str) -> StoreError:
    """An `OSError` of the file system as one of the fixed set."""
    if e.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}:
        return NotFound(f"{label}: there is no such file")
    if e.errno == errno.EXDEV:
        return NotFound(f"{label}: leads out of the mount's directory; nothing outside is shown")
    if e.errno in {errno.EACCES, errno.EPERM}:
        return Denied(f"{label}: this user may not read it; grant it, or run as its owner")
    return Unavailable(f"{label}: {e.strerror or e}; check the file system, then try again")


def root_of(source: str, name: str) -> bytes:
    """The directory that `local:///dir` (as written) or `file:///dir` (percent-encoded, as URLs are) names."""
    scheme, _, rest = source.partition("://")
    raw = rest.encode("utf-8", "surrogateescape")
    if scheme == "file":
        raw = unquote_to_bytes(raw.removeprefix(b"localhost"))
    if not raw.startswith(b"/") or b"\0" in raw:
        raise ValueError(f"mount {name!r}: {source!r} names no absolute directory; write local:///DIRECTORY")
    return os.path.normpath(raw)


def open_mount(mount: Mount, timeouts: Timeouts | None = None) -> FileStore:
    return FileStore(root_of(mount.source, mount.called), shared=mount.options.get("shared") == "true")
