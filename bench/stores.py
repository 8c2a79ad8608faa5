"""The stores a cold figure is measured against, and the links to them: versitygw on loopback, 5 ms away, or at 500 MB/s."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import procs

KEY, SECRET = "bench", "bench-secret-key"


@dataclass(frozen=True)
class Store:
    url: str
    pid: int  # of the server, whose written bytes are what it sent
    key: str = KEY
    secret: str = SECRET

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",  # or some look for a cloud's metadata service first
            "AWS_REGION": "us-east-1",
        }

    def curl(self, bucket: str, key: str, out: Path) -> list[str]:
        """The raw client: one stream, signed, written to a file."""
        return [
            *("curl", "-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{self.key}:{self.secret}"),
            *("-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-o", str(out), f"{self.url}/{bucket}/{key}"),
        ]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_port(host: str, port: int, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not listen on {host}:{port}") from None
            time.sleep(0.05)


def launch(command: list[str], token: str, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start in a session of its own, so that Ctrl-C reaches only the bench, which then ends everything in order."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(env or {}), procs.VARIABLE: token},
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


@contextmanager
def versitygw(
    binary: Path, root: Path, token: str, log: Path, *, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
) -> Iterator[Store]:
    """S3 over a plain folder; a bucket is a sub-folder. `prefix` starts it in a network namespace."""
    port = free_port()
    server = launch(
        [
            *(*prefix, str(binary), "--port", f"{host}:{port}", "--access", KEY, "--secret", SECRET),
            *("--quiet", "--keep-alive", "posix", str(root)),
        ],
        token,
        log,
    )
    try:
        wait_port(host, port, server)
        yield Store(f"http://{host}:{port}", server.pid)
    finally:
        stop(server)


@contextmanager
def redis(folder: Path, token: str, log: Path) -> Iterator[int]:
    """JuiceFS's metadata. Yields the port."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    server = launch(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"],
        token,
        log,
    )
    try:
        wait_port("127.0.0.1", port, server)
        yield port
    finally:
        stop(server)


@contextmanager
def further(store: Store, milliseconds: float, token: str, log: Path) -> Iterator[Store]:
    """The same store with every request arriving later."""
    port = free_port()
    target = store.url.removeprefix("http://")
    proxy = launch(
        [sys.executable, str(Path(__file__).with_name("delay.py")), str(port), target, str(milliseconds)],
        token,
        log,
    )
    try:
        wait_port("127.0.0.1", port, proxy)
        yield Store(f"http://127.0.0.1:{port}", store.pid)
    finally:
        stop(proxy)


@contextmanager
def shaped(binary: Path, root: Path, token: str, log: Path, bytes_per_second: int = 500_000_000) -> Iterator[Store]:
    """The store in a network namespace of its own, at the far end of a link that passes `bytes_per_second`. Needs root."""
    tag = secrets.token_hex(3)
    space, near, far = f"fbb-{tag}", f"fbn{tag}", f"fbf{tag}"
    here, there = "198.18.91.1", "198.18.91.2"  # the range reserved for benchmarks

    def ip(*args: str) -> None:
        subprocess.run(["ip", *args], check=True, capture_output=True)

    ip("netns", "add", space)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        ip("addr", "add", f"{here}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", space, "addr", "add", f"{there}/30", "dev", far)
        ip("-n", space, "link", "set", far, "up")
        ip("-n", space, "link", "set", "lo", "up")
        # A bucket of 4 MB is 8 ms of this rate: large enough for 64 KiB segments, small enough not to show.
        subprocess.run(
            [
                *("tc", "-n", space, "qdisc", "add", "dev", far, "root", "tbf"),
                *("rate", f"{bytes_per_second * 8}bit", "burst", "4mb", "limit", "16mb"),
            ],
            check=True,
            capture_output=True,
        )
        inside = ("nsenter", f"--net=/run/netns/{space}")
        with versitygw(binary, root, token, log, host=there, prefix=inside) as store:
            yield store
    finally:
        subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)
        ip("netns", "del", space)
