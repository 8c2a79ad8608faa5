"""The HTTP client against a server whose every byte is scripted."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
from faultserver import FaultServer, Handler, Request, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import PATIENT, QUICK, drain

from forebay.cache.stores.base import BadReply, StoreError, Unavailable
from forebay.cache.stores.net import response as responses
from forebay.cache.stores.net.connection import BUFFER, parse_head
from forebay.cache.stores.net.transport import Timeouts, Transport
from forebay.cache.stores.net.urls import parse_url

DATA = bytes(range(256)) * 4096  # 1 MiB


@contextmanager
def client(handler: Handler, timeouts: Timeouts = PATIENT, **more: object) -> Iterator[tuple[Transport, FaultServer]]:
    with FaultServer(handler) as server:
        transport = Transport(timeouts, **more)  # type: ignore[arg-type]
        try:
            yield transport, server
        finally:
            transport.close()


def get(transport: Transport, url: str, method: str = "GET", **more: object) -> bytes:
    response = transport.request(method, parse_url(url)[0], label="it", **more)  # type: ignore[arg-type]
    assert response.status == 200
    return drain(response)


def whole(request: Request, wire: Wire) -> None:
    wire.reply(200, {}, DATA)


def chunked(request: Request, wire: Wire) -> None:
    wire.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    at, size = 0, 1
    while at < len(DATA):
        piece = DATA[at : at + size]
        wire.raw(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
        at, size = at + size, size * 3
    wire.raw(b"0\r\nTrailer: x\r\n\r\n")


def until_close(request: Request, wire: Wire) -> None:
    wire.raw(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)
    wire.close()


@pytest.mark.parametrize("handler", [whole, chunked, until_close])
@pytest.mark.parametrize("piece", [1000, 1 << 20])
def test_bodies_of_every_framing(handler: Handler, piece: int) -> None:
    with client(handler) as (transport, server):
        for _ in range(3):
            response = transport.request("GET", parse_url(server.url)[0], label="it")
            assert drain(response, piece) == DATA
            assert response.readinto(memoryview(bytearray(9))) == 0
            assert transport.request("GET", parse_url(server.url)[0], label="it").read(1 << 20) == DATA
        assert server.connections == (6 if handler is until_close else 1)


def test_interim_answers_and_odd_heads() -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n")
        wire.raw(b"HTTP/1.1 200\r\nX-Y:a\r\nx-y: \t b \r\nContent-length:3\r\nEmpty:\r\n\r\nabc")

    with client(handler) as (transport, server):
        response = transport.request("GET", parse_url(server.url)[0], label="it")
        assert response.headers == {"x-y": "a, b", "content-length": "3", "empty": ""}
        assert response.read(10) == b"abc"


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (BUFFER + 1) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (BUFFER // 6) + b"\r\n",
    ],
)
def test_heads_that_make_no_sense(head: bytes) -> None:
    with client(lambda request, wire: wire.raw(head)) as (transport, server):
        with pytest.raises(BadReply):
            transport.request("GET", parse_url(server.url)[0], label="it")
        assert transport._open == 0


@pytest.mark.parametrize(
    "chunk", [b"x\r\n", b"-1\r\n", b"\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"f" * 5000, b"ffffffffffffffffff\r\n"]
)
def test_chunks_that_make_no_sense(chunk: bytes) -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)

    with client(handler) as (transport, server), pytest.raises(BadReply):
        get(transport, server.url)


def cut(how: str, framing: str) -> Handler:
    def handler(request: Request, wire: Wire) -> None:
        half = DATA[: len(DATA) // 2]
        if framing == "chunked":
            wire.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(DATA) + half)
        elif framing == "length":
            wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + half)
        elif framing == "head":
            wire.raw(b"HTTP/1.1 200 OK\r\nContent-Le")
        getattr(wire, how)()

    return handler


@pytest.mark.parametrize("framing", ["chunked", "length", "head", "nothing"])
@pytest.mark.parametrize("how", ["close", "reset", "stall"])
def test_cut_answers(framing: str, how: str) -> None:
    started = time.monotonic()
    with client(cut(how, framing), QUICK if how == "stall" else PATIENT) as (transport, server):
        with pytest.raises(Unavailable) as caught:
            get(transport, server.url)
        assert "it: " in str(caught.value)
        assert transport._open == 0
        assert time.monotonic() - started < 20


def test_a_body_that_broke_does_not_end_quietly() -> None:
    with client(cut("close", "length")) as (transport, server):
        response = transport.request("GET", parse_url(server.url)[0], label="it")
        buffer = memoryview(bytearray(len(DATA)))
        with pytest.raises(Unavailable):
            drain(response)
        with pytest.raises(Unavailable):
            response.readinto(buffer)


def test_a_dripping_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes a hundred times as fast: what is too slow as a whole, though each byte comes in time."""
    monkeypatch.setattr(responses, "time", SimpleNamespace(monotonic=lambda: 100 * time.monotonic()))

    def handler(request: Request, wire: Wire) -> None:
        wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            wire.raw(b"x")
            time.sleep(0.05)

    with client(handler) as (transport, server):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="slower"):
            get(transport, server.url)
        assert time.monotonic() - started < 30


