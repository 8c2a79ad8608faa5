"""One level-triggered pass over one dataset: the object of that name, its runtimes, and all that belongs to them.

A pass reads the copies, asks the engines what should be and what is, carries out the difference, and writes the statuses.
It remembers nothing that the next pass would need: it may be killed between any two writes, and the next one goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from forebay.api.fluid.names import DATASET_FINALIZER, runtime_finalizer
from forebay.api.moments import rfc3339
from forebay.controller.datasets import granting
from forebay.controller.datasets.hinting import Hinter
from forebay.controller.datasets.looking import Looker, expiry
from forebay.controller.loads import ahead
from forebay.controller.pace import Pace
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer, key_of
from forebay.kube.errors import ApiError, Conflict, Invalid, Unreachable, Unusable
from forebay.kube.objects import Key
from forebay.kube.workers import Again
from forebay.runtimes import registry
from forebay.runtimes.binding import bound_runtime
from forebay.runtimes.engine import PROTECTION, Found, Object, Observed, Plan, Ref, Subject

LOG = logging.getLogger(__name__)

RESYNC = 600.0
"""Seconds after which every dataset gets a pass of its own. A net below the mapping, not what anything waits for."""
REFUSED = 60.0
"""Seconds after which a dataset that cannot be served is looked at again: nobody tells of a foreign object that made room."""
COMPANION = 2.0
"""Seconds that a new Dataset waits for its runtime: one manifest has both, and workers made without it would start twice."""
_REFUSED = (ApiError, Unreachable, Unusable)


class Reconciler:
    """`reconcile` may run in several threads, for different keys. `wall` is the time of day, aware of its zone."""

    def __init__(
        self,
        looker: Looker,
        writer: Writer,
        teller: Teller,
        hinter: Hinter | None = None,
        *,
        resync: float = RESYNC,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._write, self._tell, self._hinter = looker, writer, teller, hinter
        self._resync, self._wall, self._random = resync, wall, random or Random()
        self._pace = Pace(clock)

    def reconcile(self, key: Key) -> Again | None:
        now = self._wall()
        subject = self._look.subject(key)
        if subject is None:
            self._without(key, rfc3339(now))
            self._grants(key, now, there=False)
            return self._unprotect(key, now)
        if wait := _alone(subject, now):
            return Again(wait)
        lingers = self._unprotect(key, now)
        looked = self._look.look(subject, now)
        found, planned = self._planned(subject, dict(looked.found), rfc3339(now))
        failure: Exception | None = None
        try:
            self._carry_out(subject, planned, found, rfc3339(now))
        except Conflict as error:  # what was seen is not what is there: the change is on its way to the copies
            LOG.info("%s: %s", key, error)
            failure = error
        except _REFUSED as error:
            failure = error
            if isinstance(error, Invalid) or (isinstance(error, ApiError) and error.code == 403):
                self._tell.warn(subject.dataset, "Refused", str(error))
        left = self._say(subject, planned, registry.observe(subject, found, rfc3339(now)), rfc3339(now))
        if self._hinter is not None:
            try:
                again = self._hinter.look(self._look.situation(subject), now)
            except _REFUSED as error:
                failure = failure or error
            else:
                left += [] if again is None else [again]
                failure = failure or self._ahead(subject)
        if failure is not None:
            raise failure
        left += self._grants(key, now, there=True)
        if lingers is not None:
            left.append(lingers.after)
        if looked.until is not None:
            left.append((looked.until - now).total_seconds() + 0.1)
        if any(f.severity == "error" for f in planned.findings):
            left.append(REFUSED)
        return Again(min([*left, self._resync * self._random.uniform(0.8, 1.0)]))

    def _ahead(self, subject: Subject) -> Exception | None:
        """Loads that the scheduler wishes for. They are advice: nothing else of the dataset waits for them."""
        step = self._look.ahead(subject)
        try:
            for load in step.create:
                self._write.create(load)
            for one in step.delete:
                self._write.delete(ahead.ref_of(subject.key[0], one), one.uid)
        except _REFUSED as error:
            return error
        return None

    # --- plan ---

    def _planned(self, subject: Subject, found: dict[str, Found], now: str) -> tuple[dict[str, Found], Plan]:
        """The plan. What it would make is looked up on the server first, once: the copies hold only what carries our labels,
        and an object of somebody else must not be taken over. So is a claim that keeps a volume which is to go."""
        planned = registry.plan(subject, found, now)
        known = {ref for each in found.values() for ref in each.objects}
        there: dict[Ref, Object] = {}
        made = (ref_of(obj) for obj in planned.apply if not obj["metadata"].get("uid"))
        for ref in dict.fromkeys((*made, *_claims_of_volumes_that_go(planned, found))):
            if ref not in known and (met := self._write.get(ref)) is not None:
                there[ref] = met
        if not there:
            return found, planned
        found = {name: msgspec.structs.replace(each, objects={**each.objects, **there}) for name, each in found.items()}
        return found, registry.plan(subject, found, now)

    def _carry_out(self, subject: Subject, planned: Plan, found: dict[str, Found], now: str) -> None:
        objects = {ref: obj for each in found.values() for ref, obj in each.objects.items()}
        marked = {ref_of(obj): obj for obj in (subject.dataset, *subject.runtimes)}
        if not subject.namespace["metadata"].get("deletionTimestamp"):  # nothing can be made there any more
            for obj in planned.create:
                self._write.create(obj)
            for obj in planned.apply:
                ref = ref_of(obj)
                self._write.apply(obj, marked[ref] if ref in marked else objects.get(ref))
        for nudge in planned.nudge:
            namespace = subject.key[0]
            if uid := self._look.uid(Ref("Pod", namespace, nudge.pod)):
                self._write.nudge(namespace, nudge.pod, uid, nudge.revision)
        for drain in planned.drain:
            self._leave(subject, drain.pod, found, now)
        for ref in planned.delete:
            self._write.delete(ref, objects[ref]["metadata"]["uid"] if ref in objects else self._look.uid(ref))
        for ref in planned.unprotect:
            self._write.release(objects[ref], [PROTECTION])
        if planned.release:
            self._release(subject)

    def _leave(self, subject: Subject, pod: str, found: dict[str, Found], now: str) -> None:
        """One order: it stands until the pod goes."""
        if not any((facts := each.workers.get(pod)) is not None and facts.drain for each in found.values()):
            namespace = subject.key[0]
            self._write.leave(namespace, pod, self._look.uid(Ref("Pod", namespace, pod)), now)

    def _release(self, subject: Subject) -> None:
        """The runtime first: without it the Dataset's end is complete."""
        for runtime in subject.runtimes:
            self._write.release(runtime, [runtime_finalizer(runtime["kind"])])
        self._write.release(subject.dataset, [DATASET_FINALIZER])

    def _unprotect(self, key: Key, now: datetime) -> Again | None:
        """A claim that only pods keep which have ended is let go, whoever told it to go: the plan does so at once where the
        dataset ends, this where the Dataset is gone already, or where the claim alone was deleted."""
        claim, later = self._look.lingering(key, now)
        if claim is not None:
            try:
                self._write.release(claim, [PROTECTION])
            except Conflict as error:
                LOG.info("claim %s: %s", key, error)
        return None if later is None else Again((later - now).total_seconds() + 0.1)

    # --- what is said ---

    def _say(self, subject: Subject, planned: Plan, observed: Observed, now: str) -> list[float]:
        """The statuses and Events; seconds until numbers that were held back may be written."""
        dataset, bound = subject.dataset, bound_runtime(subject)
        left: list[float] = []
        gone = planned.release and dataset["metadata"].get("deletionTimestamp")
        if not gone:
            was, ready = _ready(dataset.get("status")), next((c for c in observed.dataset.conditions if c.type == "Ready"), None)
            if self._paced(dataset, observed.dataset, left) and self._status(dataset, observed.dataset) and ready is not None:
                self._tell.serving(dataset, ready.reason, ready.message, was=was, is_=ready.status == "True")
        ended = planned.release and bound is not None and bound["metadata"].get("deletionTimestamp")
        told = observed.runtime if bound is not None and not gone and not ended else None
        if bound is not None and told is not None and self._paced(bound, told, left):
            self._status(bound, told)
        for runtime, status in registry.surplus_statuses(subject, now):
            if not self._write.release(runtime, [runtime_finalizer(runtime["kind"])]):
                self._status(runtime, status)
        self._tell.findings(dataset, dict.fromkeys((*planned.findings, *observed.findings)))
        return left

    def _grants(self, key: Key, now: datetime, *, there: bool) -> list[float]:
        """What grants of the dataset say; seconds until one ends."""
        left, shown = [], self._look.shown(key)
        for grant in self._look.grants(key):
            if not grant["metadata"].get("deletionTimestamp"):
                self._status(grant, granting.status(grant, there=there, shown=shown, now=now))
            if (end := expiry(grant)) is not None and end > now:
                left.append((end - now).total_seconds() + 0.1)
        return left

    def _paced(self, obj: Object, status: msgspec.Struct, left: list[float]) -> bool:
        wait = self._pace.wait(obj, status)
        left += [wait] if wait else []
        return not wait

    def _status(self, obj: Object, status: Any) -> bool:
        try:
            return self._write.status(obj, status)
        except Conflict as error:
            LOG.info("status of %s %s: %s", obj["kind"], key_of(obj), error)
            return False

    # --- without a Dataset ---

    def _without(self, key: Key, now: str) -> None:
        """Runtimes that wait for one, or whose Dataset went without waiting for us; volumes that nothing else would take away."""
        for runtime in self._look.runtimes(key):
            if not self._write.release(runtime, [runtime_finalizer(runtime["kind"])]):
                self._status(runtime, registry.without_dataset(runtime, now))
        for volume in self._look.volumes_of(key):
            if volume["metadata"].get("deletionTimestamp") or self._write.get(Ref("Dataset", *key)) is not None:
                continue
            self._write.delete(ref_of(volume), volume["metadata"]["uid"])


