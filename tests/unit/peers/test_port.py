"""The data port and its client over real loopback sockets, serving real files: right bytes, and who may ask."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from peerkit import (
    DATASET,
    SECRET,
    SOURCE,
    FileProvider,
    blob_request,
    blocks,
    dial,
    exchange,
    key,
    member_of,
    read_answer,
    signed,
    soon,
)

from forebay.cache.disk.extents import checksum
from forebay.cache.disk.index import BLOCK
from forebay.cache.members.roster import Member
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.auth import Key, Signer
from forebay.cache.peers.call import (
    PeerAbsent,
    PeerBroken,
    PeerError,
    PeerShut,
    PeerWrong,
    Silent,
    Whole,
)
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Changed, Denied, Entry, NotFound, Page, StoreError, Unavailable

RNG = random.Random(7)


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
    fetched = provider.gates[2] = threading.Event()
    call = client.blob(member_of(port), ref, 0, 3, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    call.block(buffer, 30)
    call.block(buffer, 30)
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    fetched.set()
    assert call.block(buffer, 60) == BLOCK  # the same call, waited for again
    assert bytes(buffer) == data[2 * BLOCK :]
    call.close()


def test_a_late_head_can_be_waited_for_again(provider: FileProvider, port: Port, client: PeerClient) -> None:
    ref = provider.add("f", b"x" * 100)
    asked = provider.gates[0] = threading.Event()
    call = client.blob(member_of(port), ref, 0, 1, Mode.FETCH)
    buffer = memoryview(bytearray(BLOCK))
    with pytest.raises(Silent):
        call.block(buffer, 0.2)
    asked.set()
    assert call.block(buffer, 60) == 100
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
    assert soon(lambda: sent >= len(data)), "the last bytes arrive before the call that sent them returns, and is counted"
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


def received(answers: Iterable[tuple[int, Whole | StoreError] | None]) -> dict[int, bytes | StoreError]:
    """The bytes of each file of a batch, whose checksums are theirs, or why it did not come."""
    got: dict[int, bytes | StoreError] = {}
    for i, whole in filter(None, answers):
        if isinstance(whole, Whole):
            data = bytes(whole.data)
            assert whole.sums == b"".join(checksum(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))
            got[i] = data
        else:
            got[i] = whole
    return got


def test_a_batch_brings_each_file_once_in_any_order(provider: FileProvider, port: Port, client: PeerClient) -> None:
    sizes = [0, 1, 16 << 10, 64 << 10, (64 << 10) + 1, BLOCK, BLOCK + 7, 3 * BLOCK + 1] + [5000] * 100
    content = [RNG.randbytes(n) for n in sizes]
    refs = [provider.add(f"d/{i}", d) for i, d in enumerate(content)]
    missing = Ref(SOURCE, b"d/none", b"v", 10)
    got = received(client.batch(member_of(port), [*refs, missing]))
    assert [got[i] for i in range(len(refs))] == content
    assert isinstance(got[len(refs)], NotFound)
    assert sorted(got) == list(range(len(refs) + 1))
    assert received(client.batch(member_of(port), refs[:3])) == dict(enumerate(content[:3]))
    assert port.connections == 1, "the chunked answer was read to its end and the connection kept"
    absent = received(client.batch(member_of(port), [missing], Mode.CACHED))
    assert isinstance(absent[0], PeerAbsent)


def test_a_batch_that_breaks_off_gives_what_came_and_then_says_so(provider: FileProvider, port: Port, client: PeerClient) -> None:
    refs = [provider.add(f"d/{i}", bytes([i]) * 70000) for i in range(6)]
    provider.stop_at = 2
    got: dict[int, object] = {}
    answers = client.batch(member_of(port), refs)
    with pytest.raises(PeerBroken):
        got.update((i, whole.data) for i, whole in filter(None, answers) if isinstance(whole, Whole))
    assert set(got) <= {5, 4, 3}
    assert all(got[i] == bytes([i]) * 70000 for i in got)
    assert soon(lambda: port.cut == 1)


def test_a_corrupt_file_of_a_batch_is_told_apart(provider: FileProvider, port: Port, client: PeerClient) -> None:
    refs = [provider.add(f"d/{i}", bytes([i]) * 100) for i in range(3)]
    provider.objects[refs[1]][0].write_bytes(b"x" * 100)
    got = received(client.batch(member_of(port), refs))
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
