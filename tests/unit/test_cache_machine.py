"""The machine's decisions one by one: what is asked of which store, for whom, and what becomes of trouble."""

from __future__ import annotations

import errno
import random

import pytest

from forebay.cache.disk.index import BLOCK
from forebay.cache.disk.policy import Space, TierState, allocation
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.ahead import RANGE
from forebay.cache.fetch.machine import SMALL, Machine
from forebay.cache.fetch.messages import NO_TIER, Goal, Thing, Why
from forebay.cache.fetch.patience import DOWN_AFTER, PATIENCE

MIB = 1 << 20
GIB = 1 << 30


def thing(number: int, size: int, mount: int = 0) -> Thing:
    return Thing(bytes([number]) * 16, number, 1, mount, size)


class Play:
    """A machine, its clock, and what it said."""

    def __init__(self, *quotas: int, lanes: int = 16, slots: int = 64 * MIB, free: int = 1 << 40) -> None:
        self.tiers = [TierState(q, 0.9, 0.5, 0.15, 20 * GIB) for q in quotas or (0,)]
        self.machine = Machine(self.tiers, lanes=lanes, slot_bytes=slots, rng=random.Random(0))
        self.now = 1000.0
        self.waiter = 0
        for i in range(len(self.tiers)):
            self.tell(m.Sampled(i, Space(free, 1 << 41, 1 << 20, 1 << 21), self.now))

    def tell(self, event: m.Event) -> list[m.Instruction]:
        return self.machine.handle(event)

    def want(
        self, t: Thing, lo: int = 0, hi: int | None = None, goal: Goal = Goal.DEMAND, known: m.Known | None = None
    ) -> list[m.Instruction]:
        self.waiter += 1
        hi = t.size if hi is None else hi
        return self.tell(m.Want(self.waiter, t, lo, hi, goal, self.now, self.now + 60, known))

    def arrive(self, f: m.Fetch) -> list[m.Instruction]:
        out = self.tell(m.Arrived(f.fetch, f.first, f.count))
        allocated = -1 if f.tier == NO_TIER else allocation(min(f.count * BLOCK, f.thing.size))
        return out + self.tell(m.Finished(f.fetch, allocated, self.now))

    def breaks(self, f: m.Fetch, why: Why = Why.UNAVAILABLE, lasted: float = 0.1) -> list[m.Instruction]:
        return self.tell(m.Broken(f.fetch, why, "the store said no", self.now, lasted))

    def tick(self, by: float) -> list[m.Instruction]:
        self.now += by
        return self.tell(m.Tick(self.now))


def fetches(out: list[m.Instruction]) -> list[m.Fetch]:
    return [f for i in out if isinstance(i, m.Run) for f in i.fetches]


def blocks(out: list[m.Instruction]) -> list[tuple[int, int]]:
    return [(f.first, f.count) for f in fetches(out)]


def of(out: list[m.Instruction], kind: type) -> list:  # type: ignore[type-arg]
    return [i for i in out if isinstance(i, kind)]


def test_a_small_file_is_one_exchange_and_one_answer() -> None:
    p = Play()
    t = thing(1, 3 * MIB + 5)
    out = p.want(t, 100, 200)
    assert blocks(out) == [(0, 13)]
    out = p.arrive(fetches(out)[0])
    assert of(out, m.Release) == [m.Release(1, t, 0, [], t.size)]
    assert of(out, m.Complete) == [m.Complete(t, 0)]
    assert t.oid not in p.machine


def test_all_who_want_the_same_wait_for_one_fetch() -> None:
    p = Play()
    t = thing(1, MIB)
    first = p.want(t)
    assert blocks(p.want(t)) == []
    assert blocks(p.want(t, 5, 6)) == []
    out = p.arrive(fetches(first)[0])
    assert [r.waiter for r in of(out, m.Release)] == [1, 2, 3]


