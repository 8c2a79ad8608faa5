"""Data ports over real files, and raw sockets to be rude to them with."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from forebay.cache.disk.extents import block_range, blocks_of, checksum
from forebay.cache.disk.index import BLOCK
from forebay.cache.members.roster import Member
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signed, Signer, sha256
from forebay.cache.peers.call import BlobCall
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Piece, Port, Serving, Small, SmallFailed
from forebay.cache.peers.wire import Absent, Batch, Mode, Ref
from forebay.cache.stores.base import Entry, NotFound, Page, StoreError

SECRET = b"0123456789abcdef0123456789abcdef"
DATASET = "default/demo"
SOURCE = "s3://bucket/prefix"


def key(secret: bytes = SECRET, dataset: str = DATASET) -> Key:
    return Key(secret, dataset)


class FileProvider:
    """Serves files. Tests set how it misbehaves."""

    def __init__(self, folder: Path, identity: str = "11111111-1111-1111-1111-111111111111") -> None:
        self.folder = folder
        self.identity = identity
        self.objects: dict[Ref, tuple[Path, list[bytes]]] = {}
        self.have: set[int] | None = None  # blocks for mode CACHED, None: all
        self.asked: list[tuple[str, int, int]] = []  # mode, first, count
        self.delay: dict[int, float] = {}  # seconds before a block is ready
        self.gates: dict[int, threading.Event] = {}  # what a block waits for before it is ready
        self.stop_at: int | None = None  # block at which the provider fails
        self.error: Exception | None = None
        self.pages: dict[bytes, Page] = {}
        self.suspects: list[wire.Ask] = []
        self.closed = 0
        self.batches = 0

    def add(self, name: str, data: bytes, version: bytes = b"v1") -> Ref:
        path = self.folder / name.replace("/", "_")
        path.write_bytes(data)
        ref = Ref(SOURCE, name.encode(), version, len(data))
        sums = []
        for b in range(blocks_of(len(data))):
            at, n = block_range(len(data), b)
            sums.append(checksum(data[at : at + n]))
        self.objects[ref] = (path, sums)
        return ref

    def hello(self) -> wire.Hello:
        return wire.Hello(self.identity, wire.PROTOCOL, DATASET, 1.0, "node", 7, True, "127.0.0.1:9")

    def open_blocks(self, ref: Ref, first: int, count: int, mode: Mode) -> Serving:
        self.asked.append((str(mode), first, count))
        if self.error is not None:
            raise self.error
        if ref not in self.objects:
            raise NotFound(f"{ref.mount_source}/{ref.key!r}: there is no such object") if mode is not Mode.CACHED else Absent()
        if mode is Mode.CACHED and self.have is not None:
            n = 0
            while n < count and first + n in self.have:
                n += 1
            if n == 0:
                raise Absent
            count = n
        self._ready(first)
        return Serving(count, self._pieces(ref, first, count))

    def _ready(self, block: int) -> None:
        time.sleep(self.delay.get(block, 0.0))
        if block in self.gates:
            assert self.gates[block].wait(60)

    def _pieces(self, ref: Ref, first: int, count: int) -> Generator[Piece, None, None]:
        path, sums = self.objects[ref]
        fd = os.open(path, os.O_RDONLY)
        try:
            for b in range(first, first + count):
                if b == self.stop_at:
                    raise OSError("the disk failed")
                if b != first:
                    self._ready(b)
                at, n = block_range(ref.size, b)
                yield Piece(fd, at, n, sums[b])
        finally:
            self.closed += 1
            os.close(fd)

    def open_small(self, batch: Batch) -> Generator[Small | SmallFailed | None, None, None]:
        self.batches += 1
        order = list(enumerate(batch.objects))
        for number, ref in reversed(order):  # any order is allowed
            if number == self.stop_at:
                raise OSError("the disk failed")
            if ref not in self.objects:
                yield SmallFailed(number, NotFound(f"no {ref.key!r}") if batch.mode is Mode.FETCH else Absent())
                continue
            yield None
            path, sums = self.objects[ref]
            fd = os.open(path, os.O_RDONLY)
            try:
                yield Small(number, fd, 0, ref.size, b"".join(sums))
            finally:
                os.close(fd)

    def ask(self, ask: wire.Ask) -> wire.Answer:
        if self.error is not None:
            raise self.error
        if ask.op == "suspect":
            self.suspects.append(ask)
            return wire.Answer()
        if ask.op == "list":
            if ask.key not in self.pages:
                raise NotFound(f"no {ask.key!r}")
            return wire.Answer(page=self.pages[ask.key], strong=True)
        for ref in self.objects:
            if ask.op == "stat" and ref.key == ask.key:
                return wire.Answer(entry=Entry(ref.key.rpartition(b"/")[2], False, ref.size, 5, ref.version), strong=True)
            if ask.op == "is_dir" and ref.key.startswith(ask.key + b"/"):
                return wire.Answer(is_dir=True, strong=True)
        if ask.op == "is_dir":
            return wire.Answer(is_dir=False)
        raise NotFound(f"no {ask.key!r}")


def soon(true: Callable[[], bool], within: float = 60.0) -> bool:
    """Whether something becomes true in time: what a port does after its last byte, a test sees a moment later."""
    until = time.monotonic() + within
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def member_of(port: Port) -> Member:
    return Member(port.identity, port.address)


def dial(port: Port) -> socket.socket:
    host, _, number = port.address.rpartition(":")
    return socket.create_connection((host, int(number)), timeout=60)


def signed(
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    headers: tuple[str, str, str, str] = ("", "", "", ""),
    signer: Signer | None = None,
    clock: float | None = None,
    extra: str = "",
    protocol: str = "1",
) -> bytes:
    """A whole request, as bytes, to be changed and sent by a test."""
    signer = signer or Signer(key(), (lambda: clock) if clock is not None else time.time)
    auth, _ = signer.header(Signed(method, path, headers, sha256(body)))
    lines = "".join(f"{n}: {v}\r\n" for n, v in zip(wire.SIGNED_HEADERS, headers, strict=True) if v)
    size = f"content-length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-forebay-protocol: {protocol}\r\nx-forebay-auth: {auth}\r\n"
    return f"{head}{lines}{size}{extra}\r\n".encode() + body


def blob_request(ref: Ref, span: str | None = None, mode: str = "fetch", **more: object) -> bytes:
    span = span or wire.range_of(0, max(blocks_of(ref.size), 1), ref.size)
    return signed("/v1/blob", headers=(wire.encode_ref(ref), span, mode, ""), **more)  # type: ignore[arg-type]


def exchange(port: Port, request: bytes) -> tuple[int, str, bytes]:
    """Send, read to the end of the first answer; its status, the name of its error, its body. Status 0: closed in silence."""
    with dial(port) as sock:
        sock.sendall(request)
        return read_answer(sock)


def read_answer(sock: socket.socket) -> tuple[int, str, bytes]:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        try:
            got = sock.recv(65536)
        except ConnectionResetError:
            got = b""
        if not got:
            return 0, "", bytes(data)
        data += got
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    lines = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])}
    length = int(lines.get("content-length", "0"))
    while len(body) < length:
        got = sock.recv(1 << 20)
        if not got:
            break
        body += got
    name = ""
    if status >= 400:
        name = msgspec.msgpack.decode(body, type=wire.Failed).name
    return status, name, body


__all__ = [
    "DATASET",
    "SECRET",
    "SOURCE",
    "FileProvider",
    "StoreError",
    "blob_request",
    "dial",
    "exchange",
    "key",
    "member_of",
    "signed",
]


def blocks(
    client: PeerClient, member: Member, ref: Ref, first: int, count: int, mode: Mode = Mode.FETCH, wait: float = 60
) -> bytes:
    call = client.blob(member, ref, first, count, mode)
    out = bytearray()
    buffer = bytearray(BLOCK)
    try:
        while call.count:
            n = call.block(memoryview(buffer), wait)
            if n == 0:
                break
            out += buffer[:n]
    finally:
        call.close()
    return bytes(out)


def drain_call(call: BlobCall, buffer: memoryview) -> None:
    while call.block(buffer, 60):
        pass
