"""Threads that take keys from a work queue and reconcile them. Decides nothing: the queue does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from forebay.kube.errors import ApiError, Unreachable
from forebay.kube.workqueue import Statistics, WorkQueue

K = TypeVar("K", bound=Hashable)

LOG = logging.getLogger(__name__)


class Again(NamedTuple):
    """A pass went well, and wants another one in `after` seconds."""

    after: float


Reconcile = Callable[[K], Again | None]
"""One level-triggered pass over a key. Raising means failure: the key comes back after its back-off."""


class Workers(Generic[K]):
    """`count` threads over one queue.

    `add` may be called from any thread, before `start` too. `stop` returns when no pass runs any more, or after `timeout`.
    """

    def __init__(self, name: str, reconcile: Reconcile[K], count: int = 2, queue: WorkQueue[K] | None = None) -> None:
        self._name = name
        self._reconcile = reconcile
        self._queue = queue or WorkQueue[K]()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True) for i in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def add(self, key: K) -> None:
        with self._changed:
            self._queue.add(key)
            self._changed.notify()

    def add_after(self, key: K, delay: float) -> None:
        with self._changed:
            self._queue.add_after(key, delay, time.monotonic())
            self._changed.notify()

    def stop(self, *, drain: bool = True, timeout: float = 30.0) -> bool:
        """Whether every worker ended in time."""
        with self._changed:
            self._queue.stop(drain=drain)
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def statistics(self) -> Statistics:
        with self._changed:
            return self._queue.statistics()

    def _run(self) -> None:
        while (key := self._take()) is not None:
            try:
                result = self._reconcile(key)
            except Exception as error:  # noqa: BLE001  whatever a pass raises, the key comes back and the worker lives
                self._failed(key, error)
            else:
                self._went_well(key, result)

    def _take(self) -> K | None:
        """The next key, or None when the queue has ended."""
        with self._changed:
            while True:
                key = self._queue.get(time.monotonic())
                if key is not None:
                    return key
                if self._queue.finished:
                    self._changed.notify_all()
                    return None
                wake = self._queue.wake_at()
                self._changed.wait(None if wake is None else max(0.0, wake - time.monotonic()))

    def _went_well(self, key: K, result: Again | None) -> None:
        with self._changed:
            self._queue.forget(key)
            if result is not None:
                self._queue.add_after(key, result.after, time.monotonic())
            self._queue.done(key)
            self._changed.notify_all()

    def _failed(self, key: K, error: Exception) -> None:
        with self._changed:
            delay = self._queue.retry(key, time.monotonic())
            failures = self._queue.failures(key)
            self._queue.done(key)
            self._changed.notify_all()
        known = isinstance(error, ApiError | Unreachable)  # their sentence says it all; anything else is a defect of ours
        trace = None if known else error
        LOG.warning(
            "%s: %s failed %d times in a row, again in %.3f s: %s", self._name, key, failures, delay, error, exc_info=trace
        )
