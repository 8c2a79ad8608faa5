"""Real servers on loopback for tests: nginx, and S3 by moto (slow, but complete) or versitygw where there is one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIDTEST", "secret-test"


def free_port() -> int:
    return ports_for(1)[0]


def ports_for(count: int) -> list[int]:
    """Ports below those that the kernel gives to connections: they stay free until who they are for listens, and while it is
    down. By chance of the machine's, since tests that run at the same time must not draw the same ones."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = random.SystemRandom()
    found: list[int] = []
    for _ in range(1000):
        port = chance.randrange(12_000, min(lowest, 32_000))
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in found:
            found.append(port)
        if len(found) >= count:
            return found
    raise RuntimeError(f"no {count} free ports below {lowest}")


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Until somebody listens. Raises with the process's last words when it ends before."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                stop(process)
                if process.stderr:
                    process.stderr.seek(0)
                words = process.stderr.read() if process.stderr else b""
                raise RuntimeError(f"{process.args} does not listen: {words[-2000:]!r}") from None
            time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that was started in a session of its own, and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


@contextmanager
def running(command: list[str], port: int, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as words:  # a pipe that nobody reads stops a server after 64 KiB of log
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, start_new_session=True, **more
        )
        process.stderr = words
        try:
            wait_for_port(port, process)
            yield process
        finally:
            stop(process)


@contextmanager
def nginx(root: Path, scratch: Path, extra: str = "") -> Iterator[str]:
    """A server of `root` with directory indexes; `extra` goes into its `server` block. Yields its URL without a final slash."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    scratch.mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""
    temp = " ".join(f"{kind}_temp_path {scratch}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (scratch / "nginx.conf").write_text(
        f"daemon off; {user} worker_processes 1; pid {scratch}/pid; error_log {scratch}/error.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; {temp} types {{ text/html html; }} default_type application/octet-stream; sendfile on;\n"
        f"server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; {extra} }} }}\n"
    )
    with running([binary, "-p", str(scratch), "-c", str(scratch / "nginx.conf"), "-e", str(scratch / "error.log")], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def moto() -> Iterator[str]:
    """moto's S3 server. Yields its URL."""
    port = free_port()
    environment = os.environ | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, env=environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def versitygw(folder: Path) -> Iterator[str]:
    """versitygw over the sub-folders of `folder`. Needs the binary on PATH or named by FOREBAY_VERSITYGW."""
    binary = os.environ.get("FOREBAY_VERSITYGW") or shutil.which("versitygw")
    if binary is None:
        raise FileNotFoundError("versitygw")
    port = free_port()
    command = [
        binary,
        "--port",
        f"127.0.0.1:{port}",
        "--access",
        KEY,
        "--secret",
        SECRET,
        "--quiet",
        "--keep-alive",
        "posix",
        str(folder),
    ]
    with running(command, port):
        yield f"http://127.0.0.1:{port}"


def boto(url: str) -> Any:
    """A boto3 S3 client for `url`."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}),
    )
