"""One answer of a server: its head, and its body while it is still on the wire."""

from __future__ import annotations

import time
from typing import Protocol

from forebay.cache.stores.base import BadReply, StoreError, Unavailable
from forebay.cache.stores.net.connection import Connection, Stalled, parse_head
from forebay.cache.stores.net.urls import Url

MIN_RATE = 16 << 10
"""Bytes per second below which a body counts as stalled as a whole, however steadily it drips."""


class Pool(Protocol):
    """Where a connection goes when its answer is done with."""

    def release(self, conn: Connection) -> None: ...

    def drop(self, conn: Connection) -> None: ...


class Response:
    """The head of an answer and its body, still on the wire. Not thread-safe; close it, or read it to its end."""

    __slots__ = (
        "_chunk_left", "_chunked", "_conn", "_deadline", "_left", "_pool", "_stall",
        "ended", "headers", "label", "length", "reason", "status", "url",
    )  # fmt: skip

    def __init__(self, pool: Pool, conn: Connection, method: str, head: bytes, *, label: object, stall: float) -> None:
        self.status, self.reason, self.headers, http11 = parse_head(head, label)
        self.label = label
        self.url: Url | None = None
        self.ended = False  # whether the last byte of the body was delivered
        self._pool = pool
        self._stall = stall
        self._conn: Connection | None = None  # ours only once nothing below can raise
        headers = self.headers
        self._chunked = False
        self._chunk_left = 0  # bytes left of the present chunk; -1 once its line end is still to come
        self.length: int | None = None  # bytes of the body; None when only its end will tell
        coding = headers.get("transfer-encoding")
        if method == "HEAD" or self.status in {204, 304}:
            self.length = 0
        elif coding is not None:
            if coding.lower() != "chunked":
                raise BadReply(
                    f"{label}: unknown transfer coding {coding[:40]!r}; check what stands between this host and the server"
                )
            self._chunked = True
        elif "content-length" in headers:
            self.length = content_length(headers, label)
        persistent = http11 and "close" not in headers.get("connection", "").lower()
        # RFC 9112 6.1: both framings at once is how requests are smuggled; believe the coding, trust the connection no further.
        conn.reusable = persistent and (self.length is not None or (self._chunked and "content-length" not in headers))
        self._left = self.length if self.length is not None else -1
        self._deadline = time.monotonic() + stall + max(self._left, 0) / MIN_RATE
        self._conn = conn
        if self._left == 0:
            self._finish()

    def readinto(self, buffer: memoryview) -> int:
        """Fill up to len(buffer) bytes of the body; 0 at its end. Raises `Unavailable` when the body is cut or stalls."""
        conn = self._conn
        if conn is None:
            if self.ended:
                return 0
            raise Unavailable(f"{self.label}: the answer was given up before its end; ask again")
        if not buffer:
            return 0
        try:
            if self._chunked:
                return self._read_chunk(conn, buffer)
            if self._left >= 0:
                got = conn.receive(buffer[: self._left] if len(buffer) > self._left else buffer)
                if got == 0:
                    raise Unavailable(
                        f"{self.label}: the connection closed with {self._left} of {self.length} bytes missing; try again"
                    )
                self._left -= got
                if self._left == 0:
                    self._finish()
            else:
                got = conn.receive(buffer)
                if got == 0:
                    self._finish()
                self._deadline += got / MIN_RATE
            if time.monotonic() > self._deadline:
                raise Unavailable(
                    f"{self.label}: slower than {MIN_RATE >> 10} KiB/s for the whole answer; check the link to the store"
                )
            return got
        except Stalled as e:
            self.close()
            raise Unavailable(f"{self.label}: no byte for {self._stall:g} s in the middle of an answer; try again") from e
        except OSError as e:
            self.close()
            raise Unavailable(f"{self.label}: the connection broke in the middle of an answer ({e}); try again") from e
        except StoreError:
            self.close()
            raise

    def _read_chunk(self, conn: Connection, buffer: memoryview) -> int:
        if self._chunk_left == -1:
            if conn.line(self.label):
                raise BadReply(
                    f"{self.label}: a chunk runs over its stated size; check what stands between this host and the server"
                )
            self._chunk_left = 0
        if self._chunk_left == 0:
            line = conn.line(self.label).partition(b";")[0].strip()
            if not line or len(line) > 15 or line.strip(b"0123456789abcdefABCDEF"):
                raise BadReply(f"{self.label}: bad chunk size {line[:20]!r}; check what stands between this host and the server")
            self._chunk_left = int(line, 16)
            if self._chunk_left == 0:
                for _ in range(64):
                    if not conn.line(self.label):
                        self._finish()
                        return 0
                raise BadReply(f"{self.label}: more than 64 trailer lines")
        got = conn.receive(buffer[: self._chunk_left] if len(buffer) > self._chunk_left else buffer)
        if got == 0:
            raise Unavailable(f"{self.label}: the connection closed in the middle of a chunk; try again")
        self._chunk_left -= got
        self._deadline += got / MIN_RATE
        if time.monotonic() > self._deadline:
            raise Unavailable(
                f"{self.label}: slower than {MIN_RATE >> 10} KiB/s for the whole answer; check the link to the store"
            )
        if self._chunk_left == 0:
            self._chunk_left = -1
        return got

    def read(self, limit: int) -> bytes:
        """The whole body. Raises `BadReply` when it is longer than `limit` bytes."""
        if self.length is not None:
            if self.length > limit:
                self.close()
                raise BadReply(f"{self.label}: an answer of {self.length} bytes where at most {limit} make sense")
            whole = bytearray(self.length)
            view, done = memoryview(whole), 0
            while got := self.readinto(view[done:]):
                done += got
            return bytes(whole)
        parts, total = [], 0
        piece = bytearray(64 << 10)
        with memoryview(piece) as view:
            while got := self.readinto(view):
                total += got
                if total > limit:
                    self.close()
                    raise BadReply(f"{self.label}: an answer of more than {limit} bytes")
                parts.append(bytes(view[:got]))
        return b"".join(parts)

    @property
    def framed(self) -> bool:
        """Whether the answer's own framing tells a whole body from a cut one."""
        return self._chunked or self.length is not None

    def discard(self) -> None:
        """Give the body up: read a short rest so that the connection can be used again, else close it."""
        if self._conn is None:
            return
        if 0 <= self._left <= 16 << 10 and self._conn.buffered >= self._left:
            self.read(16 << 10)
        else:
            self.close()

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            self._pool.drop(conn)

    def __del__(self) -> None:
        if getattr(self, "_conn", None) is not None:
            self.close()

    def _finish(self) -> None:
        self.ended = True
        conn, self._conn = self._conn, None
        if conn is not None:
            self._pool.release(conn)


def content_length(headers: dict[str, str], label: object) -> int:
    """The stated size of a body. Raises `BadReply` unless it is one plain number."""
    value = headers["content-length"]
    if "," in value:  # repeated, which RFC 9110 8.6 forgives when all agree
        value, *others = {v.strip() for v in value.split(",")}
        value = "" if others else value
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise BadReply(f"{label}: bad Content-Length {headers['content-length'][:40]!r}")
    return int(value)
