"""Who holds which device: one book for claims that are allocated, for those of pods that were placed here, and for what is just
being written.

Invariants:
- `taken[device]` counts who holds it: claims by their status, claims by a decision (`chosen`), attempts in flight (`flying`).
  None of them is given out;
- a decision lives as long as a pod that uses the claim, or until the claim's own status says more; an attempt until its outcome;
- of a claim the newest version counts, whoever brought it: the watch, or the answer to what was written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction

from forebay.api.kubernetes.resource import CLASS_RESOURCE, DeviceClass, ResourceClaim, ResourceSlice
from forebay.scheduler.arrays.storage import ClaimKey
from forebay.scheduler.claims import pools as p
from forebay.scheduler.claims.written import Allotted, held

LOGGED = 20_000
"""Changes that are remembered node by node; whoever is further behind looks at all nodes anew."""
EVERYWHERE = ""
"""In place of a node: devices that several nodes reach have changed."""


class ClaimBook:
    """See the module. `version` grows with every change that can change an answer; `classes_version` with those of classes."""

    def __init__(self) -> None:
        self.claims: dict[ClaimKey, ResourceClaim] = {}
        self.classes: dict[str, DeviceClass] = {}
        self.pools = p.Pools()
        self.users = Counter[ClaimKey]()
        self.chosen: dict[ClaimKey, Allotted] = {}
        self.taken = Counter[p.DeviceId]()
        self.version = 0
        self._thought_away: dict[ClaimKey, tuple[p.DeviceId, ...]] = {}
        self._flying: dict[int, tuple[p.DeviceId, ...]] = {}
        self._mapped: dict[str, str] = {}
        self._counted: dict[str, set[str]] = {}
        self._in_pool: dict[p.PoolId, dict[p.DeviceId, None]] = {}
        self._log_at: list[int] = []
        self._log: list[str] = []
        self._log_from = 0

    # --- objects ---

    def set_claim(self, claim: ResourceClaim, *, answered: bool = False) -> None:
        """The claim as it is now. `answered`: the server's answer to a write of ours; it makes no claim exist that is gone."""
        key = ClaimKey(claim.metadata.namespace, claim.metadata.name)
        old = self.claims.get(key)
        if answered and (old is None or old.metadata.uid != claim.metadata.uid):
            return
        if old is not None and old.metadata.uid == claim.metadata.uid and _older(claim, old):
            return
        self.claims[key] = claim
        before, now = held(old.status.allocation if old is not None else None), held(claim.status.allocation)
        if claim.status.allocation is not None:
            self._drop(key)
        if before != now:
            self._hold(now, 1)
            self._hold(before, -1)
        self.version += 1

    def remove_claim(self, namespace: str, name: str) -> None:
        old = self.claims.pop(ClaimKey(namespace, name), None)
        if old is not None:
            self._hold(held(old.status.allocation), -1)
            self._drop(ClaimKey(namespace, name))
            self.version += 1

    def set_class(self, one: DeviceClass) -> None:
        self.classes[one.metadata.name] = one
        self._classes_changed()

    def remove_class(self, name: str) -> None:
        if self.classes.pop(name, None) is not None:
            self._classes_changed()

    def _classes_changed(self) -> None:
        self.version += 1
        self._mapped = {
            one.spec.extended_resource_name: name for name, one in self.classes.items() if one.spec.extended_resource_name
        }

    def set_slice(self, one: ResourceSlice) -> None:
        self._touch(self.pools.put(one))

    def remove_slice(self, name: str) -> None:
        self._touch(self.pools.remove(name))

    def set_counted(self, node: str, drivers: set[str]) -> bool:
        """Drivers whose devices the node hands out in another way too. Whether that changed."""
        if self._counted.get(node, set()) == drivers:
            return False
        if drivers:
            self._counted[node] = drivers
        else:
            del self._counted[node]
        self._touch([node])
        return True

    def counted(self, node: str) -> set[str]:
        return self._counted.get(node, set())

    def mapped(self, resource: str) -> str:
        """The DeviceClass that an extended resource stands for, "" for none."""
        if resource.startswith(CLASS_RESOURCE):
            return resource.removeprefix(CLASS_RESOURCE)
        return self._mapped.get(resource, "")

    # --- decisions ---

    def decide(self, allotted: Mapping[ClaimKey, Allotted]) -> None:
        """What the claims of a pod that was placed get."""
        for key, one in allotted.items():
            self.chosen[key] = one
            self._hold(one.devices, 1)

    def use(self, claims: Iterable[ClaimKey]) -> None:
        """A pod with these claims was placed, or is seen on a node."""
        self.users.update(claims)

    def leave(self, claims: Iterable[ClaimKey]) -> None:
        """The opposite of `use`."""
        for key in claims:
            self.users[key] -= 1
            assert self.users[key] >= 0, f"claim {key} had no user"
            if not self.users[key]:
                del self.users[key]
                self._drop(key)

    def take_off(self, number: int, claims: Iterable[ClaimKey]) -> None:
        """An attempt begins to write what was decided: until its outcome nothing of that is given to others."""
        devices = tuple(one for key in claims if key in self.chosen for one in self.chosen[key].devices)
        if devices:
            self._flying[number] = devices
            self._hold(devices, 1)

    def landed(self, number: int) -> None:
        """What came of the attempt is known, and the claims say it."""
        self._hold(self._flying.pop(number, ()), -1)

    def _drop(self, key: ClaimKey) -> None:
        one = self.chosen.pop(key, None)
        if one is not None:
            self._hold(one.devices, -1)

    # --- what if ---

    @contextmanager
    def thinking(self) -> Iterator[None]:
        """Whatever is thought away inside is back at the end. Claims that are reserved for pods of which none is left go by
        themselves, and count as gone."""
        for key, claim in self.claims.items():
            if claim.status.reserved_for and not self.users[key]:
                self._think_away(key)
        try:
            yield
        finally:
            self.think_back(list(self._thought_away))

    def think_away(self, claims: Iterable[ClaimKey]) -> None:
        """A pod with these is thought away, and does not use them any more: what nobody uses is free."""
        for key in claims:
            if not self.users[key]:
                self._think_away(key)

    def think_back(self, claims: Iterable[ClaimKey]) -> None:
        for key in claims:
            self._hold(self._thought_away.pop(key, ()), 1)

    @contextmanager
    def without(self, gone: Mapping[ClaimKey, int]) -> Iterator[None]:
        """As if so many users of each were gone: what has no others is free inside."""
        before = set(self._thought_away)
        for key, users in gone.items():
            if self.users[key] <= users:
                self._think_away(key)
        try:
            yield
        finally:
            self.think_back([key for key in self._thought_away if key not in before])

    def _think_away(self, key: ClaimKey) -> None:
        claim = self.claims.get(key)
        if claim is not None and claim.status.allocation is not None and key not in self._thought_away:
            self._thought_away[key] = held(claim.status.allocation)
            self._hold(self._thought_away[key], -1)

    # --- what is free ---

    def left(self, pool: p.Pool) -> dict[p.Counter, Fraction] | None:
        """What devices that are taken leave of the pool's counters. None where one of them is not published any more: what it
        consumes is not known."""
        left = dict(pool.counters)
        for id in self._in_pool.get(pool.id, ()):
            device = pool.devices.get(id.device)
            if device is None:
                return None
            for counter, amount in device.consumes:
                left[counter] -= amount
        return left

    def changed_since(self, version: int) -> set[str] | None:
        """Nodes whose devices changed after that version; None for all."""
        if version < self._log_from:
            return None
        found = set(self._log[bisect_right(self._log_at, version) :])
        return None if EVERYWHERE in found else found

    def _hold(self, devices: Iterable[p.DeviceId], sign: int) -> None:
        nodes = set[str]()
        for one in devices:
            before = one in self.taken
            self.taken[one] += sign
            if not self.taken[one]:
                del self.taken[one]
            if before != (one in self.taken):
                self._sort(one)
                nodes.add(self._home(one))
        if nodes:
            self._touch(nodes)

    def _sort(self, id: p.DeviceId) -> None:
        """Taken devices by pool: of thousands of them a node's pool has a few."""
        pool = p.PoolId(id.driver, id.pool)
        if id in self.taken:
            self._in_pool.setdefault(pool, {})[id] = None
            return
        del self._in_pool[pool][id]
        if not self._in_pool[pool]:
            del self._in_pool[pool]

    def _home(self, id: p.DeviceId) -> str:
        """The node that alone can tell whether the device is taken."""
        pool = self.pools.pool_of(id)
        if pool is None:
            return EVERYWHERE
        if pool.counters:
            return pool.home
        device = pool.devices.get(id.device)
        return device.node if device is not None else EVERYWHERE

    def _touch(self, nodes: Iterable[str]) -> None:
        self.version += 1
        for node in nodes:
            self._log_at.append(self.version)
            self._log.append(node)
        if len(self._log) > LOGGED:
            half = len(self._log) // 2
            self._log_from = self._log_at[half - 1]
            del self._log[:half], self._log_at[:half]


def _older(one: ResourceClaim, kept: ResourceClaim) -> bool:
    """Resource versions are numbers that grow; what is no number (a test's object) is taken as it comes."""
    mine, other = one.metadata.resource_version, kept.metadata.resource_version
    return mine.isdecimal() and other.isdecimal() and int(mine) < int(other)
