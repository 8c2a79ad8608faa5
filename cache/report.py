"""The worker's numbers as one dictionary: what `forebay status` shows and what the metrics are made of."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from forebay.api.spec import Freshness
from forebay.cache.log import lines_left_out

if TYPE_CHECKING:
    from forebay.cache.worker import Worker


def report(w: Worker) -> dict[str, object]:
    """Everything observed now. Sizes in bytes, times in unix seconds (0 = never), durations in seconds."""
    engine, service = w.engine, w.service
    tree = w.namespace.stats()
    reach = tree.pop("mounts")
    assert isinstance(reach, list)
    live = [i for i, m in enumerate(w.spec.mounts) if not m.gone]
    return {
        "dataset": w.spec.id,
        "pid": os.getpid(),
        "uptime": round(time.time() - w.started, 1),
        "hits": service.hits,
        "misses": service.misses,
        "bytes_served": dict(service.served),
        "tiers": [_tier(w, i) for i in range(len(w.tiers))],
        "mounts": [_mount(w, i, seen) for i, seen in zip(live, reach, strict=True)],
        "tree": tree,
        "evictions": dict(engine.evictions),
        "opened": len(engine.opened),
        "warm": service.warmer.stats(),
        "warmed": service.warmer.done,
        "load": w.machine.load(),
        "door": {"connections": w.door.connections, "refused": w.door.refused},
        "requests": dict(w.door.requests),
        "opens_told": service.touches,
        "integrity": integrity(w),
        "scrub": {
            "passes": w.scrubber.passes,
            "bytes_checked": w.scrubber.checked,
            "bad_blocks": w.scrubber.bad,
            "last_pass": w.scrubber.last_pass,
        },
        "index": w.records.trouble or "written",
        "ledger": {"durable_until": w.durability.last, "error": w.durability.error},
        "reconciled": {"done": w.reconciler.done, "orphans": w.reconciler.orphans, "dropped": w.reconciler.dropped},
        "log_lines_left_out": lines_left_out(),
    }


def _tier(w: Worker, i: int) -> dict[str, object]:
    t, state = w.tiers[i], w.machine.tiers[i]
    space = state.space
    return {
        "path": t.path,
        "medium": t.medium,
        "filesystem": t.filesystem,
        "quota": state.quota,
        "bytes_used": state.used,
        "objects": w.records.count[i],
        "copies_bytes": w.records.held_copies.bytes[i],
        "copies_objects": w.records.held_copies.objects[i],
        "high": state.high,
        "low": state.low,
        "bytes_free": None if space is None else space.free,
        "bytes_floor": state.floor(),
        "admission": state.stopped(t.path, time.monotonic()) or "open",
    }


def _mount(w: Worker, i: int, seen: dict[str, object]) -> dict[str, object]:
    meter, mount = w.meters[i], w.spec.mounts[i]
    return {
        "path": mount.path,
        "source": mount.source,
        "freshness": freshness_text(mount.freshness),
        "requests": meter.requests,
        "bytes_fetched": meter.bytes,
        "errors": meter.errors,
        "last_error": meter.last_error,
        "last_error_at": meter.last_error_at,
        "metadata": {k: v for k, v in seen.items() if k not in ("path", "source")},
    }


def freshness_text(f: Freshness) -> str:
    return f"{f.mode}={f.ttl:g}s" if f.mode == "ttl" else f.mode


def integrity(w: Worker) -> str:
    """Which guarantees hold, in words."""
    mounts = [m for m in w.spec.mounts if not m.gone]
    tls = sum(_encrypted(m.source, m.options.get("endpoint", "")) for m in mounts)
    days = w.scrubber.interval / 86400
    return (
        f"store links: {tls} of {len(mounts)} mounts over TLS or local; cache: xxh3 of each 256 KiB checked on arrival, "
        f"on first use after a boot, and on disk every {days:.3g} days"
    )


def _encrypted(source: str, endpoint: str) -> bool:
    if source.startswith(("local:", "file:", "/")):
        return True
    return (endpoint or source).startswith("https:") or (source.startswith("s3:") and not endpoint)
