"""One exchange with a member: a signed request, an answer that proves itself, blocks that are verified before they count.

What goes wrong on the way to a member is a `PeerError`; what the owner's store says is the `StoreError` it says.
"""

from __future__ import annotations

import socket
import time
from typing import NamedTuple, Protocol

import msgspec

from forebay.cache.disk.extents import block_range, blocks_of, checksum
from forebay.cache.members.roster import Member
from forebay.cache.peers import wire
from forebay.cache.peers.auth import EMPTY, Key, Signed, sha256
from forebay.cache.peers.wire import SIGNED_HEADERS, SUM, Mode, Ref
from forebay.cache.stores.base import BadReply, StoreError, Unavailable
from forebay.cache.stores.names import show
from forebay.cache.stores.net.connection import Closed, Connection, Stalled, parse_head

ANSWER = 10.0
"""Seconds for a question about names: an owner lets its store take as long as the store's own deadline."""
BLOCK_DEADLINE = 20.0
"""Seconds from a block's first byte to its last: 13 KiB/s at least."""
ANSWER_MOST = 32 << 20


class PeerError(Unavailable):
    """A member did not do what was asked of it. Another member may."""


class PeerRefused(PeerError):
    """Nothing answers at its address: refused, unreachable, or no connection in time."""


class PeerAbsent(PeerError):
    """It has none of the bytes, and was not asked to fetch them."""


class PeerBroken(PeerError):
    """It broke off, ended short, or said what makes no sense."""


class PeerSilent(PeerBroken):
    """It did not answer in time."""


class PeerWrong(PeerError):
    """It sent bytes with a wrong checksum."""

    def __init__(self, message: str, block: int) -> None:
        super().__init__(message)
        self.block = block


class PeerBusy(PeerError):
    """It has no connection to spare."""