def _claims_of_volumes_that_go(planned: Plan, found: Mapping[str, Found]) -> Iterable[Ref]:
    """A volume stays as long as its claim, and the copies do not have one whose label somebody took."""
    for each in found.values():
        for ref, obj in each.objects.items():
            if ref.kind == "PersistentVolume" and (ref in planned.delete or obj["metadata"].get("deletionTimestamp")):
                claim: Object = (obj.get("spec") or {}).get("claimRef") or {}
                yield Ref("PersistentVolumeClaim", claim.get("namespace", ""), claim.get("name", ""))


def _alone(subject: Subject, now: datetime) -> float:
    """Seconds to wait for a runtime still, 0 where there is one or none is to be waited for."""
    made = subject.dataset["metadata"].get("creationTimestamp")
    if subject.runtimes or subject.source or not made or subject.dataset["metadata"].get("deletionTimestamp"):
        return 0.0
    left = COMPANION - (now - datetime.fromisoformat(made)).total_seconds()
    return left if 0 < left <= COMPANION else 0.0  # a clock that differs by more is no reason to wait


def _ready(status: Any) -> bool:
    conditions = status.get("conditions") or () if isinstance(status, dict) else ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions if isinstance(c, dict))


def ref_of(obj: Object) -> Ref:
    key = key_of(obj)
    return Ref(obj["kind"], key.namespace, key.name)
