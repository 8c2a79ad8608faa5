"""The transport over real sockets: kept connections, deadlines, cut and swollen answers, TLS, streams."""

from __future__ import annotations

import gzip
import select
import socket
import threading
import time
from pathlib import Path

import pytest
from faultserver import FaultServer, Request, Wire
from tlskit import certificate, tls_front

from forebay.kube import transport as t
from forebay.kube.config import ConfigError, Endpoint
from forebay.kube.errors import Unreachable, Unusable


def over(server: FaultServer, **more: object) -> t.Transport:
    return t.Transport(Endpoint(server=server.url, **more))  # type: ignore[arg-type]


def hello(request: Request, wire: Wire) -> None:
    wire.reply(200, {}, b"hello")


def test_a_connection_is_kept_and_used_again() -> None:
    with FaultServer(hello) as server:
        transport = over(server, token="abc")
        for _ in range(5):
            assert transport.request("GET", "/a", [("x", "y z")], deadline=60) == (200, b"hello", None)
        assert (transport.connects, transport.requests) == (1, 5)
        assert server.requests[0].target == "/a?x=y+z"
        assert server.requests[0].headers["authorization"] == "Bearer abc"
        transport.close()


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    closed = threading.Semaphore(0)

    def once(request: Request, wire: Wire) -> None:
        wire.reply(200, {}, b"x")
        wire.shut()
        closed.release()
        wire.close()

    with FaultServer(once) as server:
        transport = over(server)
        for _ in range(3):
            assert transport.request("GET", "/", deadline=60).body == b"x"
            assert closed.acquire(timeout=60)
            ((_, kept),) = transport._idle
            poll = select.poll()
            poll.register(kept.sock, select.POLLIN)
            assert poll.poll(60_000), "the end of the connection did not arrive"
        assert transport.connects == 3


def test_an_error_is_an_answer() -> None:
    def busy(request: Request, wire: Wire) -> None:
        wire.reply(429, {"Retry-After": "7"}, b"{}")

    with FaultServer(busy) as server:
        assert over(server).request("GET", "/", deadline=60) == (429, b"{}", 7.0)


@pytest.mark.parametrize("how", ["reset", "close", "short", "chunk"])
def test_an_answer_that_is_cut_is_no_answer(how: str) -> None:
    def cut(request: Request, wire: Wire) -> None:
        if how == "reset":
            wire.reset()
        if how == "close":
            wire.close()
        if how == "short":
            wire.reply(200, {"Content-Length": "100"}, b"half")
        else:
            wire.reply(200, {"Transfer-Encoding": "chunked"}, b"20\r\nhalf")
        wire.close()

    with FaultServer(cut) as server, pytest.raises(Unreachable, match="may have been carried out") as lost:
        over(server).request("POST", "/", deadline=60)
    assert lost.value.sent


def test_nobody_listening_is_told_as_not_carried_out() -> None:
    with socket.socket() as held:  # it does not listen, and nobody else can meanwhile
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}.*was not carried out") as lost:
            t.Transport(Endpoint(server=f"http://127.0.0.1:{port}")).request("POST", "/", deadline=60)
    assert not lost.value.sent


@pytest.mark.parametrize("after", ["nothing", "head", "drops"])
def test_a_deadline_holds_however_slow_the_server_is(after: str) -> None:
    def slow(request: Request, wire: Wire) -> None:
        if after == "nothing":
            wire.stall()
        wire.reply(200, {"Content-Length": "1000"}, b"x")
        if after == "head":
            wire.stall()
        for _ in range(2000):  # a byte now and then keeps a limit on each read from biting
            wire.raw(b"x")
            time.sleep(0.05)

    with FaultServer(slow) as server:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            over(server).request("GET", "/", deadline=0.3)
        assert time.monotonic() - began < 30


def test_gzip_is_unpacked_and_a_bomb_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(request: Request, wire: Wire) -> None:
        assert request.headers["accept-encoding"] == "gzip"
        wire.reply(200, {"Content-Encoding": "gzip"}, gzip.compress(b"a" * 5000 if request.path == "/small" else b"\0" * 100_000))

    with FaultServer(packed) as server:
        monkeypatch.setattr(t, "BIGGEST", 50_000)
        assert over(server).request("GET", "/small", deadline=60).body == b"a" * 5000
        with pytest.raises(Unusable, match="more than 50000 bytes; ask for fewer"):
            over(server).request("GET", "/big", deadline=60)


def test_gzip_that_is_cut_or_none_is_found() -> None:
    def bad(request: Request, wire: Wire) -> None:
        whole = gzip.compress(b"a" * 5000)
        wire.reply(200, {"Content-Encoding": "gzip"}, whole[:20] if request.path == "/cut" else b"plain")

    with FaultServer(bad) as server:
        with pytest.raises(Unreachable, match="before its length"):
            over(server).request("GET", "/cut", deadline=60)
        with pytest.raises(Unusable, match="is no gzip"):
            over(server).request("GET", "/plain", deadline=60)


