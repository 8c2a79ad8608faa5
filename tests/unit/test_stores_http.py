"""Web trees: Python's server for real, and a scripted one for everything servers do wrong."""

from __future__ import annotations

import gzip
import http.server
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faultserver import Request, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from sitekit import LM, SOURCE, Answer, Site, raw, refuse, serving
from storekit import PATIENT, QUICK, drain, entries, web

from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, StoreError, Unavailable
from forebay.cache.stores.names import usable

BIG = os.urandom(3 << 20)


@contextmanager
def python_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, directory=str(folder), **more)  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "big").write_bytes(BIG)
    (tmp_path / "dir" / "empty").write_bytes(b"")
    (tmp_path / "dir" / "sub" / "z").write_bytes(b"z")
    (tmp_path / "dir" / "a b+c%&?.txt").write_bytes(b"odd")
    return tmp_path


def test_pythons_server(folder: Path) -> None:
    with python_server(folder) as url:
        store = web(url + "/dir/")
        store.probe()
        found, skipped = entries(store, b"", 2)
        assert {(e.name, e.is_dir, e.size, e.version) for e in found} == {
            (b"big", False, -1, b""),
            (b"empty", False, -1, b""),
            (b"a b+c%&?.txt", False, -1, b""),
            (b"sub", True, -1, b""),
        }
        assert skipped == 0
        assert [e.name for e in entries(store, b"sub/")[0]] == [b"z"]
        entry = store.stat(b"big")
        assert (entry.size, entry.mtime_ns // 10**9) == (len(BIG), int((folder / "dir" / "big").stat().st_mtime))
        assert drain(store.read(b"big", entry.version, 1000, 5000)) == BIG[1000:6000]
        assert drain(store.whole(b"a b+c%&?.txt")[1]) == b"odd"
        empty, body = store.whole(b"empty")
        assert (empty.size, drain(body)) == (0, b"")
        assert [store.is_dir(key) for key in (b"sub", b"big", b"nope")] == [True, False, False]
        assert not store.strong
        for key in (b"nope", b"sub", b"../dir/big", b"sub/"):
            with pytest.raises(NotFound):
                store.stat(key)
        with pytest.raises(NotFound):
            store.list(b"nope/")
        os.utime(folder / "dir" / "big", (1, 1))
        with pytest.raises(Changed):
            store.read(b"big", entry.version, 0, 10)
        store.close()


names = st.binary(min_size=1, max_size=20).filter(usable)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(names, st.booleans(), min_size=1, max_size=8))
def test_any_name_survives_pythons_server(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, bool]) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name, is_dir in tree.items():
        path = os.path.join(os.fsencode(folder), name)
        if is_dir:
            os.mkdir(path)
        else:
            Path(os.fsdecode(path)).write_bytes(name)
    tree = {name: is_dir for name, is_dir in tree.items() if name not in {b"index.html", b"index.htm"}}
    with python_server(folder) as url:
        store = web(url + "/")
        # Python's server links a byte that is no UTF-8 as an encoded surrogate, and wants it back so.
        called = {name.decode("utf-8", "surrogateescape").encode("utf-8", "surrogatepass"): name for name in tree}
        assert {(called[e.name], e.is_dir) for e in entries(store)[0]} == set(tree.items())
        for link, name in called.items():
            if not tree[name]:
                assert drain(store.whole(link)[1]) == name
        store.close()


def test_a_strong_tag() -> None:
    site = Site()
    with serving(site) as (store, server):
        entry = store.stat(b"k")
        assert (entry.size, entry.version, entry.mtime_ns, store.strong) == (1000, b'"e"', 1445412480 * 10**9, True)
        assert drain(store.read(b"k", entry.version, 10, 20)) == SOURCE[10:30]
        assert server.requests[-1].headers["if-match"] == '"e"'
        assert server.requests[-1].headers["accept-encoding"] == "identity"
        site.headers = {"ETag": '"f"'}
        with pytest.raises(Changed):
            store.read(b"k", entry.version, 10, 20)
        site.headers = {}
        with pytest.raises(BadReply, match="proves no version"):
            store.read(b"k", entry.version, 10, 20)


