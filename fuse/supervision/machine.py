"""What the supervisor does next: events in, instructions out. No clock, no process, no file.

One worker and one daemon per mount. The worker starts first; a daemon starts once the worker answered. A process that
dies is started again: at once if it had been well, with a growing pause after failed starts. A mount whose daemon fails
five starts within 120 s, or stays away for 120 s, is aborted, so that nothing hangs for ever. The worker is never given
up on (cached files stay readable without it), except when it says that its configuration is wrong (exit code 2).

A *failed start* is an exit before the process answered, an exit of its own within 10 s after it did, or a daemon that
no longer answers. A process that was well and is killed from outside (SIGKILL, SIGTERM) has not failed to start.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Literal, NamedTuple

WORKER = "worker"

FAILED_STARTS = 5
WINDOW = 120.0
"""Seconds within which failed starts count together, and the longest a mount may be without a daemon."""
STEADY = 10.0
"""Seconds after its first answer from which a process's own exit is no failed start."""
START_LIMIT = 300.0
"""Seconds from the beginning until every mount must answer; reconciling 10^7 cache files takes minutes."""
DAEMON_GRACE = 5.0
WORKER_GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL: the worker makes its ledger durable first."""
FIRST_PAUSE = 0.1
LAST_PAUSE = 30.0
EXIT_CONFIGURATION = 2

Phase = Literal["starting", "up", "stopping", "done"]
State = Literal["idle", "waiting", "starting", "ready", "stopping", "gone"]
"""`waiting`: for its pause to end. `gone`: not to be started again."""


# --- events ---------------------------------------------------------------------------------------------------------


class Begin(NamedTuple):
    """Start everything that is not adopted."""

    now: float


class Adopted(NamedTuple):
    """A process of an earlier supervisor lives on."""

    role: str
    pid: int
    now: float


class Started(NamedTuple):
    role: str
    pid: int
    now: float


class Unstartable(NamedTuple):
    """The system refused to start it: `why` is the system's sentence."""

    role: str
    why: str
    now: float


class Unmountable(NamedTuple):
    """The system refused the mount."""

    role: str
    why: str
    now: float


class Ready(NamedTuple):
    role: str
    now: float


class Silent(NamedTuple):
    """It lives and does not answer."""

    role: str
    now: float


class Exited(NamedTuple):
    """`status` as in `os.waitstatus_to_exitcode`; None when it was not our child. `why`: last line of its log."""

    role: str
    status: int | None
    why: str
    now: float


class Unplugged(NamedTuple):
    """Somebody else unmounted it, or aborted its connection."""

    role: str
    now: float


class Stop(NamedTuple):
    now: float


class Detached(NamedTuple):
    """`Detach` was done."""

    role: str
    now: float


class Tick(NamedTuple):
    now: float


Event = Begin | Adopted | Started | Unstartable | Unmountable | Ready | Silent | Exited | Unplugged | Stop | Detached | Tick


# --- instructions ---------------------------------------------------------------------------------------------------


class Spawn(NamedTuple):
    role: str


class Kill(NamedTuple):
    role: str
    signal: int


class Abort(NamedTuple):
    """End the connection and detach the mount: whoever waits gets an error now."""

    role: str


class Detach(NamedTuple):
    """Unmount; answered with `Detached`."""

    role: str


class Report(NamedTuple):
    level: Literal["info", "warning", "error"]
    text: str


class Finish(NamedTuple):
    """Everything has ended; `error` is the reason when the start failed."""

    error: str | None


Instruction = Spawn | Kill | Abort | Detach | Report | Finish


class Child:
    """One process to be kept. Invariant: `pid` is set exactly in the states starting, ready and stopping."""

    __slots__ = ("away", "due", "failures", "pid", "restarts", "role", "silenced", "since", "state", "trouble")

    def __init__(self, role: str) -> None:
        self.role = role
        self.state: State = "idle"
        self.pid: int | None = None
        self.since = 0.0  # when it came into its state
        self.due = 0.0  # end of the pause (waiting), time of SIGKILL (stopping)
        self.away = 0.0  # when it was last known to answer (or began)
        self.failures: list[float] = []  # failed starts of the last WINDOW seconds
        self.restarts = 0
        self.silenced = False  # killed by us because it did not answer
        self.trouble = ""  # what keeps it from running, for `status`


