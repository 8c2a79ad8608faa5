"""Cards asked for in each API's names, on nodes as that API's plugin leaves them: which names a node offers differs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from livekit import binds, bound, core, node, pod

from forebay.api.kubernetes.core import Node
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind, Tell


def annotated(one: Node, **notes: str) -> Node:
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, annotations=notes))


def hami() -> Core:
    """HAMi's plugin offers cards alone; memory and cores are its scheduler's."""
    c = core()
    listed = "GPU-0,10,16384,100,NVIDIA-T4,0,true:GPU-1,10,16384,100,NVIDIA-T4,0,true:"
    c.apply("Node", None, annotated(node("a", 16, **{"nvidia.com/gpu": "20"}), **{"hami.io/node-nvidia-register": listed}))
    return c


def koordinator() -> Core:
    """koordlet offers cores, memory and its ratio; `koordinator.sh/gpu` and `gpu.shared` are words of pods alone."""
    c = core()
    held = {"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu-memory": "16Gi", "koordinator.sh/gpu-memory-ratio": "100"}
    listed = [{"type": "gpu", "id": f"GPU-{n}", "minor": n, "health": True, "resources": held} for n in range(2)]
    labels = {"node.koordinator.sh/gpu-vendor": "nvidia", "node.koordinator.sh/gpu-model": "T4"}
    c.apply("Device", None, {"kind": "Device", "metadata": {"name": "a", "labels": labels}, "spec": {"devices": listed}})
    offered = {"koordinator.sh/gpu-core": "200", "koordinator.sh/gpu-memory": "32Gi", "koordinator.sh/gpu-memory-ratio": "200"}
    c.apply("Node", None, node("a", 16, **offered))
    return c


def npu() -> Core:
    c = core()
    chips = '[{"id":"Ascend910B3-0","index":0,"count":7,"devmem":65536,"devcore":20,"type":"Ascend910B3","health":true}]'
    note = {"hami.io/node-register-Ascend910B3": chips}
    c.apply("Node", None, annotated(node("a", 16, **{"huawei.com/Ascend910B3": "7"}), **note))
    return c


ALLOCATED = "scheduling.koordinator.sh/device-allocated"
CASES: list[tuple[Any, dict[str, str], str]] = [
    (hami, {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4096", "nvidia.com/gpucores": "30"}, "hami.io/vgpu-devices-to-allocate"),
    (hami, {"nvidia.com/gpu": "2", "nvidia.com/gpumem-percentage": "50"}, "hami.io/vgpu-devices-to-allocate"),
    (koordinator, {"koordinator.sh/gpu": "50"}, ALLOCATED),
    (
        koordinator,
        {"koordinator.sh/gpu.shared": "1", "koordinator.sh/gpu-memory": "4Gi"},
        "scheduling.koordinator.sh/device-allocated",
    ),
    (npu, {"huawei.com/Ascend910B3": "1", "huawei.com/Ascend910B3-memory": "16384"}, "huawei.com/Ascend910B3"),
]


@pytest.mark.parametrize(("make", "limits", "note"), CASES)
def test_a_share_is_placed_though_no_node_offers_its_words(make: Any, limits: dict[str, str], note: str) -> None:
    c = make()
    c.apply("Pod", None, pod("p", limits=limits))
    done = c.decide(0)
    assert binds(done) == {"p": "a"}, [one.sentence for one in done if isinstance(one, Tell)]
    (bind,) = [one for one in done if isinstance(one, Bind)]
    assert bind.annotations[note]
    assert "forebay.io/devices" in bind.annotations
    mine = bound(pod("p", limits=limits), "a", bind.annotations)
    c.apply("Pod", pod("p", limits=limits), mine)
    assert c.books.devices.records["p"].parts
    c.apply("Pod", mine, None)
    assert not c.books.devices.records
    assert (c.books.cluster.free[0] == c.books.cluster.allocatable[0]).all()


def test_cards_that_no_node_has_are_named() -> None:
    c = core()
    c.apply("Node", None, node("a"))
    c.apply("Pod", None, pod("p", limits={"nvidia.com/gpu": "1", "nvidia.com/gpumem": "4096"}))
    (told,) = [one.sentence for one in c.decide(0) if isinstance(one, Tell)]
    assert told.startswith("0 of 1 nodes: 1 no cards")
