"""Which fetch goes to which lane: queues by goal, hops of small files, and the width of each store. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from forebay.cache.disk.index import BLOCKS_PER_SEGMENT
from forebay.cache.fetch.messages import Goal
from forebay.cache.fetch.motion import Fetching, Health

TINY = 1 << 20
"""Files up to this size may share a hop to a thread: 140 us an exchange of hands is worth saving below 1 ms of work."""
HOP = 8
ALONG = 32
"""Small files, with the one that is demanded, of an exchange with a member that look-ahead joins."""
QUEUE_MOST = 1024
"""Bound of queued look-ahead of each kind; demand is bounded by the door's connections, warm-up by its own."""
GOALS = tuple(Goal)  # an enum's own iterator costs 1 us
KEPT = 2
FAR_LANES, FAR_AHEAD = 16, 2
"""Lanes to other members, and how many of them look-ahead and warm-up may take: with more, small files went one by one."""
FAR_HOP = 64
"""Small files fetched from members in one exchange: 64 of 16 KiB are 1 MiB, 2 ms of a 500 MB/s link."""


class Dispatcher:
    """`lanes` lanes and what waits for them. `healths` are the mounts', made when first needed.

    `hop`: small files that share one; `fill`: as many as wait go together, because one exchange brings them all. `kept`:
    lanes that only demand may take while others run; `ahead`: how many lanes the rest may take at a time, whatever demand has.
    """

    def __init__(self, lanes: int, hop: int = HOP, *, fill: bool = False, kept: int = KEPT, ahead: int | None = None) -> None:
        self._most = hop
        self._fill = fill
        self._kept = kept
        self._ahead = lanes if ahead is None else ahead
        self._not_demand: set[int] = set()  # lanes with look-ahead or warm-up
        self.healths: dict[int, Health] = {}
        self._busy: dict[int, int] = {}  # lane -> fetches left in it
        self._free = list(range(lanes - 1, -1, -1))
        self._narrow: tuple[deque[Fetching], ...] = tuple(deque() for _ in Goal)
        self._wide: tuple[deque[Fetching], ...] = tuple(deque() for _ in Goal)
        self._queues = self._narrow + self._wide

    def health(self, mount: int) -> Health:
        h = self.healths.get(mount)
        if h is None:
            h = self.healths[mount] = Health()
        return h

    def fetching(self) -> int:
        return sum(self._busy.values())

    def queued(self) -> int:
        return sum(map(len, self._queues))

    def _queue(self, f: Fetching) -> deque[Fetching]:
        return (self._wide if f.wide else self._narrow)[f.goal]

    def full(self, goal: Goal) -> bool:
        """Whether look-ahead must not queue more."""
        return goal is Goal.AHEAD and max(len(self._narrow[goal]), len(self._wide[goal])) >= QUEUE_MOST

    def push(self, f: Fetching, *, front: bool = False) -> None:
        if front:
            self._queue(f).appendleft(f)
        else:
            self._queue(f).append(f)

    def hurry(self, f: Fetching, goal: Goal) -> None:
        """Somebody more important wants a queued fetch. One that is parked or waits for its retry comes back with that goal."""
        try:
            self._queue(f).remove(f)
        except ValueError:
            f.goal = goal
            return
        f.goal = goal
        self.push(f)

    def runs(self, ready: Callable[[Fetching], bool]) -> list[tuple[int, list[Fetching]]]:
        """Hops to start now, demand first. `ready` finds room for a fetch, or takes it away and says False."""
        out: list[tuple[int, list[Fetching]]] = []
        if not any(self._queues):
            return out
        while self._free:
            hop = self._next(ready)
            if not hop:
                break
            lane = self._free.pop()
            self._busy[lane] = len(hop)
            if hop[0].goal is not Goal.DEMAND:
                self._not_demand.add(lane)
            for f in hop:
                f.lane = lane
                if f.wide:
                    self.health(f.active.thing.mount).wide += 1
            out.append((lane, hop))
        return out

    def _next(self, ready: Callable[[Fetching], bool]) -> list[Fetching]:
        for goal in GOALS:
            if goal is not Goal.DEMAND and self._busy and (len(self._free) <= self._kept or len(self._not_demand) >= self._ahead):
                return []
            if self._narrow[goal]:
                hop = self._hop(self._narrow[goal], goal, ready)
                if hop:
                    return hop
            if self._wide[goal]:
                f = self._one_wide(self._wide[goal], ready)
                if f is not None:
                    return [f]
        return []

    def _hop(self, queue: deque[Fetching], goal: Goal, ready: Callable[[Fetching], bool]) -> list[Fetching]:
        share = len(queue) if self._fill else len(queue) // len(self._free)
        most = 1 if goal is Goal.DEMAND else max(1, min(self._most, share))
        hop: list[Fetching] = []
        self._take(hop, queue, most, ready)
        if goal is Goal.DEMAND and self._fill and hop and hop[0].active.thing.size <= TINY:
            # the exchange is paid for: what waits behind it as look-ahead comes along, after what is demanded
            for lesser in GOALS[1:]:
                self._take(hop, self._narrow[lesser], ALONG, ready)
        return hop

    @staticmethod
    def _take(hop: list[Fetching], queue: deque[Fetching], most: int, ready: Callable[[Fetching], bool]) -> None:
        while queue and len(hop) < most:
            if hop and queue[0].active.thing.size > TINY:
                break
            f = queue.popleft()
            if ready(f):
                hop.append(f)
                if f.active.thing.size > TINY:
                    break

    def _one_wide(self, queue: deque[Fetching], ready: Callable[[Fetching], bool]) -> Fetching | None:
        """The first wide fetch of a store that may have one more; those of others keep their places."""
        passed: list[Fetching] = []
        found = None
        while queue and found is None and len(passed) < QUEUE_MOST:
            f = queue.popleft()
            h = self.health(f.active.thing.mount)
            if h.wide >= h.width.width:
                passed.append(f)
            elif ready(f):
                found = f
        queue.extendleft(reversed(passed))
        return found

    def done(self, f: Fetching, nbytes: int, now: float) -> None:
        """A fetch left its lane, with `nbytes` delivered."""
        if f.lane < 0:
            return
        self._busy[f.lane] -= 1
        if not self._busy[f.lane]:
            del self._busy[f.lane]
            self._not_demand.discard(f.lane)
            self._free.append(f.lane)
        f.lane = -1
        if f.wide:
            h = self.health(f.active.thing.mount)
            if h.wide >= h.width.width and any(self._wide):
                h.width.finished(nbytes, now)
            else:
                h.width.idle()
            h.wide -= 1


class Sides:
    """Lanes to the stores, and lanes to other members: were they to share lanes, two members that read from each other would
    stand still. `far(oid, segment)`: whether another member fetches it from the store."""

    def __init__(self, lanes: int, far: Callable[[bytes, int], bool] | None) -> None:
        self._asked = far
        self._near = Dispatcher(lanes)
        self._far = Dispatcher(FAR_LANES, FAR_HOP, fill=True, ahead=FAR_AHEAD)

    def is_far(self, oid: bytes, block: int) -> bool:
        return self._asked is not None and self._asked(oid, block // BLOCKS_PER_SEGMENT)

    def of(self, far: bool) -> Dispatcher:
        return self._far if far else self._near

    def full(self, goal: Goal) -> bool:
        return self._near.full(goal) or self._far.full(goal)

    def fetching(self) -> int:
        return self._near.fetching() + self._far.fetching()

    def queued(self) -> int:
        return self._near.queued() + self._far.queued()

    def runs(self, ready: Callable[[Fetching], bool]) -> Iterator[tuple[int, list[Fetching], bool]]:
        """(lane, hop, whether it is a lane to members) of what starts now."""
        for side, far in ((self._near, False), (self._far, True)):
            for lane, hop in side.runs(ready):
                yield lane, hop, far
