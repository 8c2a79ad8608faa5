"""A raw-socket HTTP server whose every byte a test decides: for answers that no real server can be made to give.

    with FaultServer(handler) as server:      # handler(request, wire) is called for each request, in a thread per connection
        get(server.url + "/x")
        assert server.requests[0].path == "/x"

The handler answers by `wire.reply(...)`, or byte by byte with `wire.raw`, `wire.reset`, `wire.stall`, `wire.close`.
An exception of a handler other than a broken connection is raised again when the `with` block ends.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # path and query as sent
    headers: dict[str, str]  # names in lower case
    connection: int  # serial number of the connection it came on

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def range_of(self, size: int) -> tuple[int, int] | None:
        """First and last byte asked for of an object of `size`, None without a satisfiable Range."""
        match = re.match(r"bytes=(\d+)-(\d*)\Z", self.headers.get("range", ""))
        if match is None or int(match[1]) >= size:
            return None
        return int(match[1]), min(int(match[2] or size - 1), size - 1)


class Closed(Exception):
    """The handler ended the connection."""


class Wire:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self._sock = sock
        self._stopping = stopping

    def raw(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, head_only: bool = False) -> None:
        """A well-formed answer; Content-Length is added unless `headers` has one or a Transfer-Encoding."""
        lines = dict(headers or {})
        names = {name.lower() for name in lines}
        if not names & {"content-length", "transfer-encoding"}:
            lines["Content-Length"] = str(len(body))
        head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        self.raw(head.encode("latin-1") + (b"" if head_only else body))

    def close(self) -> None:
        """An orderly end, wherever in an answer."""
        raise Closed

    def shut(self) -> None:
        """As `close`, and the handler goes on: it can tell the test that the end is on its way."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Closed

    def stall(self) -> None:
        """Nothing more until the test ends."""
        self._stopping.wait(60)
        raise Closed


Handler = Callable[[Request, Wire], None]


class FaultServer:
    def __init__(self, handler: Handler, host: str = "127.0.0.1") -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.connections = 0
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # already gone
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a handler of the fault server hangs"
        if self._errors and kind is None:
            raise self._errors[0]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        wire = Wire(sock, self._stopping)
        buffer = b""
        try:
            while not self._stopping.is_set():
                while b"\r\n\r\n" not in buffer:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                request = Request(method, target, headers, number)
                self.requests.append(request)
                self.handler(request, wire)
        except (Closed, OSError):
            return
        except BaseException as e:  # noqa: BLE001 - told by __exit__
            self._errors.append(e)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()
