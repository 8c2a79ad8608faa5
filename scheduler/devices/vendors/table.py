"""The kinds of devices that are known. Adding one is a module of data and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.scheduler.devices.vendors import ascend, nvidia
from forebay.scheduler.devices.vendors.kinds import Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (nvidia.KIND, ascend.KIND)}
"""By name. A kind's name is a key of our own record; it never changes."""

SHARED = "gpu"
"""The kind that an API means which has no word for one: ACK's `aliyun.com/gpu-mem`, Koordinator without a vendor label."""


def kind_of_vendor(vendor: str) -> Kind | None:
    """By Koordinator's vendor label."""
    return next((kind for kind in KINDS.values() if kind.vendor == vendor), None)


def check(kinds: Iterable[Kind]) -> list[str]:
    """What is wrong with the data of the table, as sentences. [] for a sound one."""
    wrong, owners = list[str](), dict[str, str]()
    for kind in kinds:
        for names in kind.names:
            for resource in filter(None, (names.count, names.memory, names.percent, names.cores)):
                owner = owners.setdefault(resource, f"{kind.name} {names.model}")
                if owner != f"{kind.name} {names.model}":
                    wrong.append(f"{resource} is claimed by {owner} and by {kind.name} {names.model}")
        for model in kind.models:
            for profile in model.profiles:
                where = f"{kind.name} {model.name} {profile.name}"
                if not 0 < profile.memory <= model.memory or not 0 < profile.cores <= model.cores or profile.cpus > model.cpus:
                    wrong.append(f"{where} asks for more than the card has, or for nothing")
                if bool(profile.size) != bool(model.slices) or any(
                    start + profile.size > model.slices for start in profile.starts
                ):
                    wrong.append(f"{where} does not lie within the card's {model.slices} slices")
    return wrong
