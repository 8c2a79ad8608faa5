"""Web trees: directory indexes, redirects, single files, credentials; what servers do wrong with them."""

from __future__ import annotations

import base64
import gzip
import threading

import pytest
from faultserver import FaultServer, Request, Wire
from sitekit import INDEX, SOURCE, Answer, Site, page, raw, refuse, serving
from storekit import PATIENT, QUICK, drain, entries, web

from forebay.api.spec import Mount
from forebay.cache.stores import open_store
from forebay.cache.stores.base import BadReply, Changed, Denied, NotFound, StoreError, Unavailable
from forebay.cache.stores.net.transport import Timeouts


@pytest.mark.parametrize(
    ("index", "kind", "says"),
    [
        (refuse(403), Denied, "index"),
        (refuse(401), Denied, "username"),
        (refuse(404), NotFound, "no such"),
        (refuse(500), Unavailable, "500"),
        (page(INDEX[:-8]), Unavailable, "closing tag"),
        (page(b'<a href="k">k</a>', **{"Content-Type": "text/plain"}), BadReply, "text/plain"),
        (page(b'{"k": 1}', **{"Content-Type": "application/json"}), BadReply, "HTML index"),
        (page(b"<html>Please log in</html>"), BadReply, "no directory index"),
        (page(gzip.compress(INDEX), **{"Content-Encoding": "gzip"}), BadReply, "gzip"),
        (page(INDEX, **{"Content-Length": str(1 << 40)}), BadReply, "bytes"),
        (raw(b"200 x\r\nContent-Type: text/html\r\nContent-Length: 999", INDEX, "close"), Unavailable, "missing"),
        (
            raw(b"200 x\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked", b"fff\r\n" + INDEX, "close"),
            Unavailable,
            "chunk",
        ),
        (raw(b"200 x\r\nContent-Type: text/html\r\nConnection: close", INDEX[:60], "close"), Unavailable, "closing tag"),
        (refuse(302, Location="/login"), NotFound, "no such"),
        (lambda request, wire: wire.stall(), Unavailable, "in time"),
    ],
)
def test_bad_listings(index: Answer, kind: type[StoreError], says: str) -> None:
    site = Site()
    site.index = index
    with serving(site, timeouts=QUICK if says == "in time" else PATIENT) as (store, server):
        with pytest.raises(kind, match=says) as caught:
            store.list(b"")
        assert str(caught.value).startswith(server.url + "/tree")
        with pytest.raises(kind):
            store.probe()


def test_a_redirect_to_a_login_page_is_no_empty_directory() -> None:
    def handler(request: Request, wire: Wire) -> None:
        if request.path == "/tree/":
            wire.reply(302, {"Location": "/login/"})
        else:
            page(b"<html><h1>Index of your rights</h1></html>")(request, wire)

    with serving(handler) as (store, _), pytest.raises(BadReply, match="another place"):
        store.list(b"")


def test_a_mirror_is_followed() -> None:
    with FaultServer(Site()) as mirror:

        def handler(request: Request, wire: Wire) -> None:
            wire.reply(302, {"Location": mirror.url + request.target})

        with serving(handler) as (store, server):
            assert [e.name for e in entries(store)[0]] == [b"k", b"d"]
            assert store.stat(b"k").size == 1000
            assert drain(store.read(b"k", b'"e"', 10, 20)) == SOURCE[10:30]
            assert len(server.requests) == len(mirror.requests) == 3  # every call starts at the address as written


def test_pages_of_an_index_that_changes() -> None:
    site = Site()
    with serving(site) as (store, server):
        first = store.list(b"", None, 1)
        assert first.token is not None
        assert [e.name for e in store.list(b"", first.token, 1).entries] == [b"d"]
        assert len(server.requests) == 1
        again = web(server.url + "/tree/")  # another process goes on
        assert [e.name for e in again.list(b"", first.token, 1).entries] == [b"d"]
        site.index = page(INDEX.replace(b'"k"', b'"j"'))
        with pytest.raises(Changed):
            again.list(b"", first.token, 1)
        with pytest.raises(BadReply, match="token"):
            again.list(b"", b"what", 1)
        again.close()


def test_is_dir_where_head_is_refused() -> None:
    def handler(request: Request, wire: Wire) -> None:
        if request.method == "HEAD":
            wire.reply(405, head_only=True)
        elif request.path == "/tree/d/":
            page(INDEX)(request, wire)
        else:
            wire.reply(404)

    with serving(handler) as (store, _):
        assert store.is_dir(b"d")
        assert not store.is_dir(b"k")
        assert not store.is_dir(b"../tree")


