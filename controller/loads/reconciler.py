"""One level-triggered pass over one DataLoad. Remembers nothing: it may be killed between any two writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.api.moments import rfc3339
from forebay.controller.loads.deciding import FINALIZER, Decision, Facts, Verdict, decide, status_of
from forebay.controller.loads.looking import LoadLooker
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer, key_of
from forebay.kube.errors import ApiError, Conflict, Invalid, Unreachable, Unusable
from forebay.kube.objects import Key
from forebay.kube.workers import Again
from forebay.runtimes.engine import Object, Ref

LOG = logging.getLogger(__name__)

RESYNC = 600.0
"""Seconds after which a load that has not ended gets a pass of its own: a net below the mapping."""
SEEN_AGAIN = 0.2
"""Seconds until a load that changed under a pass gets the next one."""
_REFUSED = (ApiError, Unreachable, Unusable)


class LoadReconciler:
    """`reconcile` may run in several threads, for different keys. `wall` is the time of day, aware of its zone."""

    def __init__(
        self,
        looker: LoadLooker,
        writer: Writer,
        teller: Teller,
        *,
        resync: float = RESYNC,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._look, self._write, self._tell, self._resync, self._wall = looker, writer, teller, resync, wall

    def reconcile(self, key: Key) -> Again | None:
        now, load = self._wall(), self._look.load(key)
        if load is None:
            for ref in self._look.orphans(key):
                self._write.delete(ref, self._look.uid(ref))
            return None
        facts = self._look.facts(load)
        decision = decide(facts, now)
        if decision.create and facts.loading is not None and self._is_there(facts.loading.job, load):
            facts = msgspec.structs.replace(facts, taken=True)
            decision = decide(facts, now)
        if failure := self._guarded(load, lambda: self._begin(load, decision)):
            if decision.create and not isinstance(failure, Conflict):
                self._say(load, _held_up(facts, failure, now))
            raise failure
        if not self._say(load, decision):
            return Again(SEEN_AGAIN)
        # what shows how a load ended goes once that stands in its status
        if failure := self._guarded(load, lambda: self._end(load, decision)):
            raise failure
        if decision.remove:
            self._write.delete(Ref(load["kind"], key.namespace, key.name), load["metadata"]["uid"])
            return None
        if decision.until is not None:
            return Again(max(0.1, (decision.until - now).total_seconds() + 0.1))
        return None if decision.status is None else Again(self._resync)

    def _is_there(self, job: Ref, load: Object) -> bool:
        """Whether somebody else's Job has the name. Looked up before it is made: the copies hold only what carries our labels."""
        found = self._write.get(job)
        uid = load["metadata"].get("uid")
        owners = () if found is None else found["metadata"].get("ownerReferences") or ()
        return found is not None and not any(owner.get("uid") == uid for owner in owners)

    def _begin(self, load: Object, decision: Decision) -> None:
        if decision.own:
            self._write.apply(_owned(load, decision.own), load)
        for obj in decision.create:
            self._write.create(obj)

    def _end(self, load: Object, decision: Decision) -> None:
        for ref in decision.delete:
            self._write.delete(ref, self._look.uid(ref))
        if decision.release:
            self._write.release(load, [FINALIZER])

    def _guarded(self, load: Object, writes: Callable[[], None]) -> Exception | None:
        """What kept it from being done."""
        try:
            writes()
        except Conflict as error:  # what was seen is not what is there: the change is on its way to the copies
            LOG.info("%s: %s", key_of(load), error)
            return error
        except _REFUSED as error:
            if isinstance(error, Invalid) or (isinstance(error, ApiError) and error.code == 403):
                self._tell.warn(load, "Refused", str(error))
            return error
        return None

    def _say(self, load: Object, decision: Decision) -> bool:
        """False where the load is another one by now: what was decided is not said, and not to be acted on."""
        self._tell.findings(load, decision.findings)
        if decision.status is None:
            return True
        try:
            written = self._write.status(_without_progress(load, decision.status), decision.status)
        except Conflict as error:
            LOG.info("status of %s: %s", key_of(load), error)
            return False
        if written and decision.told is not None:
            self._tell.ended(load, *decision.told, well=decision.status.phase == "Complete")
        return True


def _held_up(facts: Facts, failure: Exception, now: datetime) -> Decision:
    """A load that could not be begun: it waits, and says for what."""
    return Decision(status=status_of(facts, Verdict(phase="Pending", reason="Refused", message=str(failure)), rfc3339(now)))


def _owned(load: Object, uid: str) -> Object:
    """The Dataset owns its operations, as in Fluid; it is not held up by them."""
    meta = load["metadata"]
    name = (load.get("spec") or {})["dataset"]["name"]
    owner = {"apiVersion": load["apiVersion"], "kind": "Dataset", "name": name, "uid": uid}
    marks = {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"], "ownerReferences": [owner]}
    return {"apiVersion": load["apiVersion"], "kind": load["kind"], "metadata": marks}


def _without_progress(load: Object, wanted: Any) -> Object:
    """The load without the field of its status that whoever loads writes, unless we write it too."""
    status = load.get("status")
    if wanted.progress is not msgspec.UNSET or not isinstance(status, dict):
        return load
    return {**load, "status": {k: v for k, v in status.items() if k != "progress"}}
