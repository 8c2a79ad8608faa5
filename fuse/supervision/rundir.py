"""Files of a run directory and of a mount point, as the supervisor makes and removes them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from typing import Any

from forebay.api import places


def dataset_of(run: str) -> str:
    """`namespace/name` of the dataset whose spec lies in a run directory."""
    with open(f"{run}/{places.SPEC}", "rb") as f:
        spec = json.load(f)
    return f"{spec['namespace']}/{spec['name']}"


def replace_file(path: str, raw: bytes) -> None:
    """Write a file of mode 0600 so that a reader sees the old bytes or the new ones."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as f:
        f.write(raw)
    os.replace(temporary, path)


def make_mount_point(path: str) -> list[str]:
    """Create a directory and its missing parents; those created, outermost first. `OSError` when it is not empty."""
    missing = []
    at = path
    while not os.path.lexists(at):
        missing.append(at)
        at = os.path.dirname(at)
    missing.reverse()
    for folder in missing:
        os.mkdir(folder, 0o755)
    if os.listdir(path):
        raise OSError(errno.ENOTEMPTY, f"mount point {path} is not empty")
    return missing


def remove(run: str) -> None:
    """What this dataset left in its run directory, the directory, and its namespace's if it was the last."""
    for entry in os.scandir(run):
        os.unlink(entry.path)
    for folder in (run, os.path.dirname(run)):
        try:
            os.rmdir(folder)
        except OSError:
            return


def lock(run: str, *, create: bool) -> int | None:
    """The lock that makes one supervisor of many, or None when another holds it."""
    fd = os.open(f"{run}/{places.SUPERVISOR_LOCK}", os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def created_for_mounts(run: str) -> list[str]:
    """Directories that the supervisor of a run directory made for its mounts, innermost first; empty when unknown."""
    return [folder for mount in _mounts(run) for folder in reversed(mount["created"])]


def mount_points(run: str) -> set[str]:
    """Where the supervisor of a run directory mounted, as the kernel writes it (parents resolved)."""
    found = set()
    for mount in _mounts(run):
        head, tail = os.path.split(mount["path"])
        found.add(os.path.join(os.path.realpath(head), tail))
    return found


def _mounts(run: str) -> list[dict[str, Any]]:
    try:
        with open(f"{run}/{places.STATE}", "rb") as f:
            rows: list[dict[str, Any]] = json.load(f)["mounts"]
    except (OSError, ValueError, KeyError):
        return []
    return rows
