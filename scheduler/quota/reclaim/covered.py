"""What floors and fair shares cover, over all queues: the measure that reclaim raises, so that reclaiming ends.

A leaf's share covers what runs there, the highest priority first, then the oldest, as far as it reaches: the first that does not
fit ends its priority, and lower ones go on with what is left. Its floor covers in the same way. A gang's minimum is covered as
one, then its other members each.

`Measure` compares, in this order, what floors cover, what fair shares cover, what runs, and how little of that is beyond fair
shares; of the first three, the highest priority at which two states differ decides. Starting a job raises it (the youngest comes
last of its priority), and evictions count if they do: docs/quota.md has the proof, and when amounts alone decide,
for which there is none (`tests/unit/scheduler/test_quota_cycles.py` looks at all that can happen in small clusters).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from forebay.scheduler.quota.amounts import JOBS, Amounts, add
from forebay.scheduler.quota.reclaim.entitled import Ask
from forebay.scheduler.quota.reclaim.pods import Gang, Running, groups
from forebay.scheduler.quota.shares import Shares
from forebay.scheduler.quota.tree import QuotaTree


@dataclass(frozen=True)
class Part:
    """What is covered as one: the pods of a gang's minimum that are in one queue, a member above it, a pod of no gang."""

    name: str
    queue: str
    priority: int
    since: float
    amounts: Amounts
    uids: frozenset[str]

    def turn(self) -> tuple[int, float, str]:
        return -self.priority, self.since, self.name


Sums = tuple[tuple[int, int], ...]
"""(priority, amount), the highest priority first, those with nothing left out, so that they compare as the rule says."""


class Measure(NamedTuple):
    """The more, the better kept is what was promised. Amounts in parts of what the cluster has, as whole numbers."""

    floors: Sums
    shares: Sums
    runs: Sums
    within: int
    """What is beyond fair shares, negated."""


def parts(pods: Iterable[Running], gangs: Mapping[str, Gang]) -> list[Part]:
    """Everything that runs and is not being deleted, as it is covered; of a gang the minimum comes first."""
    found: list[Part] = []
    for name, group in groups(pods):
        priority = max(p.priority for p in group)
        gang = gangs.get(name, Gang(len(group)))
        queues = {p.queue for p in group}
        core = min(max(gang.minimum, 1), len(group)) if gang.single and len(queues) == 1 else len(group)
        found += [_part(name, queue, priority, [p for p in group[:core] if p.queue == queue]) for queue in queues]
        found += [_part(name, p.queue, priority, [p]) for p in group[core:]]
    return found


def _part(name: str, queue: str, priority: int, pods: Sequence[Running]) -> Part:
    amounts: dict[str, int] = {}
    for pod in pods:
        add(amounts, pod.amounts)
    return Part(name, queue, priority, max(p.started for p in pods), amounts, frozenset(p.uid for p in pods))


