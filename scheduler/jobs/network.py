"""Who gets how much of shared links: max-min fair, at the level of flows. Pure.

A flow has one rate. It uses a link with rate x usage[link, flow]: a job whose pods hit their cache half of the time uses half of
what it reads. Rates rise together, each as weight x level, until a flow reaches its cap or a link is full; flows on a full link
stay where they are and the others go on (progressive filling; Bertsekas and Gallager, *Data Networks*, 6.5.2).
"""

from __future__ import annotations

import numpy as np

from forebay.scheduler.arrays.types import Floats, Ints


def share(usage: Floats, capacity: Floats, weight: Floats, cap: Floats) -> Floats:
    """Rates [F] of flows: usage [L, F] >= 0, capacity [L] > 0, weight [F] > 0, cap [F] >= 0."""
    rate = cap.copy()
    load = (usage * cap).sum(axis=1)
    tight = np.flatnonzero(load > capacity)
    if not len(tight):
        return rate
    usage, left = usage[tight], capacity[tight].copy()
    order = np.argsort(cap / weight, kind="stable")
    free = np.ones(len(cap), np.bool_)
    while True:
        level, link = _first_full(usage, left, weight, cap, order[free[order]])
        if link < 0:
            return rate
        stopped = free & (usage[link] > 0)
        rate[stopped] = np.minimum(cap, weight * level)[stopped]
        left = np.maximum(left - (usage[:, stopped] * rate[stopped]).sum(axis=1), 0.0)
        free &= ~stopped


def _first_full(usage: Floats, left: Floats, weight: Floats, cap: Floats, flows: Ints) -> tuple[float, int]:
    """The lowest level at which one of these links is full, and which; (inf, -1) if all flows reach their caps.

    `flows` are those that still rise, by the level at which they reach their cap.
    """
    if not len(flows):
        return np.inf, -1
    used = usage[:, flows]
    ends = (cap / weight)[flows]
    capped = np.cumsum(used * cap[flows], axis=1)
    rising = used * weight[flows]
    rising = rising.sum(axis=1)[:, None] - np.cumsum(rising, axis=1)
    before = np.hstack([np.zeros((len(left), 1)), capped[:, :-1]])  # load of flows that reached their cap before this one
    slope = np.hstack([rising[:, :1] + (used * weight[flows])[:, :1], rising[:, :-1]])  # of those that have not
    over = capped + np.maximum(rising, 0.0) * ends > left[:, None] * (1 + 1e-12)
    full = over.any(axis=1)
    if not full.any():
        return np.inf, -1
    at = over.argmax(axis=1)
    rows = np.arange(len(left))
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(full, (left - before[rows, at]) / slope[rows, at], np.inf)
    levels = np.maximum(np.nan_to_num(levels, nan=0.0, posinf=np.inf), 0.0)
    link = int(np.argmin(levels))
    return float(levels[link]), link
