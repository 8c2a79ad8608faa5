"""What is said at the data port: HTTP/1.1, msgpack in bodies, blocks of 256 KiB behind their checksums.

    GET  /v1/hello   -> Hello
    GET  /v1/blob    X-Forebay-Object: base64(msgpack Ref), Range: bytes=a-b, X-Forebay-Mode
                     -> 206, for each block: xxh3-64 (8 bytes, little endian) + its bytes
    POST /v1/batch   msgpack Batch -> 200, chunked: records of RECORD + bytes, in any order, one for each object
    POST /v1/meta    msgpack Ask -> Page, Entry, Answer

An error is a status from 400 on with a msgpack `Failed`. `a` of a range is a multiple of the block size; `b` + 1 is one or
the object's size. A 206 may be shorter than asked for in mode `cached`: it says so in `Content-Range`.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from enum import StrEnum
from typing import Literal, TypeVar

import msgspec
import xxhash

from forebay.cache.disk.index import BLOCK, SEGMENT, object_id
from forebay.cache.stores.base import BadReply, Changed, Denied, Entry, NotFound, Page, StoreError, Unavailable
from forebay.cache.stores.names import show, usable_key

PROTOCOL = 1
HEAD_MOST = 16 << 10
BODY_MOST = 4 << 20
BATCH_FILES = 256
BATCH_BYTES = 8 << 20
BLOB_MOST = SEGMENT
KEY_MOST = 8 << 10
LIST_MOST = 10_000
SUM = 8
RECORD = struct.Struct("<IIQ8s")
"""Index in the batch, `Status`, bytes that follow (blocks behind their checksums as in a blob, of a failure its sentence in
UTF-8), and `record_sum` of all that: a flipped bit must neither give one file's bytes to another nor make an error of them."""
_FIELDS = struct.Struct("<IIQ")

SIGNED_HEADERS = ("x-forebay-object", "range", "x-forebay-mode", "x-forebay-to")
"""What a signature covers beside method, path and body, in this order."""
BLOCKS_TYPE = "application/vnd.forebay.blocks"
MSGPACK_TYPE = "application/msgpack"


def record(ref: Ref, index: int, status: int, length: int, sentence: bytes = b"") -> bytes:
    """The head of one file's record in a batch."""
    return RECORD.pack(index, status, length, record_sum(ref, index, status, length, sentence))


def record_sum(ref: Ref, index: int, status: int, length: int, sentence: bytes = b"") -> bytes:
    """xxh3-64 over a record's numbers, the object it is of, and the sentence of a failure."""
    of = object_id(ref.mount_source, ref.key, ref.version)
    return xxhash.xxh3_64_intdigest(_FIELDS.pack(index, status, length) + of + sentence).to_bytes(SUM, "little")


class Mode(StrEnum):
    """How far a member goes for bytes it does not have."""

    FETCH = "fetch"  # it owns them: it fetches them once for all
    CACHED = "cached"  # only what it has, without waiting
    STANDIN = "standin"  # the owner does not answer: it fetches them in the owner's place


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """One version of one object."""

    mount_source: str
    key: bytes
    version: bytes
    size: int


class Hello(msgspec.Struct, frozen=True):
    """Who a worker is."""

    id: str
    protocol: int
    dataset: str
    weight: float
    node: str
    epoch: int
    owns: bool
    control: str = ""


class Batch(msgspec.Struct, frozen=True):
    objects: list[Ref]
    mode: Mode = Mode.FETCH


Op = Literal["list", "stat", "is_dir", "suspect"]


class Ask(msgspec.Struct, frozen=True):
    """A question about names. `suspect` tells that block `block` of an object came with a wrong checksum."""

    op: Op
    mount_source: str
    key: bytes
    token: bytes | None = None
    limit: int = 1000
    version: bytes = b""
    size: int = 0
    block: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What `Ask` brings: the field its `op` names. `strong` as of the store."""

    page: Page | None = None
    entry: Entry | None = None
    is_dir: bool | None = None
    strong: bool = False


class Failed(msgspec.Struct, frozen=True):
    """Why not. `name` is a `StoreError` of the owner's store, or one of `PORT_ERRORS`."""

    name: str
    message: str