def test_an_empty_file_needs_no_store() -> None:
    p = Play()
    t = thing(1, 0)
    assert p.want(t) == [m.Complete(t, 0), m.Release(1, t, 0, [])]


def test_a_reader_is_served_as_soon_as_its_blocks_are_there() -> None:
    p = Play()
    t = thing(1, 100 * MIB)
    out = p.want(t, 0, MIB)
    f = fetches(out)[0]
    assert f.first == 0
    assert f.count > 4, "what follows was not asked for in the same exchange"
    assert p.tell(m.Arrived(f.fetch, 0, 3)) == []
    out = p.tell(m.Arrived(f.fetch, 3, 3))
    assert of(out, m.Release) == [m.Release(1, t, 0, [], 6 * BLOCK)]


def test_a_random_reader_gets_only_its_blocks() -> None:
    p = Play()
    t = thing(1, GIB)
    assert blocks(p.want(t, 500 * MIB + 5, 500 * MIB + 10)) == [(2000, 1)]
    assert blocks(p.want(t, 100 * MIB - 1, 100 * MIB + 1)) == [(399, 2)]


def test_a_sequential_reader_gets_parallel_ranges_ahead() -> None:
    p = Play()
    t = thing(1, GIB)
    running: dict[int, m.Fetch] = {}
    most = 0
    asked = 0
    for at in range(0, 256 * MIB, MIB):
        out = p.want(t, at, at + MIB)
        while True:
            for f in fetches(out):
                running[f.fetch] = f
                asked = max(asked, (f.first + f.count) * BLOCK)
            most = max(most, len(running))
            if of(out, m.Release):
                break
            f = running.pop(min(running))
            out = p.arrive(f)
    while running:  # the reader pauses
        for f in fetches(p.arrive(running.pop(min(running)))):
            running[f.fetch] = f
            asked = max(asked, (f.first + f.count) * BLOCK)
    assert most >= 2
    assert 40 * MIB <= asked - 256 * MIB <= 64 * MIB + RANGE + 8 * MIB


def test_demand_goes_before_look_ahead_and_that_before_warming() -> None:
    p = Play(lanes=1)
    busy = fetches(p.want(thing(9, MIB)))[0]
    p.want(thing(1, MIB), goal=Goal.WARM)
    p.want(thing(2, MIB), goal=Goal.AHEAD)
    p.want(thing(3, MIB))
    order = []
    f = busy
    for _ in range(3):
        f = fetches(p.arrive(f))[0]
        order.append(f.thing.oid[0])
    assert order == [3, 2, 1]


def test_who_waits_for_what_was_queued_as_look_ahead_hurries_it() -> None:
    p = Play(lanes=1)
    busy = fetches(p.want(thing(9, MIB)))[0]
    for n in (1, 2, 3):
        p.want(thing(n, MIB), goal=Goal.AHEAD)
    p.want(thing(3, MIB))
    assert fetches(p.arrive(busy))[0].thing.oid[0] == 3


def test_many_small_files_ahead_share_hops() -> None:
    p = Play()
    out = p.tell(m.Ahead(1, list(range(10, 74)), [thing(n, 16_000) for n in range(10, 74)], p.now))
    runs = of(out, m.Run)
    assert sum(len(r.fetches) for r in runs) > len(runs)
    assert all(len(r.fetches) <= 8 for r in runs)
    assert len(runs) <= 14, "no lane was kept for who waits"


def test_what_may_never_be_opened_makes_nobody_go() -> None:
    p = Play(40 * MIB)
    for n in range(1, 40):
        for f in fetches(p.want(thing(n, MIB), goal=Goal.WARM)):
            p.arrive(f)
    found = [thing(n, MIB) for n in (100, 101)]
    assert p.tell(m.Ahead(1, [100, 101], found, p.now, spare=True)) == []
    out = p.tell(m.Ahead(1, [100, 101], found, p.now))
    assert of(out, m.MakeRoom) or fetches(out), "what is read in order is worth it"


