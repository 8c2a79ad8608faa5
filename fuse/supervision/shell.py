"""The supervisor's loop: does what `machine.py` decides, tells it what happens. One thread, no library of its own.

Its invariant: a mount's device and record stay open here for as long as the mount exists, whatever dies beside us.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import random
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from forebay.api import places, wire
from forebay.fuse import mounting, record
from forebay.fuse.supervision import control, processes, rundir
from forebay.fuse.supervision import machine as decide
from forebay.fuse.supervision.guard import Guard
from forebay.fuse.supervision.mount import Mount

PROBE_EVERY = 20.0
"""Seconds between questions to a mount and to the worker that answers them."""
PROBE_LIMIT = 60.0
"""Seconds without an answer after which a process counts as hung; a store's own deadline is far below."""
WORKER_POLL = 0.05
"""Seconds between attempts to reach a worker that starts."""
BUSY_GRACE = 3.0
"""Seconds a mount may be busy at a stop before it is detached under its users."""
LOG_EVERY = 60.0
KEPT_REPORTS = 40
STATE_VERSION = 1


class Supervisor:
    """The shell around `decide.Machine`: one loop, no threads. `run` returns the exit code."""

    def __init__(self, run: str, mounts: list[Mount], *, daemon_options: list[str]) -> None:
        self.run_dir = run
        self.mounts = {m.role: m for m in mounts}
        self.machine = decide.Machine(list(self.mounts), random.random)
        self.dataset = rundir.dataset_of(run)
        self.daemon_options = daemon_options
        self.started = time.time()
        self.ready: float | None = None
        self.notes: list[str] = []
        self.reports: deque[dict[str, Any]] = deque(maxlen=KEPT_REPORTS)
        self.expected: set[str] = set()  # mounts whose descriptors are still to be handed over
        self._selector = selectors.DefaultSelector()
        self._queue: deque[decide.Event] = deque()
        self._feeding = False
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = 0
        self._pidfds: dict[str, int] = {}  # role -> pidfd
        self._hello: socket.socket | None = None
        self._waiting: list[socket.socket] = []  # peers that asked to wait for the start
        self._stoppers: list[socket.socket] = []
        self._finished = False
        self._written = b""
        # a mount daemon starts a new supervisor when this one dies; without one somebody else has to
        self.guard = None if mounts else Guard(run, self._selector, self.after, self.report)
        self._server = control.Server(f"{run}/{places.SUPERVISOR_SOCK}", self._selector, self._serve)

    # events and instructions

    def feed(self, event: decide.Event) -> None:
        """Hand an event to the machine and do what it says; events that arise meanwhile wait their turn."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for instruction in self.machine.handle(self._queue.popleft()):
                    self._perform(instruction)
        finally:
            self._feeding = False

    def _perform(self, instruction: decide.Instruction) -> None:
        match instruction:
            case decide.Spawn(role):
                self._spawn(role)
            case decide.Kill(role, number):
                if role in self._pidfds:
                    signal.pidfd_send_signal(self._pidfds[role], number)
            case decide.Abort(role):
                self._abort(self.mounts[role])
            case decide.Detach(role):
                self._detach(self.mounts[role])
            case decide.Report(level, text):
                self.report(level, text)
            case decide.Finish(error):
                self._finish(error)

    def report(self, level: str, text: str) -> None:
        """One line in the log, and among the last ones of `status`."""
        self.reports.append({"time": round(time.time(), 3), "level": level, "text": text})
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"{stamp} {level} {text}", file=sys.stderr, flush=True)  # noqa: T201

    # processes

    def _spawn(self, role: str) -> None:
        mount = self.mounts.get(role)
        if mount is not None and mount.device < 0 and not self._mount(mount):
            return
        try:
            pid = self._spawn_worker() if mount is None else self._spawn_daemon(mount)
        except OSError as e:
            self.feed(decide.Unstartable(role, e.strerror or str(e), time.monotonic()))
            return
        if pid is None:
            self.feed(decide.Unplugged(role, time.monotonic()))
            return
        self._watch(role, pid)
        self.feed(decide.Started(role, pid, time.monotonic()))
        # once the machine knows the pid: this may run inside another event
        self.after(0.0, self._greet_worker if mount is None else lambda: self._probe(mount))

    def _spawn_worker(self) -> int:
        return processes.spawn(
            processes.python("forebay.cache.worker", "--run-dir", self.run_dir), f"{self.run_dir}/{places.WORKER_LOG}"
        )

    def _spawn_daemon(self, mount: Mount) -> int | None:
        """Pid of a new mount daemon, None when its mount is no longer there."""
        if mount.unplugged():
            return None
        if mount.link is not None:
            mount.link.close()
        mount.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            argv = processes.python(
                "forebay.fuse.daemon", "--run-dir", self.run_dir, "--mount", mount.path, "--index", str(mount.index),
                "--device-fd", "3", "--state-fd", "4", "--supervisor-fd", "5", *self.daemon_options,
            )  # fmt: skip
            log = f"{self.run_dir}/{places.mount_log(mount.index)}"
            return processes.spawn(argv, log, (mount.device, mount.record, theirs.fileno()))

    def _watch(self, role: str, pid: int) -> None:
        """Wake up when a process ends. Raises `ProcessLookupError` for one that was adopted too late."""
        pidfd = os.pidfd_open(pid)
        self._pidfds[role] = pidfd
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._ended(role, pidfd))

    def _ended(self, role: str, pidfd: int) -> None:
        status = processes.reap(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        del self._pidfds[role]
        now = time.monotonic()
        mount = self.mounts.get(role)
        log = places.WORKER_LOG if mount is None else places.mount_log(mount.index)
        if mount is not None and mount.unplugged():
            self.feed(decide.Unplugged(role, now))
        said = processes.last_line(f"{self.run_dir}/{log}") if status is not None and status >= 0 else ""
        self.feed(decide.Exited(role, status, said, now))

    def adopt(self, role: str, pid: int) -> bool:
        """Take over a living process of an earlier supervisor."""
        try:
            self._watch(role, pid)
        except ProcessLookupError:
            return False
        self.feed(decide.Adopted(role, pid, time.monotonic()))
        return True

    # does it answer?

    def _greet_worker(self) -> None:
        """One `Hello` at the worker's door; asked again shortly while it starts, and every PROBE_EVERY later."""
        child = self.machine.worker
        if child.state not in ("starting", "ready"):
            return
        self._hang_up()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with places.socket_address(f"{self.run_dir}/{places.WORKER_SOCK}") as address:
                sock.connect(address)
            sock.send(wire.encode(wire.Hello(role="supervisor")))
        except OSError:
            sock.close()
            self.after(WORKER_POLL if child.state == "starting" else PROBE_EVERY, self._again(self._greet_worker, child.pid))
            return
        self._hello = sock
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._welcomed(sock, child.pid))
        self.after(PROBE_LIMIT, lambda: self._unanswered(sock, child.pid))

    def _again(self, call: Callable[[], None], pid: int | None) -> Callable[[], None]:
        """`call`, unless the worker is another one by then (whose own start asks)."""
        return lambda: call() if self.machine.worker.pid == pid else None

    def _welcomed(self, sock: socket.socket, pid: int | None) -> None:
        try:
            packet = sock.recv(wire.MAX_PACKET)
        except OSError:
            packet = b""
        self._hang_up()
        child = self.machine.worker
        if child.pid != pid:
            return
        if packet and isinstance(wire.decode_reply(packet), wire.Welcome):
            if child.state == "starting":
                self.feed(decide.Ready(decide.WORKER, time.monotonic()))
            self.after(PROBE_EVERY, self._again(self._greet_worker, pid))
        else:
            self.after(WORKER_POLL, self._again(self._greet_worker, pid))

    def _unanswered(self, sock: socket.socket, pid: int | None) -> None:
        if self._hello is sock and self.machine.worker.pid == pid:
            self._hang_up()
            self.feed(decide.Silent(decide.WORKER, time.monotonic()))

    def _hang_up(self) -> None:
        if self._hello is not None:
            self._selector.unregister(self._hello)
            self._hello.close()
            self._hello = None

    def _probe(self, mount: Mount) -> None:
        child = self.machine.children[mount.role]
        if child.state not in ("starting", "ready") or mount.device < 0:
            return
        pid = processes.probe_mount(mount.path)
        mount.probe = pid
        pidfd = os.pidfd_open(pid)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._probed(mount, pid, pidfd))
        self.after(PROBE_LIMIT, lambda: self._unprobed(mount, pid, pidfd))

    def _probed(self, mount: Mount, pid: int, pidfd: int) -> None:
        code = processes.reap(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        if mount.probe != pid:
            return
        mount.probe = 0
        now = time.monotonic()
        if code == processes.ANSWERS:
            self.feed(decide.Ready(mount.role, now))
        elif mount.unplugged():
            self.feed(decide.Unplugged(mount.role, now))
        self.after(PROBE_EVERY, lambda: self._probe(mount) if not mount.probe else None)

    def _unprobed(self, mount: Mount, pid: int, pidfd: int) -> None:
        if mount.probe == pid:
            mount.probe = 0
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # takes effect once its request is answered or aborted
            self.feed(decide.Silent(mount.role, time.monotonic()))

    # mounts

    def _mount(self, mount: Mount) -> bool:
        """Mount, once there is a worker to answer: before that whoever looks at the mount point would wait in the kernel."""
        try:
            mount.created += rundir.make_mount_point(mount.path)
            mount.device = mounting.mount(mount.path, f"forebay:{self.dataset}")
            mount.record = record.create_memfd()
        except OSError as e:
            why = e.strerror if e.filename is None and e.strerror else str(e)
            self.feed(decide.Unmountable(mount.role, why, time.monotonic()))
            return False
        return True

    def _abort(self, mount: Mount) -> None:
        self._umount(mount, lazy=True)
        mount.let_go()
        self._remove_mount_point(mount)

    def _detach(self, mount: Mount) -> None:
        """Unmount; while it is busy try again for BUSY_GRACE, then detach it under its users and name them."""
        now = time.monotonic()
        if not mount.busy_until:
            mount.busy_until = now + BUSY_GRACE
        if mount.device >= 0 and not mount.unplugged() and not self._umount(mount, lazy=False):
            if now < mount.busy_until:
                self.after(0.1, lambda: self._detach(mount))
                return
            users = "; ".join(processes.holders(mount.path)) or "a process that cannot be seen from here"
            self.notes.append(f"{mount.path} was busy and is detached under its users: {users}")
            self.report("warning", self.notes[-1])
            self._umount(mount, lazy=True)
        mount.let_go()
        self._remove_mount_point(mount)
        self.feed(decide.Detached(mount.role, now))

    def _umount(self, mount: Mount, *, lazy: bool) -> bool:
        """False when the mount is busy."""
        try:
            mounting.umount(mount.path, lazy=lazy)
        except OSError as e:
            if e.errno == errno.EBUSY:
                return False
            self.report("error", e.strerror or str(e))
        return True

    def _remove_mount_point(self, mount: Mount) -> None:
        for folder in reversed(mount.created):
            try:
                os.rmdir(folder)
            except OSError:
                break  # somebody put something there
        mount.created.clear()

    # control

    def _serve(self, peer: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        match message.get("op"):
            case "status":
                self._server.send(peer, self.state())
            case "wait" if self.machine.phase == "up":
                self._server.send(peer, self.state())
            case "wait":
                self._waiting.append(peer)
            case "stop":
                self._stoppers.append(peer)
                self.feed(decide.Stop(time.monotonic()))
            case "lend":
                self._lend(peer)
            case "reload":
                self._reload()
                self._server.send(peer, {})
            case "adopt" if len(fds) == 3:
                ok = self.handed_over(message, fds)
                fds = [] if ok else fds
                self._server.send(peer, {"ok": ok})
            case op:
                self._server.send(peer, {"error": f"unknown request {op!r}"})
        for fd in fds:
            os.close(fd)

    def _lend(self, peer: socket.socket) -> None:
        """Duplicates of the first mount's descriptors, for a second holder in another container."""
        mount = next((m for m in self.mounts.values() if m.device >= 0 and not m.unplugged()), None)
        if mount is None:
            self._server.send(peer, {"lent": False})
        else:
            self._server.send(peer, {"lent": True, "mount": mount.path}, (mount.device, mount.record))

    def _reload(self) -> None:
        """The spec file changed: worker and daemons start again and read it. Mounts stay, and readers see a pause."""
        for pidfd in self._pidfds.values():
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)

    def expect(self, roles: list[str], limit: float) -> None:
        """Mounts of an earlier supervisor whose daemons will hand their descriptors over; after `limit` they are made anew."""
        self.expected = set(roles)

        def late() -> None:
            if self.expected:
                self.report("error", f"lost with supervisor and daemon: {', '.join(sorted(self.expected))}; mounted anew")
                for role in self.expected:
                    self._umount(self.mounts[role], lazy=True)
                self.expected.clear()
                self.begin()

        self.after(limit, late)

    def handed_over(self, message: dict[str, Any], fds: list[int]) -> bool:
        """Descriptors [device, record, link] of a daemon; they are ours if True is returned."""
        role = f"mount-{message.get('index')}"
        pid = message.get("daemon")
        if role not in self.expected or not isinstance(pid, int):
            return False
        self.expected.discard(role)
        mount = self.mounts[role]
        mount.device, mount.record = fds[0], fds[1]
        mount.link = socket.socket(fileno=fds[2])
        if self.adopt(role, pid):
            self._probe(mount)
        if not self.expected:
            self.begin()
        return True

    def state(self) -> dict[str, Any]:
        """What `status` shows and `state.json` keeps: nothing in it is more than what was observed."""
        machine = self.machine
        mounts = list(self.mounts.values())
        listed: list[dict[str, Any]] = [_process("supervisor", os.getpid(), "ready", 0, "")]
        for child in machine.children.values():
            if child.pid is not None:
                role = "worker" if child is machine.worker else "mount"
                listed.append(_process(role, child.pid, child.state, child.restarts, child.trouble))
                if role == "mount":
                    listed[-1]["mount"] = self.mounts[child.role].path
        if self.guard is not None and self.guard.pid:
            listed.append(_process("guard", self.guard.pid, "ready", self.guard.restarts, ""))
        return {
            "version": STATE_VERSION,
            "dataset": self.dataset,
            "phase": machine.phase,
            "error": machine.error,
            "started": self.started,
            "ready": self.ready,
            "daemon_options": self.daemon_options,
            "processes": listed,
            "mounts": [
                {"index": m.index, "path": m.path, "created": m.created, "state": machine.children[m.role].state,
                 "restarts": machine.children[m.role].restarts, "trouble": machine.children[m.role].trouble}
                for m in mounts
            ],
            "worker": {"state": machine.worker.state, "restarts": machine.worker.restarts, "trouble": machine.worker.trouble},
            "reports": list(self.reports),
        }  # fmt: skip

    def _publish(self) -> None:
        """Write state.json where something changed, and tell who waits for the start."""
        if self.machine.phase == "up" and self.ready is None:
            self.ready = time.time()
        state = self.state()
        raw = json.dumps(state, indent=1).encode()
        if raw != self._written and not self._finished:
            self._written = raw
            rundir.replace_file(f"{self.run_dir}/{places.STATE}", raw)
        if self.machine.phase == "up" and self._waiting:
            for peer in self._waiting:
                self._server.send(peer, state)
            self._waiting.clear()

    # the loop

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self._ticket += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._ticket, call))

    def begin(self) -> None:
        """Everything that can be adopted was: start the rest."""
        if self.guard is not None and not self.guard.pid:
            self.guard.start()
        self.feed(decide.Begin(time.monotonic()))
        if self.machine.worker.state == "ready":
            self._greet_worker()

    def run(self) -> int:
        """The loop, until everything has ended."""
        self._trim_logs()
        while not self._finished:
            self._publish()
            now = time.monotonic()
            due = [t for t in (self.machine.deadline(), self._timers[0][0] if self._timers else None) if t is not None]
            for key, _ in self._selector.select(max(0.0, min(due) - now) if due else None):
                key.data()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            deadline = self.machine.deadline()
            if deadline is not None and deadline <= time.monotonic():
                self.feed(decide.Tick(time.monotonic()))
        return 0 if self.machine.error is None else 1

    def _trim_logs(self) -> None:
        for name in (places.WORKER_LOG, places.SUPERVISOR_LOG, *(places.mount_log(m.index) for m in self.mounts.values())):
            processes.trim_log(f"{self.run_dir}/{name}")
        self.after(LOG_EVERY, self._trim_logs)

    def listen_for_signals(self) -> None:
        """SIGTERM and SIGINT stop the dataset; a hang-up of whoever started us does not concern us."""
        inner, outer = socket.socketpair()
        for end in (inner, outer):
            end.setblocking(False)
        signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._signal_ends = (inner, outer)

        def woken() -> None:
            if set(inner.recv(64)) & {signal.SIGTERM, signal.SIGINT}:
                self.feed(decide.Stop(time.monotonic()))

        self._selector.register(inner, selectors.EVENT_READ, woken)

    def _finish(self, error: str | None) -> None:
        self._finished = True
        if self.guard is not None:
            self.guard.end()
        rundir.remove(self.run_dir)
        answer = {"done": True, "error": error, "notes": self.notes, "reports": list(self.reports)}
        for peer in (*self._waiting, *self._stoppers):
            self._server.send(peer, answer)
        self._server.close()


def _process(role: str, pid: int, state: str, restarts: int, trouble: str) -> dict[str, Any]:
    return {
        "role": role, "pid": pid, "start": processes.start_ticks(pid), "state": state, "restarts": restarts, "trouble": trouble,
    }  # fmt: skip
