"""One mounted directory as its supervisor holds it."""

from __future__ import annotations

import os
import select
import socket


class Mount:
    """One mounted directory. Invariant: `device` is open exactly while the kernel may still route requests to it."""

    def __init__(self, index: int, path: str) -> None:
        self.index = index
        self.path = path
        self.role = f"mount-{index}"
        self.created: list[str] = []  # directories made for it, outermost first
        self.device = -1
        self.record = -1
        self.link: socket.socket | None = None
        self.probe = 0  # pid of the newest probe; 0 = none
        self.busy_until = 0.0

    def unplugged(self) -> bool:
        """Whether the kernel has ended the connection (unmounted or aborted)."""
        if self.device < 0:
            return True
        poll = select.poll()
        poll.register(self.device, 0)  # only asked once here: a standing poll would wake us at every request
        return any(flags & (select.POLLERR | select.POLLNVAL) for _, flags in poll.poll(0))

    def let_go(self) -> None:
        """Close device and record; the last close of the device anywhere ends the connection.

        The link stays: its end would tell the daemon, which is about to end, to look for a new supervisor.
        """
        for fd in (self.device, self.record):
            if fd >= 0:
                os.close(fd)
        self.device = self.record = -1
