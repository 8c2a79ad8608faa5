"""Everything this node has records of: what is staged, published and kept."""

from __future__ import annotations

import os
import threading

from forebay.cache.log import log
from forebay.fuse.csi.protocol.attributes import ClaimVolume, WorkerVolume
from forebay.fuse.csi.volumes.records import Kept, Published, Records, Staged
from forebay.fuse.supervision import rundir

BOOT = "/proc/sys/kernel/random/boot_id"


class Known:
    """Records below `folder`. `rebooted`: they were of another boot, so what was staged and published is forgotten."""

    def __init__(self, folder: str) -> None:
        self.staged = Records(f"{folder}/staged", Staged)
        self.published = Records(f"{folder}/published", Published)
        self.kept = Records(f"{folder}/kept", Kept)
        boot, path = _read(BOOT), f"{folder}/boot"
        self.changed = threading.Event()  # set where something is new, for who looks after it
        self.rebooted = not os.path.exists(path) or _read(path) != boot
        if self.rebooted:
            log("csi", "new_boot", staged=len(self.staged.all()), published=len(self.published.all()))
            self.staged.clear()
            self.published.clear()
            rundir.replace_file(path, boot.encode())

    def claim(self, wanted: ClaimVolume) -> None:
        """A dataset is about to be mounted here."""
        before = self.kept.get(wanted.id)
        self.kept.put(
            Kept(wanted.id, wanted.namespace, wanted.dataset, wanted.config, wanted.service, before.directories if before else ())
        )
        self.changed.set()

    def worker(self, wanted: WorkerVolume, directories: list[str]) -> None:
        """A worker of a dataset is about to get directories here."""
        key = f"{wanted.namespace}/{wanted.dataset}"
        before = self.kept.get(key)
        config = before.config if before else f"{wanted.dataset}-forebay"
        every = dict.fromkeys((*(before.directories if before else ()), *directories))
        self.kept.put(Kept(key, wanted.namespace, wanted.dataset, config, before.service if before else "", tuple(every)))
        self.changed.set()

    def mounts(self, dataset: str) -> bool:
        """Whether a dataset's mount is asked for."""
        return any(s.id == dataset for s in self.staged.all()) or any(
            p.id == dataset and p.part == "claim" for p in self.published.all()
        )

    def used(self, dataset: str) -> bool:
        """Whether anything of a dataset is asked for."""
        return self.mounts(dataset) or any(p.id == dataset for p in self.published.all())


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as f:
        return f.read().strip()
