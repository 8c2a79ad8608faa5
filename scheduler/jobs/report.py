"""A page with the runs of `forebay sim jobs`: tables and plots in one file that loads nothing from anywhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

from forebay.scheduler.jobs.measure import Comparison, Interval, Result
from forebay.scheduler.jobs.simulation import Outcome

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 240, 64, 28
COLOURS = ("#0b6e4f", "#c44536", "#3d5a80", "#8d6a9f", "#b08900", "#5c5c5c")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}text{font-size:11px;fill:#444}"
)

Line = tuple[str, Sequence[tuple[float, float]]]
"""Name and points of a line."""


def page(found: Sequence[tuple[Result, Outcome]], compared: Sequence[Comparison]) -> str:
    """HTML of these runs and of what they say against each other. Lines over time are of the first seed."""
    first = found[0][0].seed if found else 0
    one = [(result, outcome) for result, outcome in found if result.seed == first]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>forebay sim jobs</title>",
        f"<style>{STYLE}</style><h1>Gangs and datasets</h1>",
        f"<p>{_about(found)}</p>",
        _table([result for result, _ in found]),
        _compared(compared),
        "<h2>Gangs that wait</h2>",
        _plot([(r.policy, [(at, float(waiting)) for at, waiting, *_ in o.timeline]) for r, o in one], "gangs"),
        "<h2>Read from the own node's cache, so far</h2>",
        _plot([(r.policy, [(at, 100 * local / max(read, 1.0)) for at, _, _, local, read in o.timeline]) for r, o in one], "%"),
        "<h2>Cards in use</h2>",
        _plot([(r.policy, [(at, float(busy)) for at, _, busy, *_ in o.timeline]) for r, o in one], "cards"),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _about(found: Sequence[tuple[Result, Outcome]]) -> str:
    if not found:
        return "No runs."
    one = found[0][0]
    seeds = ", ".join(map(str, dict.fromkeys(result.seed for result, _ in found)))
    return (
        f"{one.jobs} jobs at load {one.load}, sigma {one.sigma}; seeds {seeds}. Plots over virtual seconds, of seed {one.seed}."
    )


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
    return _html_table(head, rows)


def _compared(compared: Sequence[Comparison]) -> str:
    if not compared:
        return ""
    head = ("forebay against", "local bytes x", "moved bytes /", "mean time to first batch x")
    rows = [(html.escape(one.baseline), _bounds(one.local), _bounds(one.remote), _bounds(one.delay)) for one in compared]
    return _html_table(head, rows)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{name}" for name in head)]
    lines += ["<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows]
    return "\n".join(lines) + "\n</table>"


def _bounds(one: Interval) -> str:
    return f"{one.mean:.2f}" if one.low == one.high else f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


def _plot(lines: Sequence[Line], unit: str) -> str:
    """An SVG with one line a policy, from 0."""
    most_x = max((x for _, points in lines for x, _ in points), default=1.0) or 1.0
    most_y = max((y for _, points in lines for _, y in points), default=1.0) or 1.0
    wide, high = WIDTH - LEFT - 8, HEIGHT - BOTTOM - 8
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20}" role="img">']
    for step in range(5):
        y = 8 + high * (1 - step / 4)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most_y * step / 4:.0f}</text>')
        x = LEFT + wide * step / 4
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{most_x * step / 4:.0f}</text>')
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{LEFT + wide * x / most_x:.1f},{8 + high * (1 - y / most_y):.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        parts.append(f'<text x="{LEFT + 110 * number}" y="{HEIGHT + 14}" style="fill:{colour}">{html.escape(name)}</text>')
    parts.append(f'<text x="4" y="{HEIGHT + 14}">{unit}</text></svg>')
    return "\n".join(parts)
