"""Answers a member's questions about names from this node's own stores. Equal listings asked at one time are one listing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from forebay.cache.peers import wire
from forebay.cache.stores.base import Page, Store, Unavailable

DEADLINE = 30.0


class Desk:
    """Thread-safe. `stores`: `Mount.source` -> the store itself, never a `ClusterStore`."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._listing: dict[tuple[str, bytes, bytes | None, int], Future[Page]] = {}
        self.shared = 0  # listings answered by another's

    def answer(self, ask: wire.Ask) -> wire.Answer:
        """`list`, `stat` and `is_dir`. Raises `StoreError`, and `Absent` for a mount that is not served here."""
        store = self._stores.get(ask.mount_source)
        if store is None:
            raise wire.Absent(f"{ask.mount_source[:200]} is no mount of the dataset here: give all nodes the same manifest")
        if ask.op == "list":
            return wire.Answer(page=self._list(store, ask), strong=store.strong)
        if ask.op == "stat":
            return wire.Answer(entry=store.stat(ask.key), strong=store.strong)
        if ask.op == "is_dir":
            return wire.Answer(is_dir=store.is_dir(ask.key.rstrip(b"/")), strong=store.strong)
        raise wire.Refused("Malformed", f"{ask.op!r} is no question about names")

    def _list(self, store: Store, ask: wire.Ask) -> Page:
        key = (ask.mount_source, ask.key, ask.token, ask.limit)
        with self._lock:
            future = self._listing.get(key)
            first = future is None
            if future is None:
                future = self._listing[key] = Future()
            else:
                self.shared += 1
        if not first:
            try:
                return future.result(DEADLINE)
            except FutureTimeout as e:
                raise Unavailable(f"{ask.mount_source}: a listing took over {DEADLINE:.0f} s; try again") from e
        try:
            page = store.list(ask.key, ask.token, ask.limit)
        except BaseException as e:
            future.set_exception(e)
            raise
        else:
            future.set_result(page)
            return page
        finally:
            with self._lock:
                del self._listing[key]
