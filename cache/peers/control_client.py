"""The asking side of the control door: for commands of this machine, and for members that hand each other bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import msgspec

from forebay.cache.peers import controlwire as c
from forebay.cache.peers import wire
from forebay.cache.peers.auth import Key, Signer

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

SHORT = 15.0
"""Seconds for an answer that needs no bytes of a store."""
LONG = 7 * 86400.0
OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # nodes are reached directly, whatever the environment says
    ("grpc.max_receive_message_length", c.ANSWER_MOST + 4096),
    ("grpc.max_send_message_length", c.MESSAGE_MOST),
    ("grpc.keepalive_time_ms", 10_000),  # a node that died while it worked is noticed within 15 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # the time a connection may take, too
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a member that comes back is found again at once
]
_T = TypeVar("_T")


class ControlClient:
    """Gives orders to nodes by the address of their control door. Thread-safe. All raise `ControlError` with a sentence.

    Generators end the order when they are closed. `clock` is seconds since the epoch.
    """

    def __init__(self, key: Key, *, clock: Callable[[], float] = time.time) -> None:
        self.key = key
        self._signer = Signer(key, clock)
        self._lock = threading.Lock()
        self._channels: dict[str, Any] = {}
        self._closed = False

    def close(self) -> None:
        """Close connections; calls in progress fail."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.close()

    # --- orders

    def hello(self, address: str, *, timeout: float = SHORT) -> c.Who:
        """Whose door this is."""
        return self._one(address, "hello", b"", c.Who, timeout=timeout, to="")

    def load(
        self, address: str, paths: Sequence[bytes], *, metadata_only: bool = False, replicas: int = 0, nodes: Sequence[str] = ()
    ) -> Generator[c.Progress, None, None]:
        """Fetch ahead; progress until the last, which has `finished`."""
        return self._many(address, "load", c.Load(list(paths), metadata_only, replicas, list(nodes)), c.Progress)

    def refresh(self, address: str, path: bytes) -> c.Changed:
        """Have a node believe nothing that it knows of names at and below a path."""
        return self._one(address, "refresh", c.Below(path), c.Changed, timeout=LONG)

    def pin(self, address: str, path: bytes) -> c.Changed:
        return self._one(address, "pin", c.Below(path), c.Changed, timeout=LONG)

    def unpin(self, address: str, path: bytes) -> c.Changed:
        return self._one(address, "unpin", c.Below(path), c.Changed, timeout=LONG)

    def evict(self, address: str, path: bytes) -> c.Changed:
        return self._one(address, "evict", c.Below(path), c.Changed, timeout=LONG)

    def drain(self, address: str, *, force: bool = False) -> Generator[c.Progress, None, None]:
        """Have a node give its bytes away and leave."""
        return self._many(address, "drain", c.Drain(force), c.Progress)

    def take(self, address: str, parts: Sequence[c.Part]) -> Generator[c.Taken, None, None]:
        """Have a node fetch parts of objects."""
        return self._many(address, "take", c.Take(list(parts)), c.Taken)

    def leave(self, address: str, identity: str, *, timeout: float = SHORT) -> c.Changed:
        """Tell a node that the member with `identity` owns nothing any more."""
        return self._one(address, "leave", c.Leave(identity), c.Changed, timeout=timeout)

    def stats(self, address: str) -> dict[str, Any]:
        """The report of a node's worker."""
        return self._one(address, "stats", b"", dict[str, Any], timeout=SHORT)

    # --- calls

    def _one(self, address: str, method: str, message: object, kind: type[_T], *, timeout: float, to: str | None = None) -> _T:
        answers = list(self._call(address, method, message, kind, timeout, to))
        if len(answers) != 1:
            raise c.ControlError(f"node at {address}: {len(answers)} answers to {method}; use one version of forebay", "Internal")
        return answers[0]

    def _many(self, address: str, method: str, message: object, kind: type[_T]) -> Generator[_T, None, None]:
        return self._call(address, method, message, kind, LONG, None)

    def _call(  # noqa: PLR0917 - the parts of a call
        self, address: str, method: str, message: object, kind: type[_T], timeout: float, to: str | None
    ) -> Generator[_T, None, None]:
        body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        if len(body) > c.MESSAGE_MOST:
            raise c.ControlError(f"{method}: an order of {len(body)} bytes, at most {c.MESSAGE_MOST}: split it", "TooLarge")
        if to is None:
            to = self.hello(address).address
        auth, signature = self._signer.header(c.signed(method, to, body))
        channel = self._channel(address)
        call = channel.unary_stream(c.path_of(method))(
            body, timeout=timeout, metadata=((c.AUTH, auth), (c.TO, to)), wait_for_ready=False
        )
        try:
            for number, raw in enumerate(call):
                frame = self._frame(address, signature, number, raw)
                if frame.kind == c.END:
                    return
                try:
                    yield msgspec.msgpack.decode(frame.body, type=kind)
                except (msgspec.DecodeError, ValueError) as e:
                    raise c.ControlError(f"node at {address}: {method}: {e}; use one version of forebay", "Internal") from e
            raise c.ControlError(f"node at {address} broke off its answer to {method}: see its log")
        except grpc.RpcError as e:
            raise _failure(address, method, e) from e
        finally:
            call.cancel()

    def _frame(self, address: str, signature: str, number: int, raw: bytes) -> c.Frame:
        try:
            frame = c.unseal(self.key, signature, number, raw)
        except c.ControlError as e:
            raise c.ControlError(f"node at {address}: {e}", e.name) from e
        if frame.kind == c.FAILED:
            with contextlib.suppress(msgspec.DecodeError):
                failed = wire.decode_failed(frame.body)
                raise c.ControlError(f"node at {address}: {failed.message}", failed.name)
        return frame

    def _channel(self, address: str) -> Any:
        with self._lock:
            if self._closed:
                raise c.ControlError("the client was closed")
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = grpc.insecure_channel(address, options=OPTIONS)
            return channel


def _failure(address: str, method: str, e: Any) -> c.ControlError:
    code, details = e.code(), e.details() or ""
    names = {
        grpc.StatusCode.UNAUTHENTICATED: "Unauthorised",
        grpc.StatusCode.FAILED_PRECONDITION: "Misdirected",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "Busy",
        grpc.StatusCode.UNIMPLEMENTED: "Protocol",
        grpc.StatusCode.CANCELLED: "Cancelled",
    }
    name = names.get(code, "Unavailable")
    if name == "Unavailable":
        details = f"does not answer {method} ({details}): is its worker up, and is this its control door?"
    elif name == "Protocol":
        details = f"knows no {method}: use one version of forebay on all nodes"
    return c.ControlError(f"node at {address}: {details}" if name != "Unavailable" else f"node at {address} {details}", name)
