"""Keeps a copy of a collection equal to the server's: events in, instructions out. No socket, clock or thread.

    events        Start, Page, Opened, Line, Bookmark, Ended, Tick
    instructions  List, Watch, Upsert, Remove, Synced, Sleep

LIST in pages, then WATCH from the list's version; each list is a diff against what is held, so that a deletion that no
watch has told is found. Both forms of 410 (an answer's status, an ERROR line) end in a new list, also in the middle of
the pages. Everything else goes on from the last version that was processed, after a jittered pause.

Invariants. One request is outstanding, or a sleep, never both. `version` is the last one that was wholly processed: a
line that was cut is delivered again. An Upsert is said once for each (key, version), a Remove only of a key that is held.
Resource versions are opaque and compared for equality only.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Generic, Literal, NamedTuple, TypeVar

from forebay.kube.objects import Key
from forebay.kube.pacing import Backoff

T = TypeVar("T")

PAGE = 500
"""Objects a page. One answer of 500 pods is about 1 MB."""
SHORTEST, LONGEST = 300.0, 600.0
"""Seconds that a watch is asked to last, uniformly between: watches of one process do not end together."""
GRACE = 15.0
"""Seconds a stream may live on beyond the end that was asked for."""
SILENCE = 130.0
"""Seconds without a byte after which a watch is dead, where bookmarks are known to come (about one a minute). An API server
sends none of a collection that did not change since it started (190 s of it measured with 1.36): hence not always."""
BARREN = 1.0
"""A watch that ends well, within this many seconds and without a line, is counted as a failure: no hot loop."""
REFUSALS = 3
"""Answers with an error in a row, without a line between, after which a watch is not resumed but listed anew: the server
may be unable to pass one particular version (an object that it cannot decode)."""
LONGEST_ASKED = 120.0
"""Seconds of Retry-After that are honoured: the copy goes stale meanwhile."""
EXPIRIES = 2
"""Lists in a row whose continue token expired, after which the whole is asked for in one answer."""


# --- events ---------------------------------------------------------------------------------------------------------


class Start(NamedTuple):
    now: float


class Page(NamedTuple, Generic[T]):
    """An answer to List. `items`: (key, resourceVersion, object); `more`: the continue token, "" on the last page."""

    items: Sequence[tuple[Key, str, T]]
    version: str
    more: str
    now: float


class Opened(NamedTuple):
    """The watch was accepted: lines may follow."""

    now: float


class Line(NamedTuple, Generic[T]):
    """One change. Of DELETED, `version` is that of the deletion."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    key: Key
    version: str
    object: T
    now: float


class Bookmark(NamedTuple):
    version: str
    now: float


class Failure(NamedTuple):
    """Why a request ended. `code`: of the answer or of the ERROR line, 0 where there was none."""

    code: int
    why: str
    retry_after: float | None = None


class Ended(NamedTuple):
    """The list or watch that was outstanding is over. None: the stream ended as a stream does."""

    failure: Failure | None
    now: float


class Tick(NamedTuple):
    """The sleep is over."""

    now: float


# --- instructions ---------------------------------------------------------------------------------------------------


class List(NamedTuple):
    """Ask for a page. `limit` 0: everything in one answer. `token`: "" for the first."""

    limit: int
    token: str


class Watch(NamedTuple):
    """`seconds`: ask the server to end it then; `silence`: give it up after that many seconds without a byte."""

    version: str
    seconds: float
    silence: float


class Upsert(NamedTuple, Generic[T]):
    key: Key
    object: T


class Remove(NamedTuple):
    key: Key


class Synced(NamedTuple):
    """The copy is what a list said, whole. Comes with each complete list."""


class Sleep(NamedTuple):
    """Do nothing until then, and say Tick. `why`: what failed, for the log and the health report."""

    until: float
    why: str


Event = Start | Page[T] | Opened | Line[T] | Bookmark | Ended | Tick
Instruction = List | Watch | Upsert[T] | Remove | Synced | Sleep


class Misuse(Exception):
    """The shell said something that cannot follow what it was told: a defect of the shell."""


