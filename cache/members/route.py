"""Whom to ask for a range of one segment, and whom next when that does not answer. Pure: events in, the next step out.

The owner fetches each byte from the store once, so the others wait for it longer than it takes to doubt it:

- 1 s without a byte: whoever may have a copy is asked for what it has (`cached`), while the owner's answer stays open;
- no connection for 2 s, or silence for 10 s: the next member fetches in its place (`standin`). All nodes agree who that
  is, and it, too, fetches once;
- the own store comes last, for a node that has one and found no member to ask.

A member that refuses or is silent is remembered for all ranges in `Health`, so that only the first of them pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from forebay.cache.peers.wire import Mode

HEDGE_AFTER = 1.0
"""Seconds without progress after which copies are looked for."""
HEDGES, HEDGE_WAIT = 2, 0.5
"""How many members are asked for a copy, and how long each has to send the first byte of one: it need not fetch it."""
REFUSING = 2.0
"""Seconds of refused connections after which a member is replaced. A killed worker is up again within 1."""
SILENT = 10.0
"""Seconds of silence after which a member is replaced, and for which it then is not asked."""
STALE = 5.0
"""A refusal so long after the last one begins a new count."""
PATIENCE = 25.0
"""Seconds after which a range that nobody serves fails."""
RETRY_PAUSE, ROUND_PAUSE = 0.2, 0.5
BREAKS = 2
"""Times an owner may break off without having sent a block before it is replaced."""


class Ask(NamedTuple):
    """Ask a member for all that is left of the range. `patience`: seconds without a byte before `silence`."""

    member: str
    mode: Mode
    patience: float


class Listen(NamedTuple):
    """Go on listening to the owner's open answer, or ask it again where that is gone."""

    member: str
    patience: float


class Store(NamedTuple):
    """Read what is left from the own store."""


class Pause(NamedTuple):
    """Wait, then tell `paused`."""

    seconds: float


class Fail(NamedTuple):
    """Nobody serves the range."""

    reason: str


Step = Ask | Listen | Store | Pause | Fail


class _Ill:
    __slots__ = ("last", "refused_since", "silent_until")

    def __init__(self) -> None:
        self.refused_since: float | None = None
        self.last = 0.0
        self.silent_until = 0.0


class Health:
    """Which members answer. Shared by all routes of a process; single operations on its dictionary, so no lock.

    A member that is ill keeps its place in the placement and is routed around until it answers a greeting (`answered`).
    """

    def __init__(self) -> None:
        self._ill: dict[str, _Ill] = {}

    def refused(self, member: str, now: float) -> None:
        """It took no connection."""
        ill = self._ill.setdefault(member, _Ill())
        if ill.refused_since is None or now - ill.last > STALE:
            ill.refused_since = now
        ill.last = now

    def silent(self, member: str, now: float) -> None:
        """It said nothing for `SILENT` seconds."""
        self._ill.setdefault(member, _Ill()).silent_until = now + SILENT

    def heard(self, member: str) -> None:
        """It sent bytes."""
        if member in self._ill:
            self._ill.pop(member, None)

    def answered(self, member: str, now: float) -> None:
        """It answers greetings: one that refused is well again, one that was silent after its time."""
        ill = self._ill.get(member)
        if ill is not None and ill.silent_until <= now:
            self._ill.pop(member, None)
        elif ill is not None:
            ill.refused_since = None

    def down(self, member: str, now: float) -> bool:
        """Whether it is not to be asked."""
        ill = self._ill.get(member)
        if ill is None:
            return False
        refusing = ill.refused_since is not None and ill.last - ill.refused_since >= REFUSING
        return refusing or now < ill.silent_until

    def ill(self) -> list[str]:
        """Members to greet."""
        return list(self._ill)


class _Phase(Enum):
    OWNER = 1  # the owner was asked
    HEDGE = 2  # a copy is looked for
    STANDIN = 3  # another fetches in the owner's place
    STORE = 4
    PAUSE = 5


