"""The worker's door: a Unix socket of packets, its connections, deadlines and bounds. What is asked is answered elsewhere."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from enum import Enum

import msgspec
import trio

from forebay.api import wire
from forebay.api.places import socket_address
from forebay.cache.disk.index import IndexError_
from forebay.cache.log import log
from forebay.cache.stores.base import StoreError

CONNECTIONS = 256
HELLO_DEADLINE = 5.0
REQUEST_DEADLINE = 60.0
SEND_DEADLINE = 10.0
_UCRED = struct.Struct("3i")


class Fault(Exception):
    """A request cannot be served: `errno` and a sentence for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.errno = code


class Caller:
    """Who is at the other end of a connection."""

    __slots__ = ("pid", "role", "uid")

    def __init__(self, pid: int, uid: int) -> None:
        self.pid = pid
        self.uid = uid
        self.role = ""


Answer = wire.Reply | tuple[wire.Reply, int | None] | None
"""A reply, a reply with a descriptor (which is closed after it was sent), or nothing."""


class Later(Enum):
    """The type of `LATER`."""

    LATER = 0


LATER = Later.LATER


class Service(ABC):
    """What a door opens to: `quick` or `answer` for single replies, `stream` for several."""

    dataset: str

    def quick(self, caller: Caller, request: wire.AnyRequest) -> Answer | Later:
        """The answer if it can be given without waiting for anything, else `LATER`."""
        return LATER

    @abstractmethod
    async def answer(self, caller: Caller, request: wire.AnyRequest) -> Answer:
        """The reply of a request that may wait."""

    @abstractmethod
    def stream(self, caller: Caller, request: wire.AnyRequest) -> AsyncIterator[wire.Reply] | None:
        """An iterator of replies if the request has several, else None."""

    def gone(self, pid: int) -> None:  # noqa: B027 - a service that holds nothing for a process has nothing to do
        """The last connection of a process was closed."""


def errno_of(e: StoreError) -> int:
    return getattr(errno, e.errno_name, errno.EIO)


