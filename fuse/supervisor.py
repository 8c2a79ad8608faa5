"""The supervisor of one dataset on one machine: mounts, keeps the descriptors, starts and restarts the others.

It is the second holder of every `/dev/fuse` descriptor and of its keeper record (a memfd), so that a mount daemon can
die at any instant: the next one gets the same descriptors, and the kernel resends what was in flight. Decisions are
`forebay.fuse.supervise`; this module only does what it is told. It imports no event loop and no rich library: it lives
as long as the mount does and costs a few MiB.

**Command lines**

    python -P -m forebay.fuse.supervisor --run-dir RUN --mount DIR [--mount DIR]... [--no-passthrough]
    python -P -m forebay.fuse.supervisor --run-dir RUN --adopt JSON

What it starts (each with stdin from /dev/null, stdout and stderr appended to its log in RUN, cwd /, its own session,
no descriptor but those named):

    python -P -m forebay.cache.worker --run-dir RUN
    python -P -m forebay.fuse.daemon --run-dir RUN --mount DIR --index I --device-fd N --state-fd M --supervisor-fd S

**The supervisor descriptor** of a mount daemon is one end of a socketpair (SOCK_SEQPACKET). The supervisor never sends;
the daemon may send `b"ready"` once INIT is answered (readiness is probed through the kernel anyway). EOF on it means
that the supervisor died. The daemon then makes a new socketpair and runs, with `pass_fds` and a new session,

    python -P -m forebay.fuse.supervisor --run-dir RUN --adopt \
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
    {"op": "adopt", ...as above, without descriptor numbers} + SCM_RIGHTS [device, state, link] -> {"ok": true}
"""