class Machine:
    """State of one dataset's processes. Invariant: a daemon's role is in `children` for as long as its mount exists."""

    def __init__(self, mounts: list[str], jitter: Callable[[], float] = lambda: 0.5) -> None:
        self.worker = Child(WORKER)
        self.mounts = [Child(m) for m in mounts]
        self.children = {c.role: c for c in (self.worker, *self.mounts)}
        self.phase: Phase = "starting"
        self.error: str | None = None  # why the start failed, or what is wrong now
        self._jitter = jitter
        self._begun: float | None = None
        self._detaching: set[str] = set()
        self._out: list[Instruction] = []

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event, return what to do, in order."""
        self._out = []
        match event:
            case Begin(now):
                self._begin(now)
            case Adopted(role, pid, now):
                self._adopted(self.children[role], pid, now)
            case Started(role, pid, now):
                self._started(self.children[role], pid, now)
            case Unstartable(role, why, now):
                self._unstartable(self.children[role], why, now)
            case Unmountable(role, why, now):
                self._unmountable(self.children[role], why, now)
            case Ready(role, now):
                self._ready(self.children[role], now)
            case Silent(role, now):
                self._silent(self.children[role], now)
            case Exited(role, status, why, now):
                self._exited(self.children[role], status, why, now)
            case Unplugged(role, now):
                self._unplugged(self.children[role], now)
            case Stop(now):
                self._stop(now)
            case Detached(role, now):
                self._detached(role, now)
            case Tick(now):
                self._tick(now)
        return self._out

    def deadline(self) -> float | None:
        """When the next `Tick` is needed."""
        due = [c.due for c in self.children.values() if c.state in ("waiting", "stopping")]
        if self.phase == "starting" and self._begun is not None:
            due.append(self._begun + START_LIMIT)
        elif self.phase == "up":
            due += [c.away + WINDOW for c in self.mounts if c.state in ("waiting", "starting")]
        return min(due, default=None)

    # starting

    def _begin(self, now: float) -> None:
        self._begun = now
        for child in self.children.values():
            if child.state == "idle":
                child.away = now
        if self.worker.state == "idle":
            self._spawn(self.worker, now)
        elif self.worker.state == "ready":
            self._spawn_mounts(now)
        self._settle(now)

    def _adopted(self, child: Child, pid: int, now: float) -> None:
        if self.phase in ("starting", "up"):
            self.phase = "up"  # an earlier supervisor brought it up: what fails now is repaired, not rolled back
            self._became(child, "ready", now, pid)
            child.away = now

    def _spawn(self, child: Child, now: float) -> None:
        self._became(child, "starting", now)
        self._out.append(Spawn(child.role))

    def _spawn_mounts(self, now: float) -> None:
        if self._begun is None:
            return  # a mount may still be handed over with its daemon
        for mount in self.mounts:
            if mount.state == "idle":
                mount.away = now
                self._spawn(mount, now)

    def _started(self, child: Child, pid: int, now: float) -> None:
        child.pid = pid
        if child.state != "starting":  # given up between the instruction and its answer
            self._terminate(child, now)
        self._advance_stop(now)

    def _unstartable(self, child: Child, why: str, now: float) -> None:
        if self.phase == "stopping":
            self._became(child, "gone", now)
            self._advance_stop(now)
        elif child.state == "starting":
            self._again(child, f"cannot be started: {why}", now, failed=True)

    def _unmountable(self, child: Child, why: str, now: float) -> None:
        self._became(child, "gone", now)
        if self.phase == "stopping":
            self._advance_stop(now)
        else:
            self._give_up(child, why, now)

    def _ready(self, child: Child, now: float) -> None:
        if child.state != "starting" or child.pid is None:
            return
        self._became(child, "ready", now, child.pid)
        child.away = now
        child.trouble = ""
        if child.restarts:
            self._out.append(Report("info", f"{child.role}: pid {child.pid} answers"))
        if child is self.worker:
            self._spawn_mounts(now)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """From starting to up, once everything answers."""
        if self.phase == "starting" and self._begun is not None and all(c.state == "ready" for c in self.children.values()):
            self.phase = "up"
            self._out.append(Report("info", f"up: every mount answers after {now - self._begun:.2f} s"))

    # deaths

    def _silent(self, child: Child, now: float) -> None:
        if child.state in ("starting", "ready") and child.pid is not None and not child.silenced:
            child.silenced = True
            self._out.append(Report("error", f"{child.role}: pid {child.pid} does not answer; killed, to be started again"))
            self._out.append(Kill(child.role, signal.SIGKILL))

    def _exited(self, child: Child, status: int | None, why: str, now: float) -> None:
        was, pid, silenced = child.state, child.pid, child.silenced
        lived = now - child.since
        child.pid = None
        child.silenced = False
        if was == "stopping" or self.phase in ("stopping", "done"):
            self._became(child, "gone", now)
            self._advance_stop(now)
            return
        if was == "gone":
            return
        said = f": {why}" if why else ""
        text = f"pid {pid} {_ending(status)}{said}"
        if child is self.worker and status == EXIT_CONFIGURATION:
            self._became(child, "gone", now)
            child.trouble = why or "the worker refused its configuration: see worker.log"
            self._out.append(Report("error", f"worker: {text}; not started again"))
            if self.phase == "starting":
                self._fail(child.trouble, now)
            else:
                self.error = f"{child.trouble}; correct it, then `forebay down` and `forebay up`"
            return
        if status == EXIT_CONFIGURATION:
            self._give_up(child, f"{child.role}: {text}", now)
            return
        outside = status is None or status in (-signal.SIGKILL, -signal.SIGTERM)
        failed = was != "ready" or silenced or (not outside and lived < STEADY)
        self._again(child, text, now, failed=failed)

    def _again(self, child: Child, text: str, now: float, *, failed: bool) -> None:
        """Start a process again, now or after a pause, or give it up."""
        if failed:
            child.failures = [t for t in child.failures if now - t < WINDOW] + [now]
        child.trouble = text
        count = len([t for t in child.failures if now - t < WINDOW])
        if count >= FAILED_STARTS and (child is not self.worker or self.phase == "starting"):
            self._give_up(child, f"{child.role} failed to start {count} times within {WINDOW:.0f} s, last: {text}", now)
            return
        pause = 0.0
        if failed:
            pause = min(FIRST_PAUSE * 4 ** (count - 1), LAST_PAUSE if child is self.worker else LAST_PAUSE / 6)
            pause *= 0.75 + 0.5 * self._jitter()
        child.restarts += 1
        level: Literal["warning", "error"] = "error" if count >= FAILED_STARTS else "warning"
        self._out.append(Report(level, f"{child.role}: {text}; started again in {pause:.1f} s"))
        if pause:
            self._became(child, "waiting", now)
            child.due = now + pause
        else:
            self._spawn(child, now)

    def _give_up(self, child: Child, why: str, now: float) -> None:
        if child.pid is None:
            self._became(child, "gone", now)
        if self.phase == "starting":
            self._fail(why, now)
            return
        self.error = f"{why}; the mount is detached: see its log, then `forebay down` and `forebay up`"
        child.trouble = self.error
        self._out += [Report("error", self.error), Abort(child.role)]
        if child.pid is not None:
            self._terminate(child, now)

    def _unplugged(self, child: Child, now: float) -> None:
        """The mount is gone and nobody asked us: that is a `down` by other means. Of a start under way it is the answer."""
        if self.phase == "stopping" and child.state == "starting" and child.pid is None:
            self._became(child, "gone", now)
            self._advance_stop(now)
            return
        if child.state == "gone" or self.phase in ("stopping", "done"):
            return
        child.trouble = "unmounted by somebody else"
        self._out.append(Report("warning", f"{child.role}: unmounted by somebody else"))
        if child.pid is not None:
            self._terminate(child, now)
        else:
            self._became(child, "gone", now)
        if all(m.state in ("gone", "stopping") for m in self.mounts):
            self.error = "every mount was unmounted by somebody else" if self.phase == "starting" else self.error
            self._stop(now)

    # the end

    def _fail(self, why: str, now: float) -> None:
        self.error = why
        self._out.append(Report("error", f"start failed: {why}"))
        self._stop(now)

    def _stop(self, now: float) -> None:
        if self.phase in ("stopping", "done"):
            return
        self.phase = "stopping"
        for child in self.children.values():
            if child.state in ("idle", "waiting"):
                self._became(child, "gone", now)
        self._detaching = {m.role for m in self.mounts}
        self._out += [Detach(m.role) for m in self.mounts]
        self._advance_stop(now)

    def _detached(self, role: str, now: float) -> None:
        self._detaching.discard(role)
        if self.phase == "stopping":
            self._terminate(self.children[role], now)
            self._advance_stop(now)

    def _terminate(self, child: Child, now: float) -> None:
        if child.pid is None:
            if child.state != "starting":  # a spawn under way is answered first
                self._became(child, "gone", now)
        elif child.state != "stopping":
            self._became(child, "stopping", now, child.pid)
            child.due = now + (WORKER_GRACE if child is self.worker else DAEMON_GRACE)
            self._out.append(Kill(child.role, signal.SIGTERM))

    def _advance_stop(self, now: float) -> None:
        """Mounts first, then daemons, then the worker: nobody may ask a worker that is gone."""
        if self.phase != "stopping" or self._detaching:
            return
        for mount in self.mounts:
            if mount.state in ("starting", "ready"):
                self._terminate(mount, now)
        if any(m.state != "gone" for m in self.mounts):
            return
        if self.worker.state in ("starting", "ready"):
            self._terminate(self.worker, now)
        if self.worker.state == "gone":
            self.phase = "done"
            self._out.append(Finish(self.error))

    # time

    def _tick(self, now: float) -> None:
        # limits first: what is given up now must not be started in the same breath
        if self.phase == "starting" and self._begun is not None and now >= self._begun + START_LIMIT:
            slow = ", ".join(c.role for c in self.children.values() if c.state != "ready")
            self._fail(f"not ready within {START_LIMIT:.0f} s: {slow}", now)
        elif self.phase == "up":
            for mount in self.mounts:
                if mount.state in ("waiting", "starting") and now >= mount.away + WINDOW:
                    self._give_up(mount, f"{mount.role} was without a daemon for {WINDOW:.0f} s", now)
        for child in self.children.values():
            if child.state == "stopping" and now >= child.due:
                child.due = now + DAEMON_GRACE
                self._out += [
                    Report("warning", f"{child.role}: pid {child.pid} did not end in time; killed"),
                    Kill(child.role, signal.SIGKILL),
                ]
            elif child.state == "waiting" and now >= child.due:
                self._spawn(child, now)

    def _became(self, child: Child, state: State, now: float, pid: int | None = None) -> None:
        child.state, child.since, child.pid = state, now, pid


def _ending(status: int | None) -> str:
    if status is None:
        return "ended"
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with code {status}"
