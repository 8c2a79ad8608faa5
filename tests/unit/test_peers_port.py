"""The data port and its client over real loopback sockets, serving real files."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peerkit import DATASET, SECRET, SOURCE, FileProvider, blob_request, dial, exchange, key, member_of, read_answer, signed, soon

from forebay.cache.index import BLOCK
from forebay.cache.membership import Member
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.auth import Key, Signer
from forebay.cache.peers.call import (
    BlobCall,
    PeerAbsent,
    PeerBroken,
    PeerBusy,
    PeerError,
    PeerRefused,
    PeerShut,
    PeerWrong,
    Silent,
)
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Changed, Denied, Entry, NotFound, Page, StoreError, Unavailable

RNG = random.Random(7)


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    return FileProvider(tmp_path)


@pytest.fixture
def port(provider: FileProvider) -> Iterator[Port]:
    p = Port(provider, key(), provider.identity)
    p.start()
    yield p
    p.close()
    assert p.connections == 0


@pytest.fixture
def client() -> Iterator[PeerClient]:
    c = PeerClient(key())
    yield c
    c.close()


def blocks(
    client: PeerClient, member: Member, ref: Ref, first: int, count: int, mode: Mode = Mode.FETCH, wait: float = 5
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
    while call.block(buffer, 5):
        pass


# --- right bytes


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 12345])
def test_every_range_of_blocks_arrives_as_it_is(provider: FileProvider, port: Port, client: PeerClient, size: int) -> None:
    data = RNG.randbytes(size)
    ref = provider.add("a/b.bin", data)
    total = (size + BLOCK - 1) // BLOCK
    for first in range(total):
        for count in range(1, total - first + 1):
            assert blocks(client, member_of(port), ref, first, count) == data[first * BLOCK : (first + count) * BLOCK]
    assert port.requests["/v1/blob"] == total * (total + 1) // 2
    assert port.connections == 1, "one pooled connection carries all of them"
    assert soon(lambda: provider.closed == port.requests["/v1/blob"])


def test_blocks_are_delivered_while_later_ones_are_still_fetched(provider: FileProvider, port: Port, client: PeerClient) -> None:
    data = RNG.randbytes(3 * BLOCK)
    ref = provider.add("f", data)
    provider.delay = {2: 1.5}
    call = client.blob(member_of(port), ref, 0, 3, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    began = time.monotonic()
    call.block(buffer, 5)
    call.block(buffer, 5)
    assert time.monotonic() - began < 1.0
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    assert call.block(buffer, 5) == BLOCK  # the same call, waited for again
    assert bytes(buffer) == data[2 * BLOCK :]
    call.close()


def test_a_late_head_can_be_waited_for_again(provider: FileProvider, port: Port, client: PeerClient) -> None:
    ref = provider.add("f", b"x" * 100)
    provider.delay = {0: 0.8}
    call = client.blob(member_of(port), ref, 0, 1, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    assert call.block(buffer, 5) == 100
    call.close()


def test_a_copy_says_how_much_it_has(provider: FileProvider, port: Port, client: PeerClient) -> None:
    data = RNG.randbytes(4 * BLOCK)
    ref = provider.add("f", data)
    provider.have = {1, 2}
    assert blocks(client, member_of(port), ref, 1, 3, Mode.CACHED) == data[BLOCK : 3 * BLOCK]
    with pytest.raises(PeerAbsent):
        blocks(client, member_of(port), ref, 0, 4, Mode.CACHED)
    assert blocks(client, member_of(port), ref, 2, 1, Mode.CACHED) == data[2 * BLOCK : 3 * BLOCK]  # the connection went on


def test_bytes_are_sent_by_the_kernel(
    provider: FileProvider, port: Port, client: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    real = os.sendfile

    def counting(out: int, fd: int, offset: int, count: int) -> int:
        nonlocal sent
        n = real(out, fd, offset, count)
        sent += n
        return n

    monkeypatch.setattr(os, "sendfile", counting)
    data = RNG.randbytes(2 * BLOCK + 5)
    ref = provider.add("f", data)
    assert blocks(client, member_of(port), ref, 0, 3) == data
    assert sent == len(data)


def test_many_callers_at_once(provider: FileProvider, port: Port, client: PeerClient) -> None:
    refs = [(provider.add(f"f{i}", d := RNG.randbytes(BLOCK * 2 + i)), d) for i in range(8)]
    failures: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            ref, data = rng.choice(refs)
            try:
                assert blocks(client, member_of(port), ref, 0, 3) == data
            except BaseException as e:  # noqa: BLE001 - told to the test's own thread
                failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not failures
    assert port.requests["/v1/blob"] == 240


# --- small files


def test_a_batch_brings_each_file_once_in_any_order(provider: FileProvider, port: Port, client: PeerClient) -> None:
    sizes = [0, 1, 16 << 10, 64 << 10, (64 << 10) + 1, BLOCK, BLOCK + 7, 3 * BLOCK + 1] + [5000] * 100
    content = [RNG.randbytes(n) for n in sizes]
    refs = [provider.add(f"d/{i}", d) for i, d in enumerate(content)]
    missing = Ref(SOURCE, b"d/none", b"v", 10)
    got = dict(client.batch(member_of(port), [*refs, missing]))
    assert [got[i] for i in range(len(refs))] == content
    assert isinstance(got[len(refs)], NotFound)
    assert sorted(got) == list(range(len(refs) + 1))
    assert dict(client.batch(member_of(port), refs[:3])) == dict(enumerate(content[:3]))
    assert port.connections == 1, "the chunked answer was read to its end and the connection kept"
    absent = dict(client.batch(member_of(port), [missing], Mode.CACHED))
    assert isinstance(absent[0], PeerAbsent)


def test_a_batch_that_breaks_off_gives_what_came_and_then_says_so(provider: FileProvider, port: Port, client: PeerClient) -> None:
    refs = [provider.add(f"d/{i}", bytes([i]) * 70000) for i in range(6)]
    provider.stop_at = 2
    got: dict[int, object] = {}
    answers = client.batch(member_of(port), refs)
    with pytest.raises(PeerBroken):
        got.update(answers)
    assert set(got) <= {5, 4, 3}
    assert all(got[i] == bytes([i]) * 70000 for i in got)
    assert soon(lambda: port.cut == 1)


def test_a_corrupt_file_of_a_batch_is_told_apart(provider: FileProvider, port: Port, client: PeerClient) -> None:
    refs = [provider.add(f"d/{i}", bytes([i]) * 100) for i in range(3)]
    provider.objects[refs[1]][0].write_bytes(b"x" * 100)
    got = dict(client.batch(member_of(port), refs))
    assert got[0] == bytes([0]) * 100
    assert got[2] == bytes([2]) * 100
    assert isinstance(got[1], PeerWrong)


@pytest.mark.parametrize(
    ("refs", "name"),
    [
        ([Ref(SOURCE, b"k%d" % i, b"", 1) for i in range(wire.BATCH_FILES + 1)], "TooLarge"),
        ([Ref(SOURCE, b"a", b"", wire.BATCH_BYTES), Ref(SOURCE, b"b", b"", 1)], "TooLarge"),
        ([], "TooLarge"),
        ([Ref(SOURCE, b"a/../b", b"", 1)], "Malformed"),
    ],
)
def test_batches_that_are_refused(port: Port, refs: list[Ref], name: str) -> None:
    body = wire.encode(wire.Batch(refs))
    status, got, _ = exchange(port, signed("/v1/batch", method="POST", body=body))
    assert (status, got) == (wire.status_of(name), name)


# --- names


def test_names_and_greeting(provider: FileProvider, port: Port, client: PeerClient) -> None:
    provider.add("d/f", b"123")
    page = Page([Entry(b"\xff odd", False, 3, 4, b"v"), Entry(b"sub", True)], b"token", 2)
    provider.pages[b"d/"] = page
    m = member_of(port)
    assert client.meta(m, wire.Ask("list", SOURCE, b"d/")).page == page
    assert client.meta(m, wire.Ask("stat", SOURCE, b"d/f")).entry == Entry(b"f", False, 3, 5, b"v1")
    assert client.meta(m, wire.Ask("is_dir", SOURCE, b"d")).is_dir is True
    assert client.meta(m, wire.Ask("is_dir", SOURCE, b"e")).is_dir is False
    with pytest.raises(NotFound, match="no b'x'"):
        client.meta(m, wire.Ask("stat", SOURCE, b"x"))
    assert client.hello(port.address).id == provider.identity
    assert client.greet(port.address) == Member(provider.identity, port.address, "127.0.0.1:9", 1.0, "node")


@pytest.mark.parametrize("error", [NotFound("gone"), Changed("other"), Denied("no"), Unavailable("down")])
def test_what_the_store_says_arrives_as_it_is(provider: FileProvider, port: Port, client: PeerClient, error: StoreError) -> None:
    ref = provider.add("f", b"1")
    provider.error = error
    with pytest.raises(type(error), match=str(error)) as caught:
        client.meta(member_of(port), wire.Ask("stat", SOURCE, b"f"))
    assert not isinstance(caught.value, PeerError)
    with pytest.raises(type(error), match=str(error)) as caught:
        blocks(client, member_of(port), ref, 0, 1)
    assert not isinstance(caught.value, PeerError)
    assert port.connections == 1, "an error in good form keeps the connection"


def test_a_defect_of_the_provider_is_no_answer_of_the_store(provider: FileProvider, port: Port, client: PeerClient) -> None:
    provider.error = RuntimeError("secret details")
    with pytest.raises(PeerBroken) as caught:
        client.meta(member_of(port), wire.Ask("stat", SOURCE, b"f"))
    assert "secret details" not in str(caught.value)


# --- who may ask


def test_nothing_is_served_without_the_secret(provider: FileProvider, port: Port) -> None:
    ref = provider.add("f", b"the bytes nobody else may see")
    stranger = Signer(Key(b"f" * 32, DATASET), time.time)
    other = Signer(Key(SECRET, "default/other"), time.time)
    requests = {
        "unsigned": b"GET /v1/blob HTTP/1.1\r\nhost: x\r\nx-forebay-protocol: 1\r\n\r\n",
        "hello": b"GET /v1/hello HTTP/1.1\r\nhost: x\r\nx-forebay-protocol: 1\r\n\r\n",
        "wrong secret": blob_request(ref, signer=stranger),
        "other dataset": blob_request(ref, signer=other),
        "garbled": blob_request(ref).replace(b"s=", b"s=0", 1),
        "another object": blob_request(ref).replace(
            wire.encode_ref(ref).encode(), wire.encode_ref(provider.add("g", b"other bytes nobody may see...")).encode()
        ),
        "another range": blob_request(ref).replace(b"range: bytes=0-", b"range: bytes=1-"),
        "another mode": blob_request(ref).replace(b"x-forebay-mode: fetch", b"x-forebay-mode: standin"),
        "another path": signed("/v1/hello").replace(b"GET /v1/hello", b"GET /v1/blob"),
    }
    for what, request in requests.items():
        status, name, body = exchange(port, request)
        assert (status, name) == (401, "Unauthorised"), what
        assert b"nobody" not in body, what
    assert provider.asked == []
    assert port.refused["Unauthorised"] == len(requests)


def test_a_body_that_was_not_signed_is_refused(provider: FileProvider, port: Port) -> None:
    body = wire.encode(wire.Ask("stat", SOURCE, b"f"))
    good = signed("/v1/meta", method="POST", body=body)
    changed = good[: -len(body)] + body.replace(b"f", b"g")[: len(body)]
    assert changed != good
    assert exchange(port, changed)[:2] == (401, "Unauthorised")


def test_a_request_counts_once(provider: FileProvider, port: Port) -> None:
    request = blob_request(provider.add("f", b"1"))
    assert exchange(port, request)[0] == 206
    status, name, _ = exchange(port, request)
    assert (status, name) == (401, "Unauthorised")
    with dial(port) as sock:  # nor on one connection
        again = signed("/v1/hello")
        sock.sendall(again + again)
        assert read_answer(sock)[0] == 200


@pytest.mark.parametrize(("skew", "good"), [(-29, True), (29, True), (-31, False), (31, False), (86400, False)])
def test_clocks_may_differ_by_half_a_minute(provider: FileProvider, tmp_path: Path, skew: float, good: bool) -> None:
    now = time.time()
    p = Port(provider, key(), provider.identity, clock=lambda: now)
    p.start()
    try:
        status, name, body = exchange(p, signed("/v1/hello", clock=now + skew))
        assert (status == 200) is good
        if not good:
            assert name == "Unauthorised"
            assert b"NTP" in body
        c = PeerClient(key(), clock=lambda: now + skew)
        if good:
            assert c.hello(p.address).id == provider.identity
        else:
            with pytest.raises(PeerShut, match="NTP"):
                c.hello(p.address)
        c.close()
    finally:
        p.close()


def test_the_client_says_what_to_do_about_a_wrong_secret(provider: FileProvider, port: Port) -> None:
    ref = provider.add("f", b"1")
    c = PeerClient(Key(b"f" * 32, DATASET))
    with pytest.raises(PeerShut, match="same secret file"):
        blocks(c, member_of(port), ref, 0, 1)
    with pytest.raises(PeerShut, match="same secret file"):
        c.meta(member_of(port), wire.Ask("stat", SOURCE, b"f"))
    with pytest.raises(PeerShut, match="same secret file"):
        next(c.batch(member_of(port), [ref]))
    c.close()


def test_an_answer_without_the_secret_is_not_believed(provider: FileProvider) -> None:
    """A port that lets everybody in but holds another secret: its bytes, names and errors are no member's."""
    ref = provider.add("f", b"1")

    class Careless(Port):
        def _check(self, request: httpd.Request) -> str:
            return "0" * 64

    p = Careless(provider, Key(b"f" * 32, DATASET), provider.identity)
    p.start()
    c = PeerClient(key())
    try:
        with pytest.raises(PeerShut, match="does not prove"):
            blocks(c, member_of(p), ref, 0, 1)
        with pytest.raises(PeerShut, match="does not prove"):
            c.hello(p.address)
        with pytest.raises(PeerShut, match="does not prove"):
            next(c.batch(member_of(p), [ref]))
        provider.error = NotFound("a lie")
        with pytest.raises(PeerShut, match="does not prove"):
            c.meta(member_of(p), wire.Ask("stat", SOURCE, b"f"))
    finally:
        c.close()
        p.close()


