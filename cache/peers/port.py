"""The data port: serves a dataset's blocks, small files and names to members and client tiers that hold its secret.

Plain blocking threads, one a connection, at most `CONNECTIONS`. What is served comes from a `Provider`; bytes go from its
descriptors to the socket by `sendfile`. Nothing is said to a caller before its signature is checked, but why it is refused.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from typing import NamedTuple, Protocol

from forebay.cache.disk.extents import block_range, blocks_of
from forebay.cache.disk.index import BLOCK
from forebay.cache.log import log
from forebay.cache.members.roster import join_address
from forebay.cache.peers import wire
from forebay.cache.peers.auth import AuthError, Key, Signed, Verifier, body_of, sha256
from forebay.cache.peers.httpd import Exchange, Gone, Request, head_of
from forebay.cache.peers.wire import SIGNED_HEADERS, SUM, Absent, Batch, Mode, Ref, Refused
from forebay.cache.stores.base import StoreError

CONNECTIONS = 256
STACK = 512 << 10
TOGETHER = 64 << 10
"""Files up to this size are copied into one send with their neighbours: below 64 KiB a sendfile costs more than it saves."""
CHUNK = 256 << 10
EVICT_AFTER = 0.5
"""Seconds a connection has to be idle before a new caller may have its place."""
PATHS = {"/v1/hello": "GET", "/v1/blob": "GET", "/v1/batch": "POST", "/v1/meta": "POST"}


class Piece(NamedTuple):
    """One block: its bytes in a file, and their xxh3-64 as the index holds it."""

    fd: int
    offset: int
    length: int
    sum: bytes


class Serving(NamedTuple):
    """So many blocks in order, as they become ready. Descriptors are good until the next is asked for."""

    blocks: int
    pieces: Generator[Piece, None, None]


class Small(NamedTuple):
    """The whole file `number` of a batch, from `offset` of a file on; `sums` are those of its blocks."""

    number: int
    fd: int
    offset: int
    size: int
    sums: bytes


class SmallFailed(NamedTuple):
    """File `number` of a batch is not served: a `StoreError` or `Absent`."""

    number: int
    error: Exception


class Provider(Protocol):
    """What a port serves. Every call blocks, comes from any thread, and ends by itself: readers' deadlines are the caller's.

    All raise `StoreError` for what the owner's store says, and `Absent` for what is not here.
    """

    def hello(self) -> wire.Hello: ...

    def open_blocks(self, ref: Ref, first: int, count: int, mode: Mode) -> Serving:
        """`FETCH`, `STANDIN`: all `count` blocks, fetched if need be. `CACHED`: those from `first` on without a gap.

        Returns when the first block is ready. The pieces are closed when they were all sent, or the caller is gone.
        """
        ...

    def open_small(self, batch: Batch) -> Generator[Small | SmallFailed | None, None, None]:
        """Each object of a batch once, in any order, as it becomes ready; None when the next one takes a while."""
        ...

    def ask(self, ask: wire.Ask) -> wire.Answer: ...


class Port:
    """Listens at `host:port` (port 0: any) once constructed, and serves from `start` on. Raises OSError when it cannot listen.

    `identity` is this member's: requests meant for another are refused. `clock` is seconds since the epoch.
    """

    def __init__(
        self,
        provider: Provider,
        key: Key,
        identity: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limit: int = CONNECTIONS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.key = key
        self.identity = identity
        self.limit = limit
        self.requests: Counter[str] = Counter()  # by route
        self.refused: Counter[str] = Counter()  # by `wire.Failed.name`
        self.sent = 0  # bytes of blocks and small files
        self.cut = 0  # answers that ended short
        self._counting = threading.Lock()
        self._verifier = Verifier(key, clock)
        self._lock = threading.Lock()
        self._open: dict[Exchange, threading.Thread] = {}
        self._closing = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=512)
        self.address = join_address(host, self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="forebay-port", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def connections(self) -> int:
        return len(self._open)

    def close(self, timeout: float = 5.0) -> None:
        """Stop listening, cut what is being served, and wait for the threads. A thread in a provider's call is left to it."""
        until = time.monotonic() + timeout
        self._closing = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected is what a listener says; it wakes all the same
        self._listener.close()
        if self._thread.ident is not None:
            self._thread.join(max(until - time.monotonic(), 0))
        with self._lock:
            left = list(self._open.items())
        for exchange, _ in left:
            exchange.interrupt()
        for _, thread in left:
            thread.join(max(until - time.monotonic(), 0))

    def _count(self, *, route: str = "", refused: str = "", sent: int = 0, cut: int = 0) -> None:
        with self._counting:
            if route:
                self.requests[route] += 1
            if refused:
                self.refused[refused] += 1
            self.sent += sent
            self.cut += cut

    # --- connections

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, address = self._listener.accept()
            except OSError as e:
                if self._closing:
                    return
                if e.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED, errno.ENOBUFS):
                    log("port", "ended", error=str(e))
                    return
                log("port", "accept_failed", error=str(e))
                time.sleep(0.1)
                continue
            try:
                self._admit(Exchange(sock, join_address(address[0], address[1])))
            except (OSError, RuntimeError) as e:  # reset at once, or no thread to be had
                log("port", "accept_failed", error=str(e))
                sock.close()

    def _admit(self, exchange: Exchange) -> None:
        with self._lock:
            full = len(self._open) >= self.limit
            evicted = full and self._evict()
        if full:
            # the evicted one needs a moment to go, and on a busy machine more than that; a caller that is turned away tries again
            until = time.monotonic() + (1.0 if evicted else 0.05)
            while len(self._open) >= self.limit and time.monotonic() < until:
                time.sleep(0.005)
            if len(self._open) >= self.limit:
                self._count(refused="Busy")
                log("port", "full", peer=exchange.peer, connections=self.limit)
                exchange._send_timeout(0.05)
                try:
                    self._fail(exchange, "", "Busy", f"all {self.limit} connections are in use: try again in a moment")
                except Gone:
                    pass
                exchange.sock.close()
                return
        old = threading.stack_size(STACK)
        try:
            thread = threading.Thread(target=self._serve, args=(exchange,), name="forebay-peer", daemon=True)
            with self._lock:
                self._open[exchange] = thread
            try:
                thread.start()
            except RuntimeError:
                with self._lock:
                    del self._open[exchange]
                raise
        finally:
            threading.stack_size(old)

    def _evict(self) -> bool:
        """Make a place: the longest idle connection goes, one that never proved itself first. False when none is idle. The lock
        is held."""
        now = time.monotonic()
        # read once: the thread of each changes it
        idle = [(e.known, since, e) for e in self._open if (since := e.idle_since) is not None and now - since > EVICT_AFTER]
        if idle:
            min(idle, key=lambda i: i[:2])[2].interrupt()
        return bool(idle)

    def _serve(self, exchange: Exchange) -> None:
        try:
            with exchange.sock:
                self._talk(exchange)
        except Gone:
            pass  # counted where it cut something
        except Exception as e:  # noqa: BLE001 - one caller's request must not end the port
            log("port", "defect", peer=exchange.peer, error=f"{type(e).__name__}: {e} (please report it)")
        finally:
            with self._lock:
                self._open.pop(exchange, None)

    def _talk(self, exchange: Exchange) -> None:
        while not self._closing:
            signature = ""
            try:
                request = exchange.read_request()
                if request is None:
                    return
                signature = self._check(request)
                exchange.known = True
                body = exchange.read_body(request.length)
                if sha256(body) != body_of(request.headers["x-forebay-auth"]):
                    raise Refused("Unauthorised", "the body is not the one that was signed")
                self._count(route=request.target)
                keep = self._answer(exchange, request, body, signature)
                if not keep:
                    return
            except Refused as e:
                self._count(refused=e.name)
                if e.name not in ("Absent", "Busy"):
                    log("port", "refused", peer=exchange.peer, why=e.name, error=str(e))
                self._fail(exchange, signature, e.name, str(e))
                exchange.linger()
                return

    def _check(self, request: Request) -> str:
        """The signature of a request that may be answered. Raises `Refused`."""
        path = request.target
        if path not in PATHS:
            if path.startswith("/v") and not path.startswith("/v1/"):
                text = f"this member speaks protocol {wire.PROTOCOL}: use the same version of forebay on all nodes"
                raise Refused("Protocol", text)
            raise Refused("NoSuchRoute", "nothing is served here")
        headers = request.headers
        spoken = headers.get("x-forebay-protocol", "")
        if spoken != str(wire.PROTOCOL):
            text = (
                f"this member speaks protocol {wire.PROTOCOL}, not {spoken[:20]!r}: use the same version of forebay on all nodes"
            )
            raise Refused("Protocol", text)
        signed = Signed(request.method, path, tuple(headers.get(name, "") for name in SIGNED_HEADERS))
        try:
            signature = self._verifier.check(headers.get("x-forebay-auth", ""), signed)
        except AuthError as e:
            raise Refused("Unauthorised", str(e)) from e
        if request.method != PATHS[path]:
            raise Refused("NoSuchRoute", f"{path} is asked with {PATHS[path]}")
        meant = headers.get("x-forebay-to", "")
        if meant and meant != self.identity:
            raise Refused("Misdirected", f"here is member {self.identity}, not {meant[:60]}: correct the member list")
        return signature

    # --- answers

    def _answer(self, exchange: Exchange, request: Request, body: bytes, signature: str) -> bool:
        """Answer one request; whether the connection may go on. Raises `Refused`, `Gone`."""
        try:
            if request.target == "/v1/blob":
                return self._blob(exchange, request, signature)
            if request.target == "/v1/batch":
                return self._batch(exchange, request, wire.decode_batch(body), signature)
            if request.target == "/v1/hello":
                answer = wire.encode(self.provider.hello())
            else:
                answer = wire.encode(self.provider.ask(wire.decode_ask(body)))
        except (StoreError, Absent) as e:
            self._fail(exchange, signature, wire.error_name(e), str(e), keep=request.keep)
            return request.keep
        except (Refused, Gone):
            raise
        except Exception as e:
            log("port", "defect", route=request.target, error=f"{type(e).__name__}: {e}")
            raise Refused("Internal", "this member failed: see its log") from e
        self._whole(exchange, 200, answer, signature, keep=request.keep)
        return request.keep

    def _blob(self, exchange: Exchange, request: Request, signature: str) -> bool:
        headers = request.headers
        ref = wire.decode_ref(headers.get("x-forebay-object", ""))
        first, count = wire.blocks_of_range(headers.get("range", ""), ref.size)
        try:
            mode = Mode(headers.get("x-forebay-mode", ""))
        except ValueError as e:
            raise Refused("Malformed", f"X-Forebay-Mode is one of {', '.join(Mode)}") from e
        serving = self.provider.open_blocks(ref, first, count, mode)
        with closing(serving.pieces) as pieces:
            count = min(serving.blocks, count)
            length = wire.framed(first, count, ref.size)
            span = f"bytes {first * BLOCK}-{min((first + count) * BLOCK, ref.size) - 1}/{ref.size}"
            proof = self.key.proof(signature, 206, wire.framing(length, span, ""))
            lines = f"Content-Range: {span}\r\nX-Forebay-Proof: {proof}\r\n"
            exchange.send(head_of(206, length, wire.BLOCKS_TYPE, lines, keep=request.keep), more=True)
            sent = 0
            try:
                for piece in pieces:
                    if sent == count or piece.length != block_range(ref.size, first + sent)[1]:
                        raise ValueError(f"the provider gave a block of {piece.length} bytes as number {sent} of {count}")
                    exchange.send(piece.sum, more=True)
                    exchange.send_file(piece.fd, piece.offset, piece.length)
                    self._count(sent=piece.length)
                    sent += 1
            except (StoreError, OSError, EOFError, Refused, ValueError) as e:
                # the head is out: that the answer ends short is all that can be said now
                log("port", "cut", key=ref.key, block=first + sent, error=str(e) or type(e).__name__)
            except Gone as e:
                self._count(cut=1)
                log("port", "caller_gone", peer=exchange.peer, key=ref.key, block=first + sent, error=str(e))
                raise
        if sent < count:
            self._count(cut=1)
            exchange.send(b"")
            return False
        return request.keep

    def _batch(self, exchange: Exchange, request: Request, batch: Batch, signature: str) -> bool:
        proof = self.key.proof(signature, 200, wire.framing(None, "", ""))
        out = bytearray(head_of(200, None, wire.BLOCKS_TYPE, f"X-Forebay-Proof: {proof}\r\n", keep=request.keep))
        chunk = bytearray()

        def flush(*, more: bool = False) -> None:
            if chunk:
                out.extend(b"%x\r\n" % len(chunk))
                out.extend(chunk)
                out.extend(b"\r\n")
                chunk.clear()
            if out:
                exchange.send(out, more=more)
                out.clear()

        done: set[int] = set()
        with closing(self.provider.open_small(batch)) as files:
            try:
                for file in files:
                    if file is None:
                        flush()
                        continue
                    if file.number in done or not 0 <= file.number < len(batch.objects):
                        raise ValueError(f"the provider answered object {file.number} twice, or one that was not asked for")
                    done.add(file.number)
                    self._record(exchange, file, batch, chunk, flush)
                    if len(chunk) >= CHUNK:
                        flush()
            except (StoreError, OSError, EOFError, Refused, ValueError) as e:
                log("port", "cut", route="batch", served=len(done), asked=len(batch.objects), error=str(e) or type(e).__name__)
                self._count(cut=1)
                return False
        if len(done) < len(batch.objects):
            log("port", "cut", route="batch", served=len(done), asked=len(batch.objects), error="the provider ended early")
            self._count(cut=1)
            return False
        flush(more=True)
        exchange.send(b"0\r\n\r\n")
        return request.keep

    def _record(
        self, exchange: Exchange, file: Small | SmallFailed, batch: Batch, chunk: bytearray, flush: Callable[..., None]
    ) -> None:
        if isinstance(file, SmallFailed):
            text = str(file.error).encode("utf-8", "backslashreplace")[:1000]
            ref = batch.objects[file.number]
            chunk += wire.record(ref, file.number, wire.Status.of(file.error), len(text), text) + text
            return
        size = batch.objects[file.number].size
        blocks = blocks_of(size)
        if file.size != size or len(file.sums) != blocks * SUM:
            raise ValueError(f"the provider gave {file.size} bytes for an object of {size}")
        record = wire.record(batch.objects[file.number], file.number, wire.Status.OK, size + blocks * SUM)
        if size <= TOGETHER:
            data = os.pread(file.fd, size, file.offset) if size else b""
            if len(data) < size:
                raise EOFError
            chunk += record
            chunk += file.sums
            chunk += data
        else:
            flush(more=True)
            exchange.send(b"%x\r\n" % (len(record) + size + blocks * SUM) + record, more=True)
            for block in range(blocks):
                offset, length = block_range(size, block)
                exchange.send(file.sums[block * SUM : (block + 1) * SUM], more=True)
                exchange.send_file(file.fd, file.offset + offset, length)
            exchange.send(b"\r\n", more=True)
        self._count(sent=size)

    def _whole(self, exchange: Exchange, status: int, body: bytes, signature: str, *, keep: bool) -> None:
        lines = ""
        if signature:
            framing = wire.framing(len(body), "", sha256(body))
            lines = f"X-Forebay-Proof: {self.key.proof(signature, status, framing)}\r\n"
        exchange.send(head_of(status, len(body), wire.MSGPACK_TYPE, lines, keep=keep) + body)

    def _fail(self, exchange: Exchange, signature: str, name: str, message: str, *, keep: bool = False) -> None:
        self._whole(exchange, wire.status_of(name), wire.encode(wire.Failed(name, message)), signature, keep=keep)
