"""A process that is told to end ends, whichever of its threads the kernel gives the signal to."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, threading
from forebay.api.ending import end_on_signals

def send():  # as the kernel may do with a signal that came while all threads were stopped
    sys.stdin.readline()
    signal.pthread_kill({"main": threading.main_thread(), "other": other}[sys.argv[1]].ident, int(sys.argv[2]))

over = threading.Event()
end_on_signals(over.set)
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
threading.Thread(target=send, daemon=True).start()
print("waits", flush=True)
over.wait()
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_signal_to_any_thread_ends_it(number: signal.Signals, thread: str) -> None:
    argv = [sys.executable, "-P", "-c", PROGRAM, thread, str(int(number))]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "waits\n"
            said, errors = child.communicate("now\n", timeout=60)
        finally:
            child.kill()
    assert (said, errors, child.returncode) == ("ended\n", "", 0)
