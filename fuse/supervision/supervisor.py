"""The supervisor of one dataset on one machine: mounts, keeps the descriptors, starts and restarts the others.

It is the second holder of every `/dev/fuse` descriptor and of its keeper record (a memfd), so that a mount daemon can
die at any instant: the next one gets the same descriptors, and the kernel resends what was in flight. Decisions are
`forebay.fuse.supervision.machine`; this module only does what it is told. It imports no event loop and no rich library: it lives
as long as the mount does and costs a few MiB.

**Command lines**

    python -P -m forebay.fuse.supervision.supervisor --run-dir RUN [--mount DIR]... [--no-passthrough]
    python -P -m forebay.fuse.supervision.supervisor --run-dir RUN --mount DIR --device-fd N --state-fd M
    python -P -m forebay.fuse.supervision.supervisor --run-dir RUN --adopt JSON
    python -P -m forebay.fuse.supervision.supervisor --run-dir RUN --resume

With --device-fd the mount exists already: another process held its descriptors while everybody else died (`forebay.fuse.csi`).

Without --mount it keeps a worker that serves other nodes; the guard (`fuse/supervision/guard.py`) runs --resume when it dies.

What it starts (each with stdin from /dev/null, stdout and stderr appended to its log in RUN, cwd /, its own session,
no descriptor but those named):

    python -P -m forebay.cache.worker --run-dir RUN
    python -P -m forebay.fuse.daemon --run-dir RUN --mount DIR --index I --device-fd N --state-fd M --supervisor-fd S

**The supervisor descriptor** of a mount daemon is one end of a socketpair (SOCK_SEQPACKET). The supervisor never sends;
the daemon may send `b"ready"` once INIT is answered (readiness is probed through the kernel anyway). EOF on it means
that the supervisor died. The daemon then makes a new socketpair and runs, with `pass_fds` and a new session,

    python -P -m forebay.fuse.supervision.supervisor --run-dir RUN --adopt \
        '{"version": 1, "index": I, "mount": DIR, "daemon": PID, "device_fd": N, "state_fd": M, "link_fd": L}'

where L is the supervisor's end. The command answers within about 12 s by its exit code and leaves the new supervisor
in the background:

    0  a supervisor watches again: go on with the daemon's end of the new socketpair
    1  none could be made: keep serving, close both ends, try again after a pause
    3  there is nothing to supervise (the run directory is gone): stop

When several daemons of one dataset ask at once, flock on RUN/supervisor.lock makes one of them the supervisor; the others
hand their descriptors to it through RUN/supervisor.sock. It finds the worker by the peer of RUN/worker.sock and the
mounts in RUN/state.json. A mount daemon whose device answers ENODEV (unmounted) exits 0 and asks for no supervisor.

**Exit codes of the started**: 2 = configuration, a sentence stands on stderr, not started again; anything else is
started again. SIGTERM asks for a clean end; a mount daemon does not unmount, the supervisor does.

**The control socket** RUN/supervisor.sock (SOCK_SEQPACKET, JSON packets, same uid or root):

    {"op": "status"}  -> state
    {"op": "wait"}    -> state, once every mount answers; or {"done": true, "error": ...} when the start failed
    {"op": "stop"}    -> {"done": true, "notes": [...], "error": null} as its last act
    {"op": "lend"}    -> {"lent": true} + SCM_RIGHTS [device, record] of its mount, for a second holder; false without a mount
    {"op": "reload"}  -> {}, worker and daemons start again with the spec file as it is now; the mounts stay
    {"op": "adopt", ...as above, without descriptor numbers} + SCM_RIGHTS [device, state, link] -> {"ok": true}
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from itertools import pairwise
from typing import Any

from forebay.api import places
from forebay.fuse.supervision import control, processes, rundir
from forebay.fuse.supervision import machine as decide
from forebay.fuse.supervision.mount import Mount
from forebay.fuse.supervision.shell import Supervisor

HANDOVER_LIMIT = 10.0
"""Seconds to become the supervisor or to find the one that did, and for the daemons of the other mounts to be heard."""
_RETRY = 0.05
EXIT_FAILED = 1
EXIT_NOTHING = 3
VERSION = 1


def _start(run: str, paths: list[str], options: list[str], held: tuple[int, int] | None = None) -> int:
    """Mount and supervise until stopped. `held`: device and record of the one mount, which exists already."""
    kept = sorted(held or ())
    for fd in kept:
        os.set_inheritable(fd, False)
    for low, high in pairwise([2, *kept, 1 << 20]):
        os.closerange(low + 1, high)  # whatever the caller left open
    if rundir.lock(run, create=True) is None:
        print(f"{run} has a supervisor already: `forebay status`", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    mounts = [Mount(i, path) for i, path in enumerate(paths)]
    if held is not None:
        mounts[0].device, mounts[0].record = held
        mounts[0].created = list(reversed(rundir.created_for_mounts(run)))
    supervisor = Supervisor(run, mounts, daemon_options=options)
    if held is not None:
        supervisor.machine.phase = "up"  # readers hold this mount: what fails now is repaired, not rolled back
    supervisor.listen_for_signals()
    supervisor.begin()
    return supervisor.run()


def _adopt(run: str, message: dict[str, Any]) -> int:
    """Become the supervisor of what a daemon hands over, or hand it to the one who is. Answers by exit code (see above)."""
    if message.get("version") != VERSION:
        print(f"hand-over version {message.get('version')} is not this build's {VERSION}: not adopted", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    fds = [message.pop(name) for name in ("device_fd", "state_fd", "link_fd")]
    at = 3
    for fd in sorted(fds):
        os.set_inheritable(fd, False)  # they were passed to us, not to what we start
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, 1 << 20)
    deadline = time.monotonic() + HANDOVER_LIMIT
    while time.monotonic() < deadline:
        try:
            lock = rundir.lock(run, create=False)
        except FileNotFoundError:
            return EXIT_NOTHING
        if lock is not None:
            break
        with contextlib.suppress(control.Silence):
            if control.ask(f"{run}/{places.SUPERVISOR_SOCK}", {"op": "adopt", **message}, 2.0, fds).get("ok"):
                return 0
        time.sleep(_RETRY)
    else:
        print("no supervisor took the mount over in time", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    if os.fork():
        os._exit(0)  # the lock goes on in the child, which shares its description
    os.setsid()
    _detach_output(run)
    supervisor = _resume(run, message, fds)
    return supervisor.run()


def _detach_output(run: str) -> None:
    """The asker's stdin, stdout and stderr are not ours."""
    log = os.open(f"{run}/{places.SUPERVISOR_LOG}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)


def _take_over(run: str) -> int:
    """Become the supervisor of a node without a mount, whose last one died."""
    os.closerange(3, 1 << 20)
    deadline = time.monotonic() + HANDOVER_LIMIT
    try:
        while rundir.lock(run, create=False) is None:
            if time.monotonic() > deadline:
                print(f"{run} has a supervisor already: `forebay status`", file=sys.stderr)  # noqa: T201
                return EXIT_FAILED
            time.sleep(_RETRY)
    except FileNotFoundError:
        return EXIT_NOTHING
    return _resume(run, None, []).run()


def _resume(run: str, message: dict[str, Any] | None, fds: list[int]) -> Supervisor:
    """A supervisor for processes that outlived the last one: mounts as in state.json, the worker behind its socket.

    `message` and `fds` are what a mount daemon hands over, None where there is no mount.
    """
    try:
        with open(f"{run}/{places.STATE}", "rb") as f:
            state = json.load(f)
    except (OSError, ValueError):
        state = {}  # killed before its first state: there is just the mount that is handed over
    first = [] if message is None else [{"index": message["index"], "path": message["mount"], "created": []}]
    known = state.get("mounts") or first
    mounts = []
    for row in known:
        mount = Mount(row["index"], row["path"])
        mount.created = list(row["created"])
        mounts.append(mount)
    supervisor = Supervisor(run, mounts, daemon_options=list(state.get("daemon_options", [])))
    supervisor.started = state.get("started", supervisor.started)
    supervisor.ready = state.get("ready")
    supervisor.listen_for_signals()
    supervisor.report("warning", f"the supervisor before pid {os.getpid()} died: its processes are taken over")
    worker = control.listening_pid(f"{run}/{places.WORKER_SOCK}") or _pid_of_worker(state)
    if worker is not None:
        supervisor.adopt(decide.WORKER, worker)
    if message is None:
        if state.get("phase") == "up":
            supervisor.machine.phase = "up"  # a worker that died as well is tried for ever, not rolled back
        supervisor.begin()
    else:
        supervisor.expect([m.role for m in mounts if m.device < 0], HANDOVER_LIMIT)
        supervisor.handed_over(message, fds)
    if state.get("phase") == "stopping":
        supervisor.feed(decide.Stop(time.monotonic()))
    return supervisor


def _pid_of_worker(state: dict[str, Any]) -> int | None:
    """The worker of a state file, if it still is that process: one that starts does not listen yet."""
    for row in state.get("processes", []):
        if row["role"] == decide.WORKER and processes.same_process(row["pid"], row["start"]):
            return int(row["pid"])
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="forebay.fuse.supervision.supervisor", description="internal: started by `forebay up`")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--no-passthrough", action="store_true")
    parser.add_argument("--device-fd", type=int, help="with one --mount that exists: its device")
    parser.add_argument("--state-fd", type=int, help="and its keeper record")
    parser.add_argument("--adopt")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(argv)
    os.chdir("/")
    os.umask(0o022)
    if args.adopt is not None:
        return _adopt(args.run_dir, json.loads(args.adopt))
    if args.resume:
        return _take_over(args.run_dir)
    held = None if args.device_fd is None or args.state_fd is None else (args.device_fd, args.state_fd)
    if held is not None and len(args.mount) != 1:
        parser.error("--device-fd and --state-fd go with one --mount")
    return _start(args.run_dir, args.mount, ["--no-passthrough"] if args.no_passthrough else [], held)


if __name__ == "__main__":
    sys.exit(main())
