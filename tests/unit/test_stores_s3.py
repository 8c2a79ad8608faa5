"""The S3 store: configuration, and every kind of bad answer: right bytes or a `StoreError`, never wrong bytes or a hang."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Iterator

import pytest
from fakes3 import FakeS3, fault, listing, url_key
from faultserver import FaultServer, Request, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import PATIENT, drain, entries, s3

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import BadReply, Changed, Denied, Entry, NotFound, Store, Unavailable
from forebay.cache.stores.net.transport import Timeouts

BIG = os.urandom(1 << 20)
OBJECTS = {b"a.txt": b"hello", b"dir/": b"", b"dir/big": BIG, b"dir/empty": b"", b"dir/sub/z": b"z", b"dir/sp +%\xff\xfe": b"odd"}


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with FakeS3(dict(OBJECTS)) as server:
        yield server


@pytest.fixture
def store(fake: FakeS3) -> Iterator[Store]:
    opened = s3(fake.url)
    yield opened
    opened.close()


# -- the plain way --


def test_list_stat_read(store: Store) -> None:
    store.probe()
    found, skipped = entries(store)
    assert [(e.name, e.is_dir, e.size) for e in found] == [(b"dir", True, -1), (b"a.txt", False, 5)]
    found, skipped = entries(store, b"dir/", 1)
    assert {(e.name, e.is_dir, e.size) for e in found} == {
        (b"big", False, len(BIG)),
        (b"empty", False, 0),
        (b"sub", True, -1),
        (b"sp +%\xff\xfe", False, 3),
    }
    assert skipped == 0
    listed = {e.name: e for e in found}
    for name in (b"big", b"empty", b"sp +%\xff\xfe"):
        entry = store.stat(b"dir/" + name)
        assert entry == listed[name]
        whole, body = store.whole(b"dir/" + name)
        assert whole == entry
        assert drain(body) == OBJECTS[b"dir/" + name]
        assert drain(store.read(b"dir/" + name, entry.version, 0, entry.size)) == OBJECTS[b"dir/" + name]
    assert store.strong
    assert [store.is_dir(key) for key in (b"dir", b"dir/sub", b"a.txt", b"nope")] == [True, True, False, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(BIG) - 1), st.integers(1, len(BIG)), st.integers(1, 1 << 20))
def test_ranges(offset: int, length: int, piece: int) -> None:
    length = min(length, len(BIG) - offset)
    with FakeS3(OBJECTS) as server:
        store = s3(server.url)
        version = store.stat(b"dir/big").version
        assert drain(store.read(b"dir/big", version, offset, length), max(piece, 4096)) == BIG[offset : offset + length]
        store.close()


@pytest.mark.parametrize("key", [b"nope", b"dir", b"../a.txt", b"dir//big", b"a\0b", b"x" * 256, b"dir/", b""])
def test_what_is_not_there(store: Store, key: bytes) -> None:
    with pytest.raises(NotFound) as caught:
        store.stat(key)
    assert "s3://bucket/" in str(caught.value)


def test_a_prefix_is_the_whole_world(fake: FakeS3) -> None:
    store = s3(fake.url, "s3://bucket/dir/")
    assert {e.name for e in entries(store)[0]} == {b"big", b"empty", b"sub", b"sp +%\xff\xfe"}
    assert store.stat(b"sub/z").size == 1
    assert store.is_dir(b"sub")
    with pytest.raises(NotFound):
        store.stat(b"../a.txt")
    store.close()


def test_a_hidden_key_is_counted_and_odd_keys_are_skipped() -> None:
    with FakeS3(
        {b"a": b"file", b"a/b": b"x", b"a//c": b"y", b"../up": b"z", b"a/..": b"q", b"n\0": b"", b"l" * 300: b""}
    ) as server:
        store = s3(server.url)
        assert ({(e.name, e.is_dir) for e in entries(store, b"", 1)[0]}, entries(store, b"", 1)[1]) == ({(b"a", True)}, 4)
        assert [e.name for e in entries(store, b"a/")[0]] == [b"b"]
        assert entries(store, b"a/")[1] == 2
        store.close()


def test_one_connection_serves_many_calls(fake: FakeS3, store: Store) -> None:
    version = store.stat(b"dir/big").version
    for offset in range(0, len(BIG), 1 << 18):
        drain(store.read(b"dir/big", version, offset, 1 << 18))
    store.list(b"")
    with pytest.raises(NotFound):
        store.stat(b"nope")
    assert fake.connections == 1


# -- versions --


def test_a_changed_object(fake: FakeS3, store: Store) -> None:
    old = store.stat(b"a.txt")
    fake.objects[b"a.txt"] = b"HELLO"
    with pytest.raises(Changed):
        store.read(b"a.txt", old.version, 0, 5)
    with pytest.raises(Changed):
        store.read(b"a.txt", old.version, 0, 0)
    assert fake.requests[1].headers["if-match"] == old.version.decode()
    del fake.objects[b"a.txt"]
    with pytest.raises(NotFound):
        store.read(b"a.txt", old.version, 0, 5)


def test_a_change_between_ranges_when_conditions_are_ignored(fake: FakeS3, store: Store) -> None:
    version = store.stat(b"dir/big").version
    assert drain(store.read(b"dir/big", version, 0, 1000)) == BIG[:1000]

    def ignoring(request: Request, wire: Wire) -> bool:
        request.headers.pop("if-match", None)
        return False

    fake.before = ignoring
    fake.objects[b"dir/big"] = os.urandom(len(BIG))
    with pytest.raises(Changed):
        store.read(b"dir/big", version, 1000, 1000)
    fake.objects[b"dir/big"] = b"short"
    with pytest.raises(Changed):
        store.read(b"dir/big", version, 1000, 1000)


def test_a_weak_tag_is_compared_and_never_sent(fake: FakeS3, store: Store) -> None:
    fake.etags[b"a.txt"] = 'W/"weak"'
    entry = store.stat(b"a.txt")
    assert entry.version == b'W/"weak"'
    assert not store.strong
    assert drain(store.read(b"a.txt", entry.version, 1, 3)) == b"ell"
    assert all("if-match" not in r.headers for r in fake.requests)
    fake.etags[b"a.txt"] = 'W/"other"'
    with pytest.raises(Changed):
        store.read(b"a.txt", entry.version, 1, 3)


def test_a_gateway_without_tags_is_read_by_time_and_size() -> None:
    when = ["Wed, 21 Oct 2015 07:28:00 GMT"]

    def handler(request: Request, wire: Wire) -> None:
        if request.method == "HEAD":
            wire.reply(200, {"Last-Modified": when[0], "Content-Length": "5"}, b"")
        else:
            wire.reply(206, {"Last-Modified": when[0], "Content-Range": "bytes 1-3/5"}, b"ell")

    with FaultServer(handler) as server:
        store = s3(server.url)
        entry = store.stat(b"k")
        assert not store.strong
        assert drain(store.read(b"k", entry.version, 1, 3)) == b"ell"
        when[0] = "Wed, 21 Oct 2015 07:28:01 GMT"
        with pytest.raises(Changed):
            store.read(b"k", entry.version, 1, 3)
        store.close()


def test_slow_down_then_fine(fake: FakeS3, store: Store) -> None:
    left = [3]

    def busy(request: Request, wire: Wire) -> bool:
        if left[0] == 0:
            return False
        left[0] -= 1
        wire.reply(503, {}, fault("SlowDown") if request.method == "GET" else b"", head_only=request.method == "HEAD")
        return True

    fake.before = busy
    assert store.stat(b"a.txt").size == 5
    left[0] = 2
    assert len(entries(store)[0]) == 2
    left[0] = 2
    assert drain(store.whole(b"a.txt")[1]) == b"hello"


def test_a_reset_before_the_answer_is_tried_again(fake: FakeS3, store: Store) -> None:
    left = [2]

    def breaking(request: Request, wire: Wire) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            wire.reset()
        return False

    fake.before = breaking
    assert drain(store.read(b"a.txt", fake.etag(b"a.txt").encode(), 0, 5)) == b"hello"


def test_a_coding_on_the_way_is_seen_through(fake: FakeS3, store: Store) -> None:
    """A proxy that compresses whole answers: the range, which counts stored bytes, gets around it."""

    def compressing(request: Request, wire: Wire) -> bool:
        if request.method != "GET" or "range" in request.headers:
            return False
        wire.reply(200, {"ETag": fake.etag(b"a.txt"), "Content-Encoding": "gzip"}, gzip.compress(b"hello"))
        return True

    fake.before = compressing
    entry, body = store.whole(b"a.txt")
    assert (entry.size, drain(body)) == (5, b"hello")


# -- bad listings --


@pytest.mark.parametrize("cut", ["length", "chunked", "close", "body"])
def test_a_cut_listing_is_an_error(cut: str) -> None:
    document, _ = listing({b"a": 1, b"b": 2, b"c/d": 3})
    half = document[:-60]

    def handler(request: Request, wire: Wire) -> None:
        if cut == "length":
            wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document) + half)
            wire.close()
        elif cut == "chunked":
            wire.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(document) + half)
            wire.close()
        elif cut == "close":
            wire.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + half)
            wire.close()
        else:
            wire.reply(200, {}, half)

    with FaultServer(handler) as server:
        store = s3(server.url)
        with pytest.raises((Unavailable, BadReply)):
            store.list(b"")
        with pytest.raises((Unavailable, BadReply)):
            store.is_dir(b"a")
        store.close()


def test_one_senseless_listing_is_forgiven(fake: FakeS3, store: Store) -> None:
    left = [1]

    def odd(request: Request, wire: Wire) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            wire.reply(200, {}, b"<html>please wait</html>")
            return True
        return False

    fake.before = odd
    assert len(entries(store)[0]) == 2


def test_a_listing_without_end() -> None:
    def handler(request: Request, wire: Wire) -> None:
        document, _ = listing({b"a": 1, b"b": 2, b"c": 3}, max_keys=2)
        wire.reply(200, {}, document)

    with FaultServer(handler) as server:
        store = s3(server.url)
        with pytest.raises(BadReply, match="makes no sense"):
            entries(store)
        store.close()


def test_a_listing_too_large() -> None:
    with FaultServer(lambda request, wire: wire.reply(200, {"Content-Length": str(1 << 40)}, b"<x>")) as server:
        store = s3(server.url)
        with pytest.raises(BadReply, match="bytes"):
            store.list(b"")
        store.close()


def test_a_404_of_head_is_believed_only_of_a_bucket_that_is_there(fake: FakeS3) -> None:
    gone = s3(fake.url, "s3://other")
    with pytest.raises(Denied, match="no such bucket"):
        gone.stat(b"a.txt")
    gone.close()
    store = s3(fake.url)
    before = len(fake.requests)
    for _ in range(3):
        with pytest.raises(NotFound):
            store.stat(b"nope")
    assert len(fake.requests) == before + 3 + 1  # proven once
    store.close()


# -- regions, redirects, addressing --


def test_the_region_is_learned_once(fake: FakeS3, store: Store) -> None:
    def elsewhere(request: Request, wire: Wire) -> bool:
        if "/eu-west-3/" in request.headers["authorization"]:
            return False
        body = fault("AuthorizationHeaderMalformed", Region="eu-west-3")
        wire.reply(400, {"x-amz-bucket-region": "eu-west-3"}, body, head_only=request.method == "HEAD")
        return True

    fake.before = elsewhere
    assert store.stat(b"a.txt").size == 5
    assert store.stat(b"a.txt").size == 5
    assert len(fake.requests) == 3


def test_a_redirect_takes_no_credentials_along(fake: FakeS3) -> None:
    with FaultServer(lambda request, wire: wire.reply(307, {"Location": fake.url + request.target})) as front:
        store = s3(front.url, session="")
        assert store.stat(b"a.txt").size == 5
        assert "authorization" in front.requests[0].headers
        assert not {"authorization", "x-amz-security-token", "x-amz-date"} & set(fake.requests[0].headers)
        store.close()


def test_anonymous_requests_are_unsigned(fake: FakeS3) -> None:
    store = s3(fake.url, anonymous="true")
    assert store.stat(b"a.txt").size == 5
    assert "authorization" not in fake.requests[0].headers
    store.close()


def test_the_session_token_is_sent(fake: FakeS3) -> None:
    secrets = {"access_key": "A", "secret_key": "S", "session_token": "T"}
    store = open_store(Mount("s3://bucket", "s3", "/", "m", {"endpoint": fake.url}, secrets), PATIENT)
    store.probe()
    assert fake.requests[0].headers["x-amz-security-token"] == "T"
    assert "x-amz-security-token" in fake.requests[0].headers["authorization"]
    store.close()


def test_virtual_style_puts_the_bucket_into_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, **more: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with FaultServer(lambda request, wire: wire.reply(200, {"ETag": '"e"'}, b"", head_only=True)) as server:
        store = s3(f"http://store.test:{server.port}/base/", path_style="false")
        store.stat(b"k")
        assert asked == ["bucket.store.test"]
        assert server.requests[0].target == "/base/k"
        assert server.requests[0].headers["host"] == f"bucket.store.test:{server.port}"
        store.close()


def test_keys_travel_encoded_once(fake: FakeS3, store: Store) -> None:
    key = b"dir/sp +%\xff\xfe"
    store.stat(key)
    assert fake.requests[0].target == "/bucket/" + url_key(key) == "/bucket/dir/sp%20%2B%25%FF%FE"


# -- reach --


def test_a_store_that_never_answers_is_given_up_in_time() -> None:
    with FaultServer(lambda request, wire: wire.stall()) as server:
        store = s3(server.url, timeouts=Timeouts(connect=0.5, stall=1, answer=1))
        for call in (store.probe, lambda: store.stat(b"k"), lambda: store.read(b"k", b'"e"', 0, 5), lambda: store.list(b"")):
            started = time.monotonic()
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
                call()
            assert time.monotonic() - started < 20
        store.close()


def test_an_unreachable_endpoint_is_named() -> None:
    store = s3("http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"s3://bucket/ at http://127.0.0.1:1: cannot connect"):
        store.probe()
    store.close()


def test_something_else_at_the_endpoint() -> None:
    with FaultServer(lambda request, wire: wire.reply(200, {"Content-Type": "text/html"}, b"<html>hi</html>")) as server:
        store = s3(server.url)
        with pytest.raises(BadReply, match="speaks S3"):
            store.probe()
        store.close()


def test_entries_are_plain_values(store: Store) -> None:
    assert store.stat(b"a.txt") == Entry(b"a.txt", False, 5, 1445412480 * 10**9, b'"5d41402abc4b2a76b9719d911017c592"')