def test_another_member_at_the_address_refuses(provider: FileProvider, port: Port, client: PeerClient) -> None:
    ref = provider.add("f", b"1")
    with pytest.raises(PeerShut, match="member list") as caught:
        blocks(client, Member("22222222-2222-2222-2222-222222222222", port.address), ref, 0, 1)
    assert caught.value.name == "Misdirected"
    assert provider.asked == []


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
        began = time.monotonic()
        try:
            for byte in signed("/v1/hello"):
                sock.send(bytes([byte]))
                time.sleep(0.05)
                if time.monotonic() - began > 5:
                    break
        except OSError:
            pass
        assert time.monotonic() - began < 3
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
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began < 2


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
    provider.delay = {0: 1.0}
    p = Port(provider, key(), provider.identity, limit=2)
    p.start()
    try:
        with dial(p) as a, dial(p) as b:
            a.sendall(blob_request(ref))
            b.sendall(blob_request(ref))
            time.sleep(0.2)
            assert exchange(p, signed("/v1/hello"))[:2] == (503, "Busy")
            c = PeerClient(key())
            with pytest.raises(PeerBusy):
                c.hello(p.address)
            c.close()
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
        time.sleep(0.7)
        with dial(p) as fourth:
            fourth.sendall(signed("/v1/hello"))
            assert read_answer(fourth)[0] == 200
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
    assert call.block(buffer, 5) == BLOCK
    with pytest.raises(PeerWrong) as caught:
        call.block(buffer, 5)
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
    assert call.block(buffer, 5) == BLOCK
    assert call.block(buffer, 5) == BLOCK
    with pytest.raises(PeerBroken, match="short"):
        call.block(buffer, 5)
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
            blocks(client, Member("11111111", address), Ref(SOURCE, b"f", b"v", 1), 0, 1, wait=1)
        with pytest.raises(PeerError):
            client.hello(address, timeout=1)
    finally:
        listener.close()


