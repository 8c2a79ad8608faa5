"""gRPC over a Unix socket: decodes a request, calls its method, answers with a message or with the specification's code.

A method is a plain function of a message. Everything it may refuse is a `Refusal`; anything else is a defect, logged with its
trace, and INTERNAL to the caller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from forebay.cache.log import log
from forebay.fuse.csi.protocol import proto
from forebay.fuse.csi.protocol.proto import Message
from forebay.fuse.csi.protocol.refusal import Refusal

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children are spawned, never forked, from this process
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

THREADS = 64
"""Calls at once; those that wait for a dataset sleep in theirs, 45 s at most."""
MESSAGE_MOST = 4 << 20
SILENT = frozenset(("Probe", "GetPluginInfo", "NodeGetCapabilities", "NodeGetVolumeStats", "GetInfo"))
"""Calls that come all the time: only their failures are logged."""
_M = TypeVar("_M", bound=Message)


class Method(NamedTuple):
    type: type[Message]
    call: Callable[[Any], Message]


class Busy:
    """Keys of operations in flight; a second one for the same key is ABORTED, so that the caller tries again later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[str] = set()

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        with self._lock:
            for key in keys:
                if key in self._held:
                    raise Refusal("ABORTED", f"another call for {key} is being carried out: call again when it has ended")
            self._held.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._held.difference_update(keys)


class Server:
    """Serves `methods` ("service/Method" -> Method) at a Unix socket of mode 0600."""

    def __init__(self, path: str, methods: Mapping[str, Method]) -> None:
        self.path = path
        self._methods = {f"/{name}": method for name, method in methods.items()}
        self._pool = ThreadPoolExecutor(THREADS, "csi")
        options = [("grpc.max_receive_message_length", MESSAGE_MOST), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._pool, [_Handlers(self._methods)], options=options)

    def start(self) -> None:
        """Listen. A socket that an earlier process left is replaced; one that somebody listens on is an OSError."""
        if _answers(self.path):
            raise OSError(f"another process serves {self.path}: end it, or give another --endpoint")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        before = os.umask(0o177)
        try:
            if not self._server.add_insecure_port(f"unix:{self.path}"):
                raise OSError(f"{self.path} cannot be listened on")
            self._server.start()
        except RuntimeError as e:
            raise OSError(
                f"{self.path} cannot be listened on: a socket's path has at most 107 bytes, in a directory that exists"
            ) from e
        finally:
            os.umask(before)

    def stop(self, grace: float) -> None:
        """Accept no more, wait `grace` seconds for calls under way, remove the socket."""
        self._server.stop(grace).wait(grace + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(path)
        except OSError:
            return False
        return True


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None  # gRPC answers UNIMPLEMENTED
        name = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda raw, context: _serve(name, method, raw, context))


def _serve(name: str, method: Method, raw: bytes, context: Any) -> bytes:
    began = time.monotonic()
    volume = ""
    try:
        try:
            request = proto.decode(method.type, raw)
        except ValueError as e:
            raise Refusal("INVALID_ARGUMENT", f"the request cannot be read: {e}") from None
        volume = getattr(request, "volume_id", "") or getattr(request, "name", "")
        answer = proto.encode(method.call(request))
    except Refusal as e:
        log("csi", "refused", call=name, volume=volume, code=e.code, why=str(e), took=round(time.monotonic() - began, 3))
        context.abort(getattr(grpc.StatusCode, e.code), str(e))
    except OSError as e:  # the system's own: a full or broken disk
        full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENFILE, errno.EMFILE, errno.ENOMEM)
        why = f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}"
        log("csi", "failed", call=name, volume=volume, error=why, trace=traceback.format_exc()[-2000:])
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INTERNAL
        context.abort(code, f"{why}; {'make room on the node' if full else 'see the log of the node plugin'}")
    except Exception as e:  # noqa: BLE001 - the caller is answered, whatever it was
        log("csi", "defect", call=name, volume=volume, error=f"{type(e).__name__}: {e}", trace=traceback.format_exc()[-2000:])
        context.abort(grpc.StatusCode.INTERNAL, f"{type(e).__name__}: {e}; see the node plugin's log")
    if name not in SILENT:
        log("csi", "done", call=name, volume=volume, took=round(time.monotonic() - began, 3))
    return answer


OWN = [("grpc.use_local_subchannel_pool", 1)]
"""gRPC keeps connections for all channels of a process, with the answer of the last try for up to 1 s: each call asks anew."""


def ask(path: str, method: str, request: Message, type_: type[_M], timeout: float) -> _M:
    """Call a method at a Unix socket, as kubelet does. Raises `Refusal` with the answer's code."""
    with grpc.insecure_channel(f"unix:{path}", options=OWN) as channel:
        call = channel.unary_unary(f"/{method}")
        try:
            raw = call(proto.encode(request), timeout=timeout)
        except grpc.RpcError as e:
            raise Refusal(e.code().name, e.details() or "") from None
    return proto.decode(type_, raw)
