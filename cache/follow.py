"""What a running worker is told anew: files that change beside it are read again, and their mounts taken over.

A worker in a pod has a ConfigMap and Secrets, which the kubelet swaps by the rename of a link; one of a run directory has
its `spec.json`. What cannot be used changes nothing and is said in `status`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec
import trio

from forebay.api import places
from forebay.api.podconfig import Config, decode, fill, revision
from forebay.api.spec import DatasetSpec, decode_spec
from forebay.cache.log import log
from forebay.cache.stores.base import Store

if TYPE_CHECKING:
    from forebay.cache.worker import Worker

EVERY = 1.0
"""Seconds between looks. The kubelet itself brings a change within a minute."""
HIDDEN = 4
"""Characters from which on a text of a Secret is hidden: shorter ones stand in any sentence by chance."""
KEPT = 60.0
"""Seconds a store whose credentials were replaced stays open for what is being read of it."""


class Told(msgspec.Struct, frozen=True):
    """What files say now."""

    spec: DatasetSpec
    revision: str = ""  # `podconfig.revision`; "" where nobody asks for one
    hidden: frozenset[str] = frozenset()  # texts from Secrets, which nobody else is to see


class Files(Protocol):
    """Files that are read again when they changed."""

    def changed(self) -> bool:
        """Whether they differ from when they were read last, by looking at their inodes."""
        ...

    def read(self) -> Told:
        """Raises `ValueError` and `OSError` with what to say."""
        ...


def _look(paths: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            info = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return tuple(found)


class SpecFile:
    """`spec.json` of a run directory."""

    def __init__(self, run_dir: str) -> None:
        self._path = Path(run_dir, places.SPEC)
        self._seen = _look([self._path])

    def changed(self) -> bool:
        return _look([self._path]) not in (self._seen, (None,))  # `down` removes it before it ends the worker

    def read(self) -> Told:
        self._seen = _look([self._path])
        return Told(decode_spec(self._path.read_bytes()))


class PodFiles:
    """`config.json` and the credentials below a directory. `place` completes a spec by what only this pod knows."""

    def __init__(self, config: str, credentials: str, *, node: str, listen: str, control: str) -> None:
        self._config = Path(config)
        self._credentials = Path(credentials)
        self._here = {"node": node, "listen": listen, "control": control}
        self._named: list[Path] = []  # credentials that the last configuration needs
        self._hidden: set[str] = set()
        self._seen: tuple[tuple[int, ...] | None, ...] = ()

    def _now(self) -> tuple[tuple[int, ...] | None, ...]:
        return _look([self._config, *self._named])

    def changed(self) -> bool:
        return self._now() != self._seen

    def read(self) -> Told:
        self._seen = self._now()
        config = decode(self._config.read_bytes())
        self._named = [self._credentials / p for f in config.files for p in (*f.secrets.values(), *f.options.values())]
        self._seen = self._now()
        self._hidden.clear()
        return Told(self._spec(config), revision(config), frozenset(self._hidden))

    def _spec(self, config: Config) -> DatasetSpec:
        spec = fill(config, self._credential)
        if spec.cluster is None:
            raise ValueError(f"{self._config} has no cluster, and a worker in a pod is one of several")
        return msgspec.structs.replace(spec, cluster=msgspec.structs.replace(spec.cluster, **self._here))

    def _credential(self, name: str) -> str:
        """A value without the line end that files made by hand have."""
        value = (self._credentials / name).read_text(encoding="utf-8").rstrip("\r\n")
        self._hidden |= {value, *_of_address(value)}
        return value


def _of_address(value: str) -> list[str]:
    """What a message may repeat of an endpoint."""
    if "://" not in value:
        return []
    try:
        parts = urlsplit(value)
        return [part for part in (value.rstrip("/"), parts.netloc, parts.hostname) if part]
    except ValueError:
        return []


class Served:
    """What a worker says of its configuration."""

    def __init__(self, told: Told) -> None:
        self.error = ""
        self.serves(told)

    def serves(self, told: Told) -> None:
        self.revision = told.revision
        self.places = [m.path for m in told.spec.mounts]
        self._hidden = sorted((text for text in told.hidden if len(text) >= HIDDEN), key=len, reverse=True)
        self.since = time.time()

    def without_secrets(self, text: str) -> str:
        """A message for others."""
        for each in self._hidden:
            text = text.replace(each, "***")
        return text

    def report(self) -> dict[str, object]:
        return {"revision": self.revision, "places": self.places, "error": self.error, "since": round(self.since, 3)}


class Followed:
    """Keeps a worker to its files."""

    def __init__(self, worker: Worker, files: Files, told: Told) -> None:
        self.worker = worker
        self.files = files
        worker.served = self.served = Served(told)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(EVERY)
                if self.files.changed():
                    old = self.look()
                    if old:
                        nursery.start_soon(_close_later, old)

    def look(self) -> list[Store]:
        """Read the files and take over what they say; stores that were replaced."""
        try:
            told = self.files.read()
            old = self.worker.take_over(told.spec)
        except (ValueError, OSError) as e:
            said = f"the new configuration changes nothing: {e}"
            if said != self.served.error:
                log("worker", "not_taken_over", error=str(e))
            self.served.error = said
            return []
        self.served.error = ""
        self.served.serves(told)
        return old


async def _close_later(stores: list[Store]) -> None:
    await trio.sleep(KEPT)
    for store in stores:
        await trio.to_thread.run_sync(store.close)
