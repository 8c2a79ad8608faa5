"""All that a core was told and what it said, in order, in a file: decided again anywhere, byte for byte.

A core has no clock and makes no call, so what it decides follows from its settings, the changes and outcomes that it was told,
and the two clocks' readings. A journal keeps those from the start of the process on: JSON lines, gzipped if the name ends in
`.gz`; a `Head`, then one line an entry. `replay` tells a fresh core the same and compares what it says.

Fields that the scheduler does not read are not in it. Pods' environment and annotations are: guard it as you guard those.
"""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.copies import Loose, always, optional
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Instruction, Outcome

LOG = logging.getLogger(__name__)

VERSION = 1
"""Of a journal. A reader refuses a newer one."""
NULL = msgspec.Raw(b"null")
MOST = 4 << 30
"""Bytes of entries, unpacked; then the journal ends, and the log says so: some 700,000 pods' worth."""
TYPES: dict[str, Any] = {
    one.label: Any if one.type is Loose else one.type
    for one in (*always("any"), *(kind for kinds in optional() for kind in kinds))
}


class Head(msgspec.Struct, frozen=True):
    """The first line. `forebay`: who wrote it; `settings`: of the start."""

    version: int
    forebay: str
    settings: Configuration


class Changed(msgspec.Struct, frozen=True, tag="change"):
    """A change of a copy. `had`: there was an old one, the last that was told of that key. `new` null: it is gone."""

    kind: str
    namespace: str
    name: str
    wall: int
    had: bool = False
    new: msgspec.Raw = NULL


class Came(msgspec.Struct, frozen=True, tag="outcome"):
    """What came of a binding."""

    outcome: Outcome
    now: float
    wall: int


class Reread(msgspec.Struct, frozen=True, tag="settings"):
    """Settings were read anew."""

    settings: Configuration
    wall: int


class Passed(msgspec.Struct, frozen=True, tag="pass", omit_defaults=True):
    """A pass: the clocks (monotonic seconds, ns since 1970), and the instructions, each with its kind."""

    now: float
    wall: int
    said: list[tuple[str, msgspec.Raw]] = []


Entry = Changed | Came | Reread | Passed
_encode = msgspec.json.Encoder().encode


class JournalError(ValueError):
    """A file that is no journal, or one that this version cannot read."""


class JournalCut(JournalError):
    """The rest is missing: the process that wrote it was killed. What came before is good."""


class Moment:
    """The wall clock as a core reads it: it stands still while the core is told something. Called, it gives ns since 1970."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self.ns = clock()

    def tick(self) -> int:
        self.ns = self._clock()
        return self.ns

    def __call__(self) -> int:
        return self.ns


class Writer:
    """Appends entries. A disk that is full ends the journal, not the scheduler."""

    def __init__(self, path: Path, settings: Configuration, forebay: str, most: int = MOST) -> None:
        self._path, self._left = path, most
        self._file: BinaryIO | gzip.GzipFile | None
        self._file = gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) if path.suffix == ".gz" else path.open("wb")
        self._write(Head(VERSION, forebay, settings))

    def add(self, entry: Entry) -> None:
        if self._file is not None:
            self._write(entry)

    def close(self) -> None:
        """What was written can be read from now on."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, what: Head | Entry) -> None:
        assert self._file is not None
        line = _encode(what) + b"\n"
        self._left -= len(line)
        try:
            if self._left >= 0:
                self._file.write(line)
                return
            LOG.error("journal %s ends here: it is full; start the process again for a new one", self._path)
            self.close()
        except OSError as error:
            LOG.error("journal %s ends here: %s; start the process again for a new one", self._path, error.strerror)
            self._file = None


class Told:
    """Tells a core what happens, and keeps it in a journal where there is one. On the deciding thread alone."""

    def __init__(self, core: Core, moment: Moment, writer: Writer | None = None) -> None:
        self.core, self._moment, self._writer = core, moment, writer

    def change(self, kind: str, old: Any, new: Any) -> None:
        wall = self._moment.tick()
        if self._writer is not None:
            namespace, name = key_of(new if new is not None else old)
            body = NULL if new is None else msgspec.Raw(_encode(new))
            self._writer.add(Changed(kind, namespace, name, wall, old is not None, body))
        self.core.apply(kind, old, new)

    def outcome(self, outcome: Outcome, now: float) -> None:
        wall = self._moment.tick()
        if self._writer is not None:
            self._writer.add(Came(outcome, now, wall))
        self.core.outcome(outcome, now)

    def configure(self, settings: Configuration) -> None:
        wall = self._moment.tick()
        if self._writer is not None:
            self._writer.add(Reread(settings, wall))
        self.core.configure(settings)

    def decide(self, now: float) -> list[Instruction]:
        wall = self._moment.tick()
        done = self.core.decide(now)
        if self._writer is not None:
            self._writer.add(Passed(now, wall, written(done)))
        return done

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def key_of(value: Any) -> tuple[str, str]:
    """Namespace and name of a typed object or of a mapping."""
    if isinstance(value, dict):
        meta = value.get("metadata") or {}
        return str(meta.get("namespace", "")), str(meta.get("name", ""))
    return value.metadata.namespace, value.metadata.name


