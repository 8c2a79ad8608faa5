"""A lean HTTP/1.1 client: pooled plain or TLS connections, bodies received straight into the caller's buffer.

Why not `http.client`: it costs 300-500 us of CPU per small answer (email parser, four layers of buffering); a small-file
epoch is made of those. Here one answer is one send, one receive into a reused buffer, and a split of its head.

Invariants:
- A connection is either in the pool, or owned by exactly one `Response`, or closed.
- A connection returns to the pool only after the last byte of its body, with nothing left over in its buffer.
- Every wait is bounded: connecting by `Timeouts.connect`, each byte by `Timeouts.stall`, the head of an answer by the
  caller's deadline, a whole body by stall + length / MIN_RATE.
- Secret headers go only to the origin they were given for.

Only `StoreError`s leave this module. Proxies named by environment variables are not used.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from forebay import __version__
from forebay.cache.stores.base import CONNECT_TIMEOUT, STALL_TIMEOUT, BadReply, StoreError, Unavailable
from forebay.cache.stores.net.connection import Closed, Connection, Stalled
from forebay.cache.stores.net.response import Response
from forebay.cache.stores.net.urls import Origin, Url, join_location, redact

if TYPE_CHECKING:
    import ssl

MAX_REDIRECTS = 5
MAX_INTERIM = 8
DNS_TTL = 30.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `answer` bounds a call from its start to the head of its answer, retries included."""

    connect: float = CONNECT_TIMEOUT
    stall: float = STALL_TIMEOUT
    answer: float = STALL_TIMEOUT
    idle: float = 20.0  # S3 front ends close idle connections after 20 s or more


DEFAULT_TIMEOUTS = Timeouts()


