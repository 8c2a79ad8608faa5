"""How long a name, a listing or its absence may be believed: pure arithmetic on rows, used by the worker and by the mount.

The unit is unix seconds. A row is as fresh as the later of two confirmations: its own `checked` (a HEAD, or the page that
brought it) and, where the listing of its store tells versions, the last complete listing of its directory (`Dir.listed`):
that is why a listing that finds nothing changed rewrites no row. `checked` and `listed` of 0 mean "forgotten": stale in
every mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from forebay.api.spec import Freshness, Mount
from forebay.cache.disk.index import COMPLETE_LIST, FIXED, NO_MOUNT, UNCONFIRMED, UNRESOLVED, Dir, Row

FOREVER = math.inf
TEN_YEARS = 10 * 365 * 86400.0
KERNEL_LIMIT = 3600.0
"""Longest entry and attribute timeout given to a kernel for what may change: a lost invalidation heals within it."""
CLOCK_SLACK = 60
"""A confirmation further in the future than this was written under another clock and counts for nothing."""


def _left(confirmed: int, freshness: Freshness, now: float) -> float | None:
    if confirmed == 0 or confirmed > now + CLOCK_SLACK:
        return None
    if freshness.mode in ("immutable", "event"):
        return FOREVER
    left = freshness.ttl - max(0.0, now - confirmed)
    return left if left > 0 else None


def fresh(row: Row, freshness: Freshness | None, now: float, listed: int = 0) -> float | None:
    """Seconds for which the row may still be answered without asking the store; None when it must be asked.

    `freshness` is that of mount `row.mount` (None for `NO_MOUNT`); `listed` is the parent's `Dir.listed` if its state is
    `COMPLETE_LIST`, else 0 (see `listed_of`). Infinite for immutable and event mounts and for directories of mount paths.
    """
    if row.flags & FIXED or row.mount == NO_MOUNT or freshness is None:
        return FOREVER
    if row.flags & UNRESOLVED:
        return None
    return _left(row.checked if row.flags & UNCONFIRMED else max(row.checked, listed), freshness, now)


def listed_of(d: Dir | None) -> int:
    """What a parent's listing vouches for: the second it began, or 0 where there is no complete one."""
    return d.listed if d is not None and d.state == COMPLETE_LIST else 0


def entry_ttl(row: Row, freshness: Freshness | None, now: float, listed: int = 0) -> float:
    """Seconds for the kernel's entry and attribute timeout: what is left, at most an hour, ten years where nothing changes."""
    left = fresh(row, freshness, now, listed)
    if left is None:
        return 0.0
    if left == FOREVER:
        return TEN_YEARS if freshness is None or freshness.mode == "immutable" or row.flags & FIXED else KERNEL_LIMIT
    return min(left, KERNEL_LIMIT)


def listing_fresh(d: Dir, freshness: Iterable[Freshness], now: float) -> float | None:
    """Seconds for which a directory's listing is whole and believed; None when it must be (re)listed.

    `freshness` are those of the mounts `d.sources`; the strictest counts. A directory without sources (a parent of mount
    paths alone) never expires.
    """
    if d.state != COMPLETE_LIST:
        return None
    least = FOREVER
    for f in freshness:
        left = _left(d.listed, f, now)
        if left is None:
            return None
        least = min(least, left)
    return least


def absent_ttl(d: Dir, freshness: Iterable[Freshness], now: float) -> float:
    """Seconds a name missing from the index is known to be missing from the stores; 0: ask (`Lookup`) before ENOENT."""
    left = listing_fresh(d, freshness, now)
    return 0.0 if left is None else min(left, KERNEL_LIMIT)


def mount_freshness(mounts: Sequence[Mount], mount: int) -> Freshness | None:
    """Freshness of a row's mount; None for directories made of mount paths alone."""
    return None if mount >= len(mounts) else mounts[mount].freshness


def sources_freshness(mounts: Sequence[Mount], d: Dir) -> list[Freshness]:
    """Freshness of every mount that may hold a directory."""
    return [mounts[m].freshness for m in d.sources if m < len(mounts)]
