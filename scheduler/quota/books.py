"""Sums of usage along a quota tree. The arithmetic that the ledger, admission and reclaim share; no pods, no names of events."""

from __future__ import annotations

from forebay.scheduler.quota.amounts import Amounts, add
from forebay.scheduler.quota.tree import QuotaTree


class Books:
    """Usage of every queue. Booking and taking back the same amounts, in any order, ends where it began.

    Three sums: `used` by everything below a queue, `firm` by what is not preemptible, and `taken`, what its children occupy of
    it: their use, or what they keep from lending where that is more.
    """

    def __init__(self, tree: QuotaTree) -> None:
        self.tree = tree
        self._used: dict[str, dict[str, int]] = {name: {} for name in tree.queues}
        self._firm: dict[str, dict[str, int]] = {name: {} for name in tree.queues}
        self._taken: dict[str, dict[str, int]] = {name: {} for name in tree.queues}
        self._paths: dict[str, tuple[str, ...]] = {}
        for name in reversed(tree.queues):
            if name != tree.root:
                add(self._taken[tree.queues[name].parent], {r: self.held(name, r) for r in tree.kept_resources})

    def copy(self) -> Books:
        """Books of the same tree, to try things in."""
        other = Books.__new__(Books)
        other.tree, other._paths = self.tree, self._paths
        other._used = {name: dict(amounts) for name, amounts in self._used.items()}
        other._firm = {name: dict(amounts) for name, amounts in self._firm.items()}
        other._taken = {name: dict(amounts) for name, amounts in self._taken.items()}
        return other

    def path(self, leaf: str) -> tuple[str, ...]:
        """From a leaf up to the root, remembered."""
        path = self._paths.get(leaf)
        if path is None:
            path = self._paths[leaf] = tuple(self.tree.path(leaf))
        return path

    def book(self, leaf: str, amounts: Amounts, sign: int = 1, *, preemptible: bool = True) -> None:
        """Adds (sign 1) or takes back (-1) what one pod uses."""
        kept = self.tree.kept_resources & amounts.keys()
        change = {r: amounts[r] * sign for r in kept}  # of what the level above sees taken
        for name in self.path(leaf):
            before = {r: self.held(name, r) for r in kept}
            if name != leaf and kept:
                add(self._taken[name], change)
            add(self._used[name], amounts, sign)
            if not preemptible:
                add(self._firm[name], amounts, sign)
            change = {r: self.held(name, r) - before[r] for r in kept}

    def used(self, queue: str) -> Amounts:
        """What all pods below a queue use. Not to be changed by the caller."""
        return self._used[queue]

    def firm(self, queue: str) -> Amounts:
        """The part of `used` that is not preemptible."""
        return self._firm[queue]

    def taken(self, queue: str, resource: str) -> int:
        """What is not free for more inside a queue: a leaf's use; of an inner queue, the children's use or what they keep."""
        inner = resource in self.tree.kept_resources and self.tree.children[queue]
        return (self._taken if inner else self._used)[queue].get(resource, 0)

    def held(self, queue: str, resource: str) -> int:
        """What a queue's parent sees taken by it."""
        return max(self.taken(queue, resource), self.tree.keeps[queue].get(resource, 0))

    def all_used(self) -> dict[str, dict[str, int]]:
        """Usage by queue, all levels. Not to be changed by the caller."""
        return self._used

    def same(self, other: Books) -> bool:
        """Whether every sum is equal."""
        return (self._used, self._firm, self._taken) == (other._used, other._firm, other._taken)