@pytest.mark.parametrize("why", [Why.UNAVAILABLE])
def test_a_store_in_trouble_is_asked_again_with_patience(why: Why) -> None:
    p = Play()
    f = fetches(p.want(thing(1, MIB)))[0]
    tries = 1
    refused: list[m.Refuse] = []
    began = p.now
    while not refused:
        refused = of(p.breaks(f, why), m.Refuse)
        if refused:
            break
        again: list[m.Fetch] = []
        while not again:
            again = fetches(p.tick(0.25))
            assert p.now - began < 100
        f = again[0]
        tries += 1
    assert refused == [m.Refuse(1, errno.EIO, "the store said no")]
    assert 5 <= tries <= 30
    assert PATIENCE <= p.now - began <= PATIENCE + 10


def test_two_tries_that_took_long_are_enough() -> None:
    p = Play()
    f = fetches(p.want(thing(1, MIB)))[0]
    assert of(p.breaks(f, lasted=8.0), m.Refuse) == []
    f = fetches(p.tick(1.0))[0]
    assert len(of(p.breaks(f, lasted=8.0), m.Refuse)) == 1


@pytest.mark.parametrize(("why", "code"), [(Why.BAD, errno.EIO), (Why.DENIED, errno.EACCES), (Why.CHANGED, errno.ESTALE)])
def test_what_another_try_does_not_mend_is_told_at_once(why: Why, code: int) -> None:
    p = Play()
    t = thing(1, MIB)
    out = p.breaks(fetches(p.want(t))[0], why)
    assert of(out, m.Refuse) == [m.Refuse(1, code, "the store said no")]
    assert bool(of(out, m.Validate)) == (why is Why.CHANGED)
    assert blocks(p.want(t)) == [(0, 4)], "the next reader must be able to try"


def test_look_ahead_that_fails_is_nobodys_trouble() -> None:
    p = Play()
    t = thing(1, MIB)
    f = fetches(p.want(t, goal=Goal.AHEAD))[0]
    p.tell(m.Cancel(1))
    assert p.breaks(f) == []
    assert p.tick(60.0) == []
    assert t.oid not in p.machine


def test_a_store_that_is_down_refuses_at_once_for_a_while() -> None:
    p = Play()
    for n in range(DOWN_AFTER):
        f = fetches(p.want(thing(n + 1, MIB)))[0]
        p.breaks(f, lasted=8.0)
        f = fetches(p.tick(1.0))[0]
        p.breaks(f, lasted=8.0)
    assert of(p.want(thing(50, MIB)), m.Refuse) == [m.Refuse(p.waiter, errno.EIO, "the store said no")]
    assert fetches(p.want(thing(51, MIB, mount=1))), "another store's readers paid for it"
    p.tick(5.0)
    f = fetches(p.want(thing(52, MIB)))[0]
    p.arrive(f)
    assert fetches(p.want(thing(53, MIB)))


def test_after_patience_was_spent_once_nobody_else_spends_it() -> None:
    p = Play()
    f = fetches(p.want(thing(1, MIB)))[0]
    while not of(p.breaks(f), m.Refuse):
        again: list[m.Fetch] = []
        while not again:
            again = fetches(p.tick(0.25))
        f = again[0]
    assert of(p.want(thing(2, MIB)), m.Refuse), "a store that is down kept a reader waiting"
    p.tick(4.0)
    f = fetches(p.want(thing(3, MIB)))[0]
    assert of(p.breaks(f), m.Refuse), "one try was not enough to see that it is still down"
    p.tick(4.0)
    p.arrive(fetches(p.want(thing(4, MIB)))[0])
    f = fetches(p.want(thing(5, MIB)))[0]
    assert of(p.breaks(f), m.Refuse) == [], "a store that came back was not given patience again"


def test_retries_have_a_budget() -> None:
    p = Play(lanes=64)
    retried = 0
    for n in range(1, 120):
        out = fetches(p.want(thing(n, 1000)))
        if not out:
            break  # the store counts as down by now
        retried += not of(p.breaks(out[0]), m.Refuse)
    assert 32 <= retried <= 64


