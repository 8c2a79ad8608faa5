"""Devices as drivers publish them: ResourceSlices of pools, by the node that can use them.

Of a pool only its newest generation counts, and nothing new is taken from it while slices of that are missing: the driver is in
the middle of a change. A pool in which two devices have one name, or one consumes counters that nobody published, gives nothing.

Source: `resource.k8s.io/v1` ResourceSlice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from forebay.api.kubernetes.core import NodeSelector
from forebay.api.kubernetes.resource import Attribute, ResourceSlice, ResourceSliceSpec, SliceDevice
from forebay.api.quantity import QuantityError, parse_exact


class DeviceId(NamedTuple):
    driver: str
    pool: str
    device: str

    def __str__(self) -> str:
        return "/".join(self)


class PoolId(NamedTuple):
    driver: str
    pool: str


class Counter(NamedTuple):
    """What partitions of one device share: a counter of a set."""

    set: str
    counter: str


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """`node` "" for one that several nodes reach: those of `selector`, all if it is None. `unusable`: why it is not given out
    here, "" if it is."""

    id: DeviceId
    place: int
    published: SliceDevice
    node: str = ""
    selector: NodeSelector | None = None
    consumes: tuple[tuple[Counter, Fraction], ...] = ()
    unusable: str = ""

    def attribute(self, name: str) -> tuple[str, object] | None:
        """Kind and value of an attribute by its full name; None where the device has none."""
        domain, _, short = name.partition("/")
        found: Attribute | None = self.published.attributes.get(name)
        if found is None and domain == self.id.driver:
            found = self.published.attributes.get(short)
        return (found.kind, found.value) if found is not None and found.kind else None


@dataclass(slots=True, eq=False)
class Pool:
    """`wrong`: why nothing is taken from it, "" if something is. `missing`: slices that have not come yet. `home`: the node of
    all its devices, "" if there is no such one."""

    id: PoolId
    devices: dict[str, Device] = field(default_factory=dict)
    counters: dict[Counter, Fraction] = field(default_factory=dict)
    wrong: str = ""
    missing: int = 0
    home: str = ""

    @property
    def nodes(self) -> set[str]:
        """Nodes of its devices; "" stands for those that several reach."""
        return {device.node for device in self.devices.values()}


class Pools:
    """All slices. `order` numbers pools by name, so that every search looks at devices in one order."""

    def __init__(self) -> None:
        self._slices: dict[PoolId, dict[str, ResourceSlice]] = {}
        self._pool_of: dict[str, PoolId] = {}
        self.pools: dict[PoolId, Pool] = {}
        self._on: dict[str, dict[PoolId, None]] = {}

    def put(self, one: ResourceSlice) -> set[str]:
        """A slice is there or changed. Nodes whose devices may be others now, "" for those that several reach."""
        touched = self.remove(one.metadata.name, rebuild=False)
        key = PoolId(one.spec.driver, one.spec.pool.name)
        self._slices.setdefault(key, {})[one.metadata.name] = one
        self._pool_of[one.metadata.name] = key
        return touched | self._rebuild(key)

    def remove(self, name: str, *, rebuild: bool = True) -> set[str]:
        """A slice is gone, by its object's name."""
        key = self._pool_of.pop(name, None)
        if key is None:
            return set()
        del self._slices[key][name]
        if not rebuild and self._slices[key]:
            return set(self.pools[key].nodes)
        return self._rebuild(key)

    def on(self, node: str) -> list[Pool]:
        """Pools with devices of that node alone, by name; "" for those with devices that several nodes reach."""
        return [self.pools[key] for key in sorted(self._on.get(node, ()))]

    def find(self, id: DeviceId) -> Device | None:
        pool = self.pools.get(PoolId(id.driver, id.pool))
        return pool.devices.get(id.device) if pool is not None else None

    def pool_of(self, id: DeviceId) -> Pool | None:
        return self.pools.get(PoolId(id.driver, id.pool))

    def _rebuild(self, key: PoolId) -> set[str]:
        old = self.pools.pop(key, None)
        touched = set(old.nodes) if old is not None else set()
        for node in touched:
            self._on[node].pop(key, None)
            if not self._on[node]:
                del self._on[node]
        slices = self._slices.get(key)
        if not slices:
            self._slices.pop(key, None)
            return touched
        pool = self.pools[key] = build(key, [slices[name].spec for name in sorted(slices)])
        for node in pool.nodes:
            self._on.setdefault(node, {})[key] = None
        return touched | pool.nodes


def build(key: PoolId, slices: list[ResourceSliceSpec]) -> Pool:
    """A pool of all its slices, whatever their generation."""
    newest = max(one.pool.generation for one in slices)
    current = [one for one in slices if one.pool.generation == newest]
    pool = Pool(key, missing=max(one.pool.resource_slice_count for one in current) - len(current))
    try:
        for one in current:
            _add_counters(pool, one)
        for one in current:
            for device in _devices(key, one, len(pool.devices)):
                if device.id.device in pool.devices:
                    raise ValueError(f"two devices are called {device.id.device}")
                pool.devices[device.id.device] = device
                unknown = [counter for counter, _ in device.consumes if counter not in pool.counters]
                if unknown and not pool.missing:
                    raise ValueError(f"device {device.id.device} consumes counter {'/'.join(unknown[0])}, which is not published")
    except (ValueError, QuantityError) as wrong:
        pool.wrong = str(wrong)
    homes = pool.nodes
    pool.home = homes.pop() if len(homes) == 1 else ""
    return pool


def _add_counters(pool: Pool, one: ResourceSliceSpec) -> None:
    for shared in one.shared_counters:
        for name, amount in shared.counters.items():
            counter = Counter(shared.name, name)
            if counter in pool.counters:
                raise ValueError(f"counter {'/'.join(counter)} is published twice")
            pool.counters[counter] = parse_exact(amount.value)


def _devices(key: PoolId, one: ResourceSliceSpec, first: int) -> Iterator[Device]:
    for at, published in enumerate(one.devices):
        here: ResourceSliceSpec | SliceDevice = published if one.per_device_node_selection else one
        if not (here.node_name or here.node_selector or here.all_nodes):
            continue  # a way to say where it is that is not known here
        yield Device(
            DeviceId(key.driver, key.pool, published.name),
            first + at,
            published,
            here.node_name or "",
            None if here.all_nodes else here.node_selector,
            tuple(
                (Counter(used.counter_set, name), parse_exact(amount.value))
                for used in published.consumes_counters
                for name, amount in used.counters.items()
            ),
            _unusable(published),
        )


def _unusable(published: SliceDevice) -> str:
    if published.binding_conditions:
        return "devices with binding conditions are not given out here"
    if published.allow_multiple_allocations:
        return "devices that several claims share (allowMultipleAllocations) are not given out here"
    if published.node_allocatable_resource_mappings:
        return "devices that take of a node's CPU or memory (nodeAllocatableResourceMappings) are not given out here"
    return ""