class Route:
    """One range of one segment. `ranked` are member identities, owner first; `me` asks, and may be one of them.

    `store`: whether `me` can read the store. `as_owner`: another node asked `me` to stand in for the owner. `returned`: `me`
    was away and others may have fetched in its place. After `begin`, each event is about the step returned last.
    """

    def __init__(
        self,
        ranked: Sequence[str],
        *,
        me: str,
        store: bool,
        health: Health,
        as_owner: bool = False,
        returned: bool = False,
    ) -> None:
        self.ranked = list(ranked)
        self.me = me
        self.store = store
        self.health = health
        self.own = store and (as_owner or (bool(ranked) and ranked[0] == me))
        self._returned = returned
        self._phase = _Phase.PAUSE
        self._member = ""
        self._began = 0.0
        self._heard = 0.0
        self._hedged = False
        self._hedges: list[str] = []
        self._after = "store"
        self._breaks = 0
        self._busy_since: float | None = None
        self._standins: list[str] | None = None
        self._reason = "no members are known"
        self._hopeless = True  # whether all that was asked in this round will not serve this node, now or later

    def begin(self, now: float) -> Step:
        self._began = now
        if not self.own:
            return self._ask_owner(now)
        return self._hedge(now, "store") if self._returned else self._from_store()

    # --- events

    def progress(self, now: float) -> float:
        """Bytes came. Returns the patience for those that follow."""
        self.health.heard(self._member)
        self._heard = now
        self._began = now
        self._busy_since = None
        if self._phase is _Phase.OWNER:
            self._hedged = False
            self._breaks = 0
            return HEDGE_AFTER
        return HEDGE_WAIT if self._phase is _Phase.HEDGE else SILENT

    def silence(self, now: float) -> Step:
        """The step's patience is over."""
        self._hopeless = False
        if self._phase is _Phase.OWNER:
            if not self._hedged:
                return self._hedge(now, "listen")
            return self._listen(now)
        if self._phase is _Phase.STANDIN:
            self._reason = f"member {self._member[:8]} was silent for {SILENT:.0f} s"
            self.health.silent(self._member, now)
        return self._next(now)

    def refused(self, now: float, reason: str = "") -> Step:
        """No connection."""
        self._hopeless = False
        self._reason = reason or f"member {self._member[:8]} refuses connections"
        self.health.refused(self._member, now)
        if self._phase is not _Phase.OWNER:
            return self._next(now)
        if self.health.down(self._member, now):
            return self._stand_in(now)
        return self._hedge(now, "retry")

    def broken(self, now: float, *, wrong: bool = False, reason: str = "") -> Step:
        """The answer broke off, made no sense, or (`wrong`) had a wrong checksum: then this owner is not asked again."""
        self._hopeless = False
        self._reason = reason or f"member {self._member[:8]} broke off"
        if self._phase is not _Phase.OWNER:
            return self._next(now)
        self._breaks += 1
        return self._hedge(now, "standin" if wrong or self._breaks > BREAKS else "retry")

    def busy(self, now: float, reason: str = "") -> Step:
        """No connection to spare."""
        self._hopeless = False
        self._reason = reason or f"member {self._member[:8]} is busy"
        if self._phase is not _Phase.OWNER:
            return self._next(now)
        self._busy_since = now if self._busy_since is None else self._busy_since
        return self._hedge(now, "standin" if now - self._busy_since >= REFUSING else "retry")

    def shut(self, now: float, reason: str) -> Step:
        """It will not serve this node."""
        self._reason = reason
        return self._stand_in(now) if self._phase is _Phase.OWNER else self._next(now)

    def absent(self, now: float) -> Step:
        """It has nothing of the range, or (a copy) not all of it."""
        if self._phase is _Phase.OWNER:
            self._reason = f"member {self._member[:8]} does not serve this mount"
            return self._stand_in(now)
        return self._next(now)

    def paused(self, now: float) -> Step:
        return self._ask_owner(now)

    # --- decisions

    def _ask_owner(self, now: float) -> Step:
        self._standins = None
        self._hopeless = True
        if not self.ranked or self.ranked[0] == self.me or self.health.down(self.ranked[0], now):
            return self._stand_in(now)
        self._phase = _Phase.OWNER
        self._member = self.ranked[0]
        self._heard = now
        return Ask(self._member, Mode.FETCH, HEDGE_AFTER)

    def _listen(self, now: float) -> Step:
        left = SILENT - (now - self._heard)
        if left <= 0:
            self.health.silent(self.ranked[0], now)
            self._reason = f"owner {self.ranked[0][:8]} was silent for {SILENT:.0f} s"
            return self._stand_in(now)
        self._phase = _Phase.OWNER
        self._member = self.ranked[0]
        return Listen(self._member, left)

    def _hedge(self, now: float, after: str) -> Step:
        """Look for copies, once in each spell without progress, then go on with `after`."""
        self._after = after
        if not self._hedged:
            self._hedged = True
            owner = "" if self.own else self.ranked[0]
            others = [m for m in self.ranked if m not in (self.me, owner) and not self.health.down(m, now)]
            self._hedges = others[:HEDGES]
        else:
            self._hedges = []
        return self._next_hedge(now)

    def _next_hedge(self, now: float) -> Step:
        if self._hedges:
            self._phase = _Phase.HEDGE
            self._member = self._hedges.pop(0)
            return Ask(self._member, Mode.CACHED, HEDGE_WAIT)
        if self._after == "listen":
            return self._listen(now)
        if self._after == "retry":
            self._phase = _Phase.PAUSE
            return Pause(RETRY_PAUSE)
        return self._from_store() if self._after == "store" else self._stand_in(now)

    def _next(self, now: float) -> Step:
        return self._next_hedge(now) if self._phase is _Phase.HEDGE else self._stand_in(now)

    def _stand_in(self, now: float) -> Step:
        if self._standins is None:
            self._standins = self.ranked[1:] if self.ranked and self.ranked[0] != self.me else list(self.ranked)
        while self._standins:
            member = self._standins.pop(0)
            if member == self.me:
                if self.store:
                    return self._from_store()
            elif self.health.down(member, now):
                self._hopeless = False
            else:
                self._phase = _Phase.STANDIN
                self._member = member
                return Ask(member, Mode.STANDIN, SILENT)
        if self.store:
            return self._from_store()
        if self._hopeless and (self.ranked and not self.health.down(self.ranked[0], now)):
            return Fail(self._reason)
        if now - self._began >= PATIENCE:
            return Fail(self._reason)
        self._phase = _Phase.PAUSE
        self._hedged = False
        self._breaks = 0
        return Pause(ROUND_PAUSE)

    def _from_store(self) -> Step:
        self._phase = _Phase.STORE
        return Store()
