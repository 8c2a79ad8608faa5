"""Planner, quota and devices together: random gangs on small clusters that lose cards, fail binds, restart and hear events twice.

After every decision: no gang runs in part, nothing holds more than there is, no queue is above its max, and the three books
(snapshot, devices, quota) say the same as a count of the pods that run. When all pods have ended, every book is empty.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from devicekit import RULES, random_ask, random_cards

from forebay.scheduler.arrays.state import Node, State
from forebay.scheduler.devices.card import NOTHING, Device, Rules, Use, mask_of
from forebay.scheduler.devices.ecosystems.inputs import Inventory, read_record, render
from forebay.scheduler.devices.ledger import Ledger
from forebay.scheduler.devices.pod import Box, Pod
from forebay.scheduler.devices.record import Record
from forebay.scheduler.devices.request import request_of
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.pods.request import Request
from forebay.scheduler.policies import POLICIES, Setting, make
from forebay.scheduler.quota.books import Books
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.ledger import Charge
from forebay.scheduler.quota.ledger import Ledger as QuotaLedger
from forebay.scheduler.quota.order import Waiting
from forebay.scheduler.quota.quotas import Quotas
from forebay.scheduler.quota.tree import Queue

GPU = "cards"
CPU = 16
QUEUES = ("a", "b", "c")


@dataclass
class Running:
    """A bound pod: what the API server knows of it."""

    record: Record | None
    request: Request
    cards: tuple[int, ...]
    node: str
    gang: str
    annotations: dict[str, str] = field(default_factory=dict)


class Cluster:
    """A scheduler of a few lines around the real parts, and a count of its own."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.hardware = {f"n{i}": random_cards(chance, chance.randint(0, 4)) for i in range(chance.randint(1, 4))}
        self.rules: dict[str, Rules] = {name: chance.choice(RULES) for name in self.hardware}
        self.policy = chance.choice(sorted(POLICIES))
        most = {"cpu": chance.choice([4, 12, 60]) * 1000, GPU: chance.choice([2, 6, 40])}
        queues = [Queue(name=name, min={"cpu": 2000}, max=most if name == "a" else {}) for name in QUEUES]
        self.quotas = Quotas()
        self.quotas.ledger = QuotaLedger(build(queues, Findings()))
        self.running = dict[str, Running]()
        self.gangs = dict[str, Gang]()
        self.queue_of = dict[str, str]()
        self.numbers = Counter[str]()
        self.time = 0
        self.restart()

    def restart(self) -> None:
        """Everything that a process holds is gone; what pods' annotations say is not."""
        self.books = Ledger()
        for name, cards in self.hardware.items():
            self.books.set_node(name, cards, self.rules[name])
        for uid, pod in self.running.items():
            if pod.record is not None:
                boxes = tuple(Box(seat.container, seat.role) for seat in pod.record.seats)
                seen = Pod(uid, "team", uid, {}, pod.annotations, boxes, pod.node)
                record = read_record(seen, Inventory(self.books.devices(pod.node)))
                assert record == pod.record
                self.books.confirm(record, 1)
        tree = self.quotas.ledger.tree
        self.quotas.ledger = QuotaLedger(tree)
        for uid in self.running:
            self.quotas.ledger.add(uid, self.charge(uid))
        nodes = [
            Node(name, {"cpu": CPU}, devices=(*cards, *self._lost(name)), rules=self.rules[name])
            for name, cards in self.hardware.items()
        ]
        self.state = State(nodes, ["cpu"])
        for pod in self.running.values():
            row = self.state.row_of[pod.node]
            self.state.free[row] -= list(pod.request.resources)
            self.state.shapes[row, self.state.shape(pod.request)] += 1
        self.sync(self.hardware)
        self.planner = Planner(self.state, make(self.policy, Setting(seed=1)))

    def _lost(self, name: str) -> tuple[Device, ...]:
        have = {card.id for card in self.hardware[name]}
        return tuple(card for card in self.books.devices(name) if card.id not in have)

    def sync(self, names: object) -> None:
        """Rows of the snapshot from the ledger."""
        for name in list(names):  # type: ignore[call-overload]
            if self.state.devices is not None and len(self.books.devices(name)) <= self.state.devices.kind.shape[1]:
                row = self.state.row_of[name]
                self.state.set_devices(row, self.books.devices(name), self.books.rules(name), self.books.used(name))

    def charge(self, uid: str) -> Charge:
        gang = self.running[uid].gang
        return charge_of(self.running[uid].request, self.queue_of[gang], gang)

    # what happens

    def arrive(self) -> None:
        """A gang arrives, is decided, and bound or not."""
        self.time += 1
        name, queue = f"g{self.time}", self.chance.choice(QUEUES)
        members = list[Member]()
        for _ in range(self.chance.randint(1, 3)):
            ask = random_ask(self.chance) if self.chance.random() < 0.8 else None
            request = request_of(self.state, (self.chance.randint(0, 3),), ask)
            group = self.chance.choice(["", "x"])
            members += [Member(f"{name}-{len(members) + n}", request, group) for n in range(self.chance.randint(1, 3))]
        in_x = sum(member.group == "x" for member in members)
        minimum = self.chance.randint(1, len(members))
        gang = Gang(name, members, minimum, {"x": self.chance.randint(1, in_x)} if in_x and self.chance.random() < 0.5 else {})
        self.gangs[name], self.queue_of[name] = gang, queue
        for member in members:
            self.planner.policy.observe(self.state, member.request)
        asked = Counter[str]()
        for member in members:
            asked.update(amounts(member.request))
        totals = {"cpu": CPU * 1000 * len(self.hardware), GPU: 64}
        turns = self.quotas.turns([Waiting(name, queue, asked, since=float(self.time))], totals, float(self.time))
        turn = turns.next()
        assert turn is not None
        if not self.quotas.admit(turn, totals).admitted:
            self.numbers["quota"] += 1
            return
        done = plan(self.planner, gang)
        if not done.placed:
            self.numbers["unplaced"] += 1
            return
        requests = {member.pod: member.request for member in members}
        bound = list[str]()
        for placement in done.placements:
            request = requests[placement.pod]
            self.quotas.ledger.add(placement.pod, charge_of(request, queue, name, assumed=True))
            record = None
            if request.devices is not None:
                seats = request.devices.seats
                record = Record(placement.pod, f"team/{placement.pod}", placement.node, seats, placement.devices, time=self.time)
                self.books.assume(record)
            self.running[placement.pod] = Running(record, request, placement.cards, placement.node, name)
            bound.append(placement.pod)
        self.bind(gang, bound)

    def bind(self, gang: Gang, pods: list[str]) -> None:
        """Binds one by one; some fail, some cards are lost in between. What is left must be a gang, or nothing is."""
        if self.chance.random() < 0.1:
            self.lose_cards()
        failed = {uid for uid in pods if self.running[uid].record is not None and self.books.check(uid)}
        failed |= {uid for uid in pods if self.chance.random() < 0.03}
        if failed and not self.enough(gang, set(pods) - failed):
            failed = set(pods)
            self.numbers["undone"] += 1
        for uid in pods:
            pod = self.running[uid]
            if uid in failed:
                self.give_back(uid)
                self.quotas.ledger.release(uid)
                self.books.release(uid)
                del self.running[uid]
                continue
            self.quotas.ledger.add(uid, self.charge(uid))
            if pod.record is not None:
                pod.annotations = render(pod.record, Inventory(self.books.devices(pod.node), api="hami"))
                for _ in range(self.chance.randint(1, 2)):  # events come twice
                    self.books.confirm(pod.record, 1)
        self.numbers["bound"] += bool(set(pods) - failed)

    def enough(self, gang: Gang, pods: set[str]) -> bool:
        groups = Counter(member.group for member in gang.members if member.pod in pods)
        return len(pods) >= gang.minimum and all(groups[group] >= least for group, least in gang.group_minimum.items())

    def give_back(self, uid: str) -> None:
        pod = self.running[uid]
        parts = pod.record.parts if pod.record is not None else ()
        self.state.release(self.state.row_of[pod.node], pod.request, pod.cards, parts)

    def end(self) -> None:
        """A gang ends, all of it; its last events come late."""
        gangs = sorted({pod.gang for pod in self.running.values()})
        if not gangs:
            return
        gang = self.chance.choice(gangs)
        for uid in [uid for uid, pod in self.running.items() if pod.gang == gang]:
            self.give_back(uid)
            pod = self.running.pop(uid)
            self.books.remove(uid)
            self.quotas.ledger.remove(uid)
            if self.chance.random() < 0.3:
                assert pod.record is None or not self.books.confirm(pod.record, 9)
                assert not self.quotas.ledger.add(uid, charge_of(pod.request, "a", gang))

    def lose_cards(self) -> None:
        """Cards of a node fall ill, vanish or come back."""
        name = self.chance.choice(sorted(self.hardware))
        if self.state.devices is None:
            return
        kept = list[Device]()
        for card in self.hardware[name]:
            dice = self.chance.random()
            if dice < 0.7:
                kept.append(card)
            elif dice < 0.85:
                kept.append(sick(card))
        self.books.set_node(name, kept if self.chance.random() < 0.7 else self.hardware[name], self.rules[name])
        self.sync(self.books.changes() & self.hardware.keys())

    # what must hold

    def check(self) -> None:
        for name, gang in self.gangs.items():
            pods = {uid for uid, pod in self.running.items() if pod.gang == name}
            assert not pods or self.enough(gang, pods), f"gang {name} runs in part"
        cpu, sums = Counter[str](), {name: dict[str, Use]() for name in self.hardware}
        for pod in self.running.values():
            cpu[pod.node] += pod.request.resources[0]
            for card, use in pod.record.uses().items() if pod.record is not None else ():
                sums[pod.node][card] = sums[pod.node].get(card, NOTHING) + use
        for name, cards in self.hardware.items():
            row = self.state.row_of[name]
            assert cpu[name] == CPU - self.state.free[row, 0] <= CPU
            assert sums[name] == self.books.used(name)
            if self.state.devices is not None:
                assert sums[name] == self.state.devices.used[row]
            for card in cards:
                self.within(card, sums[name].get(card.id, NOTHING))
        assert self.books.overfull() == []
        fresh = QuotaLedger(self.quotas.ledger.tree)
        for uid in self.running:
            fresh.add(uid, self.charge(uid))
        assert fresh.books.same(self.quotas.ledger.books), "quota leaked"
        for name, queue in self.quotas.ledger.tree.queues.items():
            for resource, most in queue.max.items():
                assert self.quotas.ledger.books.used(name).get(resource, 0) <= most

    @staticmethod
    def within(card: Device, use: Use) -> None:
        taken = 0
        for instance in use.instances:
            bits = mask_of(card.layout, card.kind, instance)
            assert bits
            assert not taken & bits
            taken |= bits
        assert not use.whole or use.pods == 1
        assert not card.tenants or use.tenants <= card.tenants
        if not card.layout:
            assert use.memory <= card.memory
            assert not card.cores or use.cores <= card.cores

    def drain(self) -> None:
        while self.running:
            self.end()
        self.check()
        assert self.books.records == {}
        assert (self.state.free == self.state.allocatable).all()
        assert self.quotas.ledger.books.same(Books(self.quotas.ledger.tree)), "quota leaked"


