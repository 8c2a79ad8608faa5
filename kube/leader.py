"""One thread that stands for election, and the check that a leader's writes go through."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from forebay.kube import election as e
from forebay.kube.client import Client
from forebay.kube.config import ConfigError
from forebay.kube.errors import ApiError, Conflict, NotFound, Unreachable, Unusable
from forebay.kube.objects import Key, Lease, LeaseSpec
from forebay.kube.resources import LEASES
from forebay.kube.transport import Transport

LOG = logging.getLogger(__name__)


class NotLeading(Exception):
    """A write was refused because we do not lead, or not surely any more."""


def now() -> float:
    """Seconds that go on while the machine is suspended: a leader that slept must know how long."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Leader:
    """Stands for the lease `key` until it wins, keeps it, and says when it is lost.

    `led` and `lost` are called on the thread: `led` once, `lost` once after it; what runs as the leader ends its process
    then. `check` is the `gate` of the Client that a leader writes with.
    """

    def __init__(
        self,
        transport: Transport,
        key: Key,
        identity: str,
        *,
        led: Callable[[], None],
        lost: Callable[[str], None],
        timing: e.Timing = e.Timing(),  # noqa: B008  immutable
        random: Random | None = None,
    ) -> None:
        self._key, self._led, self._lost = key, led, lost
        self._machine = e.Election(identity, timing, random or Random())
        self._client = Client(transport, manager="forebay-election", deadline=timing.retry * 2)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._asked = 0.0
        self._thread = threading.Thread(target=self._run, name=f"leader-{key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Gives the lease back if we hold it. Whether the thread ended in time."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def leading(self) -> bool:
        with self._lock:
            return self._machine.may_write(now())

    @property
    def holder(self) -> str:
        """Who leads as far as we have seen."""
        with self._lock:
            return self._machine.holder

    def check(self) -> None:
        """Raises NotLeading unless we lead at this moment."""
        if not self.leading:
            raise NotLeading(
                f"lease {self._key}: held by {self.holder or 'nobody'}; only the leader writes, this call is not made"
            )

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._stand()
        except Exception as error:
            LOG.exception("lease %s: the election ended by a defect", self._key)
            self._lost(f"the election ended by a defect: {error!r}")
            raise

    def _stand(self) -> None:
        event: e.Event | None = e.Begin(now())
        while event is not None:
            with self._lock:
                instructions = self._machine.handle(event)
            event = None
            for instruction in instructions:
                event = self._do(instruction)

    def _do(self, instruction: e.Instruction) -> e.Event | None:
        """What came of it; None for what has no outcome."""
        if isinstance(instruction, e.Look):
            return self._look()
        if isinstance(instruction, e.Write):
            return self._write(instruction)
        if isinstance(instruction, e.Sleep):
            self._stopping.wait(max(0.0, instruction.until - now()))
            return e.Release(now()) if self._stopping.is_set() else e.Tick(now())
        if isinstance(instruction, e.Lead):
            LOG.info("lease %s: leading", self._key)
            self._led()
        elif isinstance(instruction, e.StepDown):
            LOG.warning("lease %s: not leading any more: %s", self._key, instruction.why)
            self._lost(instruction.why)
        return None

    def _look(self) -> e.Event:
        try:
            lease = self._client.get(LEASES, self._key, Lease)
        except NotFound:
            return e.Seen(None, "", now())
        except (ApiError, Unreachable, Unusable, ConfigError) as error:
            return self._failed(error)
        return e.Seen(lease.spec, lease.metadata.resource_version, now())

    def _write(self, write: e.Write) -> e.Event:
        asked = now()
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": _dated(write.spec, write.acquired)}
        try:
            if not write.version:
                body["metadata"] = {"name": self._key.name, "namespace": self._key.namespace}
                made = self._client.create(LEASES, self._key.namespace, body)
            else:
                body["metadata"] = {"resourceVersion": write.version}
                made = self._client.merge(LEASES, self._key, body)
        except (ApiError, Unreachable, Unusable, ConfigError) as error:
            return self._failed(error)
        return e.Written(made.metadata.resource_version, asked, now())

    def _failed(self, error: Exception) -> e.Failed:
        LOG.info("lease %s: %s", self._key, error)
        return e.Failed(str(error), isinstance(error, Conflict | NotFound), now())


def _dated(spec: LeaseSpec, acquired: bool) -> dict[str, Any]:
    """The spec with the wall clock's time, for people to read."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    dated = msgspec.structs.replace(spec, renew_time=at, acquire_time=at if acquired else spec.acquire_time)
    body: dict[str, Any] = msgspec.to_builtins(dated)
    return body
