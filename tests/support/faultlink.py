"""A link with faults: a relay in front of a real server that delays, resets, stalls, truncates, answers 503 or flips bits.

    with HttpLink(("127.0.0.1", port)) as link:
        link.plan = lambda request: Fault("reset", at=4096) if request.method == "GET" else None

`HttpLink` knows requests and answers, so a fault hits a body at a byte of it; `RawLink` knows bytes alone, for TLS. While the
server behind a link does not listen the link does not either, so that who connects is refused as the server would refuse.
Bytes are moved by splice, in the kernel, as long as no fault is due.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from faultserver import Closed, Request
from servers import free_port

Kind = Literal["delay", "reset", "stall", "truncate", "busy", "corrupt"]
LOOK_EVERY = 0.05
BUSY_XML = b'<?xml version="1.0"?>\n<Error><Code>SlowDown</Code><Message>said the link</Message></Error>'


@dataclass(frozen=True)
class Fault:
    """`at`: byte of the answer's body (raw: of all that the server sends) before which it happens; -1: before the answer's
    head. Of a body that is shorter the rest of the division counts. `seconds`: of "delay", which comes before the request is
    handed on, and of "stall", after which the answer goes on."""

    kind: Kind
    at: int = 0
    seconds: float = 0.0


class Link(ABC):
    """Listens at `address`; see the module. Tests set `plan`; `counts` has how often each kind of fault took place."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.target = target
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()  # bytes of bodies handed to callers, by kind of request
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._stopping = threading.Event()
        self._held = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", port or free_port()), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the link does not end"
        self.refuse()

    def refuse(self) -> None:
        """Take no connections and reset those there are, until `resume`."""
        self._held = True
        self._shut()
        self.cut()

    def resume(self) -> None:
        """Take connections again, once the server behind listens."""
        self._held = False

    def cut(self) -> None:
        """Reset every connection of the moment."""
        with self._lock:
            for sock in self._open:
                _reset(sock)

    def _shut(self, only: socket.socket | None = None) -> None:
        """Stop listening; with `only`, unless another socket listens by now."""
        with self._lock:
            if only is not None and self._listener is not only:
                return
            listener, self._listener = self._listener, None
        if listener is not None:
            try:
                listener.shutdown(socket.SHUT_RDWR)  # at once, though the other thread waits in it
            except OSError:
                pass  # it never listened
            listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            listener = self._listener
            if listener is None:
                self._stopping.wait(LOOK_EVERY)
                if not self._held and not self._stopping.is_set() and self._behind():
                    listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
                    with self._lock:
                        self._listener = listener
                    if self._held:
                        self._shut()
                continue
            try:
                if not select.select([listener], [], [], LOOK_EVERY)[0]:
                    continue
                sock, _ = listener.accept()
            except (OSError, ValueError):  # closed by another thread
                continue
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections, listener), daemon=True).start()

    def _behind(self) -> bool:
        """Whether the server listens."""
        try:
            socket.create_connection(self.target, 1).close()
        except OSError:
            return False
        return True

    def _serve(self, sock: socket.socket, number: int, listener: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            try:
                server = socket.create_connection(self.target, 5)
            except OSError:  # it was killed: from now on nobody gets a connection
                _reset(sock)
                self._shut(listener)
                return
            for each in (sock, server):
                each.settimeout(None)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {sock, server}
            self.relay(sock, server, number)
        except (Closed, OSError, ValueError):
            return
        finally:
            for each in (sock, server):
                if each is None:
                    continue
                with self._lock:
                    self._open.discard(each)
                _gone(each)
                each.close()

    @abstractmethod
    def relay(self, sock: socket.socket, server: socket.socket, number: int) -> None:
        """Carry one connection, the `number`-th, to its end."""

    def count(self, kind: str, nbytes: int) -> None:
        """Before the bytes go, so that who has them finds them counted."""
        with self._lock:
            self.sent[kind] += nbytes

    def struck(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Closed


class HttpLink(Link):
    """Of HTTP/1.1. `plan` is asked for each request, in the thread of its connection."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.plan: Callable[[Request], Fault | None] = lambda request: None
        self.kind: Callable[[Request], str] = kind_of
        self.busy_body = BUSY_XML
        super().__init__(target, port)

    def __enter__(self) -> HttpLink:
        return self

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def relay(self, sock: socket.socket, server: socket.socket, number: int) -> None:
        pipe = Pipe()
        try:
            while True:
                if server in select.select([sock, server], [], [])[0]:
                    return  # the server ended an idle connection: so does the link
                head, body = read_head(sock)
                request = parse_request(head, number)
                kind = self.kind(request)
                with self._lock:
                    self.requests[kind] += 1
                fault = self.plan(request)
                if fault is not None and fault.kind == "delay":
                    self.struck("delay")
                    self.wait(fault.seconds)
                    fault = None
                body += read_exactly(sock, int(request.headers.get("content-length", "0")) - len(body))
                if fault is not None and fault.kind == "busy":
                    self.struck("busy")
                    sock.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(self.busy_body) + self.busy_body)
                    continue
                server.sendall(head + body)
                self._answer(sock, server, request, kind, fault, pipe)
        finally:
            pipe.close()

    def _answer(
        self, sock: socket.socket, server: socket.socket, request: Request, kind: str, fault: Fault | None, pipe: Pipe
    ) -> None:
        head, rest = read_head(server)
        status, headers = parse_answer(head)
        if fault is not None and fault.at < 0:
            self._strike(fault, sock)
            fault = None
        sock.sendall(head)
        if request.method == "HEAD" or status in (204, 304):
            return
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked(sock, server, rest, kind, fault)
            return
        length = int(headers["content-length"])
        if fault is not None and length:
            at = fault.at % length
            rest = self._hand_on(sock, server, rest, at, kind, pipe)
            if fault.kind == "corrupt":
                rest = rest or read_exactly(server, 1)
                rest = bytes((rest[0] ^ 0x10,)) + rest[1:]
                self.struck("corrupt")
            else:
                self._strike(fault, sock)
            length -= at
        self._hand_on(sock, server, rest, length, kind, pipe)

    def _hand_on(self, sock: socket.socket, server: socket.socket, rest: bytes, length: int, kind: str, pipe: Pipe) -> bytes:
        """Hand on `length` bytes, of which `rest` were read already; what of `rest` comes after them."""
        now = rest[:length]
        if now:
            self.count(kind, len(now))
            sock.sendall(now)
        left = length - len(now)
        while left:
            moved = pipe.take(server, left)
            if moved == 0:
                raise Closed
            self.count(kind, moved)
            pipe.hand_on(sock, moved)
            left -= moved
        return rest[length:]

    def _chunked(self, sock: socket.socket, server: socket.socket, rest: bytes, kind: str, fault: Fault | None) -> None:
        """Chunk by chunk, framing included: where a batch ends is known to nobody before."""
        data, done = bytearray(rest), 0
        while True:
            while (line_end := data.find(b"\r\n")) < 0:
                data += receive(server)
            size = int(data[:line_end].split(b";")[0], 16)
            frame = line_end + 2 + size + 2
            while len(data) < frame:
                data += receive(server)
            chunk = data[:frame]
            del data[:frame]
            if fault is not None and size and fault.at < done + size:
                within = line_end + 2 + fault.at - done
                if fault.kind == "corrupt":
                    chunk[within] ^= 0x10
                    self.struck("corrupt")
                else:
                    sock.sendall(chunk[:within])
                    chunk = chunk[within:]
                    self._strike(fault, sock)
                fault = None
            self.count(kind, size)
            sock.sendall(chunk)
            done += size
            if size == 0:
                return

    def _strike(self, fault: Fault, sock: socket.socket) -> None:
        self.struck(fault.kind)
        strike(self, fault, sock)


class RawLink(Link):
    """Of bytes. `plan` is asked for each connection, by its number."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.plan: Callable[[int], Fault | None] = lambda number: None
        super().__init__(target, port)

    def __enter__(self) -> RawLink:
        return self

    def relay(self, sock: socket.socket, server: socket.socket, number: int) -> None:
        fault = self.plan(number)
        if fault is not None and fault.kind == "delay":
            self.struck("delay")
            self.wait(fault.seconds)
            fault = None
        seen = 0
        while True:
            for source in select.select([sock, server], [], [])[0]:
                data = receive(source)
                if source is sock:
                    server.sendall(data)
                    continue
                if fault is not None and fault.at < seen + len(data):
                    within = max(fault.at - seen, 0)
                    if fault.kind == "corrupt":
                        data = data[:within] + bytes((data[within] ^ 0x10,)) + data[within + 1 :]
                        self.struck("corrupt")
                    else:
                        sock.sendall(data[:within])
                        data = data[within:]
                        self.struck(fault.kind)
                        strike(self, fault, sock)
                    fault = None
                self.count("raw", len(data))
                sock.sendall(data)
                seen += len(data)


def strike(link: Link, fault: Fault, sock: socket.socket) -> None:
    if fault.kind == "stall":
        link.wait(fault.seconds)
        return
    if fault.kind == "reset":
        _reset(sock)
    raise Closed


class Pipe:
    """Two ends for splice."""

    def __init__(self) -> None:
        self._from, self._to = os.pipe()

    def take(self, source: socket.socket, most: int) -> int:
        """Take up to `most` bytes, at least one; 0 at the end."""
        return os.splice(source.fileno(), self._to, min(most, 1 << 16))

    def hand_on(self, to: socket.socket, length: int) -> None:
        while length:
            length -= os.splice(self._from, to.fileno(), length)

    def close(self) -> None:
        os.close(self._from)
        os.close(self._to)


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 16)
    if not data:
        raise Closed
    return data


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """A head with its empty line, and what came behind it. A connection that ends before it is `Closed`."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(sock)
    head, mark, rest = data.partition(b"\r\n\r\n")
    return head + mark, rest


def read_exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        got = sock.recv(length - len(data))
        if not got:
            raise Closed
        data += got
    return bytes(data)


def _headers(lines: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parse_request(head: bytes, number: int) -> Request:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    return Request(method, target, _headers(lines), number)


def parse_answer(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    return int(first.split(" ")[1]), _headers(lines)


def kind_of(request: Request) -> str:
    """Of a data port its route; of S3 "list", "object" for bytes, or the method."""
    if request.path.startswith("/v1/"):
        return request.path
    if "list-type=" in request.query:
        return "list"
    return "object" if request.method == "GET" else request.method


def _reset(sock: socket.socket) -> None:
    """RST at the coming close; who waits in it wakes."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    except OSError as e:
        if e.errno not in (errno.ENOTCONN, errno.EBADF):
            raise


def _gone(sock: socket.socket) -> None:
    """Wake whoever is still in a socket that is about to be closed."""
    try:
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # already disconnected
