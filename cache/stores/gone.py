"""The store of a mount that was taken from the dataset: it has nothing, by a definite answer, so that its names go."""

from __future__ import annotations

from forebay.api.spec import Mount
from forebay.cache.stores.base import Body, Entry, NotFound, Page, Unavailable
from forebay.cache.stores.names import show
from forebay.cache.stores.net.transport import Timeouts


class GoneStore:
    """See the module. Reading what somebody still has open is no absence: it is an error that says why."""

    strong = True

    def __init__(self, mount: Mount) -> None:
        self.source = mount.source

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        raise self._nothing(prefix)

    def stat(self, key: bytes) -> Entry:
        raise self._nothing(key)

    def is_dir(self, key: bytes) -> bool:
        return False

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        raise Unavailable(f"{self.source}/{show(key)}: its mount was taken from the dataset, and these bytes are not cached")

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        raise self._nothing(key)

    def probe(self) -> None:
        return

    def close(self) -> None:
        return

    def _nothing(self, key: bytes) -> NotFound:
        return NotFound(f"{self.source}/{show(key)}: its mount was taken from the dataset")


def open_mount(mount: Mount, timeouts: Timeouts | None = None) -> GoneStore:
    return GoneStore(mount)
