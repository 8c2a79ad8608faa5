"""Messages of the worker's door: a Unix socket of type SOCK_SEQPACKET, one msgpack message a packet, at most 64 KiB.

A connection carries one request at a time: the caller sends a request and reads replies until a final one. Every reply
is final except `Progress` (of `Warm`) and the events of `Subscribe`. File descriptors travel as SCM_RIGHTS beside the
packet. Names are bytes: they need not be UTF-8.
"""

from __future__ import annotations

import msgspec

PROTOCOL = 1
MAX_PACKET = 64 * 1024


class Request(msgspec.Struct, tag=True):
    """Base of what a caller may send."""


class Reply(msgspec.Struct, tag=True):
    """Base of what the worker answers."""


# --- requests -------------------------------------------------------------------------------------------------------


class Hello(Request):
    """First packet of every connection. Answered with `Welcome`, or `Failed` when the protocols do not meet."""

    role: str  # "mount" | "cli" | "supervisor"
    protocol: int = PROTOCOL


class Lookup(Request):
    """Make the index current for one name: a HEAD, and a one-key LIST for a directory. Answered with `Found`.

    `Failed(ENOENT)` is only what a definite 404 or a complete listing says.
    """

    parent: int
    name: bytes


class ListDir(Request):
    """Make rows of directory `ino` with an inode number above `after` available, or finish the listing.

    Answered with `Listed` as soon as one such row exists or the listing is complete.
    """

    ino: int
    after: int = 0


class Resolve(Request):
    """Fill size, time and version of children whose listing gave names only. Answered with `Done`."""

    parent: int
    inos: list[int]


class Open(Request):
    """Open an object for reading. Small ones are complete when the answer comes. `Opened` carries one read-only descriptor.

    `validate`: ask the store for the version first; a newer one is `Failed(ESTALE)` and the name has a new inode.
    """

    ino: int
    validate: bool = False


class Ensure(Request):
    """Wait until [offset, offset+length) of an object is present and verified. Answered with `Ensured`.

    `dev` and `file` are `st_dev` and `st_ino` of the descriptor the caller would read from. When the bytes lie in another
    file (the cache file was made anew, or the bytes were not admitted and wait in a buffer), the answer carries a
    descriptor that has them at the same offsets. At most 16 MiB a request.
    """

    ino: int
    offset: int
    length: int
    dev: int = 0
    file: int = 0


class Suspect(Request):
    """A mount read [offset, offset+length) of a complete object and its checksum did not match: compare, and count as absent
    what is wrong, so that the next `Ensure` fetches it anew. Answered with `Done`."""

    ino: int
    offset: int
    length: int


class Touch(Request):
    """What a mount read lately and what it holds open now; feeds recency and protects open files. No answer."""

    used: list[int] = []
    opened: list[int] = []
    closed: list[int] = []


class Subscribe(Request):
    """Turn the connection into a stream: one `Done`, once no later event can be missed, then `Evicted` and `Changed`."""


class Stat(Request):
    """Attributes of a path from the dataset's root. Answered with `Node`."""

    path: bytes


class Children(Request):
    """One page of a directory in name-arrival order. Answered with `Page`."""

    path: bytes
    after: int = 0
    limit: int = 200


class Warm(Request):
    """Fetch everything under a path. A stream of `Progress`, the last one with `finished`."""

    path: bytes = b"/"
    metadata_only: bool = False


class Refresh(Request):
    """Forget how fresh a subtree is: the next look asks the store. Answered with `Done`."""

    path: bytes = b"/"


class Stats(Request):
    """Answered with `Report`. With `metrics` its only value is "metrics": the same numbers as Prometheus text."""

    metrics: bool = False


# --- replies --------------------------------------------------------------------------------------------------------


class Welcome(Reply):
    dataset: str
    pid: int
    protocol: int = PROTOCOL


class Failed(Reply):
    """`errno` for a mount to pass on, `message` a sentence that says what to do next."""

    errno: int
    message: str


class Found(Reply):
    ino: int


class Listed(Reply):
    complete: bool


class Done(Reply):
    pass


class Opened(Reply):
    """`complete`: the descriptor's file has every byte, verified in this boot; else ask `Ensure` before each read.

    `cached` tells whether the file stays; an object that was not admitted is served from an unlinked buffer: a small
    one comes whole, of a larger one the descriptor is an empty file and each `Ensured` brings its bytes.
    """

    size: int
    complete: bool
    cached: bool = True


class Ensured(Reply):
    """`fd`: a descriptor came with the answer, and this read must use it (same offsets). `cached` as in `Opened`:
    when set with `fd`, it is the object's present cache file and takes the place of the one held. `upto`: every byte from
    the asked offset up to there is in that file, and stays while its descriptor is held: no need to ask for them."""

    fd: bool = False
    cached: bool = True
    upto: int = 0


class Evicted(Reply):
    inos: list[int]


class Changed(Reply):
    """The name now has another inode (0 = gone). Rows are already in the index. Parent 0: any name may have, absent ones too."""

    parent: int
    name: bytes
    old: int
    new: int


class Node(Reply):
    ino: int
    kind: str  # "dir" | "file"
    size: int
    mtime_ns: int
    store: str  # source of the mount it came from
    key: bytes
    version: bytes
    cached: int  # bytes present
    name: bytes = b""


class Page(Reply):
    nodes: list[Node]
    complete: bool


class Progress(Reply):
    """Bytes and files of a warm-up. Totals grow while the walk runs; `eta` in seconds, None while unknown."""

    files: int
    files_total: int
    bytes: int
    bytes_total: int
    rate: float  # bytes/s over the last seconds
    eta: float | None
    walked: bool  # totals are final
    finished: bool = False
    failed: int = 0
    error: str = ""


class Report(Reply):
    """The worker's numbers for `status`; the same values stand in its metrics."""

    values: dict[str, object]


AnyRequest = (
    Hello | Lookup | ListDir | Resolve | Open | Ensure | Suspect | Touch | Subscribe | Stat | Children | Warm | Refresh | Stats
)
AnyReply = Welcome | Failed | Found | Listed | Done | Opened | Ensured | Evicted | Changed | Node | Page | Progress | Report

_requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
_replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
encode = msgspec.msgpack.Encoder().encode


def decode_request(packet: bytes) -> AnyRequest:
    """Raises `msgspec.DecodeError` for what is no request of this protocol."""
    return _requests.decode(packet)


def decode_reply(packet: bytes) -> AnyReply:
    return _replies.decode(packet)