class Reflector(Generic[T]):
    """See the module.

    `held`: resourceVersion by key, of all that was said. `listed`, `watched`: how often each was begun, for statistics.
    `heard`: when the server last said something (a page, a line, a bookmark, an accepted watch).
    """

    def __init__(self, random: Random, page: int = PAGE, backoff: Backoff | None = None) -> None:
        self._random = random
        self._page = page
        self._backoff = backoff or Backoff(random)
        self._state: Literal["idle", "listing", "opening", "watching", "asleep"] = "idle"
        self._next: Literal["list", "watch"] = "list"
        self._token = ""
        self._seen: set[Key] = set()
        self._expiries = 0
        self._refusals = 0
        self._bookmarks = False
        self._opened = 0.0
        self._lines = 0
        self.held: dict[Key, str] = {}
        self.version = ""
        self.synced = False
        self.heard = float("-inf")
        self.problem = ""
        self.listed = 0
        self.watched = 0

    def handle(self, event: Event[T]) -> list[Instruction[T]]:
        """What to do now. Raises Misuse for an event that does not follow."""
        if isinstance(event, Start):
            self._expect(event, "idle")
            return [self._begin_list()]
        if isinstance(event, Page):
            self._expect(event, "listing")
            return self._on_page(event)
        if isinstance(event, Opened):
            self._expect(event, "opening")
            self._state, self._opened, self._lines, self.heard, self.problem = "watching", event.now, 0, event.now, ""
            return []
        if isinstance(event, Line):
            self._expect(event, "watching")
            return self._on_line(event)
        if isinstance(event, Bookmark):
            self._expect(event, "watching")
            self._bookmarks = True
            self._progress(event.version, event.now)
            return []
        if isinstance(event, Ended):
            self._expect(event, "listing", "opening", "watching")
            return [self._list_ended(event) if self._state == "listing" else self._watch_ended(event)]
        self._expect(event, "asleep")
        return [self._resume()]

    def _expect(self, event: object, *states: str) -> None:
        if self._state not in states:
            raise Misuse(f"{type(event).__name__} while the reflector is {self._state}; it follows {' or '.join(states)} only")

    # --- listing ---

    def _begin_list(self) -> List:
        self._token, self._seen = "", set()
        self.listed += 1
        return self._ask()

    def _ask(self) -> List:
        self._state = "listing"
        return List(0 if self._expiries >= EXPIRIES else self._page, self._token)

    def _on_page(self, page: Page[T]) -> list[Instruction[T]]:
        if not page.version:
            return [self._pause(Failure(0, "the list says no resourceVersion, so nothing can be watched"), page.now, "list")]
        if page.more and page.more == self._token:
            return [self._pause(Failure(0, "the list's continue token does not move"), page.now, "list")]
        self.heard, self.problem = page.now, ""
        out: list[Instruction[T]] = []
        for key, version, thing in page.items:
            self._seen.add(key)
            if self.held.get(key) != version:
                self.held[key] = version
                out.append(Upsert(key, thing))
        self._token = page.more
        if page.more:
            return [*out, self._ask()]
        for key in [key for key in self.held if key not in self._seen]:
            del self.held[key]
            out.append(Remove(key))
        self._seen = set()
        self._expiries = self._refusals = 0
        self.version, self.synced = page.version, True
        return [*out, Synced(), self._watch()]

    def _list_ended(self, ended: Ended) -> Instruction[T]:
        failure = ended.failure or Failure(0, "the list ended without an answer")
        in_the_middle = self._token != ""
        if failure.code in (400, 410) and in_the_middle:
            self._expiries += 1
            self._token = ""
            if self._expiries == 1 and failure.code == 410:  # five minutes for the pages were not enough: try once more as it is
                return self._begin_list()
        return self._pause(failure, ended.now, "list")

    # --- watching ---

    def _watch(self) -> Watch:
        self._state = "opening"
        self.watched += 1
        seconds = self._random.uniform(SHORTEST, LONGEST)
        return Watch(self.version, seconds, SILENCE if self._bookmarks else seconds + GRACE)

    def _progress(self, version: str, now: float) -> None:
        self.heard, self._lines, self._refusals = now, self._lines + 1, 0
        if version:
            self.version = version

    def _on_line(self, line: Line[T]) -> list[Instruction[T]]:
        self._progress(line.version, line.now)
        if line.kind == "DELETED":
            return [Remove(line.key)] if self.held.pop(line.key, None) is not None else []
        if self.held.get(line.key) == line.version:
            return []
        self.held[line.key] = line.version
        return [Upsert(line.key, line.object)]

    def _watch_ended(self, ended: Ended) -> Instruction[T]:
        failure, watching = ended.failure, self._state == "watching"
        if watching and not self._lines:
            self._bookmarks = False  # none came: either the link was dead, or this server has none to send
        if failure is None:
            if watching and (self._lines or ended.now - self._opened >= BARREN):
                return self._watch()
            return self._pause(Failure(0, "the watch ended as soon as it was opened"), ended.now, "watch")
        if failure.code == 410:
            if self._backoff.healthy(ended.now):
                self._backoff.failed(ended.now)
                return self._begin_list()
            return self._pause(failure, ended.now, "list")
        if failure.code >= 400 and failure.code != 429:
            self._refusals += 1
        return self._pause(failure, ended.now, "list" if self._refusals >= REFUSALS else "watch")

    # --- pauses ---

    def _pause(self, failure: Failure, now: float, then: Literal["list", "watch"]) -> Sleep:
        pause = self._backoff.failed(now)
        if failure.retry_after is not None:  # jitter above what was asked for, or all clients come back together
            asked = min(failure.retry_after, LONGEST_ASKED)
            pause = asked + min(pause, asked)
        self._state, self._next = "asleep", then
        self.problem = failure.why
        return Sleep(now + pause, failure.why)

    def _resume(self) -> List | Watch:
        if self._next == "watch":
            return self._watch()
        return self._ask() if self._token else self._begin_list()
