"""The supervisor's decisions, by table and by a random storm."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.fuse.supervision import machine as s

W, M = s.WORKER, "mount-0"


def machine(*mounts: str) -> s.Machine:
    return s.Machine(list(mounts or (M,)))


def up(*mounts: str) -> s.Machine:
    """A machine whose worker is pid 10 and whose mounts are pids 20, 21 ...; everything answers at 1.0."""
    m = machine(*mounts)
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    m.handle(s.Ready(W, 0.5))
    for i, role in enumerate(mounts or (M,)):
        m.handle(s.Started(role, 20 + i, 0.6))
        m.handle(s.Ready(role, 1.0))
    assert m.phase == "up"
    return m


def without_reports(out: list[s.Instruction]) -> list[s.Instruction]:
    return [i for i in out if not isinstance(i, s.Report)]


def test_worker_first_then_mounts_then_up() -> None:
    m = machine(M, "mount-1")
    assert m.handle(s.Begin(0.0)) == [s.Spawn(W)]
    assert m.handle(s.Started(W, 10, 0.1)) == []
    assert m.handle(s.Ready(W, 0.5)) == [s.Spawn(M), s.Spawn("mount-1")]
    m.handle(s.Started(M, 20, 0.6))
    m.handle(s.Started("mount-1", 21, 0.6))
    assert m.handle(s.Ready(M, 0.9)) == []
    assert m.phase == "starting"
    (report,) = m.handle(s.Ready("mount-1", 1.0))
    assert isinstance(report, s.Report)
    assert m.phase == "up"


@pytest.mark.parametrize("role", [W, M])
@pytest.mark.parametrize("status", [-signal.SIGKILL, -signal.SIGTERM, None])
def test_what_was_well_and_is_killed_starts_again_at_once(role: str, status: int | None) -> None:
    m = up()
    for i in range(20):  # however often: a kill from outside is no failed start
        at = 2.0 + i
        assert without_reports(m.handle(s.Exited(role, status, "", at))) == [s.Spawn(role)]
        m.handle(s.Started(role, 100 + i, at + 0.1))
        m.handle(s.Ready(role, at + 0.5))
    assert m.phase == "up"
    assert m.error is None
    assert m.children[role].restarts == 20


def test_a_crash_after_a_long_life_starts_again_at_once() -> None:
    m = up()
    assert without_reports(m.handle(s.Exited(M, 1, "boom", 1.0 + s.STEADY))) == [s.Spawn(M)]
    assert m.children[M].failures == []


def test_five_failed_starts_abort_the_mount_and_leave_the_worker() -> None:
    m = up()
    now = 2.0
    out = m.handle(s.Exited(M, -signal.SIGSEGV, "", now))
    pauses = []
    for i in range(s.FAILED_STARTS - 1):
        assert m.children[M].state == "waiting", out
        due = m.deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
        assert m.handle(s.Tick(now)) == [s.Spawn(M)]
        m.handle(s.Started(M, 30 + i, now))
        now += 0.3
        out = m.handle(s.Exited(M, 1, "ValueError: bad", now))
    assert s.Abort(M) in out
    assert "5 times" in (m.error or "")
    assert "ValueError: bad" in (m.error or "")
    assert m.children[M].state == "gone"
    assert m.worker.state == "ready"
    assert m.phase == "up"
    assert pauses == sorted(pauses)
    assert sum(pauses) < 20, "a mount must not be away for long before it is given up"
    assert m.handle(s.Tick(now + 500)) == []


def test_failed_starts_out_of_the_window_do_not_count() -> None:
    m = up()
    now = 2.0
    for i in range(12):
        m.handle(s.Exited(M, 1, "", now))
        due = m.deadline()
        assert due is not None
        m.handle(s.Tick(due))
        m.handle(s.Started(M, 30 + i, due))
        m.handle(s.Ready(M, due + 0.2))
        now = due + s.WINDOW / (s.FAILED_STARTS - 1) + 1
        assert m.children[M].state == "ready"
        # dies of its own soon after its answer each time, but rarely
        m.children[M].since = now - 1


def test_a_mount_away_for_120_s_is_aborted() -> None:
    m = up()
    m.handle(s.Exited(M, -signal.SIGKILL, "", 50.0))
    m.handle(s.Started(M, 30, 50.1))  # lives and never answers
    assert m.deadline() == pytest.approx(1.0 + s.WINDOW)
    out = m.handle(s.Tick(1.0 + s.WINDOW))
    assert s.Abort(M) in out
    assert s.Kill(M, signal.SIGTERM) in out


def test_configuration_error_at_start_rolls_back_and_says_why() -> None:
    m = machine()
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    out = m.handle(s.Exited(W, s.EXIT_CONFIGURATION, "cache directory in use by pid 7", 0.2))
    assert without_reports(out) == [s.Detach(M)]
    assert m.error == "cache directory in use by pid 7"
    assert m.handle(s.Detached(M, 0.3)) == [s.Finish("cache directory in use by pid 7")]


def test_configuration_error_later_keeps_the_mount() -> None:
    m = up()
    out = m.handle(s.Exited(W, s.EXIT_CONFIGURATION, "tier is gone", 100.0))
    assert without_reports(out) == []
    assert m.phase == "up"
    assert "tier is gone" in (m.error or "")
    assert m.handle(s.Tick(1000.0)) == []
    assert m.worker.state == "gone"


def test_worker_is_tried_for_ever_once_up() -> None:
    m = up()
    now = 20.0
    longest = 0.0
    m.handle(s.Exited(W, 1, "", now))
    for i in range(30):
        m.handle(s.Started(W, 100 + i, now))
        now += 0.1
        out = m.handle(s.Exited(W, 1, "OSError: no space", now))
        assert not any(isinstance(o, s.Abort | s.Finish | s.Detach) for o in out)
        due = m.deadline()
        assert due is not None
        longest = max(longest, due - now)
        now = due
        assert m.handle(s.Tick(now)) == [s.Spawn(W)]
    assert longest == pytest.approx(s.LAST_PAUSE)


def test_five_failed_starts_of_the_worker_fail_the_start() -> None:
    m = machine()
    m.handle(s.Begin(0.0))
    now = 0.0
    for i in range(s.FAILED_STARTS):
        m.handle(s.Started(W, 10 + i, now))
        now += 0.1
        out = m.handle(s.Exited(W, 1, "ImportError: lmdb", now))
        if i < s.FAILED_STARTS - 1:
            due = m.deadline()
            assert due is not None
            now = due
            assert m.handle(s.Tick(now)) == [s.Spawn(W)]
    assert s.Detach(M) in out
    assert "ImportError: lmdb" in (m.error or "")
    assert m.handle(s.Detached(M, now)) == [s.Finish(m.error)]


def test_stop_takes_mounts_then_daemons_then_worker() -> None:
    m = up(M, "mount-1")
    assert m.handle(s.Stop(5.0)) == [s.Detach(M), s.Detach("mount-1")]
    assert m.handle(s.Detached(M, 5.1)) == [s.Kill(M, signal.SIGTERM)]
    assert m.handle(s.Exited(M, 0, "", 5.2)) == []
    assert m.handle(s.Detached("mount-1", 5.3)) == [s.Kill("mount-1", signal.SIGTERM)]
    assert m.handle(s.Exited("mount-1", 0, "", 5.4)) == [s.Kill(W, signal.SIGTERM)]
    assert m.handle(s.Stop(5.5)) == []
    assert m.handle(s.Exited(W, 0, "", 5.6)) == [s.Finish(None)]
    assert m.phase == "done"


def test_who_does_not_end_is_killed() -> None:
    m = up()
    m.handle(s.Stop(5.0))
    m.handle(s.Detached(M, 5.0))
    assert m.deadline() == pytest.approx(5.0 + s.DAEMON_GRACE)
    assert s.Kill(M, signal.SIGKILL) in m.handle(s.Tick(5.0 + s.DAEMON_GRACE))
    m.handle(s.Exited(M, -9, "", 11.0))
    assert s.Kill(W, signal.SIGKILL) in m.handle(s.Tick(11.0 + s.WORKER_GRACE))


def test_stop_while_a_start_is_in_flight() -> None:
    m = machine()
    m.handle(s.Begin(0.0))
    m.handle(s.Stop(0.05))  # Spawn(worker) was not answered yet
    assert m.handle(s.Detached(M, 0.06)) == []
    assert m.handle(s.Started(W, 10, 0.1)) == [s.Kill(W, signal.SIGTERM)]
    assert m.handle(s.Exited(W, -15, "", 0.2)) == [s.Finish(None)]


def test_a_daemon_that_hangs_is_killed_and_counted() -> None:
    m = up()
    assert s.Kill(M, signal.SIGKILL) in m.handle(s.Silent(M, 100.0))
    assert m.handle(s.Silent(M, 100.1)) == []
    m.handle(s.Exited(M, -signal.SIGKILL, "", 100.2))
    assert len(m.children[M].failures) == 1


def test_unmounting_by_hand_is_a_down() -> None:
    m = up()
    out = m.handle(s.Unplugged(M, 5.0))
    assert s.Kill(M, signal.SIGTERM) in out
    assert m.phase == "stopping"
    m.handle(s.Detached(M, 5.1))
    assert m.handle(s.Exited(M, 0, "", 5.2)) == [s.Kill(W, signal.SIGTERM)]


def test_one_of_two_unmounted_by_hand_keeps_the_other() -> None:
    m = up(M, "mount-1")
    m.handle(s.Unplugged(M, 5.0))
    m.handle(s.Exited(M, 0, "", 5.1))
    assert m.phase == "up"
    assert m.children["mount-1"].state == "ready"


def test_adopted_processes_are_not_started() -> None:
    m = machine()
    m.handle(s.Adopted(W, 10, 0.0))
    m.handle(s.Adopted(M, 20, 0.0))
    assert without_reports(m.handle(s.Begin(0.1))) == []
    assert m.phase == "up"
    assert without_reports(m.handle(s.Exited(W, None, "", 1.0))) == [s.Spawn(W)]


def test_nothing_runs_out_while_mounts_are_still_handed_over() -> None:
    """A clock that has run for hours, a worker that dies and comes back, before the second mount is heard of."""
    m = machine(M, "mount-1")
    m.handle(s.Adopted(W, 10, 9000.0))
    m.handle(s.Adopted(M, 20, 9000.0))
    assert m.deadline() is None
    assert m.handle(s.Tick(9001.0)) == []
    assert without_reports(m.handle(s.Exited(W, None, "", 9002.0))) == [s.Spawn(W)]
    m.handle(s.Started(W, 11, 9002.1))
    assert without_reports(m.handle(s.Ready(W, 9002.5))) == [], "mount-1 may still come with its daemon"
    m.handle(s.Adopted("mount-1", 21, 9003.0))
    assert without_reports(m.handle(s.Begin(9003.0))) == []
    assert m.phase == "up"


def test_what_fails_after_an_adoption_is_repaired_not_rolled_back() -> None:
    m = machine()
    m.handle(s.Adopted(M, 20, 0.0))
    assert m.handle(s.Begin(0.1)) == [s.Spawn(W)]
    for i in range(8):
        m.handle(s.Started(W, 10 + i, 1.0 + i))
        assert not any(isinstance(o, s.Detach) for o in m.handle(s.Exited(W, 1, "", 1.1 + i)))
        due = m.deadline()
        assert due is not None
        m.handle(s.Tick(due))


def test_refused_mount_fails_the_start() -> None:
    m = machine()
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    assert m.handle(s.Ready(W, 0.5)) == [s.Spawn(M)]
    out = m.handle(s.Unmountable(M, "no /dev/fuse", 0.6))
    assert s.Detach(M) in out
    assert m.handle(s.Detached(M, 0.7)) == [s.Kill(W, signal.SIGTERM)]
    assert m.handle(s.Exited(W, 0, "", 0.8)) == [s.Finish("no /dev/fuse")]


def test_start_takes_too_long() -> None:
    m = machine()
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    out = m.handle(s.Tick(s.START_LIMIT))
    assert s.Detach(M) in out
    assert "worker" in (m.error or "")


def test_a_start_that_runs_out_starts_nothing_in_the_same_breath() -> None:
    """The worker's next start falls due in the very tick that gives the whole start up (found by the storm below)."""
    m = machine()
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    m.handle(s.Exited(W, 0, "", s.START_LIMIT - 0.001))
    out = m.handle(s.Tick(s.START_LIMIT + 60.0))
    assert m.phase == "stopping"
    assert not any(isinstance(o, s.Spawn) for o in out)


