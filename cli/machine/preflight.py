"""What must hold before a dataset is started, each with the sentence that says what to do when it does not."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import NamedTuple

from forebay.api.spec import DatasetSpec, Mount, Tier
from forebay.cache.stores import open_store
from forebay.cache.stores.base import StoreError, Unavailable
from forebay.cli.output import size
from forebay.fuse import mounting
from forebay.fuse.mounting import MountEntry

PROBE_LIMIT = 10.0
"""Seconds until a store that gave no answer is called unreachable."""
NETWORK_FS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "afs", "glusterfs")


class Reach(NamedTuple):
    """Answer of one store. `problem` is None when it is reachable with these credentials."""

    mount: Mount
    problem: StoreError | None


def mount_point(path: str, table: list[MountEntry] | None = None) -> str | None:
    """Why a dataset cannot be mounted at `path`, or None. Looks only; does not create it."""
    rows = list(mounting.entries()) if table is None else table
    here = [row for row in rows if row.path == path]
    if here:
        row = here[-1]
        if row.source.startswith("forebay:"):
            name = row.source.removeprefix("forebay:")
            return f"mount point {path} is in use by dataset {name}: `forebay down {name}`, or choose another --mount"
        return f"mount point {path} is in use ({row.fstype} of {row.source}): umount it, or choose another --mount"
    try:
        content = os.listdir(path)
    except FileNotFoundError:
        return _creatable(path)
    except NotADirectoryError:
        return f"mount point {path} is no directory: choose another --mount"
    except PermissionError:
        return f"mount point {path} cannot be read: choose a directory of yours with --mount"
    except OSError as e:
        if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            return f"mount point {path} is what a dead mount left behind: `umount -l {path}`, then try again"
        return f"mount point {path}: {e.strerror}: choose another --mount"
    if content:
        return f"mount point {path} is not empty ({_some(content)}): empty it, or choose another --mount"
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        return f"mount point {path} is not yours to mount on: choose a directory of yours with --mount"
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(n) for n in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _creatable(path: str) -> str | None:
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        return f"mount point {path} cannot be made: {parent} is no directory; choose another --mount"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"mount point {path} cannot be made: {parent} is not writable for you; choose another --mount"
    return None


def cycles(spec: DatasetSpec, path: str) -> str | None:
    """Why cache, stores and mount would wait for each other, or None: whoever serves a mount must never read from it."""
    for folder, what in ((spec.index_dir, "the index"), *((t.path, f"the {t.medium} tier") for t in spec.tiers)):
        if _below(folder, path):
            return f"{what} at {folder} would lie inside the mount {path}: choose another --cache-dir or --mount"
        if _below(path, folder):
            return f"the mount {path} would lie inside {what} at {folder}: choose another --mount"
    for mount in spec.mounts:
        if mount.store != "file":
            continue
        origin = os.path.realpath(mount.source.split("://", 1)[-1])
        if _below(origin, path) or _below(path, origin):
            return f"the mount {path} and its origin {origin} would lie inside each other: choose another --mount"
        for folder in (spec.index_dir, *(t.path for t in spec.tiers)):
            if _below(folder, origin):
                return f"the cache {folder} would lie inside the origin {origin} and cache itself: choose another --cache-dir"
    return None


def nested(points: list[str]) -> list[str]:
    """Why several mounts cannot stand side by side, one sentence each."""
    found = []
    for i, one in enumerate(points):
        for other in points[i + 1 :]:
            if _below(one, other) or _below(other, one):
                found.append(f"the mounts {one} and {other} would lie inside each other: choose another --mount for one of them")
    return found


def _below(path: str, top: str) -> bool:
    path, top = os.path.realpath(path), os.path.realpath(top)
    return path == top or path.startswith(top.rstrip("/") + "/")


def nearest(path: str) -> str:
    """The deepest existing directory at or above `path`: where statvfs of a directory yet to be made is asked."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def file_system(path: str, table: list[MountEntry] | None = None) -> str:
    """Type of the file system that holds `path` (ext4, tmpfs, overlay, nfs4 ...)."""
    rows = list(mounting.entries()) if table is None else table
    path = os.path.realpath(nearest(path))
    best = ""
    kind = "?"
    for row in rows:  # compared as text: to look at somebody's dead mount is to hang with it
        if len(row.path) >= len(best) and (path == row.path or path.startswith(row.path.rstrip("/") + "/")):
            best, kind = row.path, row.fstype
    return kind


def index_place(spec: DatasetSpec) -> str | None:
    """Why the index cannot live where the spec puts it, or None. LMDB maps its file, which needs a local disk."""
    kind = file_system(spec.index_dir)
    if kind in NETWORK_FS or kind.startswith("fuse"):
        return f"the index at {spec.index_dir} would lie on {kind}, which cannot be mapped safely: choose a local --cache-dir"
    return None


class Floor(NamedTuple):
    """Free space of a tier's file system against the floor below which nothing more is admitted."""

    tier: Tier
    free: int
    floor: int
    inodes: bool  # inodes are what is short

    @property
    def stopped(self) -> bool:
        return self.inodes or self.free <= self.floor

    def sentence(self) -> str:
        if self.inodes:
            return (
                f"{self.tier.medium} tier {self.tier.path}: its file system is short of inodes, so nothing more is cached there: "
                "remove files, or choose another --cache-dir"
            )
        return (
            f"{self.tier.medium} tier {self.tier.path}: {size(self.free)} free is at the floor of {size(self.floor)}, so nothing "
            "more is cached there and reads go to the store: free space, choose another --cache-dir, "
            "or lower the floor (forebay.io/free-space-floor)"
        )


def floors(spec: DatasetSpec) -> list[Floor]:
    """Each tier's free space against min(floor_ratio, floor_bytes) of its file system."""
    found = []
    for tier in spec.tiers:
        st = os.statvfs(nearest(tier.path))
        floor = min(int(spec.floor_ratio * st.f_blocks * st.f_frsize), spec.floor_bytes)
        inodes = spec.floor_ratio < 1.0 and bool(st.f_files) and st.f_favail < spec.floor_ratio * st.f_files
        found.append(Floor(tier, st.f_bavail * st.f_frsize, floor, inodes))
    return found


def reach(mounts_: list[Mount], limit: float = PROBE_LIMIT) -> list[Reach]:
    """Ask every store at once for one cheap answer; whoever gives none within `limit` seconds is `Unavailable`."""
    answers: list[StoreError | None] = [
        Unavailable(f"{m.source} gave no answer within {limit:.0f} s: check its address, the network and its health")
        for m in mounts_
    ]

    def one(i: int, mount: Mount) -> None:
        try:
            store = open_store(mount)
            try:
                store.probe()
            finally:
                store.close()
            answers[i] = None
        except StoreError as e:
            answers[i] = e
        except ValueError as e:
            answers[i] = StoreError(str(e))
        except Exception as e:  # noqa: BLE001 - a store's defect must not read as "no answer"
            answers[i] = StoreError(f"{mount.source}: {type(e).__name__}: {e}")

    threads = [threading.Thread(target=one, args=(i, m), daemon=True, name=f"probe-{m.name}") for i, m in enumerate(mounts_)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [Reach(m, a) for m, a in zip(mounts_, list(answers), strict=True)]
