"""A scripted web server of one object, /tree/k, each of whose manners can be replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from faultserver import FaultServer, Request, Wire
from storekit import PATIENT, web

from forebay.cache.stores.http.store import HttpStore
from forebay.cache.stores.net.transport import Timeouts

SOURCE = os.urandom(1000)
LM = "Wed, 21 Oct 2015 07:28:00 GMT"
INDEX = b'<html><h1>Index of /tree/</h1><a href="../">../</a><a href="k">k</a><a href="d/">d/</a></html>'
Answer = Callable[[Request, Wire], None]


class Site:
    """A correct server, each of whose manners can be replaced."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers or {"ETag": '"e"', "Last-Modified": LM}
        self.data = SOURCE
        self.head: Answer = lambda request, wire: wire.reply(
            200, self.headers | {"Content-Length": str(len(self.data))}, head_only=True
        )
        self.ranged: Answer = self._ranged
        self.plain: Answer = lambda request, wire: wire.reply(200, self.headers, self.data)
        self.index: Answer = lambda request, wire: wire.reply(200, {"Content-Type": "text/html; charset=utf-8"}, INDEX)

    def _ranged(self, request: Request, wire: Wire) -> None:
        span = request.range_of(len(self.data))
        if span is None:
            wire.reply(416, {"Content-Range": f"bytes */{len(self.data)}"})
            return
        headers = self.headers | {"Content-Range": f"bytes {span[0]}-{span[1]}/{len(self.data)}"}
        wire.reply(206, headers, self.data[span[0] : span[1] + 1])

    def __call__(self, request: Request, wire: Wire) -> None:
        if request.path == "/tree/" and request.method == "GET":
            self.index(request, wire)
        elif request.path == "/tree/k":
            kind = self.head if request.method == "HEAD" else self.ranged if "range" in request.headers else self.plain
            kind(request, wire)
        else:
            wire.reply(404, {}, b"no", head_only=request.method == "HEAD")


@contextmanager
def serving(site: Answer, path: str = "/tree/", timeouts: Timeouts = PATIENT) -> Iterator[tuple[HttpStore, FaultServer]]:
    with FaultServer(site) as server:
        store = web(server.url + path, timeouts)
        assert isinstance(store, HttpStore)
        try:
            yield store, server
        finally:
            store.close()


def refuse(status: int, body: bytes = b"no", **headers: str) -> Answer:
    return lambda request, wire: wire.reply(status, headers, body, head_only=request.method == "HEAD")


def raw(head: bytes, body: bytes, how: str = "") -> Answer:
    def answer(request: Request, wire: Wire) -> None:
        wire.raw(b'HTTP/1.1 %s\r\nETag: "e"\r\n\r\n' % head + body)
        if how:
            getattr(wire, how)()

    return answer


def page(body: bytes, **headers: str) -> Answer:
    return lambda request, wire: wire.reply(200, {"Content-Type": "text/html"} | headers, body)