def test_a_silent_member_is_left_in_time(client: PeerClient) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        began = time.monotonic()
        with pytest.raises(PeerBroken, match="no answer within"):
            client.hello(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - began < 2
    finally:
        listener.close()


def test_nobody_at_the_address(client: PeerClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        address = f"127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(PeerRefused, match="is its worker up"):
        client.hello(address)
    with pytest.raises(OSError, match="is its worker up"):
        client.greet(address)
    with pytest.raises(PeerRefused):
        client.hello("no-such-host.invalid:1")


# --- coming and going


def test_a_restarted_member_is_found_again(provider: FileProvider, client: PeerClient) -> None:
    ref = provider.add("f", b"abc")
    p = Port(provider, key(), provider.identity)
    p.start()
    m = member_of(p)
    assert blocks(client, m, ref, 0, 1) == b"abc"
    number = int(p.address.rpartition(":")[2])
    p.close()
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
    provider.delay = dict.fromkeys(range(1, 100), 0.05)
    p = Port(provider, key(), provider.identity)
    p.start()
    call = client.blob(member_of(p), ref, 0, 100, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    call.block(buffer, 5)
    began = time.monotonic()
    p.close()
    assert time.monotonic() - began < 3
    with pytest.raises(PeerBroken):
        drain_call(call, buffer)
    assert provider.closed == 1
    assert not [t for t in threading.enumerate() if t.name in {"forebay-peer", "forebay-port"}]


def test_a_port_that_was_never_started_closes(provider: FileProvider) -> None:
    Port(provider, key(), provider.identity).close()
