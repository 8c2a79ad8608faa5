"""Which processes belong to a thing, what they cost, and how they end.

A thing is started with a random token in its environment: that is inherited by whatever daemonizes or is started by it,
and found again in /proc. Nothing is ever ended by name.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "BENCH_TOKEN"
TICK = os.sysconf("SC_CLK_TCK")


def new_token() -> str:
    return secrets.token_hex(8)


def find(token: str) -> list[int]:
    """Every live process (zombies excluded) whose environment holds the token. Prefix matches: "run" finds "run.s3fs"."""
    needle = f"{VARIABLE}={token}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if needle in Path("/proc", entry, "environ").read_bytes():
                found.append(int(entry))
        except OSError:  # ended meanwhile, or a kernel thread
            continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far, of the processes and of their children already reaped."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(x) for x in fields[11:15])
    return total / TICK


def rss_anon(pids: Iterable[int]) -> dict[str, int]:
    """Anonymous resident bytes by process, keyed "name:pid"."""
    found = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        if "RssAnon" in status:
            found[f"{status['Name'].strip()}:{pid}"] = int(status["RssAnon"].split()[0]) * 1024
    return found


def sent_bytes(pid: int) -> int:
    """What a process wrote anywhere, `sendfile` included: a store's traffic."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    return 0


def pin(pids: Iterable[int], cpus: set[int]) -> None:
    """Bind every thread of the processes."""
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                os.sched_setaffinity(int(thread), cpus)
            except OSError:  # the thread ended
                continue


def end(token: str, grace: float = 8.0) -> None:
    """Ask, wait, kill: every process that carries the token, by its id."""
    for sig, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 3.0)):
        pids = find(token)
        for pid in pids:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                continue
        if gone(token, wait):
            return


def gone(token: str, wait: float) -> bool:
    """Whether no process carries the token any more, within `wait` seconds."""
    deadline = time.monotonic() + wait
    while find(token):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