@pytest.mark.parametrize(
    ("headers", "version"),
    [({"ETag": 'W/"e"'}, b'W/"e"'), ({"Last-Modified": LM}, b"t1445412480;1000"), ({"X": "y"}, b"t0;1000")],
)
def test_weaker_versions(headers: dict[str, str], version: bytes) -> None:
    site = Site(**headers)
    with serving(site) as (store, server):
        entry = store.stat(b"k")
        assert (entry.version, store.strong) == (version, False)
        assert drain(store.read(b"k", entry.version, 10, 20)) == SOURCE[10:30]
        assert all("if-match" not in r.headers for r in server.requests)
        site.data = SOURCE[:999]
        site.headers = {"ETag": 'W/"f"'} if "ETag" in headers else headers
        with pytest.raises(Changed):
            store.read(b"k", entry.version, 10, 20)


HEADS: list[Answer] = [
    refuse(405),
    refuse(501),
    refuse(403),
    lambda request, wire: wire.raw(b"HTTP/1.1 200 OK\r\n\r\n"),
    lambda request, wire: wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    lambda request, wire: wire.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    lambda request, wire: wire.raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 70\r\n\r\n"),
]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("ranges", ["206", "200", "chunked"])
def test_head_refused_or_silent(head: Answer, ranges: str) -> None:
    site = Site()
    site.head = head
    if ranges == "200":
        site.ranged = site.plain
    elif ranges == "chunked":
        site.ranged = lambda request, wire: wire.raw(
            b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n' + SOURCE + b"\r\n0\r\n\r\n"
        )
    with serving(site) as (store, _):
        assert store.stat(b"k").size == 1000
        assert drain(store.read(b"k", b'"e"', 10, 20)) == SOURCE[10:30]


@pytest.mark.parametrize("head", [None, refuse(405)])
@pytest.mark.parametrize("ranged", [None, refuse(416), "plain"])
def test_an_empty_file(head: Answer | None, ranged: Answer | str | None) -> None:
    site = Site()
    site.data = b""
    site.head = head or site.head
    site.ranged = site.plain if ranged == "plain" else ranged or site.ranged  # type: ignore[assignment]
    with serving(site) as (store, _):
        assert store.stat(b"k").size == 0
        assert drain(store.read(b"k", store.stat(b"k").version, 0, 0)) == b""


def test_a_size_nobody_tells() -> None:
    site = Site()
    site.head = refuse(405)
    site.ranged = lambda request, wire: wire.reply(206, {"Content-Range": "bytes 0-0/*", "ETag": '"e"'}, SOURCE[:1])
    with serving(site) as (store, _), pytest.raises(BadReply, match="size"):
        store.stat(b"k")


@pytest.mark.parametrize(
    ("ranged", "kind"),
    [
        (raw(b"206 x\r\nContent-Range: bytes 0-99/1000\r\nContent-Length: 100", SOURCE[:100]), BadReply),
        (raw(b"206 x\r\nContent-Length: 100", SOURCE[:100]), BadReply),
        (raw(b"206 x\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 50", SOURCE[100:150]), BadReply),
        (raw(b"206 x\r\nContent-Range: bytes 100-149/150\r\nContent-Length: 50", SOURCE[100:150]), Changed),
        (raw(b"206 x\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100", SOURCE[100:150], "close"), Unavailable),
        (raw(b"206 x\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100", SOURCE[100:150], "reset"), Unavailable),
        (raw(b"206 x\r\nContent-Range: bytes 100-199/1000\r\nContent-Length: 100", SOURCE[100:150], "stall"), Unavailable),
        (raw(b"200 x\r\nContent-Length: 1000", SOURCE[:50], "close"), Unavailable),
        (raw(b"200 x\r\nConnection: close", SOURCE[:150], "close"), BadReply),
        (raw(b"200 x\r\nContent-Length: 150", SOURCE[:150]), Changed),
        (raw(b"200 x\r\nContent-Encoding: gzip\r\nContent-Length: 1000", SOURCE), BadReply),
        (refuse(412), Changed),
        (refuse(416), Changed),
        (refuse(404), NotFound),
        (refuse(410), NotFound),
        (refuse(401), Denied),
        (refuse(403), Denied),
        (refuse(500), Unavailable),
        (refuse(503, Retry_After="9"), Unavailable),
        (refuse(418), BadReply),
        (refuse(302, Location="/elsewhere/"), NotFound),
        (lambda request, wire: wire.close(), Unavailable),
        (lambda request, wire: wire.stall(), Unavailable),
    ],
)
def test_bad_answers_to_a_range(ranged: Answer, kind: type[StoreError]) -> None:
    site = Site()
    site.ranged = ranged
    started = time.monotonic()
    with serving(site, timeouts=QUICK if kind is Unavailable else PATIENT) as (store, server):
        with pytest.raises(kind) as caught:
            drain(store.read(b"k", b'"e"', 100, 100))
        assert str(caught.value).startswith(server.url + "/tree/k")
    assert time.monotonic() - started < 20


