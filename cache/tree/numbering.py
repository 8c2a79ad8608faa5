"""Which number each mount of a dataset has: pure, but for the record of it in the index.

Rows name their mount by its place in `DatasetSpec.mounts`. So that a mount can come and go while rows live, a worker's
list is not the manifest's: a mount keeps its number as long as it stays, one that was taken away leaves a place that
says so (`Mount.gone`), a new one comes after all others.

- A lower number has precedence where several mounts share a path; a mount that would break that order of the manifest
  gets a new number, and what is shown of it new inodes.
- Whoever maps the index finds the list in it, without credentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from forebay.api.spec import GONE, Freshness, Mount
from forebay.cache.disk.index import NO_MOUNT, Index

_KEY, _AGAIN = b"numbering", b"again"
_NEVER = Freshness("ttl", 0.0)


def key(mount: Mount) -> tuple[str, str]:
    """What makes a mount the same as before: the tree that it shows, and where. Credentials and options may change."""
    return mount.identity, mount.path


def numbered(known: Sequence[Mount], wanted: Sequence[Mount]) -> list[Mount]:
    """`wanted` (the manifest's order) by number, given who had which. A list that grew too long begins anew."""
    out = [gone(m) for m in known]
    free: dict[tuple[str, str], list[int]] = {}
    for n, mount in enumerate(known):
        free.setdefault(key(mount), []).append(n)
    last: dict[str, int] = {}  # path -> highest number given there
    for mount in wanted:
        had = [n for n in free.get(key(mount), []) if n > last.get(mount.path, -1)]
        if had:
            number = had[0]
            free[key(mount)].remove(number)
            out[number] = mount
        else:
            number = len(out)
            out.append(mount)
        last[mount.path] = number
    return out if len(out) <= NO_MOUNT else list(wanted)


def gone(mount: Mount) -> Mount:
    """The place that a mount leaves. Nothing shown of it is believed any longer."""
    return msgspec.structs.replace(mount, store=GONE, secrets={}, freshness=_NEVER)


def continues(known: Sequence[Mount], now: Sequence[Mount]) -> bool:
    """Whether rows written under `known` still name the right mounts."""
    return len(now) >= len(known) and all(key(a) == key(b) for a, b in zip(known, now, strict=False))


def load(index: Index, txn: Any) -> list[Mount] | None:
    """The list that the rows of an index were written under; None: a new index, or one of an earlier build."""
    raw = txn.get(_KEY, db=index.meta)
    return None if raw is None else msgspec.json.decode(raw, type=list[Mount])


def public(mounts: Sequence[Mount]) -> list[Mount]:
    return [msgspec.structs.replace(m, secrets={}) for m in mounts]


def save(index: Index, txn: Any, mounts: Sequence[Mount]) -> None:
    txn.put(_KEY, msgspec.json.encode(mounts), db=index.meta)


def pending(index: Index, txn: Any) -> list[int]:
    """Directories below which names are still to be asked for again, from before a restart."""
    raw = txn.get(_AGAIN, db=index.meta)
    return [] if raw is None else msgspec.json.decode(raw, type=list[int])


def remember(index: Index, txn: Any, inos: Sequence[int]) -> None:
    txn.put(_AGAIN, msgspec.json.encode(inos), db=index.meta)


def of(index: Index, mounts: Sequence[Mount]) -> list[Mount]:
    """`mounts` as a manifest has them, numbered for an index that may know others."""
    with index.env.begin() as txn:
        known = load(index, txn)
    return numbered(known or [], mounts)
