"""Who starts the supervisors of this node's mounts: this process itself, or the keeper in another pod.

A process in a container dies with it. So where the plugin runs in one, supervisors, daemons and client tiers are started by the
keeper (`forebay mounts`, a pod of its own), and plugin and keeper hold the descriptors of each mount for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Protocol

from forebay.api import places
from forebay.fuse.csi.protocol.refusal import Refusal
from forebay.fuse.supervision import control, leftovers, processes

ANSWER = 5.0


class Holder(Protocol):
    def start(self, run: str, mount: str, fds: Sequence[int]) -> None:
        """Start a supervisor for a run directory; `fds`, where the mount exists already: its device and its record."""
        ...

    def alive(self, run: str) -> bool:
        """Whether any process of a run directory lives. Raises `Refusal` (UNAVAILABLE) when nobody can say."""
        ...

    def clear(self, run: str, dataset: str) -> list[str]:
        """End what lives, detach the mount, remove the run directory; sentences about what could not be removed."""
        ...

    def tick(self) -> None:
        """Now and then."""
        ...


def supervisor(run: str, mount: str, fds: Sequence[int]) -> list[str]:
    """Command line; the descriptors are 3 and 4 there."""
    more = ["--device-fd", "3", "--state-fd", "4"] if fds else []
    return processes.python("forebay.fuse.supervision.supervisor", "--run-dir", run, "--mount", mount, *more)


class Direct:
    """Supervisors are children of this process, in sessions of their own: they outlive it."""

    def __init__(self) -> None:
        self._children: list[int] = []  # pidfds
        self._lock = threading.Lock()

    def start(self, run: str, mount: str, fds: Sequence[int]) -> None:
        try:
            pid = processes.spawn(supervisor(run, mount, fds), f"{run}/{places.SUPERVISOR_LOG}", fds)
        except OSError as e:
            raise Refusal("INTERNAL", f"no supervisor can be started for {run}: {e.strerror}") from None
        with self._lock:
            self._children.append(os.pidfd_open(pid))

    def alive(self, run: str) -> bool:
        self.tick()
        return bool(leftovers.processes_of(run))

    def clear(self, run: str, dataset: str) -> list[str]:
        return leftovers.clear(run, dataset)

    def tick(self) -> None:
        """Reap what ended."""
        with self._lock:
            left = []
            for pidfd in self._children:
                if _over(pidfd):
                    os.close(pidfd)
                else:
                    left.append(pidfd)
            self._children = left


def _over(pidfd: int) -> bool:
    try:
        return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


class Remote:
    """Supervisors are the keeper's, behind its socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _ask(self, message: dict[str, object], fds: Sequence[int] = (), seconds: float = ANSWER) -> dict[str, object]:
        try:
            answer = control.ask(self._path, message, seconds, list(fds))
        except control.Silence as e:
            raise Refusal("UNAVAILABLE", f"{e}: the pod of DaemonSet forebay-mounts does not run on this node (yet)") from None
        if answer.get("error"):
            raise Refusal("INTERNAL", str(answer["error"]))
        return answer

    def start(self, run: str, mount: str, fds: Sequence[int]) -> None:
        self._ask({"op": "start", "run": run, "mount": mount}, fds)

    def alive(self, run: str) -> bool:
        return bool(self._ask({"op": "alive", "run": run})["alive"])

    def clear(self, run: str, dataset: str) -> list[str]:
        problems = self._ask({"op": "clear", "run": run, "dataset": dataset}, seconds=60.0)["problems"]
        assert isinstance(problems, list)
        return [str(p) for p in problems]

    def tick(self) -> None:
        return