def test_a_wait_ends_at_its_deadline() -> None:
    p = Play()
    p.want(thing(1, MIB))
    assert p.tick(59.0) == []
    out = p.tick(1.0)
    assert [(r.waiter, r.errno) for r in of(out, m.Refuse)] == [(1, errno.EIO)]
    assert "deadline" in of(out, m.Refuse)[0].message


def test_the_first_tier_with_room_takes_it_then_the_next() -> None:
    p = Play(4 * MIB, 100 * MIB)
    places = []
    for n in range(1, 6):
        f = fetches(p.want(thing(n, MIB)))[0]
        places.append(f.tier)
        p.arrive(f)
    assert places == [0, 0, 0, 1, 1]  # 90 % of 4 MiB hold three


def test_above_high_an_eviction_frees_to_low() -> None:
    p = Play(10 * MIB)
    rooms = []
    for n in range(1, 11):
        out = p.want(thing(n, MIB))
        rooms += of(out, m.MakeRoom)
        p.arrive(fetches(out)[0])
    assert rooms == [m.MakeRoom(0, 5 * MIB)], "one eviction at a time, down to low"
    out = p.want(thing(20, MIB))
    assert fetches(out) == [], "more than the quota was admitted"
    out = p.tell(m.Freed(0, 5 * MIB, True, p.now))
    assert [f.thing.oid[0] for f in fetches(out)] == [20]
    assert p.tiers[0].used == 6 * MIB


def test_what_is_not_admitted_comes_through_a_slot() -> None:
    p = Play(MIB)
    t = thing(1, 20 * MIB)
    out = p.want(t, 0, 2 * MIB)
    f = fetches(out)[0]
    assert f.tier == NO_TIER
    assert f.slot > 0
    released = of(p.arrive(f), m.Release)[0]
    assert released.pieces == [m.Piece(f.slot, 0, 8)]
    assert released.tier == NO_TIER


def test_an_eviction_that_finds_nothing_leads_to_a_slot_and_not_to_a_hang() -> None:
    p = Play(4 * MIB)
    for n in range(1, 5):
        p.arrive(fetches(p.want(thing(n, MIB)))[0])
    assert fetches(p.want(thing(9, MIB))) == []
    out = p.tell(m.Freed(0, 0, False, p.now))
    assert fetches(out)[0].tier == NO_TIER


def test_warming_does_not_use_slots() -> None:
    p = Play(MIB)
    out = p.want(thing(1, 20 * MIB), goal=Goal.WARM)
    assert [r.errno for r in of(out, m.Refuse)] == [errno.ENOSPC]


def test_slots_are_bounded_and_the_least_used_go_first() -> None:
    p = Play(4096, slots=4 * MIB)
    t = thing(1, 100 * MIB)
    slots = []
    for at in (80, 40, 60, 20):
        out = p.want(t, at * MIB, at * MIB + MIB)
        f = fetches(out)[0]
        slots.append(f.slot)
        p.arrive(f)
    p.want(t, 80 * MIB, 80 * MIB + 1)  # the first is used again
    out = p.want(t, 10 * MIB, 11 * MIB)
    assert of(out, m.DropSlot) == [m.DropSlot(slots[1])]
    assert p.machine.load()["slot_bytes"] == 4 * MIB


def test_slots_that_are_waited_for_stay_and_others_wait_for_them() -> None:
    p = Play(4096, slots=2 * MIB)
    a, b = thing(1, 50 * MIB), thing(2, 50 * MIB)
    fa = fetches(p.want(a, 20 * MIB, 22 * MIB))[0]
    assert fetches(p.want(b, 20 * MIB, 21 * MIB)) == []
    out = p.arrive(fa)
    assert [r.waiter for r in of(out, m.Release)] == [1]
    assert [f.thing for f in fetches(out)] == [b]


