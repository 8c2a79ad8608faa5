"""Ascend NPUs: one set of resource names a chip, and vNPU templates. Cores are AI cores, `cpus` AI CPUs.

Source: HAMi's device configuration (charts/hami/templates/scheduler/device-configmap.yaml, `vnpus`), and its annotations
(pkg/device/ascend/device.go). A chip is cut only along its templates, so memory is rounded up to one; more than the largest is a
whole chip, and several chips are given only whole. Chips of 910C are two dies of a module, given out in pairs.
"""

from __future__ import annotations

from forebay.scheduler.devices.vendors.kinds import MIB, Kind, Model, Names, Profile, Words

_SOURCE = "HAMi device-configmap.yaml, vnpus"


def _template(name: str, memory: int, cores: int, cpus: int = 0) -> Profile:
    return Profile(name, memory * MIB, cores, cpus)


def _names(word: str) -> Names:
    return Names(
        count=f"huawei.com/{word}",
        memory=f"huawei.com/{word}-memory",
        cores=f"huawei.com/{word}-core",
        model=word,
        words=Words(
            word=word,
            register=f"hami.io/node-register-{word}",
            to_allocate=f"hami.io/{word}-devices-to-allocate",
            allocated=f"hami.io/{word}-devices-allocated",
            use_id=f"hami.io/use-{word}-uuid",
            no_use_id=f"hami.io/no-use-{word}-uuid",
            runtime=f"huawei.com/{word}",
        ),
    )


_SIXTEEN = (_template("vir05_1c_16g", 16384, 5, 1), _template("vir10_3c_32g", 32768, 10, 3))

_MODELS = (
    Model(
        "Ascend910A",
        ("910A",),
        32768 * MIB,
        cores=30,
        profiles=(
            _template("vir02", 2184, 2),
            _template("vir04", 4369, 4),
            _template("vir08", 8738, 8),
            _template("vir16", 17476, 16),
        ),
        source=_SOURCE,
    ),
    Model(
        "Ascend910B2",
        ("910B2",),
        65536 * MIB,
        cores=24,
        cpus=6,
        profiles=(
            _template("vir03_1c_8g", 8192, 3, 1),
            _template("vir06_1c_16g", 16384, 6, 1),
            _template("vir12_3c_32g", 32768, 12, 3),
        ),
        source=_SOURCE,
    ),
    Model("Ascend910B3", ("910B3",), 65536 * MIB, cores=20, cpus=7, profiles=_SIXTEEN, source=_SOURCE),
    Model("Ascend910B4-1", ("910B4-1",), 65536 * MIB, cores=20, cpus=7, profiles=_SIXTEEN, source=_SOURCE),
    Model(
        "Ascend910B4",
        ("910B4",),
        32768 * MIB,
        cores=20,
        cpus=7,
        profiles=(_template("vir05_1c_8g", 8192, 5, 1), _template("vir10_3c_16g", 16384, 10, 3)),
        source=_SOURCE,
    ),
    Model("Ascend910C", ("910C",), 65536 * MIB, cores=20, cpus=7, profiles=_SIXTEEN, multiple=2, source=_SOURCE),
    Model(
        "Ascend310P",
        ("310P",),
        21527 * MIB,
        cores=8,
        cpus=7,
        profiles=(_template("vir01", 3072, 1, 1), _template("vir02", 6144, 2, 2), _template("vir04", 12288, 4, 4)),
        source=_SOURCE,
    ),
)

KIND = Kind(
    name="npu",
    title="Ascend NPU",
    vendor="huawei",
    names=tuple(_names(one.name) for one in _MODELS),
    models=_MODELS,
    amounts={"cores": "huawei.com/npu-core", "cpus": "huawei.com/npu-cpu"},
    round_up=True,
    several_shared=False,
)
