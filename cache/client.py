"""The client of the worker's door: blocking, for many threads, and deaf to a worker that is restarted under it.

Every request but `Touch` may be sent twice without harm, so a connection that dies in the middle of one is replaced and
the request is asked again until its deadline. Connections are pooled; one carries one request at a time.
"""

from __future__ import annotations

import array
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Iterator

import msgspec

from forebay.api import wire
from forebay.api.places import socket_address

CONNECTIONS = 64
"""Bound of pooled connections of one `Door`; a worker takes 256."""
RECONNECT = 10.0
"""Seconds a request waits for a worker that is being restarted (one comes back within 2)."""
TIMEOUT = 60.0
REMEMBERED = 4096
"""Files of which a `Door` remembers what is there."""
_DESCRIPTORS = 4
_RETRY_FIRST, _RETRY_MOST = 0.01, 0.2  # seconds between attempts to connect


class DoorError(OSError):
    """What the worker refused, or that it does not answer. `errno` is for a mount to pass on, `strerror` a sentence."""


class _Gone(Exception):
    """The connection died before the answer came: the worker was killed or is going."""


class Connection:
    """One connected socket after `Hello`. Not shared between threads."""

    def __init__(self, path: str, role: str, deadline: float) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.dataset = ""
        self.pid = 0
        try:
            self.sock.settimeout(_left(deadline))
            with socket_address(path) as address:
                self.sock.connect(address)
            self.send(wire.Hello(role=role), deadline)
            reply, fds = self.receive(deadline)
        except BaseException:
            self.sock.close()
            raise
        _close_all(fds)
        if isinstance(reply, wire.Failed):
            self.sock.close()
            raise DoorError(reply.errno, reply.message)
        if not isinstance(reply, wire.Welcome):
            self.sock.close()
            raise DoorError(errno.EPROTO, f"{path} answered Hello with {type(reply).__name__}: another program listens there")
        self.dataset, self.pid = reply.dataset, reply.pid

    def send(self, request: wire.Request, deadline: float) -> None:
        self.sock.settimeout(_left(deadline))
        try:
            self.sock.send(wire.encode(request))
        except TimeoutError:
            raise
        except OSError as e:
            raise _Gone(str(e)) from e

    def receive(self, deadline: float | None) -> tuple[wire.AnyReply, list[int]]:
        """The next reply and the descriptors beside it, which the caller owns. `deadline` None waits for ever."""
        self.sock.settimeout(None if deadline is None else _left(deadline))
        try:
            packet, control, _flags, _ = self.sock.recvmsg(
                wire.MAX_PACKET, socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            raise
        except OSError as e:
            raise _Gone(str(e)) from e
        fds: list[int] = []
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                fds.extend(numbers)
        if not packet:
            _close_all(fds)
            raise _Gone("the worker closed the connection")
        try:
            return wire.decode_reply(packet), fds
        except msgspec.DecodeError as e:
            _close_all(fds)
            raise DoorError(errno.EPROTO, f"the worker's answer is no message of protocol {wire.PROTOCOL}: {e}") from e

    def close(self) -> None:
        self.sock.close()


class Door:
    """Requests to the worker behind one socket path, from any thread. `close` ends waiting iterators too."""

    def __init__(self, path: str | os.PathLike[str], role: str = "cli", *, connections: int = CONNECTIONS) -> None:
        self.path = os.fspath(path)
        self.role = role
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(connections)
        self._streams: set[Connection] = set()
        self._closed = False
        self._here: dict[int, tuple[int, int, int, int]] = {}  # ino -> device, file, bytes [from, to) known to be there
        self._forgotten = 0
        self._pid = os.getpid()

    def call(self, request: wire.Request, timeout: float = TIMEOUT) -> wire.AnyReply:
        """Ask, and return the reply. Raises `DoorError` for `Failed` and when no worker answers in time."""
        reply, fds = self._ask(request, timeout)
        _close_all(fds)
        return reply

    def call_fd(self, request: wire.Request, timeout: float = TIMEOUT) -> tuple[wire.AnyReply, int | None]:
        """As `call`, with the descriptor that came beside the reply; the caller closes it."""
        reply, fds = self._ask(request, timeout)
        _close_all(fds[1:])
        return reply, fds[0] if fds else None

    def open(self, ino: int, *, validate: bool = False, timeout: float = TIMEOUT) -> tuple[wire.Opened, int]:
        """Open an object: its `Opened` and a read-only descriptor, which the caller closes."""
        self._here.pop(ino, None)
        reply, fd = self.call_fd(wire.Open(ino=ino, validate=validate), timeout)
        if not isinstance(reply, wire.Opened) or fd is None:
            if fd is not None:
                os.close(fd)
            raise DoorError(
                errno.EPROTO, f"Open was answered with {type(reply).__name__} and {'a' if fd is not None else 'no'} descriptor"
            )
        return reply, fd

    def ensure(self, ino: int, offset: int, length: int, held: int, timeout: float = TIMEOUT) -> tuple[int, bool] | None:
        """Wait for bytes of an object of which the caller holds descriptor `held`.

        None: read from `held`. Otherwise `(fd, cached)`: read these bytes from `fd`, at the same offsets. If `cached`, it
        is the object's cache file, made anew, and should take the place of `held`; if not, close it after this read.
        """
        st = os.fstat(held)
        here = self._here.get(ino)
        if here is not None and here[:2] == (st.st_dev, st.st_ino) and here[2] <= offset and offset + length <= here[3]:
            return None
        forgotten = self._forgotten
        reply, fd = self.call_fd(wire.Ensure(ino=ino, offset=offset, length=length, dev=st.st_dev, file=st.st_ino), timeout)
        if not isinstance(reply, wire.Ensured) or reply.fd != (fd is not None):
            if fd is not None:
                os.close(fd)
            raise DoorError(errno.EPROTO, f"Ensure was answered with {type(reply).__name__}")
        if fd is None:
            if forgotten == self._forgotten:  # else the answer may be older than what made somebody doubt
                self._note(ino, (st.st_dev, st.st_ino, offset, reply.upto))
            return None
        self._here.pop(ino, None)
        return fd, reply.cached

    def forget(self, ino: int) -> None:
        """Bytes of this object were found wrong or are gone: the next `ensure` asks the worker."""
        self._forgotten += 1
        self._here.pop(ino, None)

    def _note(self, ino: int, here: tuple[int, int, int, int]) -> None:
        """Remember what is known to be in the cache file somebody holds: only damage takes anything out of such a file.

        Lost by `forget`; and by `open`, because once a descriptor is closed the inode number may be another file's.
        """
        old = self._here.get(ino)
        if old is not None and old[:2] == here[:2] and old[2] <= here[2] <= old[3]:
            here = (*here[:2], old[2], max(old[3], here[3]))
        if len(self._here) >= REMEMBERED and ino not in self._here:
            self._here.clear()
        self._here[ino] = here

    def touch(self, used: list[int], opened: list[int], closed: list[int], timeout: float = 2.0) -> bool:
        """Tell what was read, opened and closed. False when no worker took it: send it again with the next."""
        deadline = time.monotonic() + timeout
        try:
            conn = self._take(deadline)
        except (DoorError, TimeoutError, OSError):
            return False
        try:
            conn.send(wire.Touch(used=used, opened=opened, closed=closed), deadline)
        except (_Gone, TimeoutError):
            self._drop(conn)
            return False
        self._give(conn)
        return True

    def warm(self, path: bytes = b"/", *, metadata_only: bool = False, timeout: float = TIMEOUT) -> Iterator[wire.Progress]:
        """Fetch everything under `path`, yielding progress at least each second until `finished`.

        `timeout`: seconds without progress report. A worker that is restarted goes on where the cache is.
        """
        while True:
            conn = self._stream(timeout)
            try:
                conn.send(wire.Warm(path=path, metadata_only=metadata_only), time.monotonic() + timeout)
                while True:
                    reply, fds = conn.receive(time.monotonic() + timeout)
                    _close_all(fds)
                    if isinstance(reply, wire.Failed):
                        raise DoorError(reply.errno, reply.message)
                    if isinstance(reply, wire.Progress):
                        yield reply
                        if reply.finished:
                            return
            except _Gone:
                if self._closed:
                    raise DoorError(errno.ECONNABORTED, "the door was closed while warming") from None
            except TimeoutError:
                raise self._silent(timeout) from None
            finally:
                self._end_stream(conn)

    def subscribe(self) -> Iterator[wire.Evicted | wire.Changed | None]:
        """Events as they come, after a None that says that none is missed from there on. It comes first, and again wherever a
        worker was restarted: what changed before it must be assumed.

        Ends when the door is closed. While no worker listens it waits, asking again every 0.2 s.
        """
        while not self._closed:
            try:
                conn = self._stream(RECONNECT)
            except DoorError:
                continue
            try:
                conn.send(wire.Subscribe(), time.monotonic() + 5.0)
                while not self._closed:
                    reply, fds = conn.receive(None)
                    _close_all(fds)
                    if isinstance(reply, wire.Done):
                        yield None
                    elif isinstance(reply, wire.Evicted | wire.Changed):
                        yield reply
            except (_Gone, TimeoutError):
                pass  # a worker that went away: the loop connects to the next one
            finally:
                self._end_stream(conn)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            streams = list(self._streams)
        for conn in idle:
            conn.close()
        for conn in streams:
            try:
                conn.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it; that thread closes it
            except OSError:
                pass  # already disconnected

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- connections

    def _ask(self, request: wire.Request, timeout: float) -> tuple[wire.AnyReply, list[int]]:
        deadline = time.monotonic() + timeout
        while True:
            conn = self._take(deadline)
            try:
                conn.send(request, deadline)
                reply, fds = conn.receive(deadline)
            except _Gone:
                self._drop(conn)
                continue  # every request may be asked twice; _take ends this loop at the deadline
            except TimeoutError:
                self._drop(conn)
                raise self._silent(timeout) from None
            except BaseException:
                self._drop(conn)
                raise
            self._give(conn)
            if isinstance(reply, wire.Failed):
                _close_all(fds)
                raise DoorError(reply.errno, reply.message)
            return reply, fds

    def _take(self, deadline: float) -> Connection:
        """An idle connection or a new one; holds one unit of the bound until `_give` or `_drop`."""
        if not self._free.acquire(timeout=_left(deadline)):
            raise DoorError(
                errno.ETIMEDOUT, f"all connections to {self.path} were busy until the deadline: the worker is overloaded"
            )
        try:
            with self._lock:
                if self._closed:
                    raise DoorError(errno.ECONNABORTED, f"the door {self.path} is closed")
                if self._pid != os.getpid():  # a fork shares sockets: each process needs its own
                    self._idle, self._pid = [], os.getpid()
                if self._idle:
                    return self._idle.pop()
            return self._connect(deadline)
        except BaseException:
            self._free.release()
            raise

    def _give(self, conn: Connection) -> None:
        with self._lock:
            if self._closed:
                conn.close()
            else:
                self._idle.append(conn)
        self._free.release()

    def _drop(self, conn: Connection) -> None:
        conn.close()
        self._free.release()

    def _connect(self, deadline: float) -> Connection:
        until = min(deadline, time.monotonic() + RECONNECT)
        pause = _RETRY_FIRST
        while True:
            try:
                return Connection(self.path, self.role, until)
            except DoorError:
                raise
            except (_Gone, OSError) as e:  # no socket yet, nobody listens, or gone again: a worker may be starting
                if self._closed or time.monotonic() + pause >= until:
                    raise DoorError(
                        errno.ENOTCONN,
                        f"no worker answers on {self.path} ({e}): see `forebay status`, or start the dataset with `forebay up`",
                    ) from e
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _RETRY_MOST)

    def _stream(self, timeout: float) -> Connection:
        conn = self._connect(time.monotonic() + timeout)
        with self._lock:
            if not self._closed:
                self._streams.add(conn)
                return conn
        conn.close()
        raise DoorError(errno.ECONNABORTED, f"the door {self.path} is closed")

    def _end_stream(self, conn: Connection) -> None:
        with self._lock:
            self._streams.discard(conn)
        conn.close()

    def _silent(self, timeout: float) -> DoorError:
        return DoorError(
            errno.ETIMEDOUT, f"the worker behind {self.path} gave no answer for {timeout:g} s: see its log, or `forebay doctor`"
        )


def _left(deadline: float) -> float:
    """Seconds to a deadline, never 0 (which would mean non-blocking)."""
    return max(deadline - time.monotonic(), 0.001)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