class PeerShut(PeerError):
    """It will not talk to this node: secret, clock, identity or protocol. A person has to act; `name` says on what."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Silent(Exception):
    """No byte within the time given. The same call may be waited for again."""


class Pool(Protocol):
    """Where connections come from, and what signs: a `PeerClient`."""

    key: Key

    def take(self, address: str, *, fresh: bool) -> tuple[Connection, bool]: ...

    def give(self, address: str, conn: Connection | None) -> None: ...

    def header(self, signed: Signed) -> tuple[str, str]: ...


class Call:
    """One exchange. Owned by one thread; ends with `finish` (connection kept) or `close` (connection closed)."""

    def __init__(
        self, client: Pool, to: str, address: str, path: str, *, headers: tuple[str, ...] = ("", "", ""), body: bytes = b""
    ) -> None:
        self.status = 0
        self.length: int | None = None
        self.content_range = ""
        self.conn: Connection | None = None
        self.where = f"member {to[:8]} at {address}" if to else f"member at {address}"
        self._client = client
        self._address = address
        self._proof = ""
        self._reused = False
        self._signature = ""
        self._request = (to, "POST" if body else "GET", path, headers, body)
        self._keep = False
        self._send(fresh=False)

    def _send(self, *, fresh: bool) -> None:
        """Sign and send. A request is signed anew each time: a port takes each signature once."""
        to, method, path, headers, body = self._request
        signed = Signed(method, path, (*headers, to), sha256(body) if body else EMPTY)
        auth, self._signature = self._client.header(signed)
        lines = "".join(f"{n}: {v}\r\n" for n, v in zip(SIGNED_HEADERS, signed.headers, strict=True) if v)
        size = f"content-length: {len(body)}\r\n" if body else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._address}\r\nx-forebay-protocol: {wire.PROTOCOL}\r\n"
            f"x-forebay-auth: {auth}\r\n{lines}{size}\r\n"
        )
        while True:
            self.conn, self._reused = self._client.take(self._address, fresh=fresh)
            try:
                self.conn.set_timeout(ANSWER)
                self.conn.send(head.encode("latin-1") + body)
                return
            except (OSError, Stalled) as e:
                self.close()
                if not self._reused:
                    raise PeerRefused(f"{self.where} took no request ({e}); is its worker up?") from e
                fresh = True

    def head(self, timeout: float) -> None:
        """Read the answer's head. Raises `Silent` (ask again), `PeerError`, `StoreError`."""
        while True:
            conn = self.conn
            if conn is None:
                raise PeerBroken(f"{self.where}: the call was given up")
            try:
                conn.set_timeout(timeout)
                raw = conn.head(time.monotonic() + timeout, self.where)
                break
            except Stalled as e:
                raise Silent from e
            except (Closed, OSError) as e:
                heard = conn.heard
                self.close()
                if self._reused and not heard:
                    self._send(fresh=True)  # it had been closed while it lay in the pool
                    continue
                raise PeerBroken(f"{self.where} broke the connection before its answer ({e})") from e
            except BadReply as e:
                self.close()
                raise PeerBroken(str(e)) from e
        try:
            self._understand(*parse_head(raw, self.where), timeout)
        except BadReply as e:
            self.close()
            raise PeerBroken(str(e)) from e
        except BaseException:
            self.close()
            raise

    def _understand(self, status: int, reason: str, headers: dict[str, str], http11: bool, timeout: float) -> None:
        self.status = status
        self._proof = headers.get("x-forebay-proof", "")
        self.content_range = headers.get("content-range", "")
        self._keep = http11 and "close" not in headers.get("connection", "").lower()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self.length = None
        else:
            stated = headers.get("content-length", "")
            if not (stated.isascii() and stated.isdigit() and len(stated) < 16):
                raise PeerBroken(f"{self.where}: an answer of unknown length")
            self.length = int(stated)
        if status >= 400:
            self._refused(timeout)
        if status not in (200, 206):
            raise PeerBroken(f"{self.where}: status {status} {reason[:40]!r} makes no sense here")
        if headers.get("content-type") == wire.BLOCKS_TYPE:
            framing = wire.framing(self.length, self.content_range, "")
            if not self._client.key.check_proof(self._proof, self._signature, status, framing):
                raise self._unproven()

    def _unproven(self) -> PeerShut:
        return PeerShut(
            f"{self.where} does not prove that it holds the secret of {self._client.key.dataset}: "
            "correct the member list or its secret file",
            "Unauthorised",
        )

    def _refused(self, timeout: float) -> None:
        """Turn an error's body into an exception. What a store says must be proven; a port may refuse without proof."""
        try:
            raw = self._read(timeout, 64 << 10)
            failed = wire.decode_failed(raw)
        except (msgspec.DecodeError, Silent, BadReply) as e:
            raise PeerBroken(f"{self.where}: status {self.status} without a reason; is this a forebay worker?") from e
        proven = self._client.key.check_proof(
            self._proof, self._signature, self.status, wire.framing(self.length, "", sha256(raw))
        )
        if proven:
            self.finish()
        message = f"{self.where}: {failed.message[:500]}"
        name = failed.name
        if name in ("Unauthorised", "Protocol", "Misdirected"):
            raise PeerShut(message, name)
        if name == "Busy":
            raise PeerBusy(message)
        if not proven:
            raise self._unproven()
        if name in wire.STORE_ERRORS:
            raise wire.STORE_ERRORS[name][1](failed.message)
        if name == "Absent":
            raise PeerAbsent(message)
        raise PeerBroken(message)

    def _read(self, timeout: float, most: int) -> bytes:
        length = self.length
        if length is None or length > most:
            raise BadReply(f"{self.where}: an answer of {length} bytes where at most {most} make sense")
        data = bytearray(length)
        with memoryview(data) as view:
            self.fill(view, timeout)
        return bytes(data)

    def whole(self, timeout: float) -> bytes:
        """The body of an answer that is sent whole, proven."""
        try:
            body = self._read(timeout, ANSWER_MOST)
        except BadReply as e:
            raise PeerBroken(str(e)) from e
        framing = wire.framing(self.length, "", sha256(body))
        if not self._client.key.check_proof(self._proof, self._signature, self.status, framing):
            raise self._unproven()
        self.finish()
        return body

    def fill(self, view: memoryview, timeout: float) -> None:
        """Fill `view` from the body. Raises `Silent` (the call is of no use after it) and `PeerBroken`."""
        done = 0
        until = time.monotonic() + BLOCK_DEADLINE
        while done < len(view):
            done += self.receive([view[done:]], timeout)
            if time.monotonic() > until and done < len(view):
                self.close()
                raise PeerBroken(f"{self.where}: too slow for any use")

    def receive(self, views: list[memoryview], timeout: float) -> int:
        """Receive what can be had within `timeout`, all of it if it comes. Raises `Silent` when nothing came, `PeerBroken`."""
        conn = self.conn
        if conn is None:
            raise PeerBroken(f"{self.where}: the call was given up")
        try:
            if conn.buffered:
                got = conn.receive(views[0])
            else:
                conn.set_timeout(timeout)
                got = conn.sock.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]
        except (BlockingIOError, TimeoutError, Stalled) as e:
            raise Silent from e
        except OSError as e:
            self.close()
            raise PeerBroken(f"{self.where} broke the connection in the middle of an answer ({e})") from e
        if got == 0:
            self.close()
            raise PeerBroken(f"{self.where} ended its answer short")
        return got

    def finish(self) -> None:
        """The answer was read to its end: the connection is kept if both sides want it."""
        conn, self.conn = self.conn, None
        if conn is None:
            return
        if self._keep and not conn.buffered:
            self._client.give(self._address, conn)
        else:
            conn.close()
            self._client.give(self._address, None)

    def close(self) -> None:
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.close()
            self._client.give(self._address, None)

    def __del__(self) -> None:
        if getattr(self, "conn", None) is not None:
            self.close()


