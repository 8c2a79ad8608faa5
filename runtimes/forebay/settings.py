"""What a Dataset and its runtime ask of our engine, whatever kind the runtime is.

Fields that configure another engine (its images, properties, environment) are accepted and named in one finding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from forebay.api.fluid import names as fluid
from forebay.api.manifests.documents import DatasetDoc, LevelDoc
from forebay.api.manifests.freshness import FLOOR, parse_floor
from forebay.api.manifests.tiers import HIGH, LOW
from forebay.api.problem import show
from forebay.api.quantity import QuantityError, format_quantity, parse_quantity
from forebay.runtimes.engine import Finding, Installation, Object

DEFAULT_SIZE = "100Pi"
"""Fluid's size of a claim: it bounds nothing."""
GRACE_BASE, GRACE_MAX = 30, 3600
"""Seconds. A worker that has nothing to hand out ends within 2 s of SIGTERM; nothing may hold a node's drain for hours."""

_SERVED = {
    "replicas", "tieredstore", "worker", "podMetadata", "imagePullSecrets", "runtimeClassName", "client", "fuse", "profileName",
}  # fmt: skip
_SERVED_WORKER = {
    "replicas",
    "resources",
    "nodeSelector",
    "tolerations",
    "podMetadata",
    "imagePullSecrets",
    "disabled",
    "tieredStore",
}
_SERVED_FUSE = {"nodeSelector", "cleanPolicy", "tieredStore"}


def served_of_workers(kind: str) -> set[str]:
    """Fields of `spec.worker` that are acted on. `disabled` of the kinds that have their own engine is that engine's."""
    return _SERVED_WORKER if kind == "CacheRuntime" else _SERVED_WORKER - {"disabled", "tieredStore"}


class Tier(msgspec.Struct, frozen=True):
    """One directory of one level. `path` is the node's, "" = a place of the node's own; `quota` 0 = none."""

    medium: str
    path: str
    quota: int
    high: float
    low: float


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    kind: str  # of the runtime, "" without one
    replicas: int
    tiers: tuple[Tier, ...]
    reader_quota: int  # bytes of what a node keeps for its readers; 0 = as the installation says
    floor: tuple[float, int]
    shared: bool  # placement Shared
    affinity: Object  # required node selector of the Dataset, {} for none
    node_selector: Mapping[str, str]
    fuse_selector: Mapping[str, str]
    tolerations: tuple[Object, ...]
    resources: Object  # with MEM tiers
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    pull_secrets: tuple[str, ...]
    size: str
    writable: tuple[str, ...]  # access modes that were asked for and are not served
    grace: int  # seconds
    clean_policy: str  # when a node's mount goes: OnRuntimeDeleted, OnDemand or OnFuseChanged
    symlink: bool  # the claim's mount is to be a symbolic link
    skip_check: str | None
    volume_meta: Mapping[str, Object]  # kind -> labels and annotations that the runtime wants on claim and volume
    findings: tuple[Finding, ...]


def read_settings(dataset: Object, doc: DatasetDoc, runtime: Object | None, installation: Installation) -> Settings:
    spec: Object = dataset.get("spec") or {}
    wanted: Object = (runtime or {}).get("spec") or {}
    kind = runtime["kind"] if runtime is not None else ""
    findings: list[Finding] = []
    worker: Object = wanted.get("worker") or {}
    fuse: Object = wanted.get("client" if kind == "CacheRuntime" else "fuse") or {}
    tiers = _tiers(doc.runtime.levels if doc.runtime else [])
    volume_meta = _metadata_list(runtime, findings)
    notes: Object = (runtime or {}).get("metadata", {}).get("annotations") or {}
    _ignored(kind, spec, wanted, findings)
    metas = [m for m in (wanted.get("podMetadata"), worker.get("podMetadata")) if m]
    writable = tuple(m for m in doc.access_modes if m != "ReadOnlyMany")
    if writable:
        findings.append(Finding("warning", "EngineReadsOnly", reads_only(writable)))
    return Settings(
        kind=kind,
        replicas=_replicas(kind, runtime, wanted, worker),
        tiers=tiers,
        reader_quota=sum(quota for level in (doc.runtime.client if doc.runtime else []) for quota in level.quotas),
        floor=_floor(doc, installation),
        shared=spec.get("placement") == "Shared",
        affinity=(spec.get("nodeAffinity") or {}).get("required") or {},
        node_selector=worker.get("nodeSelector") or {},
        fuse_selector=fuse.get("nodeSelector") or {},
        tolerations=_distinct([*(spec.get("tolerations") or []), *(worker.get("tolerations") or [])]),
        resources=_resources(worker.get("resources") or {}, tiers, installation, findings),
        labels={k: v for m in metas for k, v in (m.get("labels") or {}).items()},
        annotations={k: v for m in metas for k, v in (m.get("annotations") or {}).items()},
        pull_secrets=_pull_secrets(installation, wanted, worker),
        size=_size(dataset, findings),
        writable=writable,
        grace=grace(sum(t.quota for t in tiers) if all(t.quota for t in tiers) else None, installation.drain_rate),
        clean_policy=fuse.get("cleanPolicy") or "OnRuntimeDeleted",
        symlink=(volume_meta.get("PersistentVolume") or {}).get("labels", {}).get(fluid.PUBLISH_METHOD) == "symlink",
        skip_check=notes.get(fluid.SKIP_CHECK),
        volume_meta=volume_meta,
        findings=tuple(findings),
    )


