"""What is said about pods: conditions and Events. Asynchronous and bounded: nothing that decides or binds waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from forebay.api.hints.datasethints import LOAD_ON
from forebay.api.moments import rfc3339
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.eventlog import Note
from forebay.kube.leader import NotLeading
from forebay.kube.objects import Key, Reference
from forebay.kube.pacing import TokenBucket
from forebay.kube.resources import DATASET_HINTS, PODS
from forebay.scheduler.groups.status import cut
from forebay.scheduler.live.effects.statuses import StatusWriter
from forebay.scheduler.live.instructions import Bind, Delete, Load, Named, Report, Status, Tell

LOG = logging.getLogger(__name__)

RATE, BURST = 50.0, 100
"""Conditions a second: of a pod that waits the newest is written, so a slow writer writes less and nothing wrong."""


def about(pod: Named) -> Reference:
    return Reference("v1", "Pod", pod.name, pod.namespace, pod.uid)


class Teller:
    """`say` writes an Event (`kube.recorder.Recorder.say`). Conditions and deletions are written by one thread here."""

    def __init__(self, client: Client, say: Callable[[Note], None], scheduled_per_second: float) -> None:
        self._client, self._say = client, say
        self._statuses = StatusWriter(client)
        self._changed = threading.Condition()
        self._waiting: dict[str, Tell | Delete | Load | Status] = {}  # by uid, or what it is about: the newest
        self._ending = False
        self._pace = TokenBucket(RATE, BURST)
        self._events: TokenBucket | None = None
        self.untold = 0
        """Events of placed pods that the bound left out."""
        self.failed = 0
        self.set_rate(scheduled_per_second)
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)

    def set_rate(self, scheduled_per_second: float) -> None:
        self._events = TokenBucket(scheduled_per_second, max(1, int(2 * scheduled_per_second))) if scheduled_per_second else None

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """What waits is not written any more: whoever decides next says it again."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- from any thread ---

    def scheduled(self, bind: Bind) -> None:
        """A pod was bound."""
        with self._changed:
            self._waiting.pop(bind.pod.uid, None)
            enough = self._events is not None and self._events.take(time.monotonic())
            if not enough:
                self.untold += 1
                return
        text = f"Successfully assigned {bind.pod} to {bind.node}"
        self._say(Note(about(bind.pod), "Normal", "Scheduled", "Binding", text))

    def tell(self, tell: Tell) -> None:
        self._say(Note(about(tell.pod), "Warning", "FailedScheduling", "Scheduling", cut(tell.sentence)))
        self._put(tell)

    def delete(self, delete: Delete) -> None:
        self._say(Note(about(delete.pod), "Warning", delete.reason, "Deleting", cut(delete.sentence)))
        self._put(delete)

    def report(self, report: Report) -> None:
        reference = Reference(report.api_version, report.kind, report.name, report.namespace, report.uid)
        LOG.warning("%s %s/%s: %s", report.kind, report.namespace, report.name, report.sentence)
        self._say(Note(reference, "Warning", report.reason, "Scheduling", cut(report.sentence)))

    def order(self, load: Load) -> None:
        """A wish for the nodes of a dataset."""
        with self._changed:
            self._waiting[f"{load.namespace}/{load.name}"] = load
            self._changed.notify()

    def status(self, status: Status) -> None:
        """Of the object of a gang."""
        with self._changed:
            self._waiting[status.uid] = status
            self._changed.notify()

    def _put(self, one: Tell | Delete) -> None:
        with self._changed:
            kept = self._waiting.pop(one.pod.uid, None)
            self._waiting[one.pod.uid] = kept if isinstance(kept, Delete) else one
            self._changed.notify()

    # --- the thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ending:
                    self._changed.wait()
                if self._ending:
                    return
                wait = self._pace.reserve(time.monotonic())
                if wait:
                    self._changed.wait_for(lambda: self._ending, wait)
                    if self._ending:
                        return
                if not self._waiting:
                    continue
                one = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._write(one)
            except (NotFound, Conflict):
                continue  # it is gone, or another pod has its name
            except (ApiError, Unreachable, Unusable, ConfigError, NotLeading) as error:
                self.failed += 1
                LOG.warning("%s: not written: %s", _what(one), error)

    def _write(self, one: Tell | Delete | Load | Status) -> None:
        if isinstance(one, Status):
            self._statuses.write(one)
            return
        if isinstance(one, Load):
            notes = {LOAD_ON: one.nodes or None}
            self._client.merge(DATASET_HINTS, Key(one.namespace, one.name), {"metadata": {"annotations": notes}})
            return
        key = Key(one.pod.namespace, one.pod.name)
        if isinstance(one, Delete):
            marked = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": cut(one.sentence),
            }
            marked["lastTransitionTime"] = _now()
            self._client.strategic(
                PODS, key, {"metadata": {"uid": one.pod.uid}, "status": {"conditions": [marked]}}, sub="status"
            )
            self._client.delete(PODS, key, uid=one.pod.uid)
            return
        condition: dict[str, Any] = {"type": "PodScheduled", "status": "False", "reason": one.reason}
        condition["message"] = cut(one.sentence)
        if not one.said:
            condition["lastTransitionTime"] = _now()
        status: dict[str, Any] = {"conditions": [condition]}
        if one.nominated is not None:
            status["nominatedNodeName"] = one.nominated or None
        self._client.strategic(PODS, key, {"metadata": {"uid": one.pod.uid}, "status": status}, sub="status")


def _what(one: Tell | Delete | Load | Status) -> str:
    if isinstance(one, Load):
        return f"hints of {one.namespace}/{one.name}"
    return f"status of PodGroup {one.namespace}/{one.name}" if isinstance(one, Status) else f"pod {one.pod}"


def _now() -> str:
    return rfc3339(datetime.now(UTC))
