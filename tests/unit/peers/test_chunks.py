"""The stream of a batch's answer: pieces of chunks, records that span them, and what makes no sense."""

from __future__ import annotations

import random
import socket

import pytest

from forebay.cache.peers.call import PIECE, Chunks, PeerBroken
from forebay.cache.stores.net.connection import Connection
from forebay.cache.stores.net.urls import Origin


class Answer:
    """A `Call` after its head: a real socket pair with the whole answer in it."""

    where = "member"

    def __init__(self, raw: bytes) -> None:
        self.ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        theirs.sendall(raw)
        theirs.close()
        self.conn: Connection | None = Connection(self.ours, Origin(False, "x", 1), tls=False)

    def fill(self, view: memoryview, timeout: float) -> None:
        done = 0
        while done < len(view):
            assert self.conn is not None
            got = self.conn.receive(view[done:])
            if got == 0:
                raise PeerBroken("ended short")
            done += got

    def close(self) -> None:
        self.ours.close()


def chunked(data: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    for n in sizes:
        out += b"%x\r\n" % n + data[at : at + n] + b"\r\n"
        at += n
    assert at == len(data)
    return out + b"0\r\n\r\n"


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_into_chunks_and_records_gives_the_same_bytes(seed: int) -> None:
    rng = random.Random(seed)
    records = [rng.randbytes(rng.choice([1, 24, 24, 1000, 16 << 10, 100 << 10])) for _ in range(rng.randint(1, 12))]
    data = b"".join(records)
    sizes, left = [], len(data)
    while left:
        n = min(left, rng.choice([1, 7, 24, 5000, 64 << 10, 300 << 10]))
        sizes.append(n)
        left -= n
        if len(sizes) > 200:
            sizes.append(left)
            break
    answer = Answer(chunked(data, [n for n in sizes if n]))
    stream = Chunks(answer, 5.0)  # type: ignore[arg-type]
    taken = [stream.take(len(r)) for r in records]
    assert [bytes(t) for t in taken] == records, "what was taken first is not overwritten by what came later"
    stream.end()
    answer.close()


def test_a_record_larger_than_a_piece_and_nothing_at_all() -> None:
    data = random.Random(1).randbytes(PIECE + 5)
    answer = Answer(chunked(data, [len(data)]))
    stream = Chunks(answer, 5.0)  # type: ignore[arg-type]
    assert stream.take(0) == b""
    assert stream.empty
    assert bytes(stream.take(PIECE + 2)) == data[: PIECE + 2]
    assert stream.take(3) == data[-3:]
    assert stream.empty
    stream.end()
    answer.close()


def read(stream: Chunks, takes: list[int]) -> None:
    for n in takes:
        stream.take(n)
    stream.end()


@pytest.mark.parametrize(
    ("raw", "takes", "why"),
    [
        (b"4\r\nabcd\r\n0\r\n\r\n", [4, 1], "ended a batch short"),
        (b"4\r\nabcd\r\n0\r\n\r\n", [3], "sent more than a batch"),
        (b"4\r\nabcd\r\n1\r\nx\r\n0\r\n\r\n", [4], "sent more than a batch"),
        (b"2\r\nabcd\r\n0\r\n\r\n", [2, 1], "runs over its stated size"),
        (b"-2\r\nab\r\n0\r\n\r\n", [2], "bad chunk size"),
        (b"123456789\r\nab\r\n0\r\n\r\n", [2], "bad chunk size"),
        (b"4\r\nab", [4], "ended short"),
    ],
)
def test_what_is_no_such_answer_is_told(raw: bytes, takes: list[int], why: str) -> None:
    answer = Answer(raw)
    with pytest.raises(PeerBroken, match=why):
        read(Chunks(answer, 5.0), takes)  # type: ignore[arg-type]
    answer.close()
