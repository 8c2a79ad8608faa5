"""Who starts a new supervisor where no mount daemon would: a child of it that waits for its end, for a node without a mount.

It costs the pages that it does not share with its parent, and nothing else until the supervisor dies. Then it becomes the
next one, if the run directory is still there: it is the same process after an exec.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
from collections.abc import Callable

from forebay.api import places
from forebay.fuse.supervision import processes

PAUSE = 0.1
"""Seconds until a guard that ended is replaced."""


class Guard:
    """The guard of the supervisor that makes it. `after` and `report` are the supervisor's own."""

    def __init__(
        self,
        run: str,
        selector: selectors.BaseSelector,
        after: Callable[[float, Callable[[], None]], None],
        report: Callable[[str, str], None],
    ) -> None:
        self.run = run
        self.pid = 0  # 0: none at the moment
        self.restarts = 0
        self._selector = selector
        self._after = after
        self._report = report
        self._pidfd = -1
        self._over = False

    def start(self) -> None:
        """Fork one, unless it is all over."""
        if self._over:
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _wait(self.run, parent)
            finally:
                os._exit(1)
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._ended)

    def _ended(self) -> None:
        self._forget()
        self.restarts += 1
        self._report("warning", f"the guard of the supervisor ended; another in {PAUSE:g} s")
        self._after(PAUSE, self.start)

    def end(self) -> None:
        """End it, and make no other."""
        self._over = True
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(2000)
            self._forget()

    def _forget(self) -> None:
        processes.reap(self._pidfd)
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        self.pid, self._pidfd = 0, -1


def _wait(run: str, parent: int) -> None:
    """The child: wait for the end of `parent`, then become the next supervisor."""
    os.closerange(3, 1 << 20)  # the lock above all: it must be free when the parent is gone
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(parent)
        if os.getppid() == parent:  # or the pid is another's by now
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll()
    if os.path.exists(f"{run}/{places.SPEC}"):
        argv = processes.python("forebay.fuse.supervision.supervisor", "--run-dir", run, "--resume")
        os.execv(argv[0], argv)
    os._exit(0)
