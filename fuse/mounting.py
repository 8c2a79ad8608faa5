"""Mounting and unmounting: mount(2) for root, fusermount3 for everybody else, and what /proc and /sys say about mounts.

Nothing here touches the mounted tree itself: a dead or slow daemon cannot hang it. Works without an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
FSTYPE = "fuse.forebay"
READ_AHEAD_KB = 1024
"""One READ of 1 MiB in place of eight of 128 KiB, the kernel's default."""
FUSECTL = "/sys/fs/fuse/connections"


class MountError(OSError):
    """`strerror` is one sentence that names the mount point and says what to do."""


class MountEntry(NamedTuple):
    """One line of mountinfo. `path` is the mount point, unescaped."""

    major: int
    minor: int
    path: str
    fstype: str
    source: str
    options: str

    @property
    def device(self) -> str:
        return f"{self.major}:{self.minor}"


def _call(name: str, *args: bytes | int) -> int:
    """A function of the C library; returns 0 or its errno. Imported here: a mount daemon only reads mountinfo, and the
    imports of this module are part of the pause when it is restarted."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    result = getattr(libc, name)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in args))
    return 0 if result == 0 else ctypes.get_errno()


def _fusermount(*args: str, fd: int = -1) -> tuple[int, str]:
    """Run fusermount3 for an ordinary user; its exit code and what it said. `fd` is the socket it sends the device over."""
    import shutil
    import subprocess

    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if tool is None:
        raise MountError(errno.ENOENT, "fusermount3 is not installed: install the package fuse3, or run as root")
    env = os.environ if fd < 0 else {**os.environ, "_FUSE_COMMFD": str(fd)}
    done = subprocess.run(
        [tool, *args], pass_fds=() if fd < 0 else (fd,), stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=20,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"


def open_device() -> int:
    """A fresh /dev/fuse description."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountError(errno.ENODEV, "there is no /dev/fuse: load the kernel module with `modprobe fuse`") from None
    except PermissionError:
        raise MountError(errno.EACCES, "/dev/fuse may not be opened: run as root, or install fuse3 for fusermount3") from None


def mount(path: str, source: str, *, allow_other: bool = True) -> int:
    """Mount a new FUSE file system, read-only, at directory `path`; returns its device descriptor (close-on-exec).

    Root mounts by itself, anybody else through fusermount3 (their mount shows only to them, unless /etc/fuse.conf says
    `user_allow_other`). `MountError` says what to do.
    """
    _check_mount_point(path)
    if os.geteuid() == 0:
        return _mount_root(path, source, allow_other)
    return _mount_user(path, source)


def _check_mount_point(path: str) -> None:
    entry = find(path)
    if entry is not None and entry.fstype.startswith("fuse"):
        raise MountError(errno.EBUSY, f"{path} is a mount of {entry.source} already: stop that first, or give another --mount")
    try:
        names = os.listdir(path)
    except OSError as e:
        if e.errno == errno.ENOTCONN:
            raise MountError(errno.ENOTCONN, f"{path} is a dead mount: run `umount -l {path}`") from e
        raise MountError(e.errno or errno.EIO, f"{path} cannot be a mount point: {os.strerror(e.errno or 0)}") from e
    if names:
        raise MountError(errno.ENOTEMPTY, f"{path} is not empty: give an empty directory to --mount")


def _mount_root(path: str, source: str, allow_other: bool) -> int:
    fd = open_device()
    options = f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions"
    if allow_other:
        options += ",allow_other"
    flags = MS_NOSUID | MS_NODEV | MS_RDONLY
    if number := _call("mount", _b(source), _b(path), _b(FSTYPE), flags, _b(options)):
        os.close(fd)
        hint = "run as root with CAP_SYS_ADMIN" if number == errno.EPERM else "see `forebay doctor`"
        raise MountError(number, f"mounting {path} failed ({os.strerror(number)}): {hint}")
    return fd


def _mount_user(path: str, source: str) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        options = f"ro,nosuid,nodev,default_permissions,fsname={_escape_option(source)},subtype=forebay"
        if _user_allow_other():
            options += ",allow_other"
        code, said = _fusermount("-o", options, "--", path, fd=theirs.fileno())
        theirs.close()
        if code != 0:
            raise MountError(errno.EPERM, f"fusermount3 did not mount {path}: {said}")
        ours.settimeout(20)
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
    if not fds:
        raise MountError(errno.EPROTO, f"fusermount3 sent no descriptor for {path}: update the package fuse3")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _user_allow_other() -> bool:
    with contextlib.suppress(OSError):
        return any(line.strip() == "user_allow_other" for line in Path("/etc/fuse.conf").read_text().splitlines())
    return False


def _escape_option(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def umount(path: str, *, lazy: bool = False) -> None:
    """Unmount. EBUSY when somebody uses it and `lazy` is False; nothing when it is not mounted."""
    if find(path) is None:
        return
    if os.geteuid() == 0:
        number = _call("umount2", _b(path), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
        if number not in {0, errno.EINVAL, errno.ENOENT}:
            raise MountError(number, f"unmounting {path} failed: {os.strerror(number)}; see `fuser -vm {path}` for who uses it")
        return
    code, said = _fusermount("-u", *(["-z"] if lazy else []), "--", path)
    if code != 0 and find(path) is not None:
        raise MountError(errno.EBUSY if "busy" in said.lower() else errno.EPERM, f"fusermount3 did not unmount {path}: {said}")


def abort(path: str) -> bool:
    """End the connection of a mount whose daemons fail for good: everybody who waits gets an error. Root only.

    Through fusectl where it is mounted, else a forced unmount. True when something was aborted.
    """
    entry = find(path)
    if entry is None:
        return False
    try:
        Path(f"{FUSECTL}/{entry.minor}/abort").write_text("1")
    except OSError:
        return _call("umount2", _b(path), MNT_FORCE | UMOUNT_NOFOLLOW) == 0
    return True


def set_read_ahead(device: str, kb: int = READ_AHEAD_KB) -> int:
    """Raise the read-ahead of a mount (`major:minor`); returns what holds afterwards, in KiB; 0 when it cannot be read.

    Only root may write it; an ordinary user's mount keeps the kernel's 128.
    """
    file = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
    with contextlib.suppress(OSError):
        file.write_text(str(kb))
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def entries() -> Iterator[MountEntry]:
    """Every mount of this process's namespace, in mount order."""
    raw = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "surrogateescape")
    yield from parse_mountinfo(raw)


def parse_mountinfo(text: str) -> Iterator[MountEntry]:
    """`36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw`; octal escapes for space, tab, newline, \\."""
    for line in text.split("\n"):
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 2:
            continue
        major, _, minor = fields[2].partition(":")
        yield MountEntry(int(major), int(minor), _unescape(fields[4]), tail[0], _unescape(tail[1]), fields[5])


def find(path: str) -> MountEntry | None:
    """The topmost mount at exactly `path`. Its parents are resolved, the last component is not touched."""
    head, tail = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(head), tail) if tail else "/"
    last = None
    for entry in entries():
        if entry.path == real:
            last = entry
    return last


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    out, i, raw = bytearray(), 0, text.encode("utf-8", "surrogateescape")
    while i < len(raw):
        if raw[i] == 0x5C and raw[i + 1 : i + 4].isdigit():
            out.append(int(raw[i + 1 : i + 4], 8))
            i += 4
        else:
            out.append(raw[i])
            i += 1
    return out.decode("utf-8", "surrogateescape")


def _b(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
