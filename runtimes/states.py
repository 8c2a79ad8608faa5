"""Pieces of a status that every engine needs."""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.api.conditions import Condition, merge
from forebay.api.fluid.status import CacheRuntimeStatus, ComponentStatus, RuntimeStatus
from forebay.api.problem import strip_credentials
from forebay.runtimes.engine import Object

DELETING = "Deleting"
"""Condition type of ours, of an object that is going away: whom it waits for."""


def generation(obj: Object) -> int:
    return int(obj["metadata"].get("generation", 0))


def known_conditions(obj: Object) -> list[Condition]:
    """Conditions of an object's status; what is none is left out, and so written anew."""
    found: list[Condition] = []
    for item in (obj.get("status") or {}).get("conditions") or []:
        try:
            found.append(msgspec.convert(item, Condition))
        except msgspec.ValidationError:
            continue
    return found


def written_mounts(dataset: Object, places: frozenset[str] | None = None) -> tuple[dict[str, Any], ...]:
    """Mounts of the spec for a status: name, path and place, never an option, which may be a credential.

    `places` keeps those that appear there in the tree.
    """
    mounts: list[dict[str, Any]] = []
    for mount in (dataset.get("spec") or {}).get("mounts") or []:
        path = str(mount.get("path", ""))
        place = path if path.startswith("/") else "/" + str(mount.get("name", "")).lstrip("/")
        if places is not None and "/" + place.strip("/") not in places:
            continue
        shown = {"mountPoint": strip_credentials(str(mount.get("mountPoint", "")))}
        mounts.append({**shown, **{k: mount[k] for k in ("name", "path", "readOnly") if mount.get(k)}})
    return tuple(mounts)


def idle(runtime: Object, engine: str, reason: str, message: str, now: str) -> RuntimeStatus | CacheRuntimeStatus:
    """The status of a runtime that serves nothing: no engine here, no Dataset, or another runtime serves it."""
    at = generation(runtime)
    ready = Condition(type="WorkersReady", status="False", reason=reason, message=message, observed_generation=at)
    conditions = merge([c for c in known_conditions(runtime) if c.type == "WorkersReady"], [ready], now, "last_probe_time")
    if runtime["kind"] == "CacheRuntime":
        worker = ComponentStatus(phase="NotReady", reason=reason, message=message)
        return CacheRuntimeStatus(phase="NotReady", observed_generation=at, engine=engine, conditions=conditions, worker=worker)
    return RuntimeStatus(
        value_file="",
        master_phase="NotReady",
        worker_phase="NotReady",
        fuse_phase="NotReady",
        desired_master_number_scheduled=0,
        current_master_number_scheduled=0,
        master_number_ready=0,
        desired_worker_number_scheduled=0,
        current_worker_number_scheduled=0,
        worker_number_ready=0,
        desired_fuse_number_scheduled=0,
        current_fuse_number_scheduled=0,
        fuse_number_ready=0,
        worker_reason=message,
        observed_generation=at,
        engine=engine,
        conditions=conditions,
    )
