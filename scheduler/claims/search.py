"""Which devices of one node the claims of one pod get: all of them together, or none.

The first choice of each request that leaves something for the others, devices in the order of pools and names; where that fails
it goes back, at most `STEPS` devices tried. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

from forebay.api.kubernetes.resource import Taint, Toleration
from forebay.scheduler.claims.asks import MOST_DEVICES, Asked, Choice, Constraint, Wanted
from forebay.scheduler.claims.pools import Counter, Device, DeviceId, Pool, PoolId
from forebay.scheduler.claims.selectors import SelectorError
from forebay.scheduler.lack import Lack

STEPS = 5000
"""Devices tried for one node, some 20 ms. Claims that want equal attributes of few devices need a dozen."""


@dataclass(frozen=True, slots=True)
class Given:
    """Devices of one claim, with the name of the request (and its choice) that each is for."""

    results: tuple[tuple[str, Device], ...] = ()


@dataclass(slots=True)
class Offer:
    """What a node has: pools, those of their devices that it reaches, and what is free of counters (Pool -> left)."""

    pools: Sequence[Pool]
    reaches: Callable[[Device], bool]
    taken: Collection[DeviceId]
    left: Callable[[Pool], dict[Counter, Fraction] | None]
    counted: Collection[str] = ()
    """Drivers whose devices the node hands out in another way too: none of theirs is used."""


class TooHard(Exception):
    """Not decided within `STEPS`."""


def search(wanted: Sequence[Wanted], offer: Offer) -> tuple[Given, ...] | Lack:
    """Devices for each claim, in order, or what is lacking."""
    try:
        candidates = _Candidates(offer)
        slots = [_Slot(at, asked, claim.constraints) for at, claim in enumerate(wanted) for asked in claim.asked]
        for slot in slots:
            short = candidates.lack(slot.asked)
            if short is not None:
                return short
        found = _Search(slots, candidates, offer, len(wanted)).run()
    except SelectorError as wrong:
        return Lack(
            f"cannot be asked: {wrong}", "correct the selector: it must hold for every device that it is asked of", "selector"
        )
    except TooHard:
        return Lack("devices that were not found in time", "ask for fewer devices with constraints in one pod", "devices")
    if found is None:
        return Lack("no free devices that fit together", "free devices, or relax the constraints of the claims", "devices")
    return found


@dataclass(frozen=True, slots=True)
class _Slot:
    claim: int
    asked: Asked
    constraints: tuple[Constraint, ...]


class _Candidates:
    """Devices that a choice means, on this node."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._all = [(pool, device) for pool in offer.pools for device in pool.devices.values() if offer.reaches(device)]
        self._meant: dict[Choice, list[tuple[Pool, Device]]] = {}

    def meant(self, choice: Choice) -> list[tuple[Pool, Device]]:
        """Whether or not they are free."""
        found = self._meant.get(choice)
        if found is None:
            found = [(pool, one) for pool, one in self._all if _selected(choice, one)]
            self._meant[choice] = found
        return found

    def free(self, choice: Choice) -> list[Device]:
        """Those that can be given out, in order."""
        return [
            one for pool, one in self.meant(choice) if not self._barred(choice, pool, one) and one.id not in self._offer.taken
        ]

    def _barred(self, choice: Choice, pool: Pool, one: Device) -> str:
        if one.id.driver in self._offer.counted:
            return (
                f"the node's cards are handed out without driver {one.id.driver} too, stop the device plugin or the driver there"
            )
        return _barred(choice, pool, one)

    def whole(self, choice: Choice) -> list[Device] | None:
        """All of them, for a choice that wants all; None where one is not to be had."""
        meant = self.meant(choice)
        if any(pool.missing or pool.wrong for pool in self._offer.pools):  # what all are is not known
            return None
        free = self.free(choice)
        return free if free and len(free) == len(meant) else None

    def lack(self, asked: Asked) -> Lack | None:
        """What keeps each choice of the request from being met even alone; of several choices, the last one's."""
        last: Lack | None = None
        for choice in asked.choices:
            last = self._lack(choice)
            if last is None:
                return None
        return last

    def _lack(self, choice: Choice) -> Lack | None:
        what = f"for request {choice.name} (class {choice.device_class})"
        meant = self.meant(choice)
        usable = [one for pool, one in meant if not self._barred(choice, pool, one)]
        needed = choice.count or 1
        if len(usable) < needed:
            why = next((word for pool, one in meant if (word := self._barred(choice, pool, one))), "")
            if why:
                return Lack(f"too few usable devices {what}: {why}", "mend the devices or use others", "devices")
            most = "" if not choice.count else f", at most {len(usable)} of {choice.count} there" if usable else ""
            return Lack(f"no such devices {what}{most}", "add nodes with such devices or ask otherwise", "devices")
        if choice.count == 0:
            return None if self.whole(choice) is not None else Lack(f"not all devices free {what}", "free them", "devices")
        if len(self.free(choice)) < needed:
            return Lack(f"too few free devices {what}", "end pods that hold such devices", "devices")
        return None