def test_a_mount_that_is_gone_before_its_daemon_starts_does_not_hold_up_the_stop() -> None:
    m = s.Machine([M, "mount-1"])
    m.handle(s.Begin(0.0))
    m.handle(s.Started(W, 10, 0.1))
    assert m.handle(s.Ready(W, 0.2)) == [s.Spawn(M), s.Spawn("mount-1")]
    m.handle(s.Unmountable(M, "no /dev/fuse", 0.3))
    assert m.phase == "stopping"
    m.handle(s.Unplugged("mount-1", 0.3))  # what the shell answers to its Spawn
    m.handle(s.Detached(M, 0.4))
    assert s.Kill(W, signal.SIGTERM) in m.handle(s.Detached("mount-1", 0.4))


class World:
    """A model of the shell: which processes live, and that every instruction makes sense."""

    def __init__(self, mounts: list[str]) -> None:
        self.machine = s.Machine(mounts)
        self.alive: dict[str, int] = {}
        self.attached = set(mounts)
        self.spawning: list[str] = []
        self.now = 0.0
        self.next_pid = 1
        self.finished = False
        self.told: set[str] = set()  # asked to end

    def feed(self, event: s.Event) -> None:
        for i in self.machine.handle(event):
            assert not self.finished, "nothing follows Finish"
            match i:
                case s.Spawn(role):
                    assert role not in self.alive, f"{role} would run twice"
                    assert role not in self.spawning
                    assert self.machine.phase != "stopping"
                    self.spawning.append(role)
                case s.Kill(role, _):
                    assert role in self.alive, f"kill of {role}, which does not live"
                    self.told.add(role)
                case s.Abort(role):
                    self.attached.discard(role)
                case s.Finish(_):
                    assert not self.alive, "finished with living processes"
                    assert not self.spawning
                    self.finished = True
        for child in self.machine.children.values():
            assert (child.pid is not None) == (child.role in self.alive), (child.role, child.state)
            if child.state == "ready":
                assert child.pid is not None

    def start_one(self, how: str) -> None:
        if self.spawning:
            role = self.spawning.pop(0)
            if how == "unmountable" and role != W:
                self.feed(s.Unmountable(role, "no /dev/fuse", self.now))
            elif how == "ok":
                self.alive[role] = self.next_pid
                self.next_pid += 1
                self.feed(s.Started(role, self.alive[role], self.now))
            else:
                self.feed(s.Unstartable(role, "no memory", self.now))

    def end_one(self, role: str, status: int | None) -> None:
        if role in self.alive:
            del self.alive[role]
            self.told.discard(role)
            self.feed(s.Exited(role, status, "", self.now))


