"""A peer is a command, an unmount command, a cache directory to empty, and its processes. One peer a file.

What is said of each must stay true of its command line: read cache on, read-only, immutable data, metadata kept for a day
or longer, logs off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import procs
import stores


@dataclass(frozen=True)
class Place:
    """Where one peer lives for one run. Nothing outside `folder` is written."""

    folder: Path
    build: Path  # what the installer made: .build
    token: str

    @property
    def dir(self) -> Path:
        return self.folder / "mnt"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "log"


class Peer(ABC):
    """One bucket of one store, mounted. Subclasses give `command`; services and own formats go into `prepare`."""

    name: ClassVar[str]
    ttl: ClassVar[str]  # how long it may trust names and attributes, as told on its command line
    keeps_pages: ClassVar[bool] = False  # the kernel's page cache survives close and open
    keeps_cache: ClassVar[bool] = True  # its cache survives a remount
    own_format: ClassVar[bool] = False  # data must be copied in; a cold figure then says more about that than about reading
    jvm: ClassVar[bool] = False
    ours: ClassVar[bool] = False

    def __init__(self, place: Place, store: stores.Store, bucket: str) -> None:
        self.place, self.store, self.bucket = place, store, bucket
        for folder in (place.dir, place.cache):
            folder.mkdir(parents=True, exist_ok=True)

    # -- what a subclass says --

    @classmethod
    @abstractmethod
    def missing(cls, build: Path) -> str | None:
        """Why it cannot run here, or None."""

    @abstractmethod
    def command(self) -> list[str]:
        """What mounts it, in the foreground or daemonizing."""

    def environment(self) -> dict[str, str]:
        return self.store.environment

    def prepare(self, plain: Path) -> None:  # noqa: B027 - most need nothing
        """Once per bucket, before the first mount: services, formats, copies."""

    def finish(self) -> None:  # noqa: B027 - most need nothing
        """Undo `prepare`."""

    # -- life --

    @property
    def root(self) -> Path:
        """The bucket's root as a reader sees it."""
        return self.place.dir

    @property
    def mount_token(self) -> str:
        """Carried by what one mount starts; services that outlive it carry another one that begins the same."""
        return f"{self.place.token}.mount"

    def pids(self) -> list[int]:
        """Every process of the thing: what its memory and CPU figures sum over."""
        return procs.find(f"{self.place.token}.")

    def mount(self) -> float:
        """Mount and wait until it answers; seconds that took."""
        t = time.monotonic()
        process = stores.launch(self.command(), self.mount_token, self.place.log, self.environment())
        self.wait(process, t + 90)
        return time.monotonic() - t

    def wait(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while not os.path.ismount(self.place.dir):
            if process.poll() not in (None, 0):
                raise RuntimeError(f"{self.name} ended with {process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not mount: {self.tail()}")
            time.sleep(0.005)
        os.stat(self.place.dir)

    def unmount(self) -> None:
        unmount(self.place.dir)
        if not procs.gone(self.mount_token, 15):
            procs.end(self.mount_token)

    def forget(self) -> None:
        """Empty the cache; the next mount is cold."""
        shutil.rmtree(self.place.cache, ignore_errors=True)
        self.place.cache.mkdir(parents=True)

    def tail(self) -> str:
        try:
            return self.place.log.read_text(errors="replace").strip()[-600:]
        except OSError:
            return "no log"


def unmount(path: Path) -> None:
    """Plainly, a few times while somebody still lets go, and lazily at last."""
    for _ in range(40):
        if not os.path.ismount(path):
            return
        done = subprocess.run(["umount", str(path)], capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


def tool(build: Path, name: str) -> Path | None:
    """An executable out of the bench's own environment, its binaries or the machine's path."""
    for folder in (build / "bench-venv" / "bin", build / "bin"):
        if os.access(folder / name, os.X_OK):
            return folder / name
    found = shutil.which(name)
    return Path(found) if found else None
