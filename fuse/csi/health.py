"""Liveness over HTTP: `GET /healthz` asks the driver's own socket, as kubelet would, and answers 200 or 503 with a sentence.

`GET /readyz` says beyond that what of the node's mounts is not in this process's hands yet: until then the other pod must stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forebay.fuse.csi.protocol import messages as m
from forebay.fuse.csi.protocol import rpc
from forebay.fuse.csi.protocol.proto import Empty
from forebay.fuse.csi.protocol.refusal import Refusal

DEADLINE = 3.0
LIVE, READY = "/healthz", "/readyz"


class Health:
    """Serves at (host, port); port 0 takes a free one, `port` says which. `waiting`: what it is not ready for, "" when it is."""

    def __init__(self, host: str, port: int, socket_path: str, waiting: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0

            def do_GET(self) -> None:
                code, text = (200, "ok\n") if self.path in (LIVE, READY) else (404, f"only {LIVE} and {READY} are here\n")
                if code == 200 and (why := problem(socket_path) or (waiting() if self.path == READY else "")):
                    code, text = 503, f"{why}\n"
                self.send_response(code)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                return  # a probe every few seconds is no news

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="csi-health", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def problem(socket_path: str) -> str:
    """What is wrong with the driver behind a socket, "" when it is well."""
    try:
        probed = rpc.ask(socket_path, f"{m.IDENTITY}/Probe", Empty(), m.Probed, DEADLINE)
    except Refusal as e:
        return f"the driver does not answer at {socket_path}: {e.code} {e}"
    return "" if probed.ready is None or probed.ready.value else "the driver says that it is not ready: see its log"