ROLES = [W, M, "mount-1"]
steps = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["ok", "ok", "ok", "unstartable", "unmountable"])),
    st.tuples(st.just("end"), st.sampled_from(ROLES), st.sampled_from([0, 1, 2, -9, -11, -15, None])),
    st.tuples(st.just("ready"), st.sampled_from(ROLES)),
    st.tuples(st.just("silent"), st.sampled_from(ROLES)),
    st.tuples(st.just("tick"), st.sampled_from([0.01, 0.3, 5.0, 40.0, 130.0])),
    st.tuples(st.just("crashes"), st.sampled_from(ROLES), st.integers(2, 7)),
    st.tuples(st.just("unplug"), st.sampled_from(ROLES[1:])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60), st.sets(st.sampled_from(ROLES)))
def test_whatever_happens_a_stop_ends_everything(story: list[tuple[object, ...]], adopted: set[str]) -> None:
    w = World(ROLES[1:])
    for role in sorted(adopted):
        w.alive[role] = w.next_pid
        w.next_pid += 1
        w.feed(s.Adopted(role, w.alive[role], 0.0))
    w.feed(s.Begin(0.0))
    for step in story:
        match step:
            case ("start", str(how)):
                w.start_one(how)
            case ("end", str(role), status):
                w.end_one(role, status)  # type: ignore[arg-type]
            case ("ready", str(role)) if role in w.alive:
                w.feed(s.Ready(role, w.now))
            case ("silent", str(role)) if role in w.alive:
                w.feed(s.Silent(role, w.now))
            case ("tick", float(seconds)):
                while w.spawning:  # no time passes between a Spawn and its answer
                    w.start_one("ok")
                w.now += seconds
                w.feed(s.Tick(w.now))
            case ("crashes", str(role), int(times)):
                for _ in range(times):
                    if role in w.alive:
                        w.end_one(role, 1)
                    due = w.machine.deadline()
                    if role not in w.spawning and due is not None and w.machine.phase != "stopping":
                        w.now = max(w.now, min(due, w.now + 10))
                        w.feed(s.Tick(w.now))
                    while w.spawning:
                        w.start_one("ok")
            case ("unplug", str(role)):
                if role in w.spawning:
                    w.spawning.remove(role)  # for a mount that is gone the shell starts nothing: this is its answer
                w.feed(s.Unplugged(role, w.now))
        if w.machine.phase == "stopping":
            for role in list(w.machine._detaching):
                w.feed(s.Detached(role, w.now))
        if w.finished:
            return
        # nobody is forgotten: who is not there waits for something that has a time, or was given up
        for child in w.machine.children.values():
            if child.state == "waiting":
                assert w.machine.deadline() is not None
            if child.state == "starting":
                assert child.role in w.alive or child.role in w.spawning
    w.feed(s.Stop(w.now))
    for _ in range(40):
        for role in list(w.machine._detaching):
            w.feed(s.Detached(role, w.now))
        while w.spawning:
            w.start_one("ok")
        for role in list(w.told):
            w.end_one(role, -15)
        if w.finished:
            break
        w.now += 1
        w.feed(s.Tick(w.now))
    assert w.finished, {c.role: c.state for c in w.machine.children.values()}
