"""Pods whose binding is under way: decided and booked, not yet seen bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.live.instructions import Cancel

LOST = 600.0
"""Seconds after which a pod that the server took, but no watch has shown, is decided anew: the longest life of a quiet watch."""


@dataclass(slots=True)
class Flight:
    """`attempt`: number of the decision; `bound_at`: when the server took it, 0 before."""

    number: int
    attempt: int
    pod: Pod
    node: str
    gang: str
    bound_at: float = 0.0
    called_back: bool = False


class Flights:
    """By uid and by node. A pod flies once at a time."""

    def __init__(self) -> None:
        self._all: dict[str, Flight] = {}
        self._on: dict[str, dict[str, None]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._all.values()))

    def __contains__(self, uid: str) -> bool:
        return uid in self._all

    def get(self, uid: str) -> Flight | None:
        return self._all.get(uid)

    def pod(self, uid: str) -> Pod | None:
        """The pod of a flight."""
        flight = self._all.get(uid)
        return None if flight is None else flight.pod

    def take_off(self, pod: Pod, node: str, gang: str, attempt: int) -> Flight:
        self._numbers += 1
        uid = pod.metadata.uid
        flight = self._all[uid] = Flight(self._numbers, attempt, pod, node, gang)
        self._on.setdefault(node, {})[uid] = None
        return flight

    def land(self, uid: str) -> Flight:
        """It flies no more. KeyError for one that does not."""
        flight = self._all.pop(uid)
        there = self._on[flight.node]
        del there[uid]
        if not there:
            del self._on[flight.node]
        return flight

    def on(self, node: str) -> list[Flight]:
        """Those to the node, the first first."""
        return [self._all[uid] for uid in self._on.get(node, ())]

    def call_back_rest(self, flight: Flight) -> Cancel | None:
        """After one of an attempt failed: the others, as far as they are not sent."""
        rest = [one.number for one in self._all.values() if one.attempt == flight.attempt and not one.bound_at]
        return Cancel(tuple(rest)) if rest else None

    def lost(self, now: float) -> list[Flight]:
        """Those that no watch has shown for too long."""
        return [one for one in self._all.values() if one.bound_at and now - one.bound_at > LOST]