STORE_ERRORS: dict[str, tuple[int, type[StoreError]]] = {
    "NotFound": (404, NotFound),
    "Changed": (412, Changed),
    "Denied": (403, Denied),
    "Unavailable": (504, Unavailable),
    "BadReply": (502, BadReply),
}
"""Errors of a store that an owner passes on as they are."""

PORT_ERRORS: dict[str, int] = {
    "Absent": 404,  # not in this member's cache
    "Malformed": 400,
    "Unauthorised": 401,
    "Misdirected": 421,  # another member lives here now
    "TooLarge": 413,
    "TooSlow": 408,
    "HeadTooLarge": 431,
    "Busy": 503,
    "Protocol": 505,
    "NoSuchRoute": 405,
    "Internal": 500,
}
"""Errors of the port itself."""


class Refused(Exception):
    """The port does not answer a request as asked. `name` is one of `PORT_ERRORS`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Absent(Refused):
    """The member has none of the bytes asked for, and was not asked to fetch them."""

    def __init__(self, message: str = "not in this member's cache") -> None:
        super().__init__("Absent", message)


class Status:
    """Of a record in a batch."""

    OK, ABSENT = 0, 1
    STORE = ("NotFound", "Changed", "Denied", "Unavailable", "BadReply")

    @staticmethod
    def of(error: Exception) -> int:
        """16 and on: the errors of a store, in order."""
        name = error_name(error)
        return 16 + Status.STORE.index(name) if name in Status.STORE else Status.ABSENT


def error_name(error: Exception) -> str:
    """The name under which an error travels."""
    if isinstance(error, Refused):
        return error.name
    for kind in type(error).__mro__:  # NotADirectory and other kinds of its own travel as what they refine
        if kind.__name__ in STORE_ERRORS:
            return kind.__name__
    return "Unavailable" if isinstance(error, StoreError) else "Internal"


def status_of(name: str) -> int:
    return STORE_ERRORS[name][0] if name in STORE_ERRORS else PORT_ERRORS.get(name, 500)


# --- what may be asked ---------------------------------------------------------------------------------------------------

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})\Z", re.ASCII)


def check_key(key: bytes, *, directory: bool = False) -> None:
    """Raises `Refused` for a key with NUL, "..", "." or an empty part, too long, or (unless `directory`) ending in "/"."""
    if directory and not key:
        return
    if len(key) > KEY_MOST:
        raise Refused("Malformed", f"a key of {len(key)} bytes, at most {KEY_MOST} make sense")
    if not key or not usable_key(key) or (key.endswith(b"/") and not directory):
        raise Refused("Malformed", f"no file in a tree can have the key {show(key[:200])!r}")


def check_ref(ref: Ref) -> None:
    check_key(ref.key)
    if not 0 <= ref.size < 1 << 60:
        raise Refused("Malformed", f"{show(ref.key[:200])}: a size of {ref.size} makes no sense")
    if len(ref.version) > 1024 or len(ref.mount_source) > 4096:
        raise Refused("Malformed", f"{show(ref.key[:200])}: version or mount are longer than any real one")


def check_ask(ask: Ask) -> None:
    check_key(ask.key, directory=ask.op in ("list", "is_dir"))
    if ask.op == "list" and ask.key and not ask.key.endswith(b"/"):
        raise Refused("Malformed", f"{show(ask.key[:200])}: a directory's key ends in a slash")
    if not 0 < ask.limit <= LIST_MOST:
        raise Refused("Malformed", f"a page of {ask.limit} entries was asked for, at most {LIST_MOST} make sense")


def encode_ref(ref: Ref) -> str:
    return base64.b64encode(msgspec.msgpack.encode(ref)).decode("ascii")


_REF = msgspec.msgpack.Decoder(Ref)
_BATCH = msgspec.msgpack.Decoder(Batch)
_ASK = msgspec.msgpack.Decoder(Ask)
_HELLO = msgspec.msgpack.Decoder(Hello)
_ANSWER = msgspec.msgpack.Decoder(Answer)
_FAILED = msgspec.msgpack.Decoder(Failed)
encode = msgspec.msgpack.encode
_T = TypeVar("_T")


def decode_ref(text: str) -> Ref:
    """Raises `Refused`."""
    try:
        ref = _REF.decode(base64.b64decode(text, validate=True))
    except (binascii.Error, msgspec.DecodeError, ValueError) as e:
        raise Refused("Malformed", f"X-Forebay-Object cannot be read: {e}") from e
    check_ref(ref)
    return ref


def decode_batch(raw: bytes) -> Batch:
    """Raises `Refused`."""
    try:
        batch = _BATCH.decode(raw)
    except (msgspec.DecodeError, ValueError) as e:
        raise Refused("Malformed", f"no batch: {e}") from e
    if not 0 < len(batch.objects) <= BATCH_FILES:
        raise Refused("TooLarge", f"{len(batch.objects)} objects in a batch, at most {BATCH_FILES}")
    for ref in batch.objects:
        check_ref(ref)
    if sum(ref.size for ref in batch.objects) > BATCH_BYTES:
        raise Refused("TooLarge", f"a batch of more than {BATCH_BYTES >> 20} MiB: split it")
    return batch


def decode_ask(raw: bytes) -> Ask:
    """Raises `Refused`."""
    try:
        ask = _ASK.decode(raw)
    except (msgspec.DecodeError, ValueError) as e:
        raise Refused("Malformed", f"no question about names: {e}") from e
    check_ask(ask)
    return ask


def decode_hello(raw: bytes) -> Hello:
    """Raises `msgspec.DecodeError`, as do the two below."""
    return _decoded(_HELLO, raw)


def decode_answer(raw: bytes) -> Answer:
    return _decoded(_ANSWER, raw)


def decode_failed(raw: bytes) -> Failed:
    return _decoded(_FAILED, raw)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], raw: bytes) -> _T:
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError as e:  # of a flipped bit in a text; it is no DecodeError of the library's
        raise msgspec.DecodeError(str(e)) from e


def range_of(first: int, count: int, size: int) -> str:
    """The Range header's value for blocks [first, first + count)."""
    return f"bytes={first * BLOCK}-{min((first + count) * BLOCK, size) - 1}"