class BlobCall:
    """Blocks on their way from a member. One thread's."""

    def __init__(self, client: Pool, member: Member, ref: Ref, *, span: tuple[int, int], mode: Mode) -> None:
        first, count = span
        self.member = member
        self.ref = ref
        self.next = first  # the block that comes next
        self.count = count  # blocks that still come; once the head is here, those that were promised
        self.touched = False  # whether bytes of the block that comes next have arrived
        self.told = b""  # checksum of the block that came last
        self._headed = False
        self._sum = bytearray(SUM)
        self._have = 0  # bytes of the present frame
        self._since = 0.0
        headers = (wire.encode_ref(ref), wire.range_of(first, count, ref.size), str(mode))
        self._call = Call(client, member.id, member.data, "/v1/blob", headers=headers)

    @property
    def open(self) -> bool:
        return self._call.conn is not None

    def block(self, view: memoryview, timeout: float) -> int:
        """Receive the next block into `view` (at least as long) and verify it; its length, 0 when no more was promised.

        Raises `Silent` after `timeout` seconds without a byte: call again with the same `view`, untouched, to go on waiting.
        Raises `PeerError`, or the owner's `StoreError`; the call is closed then.
        """
        if not self._headed:
            self._head(timeout)
        if self.count == 0:
            return 0
        length = block_range(self.ref.size, self.next)[1]
        frame = SUM + length
        if self._have == 0:
            self._since = time.monotonic()
        with memoryview(self._sum) as summed, view[:length] as data:
            while self._have < frame:
                have = self._have
                views = [summed[have:], data] if have < SUM else [data[have - SUM :]]
                self._have += self._call.receive(views, timeout)
                self.touched = True
                if self._have < frame and time.monotonic() - self._since > BLOCK_DEADLINE:
                    self.close()
                    raise PeerBroken(f"{self._call.where}: too slow for any use")
            if checksum(data) != self._sum:
                self.close()
                text = f"{self._call.where} sent block {self.next} of {show(self.ref.key)} with a wrong checksum"
                raise PeerWrong(text, self.next)
            self.told = bytes(summed)
        self._have = 0
        self.touched = False
        self.next += 1
        self.count -= 1
        if self.count == 0:
            self._call.finish()
        return length

    def _head(self, timeout: float) -> None:
        self._call.head(timeout)
        served = wire.served_blocks(self._call.content_range, self.next, self.count, self.ref.size)
        if self._call.status != 206 or served is None or self._call.length != wire.framed(self.next, served, self.ref.size):
            self.close()
            raise PeerBroken(f"{self._call.where}: the answer is not of the range asked for")
        self.count = served
        self._headed = True

    def close(self) -> None:
        self._call.close()


