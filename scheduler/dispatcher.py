"""The pass over the queue: who starts where, and what is loaded ahead. One core for production and simulation.

Pure: time and hints come in, a `Decision` goes out; the only state is the books of the cluster, the queue, and which loads were
asked for. `waiting` has the rule by which gangs wait or go, `placing` the choice of nodes, `prefetch` that of loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.scheduler.arrays.slots import Shapes, Slots, capacity
from forebay.scheduler.arrays.state import State
from forebay.scheduler.arrays.transaction import Transaction
from forebay.scheduler.arrays.types import Bools, Floats, Ints
from forebay.scheduler.decision import Ask, Decision, Order
from forebay.scheduler.gang import plan as greedy
from forebay.scheduler.locality import prefetch
from forebay.scheduler.locality.cost import Data, Links, together
from forebay.scheduler.locality.placing import Choice, choose, take
from forebay.scheduler.locality.waiting import Entry, Kind, Waiting, may_go, turn_comes
from forebay.scheduler.locality.warmth import STALE, Warmth
from forebay.scheduler.plan import Plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import Setting
from forebay.scheduler.policies.packing import Packing

LOOK = 32
"""Kinds of gangs that a pass looks at for places far from their data, oldest first."""


@dataclass(slots=True)
class Running:
    """A gang that runs, for giving back what it holds. `column` of its dataset, -1 for none."""

    ask: Ask
    plan: Plan
    column: int


class Dispatcher:
    """Decides over the books of `state`. `capacity` bytes of a node's cache, 0 for unknown."""

    def __init__(self, state: State, capacity: int = 0) -> None:
        self.state = state
        self.capacity = capacity
        self.waiting = Waiting()
        self.slots = Slots(state)
        self.running: dict[str, Running] = {}
        self.loads = prefetch.Loads()
        self.asked = list[Ask]()
        self._seen: tuple[float, int] = (-np.inf, -1)
        self._held: Ints = np.zeros((len(state), 0), np.int64)
        self._ratio: Floats = np.zeros((len(state), 0))
        self._far: Bools = np.zeros(0, np.bool_)
        self._reach: Ints = np.zeros(0, np.int64)  # bytes of each dataset that a node can hold
        self._loadable: Bools = np.zeros(0, np.bool_)
        self._whole: dict[Request, Ints] = {}
        self._readers: dict[tuple[int, int], int] = {}
        self._busy: Floats = np.zeros((len(state), 0))  # bytes of datasets that gangs read on a node
        self.shapes: Shapes | None = None
        self._planner: Planner | None = None

    # what comes in

    def submit(self, ask: Ask) -> None:
        """A gang joins the queue, at the next pass."""
        self.asked.append(ask)

    def finished(self, plan: Plan, *, release: bool = True) -> None:
        """A gang ended: its cards are free. Without `release` where the books follow the pods by themselves (`Cluster`)."""
        done = self.running.pop(plan.gang)
        self._use(done.plan, done.column, -1)
        if release:
            requests = {member.pod: member.request for member in done.ask.gang.members}
            for one in done.plan.placements:
                self.state.release(self.state.row_of[one.node], requests[one.pod], one.cards, one.devices)

    def adopt(self, warmth: Warmth, now: float, running: Sequence[Running]) -> None:
        """After a restart: gangs that run already. Raises Overcommit, with nothing taken, where they hold more than there is."""
        self._believe(now, warmth)
        with Transaction(self.state) as transaction:
            for one in running:
                requests = {member.pod: member.request for member in one.ask.gang.members}
                for place in one.plan.placements:
                    transaction.place(self.state.row_of[place.node], requests[place.pod], place.cards, place.devices)
            transaction.commit()
        for one in running:
            self.running[one.plan.gang] = one
            self._use(one.plan, one.column, 1)

    # the pass

    def decide(self, now: float, warmth: Warmth) -> Decision:
        """One pass. Takes what the started gangs ask from the books."""
        self.refresh(now, warmth)
        plans = list[Plan]()
        if len(self.waiting):
            blocked = self._overdue(now, warmth, plans)
            if not blocked:
                self._near(now, plans)
                self._far_from_data(now, warmth, plans)
        self._load(now, warmth)
        return Decision(tuple(plans), tuple(self._orders(warmth)))

    def _enqueue(self, warmth: Warmth) -> None:
        for ask in self.asked:
            column = warmth.column(ask.dataset) if ask.dataset else -1
            entry = self.waiting.add(ask, column)
            self._shapes(entry.kind).observe(entry.pods)
        self.asked.clear()

    def _shapes(self, kind: Kind) -> Shapes:
        if self.shapes is None:
            self.shapes = Shapes(int(max(self.empty(kind).max(initial=1), 1)))
        return self.shapes

    def _believe(self, now: float, warmth: Warmth) -> None:
        """Shares of datasets by node, anew where hints changed or aged."""
        self._follow(warmth)
        mark = (float(warmth.observed.max(initial=-np.inf)), warmth.held.shape[1])
        held = warmth.believed(now)
        if mark == self._seen and held is self._held:
            return
        self._seen, self._held = mark, held
        self._reach = np.minimum(warmth.size, self.capacity) if self.capacity else warmth.size.copy()
        self._busy = np.pad(self._busy, ((0, 0), (0, len(self._reach) - self._busy.shape[1])))
        self._ratio = np.minimum(held / np.maximum(self._reach, 1), 1.0)
        self._loadable = prefetch.loadable(warmth.size, self.capacity)
        known = bool((now - warmth.observed <= STALE).any())  # without any hint nothing is known to be far
        self._far = (self._ratio.max(axis=0, initial=0.0) < prefetch.WARM) & (warmth.size > 0) & known

    def _follow(self, warmth: Warmth) -> None:
        """Nodes came or went: what is kept by row moves with the names."""
        names = warmth.nodes
        if not warmth.follow(self.state.names):
            return
        rows = self.state.row_of
        self.loads.move({old: rows[name] for old, name in enumerate(names) if name in rows})
        self._whole.clear()
        self._readers.clear()
        self._busy = np.zeros((len(self.state), self._busy.shape[1]))
        self._seen = (-np.inf, -1)
        for one in self.running.values():
            self._use(one.plan, one.column, 1)

    def free(self, kind: Kind) -> Ints:
        """Slots [N] where gangs of a kind may go; for unlike pods, places that carry any of them."""
        free = self.slots.of(kind[2][0])
        for request in kind[2][1:]:
            free = np.minimum(free, self.slots.of(request))
        return self._masked(kind, free)

    def _links(self, warmth: Warmth) -> Links:
        users = len({column for _, column in self.loads.since if self._far[column]})
        return Links(warmth.nic, warmth.store, users)

    def _data(self, column: int, now: float, warmth: Warmth) -> Data:
        if column < 0:
            return Data.unknown(len(self.state))
        size, held = int(warmth.size[column]), self._held[:, column]
        eta = warmth.remaining(column, now)
        links = self._links(warmth)
        for row in self.loads.rows(column):
            rate = links.store_share if self._far[column] else links.per_node
            eta[row] = min(eta[row], (size - int(held[row])) / rate)
        return Data(size, held, eta, together(held, size), self._crowd(column, size))

    def _crowd(self, column: int, size: int) -> Floats:
        """Bytes [N] of what is read on a node now that this dataset would push out; 0 where the cache's size is unknown."""
        if not self.capacity:
            return np.zeros(len(self.state))
        busy = self._busy.sum(axis=1) - self._busy[:, column]
        result: Floats = np.minimum(np.maximum(busy + min(size, self.capacity) - self.capacity, 0.0), busy)
        return result

    def _use(self, plan: Plan, column: int, sign: int) -> None:
        """Keep count of which datasets are read on which nodes."""
        if column < 0:
            return
        for row in {self.state.row_of[one.node] for one in plan.placements if one.node in self.state.row_of}:
            count = self._readers.get((row, column), 0) + sign
            self._readers[row, column] = count
            if not count:
                del self._readers[row, column]
            self._busy[row, column] = float(self._reach[column]) if count else 0.0

    def _start(self, entry: Entry, choice: Choice, now: float, plans: list[Plan]) -> bool:
        gang = entry.ask.gang
        plan = take(self.state, gang, choice.rows, choice.counts)
        if plan is None and any(self.state.coupled(request) for request in entry.kind[2]):
            # its own affinity or spread forbids to put so many on one node: one on each, the same nodes first
            rest = np.setdiff1d(np.flatnonzero(self.free(entry.kind)), choice.rows)
            rows = [*choice.rows, *rest.tolist()][: entry.pods]
            plan = take(self.state, gang, rows, [1] * len(rows)) if len(rows) == entry.pods else None
        if plan is None:
            return False
        self._started(entry, plan, plans)
        if entry.column >= 0:
            for row, count in zip(choice.rows, choice.counts, strict=True):
                if count >= prefetch.MAIN * entry.pods and self._ratio[row, entry.column] < 0.99 and self._loadable[entry.column]:
                    self.loads.ask(row, entry.column, now, started=True)
        return True

    def refresh(self, now: float, warmth: Warmth) -> None:
        """Take in what was submitted and what hints say, without deciding anything."""
        self._enqueue(warmth)
        self._believe(now, warmth)

    def cheapest(self, entry: Entry, now: float, warmth: Warmth) -> Choice | None:
        """The best places for a gang as things are; None where it does not fit."""
        data = self._data(entry.column, now, warmth)
        return choose(entry.pods, self.free(entry.kind), data, self._links(warmth), self._shapes(entry.kind))

    def holders(self, column: int) -> Bools:
        """bool[N]: nodes that hold the dataset, all of them for none."""
        if column < 0:
            return np.ones(len(self.state), np.bool_)
        result: Bools = self._ratio[:, column] >= prefetch.WARM
        return result

    def _started(self, entry: Entry, plan: Plan, plans: list[Plan]) -> None:
        self.waiting.remove(entry)
        self.running[plan.gang] = Running(entry.ask, plan, entry.column)
        self._use(plan, entry.column, 1)
        plans.append(plan)

    def _overdue(self, now: float, warmth: Warmth, plans: list[Plan]) -> bool:
        """Start gangs that were passed too often, in order. True while one of them does not fit: nobody else may start."""
        oldest = next(iter(self.waiting))
        for entry in self.waiting.overdue(int(self.empty(oldest.kind).sum())):
            choice = self.cheapest(entry, now, warmth)
            placed = choice is not None and self._start(entry, choice, now, plans)
            if not placed and not self._at_least(entry, plans) and self._possible(entry):
                return True
        return False

    def _at_least(self, entry: Entry, plans: list[Plan]) -> bool:
        """Start an overdue gang of unlike pods, or with a minimum below its size, wherever enough of it fits."""
        gang = entry.ask.gang
        like = len(entry.kind[2]) == 1 and not self.state.coupled(entry.kind[2][0])
        if like and gang.minimum == len(gang.members) and not gang.group_minimum:
            return False
        if self._planner is None:
            self._planner = Planner(self.state, Packing(Setting()))
        plan = greedy(self._planner, gang)
        if plan.placed and plan.placements:
            self._started(entry, plan, plans)
            return True
        return False

    def empty(self, kind: Kind) -> Ints:
        """Slots [N] for gangs of a kind, were the cluster empty."""
        for request in kind[2]:
            if request not in self._whole:
                self._whole[request] = capacity(self.state, request)
        result: Ints = np.minimum.reduce([self._whole[request] for request in kind[2]])
        return result

    def _possible(self, entry: Entry) -> bool:
        """Whether the gang would surely fit if nothing ran: one that might not must not hold up the others."""
        room = self._masked(entry.kind, self.empty(entry.kind))
        if any(self.state.coupled(request) for request in entry.kind[2]):
            room = np.minimum(room, 1)  # its pods may have to keep apart
        return int(room.sum()) >= entry.pods

    def _masked(self, kind: Kind, room: Ints) -> Ints:
        """Slots [N] where the constraints of all its pods allow them."""
        for request in kind[2]:
            allowed = self.state.allowed(request)
            if allowed is not None:
                room = np.where(allowed, room, 0)
        return room

    def _near(self, now: float, plans: list[Plan]) -> None:
        """Start gangs on one node that holds their data: large ones first, then old ones, each on the tightest node."""
        warm = self._ratio >= prefetch.WARM
        while True:
            best: tuple[tuple[int, int], Entry, int] | None = None
            seen = dict[tuple[Request, ...], Ints]()
            candidates = list[tuple[tuple[int, int], Entry]]()
            open_rows = np.flatnonzero(self._any_free())
            if not len(open_rows):
                return
            columns = np.flatnonzero(warm[open_rows].any(axis=0))
            for column in [-1, *columns.tolist()]:
                for kind in self.waiting.kinds(column):
                    entry = self.waiting.first(kind)
                    assert entry is not None
                    candidates.append(((-entry.pods, entry.number), entry))
            for key, entry in sorted(candidates, key=lambda one: one[0]):
                free = seen.setdefault(entry.kind[2], self.free(entry.kind))
                able = free >= entry.pods if entry.column < 0 else (free >= entry.pods) & warm[:, entry.column]
                rows = np.flatnonzero(able)
                if len(rows):
                    best = key, entry, int(rows[np.argmin(free[rows])])
                    break
            if best is None:
                return
            _, entry, row = best
            if not self._start(entry, Choice((row,), (entry.pods,), 0.0, 0.0), now, plans):
                return

    def _any_free(self) -> Bools:
        """Rows with a slot for any request that waits."""
        some = np.zeros(len(self.state), np.bool_)
        for request in self.waiting.requests:
            some |= self.slots.of(request) > 0
        return some

    def _far_from_data(self, now: float, warmth: Warmth, plans: list[Plan]) -> None:
        """Start gangs elsewhere, once they have waited as long as that costs; oldest first."""
        tried = set[Kind]()
        if not self._any_free().any():
            return
        for entry in self.waiting:
            if entry.kind in tried:
                continue
            if len(tried) >= LOOK:
                return
            tried.add(entry.kind)
            if not self.free(entry.kind).any():
                continue
            if self.turn_comes(entry, now, warmth):
                continue  # reading now would only slow down those before it
            choice = self.cheapest(entry, now, warmth)
            if choice is not None and may_go(choice.seconds, now - entry.ask.since) and self._start(entry, choice, now, plans):
                tried.discard(entry.kind)

    def line(self, warmth: Warmth) -> float:
        """Seconds until the store has sent all that only it has and gangs wait for: a turn there takes that long at the most."""
        wanted = [column for column in self.waiting.columns() if column >= 0 and self._far[column] and self._loadable[column]]
        return float(warmth.size[wanted].sum()) / Links(warmth.nic, warmth.store).store_share

    def turn_comes(self, entry: Entry, now: float, warmth: Warmth) -> bool:
        """Whether the gang's data will be loaded from the store after others', and that is seen to go on."""
        column = entry.column
        if column < 0 or not self._far[column] or not self._loadable[column] or self.loads.rows(column):
            return False
        return turn_comes(self._links(warmth).users, now - self.loads.grown, now - entry.ask.since)

    # loads

    def _load(self, now: float, warmth: Warmth) -> None:
        width = len(warmth.size)
        pods, running = np.zeros(width, np.int64), np.zeros(width, np.bool_)
        for column, count in self.waiting.pods_of.items():
            if column >= 0:
                pods[column] = count
        running[[one.column for one in self.running.values() if one.column >= 0]] = True
        free = self._any_free()
        per_node = self.shapes.most if self.shapes is not None else 1
        see = prefetch.Outlook(
            now, self._ratio, self._far, warmth.size, self.waiting.waits(now, width), pods, free, self._loadable, per_node
        )
        prefetch.review(self.loads, see, running)
        prefetch.from_store(self.loads, see)
        prefetch.copies(self.loads, see)

    def _orders(self, warmth: Warmth) -> list[Order]:
        return [Order(self.state.names[row], warmth.datasets[column]) for row, column in self.loads.since]
