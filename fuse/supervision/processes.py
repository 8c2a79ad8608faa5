"""Processes from outside: start one that inherits nothing, know it again by pid, ask whether a mount answers.

Everything goes through pidfds and `posix_spawn`, so that the supervisor needs neither threads nor `subprocess`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Sequence

LOG_LIMIT = 8 << 20
"""Bytes of one log; above it the older half goes (the run directory may be a tmpfs)."""
_FIRST_PASSED = 3
_OUT_OF_THE_WAY = 64  # where sources are duplicated to, so that placing one never overwrites another

ANSWERS, NOT_CONNECTED = 0, 1


def python(module: str, *args: str) -> list[str]:
    """Command line of one of our modules. -P: what lies in the current directory is no module of ours."""
    return [sys.executable, "-P", "-m", module, *args]


def spawn(argv: Sequence[str], log: str, passed: Sequence[int] = ()) -> int:
    """Start `argv` with descriptors `passed` as 3, 4, ... and nothing else of ours; its pid.

    stdin is /dev/null, stdout and stderr are appended to `log`; own session; cwd is ours (the supervisor's is /).
    """
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in passed]
    try:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, _FIRST_PASSED + i) for i, fd in enumerate(copies)]
        return os.posix_spawn(
            argv[0],
            list(argv),
            os.environ,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE),
        )
    finally:
        for fd in copies:
            os.close(fd)


def start_ticks(pid: int) -> int | None:
    """When a process started (clock ticks since boot): with the pid it names one process for ever. None: no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def same_process(pid: int, ticks: int | None) -> bool:
    """Whether `pid` is still the process that started at `ticks`, and not dead."""
    now = start_ticks(pid)
    return now is not None and (ticks is None or now == ticks)


def reap(pidfd: int) -> int | None:
    """Exit status (as `os.waitstatus_to_exitcode`) of a process whose pidfd became readable; None when it is no child of ours."""
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def probe_mount(path: str) -> int:
    """Ask a mount a question that no kernel cache answers (STATFS), in a child that may hang; the child's pid.

    Its exit code is `ANSWERS` or `NOT_CONNECTED`. The child lets go of every descriptor first: a hanging one must keep
    neither the lock nor the device.
    """
    pid = os.fork()
    if pid:
        return pid
    code = ANSWERS
    try:
        os.closerange(3, 1 << 20)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.statvfs(path)
    except OSError as e:
        code = NOT_CONNECTED if e.errno in (errno.ENOTCONN, errno.ECONNABORTED) else ANSWERS
    finally:
        os._exit(code)


def holders(mount: str, limit: int = 8) -> list[str]:
    """Who uses a mount: `pid 123 (python3) has /mnt/x/file open`. Reads links only, so a dead mount cannot hang it."""
    found: list[str] = []
    below = mount.rstrip("/") + "/"
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        use = _use(f"/proc/{entry}", mount, below)
        if use:
            found.append(f"pid {entry} ({_comm(entry)}) {use}")
            if len(found) >= limit:
                break
    return found


def _use(proc: str, mount: str, below: str) -> str:
    for link, verb in (("cwd", "works in"), ("root", "is rooted in"), ("exe", "runs")):
        target = _readlink(f"{proc}/{link}")
        if target == mount or target.startswith(below):
            return f"{verb} {target}"
    try:
        fds = os.listdir(f"{proc}/fd")
    except OSError:
        return ""
    for fd in fds:
        target = _readlink(f"{proc}/fd/{fd}")
        if target == mount or target.startswith(below):
            return f"has {target} open"
    try:
        with open(f"{proc}/maps", "rb") as f:
            for line in f:
                name = line.split(maxsplit=5)[5:]
                if name and os.fsdecode(name[0].rstrip(b"\n")).startswith(below):
                    return f"has {os.fsdecode(name[0].rstrip())} mapped"
    except OSError:
        return ""
    return ""


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _comm(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return "?"


def last_line(log: str) -> str:
    """The last line of a log that says something; of a traceback that is the exception."""
    try:
        with open(log, "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 8192))
            lines = [line.strip() for line in f.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line), "")


def trim_log(log: str) -> None:
    """Keep a log that others append to below `LOG_LIMIT`: its newer half moves to `<log>.1`, the file starts anew."""
    try:
        size = os.stat(log).st_size
    except OSError:
        return
    if size <= LOG_LIMIT:
        return
    with open(log, "r+b") as f:
        f.seek(size - LOG_LIMIT // 2)
        kept = f.read()
        with open(f"{log}.1", "wb") as old:
            old.write(kept)
        f.truncate(0)
