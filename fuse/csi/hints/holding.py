"""From what workers of a node say to what the node publishes. Pure.

Two caches of a node may hold bytes of one dataset: the worker's, which owns a share, and the one beside readers, which copies
what it reads, from that worker too. What lies in both counts once: of a dataset of `size` bytes the readers' cache holds `c`, and
the worker's has a part `w / size` of those as of any others, so the node holds `w + c (1 - w / size)`. Exact where either holds
all or nothing; else the expected value, for which bytes are read is not known to favour or to spare the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from forebay.api.hints.nodecache import (
    MAX_DATASETS,
    MAX_PLACES,
    Bandwidth,
    HeldBytes,
    HeldDataset,
    NodeCacheStatus,
    Read,
    Served,
    TierBytes,
    Warming,
)
from forebay.api.hints.said import Said, SaidTier
from forebay.api.quantity import format_bytes
from forebay.api.spec import Medium

NO_TIERS = (TierBytes(medium="SSD", capacity_bytes=0, used_bytes=0),)
"""Of a node whose workers are all silent: the API server takes a list that is applied empty away as a field, and requires it."""
MEDIA: tuple[Medium, ...] = ("MEM", "SSD", "HDD")


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset on this node, as its processes say. `wanted`: pods ask for its mount; `mounted`: that answers."""

    namespace: str
    name: str
    worker: Said | None = None
    reader: Said | None = None
    wanted: bool = False
    mounted: bool = False


def held(one: Cached) -> HeldDataset:
    """What the node says of a dataset."""
    worker, reader = one.worker, one.reader
    load = worker.load if worker is not None and worker.load is not None else reader.load if reader is not None else None
    return HeldDataset(
        namespace=one.namespace,
        name=one.name,
        role="Owner" if worker is not None else "Client",
        tiers=tuple(HeldBytes(medium=m, bytes=n) for m, n in _by_medium(worker, reader).items() if n),
        mounted=one.mounted,
        silent=one.wanted and not one.mounted,
        warming=msgspec.UNSET if load is None else _warming(load.remaining, load.rate),
        worker=msgspec.UNSET if worker is None else _served(worker),
        reader=msgspec.UNSET if reader is None else _read(reader),
    )


def _warming(remaining: int, rate: int) -> Warming:
    return Warming(remaining_bytes=remaining, bytes_per_second=rate, eta_seconds=-(-remaining // rate) if rate else 0)


def _served(said: Said) -> Served:
    return Served(
        owned_bytes=sum(max(t.held - t.copies, 0) for t in said.tiers),
        capacity_bytes=sum(t.capacity for t in said.tiers),
        total_bytes=said.total,
        files=said.files,
        listed=said.listed,
        store_bytes=said.from_store,
        loaded_bytes=said.loaded,
        revision=said.revision,
        places=said.places if len(said.places) <= MAX_PLACES else (),
        drain=said.drain,
        trouble=_line(said.trouble),
        full=_line(said.full),
    )


def _line(said: str) -> str:
    """A pod's words, which may hold anything, as one line."""
    return "".join(c if c.isprintable() else " " for c in said)


def _read(said: Said) -> Read:
    return Read(bytes=_bytes(said), local_bytes=said.local, missed_bytes=said.missed)


def _bytes(said: Said | None) -> int:
    return sum(t.held for t in said.tiers) if said is not None else 0


def _by_medium(worker: Said | None, reader: Said | None) -> dict[Medium, int]:
    found = dict.fromkeys(MEDIA, 0)
    for tier in worker.tiers if worker is not None else ():
        found[tier.medium] += tier.held
    served, copied, size = _bytes(worker), _bytes(reader), _size(worker, reader)
    if not served or not copied:
        more = copied
    elif size:
        more = min(round(copied * (1 - min(served / size, 1))), max(size - served, 0))
    else:
        more = max(copied - served, 0)  # the size is not known: at least so much
    for tier in reader.tiers if reader is not None else ():
        if copied:
            found[tier.medium] += more * tier.held // copied
    return found


def _size(*said: Said | None) -> int:
    """Of the dataset, 0 where nobody here has seen all of it."""
    return max((s.total for s in said if s is not None and s.listed), default=0)


def status(all_: Iterable[Cached], now: str, version: str, bandwidth: Bandwidth | None) -> NodeCacheStatus:
    """The whole word of the node. `now` is an RFC 3339 time."""
    caches = list(all_)
    datasets = sorted((held(one) for one in caches), key=lambda h: (-total(h), h.namespace, h.name))
    tiers = _tiers([t for one in caches for said in (one.worker, one.reader) if said is not None for t in said.tiers])
    cached, capacity = sum(map(total, datasets)), sum(t.capacity_bytes for t in tiers)
    return NodeCacheStatus(
        observed_time=now,
        tiers=tiers or NO_TIERS,
        cached_bytes=cached,
        capacity_bytes=capacity,
        cached=format_bytes(cached),
        capacity=format_bytes(capacity),
        dataset_count=sum(1 for h in datasets if total(h)),
        datasets=tuple(datasets[:MAX_DATASETS]),
        bandwidth=msgspec.UNSET if bandwidth is None else bandwidth,
        version=version,
    )


def total(one: HeldDataset) -> int:
    """Bytes of the dataset on the node."""
    return sum(t.bytes for t in one.tiers)


def _tiers(said: Sequence[SaidTier]) -> tuple[TierBytes, ...]:
    """By medium. Tiers of one file system share what is free on it: it is counted once."""
    found = []
    for medium in MEDIA:
        mine = [t for t in said if t.medium == medium]
        if not mine:
            continue
        capacity = 0
        for device in {t.device for t in mine}:
            there = [t for t in mine if t.device == device]
            free = max(sum(t.used for t in there) + max(t.room for t in there), 0)
            asked = sum(t.quota for t in there) if all(t.quota for t in there) else free
            capacity += min(asked, free)
        found.append(TierBytes(medium=medium, capacity_bytes=capacity, used_bytes=sum(t.used for t in mine)))
    return tuple(found)
