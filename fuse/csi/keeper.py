"""The keeper: starts the supervisors of a node's mounts, and is what they live beside (`forebay mounts`, a pod of its own).

It answers on `mounts.sock` (JSON packets, root only):

    {"op": "start", "run": RUN, "mount": DIR}   with [device, record] where the mount exists already   -> {}
    {"op": "alive", "run": RUN}                 -> {"alive": bool}
    {"op": "clear", "run": RUN, "dataset": ID}  -> {"problems": [...]}

It knows nothing of datasets and starts nothing by itself: what should run, the node plugin says. When its container ends, all its
processes end; the plugin holds the descriptors, and gives them to the next keeper.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
from typing import Any

from forebay.cache.log import log
from forebay.fuse.csi import handover, health
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.csi.volumes.holder import Direct
from forebay.fuse.csi.volumes.site import Layout
from forebay.fuse.supervision import control, leftovers

GRACE = 10.0
"""Seconds client tiers get to end by themselves."""


class Keeper:
    """One loop, one thread. `run` returns when it was told to end (SIGTERM)."""

    def __init__(self, layout: Layout, driver: str = "") -> None:
        """`driver`: the socket of the node plugin; "" is the usual place."""
        self._layout = layout
        self._driver = driver or f"{layout.base}/csi.sock"
        self._direct = Direct()
        self._selector = selectors.DefaultSelector()
        os.makedirs(layout.base, mode=0o700, exist_ok=True)
        self._server = control.Server(layout.keeper, self._selector, self._serve)
        self._over = False

    def run(self) -> None:
        inner, outer = socket.socketpair()
        for end in (inner, outer):
            end.setblocking(False)
        signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

        def woken() -> None:
            self._over = bool(set(inner.recv(256)) & {signal.SIGTERM, signal.SIGINT}) or self._over
            self._reap()

        self._selector.register(inner, selectors.EVENT_READ, woken)
        log("mounts", "ready", pid=os.getpid(), socket=self._layout.keeper)
        while not self._over:
            self._listen(None)
        if any(leftovers.processes_of(run) for run in _runs(self._layout.runs)):
            for pause in handover.turn(self._layout.base, lambda: not health.problem(self._driver)):
                self._listen(pause)
        self._server.close()
        os.unlink(self._layout.keeper)
        self._end()

    def _listen(self, seconds: float | None) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def _reap(self) -> None:
        """As the first process of a container, orphans are ours too."""
        self._direct.tick()
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    def _serve(self, peer: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        try:
            self._server.send(peer, self._answer(message, fds))
        except (Refusal, OSError, KeyError) as e:
            self._server.send(peer, {"error": str(e) or type(e).__name__})
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        run = os.path.normpath(str(message["run"]))
        if not run.startswith(f"{self._layout.runs}/"):
            return {"error": f"{run} is no run directory of this node"}
        match message.get("op"):
            case "start" if len(fds) in (0, 2):
                self._direct.start(run, str(message["mount"]), fds)
                log("mounts", "started", run=run, adopted=bool(fds))
                return {}
            case "alive":
                return {"alive": self._direct.alive(run)}
            case "clear":
                return {"problems": leftovers.clear(run, str(message["dataset"]))}
            case op:
                return {"error": f"unknown request {op!r}"}

    def _end(self) -> None:
        """The mounts stay: supervisors and daemons are killed, client tiers end cleanly. The plugin has the descriptors."""
        found = [p for run in _runs(self._layout.runs) for p in leftovers.processes_of(run)]
        waiting = []
        for process in sorted(found, key=lambda p: p.role == "worker"):
            try:
                pidfd = os.pidfd_open(process.pid)
                signal.pidfd_send_signal(pidfd, signal.SIGTERM if process.role == "worker" else signal.SIGKILL)
                waiting.append(pidfd)
            except ProcessLookupError:
                continue
        for pidfd in waiting:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(GRACE * 1000)
            os.close(pidfd)
        log("mounts", "ended", processes=len(waiting))
        if not os.path.isdir(self._layout.state):  # the driver has gone, too, with the last dataset
            with contextlib.suppress(OSError):
                os.unlink(f"{self._layout.base}/{handover.LOCK}")
        for folder in (self._layout.runs, self._layout.base):
            with contextlib.suppress(OSError):  # in use, or gone: the plugin's matter
                os.rmdir(folder)


def _runs(top: str) -> list[str]:
    found = []
    for namespace in os.listdir(top) if os.path.isdir(top) else ():
        found += [f"{top}/{namespace}/{name}" for name in os.listdir(f"{top}/{namespace}")]
    return found
