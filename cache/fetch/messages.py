"""What goes into the worker's machine and what comes out: events, instructions, and the names both use. No behaviour."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any, NamedTuple

from forebay.cache.disk.policy import Space

NO_TIER = -1
"""Place of bytes that were not admitted: a buffer slot."""


class Goal(IntEnum):
    """Why bytes are fetched; smaller goes first."""

    DEMAND = 0  # a reader waits
    AHEAD = 1  # a reader will probably ask
    WARM = 2  # somebody asked for everything


class Why(Enum):
    """How a fetch ended without its bytes."""

    UNAVAILABLE = "unavailable"  # worth another try
    CHANGED = "changed"  # the store has another version, or none
    DENIED = "denied"
    BAD = "bad"  # no sense, not retried
    FULL = "full"  # ENOSPC from the cache's file system
    LOCAL = "local"  # another error of the cache's file system
    LOST = "lost"  # the cache file vanished or is another one


class Thing(NamedTuple):
    """One object version and where it is shown; inode 0 where another node asked for it and no name here shows it yet.

    `source` is then where its bytes come from; otherwise the namespace knows.
    """

    oid: bytes
    ino: int
    parent: int
    mount: int
    size: int
    source: Any = None  # a `fetch.Source`, opaque to the machine


class Known(NamedTuple):
    """What an earlier life left of an object: one byte a block, 2 where it is in the cache file of `tier`.

    `allocated`: bytes its file occupies for those blocks; `spare`: bytes it occupies beyond them, for blocks to be checked.
    """

    tier: int
    blocks: bytes
    allocated: int
    spare: int = 0


# --- events: what the shell tells --------------------------------------------------------------------------------------


class Want(NamedTuple):
    """`waiter` waits for bytes [lo, hi) until `deadline`; lo == hi asks only where the object is placed.

    `known` is what the index says of an object the machine does not hold at the moment, None for nothing. `span`: bytes
    [from, to) around them that are fetched with them, and nothing beyond: the caller knows what it will ask for.
    """

    waiter: int
    thing: Thing
    lo: int
    hi: int
    goal: Goal
    now: float
    deadline: float
    known: Known | None = None
    span: tuple[int, int] | None = None


class Cancel(NamedTuple):
    """A waiter went away. Its bytes are fetched all the same if they are on their way."""

    waiter: int


class Arrived(NamedTuple):
    """`count` blocks from `first` on are verified and written to where the fetch was told to put them."""

    fetch: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls


class Finished(NamedTuple):
    """A fetch delivered all of its blocks. `allocated`: bytes its cache file occupies now, -1 for a slot."""

    fetch: int
    allocated: int
    now: float


class Delivered(NamedTuple):
    """All blocks of a fetch arrived at once, and it is finished: `Arrived` and `Finished` of a small file in one."""

    fetch: int
    allocated: int
    now: float


class Broken(NamedTuple):
    """A fetch ended early. `lasted`: seconds it took to fail."""

    fetch: int
    why: Why
    message: str
    now: float
    lasted: float


class Freed(NamedTuple):
    """An eviction ended. `enough` is False when nothing more may go."""

    tier: int
    freed: int
    enough: bool
    now: float


class Sampled(NamedTuple):
    """Space of a tier's file system."""

    tier: int
    space: Space
    now: float


class Counted(NamedTuple):
    """Files were counted after a start: they occupy `delta` bytes more than their rows made believe."""

    tier: int
    delta: int


class Lost(NamedTuple):
    """An object's cache file turned out to be damaged or gone; what of it the machine holds is void."""

    oid: bytes


class Ahead(NamedTuple):
    """Files found for a `ScanAhead`: all inode numbers in order, and those of them that have to be fetched.

    `spare`: only into room that nobody has to leave. `onward`: those of the directory that follows the one of the scan.
    """

    parent: int
    inos: list[int]
    things: list[Thing]
    now: float
    spare: bool = False
    onward: bool = False


class Tick(NamedTuple):
    """Time passes: retries fall due, waits end."""

    now: float


Event = Want | Cancel | Arrived | Finished | Delivered | Broken | Freed | Sampled | Counted | Lost | Ahead | Tick


# --- instructions: what the shell does --------------------------------------------------------------------------------


class Fetch(NamedTuple):
    """Read blocks [first, first+count) of an object from its store into the cache file of `tier`, or into buffer `slot`.

    `create`: the cache file may be made; otherwise it holds blocks already, and not to find it is `Why.LOST`.
    """

    fetch: int
    thing: Thing
    first: int
    count: int  # type: ignore[assignment]
    tier: int  # NO_TIER: into the slot
    slot: int
    goal: Goal
    create: bool = True


class Run(NamedTuple):
    """Fetches for one thread, one after the other. `far`: from other members, by threads of their own."""

    lane: int
    fetches: list[Fetch]
    far: bool = False


class Piece(NamedTuple):
    """Blocks [first, last) of a released range lie in buffer `slot`, or in the cache file when it is -1."""

    slot: int
    first: int
    last: int


class Release(NamedTuple):
    """A waiter's bytes are there. `pieces` is empty when all lie in the cache file of `tier`.

    `upto`: every byte from the start of what was wanted up to there is in the cache file.
    """

    waiter: int
    thing: Thing
    tier: int
    pieces: list[Piece]
    upto: int = 0


class Refuse(NamedTuple):
    """A waiter's bytes will not come."""

    waiter: int
    errno: int
    message: str


class Complete(NamedTuple):
    """Every block of an object is in the cache file of `tier`: record it. The machine forgets the object."""

    thing: Thing
    tier: int


class MakeRoom(NamedTuple):
    """Evict at least `bytes` from `tier`; answered with `Freed`."""

    tier: int
    bytes: int


class DropSlot(NamedTuple):
    """Close a buffer slot. Readers that were handed its descriptor keep their bytes."""

    slot: int


class Discard(NamedTuple):
    """An object's cache file is void: take it out of the index and unlink it."""

    thing: Thing
    tier: int


class Validate(NamedTuple):
    """The store has another version of what `ino` shows: ask the namespace to look again."""

    ino: int


class ScanAhead(NamedTuple):
    """Look up the next `count` files of a directory above inode `after`; answered with `Ahead`, which repeats `spare`."""

    parent: int
    after: int
    count: int  # type: ignore[assignment]
    spare: bool = False


class TierFull(NamedTuple):
    """A tier answered ENOSPC: take its space again soon."""

    tier: int


Instruction = Run | Release | Refuse | Complete | MakeRoom | DropSlot | Discard | Validate | ScanAhead | TierFull
