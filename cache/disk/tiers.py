"""The tier directories: who may use one, what version it has, how much space is left, and what lies in it.

A tier is `objects/xx/<oid hex>`, `VERSION` and `LOCK`. One worker uses a directory at a time: `LOCK` is flocked.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forebay.api.spec import DatasetSpec, Tier
from forebay.cache.disk import files
from forebay.cache.disk.policy import Space, TierState

VERSION = 1
"""Version of the layout of a cache directory. A newer one is refused."""
LOCK_PATIENCE = 2.0
"""Seconds a new worker waits for one that was just killed to let go of its locks."""
SLACK = 1 << 20
"""Bytes by which a tmpfs that was made for a tier may be larger than its quota."""
DENSE = {"ext2", "ext3", "ext4", "xfs", "tmpfs"}
"""File systems that allocate what is written: a file with fewer blocks than its row says lost bytes."""


class CacheDirError(Exception):
    """A directory that cannot be used as cache. `str()` is one sentence with a remedy; restarting does not help."""


class Lock:
    """An exclusive claim of a directory for the life of the process."""

    def __init__(self, directory: str, patience: float = LOCK_PATIENCE) -> None:
        path = f"{directory}/LOCK"
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise CacheDirError(f"cache directory {directory} cannot be used ({e.strerror}): give another --cache-dir") from e
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.02)
                    continue
                holder = os.pread(self.fd, 32, 0).decode("ascii", "replace").strip() or "?"
                os.close(self.fd)
                raise CacheDirError(
                    f"cache directory {directory} in use by pid {holder}: stop that worker (`forebay down`), "
                    "or give another --cache-dir"
                ) from None
            break
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self.fd)


class Found(NamedTuple):
    """A file in a tier's `objects`."""

    oid: bytes
    size: int
    allocated: int
    changed: float  # ctime


class TierDir:
    """One tier's directory, locked and of a known version."""

    def __init__(self, number: int, tier: Tier) -> None:
        self.number = number
        self.medium = tier.medium
        self.path = tier.path
        self.tier = tier
        self.lock = Lock(tier.path)
        try:
            check_version(Path(tier.path))
            files.prepare(tier.path)
        except OSError as e:
            self.lock.close()
            raise CacheDirError(f"cache directory {tier.path} cannot be used ({e.strerror}): give another --cache-dir") from e
        except CacheDirError:
            self.lock.close()
            raise
        self.filesystem = filesystem_of(tier.path)
        self.device = os.stat(tier.path).st_dev

    def space(self) -> Space:
        s = os.statvfs(self.path)
        return Space(s.f_bavail * s.f_frsize, s.f_blocks * s.f_frsize, s.f_favail, s.f_files)

    @property
    def private(self) -> bool:
        """Whether the file system was made for this tier alone, as a node makes one of memory for a worker's pod."""
        return self.filesystem == "tmpfs" and self.tier.quota > 0 and self.space().total <= self.tier.quota + SLACK

    @property
    def durable(self) -> bool:
        """Whether its files outlive a boot: tmpfs is never synced and never in the ledger."""
        return self.filesystem not in ("tmpfs", "ramfs")

    def scan(self) -> Iterator[list[Found]]:
        """What lies in the directory, a folder at a time. Names that are no object are left alone and not reported.

        Of what a killed worker was writing beside a cache file (`files.create_small`) the remains are removed.
        """
        for i in range(256):
            out = []
            with os.scandir(f"{self.path}/objects/{i:02x}") as it:
                for entry in it:
                    try:
                        st = entry.stat(follow_symlinks=False)
                        if entry.name.endswith(files.BESIDE) and st.st_ctime < time.time() - files.BESIDE_AGE:
                            os.unlink(entry.path)
                        oid = bytes.fromhex(entry.name)
                    except (ValueError, FileNotFoundError):
                        continue
                    if len(oid) == 16:
                        out.append(Found(oid, st.st_size, st.st_blocks * 512, st.st_ctime))
            yield out

    def close(self) -> None:
        self.lock.close()


def state_of(place: TierDir, spec: DatasetSpec, used: int) -> TierState:
    tier = place.tier
    return TierState(tier.quota, tier.high, tier.low, spec.floor_ratio, spec.floor_bytes, used, private=place.private)


def check_version(directory: Path) -> None:
    """Write the version into a new directory; refuse a newer one."""
    path = directory / "VERSION"
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        path.write_text(f"{VERSION}\n")
        return
    try:
        found = int(text)
    except ValueError:
        raise CacheDirError(
            f"{path} does not hold a number: is {directory} a cache directory? Give another --cache-dir"
        ) from None
    if found > VERSION:
        raise CacheDirError(
            f"cache directory {directory} has version {found}, newer than this build's {VERSION}: "
            "upgrade forebay, or give another --cache-dir"
        )


def filesystem_of(path: str) -> str:
    """Type of the file system a path lies on, from mountinfo; "?" when it cannot be told."""
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    except OSError:
        return "?"
    return "?"
