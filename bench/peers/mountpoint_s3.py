"""Mountpoint for Amazon S3, built from its library (peers/mountpoint). Its cache is emptied by every mount."""

from __future__ import annotations

from pathlib import Path

from peers.base import Peer, tool

BINARY = "mountpoint-bench"


class Mountpoint(Peer):
    name = "mountpoint"
    ttl = "indefinite"
    keeps_cache = False

    @classmethod
    def missing(cls, build: Path) -> str | None:
        return None if tool(build, BINARY) else "cargo could not build bench/peers/mountpoint"

    def command(self) -> list[str]:
        return [
            *(str(tool(self.place.build, BINARY)), self.bucket, str(self.place.dir)),
            *("--endpoint", self.store.url, "--cache", str(self.place.cache), "--allow-other"),
        ]
