"""The door's client against a scripted server: what it repeats, what it raises, and that no descriptor is lost."""

from __future__ import annotations

import array
import contextlib
import errno
import itertools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forebay.api import wire
from forebay.cache.client import Door, DoorError

Script = Callable[[wire.AnyRequest], "wire.Reply | tuple[wire.Reply, int] | str | None"]


class Server:
    """Answers by `script`: a reply, a reply with a descriptor, None for silence, "drop" to cut the connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[wire.AnyRequest] = []
        self.connections = 0
        self.script: Script = lambda r: wire.Done()
        self.hello: wire.Reply = wire.Welcome("ns/name", os.getpid())
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.bind(str(self.path))
        self.sock.listen(64)
        self._start(self._accept, self.sock)

    def _start(self, work: Callable[[socket.socket], None], sock: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=(sock,), daemon=True))
        self._threads[-1].start()

    def die(self) -> None:
        """As a killed worker: nobody listens, every connection is cut, and no descriptor of it is left."""
        if self.sock.fileno() < 0:
            return
        self.sock.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(60)  # it may have a connection in hand
        self.sock.close()
        for s in list(self._live):
            with contextlib.suppress(OSError):  # its own thread may be done with it
                s.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(60)
        self._threads.clear()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                conn, _ = sock.accept()
            except OSError:
                return
            self.connections += 1
            self._live.add(conn)
            self._start(self._serve, conn)

    def _serve(self, conn: socket.socket) -> None:
        with conn:
            try:
                while packet := conn.recv(wire.MAX_PACKET):
                    request = wire.decode_request(packet)
                    if isinstance(request, wire.Hello):
                        conn.send(wire.encode(self.hello))
                        continue
                    self.asked.append(request)
                    answer = self.script(request)
                    if answer == "drop":
                        break
                    reply, fd = answer if isinstance(answer, tuple) else (answer, None)
                    if isinstance(reply, wire.Reply):
                        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                        conn.sendmsg([wire.encode(reply)], rights)
            except OSError:
                pass
        self._live.discard(conn)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    s = Server(tmp_path / "door")
    yield s
    s.die()


@pytest.fixture
def door(server: Server) -> Iterator[Door]:
    with Door(server.path) as d:
        yield d


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_refusal_is_an_error_with_errno_and_sentence(server: Server, door: Door) -> None:
    server.script = lambda r: wire.Failed(errno.ENOENT, "no such name")
    with pytest.raises(DoorError, match="no such name") as e:
        door.call(wire.Lookup(1, b"x"))
    assert e.value.errno == errno.ENOENT


def test_connections_are_used_again_and_bounded(server: Server) -> None:
    gate = threading.Event()

    def wait(_: wire.AnyRequest) -> wire.Reply:
        assert gate.wait(60)
        return wire.Done()

    server.script = wait
    with Door(server.path, connections=3) as door, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(door.call, wire.Lookup(1, b"x")) for _ in range(8)]
        until = time.monotonic() + 60
        while len(server.asked) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.2)
        assert server.connections == 3
        gate.set()
        for c in calls:
            c.result(60)
        for _ in range(20):
            door.call(wire.Lookup(1, b"x"))
        assert server.connections == 3


def test_a_request_cut_by_a_dying_worker_is_asked_of_the_next(server: Server, door: Door) -> None:
    answers = iter(["drop", "drop", wire.Found(7)])
    server.script = lambda r: next(answers)
    assert door.call(wire.Lookup(1, b"x")) == wire.Found(7)
    assert len(server.asked) == 3


def test_a_worker_that_comes_back_is_found(server: Server, door: Door) -> None:
    assert door.call(wire.Lookup(1, b"x")) == wire.Done()
    server.die()
    began = time.monotonic()
    threading.Timer(0.7, server.listen).start()
    assert door.call(wire.Lookup(1, b"x")) == wire.Done()
    assert 0.5 < time.monotonic() - began < 30


def test_silence_ends_at_the_deadline(server: Server, door: Door) -> None:
    door.call(wire.Lookup(1, b"x"))  # a worker that takes long to say hello is another one's error
    server.script = lambda r: None
    began = time.monotonic()
    with pytest.raises(DoorError) as e:
        door.call(wire.Lookup(1, b"x"), 1.0)
    assert e.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began < 20
    server.script = lambda r: wire.Found(1)
    assert door.call(wire.Lookup(1, b"x")) == wire.Found(1), "a late answer was taken for this one's"


def test_another_protocol_is_said(server: Server, door: Door) -> None:
    server.hello = wire.Failed(errno.EPROTO, "use the same version")
    with pytest.raises(DoorError, match="same version"):
        door.call(wire.Stats(), 60)


def test_descriptors_come_over_and_none_is_lost(server: Server, door: Door) -> None:
    with tempfile.TemporaryFile() as f:
        f.write(b"hello")
        f.flush()
        server.script = lambda r: (wire.Opened(5, True), f.fileno())
        _, fd = door.open(3)
        assert os.pread(fd, 10, 0) == b"hello"
        assert not os.get_inheritable(fd)
        os.close(fd)
        before = descriptors()
        for _ in range(50):
            door.call(wire.Open(3))  # a caller that does not want it
        assert descriptors() == before
        server.script = lambda r: (wire.Failed(errno.EIO, "no"), f.fileno())
        for _ in range(20):
            with pytest.raises(DoorError):
                door.open(3)
        server.script = lambda r: (wire.Done(), f.fileno())
        with pytest.raises(DoorError, match="answered with Done"):
            door.open(3)
        assert descriptors() == before


def test_ensure_asks_once_for_what_is_known_to_be_there(server: Server, door: Door) -> None:
    with tempfile.TemporaryFile() as f, tempfile.TemporaryFile() as g:
        server.script = lambda r: wire.Ensured(upto=1000)
        assert door.ensure(5, 100, 50, f.fileno()) is None
        assert door.ensure(5, 150, 850, f.fileno()) is None
        assert len(server.asked) == 1
        assert server.asked[0] == wire.Ensure(5, 100, 50, os.fstat(f.fileno()).st_dev, os.fstat(f.fileno()).st_ino)
        door.ensure(5, 50, 10, f.fileno())  # before what was told
        door.ensure(5, 999, 2, f.fileno())  # beyond it
        door.ensure(6, 100, 50, f.fileno())  # another object
        door.ensure(5, 100, 50, g.fileno())  # another file
        assert len(server.asked) == 5


def test_what_is_known_of_a_file_is_forgotten_when_it_is_opened_anew(server: Server, door: Door) -> None:
    """Its inode number may be that of another cache file by then."""
    with tempfile.TemporaryFile() as f:
        server.script = lambda r: (wire.Opened(5000, False), f.fileno()) if isinstance(r, wire.Open) else wire.Ensured(upto=1000)
        _, fd = door.open(5)
        door.ensure(5, 0, 10, fd)
        os.close(fd)
        _, fd = door.open(5)
        door.ensure(5, 0, 10, fd)
        os.close(fd)
        assert sum(isinstance(r, wire.Ensure) for r in server.asked) == 2


def test_what_is_known_of_a_file_is_forgotten_when_bytes_of_it_are_doubted(server: Server, door: Door) -> None:
    with tempfile.TemporaryFile() as f:

        def doubted_meanwhile(_: wire.AnyRequest) -> wire.Reply:
            door.forget(5)
            return wire.Ensured(upto=1000)

        server.script = lambda r: wire.Ensured(upto=1000)
        door.ensure(5, 0, 10, f.fileno())
        door.forget(5)
        server.script = doubted_meanwhile
        door.ensure(5, 0, 10, f.fileno())  # the answer may be older than the doubt
        server.script = lambda r: wire.Ensured(upto=1000)
        door.ensure(5, 0, 10, f.fileno())
        door.ensure(5, 0, 10, f.fileno())
        assert len(server.asked) == 3


def test_ensure_hands_over_the_file_to_read_from(server: Server, door: Door) -> None:
    with tempfile.TemporaryFile() as f, tempfile.TemporaryFile() as g:
        g.write(b"new")
        g.flush()
        server.script = lambda r: (wire.Ensured(fd=True, cached=False, upto=3), g.fileno())
        for _ in range(2):
            moved = door.ensure(5, 0, 3, f.fileno())
            assert moved is not None
            assert moved[1] is False
            assert os.pread(moved[0], 3, 0) == b"new"
            os.close(moved[0])
        assert len(server.asked) == 2, "bytes of a buffer were believed to stay"


def test_touch_has_no_answer_and_says_whether_it_went(server: Server, door: Door) -> None:
    server.script = lambda r: None
    assert door.touch([1], [2], [3], timeout=60)
    server.die()
    assert not door.touch([1], [2], [3], timeout=0.3)


def test_a_warm_up_goes_on_with_the_next_worker(server: Server, door: Door) -> None:
    answers = [wire.Progress(1, 2, 3, 4, 5.0, None, False, finished) for finished in (False, True)]
    server.script = lambda r: answers.pop(0)
    warming = door.warm()
    assert not next(warming).finished
    server.die()
    server.listen()
    assert [p.finished for p in warming] == [True]
    assert [r for r in server.asked if isinstance(r, wire.Warm)] == [wire.Warm(path=b"/", metadata_only=False)] * 2


def test_a_subscriber_learns_that_it_may_have_missed_events(server: Server, door: Door) -> None:
    """Also at the first time: what changed before the worker had noted the subscriber it was never told."""
    answers = itertools.cycle([wire.Done(), wire.Evicted([1, 2])])
    server.script = lambda r: next(answers)
    events = door.subscribe()
    assert next(events) is None
    server.die()
    server.listen()
    assert next(events) == wire.Evicted([1, 2])
    server.die()
    server.listen()
    assert next(events) is None


def test_a_fork_does_not_share_connections(server: Server, door: Door) -> None:
    server.script = lambda r: wire.Found(r.parent) if isinstance(r, wire.Lookup) else wire.Done()
    door.call(wire.Lookup(1, b"x"))
    used = door._idle[0]
    door._pid = os.getpid() + 1  # as it looks to a child
    assert door.call(wire.Lookup(2, b"x")) == wire.Found(2)
    assert door._idle[0] is not used
