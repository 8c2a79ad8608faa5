"""A page with the runs of `forebay sim jobs`: tables and plots in one file that loads nothing from anywhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

from forebay.scheduler.jobs.measure import Comparison, Interval, Result
from forebay.scheduler.jobs.simulation import Outcome
from forebay.scheduler.plots import head, html_table, plot

HOUR = 3600.0
TIME = "hours of virtual time"


def page(found: Sequence[tuple[Result, Outcome]], compared: Sequence[Comparison]) -> str:
    """HTML of these runs and of what they say against each other. Lines over time are of the first seed."""
    first = found[0][0].seed if found else 0
    one = [(result, outcome) for result, outcome in found if result.seed == first]
    parts = [
        head("forebay sim jobs", "Gangs and datasets"),
        f"<p>{_about(found)}</p>",
        _table([result for result, _ in found]),
        _compared(compared),
        "<h2>Gangs that wait</h2>",
        plot([(r.policy, [(at / HOUR, float(waiting)) for at, waiting, *_ in o.timeline]) for r, o in one], TIME, "gangs"),
        "<h2>Read from the own node's cache, so far</h2>",
        plot(
            [(r.policy, [(at / HOUR, 100 * local / max(read, 1.0)) for at, _, _, local, read in o.timeline]) for r, o in one],
            TIME,
            "% of all bytes read so far",
        ),
        "<h2>Cards in use</h2>",
        plot([(r.policy, [(at / HOUR, float(busy)) for at, _, busy, *_ in o.timeline]) for r, o in one], TIME, "cards"),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _about(found: Sequence[tuple[Result, Outcome]]) -> str:
    if not found:
        return "No runs."
    one = found[0][0]
    seeds = ", ".join(map(str, dict.fromkeys(result.seed for result, _ in found)))
    return f"{one.jobs} jobs at load {one.load}, sigma {one.sigma}; seeds {seeds}. Plots over virtual time, of seed {one.seed}."


def _table(results: Sequence[Result]) -> str:
    head = ("policy", "seed", "local %", "moved %", "first batch: mean s", "median s", "99 % s", "last s", "end s")
    rows = [
        (
            html.escape(one.policy),
            str(one.seed),
            f"{100 * one.local_share:.1f}",
            f"{100 * one.remote_bytes / one.read_bytes:.1f}",
            f"{one.first_batch_seconds.mean:.0f}",
            f"{one.first_batch_seconds.p50:.0f}",
            f"{one.first_batch_seconds.p99:.0f}",
            f"{one.first_batch_seconds.most:.0f}",
            f"{one.makespan_seconds:.0f}",
        )
        for one in results
    ]
    return html_table(head, rows)


def _compared(compared: Sequence[Comparison]) -> str:
    if not compared:
        return ""
    head = ("forebay against", "local bytes x", "moved bytes /", "mean time to first batch x")
    rows = [(html.escape(one.baseline), _bounds(one.local), _bounds(one.remote), _bounds(one.delay)) for one in compared]
    return html_table(head, rows)


def _bounds(one: Interval) -> str:
    return f"{one.mean:.2f}" if one.low == one.high else f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"
