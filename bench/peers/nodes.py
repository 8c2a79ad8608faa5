"""Ourselves on several nodes of this machine: `up --workers N`, and the views of client tiers beyond them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from peers.base import Peer, Place, unmount
from peers.forebay import Forebay
from stores import Store


class Nodes(Forebay):
    """`workers` nodes and a mount for each of the first `views` of them; beyond the workers the views are client tiers."""

    name = "forebay-nodes"

    def __init__(
        self, place: Place, store: Store, bucket: str, *, workers: int = 3, views: int = 3, flags: tuple[str, ...] = ()
    ) -> None:
        super().__init__(place, store, bucket)
        self.workers = workers
        self.flags = flags
        self.views = [place.folder / f"view{i + 1}" for i in range(views)]

    def command(self) -> list[str]:
        views = [word for v in self.views for word in ("--mount", str(v))]
        where = ("--cache-dir", str(self.place.cache), "--workers", str(self.workers))
        return ["up", "-f", str(self.described), *views, *where, *self.flags]

    def unmount(self) -> None:
        try:
            self._call("down", "bench")
        finally:
            for view in self.views:
                unmount(view)
            Peer.unmount(self)

    def forget_node(self, node: str) -> None:
        """Empty the cache of one node; all are down."""
        shutil.rmtree(self.place.cache / node)

    def set_aside(self, node: str) -> None:
        """Take the cache of one node away, and delete it with everything else at the end; all are down.

        On an ext4 without a journal a deletion is paid for by whoever makes files in the minutes after it (`measure.settle`).
        """
        aside = self.place.folder / "aside"
        aside.mkdir(exist_ok=True)
        (self.place.cache / node).rename(aside / f"{node}-{len(list(aside.iterdir()))}")

    def cluster(self) -> dict[str, Any]:
        """What `status` adds up."""
        (view,) = self.status()["clusters"]
        return dict(view)

    def node(self, name: str) -> dict[str, Any]:
        return next(d for d in self.status()["datasets"] if d["node"] == name)

    def worker(self, name: str) -> int:
        """The pid of a node's worker."""
        return next(int(p["pid"]) for p in self.node(name)["processes"] if p["role"] == "worker")

    def tier(self, name: str) -> Path:
        """Where a node's cache files lie."""
        tiers: list[dict[str, Any]] = self.node(name)["worker"]["tiers"]
        return Path(tiers[0]["path"])

    def shape(self, name: str, bytes_per_second: int) -> None:
        """Let a node receive no faster. It was started with `--netns`."""
        # a bucket of 4 MB is 8 ms of 500 MB/s: large enough for 64 KiB segments, small enough not to show
        rate = ("rate", f"{bytes_per_second * 8}bit", "burst", "4mb", "limit", "16mb")
        device = self.node(name)["network"]["link"]
        subprocess.run(["tc", "qdisc", "add", "dev", device, "root", "tbf", *rate], check=True, capture_output=True)

    def inside(self, name: str) -> tuple[str, ...]:
        """What starts a command in a node's namespace."""
        return "nsenter", f"--net=/run/netns/{self.node(name)['network']['namespace']}", "--"
