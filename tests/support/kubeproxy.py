"""A proxy with faults before an API server: answers in its place, loses answers, cuts watches in a line, goes silent.

    with KubeProxy(endpoint) as proxy:                       # plain HTTP here, the endpoint's TLS and certificate behind
        proxy.plan = lambda asked: Say(429, {"Retry-After": "1"}) if asked.verb == "PATCH" else None
        transport = Transport(proxy.endpoint)

`plan` is asked once for each request, in its thread. Without an endpoint it is a scripted server: each request needs a Say.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from forebay.kube.config import Endpoint


@dataclass(frozen=True)
class Asked:
    verb: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # serial number of the connection it came on

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == "true"


@dataclass(frozen=True)
class Say:
    """Answer this, and do not ask the server. A dict as `body` is sent as JSON."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | dict[str, Any] = b""


@dataclass(frozen=True)
class Lose:
    """Let the server do it, and break the connection in place of its answer."""


@dataclass(frozen=True)
class CutAfter:
    """Hand on `lines` lines of a stream and half of the next one, then reset the connection."""

    lines: int


@dataclass(frozen=True)
class MuteAfter:
    """Hand on `lines` lines of a stream, then nothing, with the connection open."""

    lines: int


@dataclass(frozen=True)
class SayAfter:
    """Hand on `lines` lines of a stream, then the line `line`, then end the stream well."""

    lines: int
    line: bytes


Fault = Say | Lose | CutAfter | MuteAfter | SayAfter


