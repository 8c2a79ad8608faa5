"""Who of the two pods of a node may end: the other must hold the mounts' descriptors then.

An upgrade changes both DaemonSets, and may tell both pods of a node to end in the same second. Whoever is told first takes a lock
and keeps it until its process is gone, when the kernel lets go of it; the other goes on serving meanwhile, and ends once the
replacement of the first has the descriptors. After `PATIENCE` either ends all the same: the kubelet would kill it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator

from forebay.cache.log import log

LOCK = "handover.lock"
PATIENCE = 40.0
"""Seconds. The pods' grace is 60 (controller/install/parts.py), of which a keeper's client tiers get 10 to end by themselves."""
LOOK = 0.2


def turn(base: str, other_holds: Callable[[], bool], patience: float = PATIENCE) -> Iterator[float]:
    """Ends when this process may; yields how long to go on serving until it asks again. `other_holds`: whether the other pod's
    process has every descriptor now, or there is none."""
    end = time.monotonic() + patience
    lock = os.open(f"{base}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # closed by the end of the process alone
    while not (_locked(lock) and other_holds()):
        if time.monotonic() > end:
            log("csi", "not_handed_over", waited=patience)
            return
        yield LOOK


def _locked(lock: int) -> bool:
    """Whether it is this process's turn; once it is, it stays."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
