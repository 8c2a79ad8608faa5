"""Fair shares: how much of each resource each queue may count on, given what all ask. Pure integers.

Water-filling, per resource and from the root down (the children of a queue divide their parent's share):

1. A queue's need is its request, at most its floor (min) and at least what it does not lend.
2. Where the needs exceed the total, they are filled in proportion to the mins, at most to the need; queues that do not scale come
   first.
3. Otherwise what is left goes to those that ask for more, in proportion to their weights, at most to their request.
4. What is then still left goes to those with weight 0, in equal parts.

Step 3 is Koordinator's redistribution (its runtime quota), solved exactly instead of by rounds: the same level of water, one
sort. In step 2 Koordinator scales mins whether or not they are asked for; here an unused min makes room first: nobody gets less
than min(min, request) while that is possible. Step 4 is Kueue's: weight 0 comes last, but nothing lies idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from forebay.scheduler.quota.amounts import NOTHING, Amounts
from forebay.scheduler.quota.tree import Queue, QuotaTree

_EXACT = 192
"""Bits of a quotient. Different fractions of numbers below 2^74 differ by more than 2^-148, so they never compare as equal."""


def fill(total: int, caps: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Divides `total` by weight, nobody above its cap: x_i = min(cap_i, level x weight_i), whole units, largest remainders first.

    The sum is min(total, sum of the caps of those with a weight); weight 0 gets nothing. Ties go to the earlier one.
    """
    given = [0] * len(caps)
    takers = [i for i, weight in enumerate(weights) if weight > 0 and caps[i] > 0]
    takers.sort(key=lambda i: (caps[i] << _EXACT) // weights[i])  # those that are full first, as the level rises
    weight_left = sum(weights[i] for i in takers)
    rest = max(0, total)
    for position, i in enumerate(takers):
        if caps[i] * weight_left > rest * weights[i]:
            _by_remainder(rest, sorted(takers[position:]), weights, weight_left, given)
            break
        given[i] = caps[i]
        rest -= caps[i]
        weight_left -= weights[i]
    return given


def _by_remainder(rest: int, takers: Sequence[int], weights: Sequence[int], weight_sum: int, given: list[int]) -> None:
    remainders = []
    left = rest
    for i in takers:
        given[i], remainder = divmod(rest * weights[i], weight_sum)
        left -= given[i]
        remainders.append((-remainder, i))
    for _, i in sorted(remainders)[:left]:
        given[i] += 1


class Claim(NamedTuple):
    """What one queue brings to the division of a resource on its level. `keep <= floor`, `request` within the ceiling."""

    request: int
    floor: int
    keep: int
    weight: int
    scales: bool = True


def divide(total: int, claims: Sequence[Claim]) -> list[int]:
    """One level, one resource: the share of each claim. Never above max(request, keep), together never above `total`."""
    needs = [max(min(c.request, c.floor), c.keep) for c in claims]
    if sum(needs) > total:
        return _scaled(total, claims, needs)
    rest = total - sum(needs)
    more = [max(0, c.request - need) for c, need in zip(claims, needs, strict=True)]
    shared = fill(rest, more, [c.weight for c in claims])
    last = fill(rest - sum(shared), more, [0 if c.weight else 1 for c in claims])
    return [need + x + y for need, x, y in zip(needs, shared, last, strict=True)]


def _scaled(total: int, claims: Sequence[Claim], needs: Sequence[int]) -> list[int]:
    firm = fill(total, needs, [0 if c.scales else c.floor for c in claims])
    soft = fill(total - sum(firm), needs, [c.floor if c.scales else 0 for c in claims])
    return [x + y for x, y in zip(firm, soft, strict=True)]


class Shares:
    """Fair share by queue and resource. A resource without a bound anywhere above has a share as large as its demand."""

    def __init__(self, shares: Mapping[str, Mapping[str, int]], demands: Mapping[str, Mapping[str, int]]) -> None:
        self._shares = shares
        self._demands = demands

    def of(self, queue: str, resource: str) -> int | None:
        """None for a resource that no queue names: quotas do not govern it."""
        return self._shares.get(resource, {}).get(queue)

    def demand(self, queue: str, resource: str) -> int:
        """What a queue asks, cut to the ceilings below and at it. 0 for a resource that no queue names."""
        return self._demands.get(resource, {}).get(queue, 0)

    def row(self, queue: str) -> dict[str, int]:
        """All shares of one queue."""
        return {resource: column[queue] for resource, column in self._shares.items()}


def fair_shares(tree: QuotaTree, requests: Mapping[str, Amounts], totals: Amounts) -> Shares:
    """Shares of all queues. `requests` by leaf: what it uses and what waits there, together. `totals`: what the cluster has.

    A resource that is missing in `totals` has the root's max as its total, and no bound where the root does not name it either.
    """
    shares, demands = {}, {}
    for resource in sorted(tree.resources):
        demand = _demand(tree, requests, resource)
        demands[resource] = demand
        shares[resource] = _divide_down(tree, resource, demand, totals.get(resource))
    return Shares(shares, demands)


def _demand(tree: QuotaTree, requests: Mapping[str, Amounts], resource: str) -> dict[str, int]:
    demand: dict[str, int] = {}
    for name in reversed(tree.queues):
        below = tree.children[name]
        asked = sum(demand[c] for c in below) if below else requests.get(name, NOTHING).get(resource, 0)
        ceiling = tree.ceilings[name].get(resource)
        asked = asked if ceiling is None else min(asked, ceiling)
        demand[name] = max(asked, tree.keeps[name].get(resource, 0))
    return demand


def _divide_down(tree: QuotaTree, resource: str, demand: Mapping[str, int], total: int | None) -> dict[str, int]:
    root = tree.root
    shares = {root: demand[root] if total is None else min(total, demand[root])}
    for name, below in tree.children.items():
        if not below:
            continue
        part = shares[name]
        unbounded = max(
            part, *(tree.ceilings[child].get(resource, 0) for child in below)
        )  # weighs as much as the largest ceiling
        claims = [_claim(tree, tree.queues[child], resource, demand[child], unbounded) for child in below]
        shares.update(zip(below, divide(part, claims), strict=True))
    return shares


def _claim(tree: QuotaTree, queue: Queue, resource: str, demand: int, unbounded: int) -> Claim:
    weight = queue.weight.get(resource, tree.ceilings[queue.name].get(resource, unbounded))
    floor = tree.floors[queue.name].get(resource, 0)
    return Claim(demand, floor, tree.keeps[queue.name].get(resource, 0), weight, queue.scales)