def status(code: int, reason: str, message: str = "said the proxy", **more: Any) -> dict[str, Any]:
    """The body of a refusal."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, **more}


def gone_line() -> bytes:
    """The other form of 410: an ERROR line."""
    return json.dumps({"type": "ERROR", "object": status(410, "Expired", "too old resource version")}).encode() + b"\n"


class KubeProxy:
    """Listens on loopback. `counts`: how often each kind of fault took place; `asked`: all requests, in order."""

    def __init__(self, target: Endpoint | None = None) -> None:
        self.plan: Callable[[Asked], Fault | None] = lambda asked: None
        self.counts: Counter[str] = Counter()
        self.asked: list[Asked] = []
        self._target = target
        self._tls = _context(target) if target is not None else None
        self._lock = threading.Lock()
        self._open: dict[socket.socket, bool] = {}  # client's end, and whether it carries a watch
        self._streams = 0
        self._stopping = threading.Event()
        self._hearing = threading.Event()
        self._hearing.set()
        self._server = _Server(("127.0.0.1", 0), self)
        self.port: int = self._server.server_address[1]
        self.endpoint = Endpoint(server=f"http://127.0.0.1:{self.port}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> KubeProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._hearing.set()
        self._server.shutdown()
        self._reset(watches_only=False)
        self._server.server_close()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def streams(self) -> int:
        """Watches that are open now."""
        with self._lock:
            return self._streams

    def cut_watches(self) -> None:
        """Reset every watch of the moment."""
        self._reset(watches_only=True)

    def silence(self) -> None:
        """From now on nothing goes in either direction, and everything stays open."""
        self._hearing.clear()

    def resume(self) -> None:
        """What was held back goes on."""
        self._hearing.set()

    # --- of the handlers ---

    def _reset(self, *, watches_only: bool) -> None:
        with self._lock:
            socks = [sock for sock, watch in self._open.items() if watch or not watches_only]
        for sock in socks:
            _rst(sock)

    def _carried(self, sock: socket.socket, watch: bool) -> None:
        with self._lock:
            self._open[sock] = watch
            self._streams = sum(self._open.values())

    def _over(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.pop(sock, None)
            self._streams = sum(self._open.values())

    def _struck(self, fault: Fault) -> None:
        with self._lock:
            self.counts[type(fault).__name__] += 1

    def _quiet(self) -> None:
        self._hearing.wait()
        if self._stopping.is_set():
            raise ConnectionAbortedError

    def _upstream(self) -> http.client.HTTPConnection:
        assert self._target is not None, "a request without a Say, and no server to ask"
        url = urlsplit(self._target.server)
        return http.client.HTTPSConnection(url.hostname or "", url.port, context=self._tls, timeout=700)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], proxy: KubeProxy) -> None:
        self.proxy = proxy
        self.connections = 0
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was broken on purpose is no news; a defect of the proxy is."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def proxy(self) -> KubeProxy:
        server = self.server
        assert isinstance(server, _Server)
        return server.proxy

    def setup(self) -> None:
        super().setup()
        server = self.server
        assert isinstance(server, _Server)
        server.connections += 1
        self.number = server.connections
        self.proxy._carried(self.connection, False)

    def finish(self) -> None:
        self.proxy._over(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        return

    def _do(self) -> None:
        proxy, url = self.proxy, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), headers, body, self.number)
        with proxy._lock:
            proxy.asked.append(asked)
        fault = proxy.plan(asked)
        proxy._quiet()
        if isinstance(fault, Say):
            proxy._struck(fault)
            self._say(fault)
            return
        proxy._carried(self.connection, asked.watch)
        upstream = proxy._upstream()
        try:
            passed = {
                name: value
                for name, value in headers.items()
                if name not in ("host", "connection", "content-length", "authorization")
            }
            upstream.request(self.command, self.path, body or None, passed)
            response = upstream.getresponse()
            if isinstance(fault, Lose):
                response.read()
                proxy._struck(fault)
                self._break()
            elif asked.watch and response.status == 200:
                self._stream(response, fault)
            else:
                self._hand_on(response)
        finally:
            upstream.close()
            proxy._carried(self.connection, False)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    def _break(self) -> None:
        _rst(self.connection)
        raise ConnectionAbortedError

    def _say(self, say: Say) -> None:
        body = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        self.send_response(say.code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **say.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _hand_on(self, response: http.client.HTTPResponse) -> None:
        body = response.read()
        self.proxy._quiet()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() in ("content-type", "content-encoding", "retry-after"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        threading.Thread(target=self._until_closed, args=(response,), daemon=True).start()
        if isinstance(fault, MuteAfter | SayAfter) and fault.lines == 0:
            self._strike(fault, b"")
            return
        for lines, line in enumerate(_lines(response)):
            self.proxy._quiet()
            if isinstance(fault, CutAfter | MuteAfter | SayAfter) and lines == fault.lines:
                self._strike(fault, line)
                return
            self._chunk(line)
        self._chunk(b"")

    def _strike(self, fault: CutAfter | MuteAfter | SayAfter, line: bytes) -> None:
        self.proxy._struck(fault)
        if isinstance(fault, CutAfter):
            self._chunk(line[: len(line) // 2])
            self._break()
        elif isinstance(fault, SayAfter):
            self._chunk(fault.line)
            self._chunk(b"")
        else:
            self.proxy._stopping.wait(600)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _until_closed(self, response: http.client.HTTPResponse) -> None:
        """The client's end of a stream is the end of the server's."""
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            pass  # reset
        sock = getattr(getattr(response.fp, "raw", None), "_sock", None)
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the server was first


def _lines(response: http.client.HTTPResponse) -> Any:
    kept = b""
    while True:
        try:
            piece = response.read1(65536)
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            return
        if not piece:
            return
        *whole, kept = (kept + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _rst(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # it is gone already


def _context(target: Endpoint) -> ssl.SSLContext:
    assert target.ca is not None
    assert target.certificate is not None
    assert target.key is not None
    data = (target.ca.read_bytes() if isinstance(target.ca, Path) else target.ca).decode()
    context = ssl.create_default_context(cadata=data)
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, part in (("crt", target.certificate), ("key", target.key)):
            path = Path(folder) / name
            path.write_bytes(part.read_bytes() if isinstance(part, Path) else part)
            names.append(path)
        context.load_cert_chain(*names)
    return context
