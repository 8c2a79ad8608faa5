"""The end of a process that others ask for by a signal."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

ASKED = (signal.SIGTERM, signal.SIGINT)


def end_on_signals(end: Callable[[], None]) -> None:
    """SIGTERM and SIGINT call `end`, in a thread of its own. To be called in the main thread.

    Python runs a handler in the main thread, once that is back from where it waits, and only a signal that the kernel gives to
    this thread wakes it. One that comes while a process is stopped or frozen may go to any thread: it would be forgotten.
    """
    inner, outer = socket.socketpair()
    outer.setblocking(False)

    def listen() -> None:
        while numbers := inner.recv(64):
            if set(numbers) & set(ASKED):
                end()

    signal.set_wakeup_fd(outer.detach(), warn_on_full_buffer=False)  # written to in whichever thread it comes
    for number in ASKED:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=listen, name="signals", daemon=True).start()
