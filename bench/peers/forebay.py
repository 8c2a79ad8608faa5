"""Ourselves, through the command line that users have: `up`, `down`, `status`. Three profiles.

The dataset is annotated immutable, so names and attributes may be trusted for good, as every peer here is told for a day or
longer.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import procs
from peers.base import Peer, tool

DATASET = """\
apiVersion: v1
kind: Secret
metadata:
  name: bench-keys
stringData:
  access: {access}
  secret: {secret}
---
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata:
  name: bench
  annotations:
    forebay.io/freshness: immutable
spec:
  mounts:
"""
MOUNT = """\
    - mountPoint: s3://{bucket}/
      name: {bucket}
      path: {path}
      options:
        endpoint: {url}
        region: us-east-1
        path_style: "true"
      encryptOptions:
        - name: access_key
          valueFrom:
            secretKeyRef: {{name: bench-keys, key: access}}
        - name: secret_key
          valueFrom:
            secretKeyRef: {{name: bench-keys, key: secret}}
"""


class Forebay(Peer):
    name = "forebay"
    ttl = "immutable: for good"
    keeps_pages = True
    ours = True
    flags: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()  # starts a command as whoever mounts

    @classmethod
    def missing(cls, build: Path) -> str | None:
        return None if (build.parent / ".venv/bin/forebay").exists() else "make setup"

    def cli(self) -> list[str]:
        return [str(self.place.build.parent / ".venv/bin/forebay")]

    def environment(self) -> dict[str, str]:
        return {
            "FOREBAY_RUN_DIR": str(self.place.folder / "run"),
            "HOME": str(self.place.folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            procs.VARIABLE: self.mount_token,
        }

    def _call(self, *args: str, timeout: float = 120) -> str:
        done = subprocess.run(
            [*self.runner, *self.cli(), *args],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.place.folder,
            env={**os.environ, **self.environment()},
        )
        if done.returncode:
            raise RuntimeError(f"forebay {args[0]}: {done.stderr.strip()[-600:]} {self.tail()}")
        return done.stdout

    def mount(self) -> float:
        self.described.write_text(self.manifest())
        t = time.monotonic()
        self._call(*self.command())
        return time.monotonic() - t

    @property
    def described(self) -> Path:
        return self.place.folder / "dataset.yaml"

    def command(self) -> list[str]:
        """Of `forebay`."""
        where = ("--mount", str(self.place.dir), "--cache-dir", str(self.place.cache))
        return ["up", "-f", str(self.described), *where, *self.flags]

    def manifest(self) -> str:
        """One bucket is the root; several ("a+b") are folders of one tree."""
        buckets = self.bucket.split("+")
        paths = ["/"] if len(buckets) == 1 else [f"/{b}" for b in buckets]
        mounts = [MOUNT.format(bucket=b, path=p, url=self.store.url) for b, p in zip(buckets, paths, strict=True)]
        return DATASET.format(access=self.store.key, secret=self.store.secret) + "".join(mounts)

    def unmount(self) -> None:
        try:
            self._call("down", "bench")
        finally:
            super().unmount()

    def status(self) -> Any:
        return json.loads(self._call("status", "-o", "json"))

    def warm(self, path: str = "") -> None:
        self._call("warm", f"bench:/{path}" if path else "bench", timeout=1800)

    def tail(self) -> str:
        logs = sorted((self.place.folder / "run").rglob("*.log"))
        return " ".join(f"{p.name}: {p.read_text(errors='replace').strip()[-400:]}" for p in logs if p.stat().st_size)


class Relayed(Forebay):
    """The passthrough bit left out of INIT: kernels before 6.9."""

    name = "forebay-relayed"
    flags = ("--no-passthrough",)


class Ordinary(Forebay):
    """An ordinary user's mount (fusermount3). Only that user sees it, so the reader runs as the same one."""

    name = "forebay-user"
    uid = 65534
    runner = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    device = Path("/dev/fuse")

    @classmethod
    def missing(cls, build: Path) -> str | None:
        if why := super().missing(build):
            return why
        if os.geteuid():
            return "needs root to become somebody else"
        for need in ("setpriv", "fusermount3"):
            if not tool(build, need):
                return f"apt-get install {'fuse3' if need.startswith('fuse') else 'util-linux'}"
        return None if cls.interpreter(build) else "no Python here that user 65534 may run"

    @classmethod
    def interpreter(cls, build: Path) -> Path | None:
        """The environment's Python, or the distribution's of the same version where the first lies in somebody's home."""
        inside = build.parent / ".venv/bin/python3"
        for python in (inside, Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")):
            # A shell in between: setpriv itself still reaches everything while it executes the first program.
            done = subprocess.run([*cls.runner, "sh", "-c", 'exec "$0" -c ""', str(python)], capture_output=True, check=False)
            if done.returncode == 0:
                return python
        return None

    def cli(self) -> list[str]:
        return [str(self.interpreter(self.place.build)), "-P", "-m", "forebay.cli.main"]

    def environment(self) -> dict[str, str]:
        home = self.place.build.parent
        found = (home / "src", *(home / ".venv/lib").glob("python*/site-packages"))
        return {**super().environment(), "PYTHONPATH": ":".join(map(str, found))}

    def prepare(self, plain: Path) -> None:
        for path in (self.place.folder, self.place.dir, self.place.cache):
            os.chown(path, self.uid, self.uid)
        # Debian's device is open to everybody; a machine without udev keeps it root's.
        self.mode = stat.S_IMODE(self.device.stat().st_mode)
        self.device.chmod(0o666)

    def forget(self) -> None:
        super().forget()
        os.chown(self.place.cache, self.uid, self.uid)

    def finish(self) -> None:
        self.device.chmod(self.mode)
