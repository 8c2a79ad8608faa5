"""Cards and parts of cards as DRA drivers publish them."""

from __future__ import annotations

from typing import Any

from devicekit import node

from forebay.scheduler.devices.ecosystems.inputs import read_node
from forebay.scheduler.quota.inputs.check import Findings


def slice_(devices: list[dict[str, Any]], generation: int = 1) -> dict[str, Any]:
    return {
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "n1",
            "pool": {"name": "n1", "generation": generation},
            "devices": devices,
        }
    }


def published(name: str, uuid: str, **more: Any) -> dict[str, Any]:
    attributes = {"uuid": {"string": uuid}, "productName": {"string": "NVIDIA A100-SXM4-40GB"}, "type": {"string": "gpu"}}
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "40Gi"}}, **more}


def part(name: str, parent: str, profile: str, start: int, size: int) -> dict[str, Any]:
    attributes = {key: {"string": value} for key, value in (("parentUUID", parent), ("profile", profile), ("type", "mig"))}
    attributes["productName"] = {"string": "NVIDIA A100-SXM4-40GB"}
    return {
        "name": name,
        "attributes": attributes,
        "capacity": {f"memorySlice{n}": {"value": "1"} for n in range(start, start + size)},
    }


def test_slices_of_dra() -> None:
    findings = Findings()
    old = slice_([published("gpu-9", "GPU-old")], generation=0)
    tainted = published("gpu-1", "GPU-b", taints=[{"key": "xid", "effect": "NoSchedule"}])
    parts = [part("gpu-2-mig-a", "GPU-c", "1g.5gb", 6, 1), part("gpu-2-mig-b", "GPU-c", "3g.20gb", 0, 4)]
    found = read_node(node(), findings, slices=[old, slice_([published("gpu-0", "GPU-a"), tainted, *parts])])
    assert findings.problems == []
    assert [(card.id, card.healthy, card.claim[2], card.layout) for card in found.devices] == [
        ("GPU-a", True, "gpu-0", ""),
        ("GPU-b", False, "gpu-1", ""),
        ("GPU-c", True, "", "A100-40GB"),
    ]
    assert dict(found.devices[2].parts) == {("1g.5gb", 6): "gpu-2-mig-a", ("3g.20gb", 0): "gpu-2-mig-b"}


def test_a_card_that_is_published_twice() -> None:
    findings = Findings()
    found = read_node(node(), findings, slices=[slice_([published("gpu-0", "GPU-a"), part("m", "GPU-a", "1g.5gb", 0, 1)])])
    assert [card.layout for card in found.devices] == [""]
    assert "is published whole and in parts" in str(findings.problems[0])
