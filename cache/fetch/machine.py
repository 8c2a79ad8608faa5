"""The worker's machine: which bytes are fetched, for whom, in what order and to which place. Pure.

Events in, instructions out; no I/O, no clock (events carry `now`), no threads. The shell is `engine.py`.

Invariants:
- a block is in at most one fetch at a time, and lies in at most one place (cache file or slot);
- a waiter is answered exactly once: released, refused, or refused at its deadline by a `Tick`;
- bytes promised to a tier never exceed what its `TierState` admits, bytes in slots never exceed `slot_bytes`;
- a lane has at most one `Run` at a time.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections import deque
from collections.abc import Callable

from forebay.cache.disk.index import BLOCK
from forebay.cache.disk.policy import FULL_PAUSE, Answer, TierState, allocation, tier_for
from forebay.cache.fetch import messages as m
from forebay.cache.fetch.ahead import TOLD_MOST, Order, cut
from forebay.cache.fetch.dispatch import Sides
from forebay.cache.fetch.messages import NO_TIER, Goal, Instruction, Thing, Why
from forebay.cache.fetch.motion import ABSENT, COMING, HERE, SLOT, Active, Fetching, Waiter
from forebay.cache.fetch.patience import Patience
from forebay.cache.fetch.slots import Slots

SMALL = 8 << 20
"""Files up to this size are fetched whole in one exchange."""
LANES = 16
SLOT_BYTES = 256 << 20
IDLE = 30.0
AHEAD_SLOTS = 32 << 20


class Machine:
    """See the module. `handle` takes one event and returns the instructions it leads to, in order."""

    def __init__(
        self,
        tiers: list[TierState],
        *,
        lanes: int = LANES,
        slot_bytes: int = SLOT_BYTES,
        rng: random.Random | None = None,
        far: Callable[[bytes, int], bool] | None = None,
    ) -> None:
        """`far(oid, segment)`: whether another member fetches it from the store. Such fetches have lanes of their own: were they
        to wait for each other's lanes, two members that read from each other would stand still."""
        self.tiers = tiers
        self._active: dict[bytes, Active] = {}
        self._waiters: dict[int, Waiter] = {}
        self._fetches: dict[int, Fetching] = {}
        self._sides = Sides(lanes, far)
        self._parked: dict[int, list[Fetching]] = {}  # tier -> fetches that wait for an eviction
        self._starved: deque[Fetching] = deque()  # wait for buffer slots
        self._retries: list[tuple[float, int]] = []
        self._slots = Slots(slot_bytes)
        self._order = Order()
        self._patience = Patience(rng or random.Random(0))
        self._next = 0
        self._out: list[Instruction] = []
        self._now = 0.0
        self._handlers: dict[type, Callable[..., None]] = {
            m.Want: self._want,
            m.Cancel: self._cancel,
            m.Arrived: self._arrived,
            m.Finished: self._finished,
            m.Delivered: self._delivered,
            m.Broken: self._broken,
            m.Freed: self._freed,
            m.Sampled: self._sampled,
            m.Counted: self._counted,
            m.Lost: self._lost,
            m.Ahead: self._ahead,
            m.Tick: self._tick,
        }

    # --- what the shell may ask

    def handle(self, *events: m.Event) -> list[Instruction]:
        """Take events, then hand out work. Instructions must be carried out in order."""
        self._out = []
        for event in events:
            self._now = max(self._now, getattr(event, "now", 0.0))
            self._handlers[type(event)](event)
        self._dispatch()
        return self._out

    def __contains__(self, oid: object) -> bool:
        """Whether the machine holds the object: then `Want.known` is not needed, and it must not be evicted."""
        return oid in self._active

    def fetching(self, fetch: int) -> bool:
        """Whether a fetch still counts: what arrives for another must not be recorded."""
        return fetch in self._fetches

    def present(self, oid: bytes) -> tuple[int, int] | None:
        """(tier, blocks in the cache file) of an active object."""
        a = self._active.get(oid)
        return None if a is None else (a.tier, a.here)

    def run(self, oid: bytes, first: int, last: int) -> tuple[int, int] | None:
        """(tier, blocks in the cache file from `first` on without a gap) of an active object."""
        a = self._active.get(oid)
        if a is None:
            return None
        here = bytes(a.blocks[first:last])
        return a.tier, len(here) - len(here.lstrip(b"\x02"))

    def opened(self, parent: int, ino: int, *, missed: bool) -> list[Instruction]:
        """A small file was opened, which was here or not: maybe its neighbours come next."""
        scan = self._order.opened(parent, ino, missed=missed)
        return [] if scan is None else [m.ScanAhead(*scan)]

    def due(self) -> float | None:
        """When the next retry falls due."""
        return self._retries[0][0] if self._retries else None

    def load(self) -> dict[str, int]:
        """Gauges: lengths of what waits and runs."""
        return {
            "active": len(self._active),
            "waiters": len(self._waiters),
            "fetching": self._sides.fetching(),
            "queued": self._sides.queued(),
            "slot_bytes": self._slots.used(),
        }

    # --- events

    def _want(self, e: m.Want) -> None:
        a = self._active.get(e.thing.oid)
        if a is None:
            a = self._activate(e.thing, e.known)
        a.touched = e.now
        first, last = e.lo // BLOCK, (e.hi + BLOCK - 1) // BLOCK
        w = Waiter(e.waiter, a, first, min(last, len(a.blocks)), e.goal, e.deadline)
        if not a.placed:
            self._place(a)
        if not a.blocks:  # an empty file is complete as soon as it has a place
            if a.tier == NO_TIER:
                self._out.append(m.Release(w.id, a.thing, NO_TIER, []))
                self._forget(a)
            else:
                self._out.append(m.Complete(a.thing, a.tier))
                self._out.append(m.Release(w.id, a.thing, a.tier, []))
                self._forget(a)
            return
        if w.ready():
            self._release(w)
        else:
            if e.goal is Goal.WARM and a.tier == NO_TIER:
                self._out.append(m.Refuse(w.id, errno.ENOSPC, "not admitted: no tier has room for it (see `forebay status`)"))
                return
            health = self._sides.of(self._sides.is_far(a.thing.oid, first)).health(a.thing.mount)
            if e.now < health.down_until:
                self._out.append(m.Refuse(w.id, errno.EIO, health.message))
                return
            self._waiters[w.id] = w
            a.waiters[w.id] = w
            if a.thing.size <= SMALL:
                self._ask(a, 0, len(a.blocks), e.goal)
                return
            if e.span is not None:
                self._ask(a, e.span[0] // BLOCK, (e.span[1] + BLOCK - 1) // BLOCK, e.goal)
                return
        if e.goal is not Goal.DEMAND or a.thing.size <= SMALL or e.lo == e.hi or e.span is not None:
            if e.goal is not Goal.DEMAND:
                self._ask(a, w.first, w.last, e.goal)
            return
        most = AHEAD_SLOTS if a.tier == NO_TIER else 64 << 20
        begin, end = a.streams.window(e.lo, e.hi, a.thing.size, most)
        upto = (end + BLOCK - 1) // BLOCK
        if begin <= e.hi and upto > w.last:  # one exchange for what is asked and what follows
            self._ask(a, w.first, upto, Goal.AHEAD, demand_to=w.last)
        else:
            self._ask(a, w.first, w.last, Goal.DEMAND)
            if upto > begin // BLOCK:
                self._ask(a, begin // BLOCK, upto, Goal.AHEAD)

    def _cancel(self, e: m.Cancel) -> None:
        w = self._waiters.pop(e.waiter, None)
        if w is not None:
            w.active.waiters.pop(w.id, None)
            self._unpinned()

    def _arrived(self, e: m.Arrived) -> None:
        f = self._fetches.get(e.fetch)
        if f is None:
            return  # the object was lost meanwhile
        a = f.active
        state = SLOT if f.tier == NO_TIER else HERE
        a.blocks[e.first : e.first + e.count] = bytes((state,)) * e.count
        if state == HERE:
            a.here += e.count
        for w in [w for w in a.waiters.values() if w.first < e.first + e.count and e.first < w.last]:
            if w.ready():
                del self._waiters[w.id]
                del a.waiters[w.id]
                self._release(w)

    def _delivered(self, e: m.Delivered) -> None:
        if (f := self._fetches.get(e.fetch)) is not None:
            self._arrived(m.Arrived(f.id, f.first, f.count))
            self._finished(m.Finished(f.id, e.allocated, e.now))

    def _finished(self, e: m.Finished) -> None:
        f = self._fetches.pop(e.fetch, None)
        if f is None:
            return
        a = f.active
        del a.fetches[f.id]
        self._sides.of(f.far).done(f, f.count * BLOCK, e.now)
        self._patience.succeeded(self._sides.of(f.far).health(a.thing.mount))
        if a.here == len(a.blocks) and not a.fetches:
            if e.allocated >= 0:
                self.tiers[a.tier].used += e.allocated - a.charged
                a.charged = e.allocated
            self.tiers[a.tier].exhausted = False  # here is one that may go
            self._out.append(m.Complete(a.thing, a.tier))
            self._forget(a)
        self._unpinned()

    def _broken(self, e: m.Broken) -> None:
        f = self._fetches.pop(e.fetch, None)
        if f is None:
            return
        a = f.active
        del a.fetches[f.id]
        self._sides.of(f.far).done(f, 0, e.now)
        if f.tier != NO_TIER:
            self.tiers[f.tier].used -= f.give_back()
        if f.slot >= 0:
            self._drop_slot(f.slot)
        missing = a.clear(f.first, f.last, COMING)
        if e.why is Why.LOST:
            self._out.append(m.Discard(a.thing, a.tier))
            self._lost(m.Lost(a.thing.oid))
            return
        if e.why is Why.CHANGED:
            self._refuse_all(a, errno.ESTALE, e.message)
            if a.thing.ino:  # who asked from another node is told, and looks again there
                self._out.append(m.Validate(a.thing.ino))
            return
        if e.why in (Why.FULL, Why.LOCAL):
            self._tier_failed(a, f, missing, e)
            return
        wanted = any(w.needs(f) for w in a.waiters.values())
        if e.why is Why.UNAVAILABLE:
            if not wanted:
                return  # nobody waits: whoever asks for it later starts anew
            health = self._sides.of(f.far).health(a.thing.mount)
            if self._patience.failed(f, health, e.lasted, e.now):
                delay = self._patience.delay(f)
                for first, count in missing:
                    again = self._new_fetch(a, first, count, Goal.DEMAND if wanted else f.goal)
                    again.tries, again.long_tries, again.failing_since = f.tries, f.long_tries, f.failing_since
                    heapq.heappush(self._retries, (e.now + delay, again.id))
                return
            self._patience.given_up(health, e.message, e.now)
        code = errno.EACCES if e.why is Why.DENIED else errno.EIO
        for w in [w for w in a.waiters.values() if w.needs(f)]:
            self._answer(w, code, e.message)

    def _freed(self, e: m.Freed) -> None:
        t = self.tiers[e.tier]
        t.used = max(t.used - e.freed, 0)
        t.since -= e.freed
        t.evicting = False
        t.exhausted = not e.enough
        self._unpark(e.tier)

    def _sampled(self, e: m.Sampled) -> None:
        t = self.tiers[e.tier]
        t.space = e.space
        t.since = 0
        t.exhausted = False
        self._relieve(e.tier)

    def _counted(self, e: m.Counted) -> None:
        t = self.tiers[e.tier]
        t.used = max(t.used + e.delta, 0)

    def _lost(self, e: m.Lost) -> None:
        a = self._active.get(e.oid)
        if a is None:
            return
        for f in list(a.fetches.values()):
            self._fetches.pop(f.id, None)
            self._sides.of(f.far).done(f, 0, self._now)
        a.fetches.clear()
        self._refuse_all(a, errno.EIO, "the cached bytes were lost on disk: read again, and they are fetched again")
        if a.tier != NO_TIER:
            self.tiers[a.tier].used = max(self.tiers[a.tier].used - a.charged, 0)
        self._forget(a)

    def _ahead(self, e: m.Ahead) -> None:
        (self._order.entered if e.onward else self._order.scanned)(e.parent, e.inos)
        for thing in e.things:
            if thing.oid in self._active or thing.size > SMALL or self._sides.full(Goal.AHEAD):
                continue
            a = self._activate(thing, None)
            a.touched = e.now
            self._place(a)
            crowded = e.spare and a.tier != NO_TIER and not self.tiers[a.tier].roomy(allocation(thing.size), e.now)
            if a.tier == NO_TIER or not a.blocks or crowded:
                self._forget(a)  # look-ahead is not worth a slot, nor an empty file a look
                continue
            self._ask(a, 0, len(a.blocks), Goal.AHEAD)

    def _tick(self, e: m.Tick) -> None:
        while self._retries and self._retries[0][0] <= e.now:
            f = self._fetches.get(heapq.heappop(self._retries)[1])
            if f is not None:
                self._sides.of(f.far).push(f)
        for w in [w for w in self._waiters.values() if w.deadline <= e.now]:
            self._answer(
                w,
                errno.EIO,
                "the bytes did not come before the deadline: the store is too slow or the cache busy (`forebay status`)",
            )
        for a in [a for a in self._active.values() if not a.waiters and not a.fetches and a.touched + IDLE <= e.now]:
            self._forget(a)
        for i in range(len(self.tiers)):
            self._unpark(i)
            self._relieve(i)

    # --- asking for blocks

    def _ask(self, a: Active, first: int, last: int, goal: Goal, demand_to: int = 0) -> None:
        """Queue fetches for the absent blocks of [first, last), and hurry those already queued with a lesser goal."""
        upper = Goal.DEMAND if demand_to else goal
        for f in a.fetches.values():
            if f.goal > upper and f.lane < 0 and f.first < (demand_to or last) and first < f.last:
                self._sides.of(f.far).hurry(f, upper)
        for at, count in list(a.runs(first, last, ABSENT)):
            for piece, n in cut(at, at + count) if a.thing.size > SMALL else [(at, count)]:
                g = Goal.DEMAND if piece < demand_to else goal
                if self._sides.full(g):
                    return
                fetch = self._new_fetch(a, piece, n, g)
                self._sides.of(fetch.far).push(fetch)

    def _new_fetch(self, a: Active, first: int, count: int, goal: Goal) -> Fetching:
        self._next += 1
        f = Fetching(self._next, a, first, count, goal, self._sides.is_far(a.thing.oid, first))
        self._fetches[f.id] = f
        a.fetches[f.id] = f
        a.blocks[first : first + count] = b"\x01" * count
        return f

    def _dispatch(self) -> None:
        for lane, hop, far in self._sides.runs(self._target):
            run = [m.Fetch(f.id, f.active.thing, f.first, f.count, f.tier, f.slot, f.goal, not f.active.here) for f in hop]
            self._out.append(m.Run(lane, run, far))

    # --- places

    def _activate(self, thing: Thing, known: m.Known | None) -> Active:
        n = (thing.size + BLOCK - 1) // BLOCK
        a = Active(thing, bytearray(n))
        if known is not None and len(known.blocks) == n:
            a.blocks[:] = known.blocks
            a.tier, a.placed, a.spare = known.tier, True, known.spare
            a.charged = known.allocated + known.spare
            a.here = a.blocks.count(HERE)
        self._active[thing.oid] = a
        return a

    def _place(self, a: Active) -> None:
        """Choose the tier of an object that has no bytes anywhere."""
        a.placed, a.tier = True, tier_for(self.tiers, allocation(a.thing.size), SMALL, self._now)

    def _target(self, f: Fetching) -> bool:
        """Find room for a fetch. False: it waits for an eviction or a slot, was given up, or its object is gone."""
        if f.id not in self._fetches:
            return False
        a = f.active
        if a.tier != NO_TIER:
            size = allocation(min(f.last * BLOCK, a.thing.size) - f.first * BLOCK)
            need = max(size - a.spare, 0)
            t = self.tiers[a.tier]
            answer = t.ask(need, self._now)
            if answer is Answer.REFUSE and not a.here and not any(g.lane >= 0 for g in a.fetches.values()):
                self._place(a)
                if a.tier != NO_TIER:
                    t = self.tiers[a.tier]
                    answer = t.ask(need, self._now)
            if a.tier != NO_TIER and answer is Answer.ADMIT:
                t.used += need
                t.since += need
                a.charged += need
                a.spare -= size - need
                f.tier, f.charged, f.slot = a.tier, need, -1
                self._relieve(a.tier)
                return True
            if a.tier != NO_TIER and answer is Answer.EVICT:
                self._parked.setdefault(a.tier, []).append(f)
                if not t.evicting:
                    t.evicting = True
                    self._out.append(m.MakeRoom(a.tier, max(t.excess(need), need)))
                return False
        return self._slot_for(f)

    def _slot_for(self, f: Fetching) -> bool:
        a = f.active
        if f.goal is Goal.WARM:
            self._give_up(f, errno.ENOSPC, "not admitted: no tier has room for it (see `forebay status`)")
            return False
        going = self._slots.room(f.count * BLOCK)
        if going is None:
            if f.goal is Goal.AHEAD and not any(w.needs(f) for w in a.waiters.values()):
                self._give_up(f, errno.EIO, "")
            else:
                self._starved.append(f)
            return False
        for slot in going:
            self._drop_slot(slot)
        self._next += 1
        f.tier = NO_TIER
        self._slots.take(f, self._next)
        return True

    def _give_up(self, f: Fetching, code: int, message: str) -> None:
        a = f.active
        del self._fetches[f.id]
        del a.fetches[f.id]
        a.clear(f.first, f.last, COMING)
        for w in [w for w in a.waiters.values() if w.needs(f)]:
            self._answer(w, code, message)

    def _drop_slot(self, slot: int) -> None:
        self._slots.drop(slot)
        self._out.append(m.DropSlot(slot))

    def _unpinned(self) -> None:
        """Something may have let go of slots: starved fetches try again, oldest first."""
        for _ in range(len(self._starved)):
            f = self._starved.popleft()
            if f.id in self._fetches:
                self._sides.of(f.far).push(f, front=True)

    def _tier_failed(self, a: Active, f: Fetching, missing: list[tuple[int, int]], e: m.Broken) -> None:
        """The cache's file system refused the bytes: another place takes them, the reader does not hear of it."""
        if f.tier == NO_TIER:  # even the buffer: memory is gone
            for w in [w for w in a.waiters.values() if w.needs(f)]:
                self._answer(w, errno.EIO, f"no memory for the buffer of bytes that are not admitted: {e.message}")
            return
        self.tiers[f.tier].full_until = e.now + FULL_PAUSE
        self._out.append(m.TierFull(f.tier))
        for first, count in missing:
            again = self._new_fetch(a, first, count, f.goal)
            self._sides.of(again.far).push(again)

    def _relieve(self, tier: int) -> None:
        """Start an eviction when a tier stands above its high mark."""
        t = self.tiers[tier]
        if not t.evicting and not t.exhausted and t.used > 0:
            excess = t.excess()
            if excess > 0:
                t.evicting = True
                self._out.append(m.MakeRoom(tier, excess))

    def _unpark(self, tier: int) -> None:
        for f in self._parked.pop(tier, []):
            if f.id in self._fetches:
                self._sides.of(f.far).push(f)

    # --- answers

    def _release(self, w: Waiter) -> None:
        a = w.active
        pieces = self._slots.pieces(w)
        upto = 0
        if not pieces:
            beyond = bytes(a.blocks[w.last : w.last + TOLD_MOST // BLOCK])
            upto = min((w.last + len(beyond) - len(beyond.lstrip(b"\x02"))) * BLOCK, a.thing.size)
            if w.goal is Goal.DEMAND and a.thing.size > SMALL:
                a.streams.told(w.first * BLOCK, upto)
        self._out.append(m.Release(w.id, a.thing, a.tier, pieces, upto))

    def _answer(self, w: Waiter, code: int, message: str) -> None:
        del self._waiters[w.id]
        del w.active.waiters[w.id]
        self._out.append(m.Refuse(w.id, code, message))
        self._unpinned()

    def _refuse_all(self, a: Active, code: int, message: str) -> None:
        for f in [f for f in a.fetches.values() if f.lane < 0]:
            self._give_up(f, code, message)
        for w in list(a.waiters.values()):
            self._answer(w, code, message)

    def _forget(self, a: Active) -> None:
        for slot in list(a.slots):
            self._drop_slot(slot)
        self._active.pop(a.thing.oid, None)