class Door:
    """Listens at `path` (mode 0600) for the same user and root."""

    def __init__(self, path: str, service: Service, *, limit: int = CONNECTIONS) -> None:
        self.path = path
        self.service = service
        self.limit = limit
        self.requests: dict[str, int] = {}
        self._pids: dict[int, int] = {}
        self.connections = 0
        self.refused = 0

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until cancelled. A socket left by a killed worker is replaced: the cache's lock says there is no other."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # bound under another name and moved: nobody ever connects to a socket that does not listen yet
            fresh = os.path.join(os.path.dirname(self.path), f".{os.getpid()}")  # shorter than the name: both fit sun_path
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            with socket_address(fresh) as address:
                sock.bind(address)
            os.chmod(fresh, 0o600)
            sock.listen(128)
            os.rename(fresh, self.path)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    nursery.start_soon(self._connection, await self._accept(sock))
        finally:
            sock.close()
            with suppress(OSError):
                os.unlink(self.path)

    async def _accept(self, sock: socket.socket) -> socket.socket:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                conn, _ = sock.accept()
            except BlockingIOError:
                continue
            except OSError as e:
                if e.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED):
                    raise
                log("door", "accept_failed", error=str(e))
                await trio.sleep(0.1)
                continue
            conn.setblocking(False)
            return conn

    async def _connection(self, conn: socket.socket) -> None:
        pid, uid, _ = _UCRED.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        caller = Caller(pid, uid)
        self.connections += 1
        self._pids[pid] = self._pids.get(pid, 0) + 1
        try:
            await self._talk(conn, caller)
        except (OSError, trio.TooSlowError):
            pass  # the caller went away in the middle, or does not read: nothing to tell it
        finally:
            trio.lowlevel.notify_closing(conn)
            conn.close()
            self.connections -= 1
            self._pids[pid] -= 1
            if not self._pids[pid]:
                del self._pids[pid]
                self.service.gone(pid)

    async def _talk(self, conn: socket.socket, caller: Caller) -> None:
        if caller.uid not in (0, os.geteuid()):
            self.refused += 1
            log("door", "refused", pid=caller.pid, uid=caller.uid)
            await self._send(conn, wire.Failed(errno.EACCES, f"this door serves user {os.geteuid()} and root"))
            return
        if self.connections > self.limit:
            self.refused += 1
            log("door", "full", pid=caller.pid, connections=self.connections)
            await self._send(conn, wire.Failed(errno.EAGAIN, f"the door has {self.limit} connections already: try again"))
            return
        with trio.move_on_after(HELLO_DEADLINE) as scope:
            hello = await self._receive(conn)
        if scope.cancelled_caught or hello is None:
            return
        if not isinstance(hello, wire.Hello) or hello.protocol != wire.PROTOCOL:
            text = f"this worker speaks protocol {wire.PROTOCOL}: use the same version of forebay on both sides"
            await self._send(conn, wire.Failed(errno.EPROTO, text))
            return
        caller.role = hello.role
        await self._send(conn, wire.Welcome(self.service.dataset, os.getpid()))
        while True:
            request = await self._receive(conn)
            if request is None:
                return
            name = type(request).__name__
            self.requests[name] = self.requests.get(name, 0) + 1
            replies = self.service.stream(caller, request)
            if replies is None:
                await self._one(conn, caller, request)
            elif not await self._many(conn, request, replies):
                return

    async def _receive(self, conn: socket.socket) -> wire.AnyRequest | None:
        packet = await _recv(conn)
        if not packet:
            return None
        try:
            return wire.decode_request(packet)
        except msgspec.DecodeError as e:
            await self._send(conn, wire.Failed(errno.EPROTO, f"not a request of protocol {wire.PROTOCOL}: {e}"))
            return None

    async def _one(self, conn: socket.socket, caller: Caller, request: wire.AnyRequest) -> None:
        answer: Answer = None
        try:
            quick = self.service.quick(caller, request)
            if quick is not LATER:
                answer = quick
            else:
                with trio.move_on_after(REQUEST_DEADLINE) as scope:
                    answer = await self.service.answer(caller, request)
                if scope.cancelled_caught:
                    name = type(request).__name__
                    text = f"{name} had no answer within {REQUEST_DEADLINE:.0f} s: see `forebay status`"
                    answer = wire.Failed(errno.EIO, text)
        except Exception as e:  # noqa: BLE001 - one request's defect must not end the others
            answer = self._failed(request, e)
        reply, fd = answer if isinstance(answer, tuple) else (answer, None)
        try:
            if reply is not None:
                await self._send(conn, reply, fd)
        finally:
            if fd is not None:
                os.close(fd)

    async def _many(self, conn: socket.socket, request: wire.AnyRequest, replies: AsyncIterator[wire.Reply]) -> bool:
        """Send a stream until it ends (True) or the caller leaves or does not read (False)."""
        ended = False
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                with suppress(OSError):
                    await _recv(conn)  # a caller of a stream only ever says that it leaves
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            async with aclosing(replies) as stream:  # type: ignore[type-var]
                try:
                    async for reply in stream:
                        if not await self._sent(conn, reply):
                            break
                    else:
                        ended = True
                except Exception as e:  # noqa: BLE001 - as for single replies
                    ended = await self._sent(conn, self._failed(request, e))
            nursery.cancel_scope.cancel()
        return ended

    async def _sent(self, conn: socket.socket, reply: wire.Reply) -> bool:
        """False when the caller went away or does not read. An error would leave a nursery in a group, past who expects it."""
        try:
            await self._send(conn, reply)
        except (OSError, trio.TooSlowError):
            return False
        return True

    def _failed(self, request: wire.AnyRequest, e: Exception) -> wire.Failed:
        """What a caller is told of an error; one that nobody foresaw is logged."""
        if isinstance(e, Fault):
            return wire.Failed(e.errno, str(e))
        if isinstance(e, StoreError):
            return wire.Failed(errno_of(e), str(e))
        if isinstance(e, IndexError_):
            return wire.Failed(errno.EIO, str(e))
        name, what = type(request).__name__, f"{type(e).__name__}: {e}"
        log("door", "defect", request=name, error=what, trace="".join(traceback.format_exception(e, limit=-4)))
        return wire.Failed(errno.EIO, f"{name} failed inside the worker ({what}): please report its log")

    async def _send(self, conn: socket.socket, reply: wire.Reply, fd: int | None = None) -> None:
        packet = wire.encode(reply)
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            conn.sendmsg([packet], rights)
            return
        except BlockingIOError:
            pass
        with trio.fail_after(SEND_DEADLINE):
            while True:
                await trio.lowlevel.wait_writable(conn)
                try:
                    conn.sendmsg([packet], rights)
                    return
                except BlockingIOError:
                    continue


async def _recv(conn: socket.socket) -> bytes:
    """The next packet. Not by trio's sockets: their scopes and checkpoints cost as much as answering a warm open does."""
    waited = False
    while True:
        try:
            packet = conn.recv(wire.MAX_PACKET)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(conn)
            waited = True
            continue
        if not waited:
            await trio.lowlevel.checkpoint()  # a caller that never lets us wait must not starve the others
        return packet
