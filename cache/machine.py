"""The worker's machine: which bytes are fetched, for whom, in what order and to which place. Pure.

Events in, instructions out; no I/O, no clock (events carry `now`), no threads. The shell is `worker.py`.

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

from forebay.cache import messages as m
from forebay.cache.ahead import TOLD_MOST, Order, cut
from forebay.cache.dispatch import Dispatcher
from forebay.cache.index import BLOCK, BLOCKS_PER_SEGMENT
from forebay.cache.messages import NO_TIER, Goal, Instruction, Thing, Why
from forebay.cache.motion import ABSENT, COMING, HERE, SLOT, Active, Fetching, Waiter
from forebay.cache.policy import FULL_PAUSE, Answer, TierState, allocation
from forebay.cache.slots import Slots

SMALL = 8 << 20
"""Files up to this size are fetched whole in one exchange."""
LANES = 16
SLOT_BYTES = 256 << 20
PATIENCE = 30.0
"""Seconds from the first failure during which an unavailable store is asked again for the same bytes."""
LONG_TRY, LONG_TRIES = 5.0, 2
"""A try that failed after this long has eaten the store's own deadline: two of them and the reader hears of it."""
RETRY_FIRST, RETRY_MOST = 0.1, 4.0
BUDGET_MOST, BUDGET_PER_FETCH = 64.0, 0.2
"""Retries are paid from a budget that grows with success: a store in trouble is not asked six times as much."""
DOWN_AFTER, DOWN_FOR = 4, 3.0
"""After so many failures in a row with patience spent, a mount refuses at once for some seconds and hangs no more readers."""
IDLE = 30.0
AHEAD_SLOTS = 32 << 20
FAR_LANES, FAR_AHEAD = 16, 2
"""Lanes to other members, and how many of them look-ahead and warm-up may take: with more, small files went one by one."""
FAR_HOP = 64
"""Small files fetched from members in one exchange: 64 of 16 KiB are 1 MiB, 2 ms of a 500 MB/s link."""


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
        self._far = far
        self._active: dict[bytes, Active] = {}
        self._waiters: dict[int, Waiter] = {}
        self._fetches: dict[int, Fetching] = {}
        self._lanes = Dispatcher(lanes)
        self._far_lanes = Dispatcher(FAR_LANES, FAR_HOP, fill=True, ahead=FAR_AHEAD)
        self._parked: dict[int, list[Fetching]] = {}  # tier -> fetches that wait for an eviction
        self._starved: deque[Fetching] = deque()  # wait for buffer slots
        self._retries: list[tuple[float, int]] = []
        self._slots = Slots(slot_bytes)
        self._budget = BUDGET_MOST
        self._order = Order()
        self._rng = rng or random.Random(0)
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

    def handle(self, event: m.Event) -> list[Instruction]:
        """Take one event; instructions must be carried out in order."""
        self._out = []
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
            "fetching": self._lanes.fetching() + self._far_lanes.fetching(),
            "queued": self._lanes.queued() + self._far_lanes.queued(),
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
        if self._ready(w):
            self._release(w)
        else:
            if e.goal is Goal.WARM and a.tier == NO_TIER:
                self._out.append(m.Refuse(w.id, errno.ENOSPC, "not admitted: no tier has room for it (see `forebay status`)"))
                return
            health = self._side(self._is_far(a, first)).health(a.thing.mount)
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
            if self._ready(w):
                del self._waiters[w.id]
                del a.waiters[w.id]
                self._release(w)

    def _delivered(self, e: m.Delivered) -> None:
        f = self._fetches.get(e.fetch)
        if f is not None:
            self._arrived(m.Arrived(f.id, f.first, f.count))
            self._finished(m.Finished(f.id, e.allocated, e.now))

    def _finished(self, e: m.Finished) -> None:
        f = self._fetches.pop(e.fetch, None)
        if f is None:
            return
        a = f.active
        del a.fetches[f.id]
        self._side(f.far).done(f, f.count * BLOCK, e.now)
        health = self._side(f.far).health(a.thing.mount)
        health.failures, health.down_until, health.failing_since = 0, 0.0, 0.0
        self._budget = min(self._budget + BUDGET_PER_FETCH, BUDGET_MOST)
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
        self._side(f.far).done(f, 0, e.now)
        self._uncharge(f)
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
            if self._may_retry(f, e):
                delay = min(RETRY_FIRST * 2 ** (f.tries - 1), RETRY_MOST) * self._rng.uniform(0.5, 1.5)
                for first, count in missing:
                    again = self._new_fetch(a, first, count, Goal.DEMAND if wanted else f.goal)
                    again.tries, again.long_tries, again.failing_since = f.tries, f.long_tries, f.failing_since
                    heapq.heappush(self._retries, (e.now + delay, again.id))
                return
            health = self._side(f.far).health(a.thing.mount)
            health.failures += 1
            if health.failures >= DOWN_AFTER or e.now - health.failing_since >= PATIENCE:
                health.down_until, health.message = e.now + DOWN_FOR, e.message
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
            self._side(f.far).done(f, 0, self._now)
        a.fetches.clear()
        self._refuse_all(a, errno.EIO, "the cached bytes were lost on disk: read again, and they are fetched again")
        if a.tier != NO_TIER:
            self.tiers[a.tier].used = max(self.tiers[a.tier].used - a.charged, 0)
        self._forget(a)

    def _ahead(self, e: m.Ahead) -> None:
        (self._order.entered if e.onward else self._order.scanned)(e.parent, e.inos)
        for thing in e.things:
            if thing.oid in self._active or thing.size > SMALL or self._full(Goal.AHEAD):
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
                self._side(f.far).push(f)
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
                self._side(f.far).hurry(f, upper)
        for at, count in list(a.runs(first, last, ABSENT)):
            for piece, n in cut(at, at + count) if a.thing.size > SMALL else [(at, count)]:
                g = Goal.DEMAND if piece < demand_to else goal
                if self._full(g):
                    return
                fetch = self._new_fetch(a, piece, n, g)
                self._side(fetch.far).push(fetch)

    def _new_fetch(self, a: Active, first: int, count: int, goal: Goal) -> Fetching:
        self._next += 1
        f = Fetching(self._next, a, first, count, goal, self._is_far(a, first))
        self._fetches[f.id] = f
        a.fetches[f.id] = f
        a.blocks[first : first + count] = b"\x01" * count
        return f

    def _dispatch(self) -> None:
        for lanes in (self._lanes, self._far_lanes):
            for lane, hop in lanes.runs(self._target):
                run = [m.Fetch(f.id, f.active.thing, f.first, f.count, f.tier, f.slot, f.goal, not f.active.here) for f in hop]
                self._out.append(m.Run(lane, run, lanes is self._far_lanes))

    def _is_far(self, a: Active, block: int) -> bool:
        return self._far is not None and self._far(a.thing.oid, block // BLOCKS_PER_SEGMENT)

    def _side(self, far: bool) -> Dispatcher:
        return self._far_lanes if far else self._lanes

    def _full(self, goal: Goal) -> bool:
        return self._lanes.full(goal) or self._far_lanes.full(goal)

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
        """Choose the tier of an object that has no bytes anywhere: the first with room, else the largest that can make room."""
        size = allocation(a.thing.size)
        a.placed = True
        able = [
            i for i, t in enumerate(self.tiers) if size <= t.ceiling() and t.ask(min(size, SMALL), self._now) is not Answer.REFUSE
        ]
        a.tier = next((i for i in able if self.tiers[i].roomy(size, self._now)), NO_TIER)
        if a.tier == NO_TIER and able:
            a.tier = max(able, key=lambda i: self.tiers[i].ceiling())

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
                self._side(f.far).push(f, front=True)

    def _uncharge(self, f: Fetching) -> None:
        """Give back what was promised for blocks of a fetch that did not arrive."""
        if f.tier == NO_TIER or not f.charged:
            return
        a = f.active
        got = min(sum(n for _, n in a.runs(f.first, f.last, HERE)) * BLOCK, f.charged)
        back = f.charged - got
        f.charged = got
        a.charged -= back
        self.tiers[f.tier].used -= back

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
            self._side(again.far).push(again)

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
                self._side(f.far).push(f)

    # --- answers

    def _ready(self, w: Waiter) -> bool:
        b = w.active.blocks
        n = w.last - w.first
        here = b.count(HERE, w.first, w.last)
        return here == n or here + b.count(SLOT, w.first, w.last) == n

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

    def _may_retry(self, f: Fetching, e: m.Broken) -> bool:
        f.tries += 1
        f.failing_since = f.failing_since or e.now
        f.long_tries += e.lasted >= LONG_TRY
        health = self._side(f.far).health(f.active.thing.mount)
        health.failing_since = health.failing_since or e.now
        if e.now - health.failing_since >= PATIENCE:
            return False  # the store has been silent to everybody for as long: one try each tells when it is back
        if self._budget < 1 or f.long_tries >= LONG_TRIES or e.now - f.failing_since >= PATIENCE:
            return False
        self._budget -= 1
        return True

    def _forget(self, a: Active) -> None:
        for slot in list(a.slots):
            self._drop_slot(slot)
        self._active.pop(a.thing.oid, None)