def test_a_full_disk_sends_the_bytes_elsewhere() -> None:
    p = Play(0, 0)
    t = thing(1, MIB)
    f = fetches(p.want(t))[0]
    assert f.tier == 0
    out = p.breaks(f, Why.FULL)
    assert of(out, m.Refuse) == []
    assert of(out, m.TierFull) == [m.TierFull(0)]
    again = fetches(out)[0]
    assert again.tier == 1
    out = p.breaks(again, Why.FULL)
    assert fetches(out)[0].tier == NO_TIER
    assert p.tiers[0].used == p.tiers[1].used == 0


def test_a_disk_that_fills_in_the_middle_leaves_what_came_and_serves_the_rest() -> None:
    p = Play(0)
    t = thing(1, 40 * MIB)
    f = fetches(p.want(t, 30 * MIB, 32 * MIB))[0]
    p.tell(m.Arrived(f.fetch, f.first, 3))
    again = fetches(p.breaks(f, Why.FULL))[0]
    assert (again.tier, again.first, again.count) == (NO_TIER, f.first + 3, f.count - 3)
    r = of(p.arrive(again), m.Release)[0]
    assert [(q.slot, q.last - q.first) for q in r.pieces] == [(-1, 3), (again.slot, 5)]


def test_a_lost_cache_file_voids_the_object() -> None:
    p = Play()
    t = thing(1, 40 * MIB)
    f = fetches(p.want(t, 0, MIB))[0]
    p.arrive(f)
    g = fetches(p.want(t, 30 * MIB, 31 * MIB))[0]
    assert not g.create
    out = p.breaks(g, Why.LOST)
    assert of(out, m.Discard) == [m.Discard(t, 0)]
    assert [r.errno for r in of(out, m.Refuse)] == [errno.EIO]
    assert p.tiers[0].used == 0
    assert fetches(p.want(t, 0, MIB))[0].create


def test_what_is_known_is_not_fetched_and_what_another_boot_left_is_not_charged_twice() -> None:
    p = Play(100 * MIB)
    t = thing(1, 16 * MIB)
    known = m.Known(0, b"\2" * 32 + bytes(32), 8 * MIB)
    p.tiers[0].used = 8 * MIB
    assert of(p.want(t, 0, MIB, known=known), m.Release)
    u = thing(2, 16 * MIB)
    p.tiers[0].used = 24 * MIB
    f = fetches(p.want(u, 0, MIB, known=m.Known(0, bytes(64), 0, 16 * MIB)))[0]
    assert p.tiers[0].used == 24 * MIB
    assert f.tier == 0


def test_a_reader_that_leaves_is_forgotten() -> None:
    p = Play()
    t = thing(1, MIB)
    f = fetches(p.want(t))[0]
    p.tell(m.Cancel(1))
    out = p.arrive(f)
    assert of(out, m.Release) == []
    assert of(out, m.Complete) == [m.Complete(t, 0)]


def test_idle_objects_leave_memory() -> None:
    p = Play()
    t = thing(1, GIB)
    p.arrive(fetches(p.want(t, 500 * MIB, 500 * MIB + 1))[0])
    assert t.oid in p.machine
    p.tick(31.0)
    assert t.oid not in p.machine


def test_files_of_exactly_small_are_one_exchange_and_larger_ones_are_ranges() -> None:
    p = Play()
    assert blocks(p.want(thing(1, SMALL))) == [(0, SMALL // BLOCK)]
    assert all(n * BLOCK <= RANGE for _, n in blocks(p.want(thing(2, SMALL + 1))))


def test_ranges_of_one_store_are_as_many_as_its_width() -> None:
    p = Play()
    out = p.want(thing(1, GIB), 0, GIB, goal=Goal.WARM)
    assert len(fetches(out)) == 2
    out = p.want(thing(2, MIB))
    assert len(fetches(out)) == 1, "a small file waited behind wide ranges"