def blocks_of_range(text: str, size: int) -> tuple[int, int]:
    """First block and number of blocks of a Range header. Raises `Refused`."""
    match = _RANGE.match(text)
    if match is None:
        raise Refused("Malformed", f"Range {text[:60]!r}: one range of bytes, both ends given, is served")
    start, end = int(match[1]), int(match[2]) + 1
    if start % BLOCK or not start < end <= size or (end % BLOCK and end != size):
        raise Refused("Malformed", f"Range {text[:60]!r} of {size} bytes does not begin and end with blocks of {BLOCK} bytes")
    if end - start > BLOB_MOST:
        raise Refused("TooLarge", f"a range of {end - start} bytes, at most {BLOB_MOST}: split it")
    return start // BLOCK, (end - start + BLOCK - 1) // BLOCK


def framing(length: int | None, content_range: str, body: str) -> str:
    """What the proof of an answer covers beside its status. `length` is None when chunked, `body` the hash of a body that
    is sent whole, "" of a stream."""
    return f"{'chunked' if length is None else length}|{content_range}|{body}"


def framed(first: int, count: int, size: int) -> int:
    """Bytes on the wire of blocks [first, first + count): their own and their checksums."""
    return min((first + count) * BLOCK, size) - first * BLOCK + count * SUM


def served_blocks(content_range: str, first: int, count: int, size: int) -> int | None:
    """How many of the blocks asked for a 206 delivers, None when it is no answer to that."""
    match = re.match(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})\Z", content_range, re.ASCII)
    if match is None or int(match[3]) != size or int(match[1]) != first * BLOCK:
        return None
    end = int(match[2]) + 1
    blocks = (end - first * BLOCK + BLOCK - 1) // BLOCK
    if not 0 < blocks <= count or end != min((first + blocks) * BLOCK, size):
        return None
    return blocks
