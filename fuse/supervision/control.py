"""The supervisor's control socket: JSON packets over SOCK_SEQPACKET, peers of the same uid or root.

The protocol stands at the top of `forebay.fuse.supervision.supervisor`. `Server` belongs to its loop and never blocks; `ask` is
the client's side.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from forebay.api.places import socket_address

MAX_PACKET = 256 << 10
MAX_PEERS = 32
"""Connections at once; one more is closed at once."""
_UCRED = struct.Struct("iII")
_FDS = 3


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other end; for a client, of the process that listens."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def listening_pid(path: str) -> int | None:
    """Pid of the process that listens on a Unix socket, None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1.0)
        try:
            with socket_address(path) as address:
                sock.connect(address)
            return peer_of(sock)[0]
        except OSError:
            return None


class Server:
    """Listens, checks who asks, hands each request to `serve(peer, message, fds)`; `serve` owns the descriptors."""

    def __init__(
        self,
        path: str,
        selector: selectors.BaseSelector,
        serve: Callable[[socket.socket, dict[str, Any], list[int]], None],
    ) -> None:
        self._path = path
        self._selector = selector
        self._serve = serve
        self._peers: set[socket.socket] = set()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with socket_address(path) as address:
            self._sock.bind(address)
        os.chmod(path, 0o600)
        self._sock.listen(MAX_PEERS)
        selector.register(self._sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            peer, _ = self._sock.accept()
        except OSError:
            return
        _pid, uid = peer_of(peer)
        if uid not in (0, os.geteuid()) or len(self._peers) >= MAX_PEERS:
            peer.close()
            return
        peer.setblocking(False)
        self._peers.add(peer)
        self._selector.register(peer, selectors.EVENT_READ, lambda: self._read(peer))

    def _read(self, peer: socket.socket) -> None:
        try:
            packet, fds, _flags, _ = socket.recv_fds(peer, MAX_PACKET, _FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self.drop(peer)
            return
        try:
            message = json.loads(packet)
            if not isinstance(message, dict):
                raise ValueError("not an object")
        except ValueError:
            for fd in fds:
                os.close(fd)
            self.drop(peer)
            return
        self._serve(peer, message, fds)

    def send(self, peer: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Answer; a peer that is gone or does not read is dropped."""
        if peer not in self._peers:
            return
        try:
            if fds:
                socket.send_fds(peer, [json.dumps(message).encode()], fds)
            else:
                peer.send(json.dumps(message).encode())
        except OSError:
            self.drop(peer)

    def drop(self, peer: socket.socket) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer)
            peer.close()

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        self._selector.unregister(self._sock)
        self._sock.close()
        for peer in list(self._peers):
            self.drop(peer)


class Silence(Exception):
    """No supervisor answers: none listens, it died in between, or the time ran out (`str()` says which)."""


def _connect(sock: socket.socket, path: str, deadline: float) -> None:
    """Connect; a full backlog, which Unix sockets answer with EAGAIN, is waited for."""
    with socket_address(path) as address:
        while True:
            try:
                sock.connect(address)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.02)
            else:
                return


def ask(path: str, message: dict[str, Any], timeout: float, fds: list[int] | None = None) -> dict[str, Any]:
    """Send one request to the supervisor and return its one answer; `Silence` when none comes within `timeout` seconds."""
    answer, came = borrow(path, message, timeout, fds)
    for fd in came:
        os.close(fd)
    return answer


def borrow(path: str, message: dict[str, Any], timeout: float, fds: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
    """As `ask`, with the descriptors that came with the answer: they are the caller's."""
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout)
        try:
            _connect(sock, path, deadline)
            if fds:
                socket.send_fds(sock, [json.dumps(message).encode()], fds)
            else:
                sock.send(json.dumps(message).encode())
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            packet, came, _flags, _ = socket.recv_fds(sock, MAX_PACKET, _FDS, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as e:
            raise Silence(f"the supervisor behind {path} gave no answer within {timeout:.0f} s") from e
        except OSError as e:
            raise Silence(f"no supervisor listens on {path}: {e.strerror}") from e
    if not packet:
        raise Silence(f"the supervisor behind {path} ended without an answer")
    answer = json.loads(packet)
    if not isinstance(answer, dict):
        raise Silence(f"{path} answered with something that is no object")
    return answer, came
