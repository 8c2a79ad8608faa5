"""Whom to delete so that a job can start, or why nobody: the rules are the quotas' (`quota/reclaim/`), room is what the planner
says with these pods thought away. Nothing that it is given is changed when it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from forebay.api.kubernetes.core import LabelSelector, Pod
from forebay.scheduler.arrays.nominations import Nomination
from forebay.scheduler.arrays.slots import Slots
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.gang import Gang
from forebay.scheduler.groups import Groups, Spec
from forebay.scheduler.live.books import Books, created, total
from forebay.scheduler.live.instructions import Delete, Instruction
from forebay.scheduler.live.saying import named
from forebay.scheduler.live.waiting import Job
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.amounts import quota_amounts
from forebay.scheduler.pods.selectors import Selector, read_selector, selects
from forebay.scheduler.quota.inputs.elastic import of_pod
from forebay.scheduler.quota.order import Waiting
from forebay.scheduler.quota.reclaim.entitled import Ask
from forebay.scheduler.quota.reclaim.pods import Gang as Together
from forebay.scheduler.quota.reclaim.pods import Running


class Budgets:
    """PodDisruptionBudgets: whom they cover, and how many may go now."""

    def __init__(self) -> None:
        self._all: dict[str, tuple[str, Selector | None, int]] = {}

    def set(self, value: Mapping[str, object]) -> None:
        """Raises msgspec.ValidationError for a selector that is none."""
        meta, spec, status = (_mapping(value.get(part)) for part in ("metadata", "spec", "status"))
        selector = spec.get("selector")
        read = read_selector(msgspec.convert(selector, LabelSelector)) if selector is not None else None
        allowed = status.get("disruptionsAllowed", 0)
        namespace = str(meta.get("namespace", ""))
        self._all[f"{namespace}/{meta.get('name', '')}"] = namespace, read, allowed if isinstance(allowed, int) else 0

    def remove(self, namespace: str, name: str) -> None:
        self._all.pop(f"{namespace}/{name}", None)

    def of(self, pod: Pod) -> tuple[str, ...]:
        """Names of those that cover the pod."""
        where, labels = pod.metadata.namespace, pod.metadata.labels
        return tuple(name for name, (namespace, chosen, _) in self._all.items() if namespace == where and selects(chosen, labels))

    def allowed(self) -> dict[str, int]:
        return {name: allowed for name, (_, _, allowed) in self._all.items()}


@dataclass(frozen=True, slots=True)
class Room:
    """`victims` by uid, and where each pod of the job would go then. Without victims `reason` says why."""

    victims: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


class PlannedRoom:
    """`quota.rooms.Room`, answered by the planner on the live arrays."""

    quick = False

    def __init__(self, books: Books, planner: Planner, gang: Gang) -> None:
        self._books, self._planner, self._gang = books, planner, gang
        self.wanted = max(gang.minimum, 1)
        self._known: int | None = None

    def leave(self, pods: Iterable[Running]) -> None:
        self._known = None
        for pod in pods:
            self._books.think_away(pod.uid)

    def back(self, pods: Iterable[Running]) -> None:
        self._known = None
        for pod in pods:
            self._books.think_back(pod.uid)

    def fitting(self) -> int:
        if self._known is None:
            self._known = min(self.wanted, len(self.places()))
        return self._known

    def places(self) -> dict[str, str]:
        """Pod -> node as things are thought; fewer than wanted where a sub-group does not get its minimum."""
        found, reached = dict[str, str](), dict.fromkeys(self._gang.group_minimum, 0)
        alone = len(self._gang.members) == 1  # what a gang's pods prefer could take another's only place
        with Transaction(self._planner.state) as transaction:  # never committed
            for member in self._gang.members:
                choice = self._planner.choose(member.request, heed=alone)
                if choice is None:
                    continue
                transaction.place(choice.row, member.request, choice.cards, choice.parts)
                found[member.pod] = self._planner.state.names[choice.row]
                if member.group in reached:
                    reached[member.group] += 1
        short = any(count < self._gang.group_minimum[group] for group, count in reached.items())
        return dict(list(found.items())[: self.wanted - 1]) if short else found


class CountedRoom(PlannedRoom):
    """The same for equal pods that do not care for each other: nodes' slots are counted, those of nodes that changed anew.

    Planning 160 pods anew for each question of one reclaim took 9 s, and that grows with the square of the pods. What is counted
    may be too much where places are held for others: the planner is asked at the end (`make_room`). Not `quick` all the same: a
    pod that is thought away costs 0.1 ms, and trying further searches for the cheapest set took 5 of 7 s on 1,000 nodes.
    """

    def __init__(self, books: Books, planner: Planner, gang: Gang) -> None:
        super().__init__(books, planner, gang)
        self._slots = Slots(planner.state)

    @staticmethod
    def serves(planner: Planner, gang: Gang) -> bool:
        """Whether slots say how many pods of the gang fit."""
        one = gang.members[0].request
        alike = all(member.request == one for member in gang.members) and not gang.group_minimum
        return alike and not planner.state.coupled(one) and (one.cards <= 1 or one.whole)

    def fitting(self) -> int:
        if self._known is None:
            one, state = self._gang.members[0].request, self._planner.state
            slots, allowed = self._slots.of(one), state.allowed(one)
            self._known = min(self.wanted, int(slots.sum() if allowed is None else slots[allowed].sum()))
        return self._known


ASKED = 4
"""Questions of one pass: each plans many times."""


class Preemption:
    """Jobs for which room is being made: victims are told to go, places are held, and the jobs wait until all are gone."""

    def __init__(self, books: Books, groups: Groups, planner: Planner) -> None:
        self.budgets = Budgets()
        self.planner = planner
        self.victims = 0
        self._books, self._groups = books, groups
        self._going: dict[str, tuple[str, ...]] = {}
        self._left = 0

    def budget(self, old: Mapping[str, object] | None, new: Mapping[str, object] | None) -> None:
        """A PodDisruptionBudget is there, changed, or (None) gone."""
        if new is not None:
            self.budgets.set(new)
        elif old is not None:
            meta = _mapping(old.get("metadata"))
            self.budgets.remove(str(meta.get("namespace", "")), str(meta.get("name", "")))

    def new_pass(self) -> None:
        self._left = ASKED

    def waits(self, job: Job) -> bool:
        """Whether pods that were to go for the job are still there."""
        there = tuple(uid for uid in self._going.pop(job.key, ()) if uid in self._books.bound)
        if there:
            self._going[job.key] = there
        return bool(there)

    def may(self, job: Job, pods: Sequence[Pod]) -> bool:
        """Whether it is worth asking: the pods allow it, and there is somebody who might yield."""
        if not self._left or any(pod.spec.preemption_policy == "Never" or pod.spec.scheduling_gates for pod in pods):
            return False
        lower = min(self._books.priorities, default=job.priority) < job.priority
        return lower or bool(self._books.tenants.home(pods[0]).queue)

    def make_room(self, job: Job, gang: Gang, pods: Sequence[Pod], waiting: Sequence[Waiting], now: float) -> Room:
        """Asks, and remembers who goes; holds the places at once, before the API server tells of them."""
        self._left -= 1
        room = make_room(self._books, self.planner, self._groups, self.budgets, gang, pods, waiting, now)
        if room.victims:
            self.victims += len(room.victims)
            self._going[job.key] = room.victims
        requests = {member.pod: member.request for member in gang.members}
        for uid, node in room.places.items():
            nomination = Nomination(uid, node, job.priority, requests[uid])
            self._books.cluster.nominations.put(nomination, self._books.cluster.row_of[node])
        return room

    def deletions(self, room: Room, job: Job) -> list[Instruction]:
        what = f"gang {job.gang}" if job.gang else f"pod {job.key}"
        sentence = f"it makes room for {what}: {room.reason}"
        return [Delete(named(self._books.bound[uid]), "Preempted", sentence) for uid in room.victims]


def make_room(  # noqa: PLR0917 - one decision
    books: Books,
    planner: Planner,
    groups: Groups,
    budgets: Budgets,
    gang: Gang,
    pods: Sequence[Pod],
    waiting: Sequence[Waiting],
    now: float,
) -> Room:
    """For a job that found no place. `pods`: the gang's, by which it is judged; `waiting`: all jobs; `now`: of the epoch."""
    running = [_running(books, groups, budgets, pod, now) for pod in books.bound.values()]
    home, firm = books.tenants.home(pods[0]).queue, any(not of_pod(pod.metadata.labels)[1] for pod in pods)
    priority = max(groups.priority(pod) for pod in pods)
    ask = Ask(gang.name, home, total(map(quota_amounts, pods)), priority, not firm, 1)
    together = _together(books, groups, running)
    rooms = [CountedRoom, PlannedRoom] if CountedRoom.serves(planner, gang) else [PlannedRoom]
    for kind in rooms:
        room = kind(books, planner, gang)
        with books.thinking():
            room.leave(one for one in running if one.leaving)
            found = books.quotas.reclaim(
                ask, running, room, now, waiting=waiting, gangs=together, budgets=budgets.allowed(), totals=books.totals()
            )
            if not found.feasible:
                return Room(reason=found.reason)
            room.leave(found.pods)
            places = room.places()
        if len(places) >= room.wanted:
            break  # as the planner sees it too
    reason = found.reason if found.pods else "pods that are being deleted make room for it"
    return Room(tuple(pod.uid for pod in found.pods), places, reason)


def _running(books: Books, groups: Groups, budgets: Budgets, pod: Pod, now: float) -> Running:
    began = min(created(pod), now)  # the server's clock may be ahead of ours
    gang = books.gang_of(pod.metadata.uid)
    return Running(
        pod.metadata.uid,
        books.quotas.ledger.home(pod.metadata.uid),
        pod.spec.node_name,
        quota_amounts(pod),
        gang,
        groups.priority(pod) if gang else pod.spec.priority,
        began,
        None,
        float(books.cluster.pods[pod.metadata.uid].request.cards),
        of_pod(pod.metadata.labels)[1],
        pod.metadata.deletion_timestamp is not None,
        budgets=budgets.of(pod),
    )


def _together(books: Books, groups: Groups, running: Iterable[Running]) -> dict[str, Together]:
    """What gangs that run must keep. One that nobody can read goes as a whole."""
    members: dict[str, list[Pod]] = {}
    for one in running:
        if one.gang:
            members.setdefault(one.gang, []).append(books.bound[one.uid])
    found = dict[str, Together]()
    for gang, pods in members.items():
        spec = groups.spec(gang, pods)
        found[gang] = Together(spec.minimum if isinstance(spec, Spec) and not spec.together else len(pods))
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
