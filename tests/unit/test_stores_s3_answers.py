"""The S3 store against every kind of answer to a range: right bytes or a `StoreError`."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable

import pytest
from fakes3 import fault
from faultserver import FaultServer, Request, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import PATIENT, QUICK, drain, s3

from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, StoreError, Unavailable
from forebay.cache.stores.net.transport import Timeouts

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
        store = s3(server.url, timeouts=QUICK if kind is Unavailable else PATIENT)
        with pytest.raises(kind) as caught:
            drain(store.read(b"k", ETAG.encode(), 100, 100))
        assert str(caught.value).startswith("s3://bucket/k")
        store.close()
    assert time.monotonic() - started < 20


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