def sick(card: Device) -> Device:
    return Device(**{**{name: getattr(card, name) for name in Device.__slots__}, "healthy": False})


def amounts(request: Request) -> dict[str, int]:
    return {"cpu": 1000 * request.resources[0], GPU: request.cards}


def charge_of(request: Request, queue: str, gang: str, *, assumed: bool = False) -> Charge:
    return Charge("team", amounts(request), label=queue, gang=gang, assumed=assumed)


def run(seed: int, gangs: int) -> Counter[str]:
    """Decides that many gangs, on a new cluster every 50."""
    chance, numbers = random.Random(seed), Counter[str]()
    decided = 0
    while decided < gangs:
        cluster = Cluster(chance)
        for _ in range(50):
            cluster.arrive()
            decided += 1
            for happens, what in ((0.35, cluster.end), (0.1, cluster.lose_cards), (0.02, cluster.restart)):
                if chance.random() < happens:
                    what()
            cluster.check()
        cluster.drain()
        numbers += cluster.numbers
    return numbers


def test_some_gangs() -> None:
    numbers = run(1, 400)
    assert numbers["bound"] > 100
    assert all(numbers[name] > 1 for name in ("quota", "unplaced", "undone"))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_hundred_thousand_gangs(seed: int) -> None:
    """25,000 decisions a seed: 0 partial gangs, 0 oversubscribed, 0 leaked."""
    numbers = run(seed, 25_000)
    assert numbers["bound"] > 5000