def test_a_dripping_head_ends() -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.raw(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(1000):
            wire.raw(b"x")
            time.sleep(0.05)

    with client(handler, QUICK) as (transport, server):
        started = time.monotonic()
        with pytest.raises(Unavailable):
            get(transport, server.url)
        assert time.monotonic() - started < 30


def test_a_pooled_connection_that_was_closed_is_replaced() -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.reply(200, {}, b"x")
        if request.path == "/last":
            wire.close()

    with client(handler) as (transport, server):
        assert get(transport, server.url + "/last") == b"x"
        time.sleep(0.05)
        assert get(transport, server.url + "/next") == b"x"
        assert server.connections == 2
        assert [r.path for r in server.requests] == ["/last", "/next"]


def test_a_fresh_connection_that_breaks_is_not_tried_twice() -> None:
    with client(lambda request, wire: wire.close()) as (transport, server):
        with pytest.raises(Unavailable):
            get(transport, server.url)
        assert len(server.requests) == 1


def test_bytes_after_an_answer_end_the_connection() -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with client(handler) as (transport, server):
        assert get(transport, server.url) == b"x"
        assert get(transport, server.url) == b"x"
        assert server.connections == 2


def test_idle_connections_expire() -> None:
    with client(whole, Timeouts(connect=30, stall=30, answer=60, idle=0.05)) as (transport, server):
        get(transport, server.url)
        time.sleep(0.1)
        get(transport, server.url)
        assert server.connections == 2
        assert transport._open == 1


def test_the_number_of_connections_is_bounded() -> None:
    with client(whole, limit=2) as (transport, server):
        url = parse_url(server.url)[0]
        held = [transport.request("GET", url, label="it") for _ in range(2)]
        with pytest.raises(Unavailable, match="busy"):
            transport.request("GET", url, label="it", deadline=time.monotonic() + 0.1)
        threading.Timer(0.1, held[0].close).start()
        assert get(transport, server.url) == DATA
        held[1].close()


def test_a_forgotten_response_gives_its_connection_back() -> None:
    with client(whole, limit=1) as (transport, server):
        for _ in range(3):
            transport.request("GET", parse_url(server.url)[0], label="it")
            gc.collect()
        assert get(transport, server.url) == DATA


def test_many_threads() -> None:
    def handler(request: Request, wire: Wire) -> None:
        wire.reply(200, {}, request.path.encode() * 5000)

    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(30):
                path = f"/{number}/{n}"
                assert get(transport, server.url + path) == path.encode() * 5000
        except BaseException as e:  # noqa: BLE001
            failures.append(e)

    with client(handler, limit=4) as (transport, server):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert server.connections <= 4


def test_redirects_keep_secrets_at_home() -> None:
    with FaultServer(lambda request, wire: wire.reply(200, {}, b"there")) as other:

        def handler(request: Request, wire: Wire) -> None:
            if request.path == "/a":
                wire.reply(302, {"Location": "/b"})
            elif request.path == "/b":
                wire.reply(307, {"Location": other.url + "/c?d"}, b"moved")
            else:
                wire.reply(200, {}, b"home")

        with client(handler) as (transport, server):
            assert get(transport, server.url + "/a", headers="X: 1\r\n", secret="Authorization: s\r\n") == b"there"
            assert [r.headers.get("authorization") for r in server.requests] == ["s", "s"]
            assert [r.target for r in other.requests] == ["/c?d"]
            assert "authorization" not in other.requests[0].headers
            assert other.requests[0].headers["x"] == "1"
            assert other.requests[0].headers["host"] == f"127.0.0.1:{other.port}"


@pytest.mark.parametrize("location", ["/", "file:///etc/passwd", "http://", "http://[::1"])
def test_redirects_to_nowhere(location: str) -> None:
    with client(lambda request, wire: wire.reply(302, {"Location": location})) as (transport, server):
        with pytest.raises(BadReply):
            get(transport, server.url)
        assert len(server.requests) <= 6
        if location == "/":
            assert server.connections == 1


def test_nobody_listens() -> None:
    transport = Transport(QUICK)
    with socket.socket() as held:  # it does not listen, and nobody else can meanwhile
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            get(transport, f"http://127.0.0.1:{port}/")
    assert transport._open == 0


def test_a_silent_address_is_given_up_in_time() -> None:
    """A listener whose backlog is full drops SYNs, as a dead host does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        started = time.monotonic()
        with pytest.raises(Unavailable, match="within the time to connect"):
            get(Transport(Timeouts(connect=0.5, stall=1, answer=2)), f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert time.monotonic() - started < 30
        for filler in fillers:
            filler.close()


def test_no_such_host() -> None:
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        get(Transport(QUICK), "http://no-such-host.invalid/")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem (key and certificate for 127.0.0.1)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    now = datetime.now(UTC)

    def build(
        subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(build("test ca", ca_key, "test ca", ca_key, ca=True).public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(secret + build("server", key, "test ca", ca_key, ca=False).public_bytes(pem))
    return folder


@contextmanager
def tls_server(folder: Path, requests: int, body: bytes = DATA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
                with context.wrap_socket(sock, server_side=True) as tls:
                    for _ in range(requests):
                        if not tls.recv(65536):
                            break
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            except ssl.SSLError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_tls(certificates: Path) -> None:
    with tls_server(certificates, 2) as url:
        transport = Transport(PATIENT, ca_file=str(certificates / "ca.pem"))
        assert [get(transport, url) for _ in range(3)] == [DATA] * 3  # the third on a new connection
        transport.close()
        unchecked = Transport(PATIENT, verify=False)
        assert get(unchecked, url) == DATA
        unchecked.close()


def test_an_unknown_authority_is_refused_at_once(certificates: Path) -> None:
    with tls_server(certificates, 1) as url, pytest.raises(BadReply, match="ca_file"):
        get(Transport(PATIENT), url)


def test_plain_http_to_a_tls_port_and_back(certificates: Path) -> None:
    with tls_server(certificates, 1) as url, pytest.raises(StoreError):
        get(Transport(PATIENT), url.replace("https", "http"))
    with client(whole, QUICK) as (transport, server), pytest.raises(StoreError):
        get(transport, server.url.replace("http", "https"))


def test_tls_is_not_left_by_a_redirect(certificates: Path) -> None:
    body = b""
    context_reply = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with context.wrap_socket(sock, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(context_reply + body)
                tls.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        transport = Transport(PATIENT, ca_file=str(certificates / "ca.pem"))
        with pytest.raises(BadReply, match="from https to"):
            get(transport, f"https://127.0.0.1:{listener.getsockname()[1]}/")
        transport.close()
        thread.join(5)


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    for candidate in (head, b"HTTP/1.1 200 OK\r\n" + head):
        try:
            status, _, headers, _ = parse_head(candidate, "it")
        except BadReply:
            continue
        assert 100 <= status <= 599
        for name, value in headers.items():
            assert name == name.lower()
            assert not set(value) & set("\r\n\0")
