"""Tier levels of the runtimes: from YAML to typed levels, and from levels to the directories of one dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import get_args

from forebay.api.manifests.documents import LevelDoc
from forebay.api.names import normalise
from forebay.api.problem import show
from forebay.api.quantity import QuantityError, format_quantity, parse_quantity
from forebay.api.schema import Walk
from forebay.api.spec import Medium, Tier
from forebay.api.yamldoc import Node

HIGH, LOW = 0.95, 0.7
"""Watermarks where the manifest gives none (Alluxio's defaults)."""

MEM_PATH = "/dev/shm"
"""The tmpfs of a MEM level without a path."""

_ORDER: tuple[Medium, ...] = get_args(Medium)
_RATIO = re.compile(r"[0-9]*\.?[0-9]+|[0-9]+\.")


def ordered(levels: Iterable[LevelDoc]) -> list[LevelDoc]:
    """MEM before SSD before HDD, equal ones as written."""
    return sorted(levels, key=lambda level: _ORDER.index(level.medium))


def read_levels(store: Node | None, field: str, kind: str, walk: Walk) -> tuple[list[LevelDoc], float | None]:
    """Levels of a classic runtime's `tieredstore`, and JuiceFS's free-space ratio where its `low` states one."""
    levels: list[LevelDoc] = []
    free_ratio: float | None = None
    seen: dict[str, str] = {}
    found = store.at("levels") if store else None
    for i, level in enumerate(_items(found)):
        path = f"{field}.levels[{i}]"
        medium = level.string("mediumtype")
        if medium not in _ORDER:
            continue  # reported by the schema
        if kind == "JuiceFSRuntime" and (low := level.at("low")) is not None:
            # Fluid hands `low` to JuiceFS as --free-space-ratio (transform_fuse.go), it is no watermark there.
            free_ratio = _ratio(low, f"{path}.low", walk)
            high, low_mark = _watermarks(level, path, walk, low=False)
        else:
            high, low_mark = _watermarks(level, path, walk)
        paths = _paths(level, path, kind, walk, seen)
        quotas = _quotas(level, path, len(paths) or 1, kind, walk)
        levels.append(LevelDoc(medium, paths, quotas, high, low_mark, level.line))
    return ordered(levels), free_ratio


def read_cache_levels(store: Node | None, field: str, walk: Walk) -> list[LevelDoc]:
    """Levels of a CacheRuntime component's `tieredStore`."""
    levels: list[LevelDoc] = []
    seen: dict[str, str] = {}
    found = store.at("levels") if store else None
    memories = 0
    for i, level in enumerate(_items(found)):
        path = f"{field}.levels[{i}]"
        media = [m for m in ("processMemory", "emptyDir", "hostPath") if level.at(m) is not None]
        if len(media) != 1:
            message = f"names {' and '.join(media)}" if media else "names no medium"
            walk.add("error", level, path, "", message, "give exactly one of processMemory, emptyDir, hostPath")
            continue
        medium = level.at(media[0])
        assert medium is not None
        high, low = _watermarks(level, path, walk)
        if media[0] == "hostPath":
            paths = _checked(_texts(medium.at("paths")), medium, f"{path}.hostPath.paths", walk, seen)
            quotas = tuple(_quota(q, f"{path}.hostPath.quotas[{j}]", walk) for j, q in enumerate(_items(medium.at("quotas"))))
            if len(quotas) != len(_items(medium.at("paths"))):
                message = f"has {len(quotas)} entries for {len(paths)} paths"
                walk.add("error", medium, f"{path}.hostPath.quotas", "", message, "give one quota for each path")
                continue
            if paths:
                levels.append(LevelDoc("SSD", paths, quotas, high, low, level.line))
            continue
        memories += media[0] == "processMemory"
        if memories > 1 and media[0] == "processMemory":
            walk.add("error", medium, f"{path}.processMemory", "", "stands in a second level", "keep one processMemory level")
        quota = medium.at("quota")
        if quota is None:
            continue  # reported by the schema
        memory = media[0] == "processMemory" or medium.string("medium") == "Memory"
        amount = _quota(quota, f"{path}.{media[0]}.quota", walk)
        levels.append(LevelDoc("MEM" if memory else "SSD", (), (amount,), high, low, level.line))
    return ordered(levels)


def place(
    levels: list[LevelDoc], namespace: str, name: str, *, cache_dir: str | None, default_cache: str
) -> tuple[list[Tier], str]:
    """Directories of one dataset: its tiers and the directory of its index.

    A path P of the YAML becomes P/forebay/<namespace>/<name>; `cache_dir` puts everything under itself instead. The index
    lies on the first tier that is a disk, in memory only where every tier is memory.
    """
    own = os.path.join(os.path.abspath(cache_dir or default_cache), namespace, name)
    if not levels:
        return [Tier("SSD", os.path.join(own, "tier0-ssd"), 0, HIGH, LOW)], os.path.join(own, "index")
    tiers: list[Tier] = []
    for level in levels:
        for path, quota in zip(level.paths or ("",), level.quotas, strict=True):
            if not path and level.medium == "MEM":
                path = MEM_PATH
            if cache_dir or not path:
                directory = os.path.join(own, f"tier{len(tiers)}-{level.medium.lower()}")
            else:
                directory = os.path.join(path, "forebay", namespace, name)
                if any(t.path == directory for t in tiers):  # two levels in one tmpfs: each its own quota
                    directory = os.path.join(directory, f"tier{len(tiers)}")
            tiers.append(Tier(level.medium, directory, quota, level.high, level.low))
    disk = next((t for t in tiers if t.medium != "MEM"), tiers[0])
    return tiers, os.path.join(own if disk.path.startswith(own + os.sep) else disk.path, "index")


def _items(node: Node | None) -> list[Node]:
    return node.items() if node is not None else []


def _texts(node: Node | None) -> list[str]:
    return [n.value for n in _items(node) if isinstance(n.value, str)]


def _paths(level: Node, field: str, kind: str, walk: Walk, seen: dict[str, str]) -> tuple[str, ...]:
    node = level.at("path")
    if node is None or not isinstance(node.value, str):
        return ()
    separators = "[,:]" if kind == "JuiceFSRuntime" else ","  # JuiceFS separates its cache directories by colons
    return _checked(re.split(separators, node.value), node, f"{field}.path", walk, seen)


def _checked(paths: list[str], node: Node, field: str, walk: Walk, seen: dict[str, str]) -> tuple[str, ...]:
    """Normalised absolute directories; what is none, or stands twice in the store, is an error."""
    good: list[str] = []
    for text in paths:
        try:
            path = normalise(text)
            if path == "/":
                raise ValueError("is the root of the file system")
        except ValueError as e:
            walk.add("error", node, field, show(text), str(e), "write an absolute directory such as /var/cache/forebay")
            continue
        if path in seen:
            walk.add(
                "error", node, field, show(text), f"is also the directory of {seen[path]}", "give each level its own directory"
            )
            continue
        seen[path] = field
        good.append(path)
    return tuple(good)


def _quotas(level: Node, field: str, paths: int, kind: str, walk: Walk) -> tuple[int, ...]:
    """Bytes per path: `quotaList` where it is given, else `quota` in equal parts."""
    listed, quota = level.at("quotaList"), level.at("quota")
    if listed is not None and isinstance(listed.value, str):
        return _quota_list(listed, f"{field}.quotaList", paths, walk)
    if quota is None:
        if kind == "JuiceFSRuntime":  # JuiceFS has a default of its own; Fluid accepts a level without a quota there
            walk.add(
                "warning", level, f"{field}.quota", "", "is missing", "give one; the free-space floor alone bounds this tier"
            )
        else:
            walk.add("error", level, f"{field}.quota", "", "is missing, and so is quotaList", "give one, such as quota: 20Gi")
        return (0,) * paths
    return (_quota(quota, f"{field}.quota", walk) // paths,) * paths


def _quota_list(node: Node, field: str, paths: int, walk: Walk) -> tuple[int, ...]:
    text = str(node.value)
    parts = text.split(",")
    sizes: list[int] = []
    for part in parts:
        try:
            sizes.append(parse_quantity(part))
        except QuantityError as e:
            blank = part != part.strip()
            remedy = "remove the blanks: 40Gi,60Gi" if blank else e.remedy
            walk.add("error", node, field, show(text), f"holds {show(part)}, which {e}", remedy)
            return (0,) * paths
    if len(parts) < 2:
        walk.add("error", node, field, show(text), "is a list of one", "write quota instead, or one quantity for each path")
    elif len(parts) != paths:
        walk.add("error", node, field, show(text), f"has {len(parts)} quantities for {paths} paths", "give one for each path")
    elif min(sizes) <= 0:
        walk.add("error", node, field, show(text), "holds a quota that is not positive", "write sizes above 0")
    else:
        return tuple(sizes)
    return (0,) * paths


def _quota(node: Node, field: str, walk: Walk) -> int:
    """Bytes of a quota; 0 when it is bad, which the schema or this function reports."""
    if isinstance(node.value, bool) or not isinstance(node.value, (str, int)):
        return 0
    try:
        size = parse_quantity(node.value)
    except QuantityError:
        return 0  # reported by the schema
    if size <= 0:
        walk.add(
            "error", node, field, show(node.value), "is not positive", f"write a size above 0, such as {format_quantity(1 << 30)}"
        )
        return 0
    return size


def _ratio(node: Node, field: str, walk: Walk) -> float | None:
    if not isinstance(node.value, str):
        return None  # reported by the schema
    value = float(node.value) if _RATIO.fullmatch(node.value) else 0.0
    if not 0.0 < value <= 1.0:
        percent = re.fullmatch(r"([0-9]{1,2}|100)%?", node.value)
        good = f'"{int(percent[1]) / 100:g}"' if percent and int(percent[1]) else '"0.95"'
        walk.add("error", node, field, show(node.value), "is no ratio above 0 and at most 1", f"write one such as {good}")
        return None
    return value


def _watermarks(level: Node, field: str, walk: Walk, *, low: bool = True) -> tuple[float, float]:
    """(high, low), the missing one chosen so that low < high."""
    high_node, low_node = level.at("high"), level.at("low") if low else None
    high_value = _ratio(high_node, f"{field}.high", walk) if high_node is not None else None
    low_value = _ratio(low_node, f"{field}.low", walk) if low_node is not None else None
    high_value = (
        high_value if high_value is not None else (HIGH if low_value is None or low_value < HIGH else (1 + low_value) / 2)
    )
    low_value = low_value if low_value is not None else (LOW if high_value > LOW else high_value * 0.8)
    if low_value >= high_value:
        node = low_node or high_node or level
        message = f"is not below high ({high_value:g})"
        walk.add("error", node, f"{field}.low", show(f"{low_value:g}"), message, "write a low that is smaller than high")
    return high_value, low_value
