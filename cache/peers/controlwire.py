"""What is said at the control door: gRPC with msgpack messages. Every call is one request and a stream of frames.

    /forebay.Control/hello   b""     -> Who
    /forebay.Control/load    Load    -> Progress, the last one `finished`
    /forebay.Control/refresh, pin, unpin, evict   Below -> Changed
    /forebay.Control/drain   Drain   -> Progress, the last one `finished`
    /forebay.Control/take    Take    -> Taken, until every part was named in one
    /forebay.Control/leave   Leave   -> Changed
    /forebay.Control/stats   b""     -> the worker's report

A request's metadata `forebay-auth` is the signature of `auth.Signed("GRPC", path, (to,), sha256 of the message)`, `to` the
`Who.address` that a greeting brought: a start of a member's door, so that what one start was told counts at no other. Each
answer is a `Frame` with the proof of its number, kind and body.
"""

from __future__ import annotations

import msgspec

from forebay.cache.disk.index import BLOCK
from forebay.cache.members.roster import MOST_MEMBERS
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signed, sha256
from forebay.cache.peers.wire import Ref, Refused

SERVICE = "forebay.Control"
METHODS = ("hello", "load", "refresh", "pin", "unpin", "evict", "drain", "take", "leave", "stats")
AUTH = "forebay-auth"
TO = "forebay-to"
MESSAGE_MOST = 1 << 20
"""Bytes of a request; an answer may have four times as many."""
ANSWER_MOST = 4 << 20
PATHS_MOST = 1000
PARTS_MOST = 1024
ANSWER, FAILED, END = 0, 1, 2
"""Kinds of frames."""


class ControlError(Exception):
    """An order that was not carried out; a sentence that names the remedy. `name` as of `wire.Failed`."""

    def __init__(self, message: str, name: str = "Unavailable") -> None:
        super().__init__(message)
        self.name = name


class Who(msgspec.Struct, frozen=True):
    """Whose door this is. `start` is made anew with each start of it."""

    id: str
    start: str
    node: str = ""

    @property
    def address(self) -> str:
        """What a signature names as the door that it is meant for."""
        return f"{self.id}/{self.start}"


class Load(msgspec.Struct, frozen=True):
    """Fetch ahead what lies at `paths` (absolute, `*`, `?`, `[...]` and `**` as in a shell).

    `nodes`: names or identities of the members each of which takes all of it; none: the node that is asked. `replicas`: each
    segment goes to so many members, its owner first, wherever they are.
    """

    paths: list[bytes]
    metadata_only: bool = False
    replicas: int = 0
    nodes: list[str] = []


class Below(msgspec.Struct, frozen=True):
    """All files at and below a path."""

    path: bytes


class Changed(msgspec.Struct, frozen=True):
    """`files` at and below a path, `changed` of them with `bytes` in the cache of this node."""

    files: int = 0
    changed: int = 0
    bytes: int = 0


class Drain(msgspec.Struct, frozen=True):
    """Give what belongs here to those who come next, and leave. `force`: leave though something could not be moved."""

    force: bool = False


class Progress(msgspec.Struct, frozen=True):
    """How far an order is. Totals grow until `walked`. `error` is the last failure's sentence."""

    files: int = 0
    files_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    eta: float | None = None
    walked: bool = False
    finished: bool = False
    failed: int = 0
    error: str = ""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Bytes [lo, hi) of an object: `lo` is a multiple of the block size, `hi` as well or the object's size."""

    ref: Ref
    lo: int
    hi: int


class Take(msgspec.Struct, frozen=True):
    """Fetch these parts, as a reader here would."""

    parts: list[Part]


class Taken(msgspec.Struct, frozen=True):
    """Parts by their number in `Take`, each once: in the cache here, or why not."""

    done: list[int] = []
    failed: dict[int, str] = {}


class Leave(msgspec.Struct, frozen=True):
    """The member with this identity gave its bytes away and owns nothing any more."""

    id: str


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One message of an answer."""

    kind: int
    body: bytes
    proof: str


def path_of(method: str) -> str:
    return f"/{SERVICE}/{method}"


def signed(method: str, to: str, message: bytes) -> Signed:
    """What a request's signature covers."""
    return Signed("GRPC", path_of(method), (to,), sha256(message))


def seal(key: Key, signature: str, number: int, kind: int, body: bytes) -> bytes:
    """A frame with its proof, packed."""
    proof = key.proof(signature, number, f"{kind}|{sha256(body)}")
    return msgspec.msgpack.encode(Frame(kind, body, proof))


_FRAME = msgspec.msgpack.Decoder(Frame)


def unseal(key: Key, signature: str, number: int, raw: bytes) -> Frame:
    """The frame, if it proves itself. Raises `ControlError`."""
    try:
        frame = _FRAME.decode(raw)
    except (msgspec.DecodeError, ValueError) as e:
        raise ControlError(f"an answer that cannot be read ({e}): use one version of forebay on all nodes", "Internal") from e
    if not key.check_proof(frame.proof, signature, number, f"{frame.kind}|{sha256(frame.body)}"):
        raise ControlError("the answer does not prove the dataset's secret: give both sides the same one", "Unauthorised")
    return frame


def check_load(load: Load) -> None:
    """Raises `Refused`."""
    if not 0 < len(load.paths) <= PATHS_MOST:
        raise Refused("Malformed", f"{len(load.paths)} paths in one load: name 1 to {PATHS_MOST}, or a directory above them")
    for path in load.paths:
        check_path(path)
    if load.replicas and load.nodes:
        raise Refused("Malformed", "say on how many nodes, or on which, not both")
    if not 0 <= load.replicas <= MOST_MEMBERS or len(load.nodes) > MOST_MEMBERS:
        raise Refused("Malformed", f"{load.replicas or len(load.nodes)} nodes: no cluster has more than {MOST_MEMBERS}")


def check_path(path: bytes) -> None:
    """Raises `Refused` for a path that is not absolute, has NUL or `..`, or is longer than any real one."""
    if not path.startswith(b"/") or b"\0" in path or b".." in path.split(b"/") or len(path) > wire.KEY_MOST:
        raise Refused("Malformed", "a path from the root of the dataset begins with a slash and has neither NUL nor ..")


def check_take(take: Take) -> None:
    """Raises `Refused`."""
    if not 0 < len(take.parts) <= PARTS_MOST:
        raise Refused("TooLarge", f"{len(take.parts)} parts in one order, 1 to {PARTS_MOST} make sense")
    for part in take.parts:
        wire.check_ref(part.ref)
        if not 0 <= part.lo <= part.hi <= part.ref.size or part.lo % BLOCK or (part.hi % BLOCK and part.hi != part.ref.size):
            raise Refused("Malformed", f"bytes {part.lo} to {part.hi} of {part.ref.size}: no whole blocks of {BLOCK}")
