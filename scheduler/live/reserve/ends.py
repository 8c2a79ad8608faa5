"""When a running pod ends, as far as it or its Job says. Nobody's guess is used: estimates of run times are often wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

from forebay.api.kubernetes.batch import JOB_UID, Job
from forebay.api.kubernetes.core import Pod
from forebay.api.moments import moment

ENDING = ("Never", "OnFailure")
"""`restartPolicy` of pods that end when their work is done. One of `Always` runs until somebody deletes it."""


class Ends:
    """Knows the deadlines of Jobs (`activeDeadlineSeconds`), which their pods do not have. Times are seconds of the epoch.

    `changes` counts what was learned: a Job's word may come after its pods are bound and others wait for them.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._jobs: dict[tuple[str, str], float] = {}  # namespace and uid of a Job -> when it is over at the latest

    def job(self, old: Job | None, new: Job | None) -> bool:
        """A Job is there, changed, or (None) gone. Whether that changes when pods end."""
        one = new if new is not None else old
        assert one is not None
        key = one.metadata.namespace, one.metadata.uid
        before = self._jobs.pop(key, None)
        if new is not None and new.spec.active_deadline_seconds is not None and (began := _time(new.status.start_time)):
            self._jobs[key] = began + new.spec.active_deadline_seconds
        changed = before != self._jobs.get(key)
        self.changes += changed
        return changed

    def of(self, pod: Pod, gang: str, now: float) -> float | None:
        """`math.inf` for one that will end, nobody knows when; None for one that does not end by itself.

        A gang's pods are a job's, whatever their `restartPolicy`. A time that is over is now: the pod is about to be ended.
        """
        if leaving := _time(pod.metadata.deletion_timestamp):
            return max(leaving, now)
        end = self._deadline(pod, _time(pod.status.start_time) or now)
        if math.isfinite(end):
            return max(end, now)
        return math.inf if gang or pod.spec.restart_policy in ENDING else None

    def would_be(self, pods: Iterable[Pod], now: float) -> float:
        """When a job that starts now is over at the latest, `math.inf` where one of its pods has no deadline."""
        return max((max(self._deadline(pod, now), now) for pod in pods), default=math.inf)

    def _deadline(self, pod: Pod, began: float) -> float:
        """The pod's own, from when it began, or its Job's, whichever is first; `math.inf` for none."""
        own, labels = pod.spec.active_deadline_seconds, pod.metadata.labels
        uid = next((labels[key] for key in JOB_UID if key in labels), "")
        of_job = self._jobs.get((pod.metadata.namespace, uid), math.inf) if uid else math.inf
        return min(math.inf if own is None else began + own, of_job)


def _time(text: str | None) -> float | None:
    at = moment(text)
    return None if at is None else at.timestamp()
