"""Gangs that said how long they may wait (`scheduleTimeoutSeconds`, Koordinator's `waiting-time`): told once when that is over.

Nothing is held while a gang waits, so there is nothing to be taken from it: it stays in the queue, and who made it may decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.groups import Groups
from forebay.scheduler.groups.spec import Spec
from forebay.scheduler.live.config import Gangs
from forebay.scheduler.live.instructions import Report
from forebay.scheduler.live.waiting import Job, Queue


class Timeouts:
    """Of the gangs that wait. Times are seconds of the epoch."""

    def __init__(self, groups: Groups, queue: Queue) -> None:
        self._groups, self._queue = groups, queue
        self._until: dict[str, tuple[float, float]] = {}  # job -> when its time is over, and how long that was
        self._told: set[str] = set()

    def waits(self, job: Job, pods: Sequence[Pod]) -> None:
        """A gang could not start: its time runs from when its first pod was made."""
        spec = self._groups.spec(job.gang, pods) if job.gang else ""
        if isinstance(spec, Spec) and spec.timeout > 0:
            self._until[job.key] = job.since + spec.timeout, spec.timeout
        else:
            self._until.pop(job.key, None)

    def repair(self, job: Job, there: Sequence[Pod], gangs: Gangs) -> Gangs:
        """Settings for a gang that is bound in part: its own time counts where it set one. `there`: its bound pods."""
        spec = self._groups.spec(job.gang, there)
        return msgspec.structs.replace(gangs, repair_seconds=spec.timeout) if isinstance(spec, Spec) and spec.timeout else gangs

    def over(self, now: float, pods: dict[str, Pod]) -> list[Report]:
        """What is to be said of those whose time has run out since: on the object that describes the gang, else on its pods."""
        if not self._until:
            return []
        found = list[Report]()
        for key, (until, seconds) in list(self._until.items()):
            job = self._queue.jobs.get(key)
            if job is None:
                del self._until[key]
                self._told.discard(key)
            elif now >= until and key not in self._told:
                self._told.add(key)
                sentence = f"gang {job.gang} has waited longer than the {seconds:g} s that it set: {job.reason}"
                found += self._reports(job, pods, sentence)
        return found

    def _reports(self, job: Job, pods: dict[str, Pod], sentence: str) -> list[Report]:
        about = self._groups.regarding(job.gang)
        if about is not None:
            where = about.namespace, about.name, about.uid
            return [Report(about.api_version, about.kind, *where, "GangTimeout", sentence)]
        metas = [pods[uid].metadata for uid in job.pods]
        return [Report("v1", "Pod", meta.namespace, meta.name, meta.uid, "GangTimeout", sentence) for meta in metas]
