"""The HTTPS door that API servers call: `POST` of an AdmissionReview, answered within the caller's timeout or not at all.

Whoever reaches the port may call it: nothing is written here, and what is answered is what the caller could read itself. So
everything is bounded: connections, the time of a handshake and of a request, the size of a body.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from forebay.controller.admission import review
from forebay.controller.admission.review import Answer, Malformed, Request

LOG = logging.getLogger(__name__)

AT_ONCE = 128
"""Connections; what comes beyond is closed, which the failure policy answers. An API server keeps those that it has made."""
BIGGEST = 8 << 20
"""Bytes of a body: old and new object, each at most etcd's 1.5 MiB, and as much again for escapes."""
HANDSHAKE, WHOLE, IDLE = 5.0, 10.0, 60.0
"""Seconds for TLS, for one request from its first byte to its last, and between two."""

Decide = Callable[[Request], Answer]
Observe = Callable[[str, str, float], None]
"""Path, outcome (allowed, refused, malformed, failed), seconds."""


def _unobserved(path: str, outcome: str, seconds: float) -> None:
    """Where nobody counts."""


class Door:
    """Listens on `address` (host, port; port 0: any) from `start` until `stop`. `routes`: path -> who decides."""

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, routes: dict[str, Decide], observe: Observe = _unobserved
    ) -> None:
        self.routes, self.observe = routes, observe
        self._server = _Server(address, self, context)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="admission", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Takes no new connection, lets requests in hand be answered, closes the rest. Whether all were in time."""
        self._server.ending = True
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join(timeout)
        end = time.monotonic() + timeout
        while self._server.busy() and time.monotonic() < end:
            time.sleep(0.02)
        ended = not self._server.busy()
        self._server.server_close()
        self._server.hang_up()
        return ended and not self._thread.is_alive()

    def decide(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Code, content type, body."""
        route, began = self.routes.get(path), time.monotonic()
        if route is None:
            return 404, "text/plain", f"{path} is nothing here: there is {', '.join(self.routes)}\n".encode()
        try:
            asked = review.read(body)
        except Malformed as error:
            self.observe(path, "malformed", time.monotonic() - began)
            return 400, "text/plain", f"{error}\n".encode()
        try:
            answer = route(asked)
            said = review.written(asked, answer)
        except Exception as error:  # a defect: the failure policy decides, the next request is served
            self.observe(path, "failed", time.monotonic() - began)
            LOG.exception("%s of %s %s/%s", path, asked.kind.kind, asked.namespace, asked.name)
            return 500, "text/plain", f"a defect of forebay: {type(error).__name__}; its log has it\n".encode()
        self.observe(path, "refused" if answer.refused else "allowed", time.monotonic() - began)
        for cause in answer.refused:
            LOG.info("refused %s %s/%s: %s", asked.kind.kind, asked.namespace, asked.name, cause.message)
        return 200, "application/json", said


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = AT_ONCE
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], door: Door, context: ssl.SSLContext) -> None:
        self.door, self._context, self.ending = door, context, False
        self._lock = threading.Lock()
        self._open: dict[socket.socket, bool] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def busy(self) -> bool:
        """Whether a request is in hand."""
        with self._lock:
            return any(self._open.values())

    def mark(self, connection: socket.socket, in_hand: bool) -> None:
        with self._lock:
            if connection in self._open:
                self._open[connection] = in_hand

    def hang_up(self) -> None:
        with self._lock:
            left = list(self._open)
        for connection in left:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake is here, not where connections are accepted: a caller that is silent holds nobody else up."""
        request.settimeout(HANDSHAKE)
        try:
            secured = self._context.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError) as error:
            LOG.debug("no handshake with %s: %s", client_address, error)
            self.shutdown_request(request)
            return
        with self._lock:
            full = len(self._open) >= AT_ONCE
            if not full:
                self._open[secured] = False
        if full:
            LOG.warning("%d connections are open; one of %s is closed", AT_ONCE, client_address[0])
            self.shutdown_request(secured)
            return
        try:
            super().process_request_thread(secured, client_address)
        finally:
            with self._lock:
                self._open.pop(secured, None)

    def handle_error(self, request: object, client_address: object) -> None:
        LOG.debug("%s broke off", client_address, exc_info=True)


class _Timed(io.RawIOBase):
    """Reads of one connection, all of a request within one deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._end = connection, 0.0

    def begin(self) -> None:
        """A request is waited for; its time runs from its first byte."""
        self._end = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        left = self._end - time.monotonic() if self._end else IDLE
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        count = self._connection.recv_into(into)
        self._end = self._end or time.monotonic() + WHOLE
        self._connection.settimeout(WHOLE)  # of the answer
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "forebay", ""
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed, 1 << 16)

    def handle_one_request(self) -> None:
        self._timed.begin()
        super().handle_one_request()
        self.server.mark(self.connection, False)

    def do_POST(self) -> None:
        self.server.mark(self.connection, True)
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            return self._say(411, "text/plain", b"say Content-Length\n", last=True)
        if int(length) > BIGGEST:
            return self._say(413, "text/plain", f"a body of more than {BIGGEST} bytes\n".encode(), last=True)
        if self.headers.get_content_type() != "application/json":
            return self._say(415, "text/plain", b"send application/json\n", last=True)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return None
        return self._say(*self.server.door.decide(urlsplit(self.path).path, body))

    def _say(self, code: int, content: str, body: bytes, *, last: bool = False) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        if last or self.server.ending:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        LOG.debug("admission door: " + format, *args)
