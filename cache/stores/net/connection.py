"""One connection: bytes out, heads and bodies in. Knows framing of heads and lines, nothing of pools or retries."""

from __future__ import annotations

import re
import socket
import struct
import time

from forebay.cache.stores.base import BadReply
from forebay.cache.stores.net.urls import Origin

BUFFER = 32 << 10
"""Receive buffer of a connection. A head and a small file fit in one receive; larger bodies bypass it. 64 idle
connections hold 2 MiB."""
MAX_HEAD = BUFFER
MAX_LINE = 4096
DIRECT = 16 << 10
"""A read at least this large goes straight to the caller's memory; below, the buffer saves system calls."""

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (.*))?\Z", re.DOTALL)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_known: dict[str, str] = {}
"""Header names as servers write them -> in lower case. Servers use few: 15 headers in 6 us instead of 12."""


class Stalled(Exception):
    """No byte within the timeout."""


class Closed(Exception):
    """The other side closed the connection where an answer had to come."""


class Connection:
    """A connected socket with a receive buffer. Owned by one thread at a time.

    Plain sockets block with SO_RCVTIMEO: one system call per receive, and MSG_WAITALL fills the whole of a large buffer
    in one; Python's own timeouts poll before each. TLS sockets need Python's.
    """

    __slots__ = ("_buffer", "_end", "_start", "_timeout", "_tls", "_view", "heard", "origin", "reusable", "sock", "used")

    def __init__(self, sock: socket.socket, origin: Origin, *, tls: bool) -> None:
        self.sock = sock
        self.origin = origin
        self.used = time.monotonic()
        self.heard = False  # whether a byte of the present answer came
        self.reusable = False
        self._tls = tls
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._timeout = -1.0
        if not tls:
            sock.settimeout(None)

    @property
    def buffered(self) -> int:
        return self._end - self._start

    def set_timeout(self, seconds: float) -> None:
        seconds = max(seconds, 0.001)
        if abs(seconds - self._timeout) < 0.02 * self._timeout:
            return  # saves two system calls per request
        self._timeout = seconds
        if self._tls:
            self.sock.settimeout(seconds)
        else:
            value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def send(self, data: bytes) -> None:
        """Raises `Stalled` or `OSError`."""
        try:
            self.sock.sendall(data)
        except (BlockingIOError, TimeoutError) as e:
            raise Stalled from e

    def _fill(self) -> None:
        """One receive into the buffer. Raises `Closed`, `Stalled`, `OSError`."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        try:
            got = self.sock.recv_into(self._view[self._end :])
        except (BlockingIOError, TimeoutError) as e:
            raise Stalled from e
        if got == 0:
            raise Closed("closed by the server")
        self.heard = True
        self._end += got

    def head(self, deadline: float, label: object) -> bytes:
        """The next head, without its closing empty line. Raises `BadReply`, `Closed`, `Stalled`, `OSError`."""
        searched = self._start
        while True:
            at = self._buffer.find(b"\r\n\r\n", searched, self._end)
            if at >= 0:
                head = bytes(self._view[self._start : at])
                self._start = at + 4
                return head
            if self.buffered >= MAX_HEAD:
                raise BadReply(f"{label}: the answer's head is over {MAX_HEAD} bytes; is this an HTTP server?")
            if self.buffered >= 5 and not self._buffer.startswith(b"HTTP/", self._start):
                start = bytes(self._view[self._start : min(self._end, self._start + 40)])
                raise BadReply(f"{label}: the answer begins with {start!r}, which is no HTTP; check scheme and port")
            if self.heard:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Stalled
                self.set_timeout(min(self._timeout, left))
            before = self.buffered
            self._fill()
            searched = self._start + max(before - 3, 0)

    def line(self, label: object) -> bytes:
        """One line of chunked framing, without CRLF."""
        while True:
            at = self._buffer.find(b"\n", self._start, self._end)
            if at >= 0:
                line = bytes(self._view[self._start : at])
                self._start = at + 1
                return line[:-1] if line.endswith(b"\r") else line
            if self.buffered > MAX_LINE:
                raise BadReply(f"{label}: a line of chunked framing over {MAX_LINE} bytes")
            try:
                self._fill()
            except Closed as e:
                raise ConnectionError("closed by the server") from e

    def receive(self, buffer: memoryview) -> int:
        """Body bytes: what is buffered first, then the wire. 0 when the server closed."""
        have = self._end - self._start
        if have == 0:
            size = len(buffer)
            if size >= DIRECT:
                try:
                    if self._tls:
                        return self.sock.recv_into(buffer)
                    return self.sock.recv_into(buffer, 0, socket.MSG_WAITALL)
                except (BlockingIOError, TimeoutError) as e:
                    raise Stalled from e
            try:
                self._fill()
            except Closed:
                return 0
            have = self._end - self._start
        got = min(have, len(buffer))
        buffer[:got] = self._view[self._start : self._start + got]
        self._start += got
        return got

    def close(self) -> None:
        self.sock.close()


def _learn(written: str) -> str | None:
    """A header's name in lower case, None when it is none."""
    if _NAME.match(written) is None:
        return None
    if len(_known) < 256:
        _known[written] = written.lower()
    return written.lower()


def parse_head(head: bytes, label: object) -> tuple[int, str, dict[str, str], bool]:
    """Status, reason, headers (names in lower case, repeated ones joined by ", ") and whether it is HTTP/1.1.

    Raises `BadReply` for anything RFC 9112 does not allow from a server.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS.match(first)
    if match is None:
        raise BadReply(f"{label}: bad status line {first[:60]!r}; is this an HTTP server?")
    headers: dict[str, str] = {}
    for line in lines:
        written, colon, value = line.partition(":")
        name = _known.get(written) or _learn(written)
        if name is None or not colon or "\n" in value or "\0" in value or "\r" in value:
            raise BadReply(f"{label}: bad header line {line[:60]!r}; check what stands between this host and the server")
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(match[2]), match[3] or "", headers, match[1] == "1"
