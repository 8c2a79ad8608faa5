"""Figures to reach, and whether a set of results reaches them. Pure: rows in, lines out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
OURS = "forebay"
PROFILES = ("forebay-relayed", "forebay-user")
KEEPERS = ("s3fs", "juicefs", "alluxio")
"""Peers whose page cache survives close and open: what a mount without passthrough is compared with."""
PEERS = (*KEEPERS, "rclone", "mountpoint")
MIB = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line of the board. `ok` is None where it could not be judged."""

    text: str
    value: float | None
    target: float | None
    unit: str
    ok: bool | None
    note: str = ""


@dataclass(frozen=True)
class Target:
    figure: str
    key: str
    text: str
    goal: float
    sense: Literal["at least", "at most"] = "at least"
    unit: str = "x"
    thing: str = OURS


TARGETS = (
    Target("seq", "ratio", "warm sequential 1 MiB / ext4", 0.90),
    Target("rand", "ratio", "warm random 4 KiB QD1 / ext4", 0.85),
    Target("epoch", "ratio", "open + read 16 KiB + close / ext4", 0.09),
    Target("epoch-pinned", "ratio", "  the same, session and reader on one core", 0.20),
    Target("epoch-remount", "ratio", "  the same, first shuffled epoch after down and up", 0.08),
    Target("cold", "ratio", "cold sequential / curl -o file", 0.50),
    Target("shaped", "ratio", "  the same on a link of 500 MB/s", 0.90),
    Target("flat-list", "rate", "listing with attributes, flat, index filled", 100_000, unit="entries/s"),
    Target("flat-stat", "s", "stat of a known path after up, flat prefix", 1.0, "at most", "s"),
    Target("flat-page", "s", "first directory page after up, flat prefix", 1.0, "at most", "s"),
    Target("amplify", "amplification", "store bytes / dataset bytes, 3 workers, 6 cold readers", 1.00, "at most"),
    Target("amplify-kill", "amplification", "  the same, one worker killed and back", 1.05, "at most"),
    Target("peer-link", "ratio", "cold sequential from another node, 500 MB/s / curl", 0.90),
    Target("peer-raw", "ratio", "  the same, unshaped / nginx sendfile to curl", 0.50),
    Target("peer-epoch", "ratio", "first epoch from peers / 8 connections, store 5 ms away", 3.0),
    Target("rss", "rss", "RssAnon of all processes after reading everything", 100 * MIB, "at most", "bytes"),
)

AGAINST = {
    "seq": ("ratio", "warm sequential / ext4", "high"),
    "remount-seq": ("rate", "first sequential read after a remount", "high"),
    "rand": ("ratio", "warm random 4 KiB / ext4", "high"),
    "epoch": ("ratio", "small-file epoch, warm / ext4", "high"),
    "epoch-remount": ("ratio", "small-file epoch after a remount / ext4", "high"),
    "cold-epoch": ("rate", "cold epoch, one reader, files/s", "high"),
    "far-epoch": ("rate", "cold epoch, store 5 ms away, files/s", "high"),
    "fill-8": ("rate", "the epoch with 8 readers, part cold, files/s", "high"),
    "cold": ("ratio", "cold sequential / curl -o file", "high"),
    "list-first": ("rate", "list + stat after a cold mount, entries/s", "high"),
    "list-again": ("ratio", "list + stat again / ext4", "high"),
    "list-remount": ("rate", "list + stat after a remount, entries/s", "high"),
    "rss-big": ("rss", "RssAnon after the big object", "low"),
    "rss-small": ("rss", "RssAnon after the small files", "low"),
}
"""What is put beside the peers: which number, what it is, and which way is better."""


UNJUDGED = {"fill-8"}
"""Shown, not judged: what was left to fetch differs from thing to thing."""


def find(rows: Iterable[Row], figure: str, thing: str, key: str) -> float | None:
    for row in rows:
        if row["figure"] == figure and row["thing"] == thing and row.get(key) is not None:
            return float(row[key])
    return None


def wrong(rows: Iterable[Row]) -> set[str]:
    """Things that gave wrong bytes: none of their figures counts."""
    return {row["thing"] for row in rows if row.get("wrong")}


def best(rows: list[Row], figure: str, key: str, things: Iterable[str], better: Callable[[float, float], bool]) -> Row | None:
    """The best right thing of a figure, as {"thing", "value"}."""
    found: Row | None = None
    liars = wrong(rows)
    for thing in things:
        value = find(rows, figure, thing, key)
        if thing not in liars and value is not None and (found is None or better(value, found["value"])):
            found = {"thing": thing, "value": value}
    return found


def judge(rows: list[Row]) -> list[Line]:
    """Every line that the rows allow: absolute targets, the profiles without passthrough, and the peers."""
    lines = []
    if OURS in wrong(rows):
        lines.append(Line("right bytes", 0, 1, "", ok=False, note="forebay gave wrong bytes"))
    for t in TARGETS:
        value = find(rows, t.figure, t.thing, t.key)
        if value is not None:
            ok = value >= t.goal if t.sense == "at least" else value <= t.goal
            lines.append(Line(t.text, value, t.goal, t.unit, ok))
    for profile in PROFILES:
        for figure in ("seq", "rand", "epoch"):
            value = find(rows, figure, profile, "ratio")
            top = best(rows, figure, "ratio", KEEPERS, operator.gt)
            if value is not None and top is not None:
                quotient = value / top["value"]
                text = f"{profile}: {AGAINST[figure][1]}, of the best that keeps pages"
                lines.append(
                    Line(text, quotient, 0.9, "x", quotient >= 0.9, f"{value:.3f} / {top['value']:.3f} ({top['thing']})")
                )
    for figure, (key, text, way) in AGAINST.items():
        if figure in UNJUDGED:
            continue
        better = operator.gt if way == "high" else operator.lt
        value, top = find(rows, figure, OURS, key), best(rows, figure, key, PEERS, better)
        if value is not None and top is not None:
            unit = {"ratio": "x", "rss": "bytes", "rate": "/s"}[key]
            lines.append(Line(f"ahead of peers: {text}", value, top["value"], unit, better(value, top["value"]), top["thing"]))
    return lines


