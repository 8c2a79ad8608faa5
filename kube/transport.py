"""Bytes to and from one API server: HTTP/1.1 over TLS, kept-alive connections, a deadline on everything. Knows no kinds.

The standard library's `http.client` and `ssl`, and nothing else: why not the `kubernetes` package stands in docs/kube.md.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

from forebay.kube.config import ConfigError, Endpoint
from forebay.kube.credentials import credentials_of
from forebay.kube.errors import Unreachable, Unusable

CONNECT = 5.0
"""Seconds for the TCP connection; the TLS hand-shake has the same again."""
IDLE = 60.0
"""Seconds after which an unused connection is not used again. API servers keep them for at least 90."""
KEPT = 8
"""Unused connections that are kept."""
BIGGEST = 256 << 20
"""Bytes of one answer. A page of 500 objects at etcd's limit of 1.5 MiB each would be 750 MiB: `limit` must be smaller there."""
PIECE = 1 << 16
JSON = "application/json"

Query = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """`retry_after`: seconds, where the server said so."""

    code: int
    body: bytes
    retry_after: float | None


class _Tls:
    """The TLS context of an endpoint, made anew when one of its files changed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._files = [part for part in (endpoint.ca, endpoint.certificate, endpoint.key) if isinstance(part, Path)]
        self._print: tuple[tuple[int, int], ...] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        with self._lock:
            try:
                seen = tuple((s.st_mtime_ns, s.st_ino) for s in map(os.stat, self._files))
                if self._context is None or seen != self._print:
                    self._context, self._print = self._make(), seen
            except ssl.SSLError as error:
                if self._context is None:
                    raise ConfigError(
                        f"{self._endpoint.server}: authority, certificate or key is no PEM: {error.reason}"
                    ) from None
            except OSError as error:
                if self._context is None:  # else: in the moment of a rotation
                    raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}; correct the kubeconfig") from None
            assert self._context is not None
            return self._context

    def _make(self) -> ssl.SSLContext:
        e = self._endpoint
        data = (e.ca.read_bytes() if isinstance(e.ca, Path) else e.ca or b"").decode("ascii", "replace")
        context = ssl.create_default_context(cadata=data or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not e.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if e.certificate is not None and e.key is not None:
            with tempfile.TemporaryDirectory(prefix="forebay-") as folder:  # ssl takes files only; 0700, gone at once
                context.load_cert_chain(_as_file(e.certificate, Path(folder) / "crt"), _as_file(e.key, Path(folder) / "key"))
        return context


def _as_file(part: bytes | Path, path: Path) -> Path:
    if isinstance(part, Path):
        return part
    path.write_bytes(part)
    return path


class _Call(NamedTuple):
    """`end`: monotonic time by which all of it is over."""

    verb: str
    path: str
    query: Query
    body: bytes | None
    content: str
    accept: str
    end: float

    @property
    def where(self) -> str:
        return f"{self.verb} {self.path}"


class _Link(NamedTuple):
    """An answer that is being read. `connection` forgets its socket when the answer says `Connection: close`: `sock` does not."""

    connection: http.client.HTTPConnection
    sock: socket.socket
    response: http.client.HTTPResponse


class Stream:
    """The body of an answer that goes on: a watch. One thread reads, any may `close`."""

    def __init__(self, where: str, link: _Link, end: float) -> None:
        self._where, self._link, self._end = where, link, end
        self.code = link.response.status
        self.retry_after = _retry_after(link.response)

    def read(self, silence: float) -> bytes:
        """What has come, at least a byte; b"" at the end. Raises Unreachable after `silence` seconds without any, or when cut."""
        left = self._end - time.monotonic()
        beyond = "the stream went on beyond the end that was asked for"
        if left <= 0:
            raise Unreachable(self._where, beyond, sent=True)
        try:
            self._link.sock.settimeout(min(silence, left))
            return self._link.response.read1(PIECE)
        except TimeoutError:
            why = f"silent for {silence:.0f} s" if silence <= left else beyond
            raise Unreachable(self._where, why, sent=True) from None
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:  # the last two: closed while reading
            raise Unreachable(self._where, f"the stream was cut ({error or type(error).__name__})", sent=True) from None

    def close(self) -> None:
        """Ends it; a `read` in another thread ends too."""
        _shut(self._link.sock)
        self._link.connection.close()
        self._link.response.close()


class Transport:
    """Requests to one endpoint, from any thread; `kept`: most unused connections.

    `requests`: how many were made; `connects`: how many connections were opened.
    """

    def __init__(self, endpoint: Endpoint, agent: str = "forebay", kept: int = KEPT) -> None:
        self.endpoint = endpoint
        self._kept = kept
        self._url = urlsplit(endpoint.server)
        self._secure = self._url.scheme == "https"
        self._tls = _Tls(endpoint)
        self._credentials = credentials_of(endpoint)
        self._agent = agent
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._busy: dict[int, socket.socket] = {}  # by the thread that waits for an answer
        self._closed = False
        self.requests = 0
        self.connects = 0

    def request(
        self,
        verb: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | None = None,
        content: str = "",
        accept: str = JSON,
        deadline: float = 30.0,
    ) -> Answer:
        """One exchange. `content`: the body's type; `deadline`: seconds for all of it.

        Raises Unreachable without a whole answer, Unusable for one that is too big, ConfigError for unusable credentials.
        An error code is an Answer like any other.
        """
        call = _Call(verb, path, query, body, content, accept, time.monotonic() + deadline)
        link = self._send(call, "gzip")
        try:
            data = self._body(call, link)
        except BaseException:
            link.connection.close()
            raise
        finally:
            self._answered()
        self._give_back(link)
        return Answer(link.response.status, data, _retry_after(link.response))

    def stream(
        self, path: str, query: Query = (), *, accept: str = JSON, deadline: float = 30.0, longest: float = 600.0
    ) -> Stream:
        """A GET whose body is read as it comes. `deadline`: seconds to the answer's head; `longest`: seconds of all."""
        now = time.monotonic()
        call = _Call("GET", path, query, None, "", accept, now + deadline)
        link = self._send(call, "identity")
        self._answered()
        return Stream(call.where, link, now + longest)

    def interrupt(self, thread: int) -> None:
        """Ends what the thread with this identifier waits for, if anything: it gets an Unreachable."""
        with self._lock:
            sock = self._busy.get(thread)
        if sock is not None:
            _shut(sock)

    def end(self, thread: threading.Thread, timeout: float) -> bool:
        """Whether a thread that was told to end does so within `timeout` seconds. Its requests are interrupted until then: one
        may begin just after another was."""
        end = time.monotonic() + timeout
        while thread.ident is not None and thread.is_alive():
            self.interrupt(thread.ident)
            left = end - time.monotonic()
            if left <= 0:
                return False
            thread.join(min(left, 0.1))
        return True

    def close(self) -> None:
        """Closes what is idle. Requests under way end by themselves."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    # --- one exchange ---

    def _send(self, call: _Call, coding: str) -> _Link:
        connection, sent = self._connection(call), False
        sock = connection.sock
        with self._lock:
            self._busy[threading.get_ident()] = sock
        target = self._url.path.rstrip("/") + call.path + (f"?{urlencode(call.query)}" if call.query else "")
        try:
            headers = self._headers(call, coding)
            _limit(sock, call.end)
            connection.putrequest(call.verb, target, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            sent = True
            connection.endheaders(call.body)
            _limit(sock, call.end)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._answered()
            connection.close()
            raise Unreachable(call.where, str(error) or type(error).__name__, sent=sent) from None
        except BaseException:
            self._answered()
            connection.close()
            raise
        if response.status == 401:
            self._credentials.refused()
        return _Link(connection, sock, response)

    def _headers(self, call: _Call, coding: str) -> list[tuple[str, str]]:
        headers = [("Accept", call.accept), ("Accept-Encoding", coding), ("User-Agent", self._agent)]
        if call.body is not None:
            headers += [("Content-Type", call.content), ("Content-Length", str(len(call.body)))]
        return [*headers, *self._credentials.headers(time.monotonic()), *self.endpoint.impersonate]

    def _body(self, call: _Call, link: _Link) -> bytes:
        response = link.response
        unpack = zlib.decompressobj(wbits=31) if response.headers.get("Content-Encoding", "") == "gzip" else None
        out, packed = bytearray(), 0
        try:
            while True:
                _limit(link.sock, call.end)
                piece = response.read1(PIECE)
                if not piece:
                    break
                packed += len(piece)
                out += unpack.decompress(piece, BIGGEST + 1) if unpack else piece
                if len(out) > BIGGEST:
                    raise Unusable(f"{call.where}: the answer has more than {BIGGEST} bytes; ask for fewer objects a page")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(call.where, f"the answer was cut ({error or type(error).__name__})", sent=True) from None
        except zlib.error as error:
            raise Unusable(f"{call.where}: the answer is no gzip ({error}); look at what stands before the API server") from None
        if response.length or (unpack is not None and packed and not unpack.eof):
            raise Unreachable(call.where, "the answer ended before its length", sent=True)
        return bytes(out)

    # --- connections ---

    def _connection(self, call: _Call) -> http.client.HTTPConnection:
        self.requests += 1
        while True:
            with self._lock:
                used_at, connection = self._idle.pop() if self._idle else (0.0, None)
            if connection is None:
                return self._open(call)
            if time.monotonic() - used_at < IDLE and not _readable(connection.sock):
                return connection
            connection.close()  # too old, or the server has closed it

    def _open(self, call: _Call) -> http.client.HTTPConnection:
        self.connects += 1
        host, port = self._url.hostname or "", self._url.port or (443 if self._secure else 80)
        at = _address(self.endpoint.proxy) if self.endpoint.proxy else (host, port)
        context = self._tls.context() if self._secure else None
        sock: socket.socket | None = None
        try:
            sock = socket.create_connection(at, max(0.001, min(CONNECT, call.end - time.monotonic())))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock)
            if self.endpoint.proxy:
                _tunnel(sock, host, port)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=self.endpoint.server_name or host)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if sock is not None:
                sock.close()
            raise Unreachable(call.where, f"{at[0]}:{at[1]}: {error or type(error).__name__}", sent=False) from None
        connection = http.client.HTTPConnection(host, port)
        connection.auto_open = 0  # it would open a plain one
        connection.sock = sock
        return connection

    def _answered(self) -> None:
        with self._lock:
            self._busy.pop(threading.get_ident(), None)

    def _give_back(self, link: _Link) -> None:
        link.response.close()  # it was read to its end; `read1` does not say so to the connection
        if not link.response.will_close:
            with self._lock:
                if not self._closed and len(self._idle) < self._kept:
                    self._idle.append((time.monotonic(), link.connection))
                    return
        link.connection.close()


def _limit(sock: socket.socket, end: float) -> None:
    """What is left until `end` is the limit of the next call on the socket."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    sock.settimeout(left)


def _shut(sock: socket.socket) -> None:
    """Wakes whoever reads from it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was first


def _readable(sock: socket.socket) -> bool:
    """Whether the other side has closed it, or said what nobody asked for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _keep_alive(sock: socket.socket) -> None:
    """A peer that vanished without a word is found by the kernel in 30 + 3 * 10 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _address(proxy: str) -> tuple[str, int]:
    url: SplitResult = urlsplit(proxy)
    return url.hostname or "", url.port or 80


def _tunnel(sock: socket.socket, host: str, port: int) -> None:
    to = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    sock.sendall(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n".encode("ascii"))
    response = http.client.HTTPResponse(sock, method="CONNECT")
    response.begin()
    if response.status != 200:
        raise ConnectionRefusedError(f"the proxy answered {response.status} {response.reason} to CONNECT")


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds of a Retry-After header. The other form, a date, is not used by API servers and counts as none."""
    said = response.headers.get("Retry-After", "").strip()
    return float(said) if said.isdecimal() and len(said) < 7 else None
