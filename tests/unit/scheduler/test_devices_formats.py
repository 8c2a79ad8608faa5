"""One record, four notations: recorded examples are read, written back, and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from devicekit import cut, gpu, npu, pod
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.scheduler.devices import record as own
from forebay.scheduler.devices.card import Device, Part, Seat
from forebay.scheduler.devices.ecosystems import ack, dra, hami, koordinator
from forebay.scheduler.devices.ecosystems.inputs import Inventory, read_record, render
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.vendors.kinds import GIB, KIB, MIB

TIME = 1_700_000_000_000_000_001
SEATS = (Seat("a"), Seat("b"))
CARDS = tuple(Device(f"gpu-{n}", n, "gpu", "Tesla T4", 16 * GIB) for n in range(3))


def record(*parts: Part, seats: tuple[Seat, ...] = SEATS, **more: Any) -> Record:
    return Record("u1", "team/p", "n1", seats, parts, **{"time": TIME, **more})


def held(container: str, index: int, memory: int, **more: Any) -> Part:
    return Part(container, f"gpu-{index}", index, "gpu", memory, **more)


# koordinator-sh/koordinator, pkg/util/transformer: TestTransformACKDeviceAllocation
@pytest.mark.parametrize(
    ("annotations", "parts"),
    [
        ({"ALIYUN_COM_GPU_MEM_POD": "8", "ALIYUN_COM_GPU_MEM_IDX": "1"}, (held("a", 1, 8 * GIB),)),
        (
            {"scheduler.framework.gpushare.allocation": '{"0":{"1":1},"1":{"1":7}}'},
            (held("a", 1, GIB), held("b", 1, 7 * GIB)),
        ),
        (
            {
                "scheduler.framework.gpushare.allocation": '{"0":{"1":1},"1":{"1":7}}',
                "gpushare.alibabacloud.com/core-percentage": '{"0":{"1":50},"1":{"1":50}}',
            },
            (held("a", 1, GIB, cores=50), held("b", 1, 7 * GIB, cores=50)),
        ),
        ({"gpushare.alibabacloud.com/gpumemory": '{"0":{"0":2,"2":2}}'}, (held("a", 0, 2 * GIB), held("a", 2, 2 * GIB))),
    ],
)
def test_recorded_annotations_of_ack(annotations: dict[str, str], parts: tuple[Part, ...]) -> None:
    assert ack.read(annotations, SEATS, CARDS) == parts
    written = ack.render(record(*parts), CARDS)
    assert ack.read(written, SEATS, CARDS) == parts
    for key in ("scheduler.framework.gpushare.allocation", "gpushare.alibabacloud.com/core-percentage"):
        if key in annotations:
            assert written[key] == annotations[key]


def test_ack_is_written_as_its_scheduler_writes_it() -> None:
    assert ack.render(record(held("a", 1, GIB), held("b", 1, 7 * GIB)), CARDS) == {
        "scheduler.framework.gpushare.allocation": '{"0":{"1":1},"1":{"1":7}}',
        "scheduler.framework.gpushare.assigned": "false",
        "scheduler.framework.gpushare.assume-time": str(TIME),
        "gpushare.alibabacloud.com/device-resource": '{"1":16}',
        "ALIYUN_COM_GPU_MEM_IDX": "1",
        "ALIYUN_COM_GPU_MEM_POD": "8",
        "ALIYUN_COM_GPU_MEM_DEV": "16",
        "ALIYUN_COM_GPU_MEM_ASSIGNED": "false",
        "ALIYUN_COM_GPU_MEM_ASSUME_TIME": str(TIME),
    }
    several = ack.render(record(held("a", 0, 2 * GIB), held("a", 2, 2 * GIB)), CARDS)
    assert several["scheduler.framework.gpushare.allocation"] == '{"0":{"0":2,"2":2}}'
    assert "ALIYUN_COM_GPU_MEM_IDX" not in several  # v1 has one card


def test_ack_in_another_unit() -> None:
    parts = (held("a", 1, 500 * MIB),)
    written = ack.render(record(*parts), CARDS, unit=MIB)
    assert written["ALIYUN_COM_GPU_MEM_POD"] == "500"
    assert ack.read(written, SEATS, CARDS, unit=MIB) == parts
    with pytest.raises(ValueError, match="which is no multiple of 1073741824"):
        ack.render(record(*parts), CARDS)


# Project-HAMi/HAMi, pkg/device/devices_test.go: Test_DecodePodDevices
HAMI = "GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76,NVIDIA,500,3:;GPU-ebe7c3f7-303d-558d-435e-99a160631fe4,NVIDIA,500,3:;"
HAMI_CARDS = (
    Device("GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76", 0, "gpu", "Tesla P4", 7680 * MIB),
    Device("GPU-ebe7c3f7-303d-558d-435e-99a160631fe4", 1, "gpu", "Tesla P4", 7680 * MIB),
)


def test_recorded_annotations_of_hami() -> None:
    parts = hami.read({"hami.io/vgpu-devices-allocated": HAMI}, SEATS, HAMI_CARDS)
    assert [(part.container, part.index, part.memory, part.cores) for part in parts] == [
        ("a", 0, 500 * MIB, 3),
        ("b", 1, 500 * MIB, 3),
    ]
    written = hami.render(record(*parts), HAMI_CARDS)
    assert written == {
        "hami.io/vgpu-devices-to-allocate": HAMI,
        "hami.io/vgpu-devices-allocated": HAMI,
        "hami.io/vgpu-node": "n1",
        "hami.io/vgpu-time": "1700000000",
        "hami.io/bind-phase": "allocating",
        "hami.io/bind-time": "1700000000",
    }
    assert hami.read(written, SEATS, HAMI_CARDS) == parts
    assert hami.read({"hami.io/vgpu-devices-to-allocate": HAMI}, SEATS, HAMI_CARDS) == parts


def test_hami_lists_init_containers_first_where_one_holds_a_card() -> None:
    seats = (Seat("i", "init"), Seat("a"))
    both = (Part("i", "GPU-0", 0, "gpu", 500 * MIB), Part("a", "GPU-0", 0, "gpu", 700 * MIB))
    cards = (gpu(0),)
    written = hami.render(record(*both, seats=seats), cards)
    assert written["hami.io/vgpu-devices-allocated"] == "GPU-0,NVIDIA,500,0:;GPU-0,NVIDIA,700,0:;"
    assert hami.read(written, seats, cards) == both
    written = hami.render(record(both[1], seats=seats), cards)
    assert written["hami.io/vgpu-devices-allocated"] == "GPU-0,NVIDIA,700,0:;"
    assert hami.read(written, seats, cards) == both[1:]


def test_hami_names_the_places_of_parts() -> None:
    card, seats = cut(0, "A100-40GB"), (Seat("a"), Seat("b"))
    card = Device("GPU-x", 0, "gpu", "NVIDIA A100-SXM4-40GB", 40 * GIB, layout="A100-40GB")
    part = Part("b", "GPU-x", 0, "gpu", 4864 * MIB, 14, profile="1g.5gb", start=6)
    written = hami.render(record(part, seats=seats), (card,))
    assert written["hami.io/vgpu-devices-allocated"] == ";GPU-x,NVIDIA,4864,14:;"
    assert json.loads(written["hami.io/vgpu-mig-allocations"]) == [  # pkg/device/nvidia/mig_allocations.go
        {"containerIndex": 1, "deviceIndex": 0, "gpuUUID": "GPU-x", "profile": "1g.5gb", "placement": {"start": 6, "size": 1}}
    ]
    assert hami.read(written, seats, (card,)) == (part,)


def test_hami_names_templates_of_npus() -> None:
    part = Part("a", "NPU-0", 0, "npu", 16 * GIB, 5, 1, profile="vir05_1c_16g")
    written = hami.render(record(part), (npu(0),))
    assert written["hami.io/Ascend910B3-devices-to-allocate"] == "NPU-0,Ascend910B3,16384,0:;;"
    assert written["huawei.com/Ascend910B3"] == '[{"UUID":"NPU-0","temp":"vir05_1c_16g"}]'
    assert hami.read(written, SEATS, (npu(0),)) == (part,)
    whole = Part("a", "NPU-0", 0, "npu", 64 * GIB, 20, 7, whole=True)
    assert hami.read(hami.render(record(whole), (npu(0),)), SEATS, (npu(0),)) == (whole,)


# koordinator.sh documentation (GPU share with HAMi), apis/extension/device_share_test.go, pkg/util/transformer
@pytest.mark.parametrize(
    ("text", "total", "use"),
    [
        (
            '{"gpu":[{"minor":1,"resources":{"koordinator.sh/gpu-core":"50","koordinator.sh/gpu-memory":"11520Mi","koordinator.sh/gpu-memory-ratio":"50"}}]}',
            23040 * MIB,
            (11520 * MIB, 50),
        ),
        (
            '{"gpu":[{"minor":1,"resources":{"koordinator.sh/gpu-core":"100","koordinator.sh/gpu-memory":"16Gi","koordinator.sh/gpu-memory-ratio":"100"}}]}',
            16 * GIB,
            (16 * GIB, 100),
        ),
        (
            '{"gpu":[{"minor":1,"resources":{"koordinator.sh/gpu-core":"100","koordinator.sh/gpu-memory":"81251Mi","koordinator.sh/gpu-memory-ratio":"100"}}]}',
            81251 * MIB,
            (81251 * MIB, 100),
        ),
    ],
)
def test_recorded_annotations_of_koordinator(text: str, total: int, use: tuple[int, int]) -> None:
    cards = (Device("gpu-1", 1, "gpu", "", total),)
    parts = koordinator.read({koordinator.ALLOCATED: text}, SEATS, cards)
    assert [(part.container, part.index, part.memory, part.cores) for part in parts] == [("a", 1, *use)]
    assert koordinator.render(record(*parts), cards) == {koordinator.ALLOCATED: text}


def test_an_older_annotation_of_koordinator_in_kibibytes() -> None:
    resources = '{"kubernetes.io/gpu-core":"100","kubernetes.io/gpu-memory":"12508288Ki","kubernetes.io/gpu-memory-ratio":"100"}'
    text = f'{{"gpu":[{{"minor":0,"resources":{resources}}}]}}'
    (part,) = koordinator.read({koordinator.ALLOCATED: text}, SEATS, ())
    assert (part.memory, part.cores, part.index) == (12508288 * KIB, 100, 0)


def test_koordinator_gets_what_the_pod_needs_by_the_formula() -> None:
    seats = (Seat("i", "init"), Seat("a"))
    parts = (Part("i", "GPU-0", 0, "gpu", 8 * GIB, 10), Part("a", "GPU-0", 0, "gpu", 4 * GIB, 50))
    (one,) = json.loads(koordinator.render(record(*parts, seats=seats), (gpu(0),))[koordinator.ALLOCATED])["gpu"]
    assert one == {
        "minor": 0,
        "id": "GPU-0",
        "resources": {
            "koordinator.sh/gpu-core": "50",
            "koordinator.sh/gpu-memory": "8Gi",
            "koordinator.sh/gpu-memory-ratio": "50",
        },
    }


# resource.k8s.io/v1, DeviceRequestAllocationResult
DRA_CARDS = (
    Device("GPU-a", 0, "gpu", "NVIDIA A100-SXM4-80GB", 80 * GIB, claim=("gpu.nvidia.com", "n1", "gpu-0")),
    Device(
        "GPU-b",
        1,
        "gpu",
        "NVIDIA A100-SXM4-80GB",
        80 * GIB,
        layout="A100-80GB",
        claim=("gpu.nvidia.com", "n1", ""),
        parts=((("1g.10gb", 6), "gpu-1-mig-1g10gb-19-6"),),
        instances=(("1g.10gb", 6),),
    ),
)


def test_claims_are_written_and_read() -> None:
    parts = (
        Part("a", "GPU-a", 0, "gpu", 80 * GIB, 100, whole=True, claim="train/gpu"),
        Part("a", "GPU-b", 1, "gpu", 9856 * MIB, 14, profile="1g.10gb", start=6, claim="small/part"),
    )
    written = dra.render(record(*parts), DRA_CARDS)
    assert written["train"] == {
        "allocation": {
            "devices": {"results": [{"request": "gpu", "driver": "gpu.nvidia.com", "pool": "n1", "device": "gpu-0"}]},
            "nodeSelector": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
            },
        },
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "u1"}],
    }
    objects = {name: {"status": status} for name, status in written.items()}
    assert dra.read({"x": "train", "y": "small"}, objects, SEATS, DRA_CARDS) == parts


def test_a_share_of_a_claimed_card_is_written_the_same_each_time() -> None:
    part = Part("a", "GPU-a", 0, "gpu", 10 * GIB, 30, claim="share/gpu")
    first, again = dra.render(record(part), DRA_CARDS), dra.render(record(part), DRA_CARDS)
    assert first == again
    (result,) = first["share"]["allocation"]["devices"]["results"]  # type: ignore[index]
    assert result["consumedCapacity"] == {"memory": "10Gi", "cores": "30"}
    assert dra.read({"x": "share"}, {"share": {"status": first["share"]}}, SEATS, DRA_CARDS) == (part,)


def test_a_card_that_no_driver_publishes_is_no_allocation() -> None:
    with pytest.raises(ValueError, match="holds card GPU-z, which no driver publishes on node n1"):
        dra.render(record(Part("a", "GPU-z", 0, "gpu", GIB, claim="x/y")), DRA_CARDS)
    objects = {
        "x": {"status": {"allocation": {"devices": {"results": [{"driver": "gpu.nvidia.com", "pool": "n1", "device": "gpu-7"}]}}}}
    }
    with pytest.raises(ValueError, match=r"holds device gpu\.nvidia\.com/n1/gpu-7, which no driver publishes"):
        dra.read({"c": "x"}, objects, SEATS, DRA_CARDS)


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"scheduler.framework.gpushare.allocation": "{"}, "is no allocation"),
        ({"scheduler.framework.gpushare.allocation": '{"7":{"0":1}}'}, "names container 7, the pod has 2"),
        ({"scheduler.framework.gpushare.allocation": '{"0":{"0":-1}}'}, "is negative"),
        ({"ALIYUN_COM_GPU_MEM_IDX": "-1", "ALIYUN_COM_GPU_MEM_POD": "8"}, "name no card and amount"),
        ({"hami.io/vgpu-devices-allocated": "GPU-1,NVIDIA,-500,10:;"}, "which is no card"),
        ({"hami.io/vgpu-devices-allocated": "garbage:;"}, "which is no card"),
        ({"hami.io/vgpu-devices-allocated": ";;;;"}, "lists 4 containers, the pod has 2"),
        ({"hami.io/vgpu-devices-allocated": HAMI, "hami.io/vgpu-mig-allocations": "x"}, "is no list of parts"),
        ({"scheduling.koordinator.sh/device-allocated": "incorrect-device-allocation"}, "is no allocation"),
        (
            {"scheduling.koordinator.sh/device-allocated": '{"gpu":[{"minor":0,"resources":{"koordinator.sh/gpu-core":"-1"}}]}'},
            "negative",
        ),
        ({"forebay.io/devices": "{}"}, "is no record of ours"),
        ({"forebay.io/devices": '{"version":2,"record":{}}'}, "is of version 2, this scheduler reads 1: upgrade it"),
        ({"forebay.io/devices": "[" * 100_000}, "is no record of ours"),
    ],
)
def test_annotations_that_are_unreadable_say_so(annotations: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_record(pod({"a": {}, "b": {}}, node="n1", annotations=annotations), Inventory(CARDS))


def test_our_own_annotation_counts_first_and_only_on_its_node() -> None:
    kept = record(Part("a", "gpu-0", 0, "gpu", 16 * GIB, 100, whole=True))
    written = render(kept, Inventory(CARDS, api="ack"))
    assert {key for key in written if key.startswith("forebay.io")} == {"forebay.io/devices"}
    there = pod({"a": {}, "b": {}}, node="n1", annotations=written)
    assert read_record(there, Inventory(CARDS)) == kept
    told = hami.render(record(Part("a", "gpu-0", 0, "gpu", 500 * MIB)), CARDS)
    assert read_record(pod({"a": {}, "b": {}}, node="n1", annotations=told), Inventory(CARDS)) is not None
    assert read_record(pod({"a": {}, "b": {}}, node="n2", annotations=told), Inventory(CARDS)) is None
    elsewhere = pod({"a": {}, "b": {}}, node="n2", annotations=own.render(kept))
    assert read_record(elsewhere, Inventory(CARDS)) is None


@st.composite
def records(draw: st.DrawFn) -> Record:
    seats = (Seat("i", "init"), Seat("s", "sidecar"), Seat("a"), Seat("b"))
    found = list[Part]()
    for seat in draw(st.lists(st.sampled_from(seats), min_size=1, max_size=3, unique=True)):
        for index in draw(st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True)):
            memory, cores = draw(st.integers(1, 8)) * GIB, draw(st.integers(0, 33))
            found.append(Part(seat.container, f"gpu-{index}", index, "gpu", memory, cores))
    order = [seat.container for seat in seats]
    return record(*sorted(found, key=lambda part: (order.index(part.container), part.index)), seats=seats)


@settings(max_examples=150, deadline=None)
@given(records())
def test_round_trips(one: Record) -> None:
    assert own.read(own.render(one)) == one
    assert hami.read(hami.render(one, CARDS), one.seats, CARDS) == one.parts
    apps = tuple(part for part in one.parts if part.container in ("a", "b"))
    assert ack.read(ack.render(one, CARDS), one.seats, CARDS) == apps  # its notation has no init containers
    again = koordinator.read(koordinator.render(one, CARDS), one.seats, CARDS)
    assert {part.device: (part.memory, part.cores) for part in again} == {
        name: (use.memory, use.cores) for name, use in one.uses().items()
    }
