"""DatasetHints: where a dataset is warm, summed up for who places pods; and when that is written. Pure.

Wanted are hints of a dataset whose claim is named by pods that have no node yet, or that is annotated `forebay.io/watch: "true"`.
Bytes that several nodes hold count once: workers own disjoint shares, so at least their sum is held, and at least what any one
node has, and never more than there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from forebay.api.hints import steps
from forebay.api.hints.datasethints import MAX_NODES, MAX_ZONES, WATCH, DatasetHintsStatus, NodeHint, ZoneHint
from forebay.api.hints.nodecache import Bandwidth, HeldDataset, Served, Warming
from forebay.api.quantity import format_bytes
from forebay.runtimes.engine import Object

EVERY, SLOWLY = timedelta(seconds=10), timedelta(seconds=60)
"""Between two writes: of a large step, of a small one."""
LINGER = timedelta(minutes=10)
"""How long hints outlive the last pod that waited: the next gang of a queue asks again."""
ZONE = "topology.kubernetes.io/zone"


class Place(NamedTuple):
    """What one node says of the dataset. `zone` "" where nobody knows."""

    node: str
    zone: str
    held: HeldDataset
    bandwidth: Bandwidth | None


def wanted(dataset: Object, waiting: int) -> bool:
    """`waiting`: pods without a node that name its claim."""
    meta = dataset["metadata"]
    if meta.get("deletionTimestamp"):
        return False
    return waiting > 0 or (meta.get("annotations") or {}).get(WATCH) == "true"


def summary(places: Iterable[Place], now: str) -> DatasetHintsStatus:
    """`now` is an RFC 3339 time."""
    all_ = list(places)
    size = max((w.total_bytes for p in all_ if isinstance(w := p.held.worker, Served)), default=0)
    found = sorted((p for p in all_ if p.held.tiers or p.held.mounted), key=lambda p: (-_bytes(p), p.node))
    cached = _once(found, size)
    holding = [p for p in found if _bytes(p)]
    etas = [_eta(p) for p in found]
    return DatasetHintsStatus(
        observed_time=now,
        total_bytes=size,
        cached_bytes=cached,
        total=format_bytes(size),
        cached=format_bytes(cached),
        cached_percent=min(100 * cached // size, 100) if size else 0,
        node_count=len(holding),
        nodes=tuple(map(_node, found[:MAX_NODES])),
        other_bytes=sum(map(_bytes, found[MAX_NODES:])),
        zones=_zones(holding, size),
        store_bytes_per_second=sum(p.bandwidth.store_bytes_per_second for p in found if p.bandwidth),
        eta_seconds=max(etas, default=0),
    )


def _bytes(place: Place) -> int:
    return sum(t.bytes for t in place.held.tiers)


def _owned(place: Place) -> int:
    return place.held.worker.owned_bytes if isinstance(place.held.worker, Served) else 0


def _eta(place: Place) -> int:
    return place.held.warming.eta_seconds if isinstance(place.held.warming, Warming) else 0


def _once(places: Sequence[Place], size: int) -> int:
    """Bytes that at least one of them holds: at least so many."""
    most = max(sum(map(_owned, places)), max(map(_bytes, places), default=0))
    return min(most, size) if size else most


def _node(place: Place) -> NodeHint:
    return NodeHint(
        name=place.node,
        bytes=_bytes(place),
        mounted=place.held.mounted,
        eta_seconds=_eta(place),
        read_bytes_per_second=place.bandwidth.read_bytes_per_second if place.bandwidth else 0,
    )


def _zones(places: Sequence[Place], size: int) -> tuple[ZoneHint, ...]:
    by_zone: dict[str, list[Place]] = {}
    for place in places:
        if place.zone:
            by_zone.setdefault(place.zone, []).append(place)
    found = [ZoneHint(name=name, bytes=_once(here, size), nodes=len(here)) for name, here in by_zone.items()]
    return tuple(sorted(found, key=lambda z: (-z.bytes, z.name))[:MAX_ZONES])


# --- when


class Do(Enum):
    NOTHING, WRITE, DELETE = "nothing", "write", "delete"


class Step(NamedTuple):
    """`again`: until when to look again whatever happens, None where nothing comes by time alone."""

    do: Do
    again: timedelta | None = None


class Known(NamedTuple):
    """`status`: as written last, None where there is no object. `written`, `wanted`: when that was, None where nobody knows."""

    status: DatasetHintsStatus | None
    written: datetime | None
    wanted: datetime | None


def step(new: DatasetHintsStatus | None, known: Known, now: datetime) -> Step:
    """`new` None: nobody wants hints now."""
    if new is None:
        if known.status is None:
            return Step(Do.NOTHING)
        left = (known.wanted or now) + LINGER - now
        return Step(Do.NOTHING, left) if left > timedelta(0) else Step(Do.DELETE)
    if known.status is None:
        pause = timedelta(0)
    elif same(known.status, new):
        return Step(Do.NOTHING)
    else:
        pause = EVERY if large(known.status, new) else SLOWLY
    left = known.written + pause - now if known.written is not None else timedelta(0)
    return Step(Do.NOTHING, left) if left > timedelta(0) else Step(Do.WRITE)


def same(old: DatasetHintsStatus, new: DatasetHintsStatus) -> bool:
    """Whether they say the same, but for what changes with each look: the time, rates and estimates."""
    return _lasting(old) == _lasting(new)


def _lasting(status: DatasetHintsStatus) -> DatasetHintsStatus:
    nodes = tuple(msgspec.structs.replace(n, eta_seconds=bool(n.eta_seconds), read_bytes_per_second=0) for n in status.nodes)
    return msgspec.structs.replace(
        status, observed_time="", nodes=nodes, store_bytes_per_second=0, eta_seconds=bool(status.eta_seconds), conditions=()
    )


def large(old: DatasetHintsStatus, new: DatasetHintsStatus) -> bool:
    """Whether who places pods would choose another way."""
    before, after = ({n.name: n for n in s.nodes} for s in (old, new))
    if before.keys() != after.keys() or any(before[n].mounted != after[n].mounted for n in after):
        return True
    moved = [abs(before[n].bytes - after[n].bytes) for n in after]
    moved += [abs(old.total_bytes - new.total_bytes), abs(old.cached_bytes - new.cached_bytes)]
    return steps.large(max(moved), new.total_bytes)


def read(hints: Mapping[str, Any] | None) -> DatasetHintsStatus | None:
    """The status of an object as the server has it; None for none, and for one that somebody else wrote differently."""
    try:
        return msgspec.convert((hints or {}).get("status"), DatasetHintsStatus)
    except msgspec.ValidationError:
        return None
