"""Inline volumes: what a worker pod keeps on its node, and directories of the node that it reads.

A worker's volume is one tree at the target, on a tmpfs of 16 MiB of its own:

    run/          a directory of that tmpfs, for the door's socket
    members/      members.yaml, and `leaving` while the node is being emptied; written by us, read by the pod
    index/        a directory on the node's disk that outlives the pod
    tiers/<i>/    SSD, HDD: a directory on the node's disk that outlives the pod. MEM: a tmpfs of the quota, of this volume

Directories on disk are `<directory>/forebay/<namespace>/<dataset>/...`, below roots that the administrator allows. Their
parents are root's alone; the last one belongs to the worker's user, or, where that is unknown, is open to whoever has the volume.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from forebay.fuse.csi.protocol.attributes import HostVolume, WorkerVolume
from forebay.fuse.csi.volumes import binds
from forebay.fuse.csi.volumes.roots import OWN, Roots

OWN_SIZE = 16 << 20
BESIDE = 64 << 10
"""Bytes of a tier of memory for what lies beside its objects: the lock, the version."""
RUN, MEMBERS, INDEX, TIERS = "run", "members", "index", "tiers"
LIST, LEAVING = "members.yaml", "leaving"
ANYBODY = 0o777
MOST = 4 << 20
"""Bytes of a member list that are read."""


class Inline:
    """Makes and takes away inline volumes. `tiers` and `hosts`: directories that volumes may name."""

    def __init__(self, tiers: Roots, hosts: Roots) -> None:
        self.tiers = tiers
        self.hosts = hosts

    def directories(self, volume: WorkerVolume) -> list[str]:
        """What of the node's disk belongs to this dataset; refuses what is not allowed. The index first."""
        own = f"{OWN}/{volume.namespace}/{volume.dataset}"
        top = self.tiers.allowed[0]
        found = [f"{top}/{own}/{INDEX}"]
        for i, tier in enumerate(volume.tiers):
            if tier.medium != "MEM":
                directory = tier.directory or top
                self.tiers.holds(directory)
                found.append(f"{directory.rstrip('/')}/{own}/tier-{i}")
        return found

    def is_whole(self, volume: WorkerVolume, target: str) -> bool:
        """Whether the tree is there already, made by a process that died before it wrote its record: a worker may be using it."""
        real = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        places = [real, f"{real}/{INDEX}", *(f"{real}/{TIERS}/{i}" for i in range(len(volume.tiers)))]
        return sorted(e.path for e in binds.below(target)) == sorted(places)

    def make_worker(self, volume: WorkerVolume, target: str) -> None:
        """The tree at `target`. What fails leaves nothing mounted."""
        directories = iter(self.directories(volume))
        binds.unmount_all(target)
        os.makedirs(target, mode=0o750, exist_ok=True)
        try:
            binds.memory(target, OWN_SIZE, 0o755, "forebay")
            for name in (RUN, MEMBERS, INDEX, TIERS):
                os.mkdir(f"{target}/{name}", 0o755)
            _give(f"{target}/{RUN}", volume.uid)
            self._bind(next(directories), f"{target}/{INDEX}", volume.uid)
            for i, tier in enumerate(volume.tiers):
                place = f"{target}/{TIERS}/{i}"
                os.mkdir(place, 0o755)
                if tier.medium == "MEM":
                    binds.memory(place, tier.quota + BESIDE, 0o700, f"forebay-tier-{i}")
                    _give(place, volume.uid)
                else:
                    self._bind(next(directories), place, volume.uid)
        except BaseException:
            remove(target)
            raise

    def _bind(self, directory: str, place: str, uid: int | None) -> None:
        fd = self.tiers.open(directory, make=True)
        try:
            _give(f"/proc/self/fd/{fd}", uid)
            binds.bind(f"/proc/self/fd/{fd}", place)
        finally:
            os.close(fd)

    def make_host(self, volume: HostVolume, target: str) -> None:
        """The directory at `target`, read-only."""
        fd = self.hosts.open(volume.path)
        try:
            binds.unmount_all(target)
            os.makedirs(target, mode=0o750, exist_ok=True)
            binds.bind(f"/proc/self/fd/{fd}", target, read_only=True)
        except BaseException:
            remove(target)
            raise
        finally:
            os.close(fd)

    def forget(self, directories: tuple[str, ...]) -> None:
        """Remove what a deleted dataset kept on the node, and the parents that are empty then."""
        for directory in directories:
            self.tiers.remove(directory)
            parent = directory
            for _ in range(3):  # the dataset's, the namespace's, ours
                parent = os.path.dirname(parent)
                with contextlib.suppress(OSError):
                    os.rmdir(parent)


def _give(path: str, uid: int | None) -> None:
    """To the worker's user. What an earlier user of another id left in it is given too, once.

    That user may still be running and put links where directories were: each directory is held open, nothing is named by a path.
    """
    if uid is None:
        os.chmod(path, ANYBODY)
        return
    before = os.stat(path).st_uid
    os.chmod(path, 0o700)
    os.chown(path, uid, uid)
    if before in (0, uid):
        return
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _, names, files, folder in os.fwalk(".", dir_fd=top):
            for name in (*names, *files):
                with contextlib.suppress(FileNotFoundError):  # that user took it away meanwhile
                    os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(top)


def remove(target: str) -> None:
    """Whatever is mounted at a target, and the target itself; nothing when it is not there. Raises OSError when it cannot go."""
    binds.unmount_all(target)
    try:
        os.rmdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(target)


def write_members(target: str, raw: bytes) -> None:
    """The member list of a worker's volume, replaced as a whole. Readable for the pod, whose user is not ours."""
    with _members(target) as folder:
        _replace(folder, LIST, raw)


def known_members(target: str) -> bytes:
    """The member list as it was written last, b"" without one."""
    try:
        with _members(target) as folder:
            fd = os.open(LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with open(fd, "rb") as f:
                return f.read(MOST)
    except OSError:
        return b""


def say_leaving(target: str, leaving: bool) -> None:
    """State whether the node is being emptied."""
    with _members(target) as folder:
        if leaving:
            _replace(folder, LEAVING, b"")
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LEAVING, dir_fd=folder)


@contextlib.contextmanager
def _members(target: str) -> Iterator[int]:
    """The member directory. A pod whose user is root may have put links there: they lead nowhere."""
    folder = os.open(f"{target}/{MEMBERS}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _replace(folder: int, name: str, raw: bytes) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as f:
            if f.read(MOST) == raw:
                return
    except OSError:
        pass  # not there, or not ours: replaced below
    fresh = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    with open(fd, "wb") as f:
        os.fchmod(fd, 0o644)
        f.write(raw)
    os.replace(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