class Cover:
    """What the queues' floors and shares cover. `shares` must be the same for what is compared."""

    def __init__(self, tree: QuotaTree, shares: Shares) -> None:
        self._resources = tree.resources - {JOBS}
        self._floors, self._shares = tree.floors, shares
        scales = {r: max(1, shares.of(tree.root, r) or 0) for r in self._resources}
        whole = math.lcm(*scales.values())
        self._weights = {r: whole // scale for r, scale in scales.items()}

    def measure(self, there: Sequence[Part]) -> Measure:
        """Of what runs."""
        runs, used = Counter[int](), dict[str, dict[str, int]]()
        for part in there:
            runs[part.priority] += self._weight(part)
            if part.queue:
                add(used.setdefault(part.queue, {}), self._governed(part))
        beyond = 0
        for queue, amounts in used.items():
            bounds = self._bounds(queue, by_floors=False)
            beyond += sum(max(0, n - bounds[r]) * self._weights[r] for r, n in amounts.items())
        return Measure(self._sums(there, by_floors=True), self._sums(there, by_floors=False), _listed(runs), -beyond)

    def used(self, there: Iterable[Part]) -> tuple[int, int]:
        """How much of floors, and of shares, is in use, whatever the priority of what uses them."""
        amounts: dict[str, dict[str, int]] = {}
        for part in there:
            if part.queue:
                add(amounts.setdefault(part.queue, {}), self._governed(part))
        floors, shares = (sum(self._within(queue, n, by_floors=of) for queue, n in amounts.items()) for of in (True, False))
        return floors, shares

    def _within(self, queue: str, amounts: Amounts, *, by_floors: bool) -> int:
        bounds = self._bounds(queue, by_floors=by_floors)
        return sum(min(n, bounds[r]) * self._weights[r] for r, n in amounts.items())

    def _sums(self, there: Sequence[Part], *, by_floors: bool) -> Sums:
        sums = Counter[int]()
        for part in self.of(there, by_floors=by_floors):
            sums[part.priority] += self._weight(part)
        return _listed(sums)

    def of(self, there: Iterable[Part], *, by_floors: bool) -> list[Part]:
        """What floors, or else shares, cover of what runs. To pods of no queue nothing is due."""
        bounds: dict[str, dict[str, int]] = {}
        ended: dict[str, int] = {}
        """The priority that is covered no further, by queue."""
        found = []
        for part in sorted((p for p in there if p.queue), key=Part.turn):
            left = bounds.get(part.queue)
            if left is None:
                left = bounds[part.queue] = self._bounds(part.queue, by_floors=by_floors)
            governed = self._governed(part)
            if ended.get(part.queue) == part.priority:
                continue
            if any(n > left[r] for r, n in governed.items()):
                ended[part.queue] = part.priority
                continue
            for resource, amount in governed.items():
                left[resource] -= amount
            found.append(part)
        return found

    def _bounds(self, queue: str, *, by_floors: bool) -> dict[str, int]:
        shares = {r: self._shares.of(queue, r) or 0 for r in self._resources}
        return {r: min(self._floors[queue].get(r, 0), n) for r, n in shares.items()} if by_floors else shares

    def _governed(self, part: Part) -> dict[str, int]:
        return {r: n for r, n in part.amounts.items() if n and r in self._resources}

    def _weight(self, part: Part) -> int:
        """Parts of the cluster, over all resources; something also for what quotas do not govern."""
        return sum(n * self._weights[r] for r, n in self._governed(part).items()) or 1


def _listed(sums: Mapping[int, int]) -> Sums:
    return tuple((priority, n) for priority, n in sorted(sums.items(), reverse=True) if n)


class Weighed(NamedTuple):
    """`stay`: empty if the measure is higher with the job and without who would go; else whom of them, by uid, to let stay as
    they are covered, all of them where none is. `by_amounts`: whether queues then use more of their floors, or as much of those
    and more of their shares, whatever the priority of what they use."""

    stay: set[str]
    by_amounts: bool


def weigh(cover: Cover, running: Sequence[Running], gangs: Mapping[str, Gang], ask: Ask, gone: Sequence[Running]) -> Weighed:
    """What a job is worth against who would go for it. Only queues that gain or lose are looked at: in the others nothing
    changes."""
    going, queues = {p.uid for p in gone}, {ask.queue, *(p.queue for p in gone)}
    named = {p.gang for p in running if p.gang and p.queue in queues}
    near = [p for p in running if p.queue in queues or p.gang in named]
    before = [part for part in parts(near, gangs) if part.queue in queues]
    after = [part for part in parts((p for p in near if p.uid not in going), gangs) if part.queue in queues]
    after.append(Part(ask.name, ask.queue, ask.priority, math.inf, ask.request, frozenset()))
    old, new = cover.measure(before), cover.measure(after)
    if new > old:
        return Weighed(set(), by_amounts=True)
    by_floors = new.floors < old.floors
    was, now = (old.floors, new.floors) if by_floors else (old.shares, new.shares)
    decides = next((a[0] for a, b in zip_longest(was, now) if a and a != b), -math.inf)
    kept = {uid for part in cover.of(before, by_floors=by_floors) if part.priority >= decides for uid in part.uids & going}
    return Weighed(kept or going, cover.used(after) > cover.used(before))