def reads_only(modes: tuple[str, ...]) -> str:
    asked = ", ".join(modes)
    return f"spec.accessModes asks for {asked}, engine forebay serves ReadOnlyMany: read it here, write to the store directly"


def grace(capacity: int | None, rate: int) -> int:
    """Seconds a worker gets to hand out what it owns, at most all it can hold (None: no bound is known).

    By capacity, not by what it holds now: this stands in the pod's template, and a change of that restarts every worker.
    """
    return GRACE_MAX if capacity is None else min(GRACE_MAX, GRACE_BASE + -(-capacity // max(1, rate)))


def _replicas(kind: str, runtime: Object | None, wanted: Object, worker: Object) -> int:
    if runtime is None:
        return 1
    if kind == "CacheRuntime":  # without a worker block it has none, as in Fluid; the API server fills in 1 inside the block
        return 0 if "worker" not in wanted or worker.get("disabled") else int(worker.get("replicas", 1))
    for block in (wanted, worker):
        if isinstance(block.get("replicas"), int):
            return int(block["replicas"])
    return 1


def _tiers(levels: list[LevelDoc]) -> tuple[Tier, ...]:
    tiers = [
        Tier(level.medium, path, quota, level.high, level.low)
        for level in levels
        for path, quota in zip(level.paths or ("",), level.quotas, strict=True)
    ]
    return tuple(tiers) or (Tier("SSD", "", 0, HIGH, LOW),)


def _floor(doc: DatasetDoc, installation: Installation) -> tuple[float, int]:
    """The object's own word, else the installation's, which a JuiceFS runtime's `low` may raise."""
    own = doc.runtime.annotations.get(FLOOR) if doc.runtime else None
    if text := doc.annotations.get(FLOOR) or own:
        return parse_floor(text)
    ratio, size = parse_floor(installation.free_space_floor)
    asked = doc.runtime.free_ratio if doc.runtime else None
    return (ratio if asked is None else max(ratio, asked)), size


def _resources(asked: Object, tiers: tuple[Tier, ...], installation: Installation, findings: list[Finding]) -> Object:
    """Requests and limits; memory with every MEM tier on top, for tmpfs counts as the pod's own."""
    memory = sum(t.quota for t in tiers if t.medium == "MEM")
    limits = {k: str(v) for k, v in (asked.get("limits") or {}).items()}
    limits.setdefault("memory", installation.memory_limit)
    requests = {k: str(v) for k, v in (asked.get("requests") or {}).items()}
    for name, default in (("cpu", installation.cpu_request), ("memory", installation.memory_request)):
        if name not in requests:
            requests[name] = limits[name] if name in (asked.get("limits") or {}) else default
    try:
        request, limit = parse_quantity(requests.get("memory", "0")), parse_quantity(limits["memory"])
        if "memory" not in (asked.get("limits") or {}):
            limit = max(limit, request)
        if limit < request:
            message = (
                f"spec.worker.resources limits memory to {show(limits['memory'])}, below the request of {requests['memory']}"
            )
            findings.append(Finding("error", "SpecRefused", f"{message}; raise the limit"))
        requests["memory"], limits["memory"] = format_quantity(request + memory), format_quantity(limit + memory)
    except QuantityError as e:
        findings.append(Finding("error", "SpecRefused", f"spec.worker.resources: memory {e}; {e.remedy}"))
    whole: Object = {"limits": dict(sorted(limits.items())), "requests": dict(sorted(requests.items()))}
    return whole


def _size(dataset: Object, findings: list[Finding]) -> str:
    text = (dataset["metadata"].get("annotations") or {}).get(fluid.CLAIM_SIZE)
    if text is None:
        return DEFAULT_SIZE
    try:
        if parse_quantity(text) > 0:
            return str(text)
        message = "is not positive"
    except QuantityError as e:
        message = str(e)
    findings.append(
        Finding("warning", "SizeIgnored", f"annotation {fluid.CLAIM_SIZE} {show(text)} {message}; {DEFAULT_SIZE} is used")
    )
    return DEFAULT_SIZE


def _pull_secrets(installation: Installation, *blocks: Object) -> tuple[str, ...]:
    named = [*installation.pull_secrets, *(s["name"] for b in blocks for s in b.get("imagePullSecrets") or [] if s.get("name"))]
    return tuple(dict.fromkeys(named))


def _distinct(tolerations: list[Object]) -> tuple[Object, ...]:
    return tuple({json.dumps(t, sort_keys=True): t for t in tolerations}.values())


def _metadata_list(runtime: Object | None, findings: list[Finding]) -> dict[str, Object]:
    """Annotation `data.fluid.io/metadataList`: labels and annotations for claim and volume. Keys count in any case."""
    text = ((runtime or {}).get("metadata", {}).get("annotations") or {}).get(fluid.METADATA_LIST)
    if text is None:
        return {}
    found: dict[str, Object] = {}
    try:
        for entry in _items(json.loads(text)):
            selector = _lower(entry.get("selector") or {})
            kind = selector.get("kind", "")
            if kind not in ("PersistentVolume", "PersistentVolumeClaim") or selector.get("group", ""):
                findings.append(
                    _meta_finding(f"selects {show(kind)}", "select PersistentVolume or PersistentVolumeClaim, group empty")
                )
                continue
            into = found.setdefault(kind, {"labels": {}, "annotations": {}})
            for what in ("labels", "annotations"):
                into[what].update({str(k): str(v) for k, v in dict(entry.get(what) or {}).items()})
    except (ValueError, TypeError, AttributeError):
        remedy = 'write a list such as [{"labels": {"a": "b"}, "selector": {"kind": "PersistentVolume"}}]'
        findings.append(_meta_finding("is no JSON list of labels, annotations and selectors", remedy))
        return {}
    return found


def _meta_finding(message: str, remedy: str) -> Finding:
    return Finding("warning", "MetadataListIgnored", f"annotation {fluid.METADATA_LIST} {message}; {remedy}")


def _items(value: Any) -> list[Object]:
    return [_lower(entry) for entry in value] if isinstance(value, list) else _refuse()


def _refuse() -> list[Object]:
    raise ValueError("no list")


def _lower(entry: Mapping[str, Any]) -> Object:
    return {str(k).lower(): v for k, v in entry.items()}


def _names_a_place(level: Object) -> bool:
    """Nodes keep what their readers read in one directory, on a disk."""
    return bool(level.get("hostPath") or level.get("processMemory") or (level.get("emptyDir") or {}).get("medium"))


def _ignored(kind: str, dataset: Object, wanted: Object, findings: list[Finding]) -> None:
    """One finding for all fields that nothing here acts on: they are another engine's, or have no meaning for ours."""
    where = "client" if kind == "CacheRuntime" else "fuse"
    worker, fuse = wanted.get("worker") or {}, wanted.get(where) or {}
    names = [f"Dataset spec.{k}" for k in ("dataRestoreLocation", "runtimes") if dataset.get(k)]
    names += [f"spec.{k}" for k, v in wanted.items() if k not in _SERVED and v]
    names += [f"spec.worker.{k}" for k, v in worker.items() if k not in served_of_workers(kind) and v]
    names += [f"spec.{where}.{k}" for k, v in fuse.items() if k not in _SERVED_FUSE and v]
    if worker.get("tieredStore") and fuse.get("tieredStore"):
        elsewhere = [i for i, level in enumerate(fuse["tieredStore"].get("levels") or []) if _names_a_place(level)]
        names += [f"spec.{where}.tieredStore.levels[{i}] (but its quota)" for i in elsewhere]
    levels = (wanted.get("tieredstore") or {}).get("levels") or []
    names += [f"spec.tieredstore.levels[{i}].volumeSource" for i, level in enumerate(levels) if level.get("volumeSource")]
    if names:
        findings.append(Finding("warning", "FieldsIgnored", f"{', '.join(sorted(names))}: engine forebay does not act on these"))