def show(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / MIB:.1f} MiB"
    if unit == "s":
        return f"{value:.3f} s"
    if unit == "x":
        return f"{value:.3f}"
    for step, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{value / step:.2f} {letter}{unit}"
    return f"{value:.1f} {unit}"


def board(rows: list[Row]) -> str:
    """The judged lines as text."""
    lines = judge(rows)
    if not lines:
        return "nothing to judge"
    width = max(len(line.text) for line in lines)
    out = [f"{'figure':<{width}}  {'ours':>14}  {'target / best':>14}"]
    for line in lines:
        mark = {True: "ok", False: "BEHIND", None: "?"}[line.ok]
        ours, other = show(line.value, line.unit), show(line.target, line.unit)
        out.append(f"{line.text:<{width}}  {ours:>14}  {other:>14}  {mark:<6} {line.note}".rstrip())
    return "\n".join(out)


def matrix(rows: list[Row]) -> list[list[str]]:
    """Every figure by every thing: a header and one list a figure."""
    things = [t for t in (OURS, *PROFILES, *PEERS) if any(r["thing"] == t for r in rows)]
    liars = wrong(rows)
    table = [["figure", *(f"{t} (WRONG BYTES)" if t in liars else t for t in things)]]
    for figure, (_, text, _) in AGAINST.items():
        cells = []
        for thing in things:
            row = next((r for r in rows if r["figure"] == figure and r["thing"] == thing), None)
            cells.append(_cell(row))
        if any(c != "-" for c in cells):
            table.append([text, *cells])
    return table


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if "error" in row:
        return "failed"
    if "rss" in row:
        return show(row["rss"], "bytes")
    if row.get("rate") is None:
        return "-"
    rate = show(row["rate"], "B/s" if row["figure"] in {"seq", "remount-seq", "cold"} else "/s")
    return f"{rate} ({row['ratio']:.3f})" if row.get("ratio") is not None else rate


def markdown(table: list[list[str]]) -> str:
    head, *body = table
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in body)])


BEGIN, END = "<!-- figures: written by `bench/run.py --publish` -->", "<!-- end of figures -->"


def publish(page: str, machine: Row, rows: list[Row]) -> str:
    """The page with its figures replaced. `ValueError` when it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END} to write between")
    return f"{before}{begin}\n{section(machine, rows)}\n{end}{after}"


def section(machine: Row, rows: list[Row]) -> str:
    """Machine, targets, peers and what is lost, as Markdown."""
    lines = judge(rows)
    size = f"one object of {machine['big'] >> 20} MiB, {machine['small']:,} files of 16 KiB"
    if machine.get("flat"):
        size += f", a flat prefix of {machine['flat']:,} objects"
    if machine.get("quick"):
        size += " (a quick run: smaller data, fewer rounds)"
    parts_of = [f"{machine['cores']} cores ({machine['cpu']})", f"{machine['memory_gib']} GiB", f"Linux {machine['kernel']}"]
    parts_of += [machine["file_system"], f"Python {machine['python']}"]
    head = f"{machine['date']}: {', '.join(parts_of)}; {size}."
    marks = {True: "reached", False: "**missed**", None: "-"}
    own = [["target", "ours", "goal", ""]]
    own += [[x.text.strip(), show(x.value, x.unit), show(x.target, x.unit), marks[x.ok]] for x in lines if not _ahead(x)]
    beside = [["beside peers", "ours", "best peer", ""]]
    for x in lines:
        if _ahead(x):
            name = x.text.removeprefix("ahead of peers: ")
            best_peer = f"{show(x.target, x.unit)} ({x.note})"
            beside.append([name, show(x.value, x.unit), best_peer, "ahead" if x.ok else "**behind**"])
    lost = [x.text.removeprefix("ahead of peers: ").strip() for x in lines if x.ok is False]
    parts = [
        head,
        markdown(own),
        markdown(beside),
        "All of it (ratio to the bound in brackets):",
        markdown(matrix(rows)),
        costs(rows),
    ]
    parts.append(f"Rows we lose: {'; '.join(lost)}." if lost else "No row is lost in this run.")
    return "\n\n".join(p for p in parts if p)


def _ahead(line: Line) -> bool:
    return line.text.startswith("ahead of peers: ")


def costs(rows: list[Row]) -> str:
    """CPU seconds per GiB beside each throughput, and what the store sent for a byte asked for."""
    table = [["CPU s/GiB (thing and reader)", "warm sequential", "cold sequential", "store bytes / object bytes"]]
    for thing in (OURS, *PROFILES, *PEERS):
        cells = [find(rows, figure, thing, "cpu_s_per_gib") for figure in ("seq", "cold")]
        sent = find(rows, "cold", thing, "sent")
        if any(c is not None for c in cells):
            table.append([thing, *("-" if c is None else f"{c:.2f}" for c in (*cells, sent))])
    return markdown(table) if len(table) > 1 else ""
