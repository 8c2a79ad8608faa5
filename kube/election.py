"""Who leads, by a Lease: events in, instructions out. No clock of its own, no call, no thread.

    events        Begin, Seen, Written, Failed, Tick, Release
    instructions  Look, Write, Sleep, Lead, StepDown, Over

The rules are client-go's. Times of other machines are never compared with ours: a lease is free when it has not changed for
its duration *as we saw it*, by our own clock. We lead from the moment before the write that won until `RENEW` seconds after
the moment before the last write that held (the moment *before*: the server's is later). DURATION - RENEW is what is left
for a write of ours that is under way when we stop. Who has lost does not stand again: its process ends and starts anew.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

from forebay.kube.objects import LeaseSpec

DURATION, RENEW, RETRY = 15.0, 10.0, 2.0
"""Seconds: what others wait for, how long we lead without a renewal, and between renewals. DURATION > RENEW > 1.2 RETRY."""
JITTER = 0.2


class Timing(NamedTuple):
    duration: float = DURATION
    renew: float = RENEW
    retry: float = RETRY

    def check(self) -> None:
        """Raises ValueError for values with which two could lead at once, or a leader would lose by one slow answer."""
        if not self.duration > self.renew > self.retry * (1 + JITTER) > 0 or self.duration < 1:
            raise ValueError(
                f"lease of {self.duration} s, renewed within {self.renew} s, tried every {self.retry} s: "
                f"write a duration of 1 s or more that is above the renewal's limit, and that above {1 + JITTER} pauses"
            )


# --- events ---------------------------------------------------------------------------------------------------------


class Begin(NamedTuple):
    now: float


class Seen(NamedTuple):
    """What the server has; `spec` None: no such lease."""

    spec: LeaseSpec | None
    version: str
    now: float


class Written(NamedTuple):
    """Our Write holds. `asked`: the moment before it was sent; `version`: the lease's new one."""

    version: str
    asked: float
    now: float


class Failed(NamedTuple):
    """A Look or Write did not succeed; `conflict`: somebody else wrote it first."""

    why: str
    conflict: bool
    now: float


class Tick(NamedTuple):
    now: float


class Release(NamedTuple):
    """We end by ourselves: let the next one in at once."""

    now: float


# --- instructions ---------------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """Read the lease."""


class Write(NamedTuple):
    """Write `spec` over `version` ("": create). The times in it are the shell's to fill: `acquire_time` where `acquired`."""

    spec: LeaseSpec
    version: str
    acquired: bool


class Sleep(NamedTuple):
    until: float


class Lead(NamedTuple):
    pass


class StepDown(NamedTuple):
    why: str


class Over(NamedTuple):
    """Nothing more comes."""


Event = Begin | Seen | Written | Failed | Tick | Release
Instruction = Look | Write | Sleep | Lead | StepDown | Over


class Election:
    """See the module. `holder`: who leads as far as we have seen, "" for nobody."""

    def __init__(self, identity: str, timing: Timing, random: Random) -> None:
        if not identity:
            raise ValueError("a candidate needs an identity that no other has: its pod's name and a random part")
        timing.check()
        self._identity, self._timing, self._random = identity, timing, random
        self._state: Literal["follower", "leader", "releasing", "over"] = "follower"
        self._spec: LeaseSpec | None = None
        self._version = ""
        self._seen_at = 0.0
        self._renewed = float("-inf")
        self._writing: LeaseSpec | None = None
        self.holder = ""

    @property
    def leading(self) -> bool:
        return self._state == "leader"

    def may_write(self, now: float) -> bool:
        """Whether what a leader does may be done now. A process that was stopped for long finds out here, not by a Tick."""
        return self._state == "leader" and now < self._renewed + self._timing.renew

    def handle(self, event: Event) -> list[Instruction]:
        if self._state == "over":
            return []
        if isinstance(event, Release):
            return self._release()
        if self._state == "releasing":
            return self._finish() if isinstance(event, Written | Failed) else []
        if self._state == "leader" and event.now >= self._renewed + self._timing.renew and not isinstance(event, Written):
            return self._step_down(f"the lease was not renewed for {event.now - self._renewed:.1f} s")
        if isinstance(event, Begin | Tick):
            return self._look_or_renew()
        if isinstance(event, Seen):
            return self._seen(event)
        if isinstance(event, Written):
            return self._written(event)
        if event.conflict and self._state == "leader":
            return [Look()]
        return [self._sleep(event.now)]

    def _look_or_renew(self) -> list[Instruction]:
        return [self._write(self._transitions(), acquired=False)] if self._state == "leader" else [Look()]

    def _seen(self, event: Seen) -> list[Instruction]:
        if event.spec != self._spec or event.version != self._version:
            self._seen_at = event.now
        self._spec, self._version = event.spec, event.version
        self.holder = (event.spec.holder_identity or "") if event.spec else ""
        if self._state == "leader":
            if self.holder != self._identity:
                return self._step_down(f"{self.holder or 'nobody'} holds the lease now")
            return [self._write(self._transitions(), acquired=False)]
        if event.spec is None:
            return [self._write(0, acquired=True)]
        if self.holder == self._identity:  # an answer to our own write was lost
            return [self._write(self._transitions(), acquired=False)]
        lasts = event.spec.lease_duration_seconds or self._timing.duration
        if self.holder and event.now < self._seen_at + lasts:
            return [self._sleep(event.now)]
        return [self._write(self._transitions() + 1, acquired=True)]

    def _transitions(self) -> int:
        return (self._spec.lease_transitions or 0) if self._spec else 0

    def _write(self, transitions: int, *, acquired: bool) -> Write:
        self._writing = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(self._timing.duration)),
            acquire_time=None if acquired or self._spec is None else self._spec.acquire_time,
            lease_transitions=transitions,
        )
        return Write(self._writing, self._version, acquired)

    def _written(self, event: Written) -> list[Instruction]:
        self._spec, self._version, self._seen_at = self._writing, event.version, event.now
        self._renewed, self.holder = event.asked, self._identity
        was, self._state = self._state, "leader"
        if not self.may_write(event.now):  # the answer took longer than a renewal may
            return (
                self._step_down(f"the answer to the renewal took {event.now - event.asked:.1f} s")
                if was == "leader"
                else self._again()
            )
        return [*([Lead()] if was != "leader" else []), Sleep(event.now + self._timing.retry)]

    def _again(self) -> list[Instruction]:
        self._state = "follower"
        return [Look()]

    def _sleep(self, now: float) -> Sleep:
        return Sleep(now + self._timing.retry * (1 + self._random.uniform(0, JITTER)))

    def _step_down(self, why: str) -> list[Instruction]:
        self._state = "over"
        return [StepDown(why), Over()]

    def _release(self) -> list[Instruction]:
        if self._state != "leader":
            self._state = "over"
            return [Over()]
        self._state = "releasing"
        free = LeaseSpec(holder_identity="", lease_duration_seconds=1, lease_transitions=self._transitions())
        return [StepDown("released"), Write(free, self._version, acquired=False)]

    def _finish(self) -> list[Instruction]:
        self._state, self.holder = "over", ""
        return [Over()]
