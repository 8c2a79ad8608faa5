"""What reclaim asks of a planner: how many pods of the waiting job would fit if these pods were gone?

`NodeRoom` answers for equal pods on plain nodes, from sums; it is exact and each change costs one node. `AskedRoom` asks a
planner's own function (cards, topology, affinity), and so is as good, and as slow, as that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from forebay.scheduler.quota.amounts import Amounts, add
from forebay.scheduler.quota.reclaim.pods import Running


class Room(Protocol):
    """Nodes with some pods thought away. More thought away must never mean that fewer fit."""

    wanted: int
    """Pods of the waiting job; it is feasible when so many fit."""
    quick: bool
    """Whether `fitting` is cheap enough to be asked after every pod."""

    def leave(self, pods: Iterable[Running]) -> None:
        """Thinks pods away."""

    def back(self, pods: Iterable[Running]) -> None:
        """Thinks them back."""

    def fitting(self) -> int:
        """How many of the waiting pods fit now, at most `wanted`."""


class NodeRoom:
    """Equal pods on nodes: a node has place for min over resources of floor(free / request) pods, at most `slots` of it.

    `free` by node: what is free now, what leaving pods are about to free included. Nodes that are not in it are not usable.
    """

    quick = True

    def __init__(self, free: Mapping[str, Amounts], request: Amounts, wanted: int, slots: Mapping[str, int] = {}) -> None:
        if wanted < 1:
            raise ValueError(f"a job of {wanted} pods needs no room: ask for at least one")
        self.wanted = wanted
        self._free = {node: dict(amounts) for node, amounts in free.items()}
        self._request = {r: n for r, n in request.items() if n > 0}
        self._slots = slots
        self._places = {node: self._count(node) for node in self._free}
        self._sum = sum(self._places.values())

    def _count(self, node: str) -> int:
        free = self._free[node]
        fit = min((max(0, free.get(r, 0)) // n for r, n in self._request.items()), default=self.wanted)
        return min(fit, self._slots.get(node, fit))

    def _change(self, pods: Iterable[Running], sign: int) -> None:
        touched = set()
        for pod in pods:
            if pod.node in self._free:
                add(self._free[pod.node], pod.amounts, sign)
                touched.add(pod.node)
        for node in touched:
            places = self._count(node)
            self._sum += places - self._places[node]
            self._places[node] = places

    def leave(self, pods: Iterable[Running]) -> None:
        self._change(pods, 1)

    def back(self, pods: Iterable[Running]) -> None:
        self._change(pods, -1)

    def fitting(self) -> int:
        return min(self.wanted, self._sum)


class AskedRoom:
    """A planner's function from what would be freed by node to how many of the waiting pods would fit (or to yes and no)."""

    quick = False

    def __init__(self, ask: Callable[[Mapping[str, Amounts]], int | bool], wanted: int) -> None:
        self.wanted = wanted
        self.asked = 0
        """How often the planner was asked."""
        self._ask = ask
        self._freed: dict[str, dict[str, int]] = {}
        self._known: int | None = None

    def leave(self, pods: Iterable[Running]) -> None:
        for pod in pods:
            add(self._freed.setdefault(pod.node, {}), pod.amounts)
        self._known = None

    def back(self, pods: Iterable[Running]) -> None:
        for pod in pods:
            add(self._freed[pod.node], pod.amounts, -1)
            if not self._freed[pod.node]:
                del self._freed[pod.node]
        self._known = None

    def fitting(self) -> int:
        if self._known is None:
            answer = self._ask(self._freed)
            self.asked += 1
            self._known = self.wanted * answer if isinstance(answer, bool) else min(self.wanted, answer)
        return self._known
