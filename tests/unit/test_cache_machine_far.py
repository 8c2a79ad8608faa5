"""The machine as one node of several: what comes from other members, and what other members ask for."""

from __future__ import annotations

import random

from forebay.cache.disk.index import BLOCK, SEGMENT
from forebay.cache.disk.policy import Space, TierState
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.dispatch import ALONG, FAR_AHEAD, FAR_HOP, FAR_LANES
from forebay.cache.fetch.machine import Machine
from forebay.cache.fetch.messages import Goal, Thing, Why
from forebay.cache.fetch.patience import DOWN_AFTER, PATIENCE

MIB = 1 << 20


def thing(number: int, size: int, ino: int | None = None) -> Thing:
    return Thing(number.to_bytes(16, "big"), number if ino is None else ino, 1, 0, size)


class Play:
    """A machine whose objects with even numbers, and odd segments, belong to another member."""

    def __init__(self, lanes: int = 2) -> None:
        self.machine = Machine(
            [TierState(0, 0.9, 0.5, 0.15, 20 << 30)],
            lanes=lanes,
            rng=random.Random(0),
            far=lambda oid, segment: (oid[-1] + segment) % 2 == 0,
        )
        self.now = 1000.0
        self.waiter = 0
        self.machine.handle(m.Sampled(0, Space(1 << 40, 1 << 41, 1 << 20, 1 << 21), self.now))

    def want(
        self, t: Thing, lo: int = 0, hi: int | None = None, goal: Goal = Goal.DEMAND, span: tuple[int, int] | None = None
    ) -> list[m.Instruction]:
        self.waiter += 1
        hi = t.size if hi is None else hi
        return self.machine.handle(m.Want(self.waiter, t, lo, hi, goal, self.now, self.now + 60, None, span))


def runs(out: list[m.Instruction]) -> list[m.Run]:
    return [i for i in out if isinstance(i, m.Run)]


def test_members_and_stores_have_lanes_of_their_own() -> None:
    p = Play(lanes=2)
    for n in range(FAR_LANES):
        (run,) = runs(p.want(thing(2 * n, MIB)))
        assert run.far
    assert runs(p.want(thing(100, MIB))) == [], "every far lane waits for a member"
    near = runs(p.want(thing(1, MIB)))
    assert [r.far for r in near] == [False], "what others may be waiting for is fetched all the same"
    assert p.machine.load()["fetching"] == FAR_LANES + 1
    assert p.machine.load()["queued"] == 1


def test_each_segment_goes_where_it_belongs() -> None:
    p = Play(lanes=8)
    t = thing(1, 3 * SEGMENT)
    out = p.want(t, 0, t.size, Goal.WARM)
    for _ in range(60):
        for run in runs(out):
            for f in run.fetches:
                assert run.far == (f.first * BLOCK // SEGMENT % 2 == 1)
                last = (f.first + f.count) * BLOCK - 1
                assert f.first * BLOCK // SEGMENT == last // SEGMENT, "a fetch asks one member"
        done = [f for r in runs(out) for f in r.fetches]
        if not done:
            break
        out = []
        for f in done:
            out += p.machine.handle(m.Arrived(f.fetch, f.first, f.count))
            out += p.machine.handle(m.Finished(f.fetch, f.count * BLOCK, p.now))
    assert t.oid not in p.machine, "every block came"


def test_small_files_of_members_go_together() -> None:
    p = Play()
    for n in range(FAR_LANES):
        p.want(thing(2 * n, MIB))
    for n in range(100, 100 + 2 * FAR_HOP, 2):
        assert runs(p.want(thing(n, 16384), goal=Goal.WARM)) == []
    hops = []
    for lane in range(FAR_LANES):  # most stay for demand; the first that may takes as many as wait
        out = p.machine.handle(m.Delivered(lane + 1, MIB, p.now))
        hops += [len(r.fetches) for r in runs(out) if r.far]
    assert hops == [FAR_HOP]


def test_what_is_demanded_of_a_member_takes_waiting_look_ahead_along() -> None:
    p = Play()
    for n in range(FAR_LANES):
        p.want(thing(2 * n, MIB))
    for n in range(100, 100 + 4 * ALONG, 2):
        p.want(thing(n, 16384), goal=Goal.AHEAD)
    p.want(thing(90, 16384))
    (run,) = [r for r in runs(p.machine.handle(m.Delivered(1, MIB, p.now))) if r.far]
    assert run.fetches[0].thing.oid[-1] == 90, "who waits comes first"
    assert [f.goal for f in run.fetches] == [Goal.DEMAND] + [Goal.AHEAD] * (ALONG - 1)


def test_look_ahead_has_lanes_however_much_is_demanded() -> None:
    p = Play()
    for n in range(FAR_LANES - 4):
        p.want(thing(2 * n, MIB))
    hops = []
    for n in range(100, 100 + 8 * FAR_HOP, 2):
        hops += [len(r.fetches) for r in runs(p.want(thing(n, 16384), goal=Goal.AHEAD))]
    assert hops == [1] * FAR_AHEAD, "those lanes, and no more"
    done = max(p.machine._fetches)  # the last of the look-ahead under way
    last = next(f for f in sorted(p.machine._fetches) if p.machine._fetches[f].goal is Goal.AHEAD)
    assert last < done
    assert [len(r.fetches) for r in runs(p.machine.handle(m.Delivered(last, 16384, p.now)))] == [FAR_HOP]


def test_a_members_trouble_is_not_the_stores() -> None:
    p = Play()
    for n in range(4 * DOWN_AFTER):
        out = p.want(thing(2 * n, MIB))
        if [type(i) for i in out] == [m.Refuse]:
            break
        for run in runs(out):
            p.now += PATIENCE
            p.machine.handle(m.Broken(run.fetches[0].fetch, Why.UNAVAILABLE, "no member answers", p.now, 6.0))
    else:
        raise AssertionError("asked members that were silent to everybody, again and again")
    assert [r.far for r in runs(p.want(thing(91, MIB)))] == [False]


def test_a_span_is_fetched_and_nothing_beyond_it() -> None:
    p = Play()
    t = thing(1, SEGMENT)
    out = p.want(t, 8 * MIB, 8 * MIB + BLOCK, span=(8 * MIB, 12 * MIB))
    assert [(f.first * BLOCK, f.count * BLOCK) for r in runs(out) for f in r.fetches] == [(8 * MIB, 4 * MIB)]
    f = runs(out)[0].fetches[0]
    out = p.machine.handle(m.Arrived(f.fetch, f.first, 1))
    assert [i.waiter for i in out if isinstance(i, m.Release)] == [1]
    assert runs(p.want(t, 8 * MIB + BLOCK, 8 * MIB + 2 * BLOCK, span=(8 * MIB + BLOCK, 12 * MIB))) == []
    assert p.machine.run(t.oid, f.first, f.first + 16) == (0, 1)
    assert p.machine.run(t.oid, f.first + 1, f.first + 16) == (0, 0)
    assert p.machine.run(bytes(16), 0, 1) is None


def test_nobody_here_is_told_that_a_foreign_object_changed() -> None:
    for ino, told in ((0, 0), (7, 1)):
        p = Play()
        (run,) = runs(p.want(thing(1, MIB, ino)))
        out = p.machine.handle(m.Broken(run.fetches[0].fetch, Why.CHANGED, "another version", p.now, 0.1))
        assert sum(isinstance(i, m.Validate) for i in out) == told
        assert [i.message for i in out if isinstance(i, m.Refuse)] == ["another version"]
