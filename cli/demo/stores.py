"""Stores for the demo on loopback: an S3 server, an HTTP server and a directory, filled with files any machine has."""

from __future__ import annotations

import http.client
import os
import queue
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import xxhash

from forebay.cli.output import CommandError

BUCKET = "wheels"
ACCESS_KEY, SECRET_KEY = "demo-access-key", "demo-secret-key"
UPLOADS = 4
SERVER_LIMIT = 20.0
"""Seconds for a server of the demo to answer."""
_NGINX = """\
{user}worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 256; }}
http {{
  default_type application/octet-stream; sendfile on; access_log off; keepalive_requests 100000;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; autoindex_exact_size on; }}
}}
"""


class File(NamedTuple):
    """One file of an origin: its path below the origin, its size and the xxh3-128 of its bytes."""

    name: str
    size: int
    digest: bytes


class Origin(NamedTuple):
    """One store of the demo. `root` is the plain directory its files were taken into; `kind` names the server."""

    name: str
    root: Path
    kind: str
    url: str
    files: list[File]

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files)


def choose(top: Path, max_bytes: int, max_files: int, skip: tuple[str, ...] = ("__pycache__",)) -> list[tuple[str, int]]:
    """Names and sizes below `top`: the largest files for three quarters of the bytes, then by directory."""
    found: list[tuple[str, int]] = []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(d for d in folders if d not in skip)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and "\n" not in name:
                found.append((os.path.relpath(path, top), os.path.getsize(path)))
    taken: dict[str, int] = {}
    room = max_bytes
    for name, size in sorted(found, key=lambda f: -f[1])[: max_files // 10]:
        if size <= room - max_bytes // 4:
            taken[name] = size
            room -= size
    for name, size in found:
        if len(taken) >= max_files:
            break
        if name not in taken and size <= room:
            taken[name] = size
            room -= size
    return sorted(taken.items())


def collect(top: Path, into: Path, max_bytes: int, max_files: int, skip: tuple[str, ...]) -> list[File]:
    """Copy chosen files of `top` to `into` (an origin must not change while it is shown) and hash them."""
    files = []
    for name, _ in choose(top, max_bytes, max_files, skip):
        try:
            data = (top / name).read_bytes()
        except OSError:
            continue  # readable for others only, or gone since: any other file is as good
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        files.append(File(name, len(data), xxhash.xxh3_128_digest(data)))
    return files


def sources() -> list[tuple[str, Path, tuple[str, ...]]]:
    """(name, directory, folders to leave out) of what any machine has: wheels, the Python tree, documentation."""
    docs = next(
        (p for p in (Path("/usr/share/doc"), Path("/usr/share"), Path("/etc")) if p.is_dir() and any(p.iterdir())), Path("/etc")
    )
    cache = "__pycache__"
    return [
        (BUCKET, Path(sysconfig.get_path("purelib")), (cache,)),
        ("python", Path(sysconfig.get_path("stdlib")), (cache, "site-packages", "dist-packages")),
        ("docs", docs, (cache,)),
    ]


class Servers:
    """The servers of a demo; `close` ends them."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._running: list[subprocess.Popen[bytes]] = []

    def start_s3(self) -> int:
        """moto's S3 server on a free port; the port."""
        try:
            import moto.server  # noqa: F401 - only whether it is there
        except ImportError as e:
            raise CommandError(f"the demo's S3 server is not installed ({e}): pip install 'forebay[demo]'") from e
        port = _free_port()
        self._start([sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], "s3", port)
        return port

    def start_http(self, root: Path) -> tuple[int, str]:
        """nginx where it is installed, Python's own server otherwise; port and name."""
        port = _free_port()
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
        if nginx:
            conf = self.work / "nginx.conf"
            user = "user root; " if os.geteuid() == 0 else ""  # the demo's files are ours alone
            conf.write_text(_NGINX.format(work=self.work, port=port, root=root, user=user))
            self._start([nginx, "-p", str(self.work), "-e", str(self.work / "nginx.log"), "-c", str(conf)], "http", port)
            return port, "nginx"
        argv = [sys.executable, "-P", "-m", "http.server", "-b", "127.0.0.1", "-d", str(root), "-p", "HTTP/1.1", str(port)]
        self._start(argv, "http", port)
        return port, "http.server"

    def _start(self, argv: list[str], name: str, port: int) -> None:
        with open(self.work / f"{name}.log", "wb") as log:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
        self._running.append(child)
        deadline = time.monotonic() + SERVER_LIMIT
        while time.monotonic() < deadline:
            if child.poll() is not None:
                break
            with socket.socket() as sock:
                sock.settimeout(1)
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise CommandError(f"the demo's {name} server does not answer: see {self.work / name}.log (kept)")

    def close(self) -> None:
        for child in self._running:
            child.terminate()
        for child in self._running:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)
        self._running.clear()


def upload(port: int, root: Path, files: list[File]) -> None:
    """PUT files into the bucket, UPLOADS at a time."""
    with_connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    _put(with_connection, f"/{BUCKET}", b"")
    with_connection.close()
    waiting: queue.SimpleQueue[File | None] = queue.SimpleQueue()
    failures: list[str] = []
    for file in files:
        waiting.put(file)

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not failures and (file := waiting.get()) is not None:
            try:
                _put(connection, f"/{BUCKET}/{quote(file.name)}", (root / file.name).read_bytes())
            except (OSError, http.client.HTTPException, CommandError) as e:
                failures.append(f"{file.name}: {e}")
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(UPLOADS)]
    for thread in threads:
        waiting.put(None)
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise CommandError(f"filling the demo's S3 server failed: {failures[0]}")


def _put(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    # public, so that the demo's plain client need not sign; forebay's own requests are signed
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    connection.request("PUT", path, body, headers)
    reply = connection.getresponse()
    reply.read()
    if reply.status != 200:
        raise CommandError(f"PUT {path} was answered {reply.status}")


def straight(origin: Origin, files: list[File]) -> Iterator[tuple[File, bytes]]:
    """Every file as a plain client gets it: one connection, one GET after the other; a directory is read."""
    if origin.kind == "directory":
        for file in files:
            with open(origin.root / file.name, "rb") as f:
                yield file, f.read()
        return
    host, _, path = origin.url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    prefix = f"/{path.strip('/')}" if path.strip("/") else ""
    for file in files:
        connection.request("GET", f"{prefix}/{quote(file.name)}")
        reply = connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise CommandError(f"GET {file.name} was answered {reply.status}")
        yield file, data
    connection.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
