"""The thread that publishes this node's NodeCache: looks every 5 s, writes when `pacing` says so, and only then.

The object is named as the node and owned by it, so that it goes with the node; it also goes with the last dataset there. What was
written last is read from the server when the thread starts, so that a new start says nothing that was said already, and every ten
minutes again: the object may be gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

import msgspec

from forebay import __version__
from forebay.api.crd.kinds import OWN_GROUP, VERSION
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.api.moments import rfc3339
from forebay.cache.log import log
from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.holding import status
from forebay.fuse.csi.hints.pacing import News, Pacer, news
from forebay.fuse.csi.hints.rates import Rates
from forebay.kube.client import Client
from forebay.kube.errors import ApiError, NotFound, Unreachable, Unusable
from forebay.kube.objects import Bare, Key, ListMeta, ObjectMeta
from forebay.kube.resources import NODES, Resource

NODE_CACHES = Resource(OWN_GROUP, VERSION, "nodecaches", "NodeCache", namespaced=False)
LOOK = 5.0
AGAIN = 600.0
"""Seconds between looks at what the server has: reads, no writes."""


class _NodeCache(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    status: NodeCacheStatus | None = None


class _Counted(msgspec.Struct, frozen=True):
    metadata: ListMeta


class Publisher:
    """`writes` counts them. `clock` is steady, `wall` the time of day."""

    def __init__(
        self,
        node: str,
        caches: Caches,
        client: Client,
        *,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._key = Key("", node)
        self._caches, self._client = caches, client
        self._random = random or Random()
        self._clock, self._wall = clock, wall
        self._rates = Rates()
        self._pacer = Pacer(self._random, clock())
        self._last: NodeCacheStatus | None = None
        self._exists = False
        self._known_until = float("-inf")
        self._said = ""
        self.writes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="csi-hints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._client.transport.end(self._thread, 10.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as e:  # noqa: BLE001 - hints are no reason for the driver to die; said until it changes
                self._complain(f"{type(e).__name__}: {e}")
            self._stop.wait(LOOK * self._random.uniform(0.9, 1.1))

    def look(self) -> None:
        """One look, and a write where one is due."""
        now = self._clock()
        caches, counted = self._caches.look()
        self._rates.look(now, counted)
        wanted = status(caches, rfc3339(self._wall()), __version__, self._rates.bandwidth())
        if self._known_until > now and not self._pacer.due(news(self._last, wanted), now):
            return
        if self._known_until <= now and not self._pacer.due(News.LARGE, now):
            return
        try:
            if self._known_until <= now:
                self._learn(now)
            if self._pacer.due(news(self._last, wanted), now):
                self._write(wanted)
                self._pacer.wrote(now)
            self._said = ""
        except (ApiError, Unreachable, Unusable) as e:
            if isinstance(e, NotFound):
                self._known_until = float("-inf")  # the object, its node, or the kind itself
            self._pacer.failed(now)
            self._complain(str(e))

    def _learn(self, now: float) -> None:
        """What the server has, and how many nodes there are."""
        try:
            found = self._client.get(NODE_CACHES, self._key, _NodeCache)
        except NotFound:
            self._exists, self._last = False, None
        else:
            self._exists, self._last = True, found.status
        answer = self._client.transport.request("GET", NODES.path(), [("limit", "1")])
        if answer.code == 200:  # else as many as before
            left = msgspec.json.decode(answer.body, type=_Counted).metadata.remaining_item_count
            self._pacer.nodes = 1 + (left or 0)
        self._known_until = now + AGAIN * self._random.uniform(0.8, 1.2)

    def _write(self, wanted: NodeCacheStatus) -> None:
        if not wanted.datasets:
            self._client.delete(NODE_CACHES, self._key)
            self._exists, self._last = False, None
            self.writes += 1
            return
        meta = {"name": self._key.name}
        head = {"apiVersion": NODE_CACHES.api_version, "kind": NODE_CACHES.kind}
        if not self._exists:
            uid = self._client.get(NODES, self._key, Bare).metadata.uid
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._key.name, "uid": uid}
            self._client.apply(NODE_CACHES, self._key, {**head, "metadata": {**meta, "ownerReferences": [owner]}})
            self._exists = True
        self._client.apply_status(NODE_CACHES, self._key, {**head, "metadata": meta, "status": wanted})
        self._last = wanted
        self.writes += 1

    def _complain(self, why: str) -> None:
        if self._said != why:
            self._said = why
            log("csi", "not_published", node=self._key.name, why=why)
