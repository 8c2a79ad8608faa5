"""One connection of the data port: heads and bodies in, answers out, each within its deadline. Knows no routes.

Sockets block with SO_RCVTIMEO and SO_SNDTIMEO: a thread waits in the kernel, and `sendfile` needs no polling.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from typing import NamedTuple

from forebay.cache.peers import wire
from forebay.cache.peers.wire import Refused

HEAD_DEADLINE = 5.0
"""Seconds from the first byte of a request to the end of its head."""
IDLE = 60.0
BODY_DEADLINE, BODY_RATE = 10.0, 64 << 10
"""Seconds for a body, and bytes a second it has to come at beyond that."""
SEND_STALL = 15.0
"""Seconds in which a caller takes not one byte."""
RECEIVE = 16 << 10

_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])\Z")
_HEADER = re.compile(r"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*)(?=\r\n|\Z)")
_REASONS = {
    200: "OK", 206: "Partial Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 412: "Precondition Failed", 413: "Content Too Large",
    421: "Misdirected Request", 431: "Request Header Fields Too Large", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Gone(Exception):
    """The caller left, or takes nothing any more: nothing can be said to it."""


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]  # names in lower case, none twice
    length: int  # of the body
    keep: bool  # whether another request may follow


def parse_request(head: bytes) -> Request:
    """A request's head without its closing empty line. Raises `Refused` for anything RFC 9112 does not allow, and for some
    that it does: repeated headers and transfer codings, which no caller of ours sends."""
    text = head.decode("latin-1")
    line, _, _ = text.partition("\r\n")
    match = _LINE.match(line)
    if match is None:
        raise Refused("Malformed", "no HTTP/1.1 request line")
    pairs: list[tuple[str, str]] = _HEADER.findall(text, len(line))
    headers = {name.lower(): value.rstrip(" \t") for name, value in pairs}
    if text.count("\n") != len(pairs) or text.count("\r") != len(pairs):
        raise Refused("Malformed", "a header line that HTTP does not allow")
    if len(headers) != len(pairs):
        raise Refused("Malformed", "a header came twice")
    if "transfer-encoding" in headers:
        raise Refused("Malformed", "bodies are sent with Content-Length here")
    stated = headers.get("content-length", "0")
    if not (stated.isascii() and stated.isdigit() and len(stated) < 16):
        raise Refused("Malformed", f"bad Content-Length {stated[:40]!r}")
    length = int(stated)
    if length > wire.BODY_MOST:
        raise Refused("TooLarge", f"a body of {length} bytes, at most {wire.BODY_MOST}: split the request")
    keep = match[3] == "1" and "close" not in headers.get("connection", "").lower()
    return Request(match[1], match[2], headers, length, keep)


class Exchange:
    """A connected socket. One thread's; `interrupt` may be called by any."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.idle_since: float | None = time.monotonic()
        """When it began to wait for a request, None while it serves one."""
        self.known = False  # whether it ever sent a request with a good signature
        self._buffer = bytearray()
        self._receive = self._send = -1.0
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send_timeout(SEND_STALL)

    def _receive_timeout(self, seconds: float) -> None:
        seconds = max(seconds, 0.001)
        if abs(seconds - self._receive) > 0.02 * seconds:
            self._receive = seconds
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def _send_timeout(self, seconds: float) -> None:
        if seconds != self._send:
            self._send = seconds
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))

    def read_request(self) -> Request | None:
        """The next request's head; None when the caller closed, or stayed idle for `IDLE`. Raises `Refused`, `Gone`."""
        if self.idle_since is None:  # else it waits since it came, however late its thread began
            self.idle_since = time.monotonic()
        deadline = self.idle_since + IDLE
        searched = 0
        started = bool(self._buffer)
        if started:
            deadline = time.monotonic() + HEAD_DEADLINE
        try:
            while True:
                at = self._buffer.find(b"\r\n\r\n", searched)
                if at >= 0:
                    if at > wire.HEAD_MOST:
                        raise Refused("HeadTooLarge", f"a head of {at} bytes, at most {wire.HEAD_MOST}")
                    head = bytes(self._buffer[:at])
                    del self._buffer[: at + 4]
                    self.idle_since = None
                    return parse_request(head)
                if len(self._buffer) > wire.HEAD_MOST:
                    raise Refused("HeadTooLarge", f"a head of more than {wire.HEAD_MOST} bytes")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BlockingIOError
                self._receive_timeout(left)
                data = self.sock.recv(RECEIVE)
                if not data:
                    if self._buffer:
                        raise Gone("closed in the middle of a head")
                    return None
                searched = max(len(self._buffer) - 3, 0)
                self._buffer += data
                if not started:
                    started = True
                    self.idle_since = None
                    deadline = time.monotonic() + HEAD_DEADLINE
        except (BlockingIOError, TimeoutError) as e:
            if not started:
                return None
            raise Refused("TooSlow", f"no whole head within {HEAD_DEADLINE:.0f} s") from e
        except OSError as e:
            raise Gone(str(e)) from e

    def read_body(self, length: int) -> bytes:
        """Raises `Refused` when it comes too slowly, `Gone`."""
        body = bytearray(self._buffer[:length])
        del self._buffer[:length]
        deadline = time.monotonic() + BODY_DEADLINE + length / BODY_RATE
        try:
            while len(body) < length:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BlockingIOError
                self._receive_timeout(min(left, BODY_DEADLINE))
                data = self.sock.recv(min(length - len(body), 256 << 10))
                if not data:
                    raise Gone("closed in the middle of a body")
                body += data
        except (BlockingIOError, TimeoutError) as e:
            raise Refused("TooSlow", f"{length - len(body)} of {length} bytes of the body did not come in time") from e
        except OSError as e:
            raise Gone(str(e)) from e
        return bytes(body)

    def send(self, data: bytes | bytearray | memoryview, *, more: bool = False) -> None:
        """Raises `Gone`."""
        view = memoryview(data)
        flags = socket.MSG_MORE if more else 0
        try:
            while view:
                view = view[self.sock.send(view, flags) :]
        except OSError as e:  # a stall is EAGAIN
            raise Gone(str(e)) from e

    def send_file(self, fd: int, offset: int, length: int) -> None:
        """Bytes of a file, by the kernel. Raises `Gone`, and `EOFError` when the file is shorter."""
        out = self.sock.fileno()
        while length:
            try:
                n = os.sendfile(out, fd, offset, length)
            except OSError as e:
                raise Gone(str(e)) from e
            if n == 0:
                raise EOFError
            offset += n
            length -= n

    def interrupt(self) -> None:
        """Wake the thread that waits here; it finds the connection closed."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed by the other side already

    def linger(self, seconds: float = 1.0) -> None:
        """Close so that what was just said arrives: bytes that were never read would turn it into a reset."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + seconds
            taken = 0
            while taken < wire.BODY_MOST and (left := until - time.monotonic()) > 0:
                self._receive_timeout(left)
                data = self.sock.recv(64 << 10)
                if not data:
                    break
                taken += len(data)
        except OSError:
            pass  # it is gone, which is all that was wanted


def head_of(status: int, length: int | None, kind: str, lines: str, *, keep: bool) -> bytes:
    """An answer's head. `length` None: chunked. `lines`: whole header lines."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{size}\r\nContent-Type: {kind}\r\n{lines}"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    ).encode("latin-1")


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
