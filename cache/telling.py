"""What a worker of several tells its node of itself: a file beside its door (`forebay.api.hints.said`), written when it has news.

    said(worker)     what it says now, from what it holds anyway
    Telling.run()    writes it, until cancelled

Without a change the file is only touched, so that who reads it knows that the worker lives.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal, cast

import trio

from forebay.api import places
from forebay.api.hints.said import TROUBLE, Said, SaidLoad, SaidTier, encode
from forebay.cache.log import log

if TYPE_CHECKING:
    from forebay.cache.worker import Worker

EVERY = 5.0
"""Seconds between looks. A look costs some 50 us."""
ALIVE = 20.0
"""Seconds after which an unchanged file is touched."""
LASTS = 120.0
"""Seconds that a failure counts once everything is listed: nobody asks again by himself then, and the store may be well."""
UNKNOWN_ROOM = 1 << 60
"""Of a file system that nobody could ask yet."""


def said(w: Worker) -> Said:
    """In the trio thread. Needs a node."""
    assert w.node is not None
    came, counts = w.node.cluster.bytes, w.namespace.core.counts
    peers = sum(n for source, n in came.items() if source != "store")
    orders, progress = w.node.orders, w.namespace.progress
    loaded = w.service.warmer.fetched + (orders.taken if orders is not None else 0)
    return Said(
        owns=w.node.cluster.owns,
        tiers=tuple(_tier(w, i) for i in range(len(w.tiers))),
        total=counts.bytes,
        files=counts.files,
        listed=progress.done and not progress.failed,
        local=w.service.reopened.bytes,
        missed=max(came["store"] + peers - loaded, 0),
        from_store=came["store"],
        from_peers=peers,
        loaded=loaded,
        revision=w.served.revision if w.served is not None else "",
        places=tuple(m.path for m in w.spec.mounts if not m.gone),
        drain=cast(Literal["", "Running", "Done", "Refused"], orders.drained.state if orders is not None else ""),
        load=_load(w),
        trouble=_trouble(w),
        full=_full(w),
    )


def _tier(w: Worker, i: int) -> SaidTier:
    t, state, held = w.tiers[i], w.machine.tiers[i], w.records.held_copies
    return SaidTier(
        medium=t.medium,
        quota=state.quota,
        used=max(state.used, 0),
        held=max(held.held[i], 0),
        copies=max(held.content[i], 0),
        room=max(min(state.headroom(), UNKNOWN_ROOM), -UNKNOWN_ROOM),
        device=t.device,
    )


def _load(w: Worker) -> SaidLoad | None:
    """All warm-ups together. None when none runs."""
    running = [count for _, count in w.service.warmer.running.values() if not count.finished]
    if not running:
        return None
    now = [count.progress() for count in running]
    remaining = sum(max(p.bytes_total - p.bytes, 0) for p in now)
    return SaidLoad(remaining=remaining, rate=int(sum(p.rate for p in now)))


def _trouble(w: Worker) -> str:
    """The first store that gives nothing, and how many more, without what came from Secrets. Until all is listed failed
    listings are tried again and again, so that what failed last still holds."""
    core, progress = w.namespace.core, w.namespace.progress
    counts = not progress.done or progress.failed
    found = [
        f"{mount.path}: {reach.error}"
        for mount, reach in zip(core.spec.mounts, core.reach, strict=True)
        if not mount.gone and reach.silent and (counts or core.clock() - reach.trouble_at < LASTS)
    ]
    if not found:
        return ""
    more = f" (and {len(found) - 1} more mounts)" if len(found) > 1 else ""
    text = found[0] if w.served is None else w.served.without_secrets(found[0])
    return text[: TROUBLE - len(more)] + more


def _full(w: Worker) -> str:
    """Of the first tier, where all are crowded out by others on their disks. Its directory is the pod's own business."""
    states = enumerate(zip(w.tiers, w.machine.tiers, strict=True))
    found = [state.crowded_out(f"the disk of tier {i} ({t.medium})") for i, (t, state) in states]
    return found[0][:TROUBLE] if found and all(found) else ""


class Telling:
    """`run` until cancelled. `clock` is any steady clock, in seconds."""

    def __init__(self, worker: Worker, run_dir: str) -> None:
        self._worker = worker
        self._path = os.path.join(run_dir, places.SAID)
        self._last = b""
        self._at = 0.0
        self._trouble = ""

    async def run(self) -> None:
        while True:
            self.tell(time.monotonic())
            await trio.sleep(EVERY)

    def tell(self, now: float) -> None:
        """Write what is new. A directory that cannot be written is said once: the node then knows nothing of this worker."""
        raw = encode(said(self._worker))
        try:
            if raw != self._last:
                _replace(self._path, raw)
                self._last, self._at = raw, now
            elif now - self._at >= ALIVE:
                os.utime(self._path)
                self._at = now
        except OSError as e:
            self._last = b""  # written as a whole once that is possible
            if self._trouble != str(e):
                self._trouble = str(e)
                log("worker", "not_told", path=self._path, error=str(e))
        else:
            self._trouble = ""


def _replace(path: str, raw: bytes) -> None:
    """So that a reader sees the old bytes or the new ones. Mode 0600: the node's plugin reads it as root."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as f:
        f.write(raw)
    os.replace(f"{path}.new", path)