def _selected(choice: Choice, one: Device) -> bool:
    return all(selector.matches(one.id.driver, one.published) for selector in choice.selectors)


def _barred(choice: Choice, pool: Pool, one: Device) -> str:
    """Why a device that is meant is not given out, "" if it is."""
    if pool.wrong:
        return f"pool {'/'.join(pool.id)} is broken, {pool.wrong}"
    if pool.missing:
        return f"pool {'/'.join(pool.id)} waits for {pool.missing} more slices"
    if one.unusable:
        return one.unusable
    bad = next((taint for taint in one.published.taints if not _tolerated(taint, choice.tolerations)), None)
    return f"device taint {bad.key}={bad.value}:{bad.effect}" if bad is not None else ""


def _tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    if taint.effect not in ("NoSchedule", "NoExecute"):
        return True
    return any(
        (not one.key or one.key == taint.key)
        and (not one.effect or one.effect == taint.effect)
        and (one.operator == "Exists" or (bool(one.key) and one.value == taint.value))
        for one in tolerations
    )


@dataclass(slots=True)
class _Search:
    """Depth first: one slot after the other, one device after the other."""

    slots: Sequence[_Slot]
    candidates: _Candidates
    offer: Offer
    claims: int
    steps: int = 0
    chosen: list[tuple[_Slot, Choice, Device]] = field(default_factory=list)
    ids: set[DeviceId] = field(default_factory=set)
    left: dict[PoolId, dict[Counter, Fraction] | None] = field(default_factory=dict)

    def run(self) -> tuple[Given, ...] | None:
        if not self._slot(0):
            return None
        results: list[list[tuple[str, Device]]] = [[] for _ in range(self.claims)]
        for slot, choice, device in self.chosen:
            results[slot.claim].append((choice.name, device))
        if any(len(one) > MOST_DEVICES for one in results):
            return None
        return tuple(Given(tuple(one)) for one in results)

    def _slot(self, at: int) -> bool:
        if at == len(self.slots):
            return True
        slot = self.slots[at]
        for choice in slot.asked.choices:
            if choice.count:
                if self._some(at, choice, self.candidates.free(choice), 0, choice.count):
                    return True
                continue
            every = self.candidates.whole(choice)
            if every is not None and self._some(at, choice, every, 0, len(every)):
                return True
        return False

    def _some(self, at: int, choice: Choice, devices: Sequence[Device], first: int, count: int) -> bool:
        """`count` of the devices from `first` on, and then the slots after this one."""
        if count == 0:
            return self._slot(at + 1)
        for index in range(first, len(devices) - count + 1):
            device = devices[index]
            if device.id in self.ids:
                continue
            self.steps += 1
            if self.steps > STEPS:
                raise TooHard
            if not self._take(self.slots[at], choice, device):
                continue
            if self._some(at, choice, devices, index + 1, count - 1):
                return True
            self._give_back(device)
        return False

    def _take(self, slot: _Slot, choice: Choice, device: Device) -> bool:
        if not all(self._agrees(slot, choice, device, one) for one in slot.constraints if one.concerns(slot.asked, choice)):
            return False
        if device.consumes:
            left = self._left(device)
            if left is None or any(left.get(counter, Fraction(0)) < amount for counter, amount in device.consumes):
                return False
            for counter, amount in device.consumes:
                left[counter] -= amount
        self.chosen.append((slot, choice, device))
        self.ids.add(device.id)
        return True

    def _give_back(self, device: Device) -> None:
        if device.consumes:
            left = self._left(device)
            assert left is not None  # it was taken from there
            for counter, amount in device.consumes:
                left[counter] += amount
        self.chosen.pop()
        self.ids.discard(device.id)

    def _left(self, device: Device) -> dict[Counter, Fraction] | None:
        key = PoolId(device.id.driver, device.id.pool)
        if key not in self.left:
            pool = next(one for one in self.offer.pools if one.id == key)
            self.left[key] = self.offer.left(pool)
        return self.left[key]

    def _agrees(self, slot: _Slot, choice: Choice, device: Device, constraint: Constraint) -> bool:
        value = device.attribute(constraint.attribute)
        if value is None:
            return False
        others = (
            other.attribute(constraint.attribute)
            for mine, its, other in self.chosen
            if mine.claim == slot.claim and constraint.concerns(mine.asked, its)
        )
        return all(value != other for other in others) if constraint.unlike else all(value == o for o in islice(others, 1))
