"""A store that misbehaves below a real worker: right bytes or an errno with a sentence; never wrong bytes, never a hang."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes3 import FakeS3, fault
from faultserver import Request, Wire
from workerlab import MIB, Lab, Reader, eventually, s3_mount

from forebay.api import wire
from forebay.api.spec import Freshness
from forebay.cache.client import DoorError

pytestmark = pytest.mark.cluster
SMALL, LARGE = os.urandom(100_000), os.urandom(20 * MIB)
OBJECTS = {b"small": SMALL, b"large": LARGE}


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with FakeS3(dict(OBJECTS)) as s:
        yield s


@pytest.fixture
def lab(tmp_path: Path, server: FakeS3) -> Iterator[Lab]:
    with Lab(tmp_path / "lab", [s3_mount(server.url, freshness=Freshness("ttl", 0.2))]) as lab:
        lab.start()
        yield lab


def is_read(r: Request) -> bool:
    return r.method == "GET" and r.path.split("/")[-1] in ("small", "large")


def some(server: FakeS3, times: int, act: object) -> None:
    """The first `times` reads of an object are answered by `act(request, wire)`."""
    count = itertools.count()

    def before(r: Request, w: Wire) -> bool:
        if not is_read(r) or next(count) >= times:
            return False
        act(r, w)  # type: ignore[operator]
        return True

    server.before = before


def busy(r: Request, w: Wire) -> None:
    w.reply(503, {}, fault("SlowDown"))


def reset(r: Request, w: Wire) -> None:
    w.reset()


def partial(r: Request) -> tuple[bytes, bytes]:
    """A right head of a 206 and the bytes that should follow it."""
    data = OBJECTS[r.path.split("/")[-1].encode()]
    first, last = r.range_of(len(data)) or (0, len(data) - 1)
    head = (
        f"HTTP/1.1 206 P\r\nContent-Range: bytes {first}-{last}/{len(data)}\r\nContent-Length: {last - first + 1}\r\n"
        f'ETag: "{hashlib.md5(data).hexdigest()}"\r\n\r\n'
    )
    return head.encode(), data[first : last + 1]


def reset_in_the_middle(r: Request, w: Wire) -> None:
    head, data = partial(r)
    w.raw(head + data[: len(data) // 2])
    w.reset()


def short(r: Request, w: Wire) -> None:
    head, data = partial(r)
    w.raw(head + data[:-1])
    w.close()


def outcome(reader: Reader, offset: int, length: int) -> bytes | int:
    """The bytes, or the errno."""
    try:
        return reader.read(offset, length)
    except DoorError as e:
        return e.errno or 0


@pytest.mark.parametrize("act", [busy, reset, reset_in_the_middle, short], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["small", "large"])
def test_trouble_that_passes_is_not_the_readers(lab: Lab, server: FakeS3, act: object, name: str) -> None:
    some(server, 4, act)
    assert lab.read(f"/{name}") == OBJECTS[name.encode()]


def test_trouble_that_stays_is_an_error_with_a_sentence(lab: Lab, server: FakeS3) -> None:
    some(server, 10**9, busy)
    ino = lab.node("/small").ino
    began = time.monotonic()
    with pytest.raises(DoorError) as e:
        lab.door.open(ino)
    assert e.value.errno == errno.EIO
    assert "SlowDown" in str(e.value) or "503" in str(e.value)
    assert time.monotonic() - began < 59, "the door gave up, not who asks the store"
    mounts = lab.stats()["mounts"]
    assert isinstance(mounts, list)
    assert mounts[0]["errors"] > 1
    assert mounts[0]["last_error"]
    server.before = lambda r, w: False
    began = time.monotonic()
    while (got := whole_or_errno(lab, "/small")) != SMALL:
        assert got == errno.EIO
        assert time.monotonic() - began < 60, "a store that answers again was not asked"
        time.sleep(0.1)


def whole_or_errno(lab: Lab, path: str) -> bytes | int:
    try:
        return lab.read(path)
    except DoorError as e:
        return e.errno or 0


def test_a_refusal_is_not_asked_again(lab: Lab, server: FakeS3) -> None:
    ino = lab.node("/small").ino
    some(server, 10**9, lambda r, w: w.reply(403, {}, fault("AccessDenied")))
    server.requests.clear()
    with pytest.raises(DoorError) as e:
        lab.door.open(ino)
    assert e.value.errno == errno.EACCES
    assert sum(map(is_read, server.requests)) <= 2


def test_a_range_answered_with_the_whole_is_never_taken_for_the_range(lab: Lab, server: FakeS3) -> None:
    def whole(r: Request, w: Wire) -> None:
        w.reply(200, {"ETag": server.etag(b"large")}, LARGE)

    some(server, 10**9, whole)
    ino = lab.node("/large").ino
    opened, fd = lab.door.open(ino)
    reader = Reader(lab.door, ino, opened, fd)
    for offset in (0, 9 * MIB, 19 * MIB):
        assert outcome(reader, offset, 5000) in (LARGE[offset : offset + 5000], errno.EIO)
    reader.close()


def test_a_changed_object_is_another_inode_and_never_mixed(lab: Lab, server: FakeS3) -> None:
    """Bytes of the old version that were read stay what they were; the rest is ESTALE, and the name shows the new object."""
    ino = lab.node("/large").ino
    opened, fd = lab.door.open(ino)
    reader = Reader(lab.door, ino, opened, fd)
    assert reader.read(0, 1000) == LARGE[:1000]
    new = os.urandom(21 * MIB)
    server.objects[b"large"] = new
    got = {offset: outcome(reader, offset, MIB) for offset in range(MIB, 20 * MIB, MIB)}
    reader.close()
    assert all(data in (LARGE[offset : offset + MIB], errno.ESTALE) for offset, data in got.items())
    assert errno.ESTALE in got.values()
    eventually(lambda: lab.node("/large").ino != ino)
    assert lab.read("/large") == new


def test_a_change_is_told_to_who_listens(lab: Lab, server: FakeS3) -> None:
    ino = lab.node("/small").ino
    lab.read("/small")
    events = lab.door.subscribe()
    import threading

    got: list[object] = []

    def listen() -> None:
        for event in itertools.islice(events, 2):
            got.append(event)  # one by one, for who looks meanwhile

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    eventually(lambda: got)  # from the first on none is missed
    server.objects[b"small"] = b"something else"
    with pytest.raises(DoorError) as e:
        lab.door.open(ino, validate=True)
    assert e.value.errno == errno.ESTALE
    listening.join(60)
    assert got[0] is None
    assert isinstance(got[1], wire.Changed)
    assert (got[1].name, got[1].old) == (b"small", ino)
    assert lab.node("/small").ino == got[1].new
    assert lab.read("/small") == b"something else"


def test_a_vanished_object_is_gone_and_what_is_held_stays_readable(lab: Lab, server: FakeS3) -> None:
    ino = lab.node("/small").ino
    opened, fd = lab.door.open(ino)
    assert opened.complete
    del server.objects[b"small"]
    del server.objects[b"large"]
    with pytest.raises(DoorError) as e:
        lab.read("/large")
    assert e.value.errno in (errno.ENOENT, errno.ESTALE)
    assert os.pread(fd, len(SMALL), 0) == SMALL
    os.close(fd)
    time.sleep(0.3)
    with pytest.raises(DoorError) as e:
        lab.node("/small")
    assert e.value.errno == errno.ENOENT


@pytest.mark.long
def test_a_stalled_answer_ends(lab: Lab, server: FakeS3) -> None:
    some(server, 10**9, lambda r, w: w.stall())
    ino = lab.node("/small").ino
    began = time.monotonic()
    with pytest.raises(DoorError):
        lab.door.open(ino)
    assert time.monotonic() - began < 45
