"""The data port against callers nobody wants, its client against answers nobody should believe."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable

import pytest
from peerkit import (
    SOURCE,
    FileProvider,
    blob_request,
    blocks,
    dial,
    drain_call,
    exchange,
    key,
    member_of,
    read_answer,
    signed,
    soon,
)
from servers import free_port

from forebay.cache.disk.index import BLOCK
from forebay.cache.members.roster import Member
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.auth import Signer
from forebay.cache.peers.call import (
    PeerBroken,
    PeerBusy,
    PeerError,
    PeerRefused,
    PeerWrong,
)
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port
from forebay.cache.peers.wire import Mode, Ref

RNG = random.Random(7)


# --- requests nobody should send


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: signed("/v1/hello", protocol="2"), 505),
        (lambda: signed("/v1/hello", protocol=""), 505),
        (lambda: signed("/v2/hello"), 505),
        (lambda: signed("/v1/other"), 405),
        (lambda: signed("/"), 405),
        (lambda: signed("/v1/hello", method="POST"), 405),
        (lambda: signed("/v1/hello", method="DELETE"), 405),
        (lambda: b"GET /v1/hello HTTP/2.0\r\n\r\n", 400),
        (lambda: b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (lambda: signed("/v1/hello", extra="host: y\r\n"), 400),
        (lambda: signed("/v1/hello", extra="transfer-encoding: chunked\r\n"), 400),
        (lambda: signed("/v1/hello", extra="content-length: 4x\r\n"), 400),
        (lambda: signed("/v1/hello", extra="content-length: -1\r\n"), 400),
        (lambda: signed("/v1/hello", extra=" folded: line\r\n"), 400),
        (lambda: signed("/v1/hello", extra=f"content-length: {wire.BODY_MOST + 1}\r\n"), 413),
        (lambda: signed("/v1/hello", extra=f"x: {'y' * wire.HEAD_MOST}\r\n"), 431),
        (lambda: signed("/v1/meta", method="POST", body=b"\xc1"), 400),
        (lambda: signed("/v1/meta", method="POST", body=wire.encode({"op": "delete", "mount_source": "s", "key": b"k"})), 400),
        (lambda: signed("/v1/batch", method="POST", body=b"\x93"), 400),
    ],
)
def test_requests_that_are_refused(port: Port, make: Callable[[], bytes], status: int) -> None:
    got, name, _ = exchange(port, make())  # signed now: a signature lasts half a minute
    assert got == status
    assert wire.status_of(name) == status
    assert sum(port.refused.values()) == 1


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 431)])
def test_a_whole_head_at_the_limit(port: Port, over: int, status: int) -> None:
    signer = Signer(key(), time.time)
    bare = len(signed("/v1/hello", signer=signer, extra="x: \r\n")) - 4
    request = signed("/v1/hello", signer=signer, extra=f"x: {'y' * (wire.HEAD_MOST - bare + over)}\r\n")
    assert exchange(port, request)[0] == status


@pytest.mark.parametrize(
    "bad",
    [
        b"..",
        b"a/../b",
        b"../a",
        b"a/..",
        b".",
        b"a/./b",
        b"a\0b",
        b"\0",
        b"/a",
        b"a//b",
        b"a/",
        b"",
        b"x" * 300,
        b"y/" * 5000 + b"z",
    ],
)
def test_keys_that_walk_elsewhere(provider: FileProvider, port: Port, bad: bytes) -> None:
    ref = Ref(SOURCE, bad, b"v", 10)
    status, name, _ = exchange(port, blob_request(ref))
    assert (status, name) in {(400, "Malformed"), (431, "HeadTooLarge")}
    for op in ("stat", "list", "suspect"):
        if (op, bad) in {("list", b""), ("list", b"a/")}:
            continue
        body = wire.encode(wire.Ask(op, SOURCE, bad))  # type: ignore[arg-type]
        assert exchange(port, signed("/v1/meta", method="POST", body=body))[:2] == (400, "Malformed")
    assert provider.asked == []
    assert provider.suspects == []


@pytest.mark.parametrize(
    ("span", "status"),
    [
        ("", 400),
        ("bytes=0-", 400),
        ("bytes=-5", 400),
        ("bytes=1-262143", 400),
        ("bytes=0-100", 400),
        ("bytes=0-262143,262144-524287", 400),
        ("bytes=0-524288", 400),
        ("bytes=262144-262143", 400),
        ("bytes=524288-524288", 400),
        ("bytes=0-99999999999999999999", 400),
        ("bytes=0-524287", 206),
        ("bytes=262144-524287", 206),
    ],
)
def test_ranges(provider: FileProvider, port: Port, span: str, status: int) -> None:
    ref = provider.add("f", b"x" * (2 * BLOCK))
    request = signed("/v1/blob", headers=(wire.encode_ref(ref), span, "fetch", ""))
    assert exchange(port, request)[0] == status


def test_a_range_larger_than_a_segment_is_refused(port: Port) -> None:
    ref = Ref(SOURCE, b"f", b"v", 1 << 40)
    assert exchange(port, blob_request(ref, f"bytes=0-{wire.BLOB_MOST + BLOCK - 1}"))[:2] == (413, "TooLarge")


@pytest.mark.parametrize("text", ["", "!!!", "AAAA", "gA=="])
def test_an_object_that_cannot_be_read(port: Port, text: str) -> None:
    assert exchange(port, signed("/v1/blob", headers=(text, "bytes=0-0", "fetch", "")))[0] == 400


def test_an_unknown_mode_is_refused(provider: FileProvider, port: Port) -> None:
    ref = provider.add("f", b"1")
    assert exchange(port, blob_request(ref, mode="anything"))[0] == 400


# --- slow and many


def test_a_head_that_drips_is_cut(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "HEAD_DEADLINE", 0.6)
    with dial(port) as sock:
        sent = 0
        try:
            for byte in (request := signed("/v1/hello")):  # 10 s and more
                sock.send(bytes([byte]))
                sent += 1
                time.sleep(0.05)
        except OSError:
            pass
        assert sent < len(request)
        assert read_answer(sock)[:2] in {(408, "TooSlow"), (0, "")}
    assert port.refused["TooSlow"] == 1


def test_a_body_that_stalls_is_cut(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "BODY_DEADLINE", 0.4)
    request = signed("/v1/meta", method="POST", body=b"x" * 10000)
    with dial(port) as sock:
        sock.sendall(request[:-5000])
        assert read_answer(sock)[:2] == (408, "TooSlow")


def test_idle_connections_end(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "IDLE", 0.3)
    with dial(port) as sock:
        sock.settimeout(30)  # half of what it is without the patch
        assert sock.recv(1) == b""


def test_a_caller_that_takes_nothing_is_cut(provider: FileProvider, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "SEND_STALL", 0.4)
    ref = provider.add("f", bytes(40 * BLOCK))
    with dial(port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(blob_request(ref))
        assert soon(lambda: port.cut == 1)
        assert soon(lambda: provider.closed == 1)


def test_more_connections_than_allowed_are_told_so(provider: FileProvider) -> None:
    ref = provider.add("f", b"1" * 10)
    go = provider.gates[0] = threading.Event()
    p = Port(provider, key(), provider.identity, limit=2)
    p.start()
    try:
        with dial(p) as a, dial(p) as b:
            a.sendall(blob_request(ref))
            b.sendall(blob_request(ref))
            assert soon(lambda: len(provider.asked) == 2)
            assert exchange(p, signed("/v1/hello"))[:2] == (503, "Busy")
            c = PeerClient(key())
            with pytest.raises(PeerBusy):
                c.hello(p.address)
            c.close()
            go.set()
            assert read_answer(a)[0] == 206
            assert read_answer(b)[0] == 206
        assert p.refused["Busy"] == 2
    finally:
        p.close()


def test_idle_strangers_give_way_to_a_member(provider: FileProvider) -> None:
    p = Port(provider, key(), provider.identity, limit=3)
    p.start()
    c = PeerClient(key())
    try:
        assert c.hello(p.address)
        strangers = [dial(p), dial(p)]
        assert soon(lambda: p.connections == 3)
        time.sleep(0.7)
        # a place is free when the thread of the one that went has ended: a caller that is turned away tries again
        assert soon(lambda: exchange(p, signed("/v1/hello"))[0] == 200)
        assert strangers[0].recv(1) == b"", "the one that was idle longest and never proved itself went"
        for s in strangers:
            s.close()
    finally:
        c.close()
        p.close()


# --- answers nobody should believe


def test_a_corrupt_block_is_noticed(provider: FileProvider, port: Port, client: PeerClient) -> None:
    data = bytearray(RNG.randbytes(3 * BLOCK))
    ref = provider.add("f", bytes(data))
    data[BLOCK + 1000] ^= 1
    provider.objects[ref][0].write_bytes(data)
    call = client.blob(member_of(port), ref, 0, 3, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    assert call.block(buffer, 60) == BLOCK
    with pytest.raises(PeerWrong) as caught:
        call.block(buffer, 60)
    assert caught.value.block == 1
    assert not call.open


@pytest.mark.parametrize("how", ["fails", "short file"])
def test_an_answer_that_ends_short_is_noticed(provider: FileProvider, port: Port, client: PeerClient, how: str) -> None:
    data = RNG.randbytes(3 * BLOCK)
    ref = provider.add("f", data)
    if how == "fails":
        provider.stop_at = 2
    else:
        os.truncate(provider.objects[ref][0], 2 * BLOCK + 100)
    call = client.blob(member_of(port), ref, 0, 3, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    assert call.block(buffer, 60) == BLOCK
    assert call.block(buffer, 60) == BLOCK
    with pytest.raises(PeerBroken, match="short"):
        call.block(buffer, 60)
    assert soon(lambda: port.cut == 1)
    provider.stop_at = None
    if how == "fails":
        assert blocks(client, member_of(port), ref, 0, 3) == data


def _fake(answer: bytes, *, after: float = 0.0) -> tuple[socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(65536)
                    sock.sendall(answer)
                    time.sleep(after)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nContent-Type: application/vnd.forebay.blocks\r\n\r\n",
        b"HTTP/1.1 206 OK\r\nContent-Length: 9\r\nContent-Range: bytes 0-0/1\r\n\r\n123456789",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
        b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_something_else_at_the_address(client: PeerClient, answer: bytes) -> None:
    listener, address = _fake(answer)
    try:
        with pytest.raises(PeerError):
            blocks(client, Member("11111111", address), Ref(SOURCE, b"f", b"v", 1), 0, 1)
        with pytest.raises(PeerError):
            client.hello(address, timeout=60)
    finally:
        listener.close()


def test_a_silent_member_is_left_in_time(client: PeerClient) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        began = time.monotonic()
        with pytest.raises(PeerBroken, match="no answer within"):
            client.hello(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - began < 20
    finally:
        listener.close()


def test_nobody_at_the_address(client: PeerClient) -> None:
    with socket.socket() as held:  # it does not listen, and nobody else can meanwhile
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(PeerRefused, match="is its worker up"):
            client.hello(address)
        with pytest.raises(OSError, match="is its worker up"):
            client.greet(address)
    with pytest.raises(PeerRefused):
        client.hello("no-such-host.invalid:1")


# --- coming and going


def test_a_restarted_member_is_found_again(provider: FileProvider, client: PeerClient) -> None:
    ref = provider.add("f", b"abc")
    p = Port(provider, key(), provider.identity, port=free_port())  # it stays free while nobody listens
    p.start()
    m = member_of(p)
    assert blocks(client, m, ref, 0, 1) == b"abc"
    number = int(p.address.rpartition(":")[2])
    p.close(60)
    assert p.connections == 0
    with pytest.raises(PeerError):
        blocks(client, m, ref, 0, 1)
    p = Port(provider, key(), provider.identity, port=number)
    p.start()
    try:
        assert blocks(client, m, ref, 0, 1) == b"abc"
    finally:
        p.close()


def test_closing_cuts_what_is_being_served(provider: FileProvider, client: PeerClient) -> None:
    ref = provider.add("f", bytes(100 * BLOCK))
    provider.delay = dict.fromkeys(range(1, 100), 0.5)
    p = Port(provider, key(), provider.identity)
    p.start()
    call = client.blob(member_of(p), ref, 0, 100, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    call.block(buffer, 60)
    began = time.monotonic()
    p.close(60)
    assert time.monotonic() - began < 20
    with pytest.raises(PeerBroken):
        drain_call(call, buffer)
    assert provider.closed == 1
    assert not [t for t in threading.enumerate() if t.name in {"forebay-peer", "forebay-port"}]


def test_a_port_that_was_never_started_closes(provider: FileProvider) -> None:
    Port(provider, key(), provider.identity).close()
