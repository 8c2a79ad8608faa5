"""The links with faults that other tests stand on: each fault is what it says, and without one every byte passes."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path

import pytest
from faultlink import Fault, HttpLink, RawLink
from faultserver import FaultServer, Request, Wire
from servers import nginx, stop

pytestmark = pytest.mark.cluster
DATA = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    root = tmp_path_factory.mktemp("origin")
    (root / "data").write_bytes(DATA)
    with nginx(root, tmp_path_factory.mktemp("nginx")) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture
def link(origin: tuple[str, int]) -> Iterator[HttpLink]:
    with HttpLink(origin) as link:
        yield link


def fetch(link: HttpLink, sock: socket.socket | None = None) -> tuple[int, bytes, str]:
    """Status, bytes that came, and how it ended: "whole", "short" or "reset"."""
    with sock or socket.create_connection(("127.0.0.1", link.port), 60) as s:
        s.sendall(b"GET /data HTTP/1.1\r\nhost: x\r\n\r\n")
        data = bytearray()
        end = "whole"
        want: int | None = None
        while want is None or len(data) < want:
            try:
                got = s.recv(1 << 16)
            except ConnectionResetError:
                end = "reset"
                break
            if not got:
                end = "short"
                break
            data += got
            if want is None and b"\r\n\r\n" in data:
                head, _, rest = bytes(data).partition(b"\r\n\r\n")
                status = int(head.split()[1])
                lines = dict(x.split(": ", 1) for x in head.decode().lower().split("\r\n")[1:])
                want, data = int(lines["content-length"]), bytearray(rest)
        return (status if want is not None else 0), bytes(data), end


def fetched(link: HttpLink) -> tuple[int, bytes, str]:
    """As `fetch`, once it takes connections again."""
    until = time.monotonic() + 60
    while True:
        try:
            return fetch(link)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_without_a_fault_every_byte_passes_and_connections_are_kept(link: HttpLink) -> None:
    with socket.create_connection(("127.0.0.1", link.port), 60) as s:
        for _ in range(3):
            assert fetch(link, s.dup()) == (200, DATA, "whole")
    assert link.connections == 1
    assert link.sent["object"] == 3 * len(DATA)
    assert not link.counts


@pytest.mark.parametrize("at", [0, 1, 1_234_567, len(DATA) - 1])
def test_an_answer_is_reset_or_cut_at_its_byte(link: HttpLink, at: int) -> None:
    link.plan = lambda r: Fault("reset", at)
    status, data, end = fetch(link)
    assert (status, end) == (200, "reset")
    assert DATA.startswith(data)
    assert len(data) <= at
    link.plan = lambda r: Fault("truncate", at)
    assert fetch(link) == (200, DATA[:at], "short")
    assert link.counts == {"reset": 1, "truncate": 1}


def test_a_fault_before_the_answer(link: HttpLink) -> None:
    link.plan = lambda r: Fault("reset", -1)
    assert fetch(link) == (0, b"", "reset")


@pytest.mark.parametrize("at", [0, 70_001, len(DATA) - 1, len(DATA) + 5])
def test_one_bit_is_flipped(link: HttpLink, at: int) -> None:
    link.plan = lambda r: Fault("corrupt", at)
    status, data, end = fetch(link)
    assert (status, end) == (200, "whole")
    wrong = [i for i, (a, b) in enumerate(zip(data, DATA, strict=True)) if a != b]
    assert wrong == [at % len(DATA)]


def test_delays_stalls_and_503(link: HttpLink) -> None:
    for fault in (Fault("delay", seconds=0.6), Fault("stall", 1000, 0.6), Fault("stall", -1, 0.6)):
        link.plan = lambda r, fault=fault: fault  # type: ignore[misc]
        began = time.monotonic()
        assert fetch(link) == (200, DATA, "whole")
        assert time.monotonic() - began >= 0.6
    link.plan = lambda r: Fault("busy")
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(f"{link.url}/data", timeout=60)
    with e.value as answer:
        assert answer.code == 503
        assert b"SlowDown" in answer.read()


def test_answers_in_chunks(tmp_path: Path) -> None:
    def handler(r: Request, w: Wire) -> None:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (b"abc", b"d" * 100_000, b"ef"))
        w.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    want = b"abc" + b"d" * 100_000 + b"ef"
    with FaultServer(handler) as server, HttpLink(("127.0.0.1", server.port)) as link:
        with urllib.request.urlopen(f"{link.url}/v1/batch", timeout=60) as answer:
            assert answer.read() == want
        link.plan = lambda r: Fault("corrupt", 100_003)
        with urllib.request.urlopen(f"{link.url}/v1/batch", timeout=60) as answer:
            assert answer.read() == want[:-2] + bytes((want[-2] ^ 0x10,)) + want[-1:]
        link.plan = lambda r: Fault("truncate", 5)
        with urllib.request.urlopen(f"{link.url}/v1/batch", timeout=60) as answer, pytest.raises(IncompleteRead):
            answer.read()
    assert link.counts["truncate"] == 1


def test_a_link_refuses_while_its_server_is_gone(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    with nginx(tmp_path, tmp_path / "scratch") as url:
        target = "127.0.0.1", int(url.rpartition(":")[2])
        link = HttpLink(target)
        assert fetch(link)[2] == "whole"
    with link:
        until = time.monotonic() + 60
        refused = 0
        while refused < 3:  # the first connection finds out, from then on there is none
            try:
                socket.create_connection(("127.0.0.1", link.port), 60).close()
                time.sleep(0.05)
            except ConnectionRefusedError:
                refused += 1
            except ConnectionResetError:
                pass  # it waited to be accepted when that was found out
            assert time.monotonic() < until
        command = ["/usr/sbin/nginx", "-p", str(tmp_path / "scratch"), "-c", str(tmp_path / "scratch/nginx.conf")]
        again = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            assert fetched(link) == (200, DATA, "whole")
            link.refuse()
            with pytest.raises(ConnectionRefusedError):
                fetch(link)
            link.resume()
            assert fetched(link)[2] == "whole"
        finally:
            stop(again)


def test_cut_resets_what_is_on_its_way(link: HttpLink) -> None:
    asked = threading.Event()

    def plan(_: object) -> Fault:
        asked.set()
        return Fault("stall", 1000, 60)

    link.plan = plan
    got: list[tuple[int, bytes, str]] = []
    reader = threading.Thread(target=lambda: got.append(fetch(link)))
    reader.start()
    assert asked.wait(60)
    time.sleep(0.5)  # the first of its bytes are on their way
    link.cut()
    link.close()
    reader.join(60)
    assert got[0][2] != "whole"


def test_a_raw_link_flips_what_it_is_told(origin: tuple[str, int]) -> None:
    with RawLink(origin) as link:

        def body() -> bytes:
            with socket.create_connection(("127.0.0.1", link.port), 60) as s:
                s.sendall(b"GET /data HTTP/1.0\r\nhost: x\r\n\r\n")
                return b"".join(iter(lambda: s.recv(1 << 16), b"")).partition(b"\r\n\r\n")[2]

        assert body() == DATA
        link.plan = lambda number: Fault("corrupt", 500_000)
        wrong = [i for i, (a, b) in enumerate(zip(body(), DATA, strict=True)) if a != b]
        assert len(wrong) == 1
        assert 499_000 < wrong[0] < 500_000  # the head comes before
        link.plan = lambda number: Fault("truncate", 99_999)
        short = body()
        assert DATA.startswith(short)
        assert 99_000 < len(short) < 99_999