PIECE = 256 << 10
"""Bytes of a chunk received at once: a port puts so many of small files into one."""


class Chunks:
    """The body of a chunked answer as one stream."""

    def __init__(self, call: Call, timeout: float) -> None:
        self._call = call
        self._timeout = timeout
        self._piece = memoryview(b"")  # received, not yet taken
        self._left = 0  # bytes of the chunk still to be received
        self._first = True

    @property
    def empty(self) -> bool:
        """Whether what follows is still to be received: a port sends on once it has the next file."""
        return not self._piece

    def take(self, size: int) -> memoryview:
        """Exactly `size` bytes; they stay as they are."""
        if size > len(self._piece):
            self._more(size)
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def _more(self, size: int) -> None:
        """Receive what is left of the chunk, a `PIECE` at most, and as many more chunks as `size` bytes take."""
        if not self._piece and self._left == 0:
            self._begin()
        have = len(self._piece)
        data = bytearray(max(size, min(have + self._left, PIECE)))
        data[:have] = self._piece
        view = memoryview(data)
        self._receive(view[have:])
        self._piece = view

    def _receive(self, view: memoryview) -> None:
        """Fill `view` from this chunk and those that follow."""
        done = 0
        while done < len(view):
            if self._left == 0:
                self._begin()
            n = min(self._left, len(view) - done)
            self._call.fill(view[done : done + n], self._timeout)
            done += n
            self._left -= n

    def _begin(self) -> None:
        self._next()
        if self._left == 0:
            self._call.close()
            raise PeerBroken(f"{self._call.where} ended a batch short")

    def end(self) -> None:
        if not self._piece and self._left == 0:
            self._next()
        if self._piece or self._left or self._line():
            self._call.close()
            raise PeerBroken(f"{self._call.where} sent more than a batch")

    def _next(self) -> None:
        if not self._first and self._line():
            self._call.close()
            raise PeerBroken(f"{self._call.where}: a chunk runs over its stated size")
        self._first = False
        line = self._line()
        if not line or len(line) > 8 or line.strip(b"0123456789abcdef"):
            self._call.close()
            raise PeerBroken(f"{self._call.where}: bad chunk size")
        self._left = int(line, 16)

    def _line(self) -> bytes:
        conn = self._call.conn
        if conn is None:
            raise PeerBroken(f"{self._call.where}: the call was given up")
        try:
            conn.set_timeout(self._timeout)
            return conn.line(self._call.where)
        except Stalled as e:
            raise Silent from e
        except (OSError, BadReply) as e:
            self._call.close()
            raise PeerBroken(f"{self._call.where} broke off a batch ({e})") from e


class Whole(NamedTuple):
    """A small file as it came: its bytes, and the checksums of its blocks, which are theirs."""

    data: bytes | memoryview
    sums: bytes


def failure(status: int, message: memoryview, member: Member) -> StoreError:
    text = str(message, "utf-8", "replace")
    at = status - 16
    if 0 <= at < len(wire.Status.STORE):
        return wire.STORE_ERRORS[wire.Status.STORE[at]][1](text)
    return PeerAbsent(f"member {name_of(member)}: {text}")


def unframe(data: memoryview, ref: Ref, member: Member) -> Whole | StoreError:
    """A file without its framing, verified."""
    parts, sums, at = [], [], 0
    for block in range(blocks_of(ref.size)):
        length = block_range(ref.size, block)[1]
        told, part = bytes(data[at : at + SUM]), data[at + SUM : at + SUM + length]
        if len(part) != length or checksum(part) != told:
            return PeerWrong(f"member {name_of(member)} sent {show(ref.key)} with a wrong checksum", block)
        parts.append(part)
        sums.append(told)
        at += SUM + length
    if at != len(data):
        return PeerBroken(f"member {name_of(member)} sent {len(data)} bytes for {show(ref.key)}, {at} were asked for")
    return Whole(parts[0], sums[0]) if len(parts) == 1 else Whole(b"".join(parts), b"".join(sums))


def name_of(member: Member) -> str:
    return f"{member.node or member.id[:8]} at {member.data}"
