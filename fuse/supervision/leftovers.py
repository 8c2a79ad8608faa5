"""What a dataset left behind when all of it was killed, or the machine went down: found by looking, then removed."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from typing import NamedTuple

from forebay.fuse import mounting
from forebay.fuse.supervision import rundir

_MODULES = (b"forebay.cache.worker", b"forebay.fuse.daemon", b"forebay.fuse.supervision.supervisor")
_ROLES = {
    b"forebay.cache.worker": "worker",
    b"forebay.fuse.daemon": "mount",
    b"forebay.fuse.supervision.supervisor": "supervisor",
}
TERM_GRACE = 10.0
"""Seconds a left-over process gets to end by itself; a worker makes its ledger durable in that time."""


class Process(NamedTuple):
    pid: int
    role: str


def processes_of(run: str) -> list[Process]:
    """Living processes that were started for a run directory, supervisor first (it would start the others again)."""
    wanted = os.fsencode(run)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or not ours to look at
        module = next((m for m in _MODULES if m in words), None)
        if module is not None and wanted in words and int(entry) != os.getpid():
            found.append(Process(int(entry), _ROLES[module]))
    order = ("supervisor", "mount", "worker")
    return sorted(found, key=lambda p: order.index(p.role))


def mounts_of(run: str, dataset: str) -> list[mounting.MountEntry]:
    """Mounts that the supervisor of a run directory made, the newest first.

    Known by path from its state file, and by source: the same dataset may be up from another run directory, and somebody
    else may have mounted something at the path since.
    """
    paths = rundir.mount_points(run)
    return [e for e in reversed(list(mounting.entries())) if e.path in paths and e.source == f"forebay:{dataset}"]


def end(found: list[Process], grace: float = TERM_GRACE) -> list[str]:
    """End processes in order: SIGTERM, SIGKILL after `grace` seconds. What could not be ended is returned as sentences."""
    problems = []
    for pid, role in found:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # a supervisor that ends by SIGTERM takes everything down cleanly; a daemon without one asks for a new supervisor
            number = signal.SIGKILL if role == "mount" else signal.SIGTERM
            signal.pidfd_send_signal(pidfd, number)
            if not _ended(pidfd, grace):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not _ended(pidfd, 2.0):
                    problems.append(f"{role} pid {pid} does not end: it waits in the kernel; try again later")
        except ProcessLookupError:
            continue
        except PermissionError:
            problems.append(f"{role} pid {pid} belongs to another user: stop it as that user or as root")
        finally:
            os.close(pidfd)
    return problems


def _ended(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def clear(run: str, dataset: str) -> list[str]:
    """End what still runs for `run`, detach its mounts, remove the directories made for them and the run directory.

    Returns sentences about what could not be removed.
    """
    created = rundir.created_for_mounts(run)
    deadline = time.monotonic() + 2 * TERM_GRACE
    problems: list[str] = []
    while (found := processes_of(run)) and time.monotonic() < deadline:
        problems = end(found)
        if problems:
            break
    for row in mounts_of(run, dataset):
        try:
            mounting.umount(row.path, lazy=True)
        except OSError as e:
            if e.errno != errno.EINVAL:
                problems.append(f"{row.path} is still mounted ({e.strerror}): umount -l {row.path}")
    for folder in created:
        try:
            os.rmdir(folder)
        except OSError:
            continue  # not empty, or gone
    if not problems and os.path.isdir(run):
        rundir.remove(run)
    return problems