def test_is_dir_does_not_guess_from_a_refusal() -> None:
    with serving(refuse(403)) as (store, _), pytest.raises(Denied):
        store.is_dir(b"d")
    with serving(refuse(500)) as (store, _), pytest.raises(Unavailable):
        store.is_dir(b"d")


# -- sources that are files, credentials --


@pytest.mark.parametrize("head", [None, refuse(405), refuse(403)])
def test_a_single_file(head: Answer | None) -> None:
    site = Site()
    site.head = head or site.head
    with serving(site, "/tree/k?sig=abc") as (store, server):
        store.probe()
        (entry,), skipped = entries(store)
        assert (entry.name, entry.size, entry.version, skipped) == (b"k", 1000, b'"e"', 0)
        assert store.stat(b"k") == entry
        assert drain(store.read(b"k", entry.version, 10, 20)) == SOURCE[10:30]
        assert drain(store.whole(b"k")[1]) == SOURCE
        assert {r.target for r in server.requests} == {"/tree/k?sig=abc"}
        assert not store.is_dir(b"k")
        with pytest.raises(NotFound):
            store.stat(b"other")
        with pytest.raises(NotFound):
            store.list(b"k/")


def test_a_tree_without_its_slash() -> None:
    def handler(request: Request, wire: Wire) -> None:
        if request.path == "/tree":
            wire.reply(301, {"Location": "/tree/"}, head_only=request.method == "HEAD")
        elif request.path == "/tree/":
            page(INDEX)(request, wire) if request.method == "GET" else wire.reply(
                200, {"Content-Type": "text/html"}, head_only=True
            )
        else:
            Site()(request, wire)

    with serving(handler, "/tree") as (store, server):
        assert [e.name for e in entries(store)[0]] == [b"k", b"d"]
        assert store.stat(b"k").size == 1000
        assert [r.path for r in server.requests].count("/tree") == 1


def test_threads_that_wait_for_one_answer_share_its_failure() -> None:
    with serving(lambda request, wire: wire.stall(), "/tree", Timeouts(connect=1, stall=1, answer=1)) as (store, server):
        caught: list[BaseException] = []
        together = threading.Barrier(8)

        def ask() -> None:
            together.wait(60)
            try:
                store.stat(b"k")
            except StoreError as e:
                caught.append(e)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [type(e) for e in caught] == [Unavailable] * 8
        assert len(server.requests) < 4


def test_a_web_page_is_a_file_too() -> None:
    def handler(request: Request, wire: Wire) -> None:
        if request.path == "/tree.html":
            wire.reply(200, {"Content-Type": "text/html", "ETag": '"e"'}, b"<html>x</html>", head_only=request.method == "HEAD")
        else:
            wire.reply(404, {}, b"", head_only=request.method == "HEAD")

    with serving(handler, "/tree.html") as (store, _):
        assert [e.name for e in entries(store)[0]] == [b"tree.html"]


@pytest.mark.parametrize(
    ("userinfo", "secrets", "sent"),
    [
        ("", {}, None),
        ("", {"username": "u", "password": "p:ß"}, "Basic " + base64.b64encode("u:p:ß".encode()).decode()),
        ("u:p%40@", {}, "Basic " + base64.b64encode(b"u:p@").decode()),
        ("", {"token": "abc"}, "Bearer abc"),
    ],
)
def test_credentials(userinfo: str, secrets: dict[str, str], sent: str | None) -> None:
    with FaultServer(Site()) as server:
        store = web(server.url.replace("//", "//" + userinfo) + "/tree/", secrets=secrets)
        store.probe()
        with pytest.raises(NotFound) as caught:
            store.stat(b"nope")
        assert {r.headers.get("authorization") for r in server.requests} == {sent}
        assert "p%40" not in str(caught.value)
        store.close()


@pytest.mark.parametrize(
    ("source", "secrets", "says"),
    [
        ("http:///x", {}, "no host"),
        ("http://h:x/", {}, "bad port"),
        ("http://h/", {"token": "a\nb"}, "line breaks"),
        ("x", {}, "http"),
    ],
)
def test_configuration_that_cannot_work(source: str, secrets: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_store(Mount(source, "http", "/", "m", {}, secrets))
