"""The members as this process knows them: a list watched by one thread, its members greeted, who is told of changes."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from forebay.cache.log import log
from forebay.cache.members.discovery import Source
from forebay.cache.members.roster import Member, Roster

GREETING = 5.0
"""Seconds of one look spent on greeting addresses."""
AGAIN = 5.0
"""Seconds between greetings of members, one at a time: one that was drained may not have reached everybody."""


class Membership(Protocol):
    """What placement and clients ask."""

    def current(self) -> tuple[Member, ...]:
        """Members as known now, ordered by identity."""
        ...

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        """Have `changed` called, from any thread, with each new list."""
        ...


class Fixed:
    """A list that never changes."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(sorted(members, key=lambda m: m.id))

    def current(self) -> tuple[Member, ...]:
        return self._members

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        return


class Watcher:
    """A list watched by one thread. `hello(address)` asks an address who it is and raises OSError or returns None if it
    does not say; `own` is known without asking."""

    def __init__(self, source: Source, hello: Callable[[str], Member | None], own: Member | None = None) -> None:
        self.source = source
        self.roster = Roster(source.linger)
        self._hello = hello
        self._own = own
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[tuple[Member, ...]], None]] = []
        self._members: tuple[Member, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._change = threading.RLock()  # the roster, and telling what came of it in order
        self._turn = 0  # where the greetings of the next look begin
        self._again = time.monotonic() + AGAIN
        self._asked = ""  # the member greeted last

    def current(self) -> tuple[Member, ...]:
        return self._members

    def subscribe(self, changed: Callable[[tuple[Member, ...]], None]) -> None:
        with self._lock:
            self._subscribers.append(changed)

    def start(self) -> None:
        """Look once, then go on looking in a thread until `close`."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="forebay-members", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def look(self, now: float | None = None) -> None:
        """One look at the list, and greetings for addresses whose identity is unknown."""
        entries = self.source.read()
        with self._change:
            if entries is not None:
                self.roster.listed(entries, time.monotonic() if now is None else now)
            unknown = self.roster.unknown()
        until = time.monotonic() + GREETING
        for n in range(len(unknown)):
            address = unknown[(self._turn + n) % len(unknown)]
            if self._stop.is_set():
                return
            if time.monotonic() > until:  # dead addresses take a second each: the next look goes on from here
                self._turn += n
                break
            if self._own is not None and address == self._own.data:
                self._greeted(address, self._own)
                continue
            try:
                member = self._hello(address)
            except OSError:
                continue  # not up yet, or gone: asked again at the next look
            if member is not None:
                self._greeted(address, member)
        self._tell()
        if time.monotonic() >= self._again:
            self._again = time.monotonic() + AGAIN
            self.ask_again()

    def ask_again(self) -> None:
        """Greet the next member: one that owns nothing any more leaves, though it could not say so."""
        others = [m for m in self._members if self._own is None or m.id != self._own.id]
        if not others:
            return
        member = next((m for m in others if m.id > self._asked), others[0])
        self._asked = member.id
        try:
            owns = self._hello(member.data) is not None
        except OSError:
            return  # not well: that is no leaving
        if not owns:
            self.leave(member.id)

    def leave(self, identity: str) -> bool:
        """A member says that it leaves, and does so at once; this one, when it is its own. False when it was none."""
        with self._change:
            if self._own is not None and self._own.id == identity:
                self._own = None
            left = self.roster.leave(identity)
        if left:
            log("membership", "left", id=identity)
            self._tell()
        return left

    def _greeted(self, address: str, member: Member) -> None:
        with self._change:
            self.roster.greeted(address, member)

    def _tell(self) -> None:
        with self._change:
            if self.roster.members == self._members:
                return
            self._members = self.roster.members
            log("membership", "changed", members=len(self._members), addresses=[m.data for m in self._members][:32])
            with self._lock:
                subscribers = list(self._subscribers)
            for changed in subscribers:
                changed(self._members)

    def _run(self) -> None:
        while not self._stop.wait(self.source.every):
            try:
                self.look()
            except Exception as e:  # noqa: BLE001 - the list must go on being watched, whatever a greeting brings
                log("membership", "look_failed", error=f"{type(e).__name__}: {e}")


def identity(index_dir: str) -> tuple[str, bool]:
    """This worker's UUID, made once in `index_dir/identity`, and whether it was there before.

    Raises `ValueError` when the file holds no UUID: a new identity would move all its bytes.
    """
    path = os.path.join(index_dir, "identity")
    os.makedirs(index_dir, mode=0o700, exist_ok=True)
    for _ in range(2):
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            fd, fresh = tempfile.mkstemp(prefix="identity.", dir=index_dir)  # mode 0600
            try:
                os.write(fd, f"{uuid.uuid4()}\n".encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                os.link(fresh, path)  # who comes second finds the first one's
                made = True
            except FileExistsError:
                made = False
            os.unlink(fresh)
            if made:
                return Path(path).read_text(encoding="ascii").strip(), False
            continue
        try:
            return str(uuid.UUID(text)), True
        except ValueError as e:
            raise ValueError(f"{path} holds no UUID: restore it, or remove it and the worker joins as a new member") from e
    raise ValueError(f"{path} cannot be read or made: check the directory")
