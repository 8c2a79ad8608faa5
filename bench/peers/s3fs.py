"""s3fs-fuse: whole files in a cache directory (Debian's s3fs)."""

from __future__ import annotations

from pathlib import Path

from peers.base import Peer, tool


class S3fs(Peer):
    name = "s3fs"
    ttl = "stat cache 1 day; kernel_cache"
    keeps_pages = True

    @classmethod
    def missing(cls, build: Path) -> str | None:
        return None if tool(build, "s3fs") else "apt-get install s3fs"

    def command(self) -> list[str]:
        options = [
            f"url={self.store.url}",
            *("use_path_request_style", "ro", "allow_other", f"use_cache={self.place.cache}"),
            *("max_stat_cache_size=1000000", "stat_cache_expire=86400", "kernel_cache"),
            *("parallel_count=10", "multireq_max=20", "ensure_diskfree=1024", "endpoint=us-east-1"),
        ]
        return ["s3fs", self.bucket, str(self.place.dir), "-f", *(x for o in options for x in ("-o", o))]
