"""What kinds of devices there are: names, units, rules and fixed parts. The table's rows are data; no other file names a vendor.

A row is a `Kind` in a module of its own (`nvidia.py`, `ascend.py`), listed in `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MOST_CARDS, MOST_MEMORY = 256, 1 << 50
"""Of a node, and of a card in bytes. More is a slip of the pen; it is refused before anything is made of it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A fixed part of a card: a MIG profile, a vNPU template.

    `memory` in bytes, `cores` in the kind's unit, `cpus` processors on the card. Where `size` is not 0, an instance takes `size`
    neighbouring slices, and `starts` are the slices it may begin at. `once`: a card has at most one instance of it.
    """

    name: str
    memory: int
    cores: int
    cpus: int = 0
    starts: tuple[int, ...] = ()
    size: int = 0
    once: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """Cards of one type. `match`: parts of the product names that nodes report, without case; the longest match decides.

    `slices` 0: the profiles are limited by memory, cores and cpus alone. `source` says where the figures are from.
    """

    name: str
    match: tuple[str, ...]
    memory: int
    cores: int = 100
    cpus: int = 0
    slices: int = 0
    profiles: tuple[Profile, ...] = ()
    multiple: int = 1
    """Cards are given out in multiples of this: two dies of one module."""
    source: str = ""

    def profile(self, name: str) -> Profile | None:
        return next((one for one in self.profiles if one.name == name), None)

    def at_least(self, memory: int) -> Profile | None:
        """The smallest profile with that much memory, None if none has."""
        fitting = [one for one in self.profiles if one.memory >= memory]
        return min(fitting, key=lambda one: (one.memory, one.cores)) if fitting else None


@dataclass(frozen=True, slots=True)
class Words:
    """How HAMi calls a kind, or one model of it, in annotations."""

    word: str
    register: str
    to_allocate: str
    allocated: str
    use_id: str
    no_use_id: str
    use_type: str = ""
    no_use_type: str = ""
    numa: str = ""
    runtime: str = ""
    """Annotation that the device plugin reads the template from."""


@dataclass(frozen=True, slots=True)
class Names:
    """Resource names by which a container asks for devices of a kind in one API. "" where the API has none.

    `count` cards; of each `memory` (x `unit` bytes) or `percent` of its memory, and `cores` percent of its cores.
    """

    count: str
    memory: str = ""
    unit: int = MIB
    percent: str = ""
    cores: str = ""
    model: str = ""
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Dra:
    """Names of a DRA driver: which device classes give whole cards and which give parts, and how attributes are called."""

    driver: str
    whole: str
    part: str = ""
    profile: str = "profile"
    product: str = "productName"
    uuid: str = "uuid"
    memory: str = "memory"
    cores: str = "cores"


@dataclass(frozen=True)
class Kind:
    """One kind of device. `cores` is what a card of an unknown model has, in the unit of `Device.cores`."""

    name: str
    title: str
    vendor: str
    """Koordinator's word for the vendor (label `node.koordinator.sh/gpu-vendor`)."""
    names: tuple[Names, ...]
    models: tuple[Model, ...] = ()
    whole: tuple[str, ...] = ()
    """Resources that count whole cards and nothing else."""
    part_prefix: str = ""
    """Resource prefix of a profile: `<prefix>1g.5gb`."""
    cores: int = 100
    round_up: bool = False
    """A memory request without cores gets the next larger profile: the card cannot be cut elsewhere."""
    several_shared: bool = True
    """Whether one container may share several cards."""
    dra: Dra | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Node labels that name product and memory in MiB: keys `product`, `memory`; `ack`: the product after ACK."""
    amounts: Mapping[str, str] = field(default_factory=dict)
    """Names of `cores` and `cpus` in Koordinator's Device, where they are not its own."""

    @cached_property
    def by_model(self) -> dict[str, Model]:
        return {one.name: one for one in self.models}

    def model_of(self, product: str) -> Model | None:
        """The model of a product name, None for one that the table does not know."""
        folded = product.lower()
        found = [(len(part), one) for one in self.models for part in (*one.match, one.name) if part.lower() in folded]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def part_name(self, resource: str) -> str:
        """The profile that a resource names, "" for none. A resource name has no +, so `1g.5gb.me` stands for `1g.5gb+me`."""
        if not self.part_prefix or not resource.startswith(self.part_prefix):
            return ""
        name = resource[len(self.part_prefix) :]
        return f"{name[:-3]}+me" if name.endswith(".me") else name
