"""The machine against a model of the world: whatever happens in whatever order, no wait is forgotten and no byte is made up."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.cache.disk.index import BLOCK
from forebay.cache.disk.policy import Space, TierState, allocation
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.machine import SMALL, Machine
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing, Why

LANES = 4
SLOTS = 24 << 20
QUOTA = 40 << 20
SIZES = [0, 1, 5000, BLOCK, 3 * BLOCK + 7, SMALL, SMALL + 1, 30 << 20, 90 << 20]
WHY = [Why.UNAVAILABLE, Why.CHANGED, Why.BAD, Why.DENIED, Why.FULL, Why.LOCAL, Why.LOST]


def thing(number: int) -> Thing:
    return Thing(bytes([number]) * 16, number + 10, 1, number % 2, SIZES[number % len(SIZES)])


class World(RuleBasedStateMachine):
    """Plays lanes, disks and readers, and remembers where each block really is."""

    @initialize(quota=st.sampled_from([0, QUOTA, 10 << 20]), floor=st.booleans())
    def begin(self, quota: int, floor: bool) -> None:
        self.tiers = [TierState(8 << 20, 0.9, 0.5, 0.15, 20 << 30), TierState(quota, 0.9, 0.5, 0.15, 20 << 30)]
        self.machine = Machine(self.tiers, lanes=LANES, slot_bytes=SLOTS, rng=random.Random(1))
        self.now = 100.0
        self.next_waiter = 0
        self.waiting: dict[int, tuple[Thing, int, int, float]] = {}
        self.running: dict[int, m.Fetch] = {}
        self.lane_of: dict[int, int] = {}
        self.arrived: dict[int, int] = {}  # fetch -> blocks that came
        self.files: dict[tuple[int, bytes], set[int]] = {}
        self.slots: dict[int, tuple[bytes, set[int], int]] = {}
        self.rooms: list[m.MakeRoom] = []
        self.scans: list[m.ScanAhead] = []
        self.complete: dict[bytes, int] = {}
        free = (3 << 30) if floor else (1 << 40)
        for i in range(2):
            self.tell(m.Sampled(i, Space(free, 20 << 30, 1 << 20, 1 << 21), self.now))

    # --- the world

    def tell(self, event: m.Event) -> None:
        for i in self.machine.handle(event):
            self.do(i)

    def do(self, i: m.Instruction) -> None:
        if isinstance(i, m.Run):
            assert i.lane not in self.lane_of.values(), "a lane was given two runs"
            assert i.fetches
            for f in i.fetches:
                self.start(f, i.lane)
        elif isinstance(i, m.Release):
            self.release(i)
        elif isinstance(i, m.Refuse):
            assert i.waiter in self.waiting, "an answer to nobody, or a second one"
            assert i.errno
            assert i.message
            del self.waiting[i.waiter]
        elif isinstance(i, m.Complete):
            n = (i.thing.size + BLOCK - 1) // BLOCK
            assert self.files.get((i.tier, i.thing.oid), set()) >= set(range(n))
            self.complete[i.thing.oid] = i.tier
        elif isinstance(i, m.MakeRoom):
            assert i.bytes > 0
            assert all(r.tier != i.tier for r in self.rooms), "two evictions of one tier"
            self.rooms.append(i)
        elif isinstance(i, m.DropSlot):
            del self.slots[i.slot]
        elif isinstance(i, m.Discard):
            self.files.pop((i.tier, i.thing.oid), None)
            self.forget_running(i.thing.oid)
        elif isinstance(i, m.ScanAhead):
            self.scans.append(i)

    def start(self, f: m.Fetch, lane: int) -> None:
        mine = set(range(f.first, f.first + f.count))
        for other in self.running.values():
            if other.thing.oid == f.thing.oid:
                assert not mine & set(range(other.first, other.first + other.count)), "two fetches of one block"
        if f.tier == NO_TIER:
            self.slots[f.slot] = (f.thing.oid, set(), f.count)
        else:
            assert not mine & self.files.get((f.tier, f.thing.oid), set()), "a block that is here was fetched again"
        self.running[f.fetch] = f
        self.lane_of[f.fetch] = lane
        self.arrived[f.fetch] = 0

    def release(self, r: m.Release) -> None:
        assert r.waiter in self.waiting, "an answer to nobody, or a second one"
        t, lo, hi, _ = self.waiting.pop(r.waiter)
        want = set(range(lo // BLOCK, (hi + BLOCK - 1) // BLOCK))
        here = self.files.get((r.tier, t.oid), set())
        if not r.pieces:
            assert want <= here or t.size == 0, "released without its bytes"
            assert r.upto >= min(hi, t.size) or t.size == 0
            assert set(range(lo // BLOCK, (r.upto + BLOCK - 1) // BLOCK)) <= here, "told of bytes that are not there"
            return
        covered: set[int] = set()
        for p in r.pieces:
            part = set(range(p.first, p.last))
            if p.slot < 0:
                assert part <= here
            else:
                oid, blocks, _ = self.slots[p.slot]
                assert oid == t.oid
                assert part <= blocks, "a slot without the bytes"
            covered |= part
        assert covered >= want

    def forget_running(self, oid: bytes) -> None:
        for number in [n for n, f in self.running.items() if f.thing.oid == oid]:
            del self.running[number], self.lane_of[number], self.arrived[number]

    # --- what may happen

    @rule(number=st.integers(0, 17), at=st.integers(0, 1000), length=st.integers(1, 4 << 20), goal=st.sampled_from(list(Goal)))
    def want(self, number: int, at: int, length: int, goal: Goal) -> None:
        t = thing(number)
        if t.oid in self.complete:
            return  # the shell answers those from the index
        lo = t.size * at // 1001
        hi = min(lo + length, t.size)
        if t.size <= SMALL or goal is Goal.WARM:
            lo, hi = 0, t.size
        known = None
        if t.oid not in self.machine:
            kept = next(((tier, b) for (tier, oid), b in self.files.items() if oid == t.oid and b), None)
            if kept is not None:
                n = (t.size + BLOCK - 1) // BLOCK
                blocks = bytes(2 if i in kept[1] else 0 for i in range(n))
                known = m.Known(kept[0], blocks, min(allocation(t.size), len(kept[1]) * BLOCK))
        self.next_waiter += 1
        self.waiting[self.next_waiter] = (t, lo, hi, self.now + 50)
        self.tell(m.Want(self.next_waiter, t, lo, hi, goal, self.now, self.now + 50, known))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100), blocks=st.integers(1, 40))
    def arrive(self, pick: int, blocks: int) -> None:
        number = sorted(self.running)[pick % len(self.running)]
        f = self.running[number]
        had = self.arrived[number]
        n = min(blocks, f.count - had)
        if n:
            self.arrived[number] += n
            came = range(f.first + had, f.first + had + n)
            if f.tier == NO_TIER:
                self.slots[f.slot][1].update(came)
            else:
                self.files.setdefault((f.tier, f.thing.oid), set()).update(came)
            if n == f.count and f.tier != NO_TIER:
                del self.running[number], self.lane_of[number], self.arrived[number]
                self.tell(
                    m.Delivered(number, allocation(f.thing.size) if f.count * BLOCK >= f.thing.size else n * BLOCK, self.now)
                )
                return
            self.tell(m.Arrived(number, f.first + had, n))
        if number in self.running and self.arrived[number] == f.count:
            del self.running[number], self.lane_of[number], self.arrived[number]
            size = len(self.files.get((f.tier, f.thing.oid), ())) * BLOCK
            allocated = -1 if f.tier == NO_TIER else min(size, allocation(f.thing.size))
            self.tell(m.Finished(number, allocated, self.now))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100), why=st.sampled_from(WHY), lasted=st.sampled_from([0.01, 9.0]))
    def breaks(self, pick: int, why: Why, lasted: float) -> None:
        number = sorted(self.running)[pick % len(self.running)]
        f = self.running[number]
        if f.tier == NO_TIER and why in (Why.FULL, Why.LOST):
            why = Why.LOCAL
        del self.running[number], self.lane_of[number], self.arrived[number]
        self.tell(m.Broken(number, why, "it broke", self.now, lasted))

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        number = sorted(self.waiting)[pick % len(self.waiting)]
        del self.waiting[number]
        self.tell(m.Cancel(number))

    @precondition(lambda self: self.rooms)
    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def evict(self, share: float) -> None:
        room = self.rooms.pop(0)
        gone = []
        freed = 0
        for oid, tier in self.complete.items():
            if tier == room.tier and freed < room.bytes * share:
                gone.append(oid)
                freed += allocation(next(thing(i).size for i in range(18) if thing(i).oid == oid))
        for oid in gone:
            del self.complete[oid]
            self.files.pop((room.tier, oid), None)
        self.tell(m.Freed(room.tier, freed, freed >= room.bytes, self.now))

    @rule(tier=st.integers(0, 1), free=st.sampled_from([1 << 30, 4 << 30, 1 << 40]))
    def sample(self, tier: int, free: int) -> None:
        self.tell(m.Sampled(tier, Space(free, 20 << 30, 1 << 20, 1 << 21), self.now))

    @rule(by=st.sampled_from([0.1, 1.0, 5.0, 60.0]))
    def tick(self, by: float) -> None:
        self.now += by
        self.tell(m.Tick(self.now))
        assert all(deadline > self.now for *_, deadline in self.waiting.values()), "a wait outlived its deadline"

    @rule(number=st.integers(0, 17), missed=st.booleans())
    def open_small(self, number: int, missed: bool) -> None:
        t = thing(number)
        for i in self.machine.opened(t.parent, t.ino, missed=missed):
            self.do(i)

    @precondition(lambda self: self.scans)
    @rule()
    def scanned(self) -> None:
        scan = self.scans.pop(0)
        found = [thing(i) for i in range(18) if thing(i).ino > scan.after][: scan.count]
        fresh = [t for t in found if t.oid not in self.complete and not any(oid == t.oid for _, oid in self.files)]
        self.tell(m.Ahead(scan.parent, [t.ino for t in found], fresh, self.now, scan.spare))

    # --- what must hold

    @invariant()
    def bounds(self) -> None:
        if not hasattr(self, "tiers"):
            return
        assert sum(count * BLOCK for _, _, count in self.slots.values()) <= SLOTS
        assert len(set(self.lane_of.values())) <= LANES
        for t in self.tiers:
            assert t.used >= 0
            assert not t.quota or t.used <= t.quota, "a tier holds more than its quota"

    @invariant()
    def nothing_hangs(self) -> None:
        """Who waits, waits for something that is under way, or for a retry, an eviction or a slot that has an end."""
        if hasattr(self, "machine") and self.waiting:
            load = self.machine.load()
            assert load["waiters"] == len(self.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.now += 1000
        self.tell(m.Tick(self.now))
        assert not self.waiting, "somebody waits for ever"


World.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWorld = World.TestCase


@pytest.mark.long
@pytest.mark.timeout(1800)
class TestWorldLong(World.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=2000, stateful_step_count=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
