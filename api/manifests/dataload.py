"""A DataLoad as it is carried out: targets made absolute, defaults filled in, options read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from forebay.api.names import normalise
from forebay.api.problem import did_you_mean, show

Object = dict[str, Any]
ONCE = "Once"
TARGETS_MOST = 1000
REPLICAS_MOST = 4096
NODES_MOST = 100
OPTIONS = {
    "timeout": "how long it may take, such as 2h30m",
    "metadataOnly": "true loads names, sizes and versions only",
    "nodes": "names of nodes whose workers take all of it, such as node-1,node-2",
}
"""`spec.options` that are acted on. `timeout` is Fluid's for JuiceFS, `metadataOnly` and `nodes` ours."""
_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?\Z")


class LoadSpecError(ValueError):
    """One sentence with field, value and remedy."""


class LoadTarget(msgspec.Struct, frozen=True):
    """`path` is absolute, and may hold `*`, `?`, `[...]` and `**`. `replicas`: nodes that hold each part of it."""

    path: str
    replicas: int = 1


class After(msgspec.Struct, frozen=True):
    """The operation that must be Complete first."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    dataset: str
    targets: tuple[LoadTarget, ...]
    refresh: bool  # loadMetadata: the stores are asked for names and versions first
    metadata_only: bool
    nodes: tuple[str, ...]  # whose workers take all of it; none: each part goes to its owner
    timeout: int  # seconds, 0 for none
    policy: str
    ttl: int | None  # seconds that the object stays after its end, None for ever
    after: After | None
    pod: Object  # podMetadata, affinity, tolerations, nodeSelector, schedulerName, resources: as written
    ignored: tuple[str, ...]  # sentences about what is not acted on


def dataset_of(load: Object) -> tuple[str, str]:
    """(namespace, name) of the dataset that a DataLoad names; its own namespace where it names none."""
    named = _map((load.get("spec") or {}).get("dataset"))
    return str(named.get("namespace") or load["metadata"].get("namespace", "default")), str(named.get("name", ""))


def after_of(load: Object) -> After | None:
    named = _map((load.get("spec") or {}).get("runAfter"))
    if not named.get("name"):
        return None
    own = load["metadata"].get("namespace", "default")
    return After(str(named.get("kind", "")), str(named.get("namespace") or own), str(named["name"]))


def read_load(load: Object) -> LoadSpec:
    """Raises `LoadSpecError`."""
    spec: Object = load.get("spec") or {}
    name = dataset_of(load)[1]
    if not name:
        raise LoadSpecError("spec.dataset.name is missing; name the dataset to load")
    options: Mapping[str, Any] = spec.get("options") or {}
    ignored = [f"spec.options.{o} is not acted on; {did_you_mean(o, OPTIONS, 'remove it')}" for o in options if o not in OPTIONS]
    if _map(spec.get("runAfter")).get("affinityStrategy"):
        ignored.append(
            "spec.runAfter.affinityStrategy is not acted on: workers load, wherever the operation's pod runs; remove it"
        )
    ttl = spec.get("ttlSecondsAfterFinished")
    return LoadSpec(
        dataset=name,
        targets=tuple(_targets(spec.get("target") or [])),
        refresh=bool(spec.get("loadMetadata")),
        metadata_only=_truth("metadataOnly", str(options.get("metadataOnly", "false"))),
        nodes=_nodes(str(options.get("nodes", ""))),
        timeout=_seconds("timeout", str(options.get("timeout", ""))),
        policy=str(spec.get("policy") or ONCE),
        ttl=None if ttl is None else max(0, int(ttl)),
        after=after_of(load),
        pod={
            field: spec[field]
            for field in ("podMetadata", "affinity", "tolerations", "nodeSelector", "schedulerName", "resources")
            if spec.get(field)
        },
        ignored=tuple(ignored),
    )


def _targets(listed: list[Any]) -> list[LoadTarget]:
    if len(listed) > TARGETS_MOST:
        raise LoadSpecError(f"spec.target has {len(listed)} entries, at most {TARGETS_MOST}; name directories above them")
    found: dict[str, int] = {}
    for i, target in enumerate(listed):
        path, replicas = str(target.get("path", "")), int(target.get("replicas") or 1)
        try:
            path = normalise("/" + path)  # Fluid's engines take a relative path from the root too
        except ValueError as error:
            raise LoadSpecError(
                f"spec.target[{i}].path {show(path)} {error}; write a path from the root of the dataset"
            ) from None
        if not 1 <= replicas <= REPLICAS_MOST:
            raise LoadSpecError(f"spec.target[{i}].replicas {replicas} is out of range; write 1 to the number of workers")
        found[path] = max(replicas, found.get(path, 0))
    return [LoadTarget(path, replicas) for path, replicas in found.items()] or [LoadTarget("/")]


def _nodes(value: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(one for part in value.split(",") if (one := part.strip())))
    if len(found) > NODES_MOST:
        raise LoadSpecError(f"spec.options.nodes names {len(found)} nodes, at most {NODES_MOST}; make several loads")
    for one in found:
        if not _NODE.fullmatch(one):
            raise LoadSpecError(f"spec.options.nodes {show(one)} is no name of a node; write such as node-1,node-2")
    return found


def _truth(option: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise LoadSpecError(f"spec.options.{option} {show(value)} is neither; write true or false")
    return value.lower() == "true"


def _seconds(option: str, value: str) -> int:
    match = _DURATION.match(value.strip())
    if match is None:
        raise LoadSpecError(f"spec.options.{option} {show(value)} is no duration; write such as 90s, 30m or 2h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _map(value: Any) -> Object:
    return value if isinstance(value, dict) else {}
