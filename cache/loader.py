"""Loading a dataset ahead from outside its workers: orders at their control doors, until everything lies where it should.

What was loaded stays with the workers, so that nothing has to be remembered here: whatever is killed (this process, the worker
that carries the order out, any other), the same order given again passes over what is there and goes on with the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from forebay.cache.log import log
from forebay.cache.members.discovery import DnsSource
from forebay.cache.peers import controlwire as c

PATIENCE = 600.0
"""Seconds without any worker that answers, after which nobody is waited for any longer."""
ROUNDS = 8
"""Orders in a row that brought nothing further; with the waits between them this is two and a half minutes."""
LONGEST_WAIT = 30.0
MEET = 10.0
"""Seconds that workers get to know of each other before the first order: who does not would fetch what is another's."""
SPREADS = 8
"""Times that everything is ordered again because workers came meanwhile: what is theirs lies with others then."""
_FINAL = {"NotFound": "TargetNotFound", "Malformed": "TargetRefused", "Protocol": "WorkersOutdated"}
"""Refusals that the same order meets again, and the reason that people read."""


class Target(msgspec.Struct, frozen=True):
    """`path` is absolute and may be a pattern. `replicas`: nodes that hold each part of it, 1 for its owner alone."""

    path: bytes
    replicas: int = 1


class Order(msgspec.Struct, frozen=True):
    """`refresh`: ask the stores for names and versions first. `metadata_only`: fetch nothing but those. `nodes`: members, by the
    names of their nodes, that take all of it each; none: each part goes to its owner."""

    targets: tuple[Target, ...]
    refresh: bool = False
    metadata_only: bool = False
    nodes: tuple[str, ...] = ()


