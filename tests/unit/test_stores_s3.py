"""The S3 store: configuration, and every kind of bad answer: right bytes or a `StoreError`, never wrong bytes or a hang."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from fakes3 import FakeS3, fault, listing, url_key
from faultserver import FaultServer, Request, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import QUICK, drain, entries, s3

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import BadReply, Changed, Denied, Entry, NotFound, Store, StoreError, Unavailable
from forebay.cache.stores.s3config import settings_of
from forebay.cache.stores.transport import Timeouts

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


# -- bad answers to a range --

ETAG = '"e"'
Answer = Callable[[Request, Wire], None]


def _range_reply(headers: dict[str, str], body: bytes, status: int = 206) -> Answer:
    return lambda request, wire: wire.reply(status, {"ETag": ETAG} | headers, body)


def _half(how: str) -> Answer:
    def answer(request: Request, wire: Wire) -> None:
        wire.raw(
            b"HTTP/1.1 206 x\r\nETag: %s\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100\r\n\r\n" % ETAG.encode()
        )
        wire.raw(SOURCE[100:150])
        getattr(wire, how)()

    return answer


SOURCE = os.urandom(1000)
RIGHT = SOURCE[100:200]


@pytest.mark.parametrize(
    "answer",
    [
        _range_reply({"Content-Range": "bytes 100-199/1000"}, RIGHT),
        _range_reply({"Content-Range": "bytes 100-199/*"}, RIGHT),
        _range_reply({}, SOURCE, 200),
        _range_reply({"Content-Encoding": "identity"}, SOURCE, 200),
        lambda request, wire: wire.raw(
            b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n' + SOURCE + b"\r\n0\r\n\r\n"
        ),
        lambda request, wire: wire.raw(
            b'HTTP/1.1 206 OK\r\nETag: "e"\r\nContent-Range: bytes 100-199/1000\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n'
            + RIGHT
            + b"\r\n0\r\n\r\n"
        ),
    ],
)
def test_good_answers_to_a_range(answer: Answer) -> None:
    with FaultServer(answer) as server:
        store = s3(server.url)
        assert drain(store.read(b"k", ETAG.encode(), 100, 100), 7) == RIGHT
        assert drain(store.read(b"k", ETAG.encode(), 100, 100)) == RIGHT
        store.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_range_reply({"Content-Range": "bytes 0-99/1000"}, SOURCE[:100]), BadReply),
        (_range_reply({"Content-Range": "bytes 100-198/1000"}, SOURCE[100:199]), BadReply),
        (_range_reply({"Content-Range": "bytes 100-300/1000"}, SOURCE[100:301]), BadReply),
        (_range_reply({"Content-Range": "bytes 100-149/150"}, SOURCE[100:150]), Changed),
        (_range_reply({"Content-Range": "bytes 100-199/1000"}, SOURCE[100:190]), BadReply),
        (_range_reply({"Content-Range": "items 100-199/1000"}, RIGHT), BadReply),
        (_range_reply({"Content-Range": "bytes 100-199/1000, bytes 100-199/1000"}, RIGHT), BadReply),
        (_range_reply({"Content-Type": "multipart/byteranges; boundary=x"}, RIGHT), BadReply),
        (_range_reply({}, RIGHT), BadReply),
        (_range_reply({}, SOURCE[:150], 200), Changed),
        (_range_reply({"Content-Encoding": "gzip"}, gzip.compress(SOURCE), 200), BadReply),
        (_range_reply({"ETag": '"f"', "Content-Range": "bytes 100-199/1000"}, RIGHT), Changed),
        (lambda request, wire: wire.reply(206, {"Content-Range": "bytes 100-199/1000"}, RIGHT), BadReply),
        (_range_reply({}, b"", 204), BadReply),
        (_range_reply({}, fault("PreconditionFailed"), 412), Changed),
        (_range_reply({"Content-Range": "bytes */50"}, fault("InvalidRange"), 416), Changed),
        (_range_reply({}, fault("AccessDenied"), 403), Denied),
        (_range_reply({}, fault("NoSuchKey"), 404), NotFound),
        (_range_reply({}, fault("NoSuchBucket"), 404), Denied),
        (_range_reply({}, fault("InternalError"), 500), Unavailable),
        (_range_reply({"Retry-After": "9"}, fault("SlowDown"), 503), Unavailable),
        (_half("close"), Unavailable),
        (_half("reset"), Unavailable),
        (_half("stall"), Unavailable),
        (
            lambda request, wire: wire.raw(
                b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n' + SOURCE[:150] + b"\r\n0\r\n\r\n"
            ),
            BadReply,
        ),
    ],
)
def test_bad_answers_to_a_range(answer: Answer, kind: type[StoreError]) -> None:
    started = time.monotonic()
    with FaultServer(answer) as server:
        store = s3(server.url)
        with pytest.raises(kind) as caught:
            drain(store.read(b"k", ETAG.encode(), 100, 100))
        assert str(caught.value).startswith("s3://bucket/k")
        store.close()
    assert time.monotonic() - started < QUICK.answer + 2 * QUICK.stall + 3


ANSWERS = [
    b'HTTP/1.1 206 x\r\nETag: "e"\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100\r\n\r\n' + RIGHT,
    b'HTTP/1.1 200 x\r\nETag: "e"\r\nContent-Length: 1000\r\n\r\n' + SOURCE,
    b'HTTP/1.1 200 x\r\nConnection: close\r\nETag: "e"\r\n\r\n' + SOURCE,
    b'HTTP/1.1 200 x\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n3e8;x=y\r\n' + SOURCE + b"\r\n0\r\n\r\n",
    b'HTTP/1.1 206 x\r\nETag: "e"\r\nContent-Range: bytes 100-199/1000\r\nTransfer-Encoding: chunked\r\n\r\n'
    + b"32\r\n" + RIGHT[:50] + b"\r\n32\r\n" + RIGHT[50:] + b"\r\n0\r\n\r\n",
]  # fmt: skip


def test_any_cut_gives_right_bytes_or_an_error() -> None:
    """Each answer, ended after any number of bytes, sent in any pieces, or with any byte of its head replaced."""
    script: list[tuple[list[bytes], str]] = []

    def handler(request: Request, wire: Wire) -> None:
        pieces, end = script[-1]
        for piece in pieces:
            wire.raw(piece)
        getattr(wire, end)()

    with FaultServer(handler) as server:
        store = s3(server.url, timeouts=Timeouts(connect=1, stall=0.5, answer=0.2))

        @settings(max_examples=300, deadline=None)
        @given(
            st.sampled_from(ANSWERS),
            st.integers(0, 1300),
            st.integers(0, 1300),
            st.binary(max_size=3),
            st.sampled_from(["close", "reset"]),
        )
        def check(answer: bytes, cut: int, at: int, change: bytes, end: str) -> None:
            head = answer.index(b"\r\n\r\n") + 4
            changed = answer
            if change and at < head:
                changed = answer[:at] + change + answer[at + len(change) :] if at + len(change) <= head else answer
            whole = changed[:cut] if cut < len(changed) else changed
            script.append(([whole[:at], whole[at:]], end))
            try:
                got = drain(store.read(b"k", b'"e"', 100, 100), 33)
            except StoreError:
                return
            # A head with one byte changed can tell a consistent lie (a coding's name lost, say); never a short one.
            assert got == RIGHT if changed == answer else len(got) == len(RIGHT)

        check()
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
    store = open_store(Mount("s3://bucket", "s3", "/", "m", {"endpoint": fake.url}, secrets), QUICK)
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
    with FaultServer(lambda request, wire: wire.reply(200, {"ETag": ETAG}, b"", head_only=True)) as server:
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
            assert time.monotonic() - started < 2.5
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


# -- configuration --


def mount(source: str = "s3://b/p/q", secrets: dict[str, str] | None = None, **options: str) -> Mount:
    return Mount(source, "s3", "/", "m", options, secrets or {})


@pytest.mark.parametrize(
    ("source", "options", "endpoint", "path_style", "aws"),
    [
        ("s3://b", {}, "https://s3.us-east-1.amazonaws.com", False, True),
        ("s3://b.c", {}, "https://s3.us-east-1.amazonaws.com", True, True),
        ("s3://b", {"region": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn", False, True),
        ("s3://b", {"endpoint": "minio:9000"}, "https://minio:9000", True, False),
        ("s3://b", {"endpoint": "10.0.0.1:9000"}, "http://10.0.0.1:9000", True, False),
        ("s3://b", {"endpoint": "localhost:9000"}, "http://localhost:9000", True, False),
        ("s3://b", {"endpoint": "http://minio"}, "http://minio", True, False),
        ("s3://b", {"endpoint": "http://minio", "path_style": "false"}, "http://minio", False, False),
        ("s3://b", {"endpoint": "https://oss-cn-hangzhou.aliyuncs.com"}, "https://oss-cn-hangzhou.aliyuncs.com", False, False),
        (
            "s3://b",
            {"endpoint": "https://s3.eu-west-1.amazonaws.com", "path_style": "yes"},
            "https://s3.eu-west-1.amazonaws.com",
            True,
            True,
        ),
    ],
)
def test_endpoints(source: str, options: dict[str, str], endpoint: str, path_style: bool, aws: bool) -> None:
    found = settings_of(mount(source, **options))
    assert (found.endpoint, found.path_style, found.aws) == (endpoint, path_style, aws)


@pytest.mark.parametrize(
    ("source", "bucket", "prefix"),
    [
        ("s3://b", "b", b""),
        ("s3://b/", "b", b""),
        ("s3://b/p/q", "b", b"p/q/"),
        ("s3a://b/p/q/", "b", b"p/q/"),
        ("s3://b/ü %", "b", "ü %/".encode()),
    ],
)
def test_sources(source: str, bucket: str, prefix: bytes) -> None:
    found = settings_of(mount(source))
    assert (found.bucket, found.prefix) == (bucket, prefix)


@pytest.mark.parametrize(
    ("source", "secrets", "options", "says"),
    [
        ("s3://", {}, {}, "names no bucket"),
        ("s3:///x", {}, {}, "names no bucket"),
        ("s3://b@d/x", {}, {}, "no bucket name"),
        ("s3://b/../x", {}, {}, "'..'"),
        ("s3://b", {"access_key": "x"}, {}, "secret_key"),
        ("s3://b", {"secret_key": "x"}, {}, "access_key"),
        ("s3://b", {"access_key": "x\r\nEvil: 1", "secret_key": "x"}, {}, "line breaks"),
        ("s3://b", {}, {"endpoint": "ftp://h"}, "not http"),
        ("s3://b", {}, {"endpoint": "http://u:p@h"}, "plain URL"),
        ("s3://b", {}, {"region": "a b"}, "no region"),
        ("s3://b", {}, {"path_style": "maybe"}, "true or false"),
        ("s3://b", {}, {"verify": "maybe"}, "true or false"),
        ("s3://b", {}, {"ca_file": "/no/such"}, "no file"),
    ],
)
def test_configuration_that_cannot_work(source: str, secrets: dict[str, str], options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_store(mount(source, secrets, **options))
    assert "'m'" in str(caught.value)


def test_without_keys_requests_are_unsigned() -> None:
    keys = {"access_key": "A", "secret_key": "S"}
    assert settings_of(mount()).credentials is None
    assert settings_of(mount(secrets=keys, anonymous="true")).credentials is None
    assert settings_of(mount(secrets=keys)).credentials is not None


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="no store kind 'tape'"):
        open_store(Mount("tape://x", "tape", "/", "m"))


def test_entries_are_plain_values(store: Store) -> None:
    assert store.stat(b"a.txt") == Entry(b"a.txt", False, 5, 1445412480 * 10**9, b'"5d41402abc4b2a76b9719d911017c592"')
