"""When a running pod ends, as far as its spec says. Nobody's guess is used: run times that users estimate are often wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

from forebay.api.corev1 import Pod
from forebay.api.moments import moment

ENDING = ("Never", "OnFailure")
"""`restartPolicy` of pods that end when their work is done. One of `Always` runs until somebody deletes it."""


def ends(pod: Pod, gang: str, now: float) -> float | None:
    """Seconds of the epoch; `math.inf` for one that will end, nobody knows when; None for one that does not end by itself.

    A gang's pods are a job's, whatever their `restartPolicy`. A time that is over is now: the kubelet is about to end the pod.
    """
    if leaving := _time(pod.metadata.deletion_timestamp):
        return max(leaving, now)
    if pod.spec.active_deadline_seconds is not None:
        began = _time(pod.status.start_time) or now
        return max(began + pod.spec.active_deadline_seconds, now)
    return math.inf if gang or pod.spec.restart_policy in ENDING else None


def would_end(pods: Iterable[Pod], now: float) -> float:
    """When a job that starts now is over at the latest: by its pods' deadlines, `math.inf` where one has none."""
    longest = (one.spec.active_deadline_seconds for one in pods)
    return max((math.inf if seconds is None else now + seconds for seconds in longest), default=math.inf)


def _time(text: str | None) -> float | None:
    at = moment(text)
    return None if at is None else at.timestamp()
