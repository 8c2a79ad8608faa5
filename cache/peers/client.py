"""The asking side of the data port: pooled connections, and answers that are believed only when they prove themselves.

A block is delivered when its checksum is right, a name when the whole answer's proof is. Every wait has its deadline. What
goes wrong on the way to a member is a `PeerError`; what the owner's store says is the `StoreError` it says.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec

from forebay.cache.disk.extents import blocks_of
from forebay.cache.members.roster import Member, split_address
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signed, Signer
from forebay.cache.peers.call import (
    ANSWER,
    BlobCall,
    Call,
    Chunks,
    PeerBroken,
    PeerBusy,
    PeerError,
    PeerRefused,
    PeerShut,
    PeerSilent,
    Silent,
    Whole,
    failure,
    name_of,
    unframe,
)
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import StoreError
from forebay.cache.stores.net.connection import Connection
from forebay.cache.stores.net.urls import Origin

CONNECT = 1.5
"""Seconds to connect to a node of the same network; one lost SYN is sent again after 1."""
IDLE = 30.0
"""Seconds a connection is kept for the next request; ports keep theirs for 60."""
OPEN = 128
DNS_TTL = 15.0


class PeerClient:
    """Asks members. Thread-safe. `clock` is seconds since the epoch."""

    def __init__(self, key: Key, *, clock: Callable[[], float] = time.time, limit: int = OPEN, connect: float = CONNECT) -> None:
        self.key = key
        self._signer = Signer(key, clock)
        self._connect_timeout = connect
        self._bound = threading.BoundedSemaphore(limit)
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: dict[str, deque[Connection]] = {}
        self._names: dict[str, tuple[float, list[Any]]] = {}
        self._closed = False

    # --- what may be asked

    def hello(self, address: str, *, timeout: float = 3.0) -> wire.Hello:
        """Who lives at an address. Raises `PeerError`."""
        body = self._ask("", address, "/v1/hello", timeout=timeout)
        try:
            hello = wire.decode_hello(body)
        except msgspec.DecodeError as e:
            raise PeerBroken(f"member at {address}: no greeting ({e})") from e
        if hello.dataset != self.key.dataset:
            raise PeerShut(
                f"member at {address} serves {hello.dataset}, not {self.key.dataset}: correct the member list", "Misdirected"
            )
        return hello

    def greet(self, address: str) -> Member | None:
        """For `membership.Watcher`: the member at an address, None when it owns nothing. Raises OSError when it does not say."""
        try:
            h = self.hello(address)
        except PeerError as e:
            raise OSError(str(e)) from e
        return Member(h.id, address, h.control, h.weight, h.node) if h.owns else None

    def meta(self, member: Member, ask: wire.Ask, *, timeout: float = ANSWER) -> wire.Answer:
        """A question about names. Raises `PeerError`, or the `StoreError` that the member's store raised."""
        body = self._ask(member.id, member.data, "/v1/meta", body=wire.encode(ask), timeout=timeout)
        try:
            return wire.decode_answer(body)
        except msgspec.DecodeError as e:
            raise PeerBroken(f"member {name_of(member)}: an answer that cannot be read ({e})") from e

    def blob(self, member: Member, ref: Ref, first: int, count: int, mode: Mode) -> BlobCall:
        """Ask for blocks [first, first + count). Raises `PeerRefused`, `PeerBusy`; all else comes with the blocks."""
        return BlobCall(self, member, ref, span=(first, count), mode=mode)

    def batch(
        self, member: Member, refs: Sequence[Ref], mode: Mode = Mode.FETCH, *, timeout: float = ANSWER
    ) -> Generator[tuple[int, Whole | StoreError] | None, None, None]:
        """Whole small files: (index, file or why not) as they come, each once; None where the next one may take a while.
        Raises `PeerError`, now or in between.

        The request is sent at once.
        """
        call = Call(self, member.id, member.data, "/v1/batch", body=wire.encode(wire.Batch(list(refs), mode)))
        return self._records(call, member, refs, timeout)

    @staticmethod
    def _records(
        call: Call, member: Member, refs: Sequence[Ref], timeout: float
    ) -> Generator[tuple[int, Whole | StoreError] | None, None, None]:
        try:
            call.head(timeout)
            if call.length is not None:
                raise PeerBroken(f"member {name_of(member)}: a batch is answered in chunks")
            left = set(range(len(refs)))
            stream = Chunks(call, timeout)
            while left:
                if stream.empty:
                    yield None
                index, status, size, told = wire.RECORD.unpack(stream.take(wire.RECORD.size))
                if index not in left or size > max(wire.framed(0, blocks_of(refs[index].size), refs[index].size), 4096):
                    raise PeerBroken(f"member {name_of(member)}: a record of a batch that was not asked for")
                left.discard(index)
                data = stream.take(size)
                sentence = b"" if status == wire.Status.OK else bytes(data)
                if wire.record_sum(refs[index], index, status, size, sentence) != told:
                    raise PeerBroken(f"member {name_of(member)}: a record of a batch with a wrong checksum")
                if status != wire.Status.OK:
                    yield index, failure(status, data, member)
                else:
                    yield index, unframe(data, refs[index], member)
            stream.end()
            call.finish()
        except Silent as e:
            raise PeerBroken(f"member {name_of(member)}: no byte of a batch for {timeout:.0f} s") from e
        finally:
            call.close()

    def _ask(self, to: str, address: str, path: str, *, body: bytes = b"", timeout: float) -> bytes:
        call = Call(self, to, address, path, body=body)
        try:
            call.head(timeout)
            return call.whole(timeout)
        except Silent as e:
            raise PeerSilent(f"member at {address}: no answer within {timeout:g} s; see its log") from e
        finally:
            call.close()

    # --- connections

    def take(self, address: str, *, fresh: bool) -> tuple[Connection, bool]:
        """A connection, and whether it was used before. Raises `PeerRefused`, `PeerBusy`."""
        if self._closed:
            raise PeerRefused("the client was closed")
        if not self._bound.acquire(timeout=ANSWER):
            raise PeerBusy(f"all {self._limit} connections to members are in use; lower the number of parallel reads")
        stale: list[Connection] = []
        found = None
        with self._lock:
            idle = self._idle.get(address)
            while idle:
                conn = idle.pop()
                if fresh or time.monotonic() - conn.used > IDLE:
                    stale.append(conn)
                else:
                    found = conn
                    break
        for conn in stale:
            conn.close()
        if found is not None:
            found.heard = False
            return found, True
        try:
            return self._connect(address), False
        except BaseException:
            self._bound.release()
            raise

    def give(self, address: str, conn: Connection | None) -> None:
        """Give a connection back, None for one that was closed."""
        if conn is not None:
            conn.used = time.monotonic()
            with self._lock:
                idle = self._idle.setdefault(address, deque())
                if self._closed or len(idle) >= 32:
                    conn.close()
                else:
                    idle.append(conn)
        self._bound.release()

    def _connect(self, address: str) -> Connection:
        until = time.monotonic() + self._connect_timeout
        try:
            host, port = split_address(address)
        except ValueError as e:
            raise PeerRefused(f"member at {address}: {e}") from e
        failure: Exception | None = None
        for family, target in self._resolve(host, port, until):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.settimeout(max(until - time.monotonic(), 0.05))
                sock.connect(target)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return Connection(sock, Origin(False, host, port), tls=False)
            except OSError as e:
                failure = e
                sock.close()
        why = "no connection in time" if failure is None or isinstance(failure, TimeoutError) else str(failure)
        raise PeerRefused(f"member at {address} does not answer ({why}); is its worker up?") from failure

    def _resolve(self, host: str, port: int, until: float) -> list[tuple[int, Any]]:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return [(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, (host, port))]
        key = f"{host}:{port}"
        with self._lock:
            known = self._names.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        found: list[tuple[int, Any]] = []
        failure: list[OSError] = []

        def resolve() -> None:
            try:
                found.extend((f, a) for f, _, _, _, a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except OSError as e:
                failure.append(e)

        thread = threading.Thread(target=resolve, name="forebay-resolve", daemon=True)  # getaddrinfo knows no deadline
        thread.start()
        thread.join(max(until - time.monotonic(), 0))
        if not found:
            if known is not None:
                return known[1]
            raise PeerRefused(f"the host name {host} has no address ({failure[0] if failure else 'no answer'}); check DNS")
        addresses = list(found)
        with self._lock:
            if len(self._names) > 4096:
                self._names.clear()
            self._names[key] = (time.monotonic() + DNS_TTL, addresses)
        return addresses

    def close(self) -> None:
        """Close idle connections; those in use close when they are given back."""
        self._closed = True
        with self._lock:
            idle = [c for each in self._idle.values() for c in each]
            self._idle.clear()
        for conn in idle:
            conn.close()

    def header(self, signed: Signed) -> tuple[str, str]:
        return self._signer.header(signed)
