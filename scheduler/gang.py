"""One decision for a gang: every group gets its minimum, or nobody gets anything and nothing is held.

Pods are placed hardest first, each where the policy likes it best, and see those of their gang that were placed before: affinity,
spread, ports and claims count them. That is greedy: a gang of unlike pods can be refused although another order would fit;
`Plan.reason` then says which group fell short. What pods prefer never keeps a gang, or one of its pods, from starting: where not
all find a place with it, it is tried without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.explain import failed_constraints
from forebay.scheduler.plan import Placement, Plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request


@dataclass(frozen=True, slots=True)
class Member:
    """One pod of a gang. `group` names its sub-group, "" for none."""

    pod: str
    request: Request
    group: str = ""


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that start together: at least `minimum` of all, and of each sub-group at least its own minimum.

    Raises ValueError for a minimum that the members cannot reach, for a sub-group without members, and for a pod named twice.
    """

    name: str
    members: Sequence[Member]
    minimum: int
    group_minimum: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({member.pod for member in self.members}) != len(self.members):
            raise ValueError(f"gang {self.name}: a pod is named twice")
        if not 0 <= self.minimum <= len(self.members):
            raise ValueError(f"gang {self.name}: minMember is {self.minimum} of {len(self.members)} pods: lower it or add pods")
        for group, minimum in self.group_minimum.items():
            there = sum(member.group == group for member in self.members)
            if not 0 <= minimum <= there:
                raise ValueError(f"gang {self.name}: group {group} asks for {minimum} of its {there} pods: lower it or add pods")


def part(gang: Gang, room: int) -> Sequence[Member]:
    """All its members where there are places for all; else as many as there are places, those first that its minimums ask for.

    Nobody where that is too few to start.
    """
    if len(gang.members) <= room:
        return gang.members
    if room < max(gang.minimum, 1):
        return ()
    short = dict(gang.group_minimum)
    first, rest = list[Member](), list[Member]()
    for member in gang.members:
        needed = short.get(member.group, 0) > 0
        (first if needed else rest).append(member)
        if needed:
            short[member.group] -= 1
    return (first + rest)[:room] if len(first) <= room else ()


def plan(planner: Planner, gang: Gang) -> Plan:
    """Place the gang in the planner's state, or leave the state as it is. Pods above the minimum get what is left."""
    heed = any(planner.heeds(request) for request in {member.request for member in gang.members})
    with Transaction(planner.state) as transaction:
        found = _attempt(planner, transaction, gang, heed=heed)
        if heed and (found.waiting or not found.placed):
            found = _without(planner, transaction, gang, found)
        if found.placed:
            transaction.commit()
    return found


def _without(planner: Planner, transaction: Transaction, gang: Gang, found: Plan) -> Plan:
    """Where more of the gang fits if nothing is preferred, that; else what was found."""
    transaction.undo()
    plain = _attempt(planner, transaction, gang, heed=False)
    if len(plain.placements) > len(found.placements) or not found.placed:
        return plain
    transaction.undo()
    return _attempt(planner, transaction, gang, heed=True)


def _attempt(planner: Planner, transaction: Transaction, gang: Gang, *, heed: bool) -> Plan:
    """Places the gang, or says why not: what it did place of it then stays in the transaction, for whoever began that to undo."""
    placements = list[Placement]()
    stuck = sorted(gang.members, key=lambda one: _hardness(one.request), reverse=True)
    reached = dict.fromkeys(gang.group_minimum, 0)
    while True:
        before = len(placements)
        stuck = _place(planner, transaction, stuck, placements, reached, heed=heed)
        if len(placements) == before or not any(planner.state.coupled(member.request) for member in stuck):
            break  # else one that was placed late may be what another's affinity or spread waits for
    reason = _short(gang, len(placements), reached)
    waiting = tuple(member.pod for member in stuck)
    if not reason:
        return Plan(gang.name, tuple(placements), waiting)
    failed = failed_constraints(planner.state, stuck[0].request)  # with the others in place: that is what it met
    return Plan(gang.name, (), tuple(member.pod for member in gang.members), reason, failed)


def _place(
    planner: Planner,
    transaction: Transaction,
    members: Sequence[Member],
    placements: list[Placement],
    reached: dict[str, int],
    *,
    heed: bool,
) -> list[Member]:
    """Places those of the members that fit, in their order; the others."""
    stuck = list[Member]()
    hopeless = set[Request]()  # placing more only takes: equal requests do not fit either, until others are placed
    for member in members:
        choice = None if member.request in hopeless else planner.choose(member.request, heed=heed)
        if choice is None:
            hopeless.add(member.request)
            stuck.append(member)
            continue
        transaction.place(choice.row, member.request, choice.cards, choice.parts)
        placements.append(Placement(member.pod, planner.state.names[choice.row], choice.cards, choice.parts))
        if member.group in reached:
            reached[member.group] += 1
    return stuck


def _hardness(request: Request) -> tuple[int, ...]:
    """Sorts the pods that few nodes can take last-resort first: many whole cards, large shares, named models, much CPU."""
    return (request.cards * request.whole, request.card_milli, request.models is not None, *request.resources)


def _short(gang: Gang, placed: int, reached: Mapping[str, int]) -> str:
    """Why the gang cannot start with what was placed; "" if it can."""
    for group, count in reached.items():
        if count < gang.group_minimum[group]:
            return f"group {group} needs {gang.group_minimum[group]} pods at once, {count} fit"
    if placed < gang.minimum:
        return f"the gang needs {gang.minimum} pods at once, {placed} fit"
    return ""
