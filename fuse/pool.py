"""Requests that wait: a bounded pool of plain threads, and who writes the one reply of each.

A waiting request is answered by its thread, or with EINTR when its process is told to end: whoever takes its unique out
of `pending` writes the reply, the other one does not.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from forebay.fuse import protocol as p
from forebay.fuse.record import Record

DOOR, DISK = "door", "disk"
THREADS = {DOOR: 32, DISK: 6}
"""Requests that wait for the worker, and for a disk, at the same time; more queue up (at most 128 in the background). Two
lanes, so that what lies in the cache can be read while every door thread waits for a store that is down."""
STACK = 256 << 10

_ENDS = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 8) | (1 << 14)
"""SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM as bits of /proc/PID/status: only these end a wait with EINTR. A timer or a
child's end must not: programs do not expect EINTR from a file."""


class Job(NamedTuple):
    """A request that waits."""

    raw: bytes
    opcode: int
    unique: int
    nodeid: int
    pid: int


class Lane:
    """Threads that are started when there is more to do than threads at rest, up to a bound."""

    def __init__(self, name: str, work: Callable[[Job], None]) -> None:
        self.name = name
        self.most = THREADS[name]
        self.work = work
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._threads = 0
        self._resting = 0  # threads that no queued job counts on
        self._backlog = 0  # queued jobs that no thread counts on
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        with self._lock:
            if self._resting:
                self._resting -= 1
            elif self._threads == self.most:
                self._backlog += 1
            else:
                threading.stack_size(STACK)
                threading.Thread(target=self._run, name=f"{self.name}-{self._threads}", daemon=True).start()
                self._threads += 1
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            self.work(self._jobs.get())
            with self._lock:
                if self._backlog:
                    self._backlog -= 1
                else:
                    self._resting += 1


class Pool:
    """`work(job)` answers a job in a thread of its own; it writes its reply only if `claim(job.unique)` says so."""

    def __init__(self, record: Record, work: Callable[[Job], None], reply: Callable[[bytes], object]) -> None:
        self.record = record
        self.work = work
        self.reply = reply
        self.pending: dict[int, Job] = {}
        self._noted: dict[int, int] = {}  # unique of a waiting request -> its place in the record
        self._signalled: set[int] = set()  # uniques whose process got a signal that does not end the wait
        self._lanes = {name: Lane(name, self._work) for name in THREADS}

    def submit(self, job: Job, lane: str = DOOR) -> None:
        self.pending[job.unique] = job
        self._noted[job.unique] = self.record.note(job.raw)
        self._lanes[lane].submit(job)

    def _work(self, job: Job) -> None:
        if job.unique in self.pending:
            self.work(job)
        self.record.done(self._noted.pop(job.unique, 0))  # after the reply

    def claim(self, unique: int) -> bool:
        """Whether the reply to a waiting request is still the caller's to write."""
        self._signalled.discard(unique)
        return self.pending.pop(unique, None) is not None

    def interrupt(self, unique: int) -> None:
        """The process behind a request got a signal."""
        job = self.pending.get(unique)
        if job is not None:  # else it was answered already, or is about to be
            self._signalled.add(unique)
            self._end_if_told(job)

    def check_signals(self) -> None:
        """Waiting requests whose process got a harmless signal before may have been told to end since."""
        for unique in list(self._signalled):
            job = self.pending.get(unique)
            if job is None:
                self._signalled.discard(unique)
            else:
                self._end_if_told(job)

    def _end_if_told(self, job: Job) -> None:
        if told_to_end(job.pid) and self.claim(job.unique):
            self.reply(p.error_reply(job.unique, errno.EINTR))


def told_to_end(pid: int) -> bool:
    """Whether a signal that should end a wait is pending for a thread. Also when it is gone or not of our PID namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            for line in f:
                if line.startswith((b"SigPnd:", b"ShdPnd:")) and int(line.split()[1], 16) & _ENDS:
                    return True
    except OSError:
        return True
    return pid == 0
