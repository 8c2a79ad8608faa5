"""What was staged and published on this node: one small file for each, so that a repeated call can be compared with the first.

Records are of one boot: after another one nothing of what they say is mounted any more, and the kubelet asks for all of it anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import Generic, Literal, TypeVar

import msgspec

from forebay.cache.log import log
from forebay.fuse.supervision import rundir

Part = Literal["claim", "worker", "host"]


class Staged(msgspec.Struct, frozen=True):
    """`key` is the staging path."""

    key: str
    volume: str
    digest: str
    namespace: str
    dataset: str
    config: str
    service: str
    clean_policy: str

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.dataset}"


class Published(msgspec.Struct, frozen=True):
    """`key` is the target path."""

    key: str
    volume: str
    digest: str
    part: Part
    namespace: str
    dataset: str
    service: str = ""
    sub_path: str = ""
    mode: int = 0
    options: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.dataset}"


class Kept(msgspec.Struct, frozen=True):
    """A dataset that this node has something of, until it is deleted. `key` is `namespace/dataset`.

    `service` "": no claim of it was ever staged here, so there is no mount. `directories`: those of its workers.
    """

    key: str
    namespace: str
    dataset: str
    config: str
    service: str = ""
    directories: tuple[str, ...] = ()


_R = TypeVar("_R", Staged, Published, Kept)


class Records(Generic[_R]):
    """Records of one kind in `folder`. Invariant: what `get` returns is on the disk."""

    def __init__(self, folder: str, type_: type[_R]) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, _R] = {}
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for entry in sorted(os.listdir(folder)):
            path = f"{folder}/{entry}"
            if not entry.endswith(".json"):  # of a write that was cut off
                os.unlink(path)
                continue
            try:
                with open(path, "rb") as f:
                    record = msgspec.json.decode(f.read(), type=type_)
                self._known[record.key] = record
            except (msgspec.DecodeError, OSError) as e:  # half-written when the machine went down
                log("csi", "record_dropped", file=path, error=str(e))
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def get(self, key: str) -> _R | None:
        with self._lock:
            return self._known.get(key)

    def all(self) -> list[_R]:
        with self._lock:
            return list(self._known.values())

    def put(self, record: _R) -> None:
        with self._lock:
            rundir.replace_file(self._file(record.key), msgspec.json.encode(record))
            self._known[record.key] = record

    def drop(self, key: str) -> None:
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(key))
            self._known.pop(key, None)

    def clear(self) -> None:
        for record in self.all():
            self.drop(record.key)

    def _file(self, key: str) -> str:
        return f"{self._folder}/{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"
