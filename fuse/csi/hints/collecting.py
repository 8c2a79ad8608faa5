"""What the workers of this node say of themselves, read from their files. Nothing here waits: small files and no sockets.

A worker's file lies in a volume of a pod that anybody may have made. So nothing in its path is followed, it must be a plain file,
of bounded size, of one owner's dataset (whose name is kubelet's word, not the file's), and changed within the last two minutes.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from forebay.api import places
from forebay.api.hints.said import MOST, Said, SaidError, decode
from forebay.cache.log import log
from forebay.fuse.csi.hints.holding import Cached
from forebay.fuse.csi.hints.rates import Counters, counters
from forebay.fuse.csi.volumes.inline import RUN
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.mounts import Mounts
from forebay.fuse.csi.volumes.site import Layout

DEAD = 120.0
"""Seconds without a touch after which a worker counts as gone; it touches its file each 20 s."""
_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Seen(NamedTuple):
    mark: tuple[int, int, int, int]
    said: Said | None


class Caches:
    """All datasets of this node. One thread."""

    def __init__(
        self, known: Known, mounts: Mounts, layout: Layout, *, clock: Callable[[], float] = time.time, dead: float = DEAD
    ) -> None:
        self._known, self._mounts, self._layout = known, mounts, layout
        self._clock, self._dead = clock, dead
        self._seen: dict[str, _Seen] = {}
        self._complained: dict[str, str] = {}

    def look(self) -> tuple[list[Cached], dict[str, Counters]]:
        """What is cached, and the counters of each process by its folder."""
        found: dict[str, Cached] = {}
        counted: dict[str, Counters] = {}
        for kept in self._known.kept.all():
            site = self._layout.site(kept.namespace, kept.dataset)
            found[kept.key] = Cached(
                namespace=kept.namespace,
                name=kept.dataset,
                reader=self._said(site.run, counted),
                wanted=self._known.mounts(kept.key),
                mounted=self._mounts.holds(site),
            )
        for published in self._known.published.all():
            if published.part == "worker" and (said := self._said(f"{published.key}/{RUN}", counted)) is not None:
                before = found.get(published.id) or Cached(namespace=published.namespace, name=published.dataset)
                found[published.id] = msgspec.structs.replace(before, worker=said)
        for folder in set(self._seen) - set(counted):
            self._seen.pop(folder), self._complained.pop(folder, None)
        return [one for one in found.values() if one.worker or one.reader or one.wanted], counted

    def _said(self, folder: str, counted: dict[str, Counters]) -> Said | None:
        try:
            said = self._read(folder)
        except FileNotFoundError:
            return None
        except (OSError, SaidError) as e:
            if self._complained.get(folder) != str(e):
                self._complained[folder] = str(e)
                log("csi", "worker_unheard", folder=folder, why=str(e))
            return None
        if said is not None:
            counted[folder] = counters(said)
        return said

    def _read(self, folder: str) -> Said | None:
        inside = os.open(folder, _PLAIN | os.O_DIRECTORY)
        try:
            fd = os.open(places.SAID, _PLAIN, dir_fd=inside)
        finally:
            os.close(inside)
        with open(fd, "rb") as f:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise SaidError(f"{folder}/{places.SAID} is no file")
            if self._clock() - info.st_mtime > self._dead:
                return None
            mark = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
            seen = self._seen.get(folder)
            if seen is not None and seen.mark == mark:
                return seen.said
            raw = f.read(MOST + 1)
        if len(raw) > MOST:
            raise SaidError(f"{folder}/{places.SAID} has more than {MOST} bytes")
        said = decode(raw)
        self._seen[folder] = _Seen(mark, said)
        return said