def written(instructions: Sequence[Instruction]) -> list[tuple[str, msgspec.Raw]]:
    """Instructions as a journal has them."""
    return [(type(one).__name__, msgspec.Raw(_encode(one))) for one in instructions]


def read(path: Path) -> tuple[Head, Iterator[Entry]]:
    """Head and entries. Raises JournalError with file and line, the iterator too."""
    lines = _lines(path)
    try:
        head = msgspec.json.decode(next(lines)[1], type=Head)
    except StopIteration:
        raise JournalError(f"{path}: is empty: give a file that --record wrote") from None
    except msgspec.MsgspecError as e:
        raise JournalError(f"{path}:1: is no head of a journal ({e}): give a file that --record wrote") from None
    if head.version > VERSION:
        raise JournalError(f"{path}: has version {head.version}, this forebay reads up to {VERSION}: use a newer one")
    return head, _entries(path, lines)


def _entries(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[Entry]:
    decode = msgspec.json.Decoder(Entry).decode
    for number, line in lines:
        try:
            yield decode(line)
        except msgspec.MsgspecError as e:
            if not line.endswith(b"\n"):
                raise JournalCut(f"{path}:{number}: is cut: the process that wrote it has not ended well") from None
            raise JournalError(f"{path}:{number}: is no entry of a journal: {e}") from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, 1)
    except (EOFError, gzip.BadGzipFile) as e:
        raise JournalCut(f"{path}: is cut or not gzipped ({e}): the process that wrote it has not ended well") from None


class Difference(msgspec.Struct, frozen=True):
    """A pass that decides otherwise: its number from 1, and what was said and is said now."""

    number: int
    was: list[str]
    now: list[str]


class Replayed(msgspec.Struct, frozen=True):
    """`told`: changes and outcomes; `said`: instructions by kind; `cut`: why the end is missing, "" where it is not."""

    passes: int
    told: int
    said: dict[str, int]
    different: list[Difference]
    cut: str = ""


def replay(path: Path) -> tuple[Core, Replayed]:
    """Decides all of a journal again, by a fresh core, which is then as the recorded one was. Raises JournalError.

    One that is cut is decided as far as it goes.
    """
    head, entries = read(path)
    wall = [0]
    core = Core(head.settings, Groups(), lambda: wall[0])
    last: dict[tuple[str, str, str], Any] = {}
    passes = told = 0
    said, different, cut = dict[str, int](), list[Difference](), list[str]()
    for entry in _whole(entries, cut):
        wall[0] = entry.wall
        if isinstance(entry, Passed):
            passes += 1
            now = written(core.decide(entry.now))
            for kind, _ in now:
                said[kind] = said.get(kind, 0) + 1
            if now != entry.said:
                different.append(Difference(passes, _shown(entry.said), _shown(now)))
            continue
        told += 1
        try:
            _tell(core, entry, last)
        except Exception:  # as the process does: one object must not keep the others from being placed
            LOG.exception("what was said could not be taken in: %.300s", entry)
    return core, Replayed(passes, told, said, different, "".join(cut))


def _whole(entries: Iterator[Entry], cut: list[str]) -> Iterator[Entry]:
    """Entries until the end, or until the file is cut: then `cut` says so."""
    try:
        yield from entries
    except JournalCut as error:
        cut.append(str(error))


def _tell(core: Core, entry: Changed | Came | Reread, last: dict[tuple[str, str, str], Any]) -> None:
    if isinstance(entry, Came):
        core.outcome(entry.outcome, entry.now)
    elif isinstance(entry, Reread):
        core.configure(entry.settings)
    else:
        key = entry.kind, entry.namespace, entry.name
        old = last.pop(key, None) if entry.had else None
        new = None if entry.new == NULL else msgspec.json.decode(entry.new, type=TYPES[entry.kind])
        if new is not None:
            last[key] = new
        core.apply(entry.kind, old, new)


def _shown(said: Sequence[tuple[str, msgspec.Raw]]) -> list[str]:
    return [f"{kind} {bytes(body).decode()}" for kind, body in said]
