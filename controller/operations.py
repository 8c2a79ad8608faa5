"""Data operations that this version does not carry out: each is told so, in its status and in one Event, and holds nothing up.

They end as Failed, as Fluid ends what an engine cannot do: who waits for an end gets one, and nothing begins by itself months
later, when a version that moves data is installed. What Fluid has ended stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from forebay.api.conditions import Condition, find, merge
from forebay.api.fluid.names import operation_finalizer
from forebay.api.fluid.status import OPERATION_CONDITIONS, OperationStatus
from forebay.api.moments import rfc3339
from forebay.controller.copies import UNDRIVEN, Copies
from forebay.controller.kinds import RESOURCES, as_object
from forebay.controller.loads.deciding import ENDED, duration, phase_of
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer
from forebay.kube.errors import Conflict
from forebay.kube.store import Change
from forebay.kube.workers import Again
from forebay.runtimes.engine import Object, Ref
from forebay.runtimes.states import generation, known_conditions

LOG = logging.getLogger(__name__)

REASON = "DataOperationNotSupport"
"""Fluid's word for it."""
SEEN_AGAIN = 0.2
"""Seconds until an operation that changed under a pass gets the next one."""


class OperationReconciler:
    """`reconcile` may run in several threads, for different keys. `wall` is the time of day, aware of its zone."""

    def __init__(
        self, copies: Copies, writer: Writer, teller: Teller, *, wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._copies, self._write, self._tell, self._wall = copies, writer, teller, wall

    def reconcile(self, ref: Ref) -> Again | None:
        found = self._copies.get(ref.kind, ref.namespace, ref.name)
        if found is None:
            return None
        operation = as_object(RESOURCES[ref.kind], found)
        try:
            self._pass(operation)
        except Conflict as error:  # the change is on its way to the copies
            LOG.info("%s: %s", ref, error)
            return Again(SEEN_AGAIN)
        return None

    def _pass(self, operation: Object) -> None:
        if operation["metadata"].get("deletionTimestamp"):
            self._write.release(operation, [operation_finalizer(operation["kind"])])
            return
        status = told(operation, rfc3339(self._wall()))
        if status is None:
            return
        before = phase_of(operation)
        if self._write.status(operation, status) and before not in ENDED:
            self._tell.ended(operation, REASON, refusal(operation), well=False)


def told(operation: Object, now: str) -> OperationStatus | None:
    """What its status is to be; None where it is another's end, which stays. `now` is an RFC 3339 time."""
    known = [c for c in known_conditions(operation) if c.type in OPERATION_CONDITIONS]
    failed = find(known, "Failed")
    if phase_of(operation) in ENDED and (failed is None or failed.reason != REASON):
        return None
    at = generation(operation)
    wanted = [
        Condition(type="Complete", status="False", reason=REASON, observed_generation=at),
        Condition(type="Failed", status="True", reason=REASON, message=refusal(operation), observed_generation=at),
    ]
    return OperationStatus(
        phase="Failed",
        duration=duration(0),
        conditions=merge(known, wanted, now, "last_probe_time"),
        observed_generation=at,
    )


def refusal(operation: Object) -> str:
    """That it is not carried out, and what to do instead."""
    spec: Object = operation.get("spec") or {}
    return f"{operation['kind']} is not carried out by this version of forebay: {_REMEDIES[operation['kind']](spec)}"


def _migrate(spec: Object) -> str:
    return "nothing was copied; copy the data with a tool of the stores, in a Job of your own, then delete this object"


def _back_up(spec: Object) -> str:
    return "nothing was saved; caches of engine forebay find what they hold by themselves and need no backup, delete this object"


def _process(spec: Object) -> str:
    named = spec.get("dataset")
    claim = named.get("name") if isinstance(named, Mapping) else ""
    return f"nothing was run; run the program in a Job of your own that mounts claim {claim or 'NAME'}, then delete this object"


_REMEDIES: Mapping[str, Callable[[Object], str]] = {"DataMigrate": _migrate, "DataBackup": _back_up, "DataProcess": _process}
assert tuple(_REMEDIES) == UNDRIVEN


def operations(kind: str, change: Change[Any], copies: Copies) -> Iterable[Ref]:
    """Which operation a change is about."""
    return [Ref(kind, change.key.namespace, change.key.name)] if kind in UNDRIVEN else ()
