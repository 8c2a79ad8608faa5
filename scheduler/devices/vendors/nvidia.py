"""NVIDIA GPUs: names of four APIs, and the parts that MIG cuts cards into.

Slices are memory slices. Sources: placements as `nvidia-smi mig -lgipp` prints them on A30, A100 and H100; memory per profile
from the device tables of NVIDIA/go-nvml (pkg/nvml/mock/shared/gpus), profile names and counts also from NVIDIA's MIG user
guide, "Supported MIG Profiles". For H200 and B200 the eight slices of the H100 are assumed: go-nvml's tables have the same
starts.
"""

from __future__ import annotations

from forebay.scheduler.devices.vendors.kinds import GIB, MIB, Dra, Kind, Model, Names, Profile, Words

_SOURCE = "nvidia-smi mig -lgipp; NVIDIA/go-nvml device tables; MIG user guide"


def _parts(names: tuple[str, ...], memory: tuple[int, int, int, int]) -> tuple[Profile, ...]:
    """The seven profiles of a card with 8 memory and 7 compute slices. `memory`: MiB of 1, 2, 4 and 8 slices."""
    one, two, half, all_ = (amount * MIB for amount in memory)
    small, media, wide, double, three, four, seven = names
    return (
        Profile(small, one, 14, starts=(0, 1, 2, 3, 4, 5, 6), size=1),
        Profile(media, one, 14, starts=(0, 1, 2, 3, 4, 5, 6), size=1, once=True),
        Profile(wide, two, 14, starts=(0, 2, 4, 6), size=2),
        Profile(double, two, 28, starts=(0, 2, 4), size=2),
        Profile(three, half, 42, starts=(0, 4), size=4),
        Profile(four, half, 57, starts=(0,), size=4),
        Profile(seven, all_, 100, starts=(0,), size=8),
    )


def _names(one: int, two: int, half: int, all_: int) -> tuple[str, ...]:
    return f"1g.{one}gb", f"1g.{one}gb+me", f"1g.{two}gb", f"2g.{two}gb", f"3g.{half}gb", f"4g.{half}gb", f"7g.{all_}gb"


_A30 = (
    Profile("1g.6gb", 5836 * MIB, 25, starts=(0, 1, 2, 3), size=1),
    Profile("1g.6gb+me", 5836 * MIB, 25, starts=(0, 1, 2, 3), size=1, once=True),
    Profile("2g.12gb", 11672 * MIB, 50, starts=(0, 2), size=2),
    Profile("2g.12gb+me", 11672 * MIB, 50, starts=(0, 2), size=2, once=True),
    Profile("4g.24gb", 23344 * MIB, 100, starts=(0,), size=4),
)
_EIGHTY = _parts(_names(10, 20, 40, 80), (9856, 19968, 40192, 80384))

KIND = Kind(
    name="gpu",
    title="NVIDIA GPU",
    vendor="nvidia",
    names=(
        Names(
            count="nvidia.com/gpu",
            memory="nvidia.com/gpumem",
            percent="nvidia.com/gpumem-percentage",
            cores="nvidia.com/gpucores",
            words=Words(
                word="NVIDIA",
                register="hami.io/node-nvidia-register",
                to_allocate="hami.io/vgpu-devices-to-allocate",
                allocated="hami.io/vgpu-devices-allocated",
                use_id="nvidia.com/use-gpuuuid",
                no_use_id="nvidia.com/nouse-gpuuuid",
                use_type="nvidia.com/use-gputype",
                no_use_type="nvidia.com/nouse-gputype",
                numa="nvidia.com/numa-bind",
            ),
        ),
    ),
    whole=("nvidia.com/gpu", "aliyun.com/gpu"),
    part_prefix="nvidia.com/mig-",
    dra=Dra(driver="gpu.nvidia.com", whole="gpu.nvidia.com", part="mig.nvidia.com"),
    labels={
        "product": "nvidia.com/gpu.product",
        "memory": "nvidia.com/gpu.memory",
        "ack": "aliyun.accelerator/nvidia_name",
    },
    models=(
        Model("A30", ("A30",), 24 * GIB, slices=4, profiles=_A30, source=_SOURCE),
        Model(
            "A100-40GB",
            ("A100-SXM4-40GB", "A100-PCIE-40GB", "A100-40GB"),
            40 * GIB,
            slices=8,
            profiles=_parts(_names(5, 10, 20, 40), (4864, 9856, 19968, 40192)),
            source=_SOURCE,
        ),
        Model(
            "A100-80GB",
            ("A100-SXM4-80GB", "A100-PCIE-80GB", "A100-80GB", "A100 80GB", "A100-SXM-80GB"),
            80 * GIB,
            slices=8,
            profiles=_EIGHTY,
            source=_SOURCE,
        ),
        Model(
            "H100-80GB",
            ("H100 80GB", "H100-80GB", "H100-SXM5-80GB", "H100-PCIE-80GB", "H100 PCIe", "H100-PCIe", "H800"),
            80 * GIB,
            slices=8,
            profiles=_parts(_names(10, 20, 40, 80), (10240, 20480, 40960, 81920)),
            source=_SOURCE,
        ),
        Model(
            "H100-94GB",
            ("H100 NVL", "H100-NVL", "H100-PCIE-94GB", "H100-SXM5-94GB"),
            94 * GIB,
            slices=8,
            profiles=_parts(_names(12, 24, 47, 94), (12032, 24064, 48128, 96256)),
            source=f"{_SOURCE}; memory: eighths of 94 GiB",
        ),
        Model(
            "H20-96GB",
            ("H20", "GH200"),
            96 * GIB,
            slices=8,
            profiles=_parts(_names(12, 24, 48, 96), (12288, 24576, 49152, 98304)),
            source=f"{_SOURCE}; memory: eighths of 96 GiB",
        ),
        Model(
            "H200-141GB",
            ("H200",),
            141 * GIB,
            slices=8,
            profiles=_parts(_names(18, 35, 71, 141), (18432, 35840, 72704, 144384)),
            source=f"{_SOURCE}; slices as H100",
        ),
        Model(
            "B200-180GB",
            ("B200",),
            180 * GIB,
            slices=8,
            profiles=_parts(_names(23, 45, 90, 180), (23552, 46080, 92160, 184320)),
            source=f"{_SOURCE}; slices as H100",
        ),
    ),
)