def test_a_stream_gives_what_comes_as_it_comes() -> None:
    go = threading.Event()

    def drip(request: Request, wire: Wire) -> None:
        wire.reply(200, {"Transfer-Encoding": "chunked"})
        wire.raw(b"3\r\nabc\r\n")
        assert go.wait(60)
        wire.raw(b"2\r\nde\r\n0\r\n\r\n")

    with FaultServer(drip) as server:
        stream = over(server).stream("/")
        assert stream.read(60) == b"abc"
        go.set()
        assert [stream.read(60), stream.read(60)] == [b"de", b""]
        stream.close()


@pytest.mark.parametrize("closing", [True, False])  # of the last one http.client drops the socket by itself
def test_a_silent_stream_is_given_up_and_one_that_is_closed_wakes_its_reader(closing: bool) -> None:
    def silent(request: Request, wire: Wire) -> None:
        wire.reply(200, {"Transfer-Encoding": "chunked"} | ({"Connection": "close"} if closing else {}))
        wire.stall()

    with FaultServer(silent) as server:
        stream = over(server).stream("/")
        with pytest.raises(Unreachable, match="silent for 0 s"):
            stream.read(0.1)
        stream.close()
        stream = over(server).stream("/")
        threading.Timer(0.1, stream.close).start()
        began = time.monotonic()
        try:
            assert stream.read(30) == b""
        except Unreachable:
            pass  # either is an end
        assert time.monotonic() - began < 20


def test_a_stream_ends_at_its_longest_though_bytes_keep_coming() -> None:
    def endless(request: Request, wire: Wire) -> None:
        wire.reply(200, {"Transfer-Encoding": "chunked"})
        while True:
            wire.raw(b"1\r\n\n\r\n")
            time.sleep(0.02)

    with FaultServer(endless) as server:
        stream = over(server).stream("/", longest=0.3)
        with pytest.raises(Unreachable, match="beyond the end"):
            list(iter(lambda: stream.read(60), b""))
        stream.close()


def test_a_refused_token_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")

    def strict(request: Request, wire: Wire) -> None:
        wire.reply(200 if request.headers["authorization"] == "Bearer new" else 401)

    with FaultServer(strict) as server:
        transport = over(server, token_file=path)
        path.write_text("old")
        assert transport.request("GET", "/", deadline=60).code == 401
        path.write_text("new")
        assert transport.request("GET", "/", deadline=60).code == 200


def test_tls_is_verified_and_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    ca = tmp_path / "ca.crt"
    other = tmp_path / "other"
    other.mkdir()
    ca.write_bytes(certificate(other).read_bytes())
    with FaultServer(hello) as server, tls_front(server.url, tmp_path / "front", pem) as port:
        transport = t.Transport(Endpoint(server=f"https://127.0.0.1:{port}", ca=ca))
        with pytest.raises(Unreachable, match="certificate verify failed"):
            transport.request("GET", "/", deadline=60)
        ca.write_bytes(pem.read_bytes())
        assert transport.request("GET", "/", deadline=60).body == b"hello"
        transport.close()
        wrong = t.Transport(Endpoint(server=f"https://127.0.0.1:{port}", ca=ca, server_name="api.example"))
        with pytest.raises(Unreachable, match="mismatch"):
            wrong.request("GET", "/", deadline=60)
        blind = t.Transport(Endpoint(server=f"https://127.0.0.1:{port}", verify=False))
        assert blind.request("GET", "/", deadline=60).body == b"hello"
        blind.close()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        t.Transport(Endpoint(server="https://127.0.0.1:1", ca=tmp_path / "none")).request("GET", "/", deadline=60)
    with pytest.raises(ConfigError, match="is no PEM"):
        t.Transport(Endpoint(server="https://127.0.0.1:1", ca=b"junk")).request("GET", "/", deadline=60)


def test_a_proxy_is_asked_for_a_tunnel() -> None:
    def proxy(request: Request, wire: Wire) -> None:
        if request.method == "CONNECT":
            assert request.target == "api.example:80"
            wire.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            wire.reply(200, {}, b"through")

    with FaultServer(proxy) as server:
        assert (
            t.Transport(Endpoint(server="http://api.example", proxy=server.url)).request("GET", "/", deadline=60).body
            == b"through"
        )
    with (
        FaultServer(lambda request, wire: wire.reply(403)) as server,
        pytest.raises(Unreachable, match="the proxy answered 403"),
    ):
        t.Transport(Endpoint(server="http://api.example", proxy=server.url)).request("GET", "/", deadline=60)