class LoadError(Exception):
    """It was given up. `reason` is one word for programs; `final` says that another try meets the same."""

    def __init__(self, reason: str, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.reason, self.final = reason, final


class Doors(Protocol):
    """What of `ControlClient` is used. All raise `ControlError`."""

    def load(
        self, address: str, paths: Sequence[bytes], *, metadata_only: bool = False, replicas: int = 0, nodes: Sequence[str] = ()
    ) -> Iterator[c.Progress]: ...
    def refresh(self, address: str, path: bytes) -> c.Changed: ...
    def stats(self, address: str) -> dict[str, Any]: ...


class Service:
    """The control doors of workers behind one name: all addresses that it has now."""

    def __init__(self, name: str, port: int) -> None:
        self._source = DnsSource(name, port)

    def addresses(self) -> list[str]:
        """[] where none is known, `error` says why."""
        return [listed.data for listed in self._source.read() or ()]

    @property
    def error(self) -> str:
        return self._source.error


class _Patience:
    """How often the same may fail. Reset by whatever is new."""

    def __init__(self) -> None:
        self.rounds, self._most = 0, (-1, -1)

    def saw(self, p: c.Progress) -> None:
        if (p.bytes, p.files) > self._most:
            self._most, self.rounds = (p.bytes, p.files), 0

    def wait(self) -> float | None:
        """Seconds until the next try, None when there is none."""
        self.rounds += 1
        return None if self.rounds >= ROUNDS else min(2.0 ** (self.rounds - 1), LONGEST_WAIT)


class Loader:
    """`addresses` says where workers can be asked now. `sleep` and `clock` are those of `time`."""

    def __init__(
        self,
        doors: Doors,
        addresses: Callable[[], list[str]],
        order: Order,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doors, self._addresses, self._order = doors, addresses, order
        self._sleep, self._clock = sleep, clock
        self._turn = 0
        self._met: set[str] = set()
        self.notes: list[str] = []
        """What was done otherwise than it was asked for."""

    def run(self) -> Iterator[c.Progress]:
        """Progress of all targets together; the last one is `finished`. Raises `LoadError`."""
        if self._order.refresh:
            for target in self._order.targets:
                self._refresh(_certain(target.path))
        last = c.Progress()
        self._meet()
        for left in range(SPREADS, -1, -1):
            self._met = set()
            shown = msgspec.structs.replace(last, finished=False)
            for last in self._pass(shown):
                if not last.finished:
                    yield last
            if not (came := self._came() if left else set()):
                break
            log("load", "spread", members=sorted(came))
        yield last

    def _meet(self) -> None:
        """Until every worker counts as many as there are, or time is up: one that is ready and dead is not waited for longer."""
        until, why = self._clock() + MEET, "no worker is ready"
        while self._clock() < until:
            doors = self._addresses()
            try:
                if doors and all(len(self._members(door)) >= len(doors) for door in doors):
                    return
                why = f"not all of {len(doors)} workers know of each other"
            except c.ControlError as e:
                why = str(e)
            self._sleep(0.2)
        log("load", "not_met", why=why)

    # --- all targets once

    def _pass(self, shown: c.Progress) -> Iterator[c.Progress]:
        groups, done = _groups(self._order), c.Progress()
        for n, (replicas, paths) in enumerate(groups, 1):
            last = c.Progress()
            for last in self._group(paths, replicas):
                shown = _forward(shown, _joined(done, last, n == len(groups)))
                if not last.finished or n == len(groups):
                    yield shown
            done = _joined(done, last, final=True)

    def _came(self) -> set[str]:
        """Members that were none when the first order was given. Who does not answer now is asked for nothing more."""
        for door in self._addresses():
            try:
                return {m["id"] for m in self._members(door)} - self._met
            except c.ControlError as e:
                log("load", "not_counted", door=door, error=str(e))
        return set()

    # --- a group of targets with as many replicas

    def _group(self, paths: Sequence[bytes], replicas: int) -> Iterator[c.Progress]:
        patience = _Patience()
        while True:
            door = self._door()
            try:
                last = c.Progress()
                for last in self._stream(door, paths, replicas):
                    patience.saw(last)
                    if last.finished and not last.failed:
                        yield last
                        return
                    yield msgspec.structs.replace(last, finished=False)
                why = f"{last.failed} files could not be loaded, the last: {last.error}" if last.failed else "it ended early"
            except c.ControlError as e:
                self._final(e, paths, replicas)
                why = str(e)
            pause = patience.wait()
            if pause is None:
                raise LoadError("Incomplete", f"{why}; see the logs of the workers", final=False)
            log("load", "again", why=why, after=pause)
            self._turn += 1
            self._sleep(pause)

    def _stream(self, door: str, paths: Sequence[bytes], replicas: int) -> Iterator[c.Progress]:
        members = self._members(door)
        self._met = self._met or {m["id"] for m in members}
        if self._order.metadata_only:  # each node has names of its own
            for _ in self._doors.load(door, paths, metadata_only=True):
                pass  # alone: of several at once none says that a path is not there
            return self._doors.load(door, paths, metadata_only=True, nodes=[m["id"] for m in members])
        if self._order.nodes:
            return self._doors.load(door, paths, nodes=self._order.nodes)
        if replicas > len(members):
            note = f"{replicas} replicas were asked for, there are {len(members)} workers: each has all of it"
            if note not in self.notes:
                self.notes.append(note)
        return self._doors.load(door, paths, replicas=max(1, min(replicas, len(members))))

    def _members(self, door: str) -> list[dict[str, Any]]:
        cluster = self._doors.stats(door).get("cluster")
        members: list[dict[str, Any]] = cluster["members"] if isinstance(cluster, dict) else []
        if not members:
            raise c.ControlError(f"node at {door} knows no member yet: it has just started")
        return members

    def _final(self, e: c.ControlError, paths: Sequence[bytes], replicas: int) -> None:
        """Raises for what another try meets again."""
        reason = _FINAL.get(e.name)
        if reason is None or (e.name == "Malformed" and replicas > 1):  # a member left since they were counted
            return
        message = str(e)
        if e.name == "NotFound":
            named = ", ".join(p.decode("utf-8", "backslashreplace") for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
            remedy = "correct spec.target[].path, or write loadMetadata: true if it is new in the store"
            message = f"no such path in the dataset ({named}): {e}; {remedy}"
        raise LoadError(reason, message, final=True) from e

    # --- all nodes

    def _refresh(self, path: bytes) -> None:
        patience = _Patience()
        left = set[str](self._addresses()) or {self._door()}
        while left:
            why = ""
            for door in sorted(left):
                try:
                    self._refresh_one(door, path)
                    left.discard(door)
                except c.ControlError as e:
                    self._final(e, [path], 1)
                    why = str(e)
            if not left:
                return
            pause = patience.wait()
            if pause is None:
                raise LoadError("Incomplete", f"not every worker could be told to look at the stores again: {why}", final=False)
            self._sleep(pause)
            left &= set(self._addresses()) or left  # one that is gone knows nothing either

    def _refresh_one(self, door: str, path: bytes) -> None:
        """A name that is not known yet is above all not known in the directory above it."""
        while True:
            try:
                self._doors.refresh(door, path)
                return
            except c.ControlError as e:
                if e.name != "NotFound" or path == b"/":
                    raise
                path = path.rpartition(b"/")[0] or b"/"

    def _door(self) -> str:
        """Where to ask next; waits for a worker to come."""
        until = self._clock() + PATIENCE
        while not (found := self._addresses()):
            if self._clock() > until:
                raise LoadError("WorkersSilent", f"no worker of the dataset was ready for {PATIENCE:.0f} s", final=False)
            self._sleep(1.0)
        return found[self._turn % len(found)]


def _groups(order: Order) -> list[tuple[int, list[bytes]]]:
    """Paths by their number of replicas, at most as many at once as an order takes."""
    by: dict[int, list[bytes]] = {}
    for target in order.targets:
        by.setdefault(1 if order.metadata_only else target.replicas, []).append(target.path)
    most = c.PATHS_MOST
    return [(replicas, paths[at : at + most]) for replicas, paths in by.items() for at in range(0, len(paths), most)]


def _certain(path: bytes) -> bytes:
    """The part of a path before the first pattern."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if any(sign in part for sign in (b"*", b"?", b"[")):
            break
        parts.append(part)
    return b"/".join(parts) or b"/"


def _joined(done: c.Progress, now: c.Progress, final: bool) -> c.Progress:
    """Targets that are done and the one that is being loaded, as one. Its end is known once the last is listed."""
    return msgspec.structs.replace(
        now,
        files=done.files + now.files,
        files_total=done.files_total + now.files_total,
        bytes=done.bytes + now.bytes,
        bytes_total=done.bytes_total + now.bytes_total,
        eta=now.eta if final else None,
        walked=now.walked and final,
        finished=now.finished and final,
    )


def _forward(shown: c.Progress, now: c.Progress) -> c.Progress:
    """An order that is given again counts from the beginning, past what is there: until it has listed all, nothing goes back."""
    if now.walked:
        return now
    return msgspec.structs.replace(
        now,
        files=max(shown.files, now.files),
        files_total=max(shown.files_total, now.files_total),
        bytes=max(shown.bytes, now.bytes),
        bytes_total=max(shown.bytes_total, now.bytes_total),
    )
