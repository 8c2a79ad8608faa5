"""Tables and line plots as HTML that loads nothing from anywhere: no script, no font, no picture."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 280, 64, 12, 10, 40
COLOURS = ("#0b6e4f", "#c44536", "#3d5a80", "#8d6a9f", "#b08900", "#5c5c5c", "#2a9d8f")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""By turns with the colours: lines can be told apart in grey too."""
STEPS = 5
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}text{font-size:11px;fill:#444}"
)

Line = tuple[str, Sequence[tuple[float, float]]]
"""Name and points of a line, x ascending."""


def head(title: str, heading: str) -> str:
    """The beginning of a page."""
    shown = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{shown}</title><style>{STYLE}</style></head>'
        f"<body><h1>{html.escape(heading)}</h1>"
    )


def html_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    lines = ["<table><tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join(lines) + "\n</table>"


def nice(low: float, high: float) -> list[float]:
    """Round marks of an axis from `low` or below to `high` or above: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    span = high - low
    size = 10.0 ** math.floor(math.log10(span / STEPS))
    step = next(size * times for times in (1, 2, 5, 10) if size * times * STEPS >= span * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def plot(lines: Sequence[Line], x_name: str, y_name: str, *, from_zero: bool = True) -> str:
    """An SVG with named axes, a line each and a legend. `from_zero`: the y axis begins at 0, else below the lowest point."""
    xs = [x for _, points in lines for x, _ in points] or [0.0]
    ys = [y for _, points in lines for _, y in points] or [0.0]
    across, up = nice(min(0.0, *xs), max(xs)), nice(0.0 if from_zero else min(ys), max(ys))
    rows = (len(lines) + 3) // 4
    total = HEIGHT + 18 * rows + 6

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - across[0]) / (across[-1] - across[0])

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - up[0]) / (up[-1] - up[0])

    title = html.escape(f"{y_name} over {x_name}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {total}" role="img" aria-label="{title}"><title>{title}</title>']
    for mark in up:
        y = at_y(mark)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in across:
        x = at_x(mark)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#f2f2f2"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{mark:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{html.escape(x_name)}</text>')
    parts.append(f'<text x="{LEFT + 4}" y="{TOP + 10}">{html.escape(y_name)}</text>')
    for number, (name, points) in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        style = f'stroke="{colour}" stroke-width="1.5"' + (f' stroke-dasharray="{dash}"' if dash else "")
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" {style} points="{path}"/>')
        x, y = LEFT + (number % 4) * 160, HEIGHT + 18 * (number // 4) + 6
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" {style}/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{html.escape(name)}</text>')
    parts.append("</svg>")
    return "\n".join(parts)
