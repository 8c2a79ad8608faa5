"""The door when its callers behave badly: one that dies in the middle of a stream, and a stream that fails."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio
import trio.testing

from forebay.api import wire
from forebay.cache.door import Answer, Caller, Door, Fault, Service


class Talker(Service):
    """Streams `packets` events without a pause, then raises `error` if there is one."""

    dataset = "default/lab"

    def __init__(self, packets: int, error: Exception | None = None) -> None:
        self.packets = packets
        self.error = error
        self.left: list[int] = []

    async def answer(self, caller: Caller, request: wire.AnyRequest) -> Answer:
        return wire.Report({})

    async def _events(self) -> AsyncIterator[wire.Reply]:
        for _ in range(self.packets):
            yield wire.Evicted(list(range(4096)))
        if self.error is not None:
            raise self.error

    def stream(self, caller: Caller, request: wire.AnyRequest) -> AsyncIterator[wire.Reply] | None:
        return self._events() if isinstance(request, wire.Subscribe) else None

    def gone(self, pid: int) -> None:
        self.left.append(pid)


def served(service: Talker, run_dir: Path, talk: Callable[[str], Awaitable[None]]) -> None:
    """`talk` with a door open; whatever ends the door fails the test."""

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                path = run_dir / "door.sock"
                await nursery.start(Door(str(path), service).serve)
                await talk(str(path))
                nursery.cancel_scope.cancel()

    trio.run(main)


async def asked(path: str, request: wire.Request) -> trio.socket.SocketType:
    """A connection that has been welcomed and has asked."""
    conn = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    await conn.connect(path)
    await conn.send(wire.encode(wire.Hello("cli")))
    assert isinstance(wire.decode_reply(await conn.recv(wire.MAX_PACKET)), wire.Welcome)
    await conn.send(wire.encode(request))
    return conn


def test_a_caller_that_is_killed_in_a_stream_ends_nobody_else(tmp_path: Path) -> None:
    service = Talker(packets=1)

    async def talk(path: str) -> None:
        for _ in range(20):
            (await asked(path, wire.Subscribe())).close()  # what it asked is read before its end is noticed
            await trio.testing.wait_all_tasks_blocked()
        other = await asked(path, wire.Stats())
        assert isinstance(wire.decode_reply(await other.recv(wire.MAX_PACKET)), wire.Report)
        other.close()

    served(service, tmp_path, talk)


def test_a_caller_that_reads_nothing_is_left(tmp_path: Path) -> None:
    service = Talker(packets=1000)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            path = str(tmp_path / "door.sock")
            await nursery.start(Door(path, service).serve)
            deaf = await asked(path, wire.Subscribe())
            while not service.left:
                await trio.sleep(1)
            deaf.close()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_stream_that_fails_says_why(tmp_path: Path) -> None:
    for error, code in ((Fault(errno.ESTALE, "it is gone"), errno.ESTALE), (ZeroDivisionError("a defect"), errno.EIO)):

        async def talk(path: str, error: Exception = error, code: int = code) -> None:
            conn = await asked(path, wire.Subscribe())
            assert isinstance(wire.decode_reply(await conn.recv(wire.MAX_PACKET)), wire.Evicted)
            failed = wire.decode_reply(await conn.recv(wire.MAX_PACKET))
            assert isinstance(failed, wire.Failed)
            assert (failed.errno, str(error) in failed.message) == (code, True)
            conn.close()

        served(Talker(1, error), tmp_path, talk)
