"""Jobs that wait to be decided: single pods and gangs. Pure: the caller says what time it is.

A job is *due* when it may be tried, *resting* while its back-off runs, *parked* while only a change of the cluster can help it.
Invariant: a job is in exactly one of the three as long as it has pods.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Job:
    """`pods`: uids that wait, in the order of arrival, and their priorities, of which the highest counts. `since`: seconds of the
    epoch at which the first was made."""

    key: str
    since: float
    gang: str = ""
    arrival: int = 0
    """Its place among those of the same `since`, which has whole seconds."""
    priority: int = 0
    pods: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    due_at: float = 0.0
    parked: bool = False
    seen: int = 0
    """`Queue.stirs` when it was last tried, at `tried_at` of the steady clock."""
    tried_at: float = 0.0
    first_at: float = 0.0
    """When it was first tried in vain, by the same clock."""
    reason: str = ""


class Queue:
    """See the module. `first`, `longest`: seconds of back-off; `flush`: after so long a parked job is tried without a change."""

    def __init__(self, first: float = 1.0, longest: float = 10.0, flush: float = 60.0) -> None:
        self.first, self.longest, self.flush = first, longest, flush
        self.jobs: dict[str, Job] = {}
        self.stirs = 0
        self._due: dict[str, None] = {}
        self._resting: list[tuple[float, str]] = []
        self._parked: dict[str, None] = {}
        self._flush_at = 0.0
        self._coupled: set[str] = set()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self.jobs)

    def counts(self) -> dict[str, int]:
        """Jobs by where they are, in kube-scheduler's words."""
        active, parked = len(self._due), len(self._parked)
        return {"active": active, "backoff": len(self.jobs) - active - parked, "unschedulable": parked}

    def add(self, key: str, uid: str, since: float, *, gang: str = "", priority: int = 0, hurry: bool = True) -> Job:
        """A pod waits. A gang that gets one more is tried at once: it may be whole now. Its priority is its highest pod's."""
        job = self.jobs.get(key)
        if job is None:
            self._arrivals += 1
            job = self.jobs[key] = Job(key, since, gang, self._arrivals, priority)
            self._due[key] = None
        before = job.pods.get(uid)
        job.pods[uid] = priority
        if before is None:
            job.since, job.priority = min(job.since, since), max(job.priority, priority)
            if gang and hurry:
                self.hurry(key)
        elif before != priority:
            job.priority = max(job.pods.values())
        return job

    def remove(self, key: str, uid: str) -> None:
        """The pod waits no more. A job without pods is forgotten."""
        job = self.jobs.get(key)
        if job is None or uid not in job.pods:
            return
        del job.pods[uid]
        if not job.pods:
            del self.jobs[key]
            self._due.pop(key, None)
            self._parked.pop(key, None)
        else:
            job.priority = max(job.pods.values())

    def hurry(self, key: str) -> None:
        """Due now, whatever it waited for."""
        job = self.jobs.get(key)
        if job is not None:
            self._parked.pop(key, None)
            job.parked, job.due_at = False, 0.0
            self._due[key] = None

    def stir(self) -> None:
        """Something changed that may have made room: whoever is parked may be tried again, after its back-off."""
        self.stirs += 1

    def couple(self, key: str) -> None:
        """The job's affinity or spread may wait for another pod to be placed."""
        self._coupled.add(key)

    def stir_coupled(self) -> None:
        """A pod was placed: `stir` for those alone that may wait for just that."""
        for key in self._coupled & self.jobs.keys():
            self.jobs[key].seen = -1
        self._coupled.clear()

    def due(self, now: float) -> Iterator[Job]:
        """Jobs that may be tried now, in no order."""
        while self._resting and self._resting[0][0] <= now:
            at, key = heapq.heappop(self._resting)
            job = self.jobs.get(key)
            if job is not None and not job.parked and job.due_at == at:
                self._due[key] = None
        if self._parked and (self._stirred() or now >= self._flush_at):
            self._unpark(now)
        for key in list(self._due):
            job = self.jobs.get(key)
            if job is not None:
                yield job

    def _stirred(self) -> bool:
        return any(self.jobs[key].seen != self.stirs for key in self._parked)

    def _unpark(self, now: float) -> None:
        for key in list(self._parked):
            job = self.jobs[key]
            if job.seen != self.stirs or now - job.tried_at >= self.flush:
                del self._parked[key]
                job.parked = False
                self._rest(job, now)
        self._flush_at = min((self.jobs[key].tried_at + self.flush for key in self._parked), default=now + self.flush)

    def _rest(self, job: Job, now: float) -> None:
        if job.due_at <= now:
            self._due[job.key] = None
        else:
            heapq.heappush(self._resting, (job.due_at, job.key))

    def failed(self, job: Job, now: float, reason: str, *, seen: int | None = None) -> None:
        """It was tried in vain: parked until the next `stir`, and not before its back-off.

        `seen`: `stirs` when the attempt began, if something may have changed since."""
        if job.key not in self.jobs:
            return
        if not job.attempts:
            job.first_at = now
        job.attempts += 1
        job.reason, job.tried_at = reason, now
        job.seen = self.stirs if seen is None else seen
        job.due_at = now + min(self.longest, self.first * 2.0 ** min(job.attempts - 1, 32))
        job.parked = True
        self._due.pop(job.key, None)
        self._parked[job.key] = None
        self._flush_at = min(self._flush_at, now + self.flush) if len(self._parked) > 1 else now + self.flush

    def later(self, job: Job, now: float, delay: float) -> None:
        """To be tried in `delay` seconds, whatever happens before."""
        if job.key not in self.jobs:
            return
        self._due.pop(job.key, None)
        self._parked.pop(job.key, None)
        job.parked, job.due_at = False, now + delay
        heapq.heappush(self._resting, (job.due_at, job.key))

    def next_at(self, now: float) -> float | None:
        """When somebody becomes due by time alone; None: not by time."""
        if self._due:
            return now
        times = [self._resting[0][0]] if self._resting else []
        if self._parked:
            times.append(now if self._stirred() else self._flush_at)
        return min(times, default=None)