def test_the_files_own_coding_is_its_bytes() -> None:
    """Apache labels a.tar.gz with Content-Encoding: x-gzip; its bytes are those of the file."""
    packed = gzip.compress(SOURCE)

    def handler(request: Request, wire: Wire) -> None:
        headers = {"ETag": '"e"', "Content-Encoding": "x-gzip"}
        span = request.range_of(len(packed))
        if span is None:
            wire.reply(200, headers | {"Content-Length": str(len(packed))}, packed, head_only=request.method == "HEAD")
        else:
            headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{len(packed)}"
            wire.reply(206, headers, packed[span[0] : span[1] + 1])

    with serving(handler) as (store, _):
        assert store.stat(b"a.tar.gz").size == len(packed)
        assert drain(store.whole(b"a.tar.gz")[1]) == packed
        assert drain(store.read(b"a.tar.gz", b'"e"', 3, 9)) == packed[3:12]
        with pytest.raises(BadReply, match="x-gzip"):
            store.whole(b"a.txt")


@pytest.mark.parametrize(
    ("plain", "kind"),
    [
        (raw(b"200 x\r\nConnection: close", SOURCE[:500], "close"), BadReply),
        (raw(b"200 x\r\nTransfer-Encoding: chunked", b"3e8\r\n" + SOURCE[:500], "close"), Unavailable),
        (raw(b"200 x\r\nContent-Length: 1000", SOURCE[:500], "close"), Unavailable),
        (raw(b"206 x\r\nContent-Length: 1000", SOURCE), BadReply),
    ],
)
def test_bad_whole_answers(plain: Answer, kind: type[StoreError]) -> None:
    site = Site()
    site.plain = plain
    with serving(site) as (store, _), pytest.raises(kind):
        drain(store.whole(b"k")[1])


def test_a_chunked_whole() -> None:
    site = Site()
    site.plain = raw(b"200 x\r\nTransfer-Encoding: chunked", b"3e8\r\n" + SOURCE + b"\r\n0\r\n\r\n")
    with serving(site) as (store, _):
        entry, body = store.whole(b"k")
        assert (entry.size, drain(body)) == (1000, SOURCE)


def test_without_ranges_a_sequential_read_costs_the_object_once() -> None:
    data = os.urandom(4 << 20)
    sent = [0]

    def handler(request: Request, wire: Wire) -> None:
        wire.reply(200, {"ETag": '"e"', "Content-Length": str(len(data))}, head_only=True)
        if request.method == "GET":
            for at in range(0, len(data), 65536):
                sent[0] += 65536  # before: whoever has the last byte compares
                wire.raw(data[at : at + 65536])

    with serving(handler) as (store, server):
        step = 1 << 18
        for offset in range(0, len(data), step):
            assert drain(store.read(b"k", b'"e"', offset, step)) == data[offset : offset + step]
        assert sent[0] == len(data)
        assert len(server.requests) == 1
        assert drain(store.read(b"k", b'"e"', step, 10)) == data[step : step + 10]  # backwards: anew
        assert drain(store.read(b"k", b'"e"', 3 * step, 10)) == data[3 * step : 3 * step + 10]  # forwards: goes on
        assert len(server.requests) == 2


def test_parked_answers_do_not_pile_up() -> None:
    site = Site()
    site.data = os.urandom(1 << 20)
    site.ranged = site.plain
    with serving(site) as (store, _):
        for n in range(30):
            assert drain(store.read(b"k", b'"e"', 100_000 - n, 10)) == site.data[100_000 - n : 100_010 - n]
        assert store._transport._open <= 9
        store.close()
        assert store._transport._open == 0
