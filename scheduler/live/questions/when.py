"""When a job that waits should start, as far as anybody knows, and what is in its way. Reads a core after its pass."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from forebay.scheduler.live.core import Core
from forebay.scheduler.live.reserve.holding import Holder
from forebay.scheduler.live.waiting import Job

SHOWN = 5
THEN = {
    "room": "it starts elsewhere then, where a place is free",
    "load": "it starts then where its data is loaded, or elsewhere if a place is free there only",
    "turn": "it starts then where a place is free, and reads from the store itself if nobody loads for it",
}


class When(msgspec.Struct, frozen=True):
    """`eta_seconds`: None where nobody can tell, and `because` says why. `behind`: who is held a place that it may not take.

    `reserved`: nodes held for it; `ending`: pods there that are to end first. `loading`: seconds until its data is there.
    """

    eta_seconds: float | None = None
    because: str = ""
    behind: str = ""
    reserved: list[str] = []
    ending: list[str] = []
    loading: dict[str, float] = {}


def when(core: Core, job: Job, dataset: str, wall: float) -> When:
    """Of a job that is still in the queue."""
    loading = _loading(core, dataset, wall)
    holder = core.keeping.nodes.holders.get(job.key)
    if (awaited := core.nearness.awaiting.of.get(job.gang or job.key)) is not None:
        left = max(awaited.until - wall, 0.0)
        nearest = min(loading.values(), default=math.inf) if awaited.what == "room" else math.inf
        reserved = sorted(holder.found.needs) if holder is not None else []
        return When(min(left, nearest), THEN[awaited.what], reserved=reserved, loading=loading)
    if holder is not None:
        return _held(core, holder, wall, loading)
    queue = next((one for one in core.keeping.queues.holders.values() if one.key == job.key), None)
    if queue is not None:
        if math.isfinite(queue.start):
            return When(max(queue.start - wall, 0.0), "by the deadlines of what its queue runs", loading=loading)
        return When(None, "what its queue runs has no deadline", loading=loading)
    behind = core.keeping.behind_whom(job)
    if behind:
        return When(None, f"{behind} goes first", behind, loading=loading)
    if job.key in core.keeping.nodes.in_vain:
        text = "it would not fit either once all that ends by itself has ended (pods of restartPolicy Always do not)"
        return When(None, text, loading=loading)
    return When(None, "it waits for a change of the cluster, or of itself", loading=loading)


def _held(core: Core, holder: Holder, wall: float, loading: dict[str, float]) -> When:
    nodes = sorted(holder.found.needs)
    pods = core.books.bound
    going = [pods[one.uid].metadata for node in nodes for one in holder.found.going[node] if one.uid in pods]
    names = [f"{meta.namespace}/{meta.name}" for meta in going[:SHOWN]]
    if math.isfinite(holder.promise):
        return When(max(holder.promise - wall, 0.0), "by the deadlines of what runs there", "", nodes, names, loading)
    return When(None, "what runs on the nodes reserved for it has no deadline", "", nodes, names, loading)


def _loading(core: Core, dataset: str, wall: float) -> dict[str, float]:
    warmth = core.nearness.warmth
    column = warmth.column_of.get(dataset)
    if column is None:
        return {}
    left = warmth.remaining(column, wall)
    rows = np.flatnonzero(np.isfinite(left))
    return {warmth.nodes[row]: float(left[row]) for row in rows[np.argsort(left[rows], kind="stable")][:SHOWN].tolist()}
