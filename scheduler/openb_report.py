"""A page with the runs of `forebay sim openb`: what was allocated against what was asked for, in one file."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence

from forebay.scheduler.plots import head, html_table, plot

Run = tuple[int, Mapping[int, float], float]
"""Seed, allocation in % of all cards by arrived demand in whole %, seconds."""
MARKS = (50, 75, 90, 100, 110, 120, 130)


def page(policy: str, runs: Sequence[Run], about: str) -> str:
    """HTML of these runs of one policy. `about`: what was run, for people. Raises ValueError for no runs."""
    if not runs:
        raise ValueError("there are no runs to report: name at least one seed")
    marks = [mark for mark in MARKS if all(mark in points for _, points, _ in runs)]
    shared = sorted(set.intersection(*(set(points) for _, points, _ in runs)))
    mean = [(float(at), statistics.fmean(points[at] for _, points, _ in runs)) for at in shared]
    lines = [(f"seed {seed}", [(float(at), points[at]) for at in shared]) for seed, points, _ in runs]
    lost = [(float(at), min(at, 100) - value) for at, value in mean]
    rows = [[str(seed), *(f"{points[mark]:.2f}" for mark in marks), f"{took:.1f}"] for seed, points, took in runs]
    if len(runs) > 1:
        averages = [statistics.fmean(points[mark] for _, points, _ in runs) for mark in marks]
        spread = [statistics.stdev([points[mark] for _, points, _ in runs]) for mark in marks]
        rows += [["mean", *(f"{one:.2f}" for one in averages), ""], ["standard deviation", *(f"{one:.2f}" for one in spread), ""]]
        lines.insert(0, ("mean", mean))
    parts = [
        head("forebay sim openb", f"GPUs allocated by {policy}"),
        f"<p>{html.escape(about)}</p>",
        html_table(["seed", *(f"at {mark} %" for mark in marks), "seconds"], rows),
        "<h2>Allocated, against what was asked for until then</h2>",
        plot(lines, "arrived demand, % of all GPUs", "allocated, % of all GPUs"),
        "<h2>Not allocated of what was asked for and there</h2>",
        plot([("mean" if len(runs) > 1 else f"seed {runs[0][0]}", lost)], "arrived demand, % of all GPUs", "percentage points"),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"
