"""The control door: orders to a node, by gRPC. Nobody without the dataset's secret gets an answer, or a message read.

A request is refused by its metadata, before its message is waited for; an accepted one has `MESSAGE_IN` seconds to send it.
`DOORS` orders are carried out at a time, of which `LONG` may be loads, drains and takes, so that short ones get through.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec

from forebay.cache.log import log
from forebay.cache.members.roster import join_address
from forebay.cache.peers import controlwire as c
from forebay.cache.peers import wire
from forebay.cache.peers.auth import AuthError, Key, Verifier, body_of, sha256
from forebay.cache.peers.wire import Refused

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # a worker does not fork: no handlers, no warnings
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own words on stderr are no lines of a log

import grpc

DOORS = 16
LONG = 8
MESSAGE_IN = 5.0
IDLE = 60.0
METADATA_MOST = 16 << 10
LOG_EVERY = 1.0
_T = TypeVar("_T")
OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second worker at one address is an error
    ("grpc.max_receive_message_length", c.MESSAGE_MOST),
    ("grpc.max_send_message_length", c.ANSWER_MOST),
    ("grpc.max_metadata_size", METADATA_MOST),
    ("grpc.absolute_max_metadata_size", METADATA_MOST),
    ("grpc.max_concurrent_streams", DOORS),
    ("grpc.max_connection_idle_ms", int(IDLE * 1000)),
    ("grpc.server_handshake_timeout_ms", int(MESSAGE_IN * 1000)),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]


class Orders(Protocol):
    """What a node does when it is told to. Called from the door's threads.

    Iterators answer at least every second while they work, and stop working when they are closed. All raise `StoreError`,
    `Refused` or `ControlError` with a sentence.
    """

    def who(self) -> tuple[str, str]:
        """Identity and name of this node."""
        ...

    def load(self, load: c.Load) -> Iterator[c.Progress]: ...
    def refresh(self, below: c.Below) -> c.Changed: ...
    def pin(self, below: c.Below) -> c.Changed: ...
    def unpin(self, below: c.Below) -> c.Changed: ...
    def evict(self, below: c.Below) -> c.Changed: ...
    def drain(self, drain: c.Drain) -> Iterator[c.Progress]: ...
    def take(self, take: c.Take) -> Iterator[c.Taken]: ...
    def leave(self, leave: c.Leave) -> c.Changed: ...
    def stats(self) -> dict[str, object]: ...


class Control:
    """Serves `orders` at (host, port); port 0 takes a free one, `address` says which. `clock` is seconds since the epoch."""

    def __init__(
        self, orders: Orders, key: Key, identity: str, host: str, port: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.orders = orders
        self.key = key
        self.who = c.Who(identity, os.urandom(8).hex(), orders.who()[1])
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.address = ""
        self._bind = join_address(host, port)
        self._verifier = Verifier(key, clock)
        self._long = threading.BoundedSemaphore(LONG)
        self._lock = threading.Lock()
        self._said = 0.0
        self._pool = ThreadPoolExecutor(DOORS, "forebay-control")
        self._server = grpc.server(self._pool, [_Handlers(self)], options=OPTIONS, maximum_concurrent_rpcs=DOORS)

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        taken = OSError(f"the control door {self._bind} cannot be had: give another --control-listen, or end who has it")
        try:
            port = self._server.add_insecure_port(self._bind)
        except RuntimeError as e:
            raise taken from e
        if not port:
            raise taken
        self.address = f"{self._bind.rpartition(':')[0]}:{port}"
        self._server.start()

    def close(self, timeout: float = 0.5) -> None:
        """Stop listening; what still runs after `timeout` seconds is cancelled."""
        self._server.stop(timeout).wait(timeout + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- one call

    def serve(self, method: str, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answers of one call."""
        to, auth = "", ""
        for name, value in context.invocation_metadata():
            if name == c.AUTH:
                auth = value
            elif name == c.TO:
                to = value
        try:
            signature = self._verifier.check(auth, c.signed(method, to, b""))
            if method != "hello" and to != self.who.address:
                raise Refused("Misdirected", "another member, or another start of it, lives here now: greet it again")
        except AuthError as e:
            self._refuse("Unauthorised", context, e)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(e))
            return
        except Refused as e:
            self._refuse(e.name, context, e)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(e))
            return
        number = 0
        try:
            for body in self._answers(method, self._message(messages, context, body_of(auth))):
                yield c.seal(self.key, signature, number, c.ANSWER, body)
                number += 1
            kind, body = c.END, b""
        except Exception as e:  # noqa: BLE001 - who asked is told, whatever it was
            name = e.name if isinstance(e, c.ControlError) else wire.error_name(e)
            if name == "Internal":
                log("control", "defect", method=method, error=f"{type(e).__name__}: {e}")
            self._refuse(name, context, e)
            kind, body = c.FAILED, wire.encode(wire.Failed(name, str(e)))
        yield c.seal(self.key, signature, number, kind, body)

    def _message(self, messages: Iterator[bytes], context: Any, wanted: str) -> bytes:
        late = threading.Event()

        def cut() -> None:
            late.set()
            context.cancel()

        slow = threading.Timer(MESSAGE_IN, cut)
        slow.daemon = True
        slow.start()
        message = None
        try:
            message = next(messages, None)
        except grpc.RpcError:
            pass  # the call is over: said below
        finally:
            slow.cancel()
        if message is None:
            if late.is_set():
                raise Refused("TooSlow", f"the message of an order did not come within {MESSAGE_IN:.0f} s")
            raise Refused("Malformed", "an order without a message, or with one that is too large")
        if sha256(message) != wanted:
            raise Refused("Malformed", "the message is not the one that was signed")
        return message

    def _answers(self, method: str, message: bytes) -> Iterator[bytes]:
        self.requests[method] += 1
        o = self.orders
        encode = msgspec.msgpack.encode
        if method == "hello":
            yield encode(self.who)
        elif method == "stats":
            yield encode(o.stats())
        elif method == "refresh":
            yield encode(o.refresh(_below(message)))
        elif method == "pin":
            yield encode(o.pin(_below(message)))
        elif method == "unpin":
            yield encode(o.unpin(_below(message)))
        elif method == "evict":
            yield encode(o.evict(_below(message)))
        elif method == "leave":
            yield encode(o.leave(_decode(message, c.Leave)))
        elif method == "load":
            load = _decode(message, c.Load)
            c.check_load(load)
            yield from self._stream(o.load(load))
        elif method == "drain":
            yield from self._stream(o.drain(_decode(message, c.Drain)))
        else:
            take = _decode(message, c.Take)
            c.check_take(take)
            yield from self._stream(o.take(take))

    def _stream(self, answers: Iterator[Any]) -> Iterator[bytes]:
        if not self._long.acquire(blocking=False):
            raise Refused("Busy", f"{LONG} loads and drains run on this node: try again when one has ended")
        try:
            for answer in answers:
                yield msgspec.msgpack.encode(answer)
        finally:
            try:
                close = getattr(answers, "close", None)
                if close is not None:
                    close()
            finally:
                self._long.release()

    def _refuse(self, name: str, context: Any, why: Exception) -> None:
        with self._lock:
            self.refused[name] += 1
            now = time.monotonic()
            if now - self._said < LOG_EVERY:
                return  # a flood of strangers fills no disk; the count tells
            self._said = now
        log("control", "refused", why=name, caller=context.peer(), error=str(why))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method takes a stream, so that a handler runs before a message has come."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.removeprefix(f"/{c.SERVICE}/")
        if method not in c.METHODS:
            return None
        control = self._control
        return grpc.stream_stream_rpc_method_handler(lambda messages, context: control.serve(method, messages, context))


def _below(message: bytes) -> c.Below:
    below = _decode(message, c.Below)
    c.check_path(below.path)
    return below


def _decode(message: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(message, type=kind)
    except (msgspec.DecodeError, ValueError) as e:
        raise Refused("Malformed", f"no {kind.__name__}: {e}") from e
