"""Writes and takes away DatasetHints as `hints` says: of one dataset at a time, and of all together five a second."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.moments import moment, rfc3339
from forebay.controller.datasets import hints
from forebay.controller.datasets.hints import Do, Known, Place
from forebay.controller.kinds import RESOURCES
from forebay.kube.client import Client
from forebay.kube.errors import Conflict, NotFound
from forebay.kube.objects import Key
from forebay.kube.pacing import TokenBucket
from forebay.runtimes.engine import Object

LOG = logging.getLogger(__name__)

RATE, BURST = 5.0, 20
LATER = 1.0
"""Seconds until a write is tried again that the budget had no room for."""
KEPT = 50_000


class Situation(NamedTuple):
    """What is known for one dataset's hints. `waiting`: pods without a node that name its claim. `live`: the object, if any."""

    dataset: Object
    places: Iterable[Place]
    waiting: int
    live: Object | None


class _Memory(NamedTuple):
    """What copies do not show yet, and nobody else knows. `written` None: not by this process."""

    written: datetime | None
    wanted: datetime
    status: DatasetHintsStatus | None


class Hinter:
    """`look` may run in several threads, for different datasets. Raises what `Client` raises."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._lock = threading.Lock()
        self._budget = TokenBucket(RATE, BURST)
        self._memory: OrderedDict[Key, _Memory] = OrderedDict()

    def look(self, situation: Situation, now: datetime) -> float | None:
        """Does what is due; seconds until the next look, None where nothing comes by time alone."""
        meta = situation.dataset["metadata"]
        key = Key(meta["namespace"], meta["name"])
        new = None
        if hints.wanted(situation.dataset, situation.waiting):
            new = hints.summary(situation.places, rfc3339(now))
        elif situation.live is None:
            with self._lock:
                self._memory.pop(key, None)
            return None
        known = self._known(key, situation.live, now, is_wanted=new is not None)
        step = hints.step(new, known, now)
        if step.do is Do.NOTHING:
            return None if step.again is None else step.again.total_seconds() + 0.1
        with self._lock:
            if not self._budget.take(self._clock()):
                return LATER
        if new is None:
            self._delete(key, situation.live)
            return None
        self._write(key, meta["uid"], situation.live, new)
        self._remember(key, _Memory(now, now, new))
        return None

    def _known(self, key: Key, live: Object | None, now: datetime, *, is_wanted: bool) -> Known:
        with self._lock:
            memory = self._memory.get(key) or _Memory(None, now, None)
        if is_wanted:
            memory = memory._replace(wanted=now)
        self._remember(key, memory)
        said = hints.read(live)
        written = moment(said.observed_time) if said is not None else None
        if memory.written is not None and (written is None or written < memory.written.replace(microsecond=0)):
            said = memory.status if live is not None or _just(memory.written, now) else None
            written = memory.written
        return Known(said, written, memory.wanted)

    def _remember(self, key: Key, memory: _Memory) -> None:
        with self._lock:
            self._memory[key] = memory
            self._memory.move_to_end(key)
            if len(self._memory) > KEPT:
                self._memory.popitem(last=False)

    def _write(self, key: Key, uid: str, live: Object | None, status: DatasetHintsStatus) -> None:
        resource = RESOURCES["DatasetHints"]
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        meta = {"name": key.name, "namespace": key.namespace}
        if not _owned_by(live, uid):
            owner = {"apiVersion": RESOURCES["Dataset"].api_version, "kind": "Dataset", "name": key.name, "uid": uid}
            self._client.apply(resource, key, {**head, "metadata": {**meta, "ownerReferences": [owner]}})
        try:
            self._client.apply_status(resource, key, {**head, "metadata": meta, "status": status})
        except NotFound:  # somebody took it away just now: the change tells of it, and the next pass makes it anew
            LOG.info("DatasetHints %s went before its status came", key)
            return
        LOG.info("hints of %s: %s of %s on %d nodes", key, status.cached, status.total, status.node_count)

    def _delete(self, key: Key, live: Object | None) -> None:
        try:
            self._client.delete(RESOURCES["DatasetHints"], key, uid=live["metadata"]["uid"] if live else "")
        except Conflict:
            LOG.info("DatasetHints %s is another one by now, and is left alone", key)
        else:
            LOG.info("hints of %s are wanted no more", key)
        with self._lock:
            self._memory.pop(key, None)


def _owned_by(live: Mapping[str, object] | None, uid: str) -> bool:
    meta = (live or {}).get("metadata")
    owners = meta.get("ownerReferences") if isinstance(meta, dict) else None
    return any(o.get("uid") == uid for o in owners or () if isinstance(o, dict))


def _just(written: datetime, now: datetime) -> bool:
    """Whether the copies may not show it yet."""
    return now - written < hints.EVERY
