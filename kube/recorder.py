"""One thread that writes Events. Events are for people: one that cannot be written is counted and logged, and nothing waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Forbidden, NotFound, Unreachable, Unusable
from forebay.kube.eventlog import WORD, Create, EventLog, Instruction, Note, Patch
from forebay.kube.objects import Key
from forebay.kube.resources import EVENTS

LOG = logging.getLogger(__name__)

WAITING = 1000
"""Notes that wait to be written; what comes beyond is dropped and counted."""
LOOK = 30.0
"""Seconds between looks for series that have gone quiet."""


class Recorder:
    """Writes Events as `controller` (`forebay.io/dataset-controller`), instance `instance` (a pod's name).

    `dropped`: notes that came while `WAITING` others waited. `failed`: writes that the server did not take.
    """

    def __init__(self, client: Client, controller: str, instance: str) -> None:
        self._client, self._controller, self._instance = client, controller, instance[:WORD]
        self._log = EventLog(f"{time.time_ns():x}.")
        self._notes: queue.Queue[Note | None] = queue.Queue(WAITING)
        self._ending = threading.Event()
        self.dropped = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name=f"events-{controller}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, note: Note) -> None:
        """Returns at once, from any thread."""
        try:
            self._notes.put_nowait(note)
        except queue.Full:
            self.dropped += 1

    def stop(self, timeout: float = 10.0) -> bool:
        """Writes what waits. Whether the thread ended in time."""
        self._ending.set()
        try:
            self._notes.put_nowait(None)
        except queue.Full:
            pass  # the thread wakes by the notes that wait
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        look_at = time.monotonic() + LOOK
        while not (self._ending.is_set() and self._notes.empty()):
            try:
                note = self._notes.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                note = None
            now = time.monotonic()
            if note is not None:
                self._write_all(self._log.say(note, now))
            if now >= look_at:
                look_at = now + LOOK
                self._write_all(self._log.tick(now))
        self._write_all(self._log.tick(time.monotonic(), ending=True))

    def _write_all(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            try:
                if isinstance(instruction, Create):
                    self._create(instruction)
                else:
                    self._patch(instruction)
            except (ApiError, Unreachable, Unusable, ConfigError) as error:
                if isinstance(error, Forbidden) and error.ending:
                    continue  # whoever could have read it goes too
                self.failed += 1
                note = instruction.note
                LOG.warning("event %s of %s not written: %s; it said: %s", note.reason, note.regarding.name, error, note.note)

    def _create(self, create: Create) -> None:
        note = create.note
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": create.name, "namespace": create.namespace},
            "eventTime": _now(),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "type": note.type,
            "reason": note.reason,
            "action": note.action,
            "regarding": msgspec.to_builtins(note.regarding),
            "note": note.note,
        }
        self._client.create(EVENTS, create.namespace, body)

    def _patch(self, patch: Patch) -> None:
        body = {"series": {"count": patch.total, "lastObservedTime": _now()}}
        try:
            self._client.merge(EVENTS, Key(patch.namespace, patch.name), body)
        except NotFound:
            self._write_all(self._log.forgotten(patch.note, time.monotonic()))


def _now() -> str:
    """MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