class Transport:
    """Connections to the origins of one store. Thread-safe. At most `limit` connections are open at a time."""

    def __init__(
        self, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, verify: bool = True, ca_file: str | None = None, limit: int = 128
    ) -> None:
        self.timeouts = timeouts
        self._verify = verify
        self._ca_file = ca_file
        self._limit = limit
        self._lock = threading.RLock()  # re-entrant: a forgotten response is closed by the collector, wherever it strikes
        self._freed = threading.Condition(self._lock)
        self._idle: dict[Origin, deque[Connection]] = {}
        self._open = 0
        self._closed = False
        self._context: ssl.SSLContext | None = None
        self._names: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    def request(
        self,
        method: str,
        url: Url,
        headers: str = "",
        secret: str = "",
        *,
        label: object,
        deadline: float | None = None,
        follow: int = MAX_REDIRECTS,
    ) -> Response:
        """One exchange, redirects followed. `headers` and `secret` are whole header lines, each ending in CRLF.

        `secret` goes to the origin of `url` alone. `deadline` (monotonic) is when the head must be here. With `follow` 0 a
        redirect is returned as it is. Raises `Unavailable` or `BadReply`.
        """
        if deadline is None:
            deadline = time.monotonic() + self.timeouts.answer
        home = url.origin
        hops = follow
        while True:
            lines = headers + secret if _may_know(home, url.origin) else headers
            response = self._exchange(method, url, lines, label, deadline)
            response.url = url
            location = response.headers.get("location")
            if response.status not in _REDIRECTS or not location or not follow:
                return response
            response.discard()
            if hops == 0:
                raise BadReply(
                    f"{label}: more than {follow} redirects, the last to {redact(location)[:200]!r}; correct the address"
                )
            hops -= 1
            try:
                target = join_location(url, location)
            except ValueError as e:
                raise BadReply(f"{label}: redirected to something unusable: {e}") from e
            if url.origin.tls and not target.origin.tls:
                raise BadReply(
                    f"{label}: redirected from https to {target.origin.text}, where nothing proves the bytes; correct the address"
                )
            url = target

    def _exchange(self, method: str, url: Url, lines: str, label: object, deadline: float) -> Response:
        origin = url.origin
        request = (
            f"{method} {url.target} HTTP/1.1\r\nHost: {origin.authority}\r\nUser-Agent: forebay/{__version__}\r\n"
            f"Accept: */*\r\nAccept-Encoding: identity\r\n{lines}\r\n"
        ).encode("latin-1")
        fresh = False
        while True:
            conn, reused = self._acquire(origin, deadline, fresh, label)
            try:
                conn.set_timeout(min(self.timeouts.stall, deadline - time.monotonic()))
                conn.send(request)
                head = conn.head(deadline, label)
                for _ in range(MAX_INTERIM):
                    if not head.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1")):
                        break
                    head = conn.head(deadline, label)
                conn.set_timeout(self.timeouts.stall)
                return Response(self, conn, method, head, label=label, stall=self.timeouts.stall)
            except Stalled as e:
                self.drop(conn)
                raise Unavailable(
                    f"{label}: {origin.text} sent no answer in time; check that the server is healthy, then try again"
                ) from e
            except (Closed, OSError) as e:
                self.drop(conn)
                if reused and not conn.heard:
                    fresh = True  # it had been closed while it lay in the pool
                    continue
                raise Unavailable(f"{label}: {origin.text} broke the connection before its answer ({e}); try again") from e
            except StoreError:
                self.drop(conn)
                raise

    # -- connections --

    def _acquire(self, origin: Origin, deadline: float, fresh: bool, label: object) -> tuple[Connection, bool]:
        stale: list[Connection] = []
        found: Connection | None = None
        try:
            with self._lock:
                while found is None:
                    if self._closed:
                        raise Unavailable(f"{label}: the store was closed")
                    idle = self._idle.get(origin)
                    oldest = time.monotonic() - self.timeouts.idle
                    if idle and (fresh or idle[-1].used < oldest):
                        stale.extend(idle)
                        self._open -= len(idle)
                        idle.clear()
                    if idle:
                        found = idle.pop()
                    elif self._open < self._limit or self._evict_idle(stale):
                        self._open += 1
                        break
                    elif not self._freed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                        raise Unavailable(
                            f"{label}: all {self._limit} connections of the store are busy; lower the number of parallel reads"
                        )
        finally:
            for conn in stale:
                conn.close()
        if found is not None:
            found.heard = False
            return found, True
        try:
            return self._connect(origin, deadline, label), False
        except BaseException:
            with self._lock:
                self._open -= 1
                self._freed.notify()
            raise

    def _evict_idle(self, stale: list[Connection]) -> bool:
        """Give up one idle connection to any other origin. The lock is held."""
        for idle in self._idle.values():
            if idle:
                stale.append(idle.popleft())
                self._open -= 1
                return True
        return False

    def release(self, conn: Connection) -> None:
        if not conn.reusable or conn.buffered:
            self.drop(conn)
            return
        now = time.monotonic()
        conn.used = now
        stale: list[Connection] = []
        with self._lock:
            if self._closed:
                stale.append(conn)
                self._open -= 1
            else:
                idle = self._idle.setdefault(conn.origin, deque())
                while idle and idle[0].used < now - self.timeouts.idle:
                    stale.append(idle.popleft())
                    self._open -= 1
                idle.append(conn)
                self._freed.notify()
        for old in stale:
            old.close()

    def drop(self, conn: Connection) -> None:
        conn.close()
        with self._lock:
            self._open -= 1
            self._freed.notify()

    def _connect(self, origin: Origin, deadline: float, label: object) -> Connection:
        until = min(deadline, time.monotonic() + self.timeouts.connect)
        addresses = self._resolve(origin, until, label)
        failure: Exception | None = None
        for n, (family, address) in enumerate(addresses):
            share = (until - time.monotonic()) / (len(addresses) - n)
            if share <= 0:
                break
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(share)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if origin.tls:
                    sock.settimeout(max(until - time.monotonic(), 0.05))
                    return Connection(self._tls().wrap_socket(sock, server_hostname=origin.host), origin, tls=True)
                return Connection(sock, origin, tls=False)
            except (OSError, ValueError) as e:  # ValueError: a host name that TLS cannot ask for
                failure = e
                sock.close()
                if type(e).__name__ == "SSLCertVerificationError":
                    raise BadReply(
                        f"{label}: the certificate of {origin.text} cannot be trusted ({getattr(e, 'verify_message', e)}); "
                        'name its authority with ca_file, or switch the check off with verify: "false"'
                    ) from e
        why = "no answer within the time to connect" if failure is None or isinstance(failure, TimeoutError) else str(failure)
        raise Unavailable(
            f"{label}: cannot connect to {origin.text} ({why}); check the endpoint and that the server is up"
        ) from failure

    def _resolve(self, origin: Origin, until: float, label: object) -> list[tuple[int, Any]]:
        """Addresses of the host, shuffled: a store's front ends share the load by DNS."""
        key = (origin.host, origin.port)
        with self._lock:
            known = self._names.get(key)
        if known is None or known[0] < time.monotonic():
            addresses = _lookup(origin, until, label)
            known = (time.monotonic() + DNS_TTL, addresses)
            with self._lock:
                if len(self._names) >= 256:  # mirrors that redirects led to
                    self._names.clear()
                self._names[key] = known
        found: list[tuple[int, Any]] = list(known[1])
        random.shuffle(found)
        return found

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            import ssl

            context = ssl.create_default_context(cafile=self._ca_file)
            if not self._verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = [c for each in self._idle.values() for c in each]
            self._idle.clear()
            self._open -= len(idle)
            self._freed.notify_all()
        for conn in idle:
            conn.close()


def _may_know(home: Origin, other: Origin) -> bool:
    """Whether credentials for `home` may go to `other`: the same origin, or the same host moved from plain 80 to TLS 443."""
    return home == other or (home.host == other.host and not home.tls and home.port == 80 and other.tls and other.port == 443)


def _lookup(origin: Origin, until: float, label: object) -> list[tuple[int, Any]]:
    """Resolve a name within a deadline. `getaddrinfo` knows none (a dead resolver takes 30 s), so it runs beside us."""
    result: list[list[tuple[int, Any]]] = []
    failure: list[OSError] = []

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            result.append([(family, address) for family, _, _, _, address in found])
        except OSError as e:
            failure.append(e)
        except UnicodeError as e:
            failure.append(OSError(str(e)))

    if origin.host.replace(".", "").isdigit() or ":" in origin.host or origin.host == "localhost":
        resolve()
    else:
        thread = threading.Thread(target=resolve, name="forebay-resolve", daemon=True)
        thread.start()
        thread.join(max(until - time.monotonic(), 0.0))
    if result:
        return result[0]
    why = str(failure[0]) if failure else "the resolver did not answer"
    raise Unavailable(f"{label}: the host name {origin.host!r} has no address ({why}); check the endpoint's spelling and DNS")
