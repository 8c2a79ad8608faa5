"""What of a pod's preferences its node meets, and why not more: one line, from books in which the pod is thought away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.api.kubernetes.core import Pod
from forebay.scheduler.arrays.types import Floats, Ints
from forebay.scheduler.filters.node_affinity import show_term
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.tenants import Unplaceable
from forebay.scheduler.pods.request import Request
from forebay.scheduler.preferences.points import FULL, MOST
from forebay.scheduler.preferences.worth import POINT

KINDS = {"pods": "beside which pods it is", "spread": "spread", "taints": "taints that only weigh"}


def preferred(core: Core, pods: Sequence[Pod], wall: float) -> str:
    """Of the first of these that is ours, has a node and prefers anything; "" for none."""
    for pod in pods:
        record = core.books.cluster.pods.get(pod.metadata.uid)
        if record is None or record.row < 0 or pod.spec.scheduler_name != core.settings.scheduler_name:
            continue
        try:
            request = core.books.request(pod)
        except Unplaceable:
            continue
        with core.books.thinking():
            core.books.think_away(pod.metadata.uid)
            line = _line(core, pod, request, record.row, wall) if core.planner.heeds(request) else ""
        if line:
            return f"{pod.metadata.name} on {record.node}: {line}"
    return ""


def _line(core: Core, pod: Pod, request: Request, row: int, wall: float) -> str:
    cluster, scores = core.books.cluster, core.planner.scores(request)
    preferences, dataset = cluster.preferences(request), core.nearness.dataset(pod)
    held = core.nearness.holders(dataset, wall) if dataset else None
    rows = np.union1d((scores > -np.inf).nonzero()[0], [row])
    points, at = cluster.preferred(request, rows, held), int(np.searchsorted(rows, row))
    if preferences is None or points.total is None:
        return ""
    parts = list[str]()
    if (terms := preferences.terms) is not None:
        for weight, term in terms.terms:
            met = terms.nodes.labels.satisfy_all(term, rows[at : at + 1])[0]
            parts.append(f"{show_term(term)} ({weight}) {'is met' if met else 'is not'}")
    for kind, words in KINDS.items():
        found: Ints | None = getattr(points, kind)
        if found is not None:
            parts.append(f"{words}: {found[at]} of {MOST} points")
    return ", ".join(parts) + _more(core, scores, rows, points.total, at, data=held is not None)


def _more(core: Core, scores: Floats, rows: Ints, total: Ints, at: int, *, data: bool) -> str:
    """Where more would be met, and what weighed more."""
    best = int(total.argmax())
    worth = float(total[best] - total[at]) * core.planner.preference_seconds / FULL
    if worth <= 0:
        return "; no node that fits meets more"
    text = f"; {core.books.cluster.names[rows[best]]} meets more, worth {worth:.0f} s"
    if data:
        return f"{text}, and is further from its data, or fuller"
    costs = float(scores[rows[at]] - scores[rows[best]]) * POINT
    if costs >= worth:
        return f"{text}, and by policy {core.settings.policy} {costs:.0f} s worse"
    return f"{text}: when this was decided it was full, or others of its gang needed it"
