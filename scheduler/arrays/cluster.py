"""The live snapshot of a cluster: what the API's objects say, as the arrays that the planner reads.

    cluster = Cluster()
    cluster.set_node(node); cluster.set_pod(pod); ...      # as the watch tells
    request = cluster.request(pending)
    choice = Planner(cluster, policy).choose(request)      # or gang.plan, in a transaction

A `State` whose rows come and go and whose requests carry a number for everything that is not an amount. Each event changes the
rows it concerns and nothing else; what was kept of other rows stays true.

Invariants, beside those of `State`:
- a row without a node has the name "", is in `_spare`, and no request is feasible on it;
- `free = allocatable - what the pods on the row ask`, which is below 0 where others have overcommitted the node;
- a pod counts once, by its UID, whoever placed it: `place` (then `adopt`) or another scheduler (`set_pod`);
- pods whose node is not known wait in `_early` and count for nothing but the claims they use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forebay.api.kubernetes.core import Namespace, Node, Pod
from forebay.api.kubernetes.storage import CSINode
from forebay.scheduler.arrays.cluster_rows import Rows
from forebay.scheduler.arrays.holds import Holds, shut_by
from forebay.scheduler.arrays.nominations import Nomination, Nominations
from forebay.scheduler.arrays.state import Card, Overcommit
from forebay.scheduler.arrays.storage import NOWHERE, ClaimKey, Storage
from forebay.scheduler.arrays.types import Bools, Ints
from forebay.scheduler.claims.book import ClaimBook
from forebay.scheduler.devices.card import Part
from forebay.scheduler.lack import Lack
from forebay.scheduler.pods.amounts import PODS
from forebay.scheduler.pods.classes import PodClass
from forebay.scheduler.pods.compiled import Compiled, World
from forebay.scheduler.pods.facts import Facts, Reader
from forebay.scheduler.pods.request import Request
from forebay.scheduler.preferences.points import Points
from forebay.scheduler.preferences.preferences import Preferences
from forebay.scheduler.quota.amounts import Amounts, parse_amount

COLUMNS = ("cpu", "memory", "ephemeral-storage", PODS)
"""The first columns; others come with the first node that offers them."""
MOST = 1 << 53
"""More of anything than a node has (8 PiB). What is asked beyond counts as this much: sums of 1,023 pods fit in 64 bits."""
ENDED = ("Succeeded", "Failed")


@dataclass(slots=True)
class Record:
    """A pod that counts. `row` is NOWHERE while its node is not known."""

    node: str
    row: int
    request: Request
    cards: tuple[int, ...]
    amounts: Amounts
    key: PodClass


class Cluster(Rows):
    """See the module. `generation` grows when there are new columns: requests made before are refused, make them anew."""

    def __init__(self) -> None:
        super().__init__(COLUMNS)
        self.world = World()
        self.pods: dict[str, Record] = {}
        self.generation = 0
        self._early: dict[str, dict[str, None]] = {}
        self._limits_early: dict[str, CSINode] = {}
        self._number_of: dict[PodClass, int] = {}
        self._compiled: dict[int, Compiled] = {}
        self._last = 0
        self.nominations = Nominations()
        self._reader = Reader()
        self.holds = Holds()

    @property
    def storage(self) -> Storage:
        """Volumes and claims; tell it of them directly."""
        return self.world.storage

    @property
    def claims(self) -> ClaimBook:
        """Claims on devices, their classes and the devices; whoever changes it calls `noted`."""
        return self.world.claims

    def noted(self) -> None:
        """Something changed that is in no row: what is kept until the next tick is not true any more."""
        self.tick += 1

    # --- nodes ---

    def set_node(self, node: Node, cards: Sequence[Card] = ()) -> int:
        """A node is there or changed; its row. `cards` are its devices, where they are accounted one by one.

        Raises `QuantityError` for an amount that is none.
        """
        name = node.metadata.name
        offered = {key: min(parse_amount(key, value), MOST - 1) for key, value in node.status.allocatable.items()}
        self._widen(key for key, amount in offered.items() if amount)
        row = self.row_of.get(name)
        new = row is None
        if row is None:
            row = self.take_row(name)
            if len(self) > len(self.world.nodes):
                self.world.nodes.grow(len(self))
                self.storage.grow(len(self))
        changed = self.world.nodes.set(row, node)
        changed |= self.offer(row, [offered.get(column, 0) for column in self.columns])
        changed |= self.equip(row, cards)
        if changed:
            self.touch(row)
        if new:
            self._arrive(name, row)
        return row

    def _arrive(self, name: str, row: int) -> None:
        if name in self._limits_early:
            self.storage.set_limits(row, self._limits_early[name])
        for uid in self._early.pop(name, {}):
            record = self.pods[uid]
            self._unuse(record)
            record.row = row
            self._count(record, -1)
        self.nominations.arrive(name, row)

    def remove_node(self, name: str) -> None:
        """The node is gone; its pods wait for it to come back or to be removed themselves."""
        row = self.row_of.get(name)
        if row is None:
            return
        for uid, record in self.pods.items():
            if record.row == row:
                self._count(record, 1)
                record.row = NOWHERE
                self._wait(uid, record)
        self.nominations.leave(name)
        self.storage.set_limits(row, None)
        self.world.nodes.clear(row)
        self.drop_row(row)

    def set_driver_limits(self, node: CSINode) -> None:
        """What a node's drivers can attach (CSINode)."""
        name = node.metadata.name
        self._limits_early[name] = node
        if name in self.row_of and self.storage.set_limits(self.row_of[name], node):
            self.touch(self.row_of[name])

    def remove_driver_limits(self, name: str) -> None:
        self._limits_early.pop(name, None)
        if name in self.row_of and self.storage.set_limits(self.row_of[name], None):
            self.touch(self.row_of[name])

    def set_namespace(self, namespace: Namespace) -> None:
        self._rename(namespace.metadata.name, namespace.metadata.labels)

    def remove_namespace(self, name: str) -> None:
        self._rename(name, None)

    def _rename(self, name: str, labels: dict[str, str] | None) -> None:
        if self.world.people.set_namespace(name, labels):
            self._recount()

    # --- pods ---

    def request(self, pod: Pod) -> Request:
        """What a pod asks and where it may go. Equal ones are one class. Raises `QuantityError`."""
        return self._asked(self._reader.read(pod))

    def request_but(self, pod: Pod, served: Callable[[str], bool]) -> Request:
        """The same for a pod of which resources by these names are given out otherwise: a node need not offer them."""
        facts = self._reader.read(pod)
        if all(name in self.columns or not served(name) for name in facts.amounts):
            return self._asked(facts)
        return self._request({n: a for n, a in facts.amounts.items() if n in self.columns or not served(n)}, facts.key)

    def facts(self, pod: Pod) -> Facts:
        """What is read of pods like this one. Raises `QuantityError`."""
        return self._reader.read(pod)

    def _asked(self, facts: Facts) -> Request:
        if facts.request is None or facts.generation != self.generation:
            facts.request, facts.generation = self._request(facts.amounts, facts.key), self.generation
        return facts.request

    def _request(self, amounts: Amounts, key: PodClass) -> Request:
        unknown = tuple(sorted((name, amount) for name, amount in amounts.items() if name not in self.columns and amount))
        if unknown:
            key = replace(key, unknown=unknown)
        number = self._number_of.get(key)
        if number is None:
            self._last += 1
            number = self._number_of[key] = self._last
            self._compiled[number] = Compiled(key, self.world)
        asked = tuple(1 if column == PODS else min(amounts.get(column, 0), MOST) for column in self.columns)
        return Request(asked, constraints=number)

    def set_pod(self, pod: Pod, request: Request | None = None, cards: tuple[int, ...] = ()) -> None:
        """A pod is there or changed: it counts if it is bound and has not ended; if it is nominated, its place is held.

        `request` and `cards`: for a pod whose devices are accounted one by one. Raises `QuantityError`.
        """
        uid = pod.metadata.uid
        if pod.status.phase in ENDED:
            self.remove_pod(uid)
            return
        facts = self._reader.read(pod)
        request = request or self._asked(facts)
        if not pod.spec.node_name:
            if uid not in self.pods:  # else it was placed here, and the API does not know it yet
                self._nominate(uid, pod.status.nominated_node_name, facts.key.priority, request)
            return
        self.nominations.drop(uid)
        kept = self.pods.get(uid)
        if kept is not None and (kept.node, kept.request, kept.cards) == (pod.spec.node_name, request, cards):
            return
        self._forget(uid)
        row = self.row_of.get(pod.spec.node_name, NOWHERE)
        record = self.pods[uid] = Record(pod.spec.node_name, row, request, cards, facts.amounts, facts.key)
        if row == NOWHERE:
            self._wait(uid, record)
        else:
            self._count(record, -1)

    def remove_pod(self, uid: str) -> None:
        """The pod is gone, or its placement failed."""
        self._forget(uid)
        self.nominations.drop(uid)

    def adopt(self, pod: Pod, row: int, request: Request, cards: tuple[int, ...] = ()) -> None:
        """A placement that the arrays contain already (`place`, a committed transaction) is this pod's from now on.

        Until the API says that it is bound it is only assumed: `remove_pod` undoes it. Raises ValueError for a pod that counts.
        """
        uid = pod.metadata.uid
        if uid in self.pods:
            raise ValueError(f"pod {pod.metadata.namespace}/{pod.metadata.name} counts on node {self.pods[uid].node} already")
        self.nominations.drop(uid)
        facts = self._reader.read(pod)
        self.pods[uid] = Record(self.names[row], row, request, cards, facts.amounts, facts.key)

    def _forget(self, uid: str) -> None:
        record = self.pods.pop(uid, None)
        if record is None:
            return
        if record.row != NOWHERE:
            self._count(record, 1)
            return
        self._unuse(record)
        waiting = self._early[record.node]
        del waiting[uid]
        if not waiting:
            del self._early[record.node]

    def count(self, uid: str, sign: int) -> None:
        """Takes a pod that is on a row off it (-1) and puts it back (1), for a question what would be without it."""
        self._count(self.pods[uid], -sign)

    def _count(self, record: Record, sign: int) -> None:
        """What others did is counted whether or not it fits: the arrays say what is, not what should be."""
        self._move(record.row, record.request, list(record.cards), self._wanted(record.request), sign)

    def _wait(self, uid: str, record: Record) -> None:
        self._early.setdefault(record.node, {})[uid] = None
        kept = self._compiled[record.request.constraints]
        self.storage.use(NOWHERE, kept.claims)
        kept.use(1)

    def _unuse(self, record: Record) -> None:
        kept = self._compiled[record.request.constraints]
        self.storage.leave(NOWHERE, kept.claims)
        kept.use(-1)

    def _nominate(self, uid: str, node: str, priority: int, request: Request) -> None:
        if node:
            self.nominations.put(Nomination(uid, node, priority, request), self.row_of.get(node, NOWHERE))
        else:
            self.nominations.drop(uid)

    # --- columns, and what nobody needs any more ---

    def _widen(self, names: Iterable[str]) -> None:
        """Columns for resources that are offered for the first time."""
        more = [name for name in names if name not in self.columns]
        if not more:
            return
        self.generation += 1
        self.add_columns(more)
        for record in self.pods.values():
            old = record.request
            fresh = self._request(record.amounts, record.key)
            apart = old.cards or old.devices is not None  # what devices serve is in no column
            tail = (0,) * len(more) if apart else fresh.resources[len(old.resources) :]
            record.request = replace(old, resources=(*old.resources, *tail), constraints=fresh.constraints)
            if record.row != NOWHERE:
                self.free[record.row, len(old.resources) :] -= np.array(tail, np.int64)
        self.nominations.renew(lambda old: replace(old, resources=(*old.resources, *[0] * len(more))))
        self._recount()

    def _recount(self) -> None:
        """Everybody is placed anew among the kinds, ports and claims; amounts stay."""
        self.world.people.reset()
        for record in self.pods.values():
            if record.row != NOWHERE:
                self._compiled[record.request.constraints].enter(record.row)

    def sweep(self, pending: Iterable[Request] = ()) -> None:
        """Forgets classes that no pod and none of these requests has; their numbers are not given again."""
        live = {record.request.constraints for record in self.pods.values()} | {one.constraints for one in pending}
        live |= self.nominations.classes()
        self._reader.forget()
        self.forget_asked()
        self.world.forget()
        self.world.people.reset(kinds=True)
        self._number_of = {key: number for key, number in self._number_of.items() if number in live}
        self._compiled = {number: Compiled(key, self.world) for key, number in self._number_of.items()}
        self._recount()

    # --- what the planner asks ---

    def claims_of(self, request: Request) -> tuple[ClaimKey, ...]:
        return self._class(request).device_claims if request.constraints else ()

    def coupled(self, request: Request) -> bool:
        return bool(request.constraints and self._class(request).wide)

    def allowed(self, request: Request) -> Bools | None:
        kept = self._class(request) if request.constraints else None
        ahead = self.nominations.ahead(self._priority(request))
        passed = None if kept is None else kept.mask(self.tick, self.changed_since)
        if kept is not None and passed is not None:
            for check in kept.wide:
                passed = passed & check.passes(self.rows)
        if ahead:
            passed = np.ones(len(self), np.bool_) if passed is None else passed.copy()
            for row in ahead:
                passed[row] = passed[row] and self._fits_beside(request, row, ahead[row])
        if self.holds.active:
            passed = np.ones(len(self), np.bool_) if passed is None else passed.copy()
            passed[self.holds.shut(self, request)] = False
        return passed

    def prefers(self, request: Request) -> bool:
        return bool(request.constraints and self._class(request).preferences.any)

    def preferred(self, request: Request, rows: Ints, held: Bools | None = None) -> Points:
        return self._class(request).preferences.points(rows, held) if request.constraints else Points()

    def preferences(self, request: Request) -> Preferences | None:
        """What is preferred for the request, None for nothing: for whoever explains it."""
        return self._class(request).preferences if self.prefers(request) else None

    def _priority(self, request: Request) -> int:
        return self._class(request).key.priority if request.constraints else 0

    def _fits_beside(self, request: Request, row: int, others: Sequence[Nomination]) -> bool:
        """Whether the pod fits on the row also if the pods that are nominated for it come."""
        there = list[tuple[Nomination, tuple[int, ...], tuple[Part, ...]]]()
        try:
            for other in others:
                there.append((other, *self.hold(row, other.request)))
            one = self._every[row : row + 1]
            kept = self._class(request) if request.constraints else None
            checks = () if kept is None else (*kept.rows, *kept.wide)
            return bool(self.feasible(request, one)[0]) and all(bool(check.passes(one)[0]) for check in checks)
        except Overcommit:  # their cards are not there yet: nobody else gets what is
            return False
        finally:
            for other, cards, parts in reversed(there):
                self.unhold(row, other.request, cards, parts)

    def lacks(self, request: Request) -> list[tuple[Lack, Bools]]:
        rows = self.nodes
        found = super().lacks(request)
        if request.constraints:
            kept = self._class(request)
            for check in (*kept.rows, *kept.wide):
                found += check.lacks(rows)
        ahead = self.nominations.ahead(self._priority(request))
        held = [row for row in ahead if not self._fits_beside(request, row, ahead[row])]
        if held:
            failed = np.isin(rows, np.array(held))
            found.append((Lack("held for nominated pods of no lower priority", "wait for those or raise the priority"), failed))
        for one in self.holds.standing:
            shut = shut_by(one, self, request)
            failed = np.isin(rows, shut[self.feasible(request, shut)])  # nodes that would do if they were not held
            found.append((Lack(f"held for {one.who}", "wait until that has started", "held"), failed))
        return [(lack, failed) for lack, failed in found if failed.any()]

    def _class(self, request: Request) -> Compiled:
        kept = self._compiled.get(request.constraints)
        if kept is None:
            raise ValueError(f"class {request.constraints} is not known any more: make the request anew")
        return kept

    def place(self, row: int, request: Request, cards: tuple[int, ...], parts: tuple[Part, ...] = ()) -> None:
        """As in `State`; claims that wait for their first pod get a volume or a place. Trusts `allowed` of the same moment."""
        kept = self._class(request) if request.constraints else None
        chosen = kept.volumes.choose(row) if kept is not None and kept.volumes is not None else {}
        allotted = kept.allocated.choose(row) if kept is not None and kept.allocated is not None else {}
        super().place(row, request, cards, parts)
        self.storage.decide(chosen)
        self.claims.decide(allotted)

    def _move(self, row: int, request: Request, taken: list[int], wanted: Ints, sign: int) -> None:
        super()._move(row, request, taken, wanted, sign)
        if request.constraints:
            self._class(request).move(row, -sign)
