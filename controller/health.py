"""The controller's HTTP door: `/metrics` for Prometheus, `/healthz` and `/readyz` for the kubelet. It answers GET alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

LOG = logging.getLogger(__name__)

Check = Callable[[], str]
"""What is wrong, "" when all is well."""
PATIENCE = 10.0
"""Seconds that a caller may take for its request."""
AT_ONCE = 16


class Door:
    """Listens on `address` (host, port; port 0: any) from `start` until `stop`. Each check is a path: `{"/healthz": check}`."""

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, checks: dict[str, Check]) -> None:
        self.registry, self.checks = registry, checks
        self._server = _Server(address, self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Code, content type, body."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)
        check = self.checks.get(path)
        if check is None:
            return 404, "text/plain", f"{path} is nothing here: there is /metrics, {', '.join(self.checks)}\n".encode()
        wrong = check()
        return (503, "text/plain", f"{wrong}\n".encode()) if wrong else (200, "text/plain", b"ok\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = AT_ONCE

    def __init__(self, address: tuple[str, int], door: Door) -> None:
        self.door = door
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def process_request_thread(self, request: object, client_address: object) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        LOG.info("a caller of the health door broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server_version, sys_version = "forebay", ""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        code, content, body = self.server.door.answer(urlsplit(self.path).path)
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        LOG.debug("health door: " + format, *args)
