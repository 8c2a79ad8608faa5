"""Progress of what a worker does for a command, shown as it comes: a bar for a person, lines for a log, JSON for a program."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from forebay.api import wire
from forebay.cli.output import duration, emit_json, say, size

PLAIN_EVERY = 2.0
"""Seconds between lines where stderr is no terminal."""


def shown(stream: Iterator[wire.Progress], target: str, output: str) -> wire.Progress | None:
    """Show progress as it comes, in the form that was asked for; the last one."""
    if output != "json":
        return _bar(stream, target) if sys.stderr.isatty() else _lines(stream, target)
    last = None
    for last in stream:
        emit_json(_as_json(last), pretty=False)
        sys.stdout.flush()
    return last


def _lines(stream: Iterator[wire.Progress], target: str) -> wire.Progress | None:
    """Progress for a log: a line every PLAIN_EVERY seconds."""
    last, said = None, time.monotonic()
    for last in stream:
        if time.monotonic() - said >= PLAIN_EVERY:
            said = time.monotonic()
            say(f"{target}: {sentence(last)}")
    return last


def sentence(p: wire.Progress) -> str:
    """`120 of 400 files, 1.2 of 4.0 GiB, 310.0 MiB/s, 9s left`; totals are marked while the walk runs."""
    more = "" if p.walked else "+"
    return (
        f"{p.files} of {p.files_total}{more} files, {size(p.bytes)} of {size(p.bytes_total)}{more}, "
        f"{size(p.rate)}/s, {duration(p.eta)} left" + (f", {p.failed} failed" if p.failed else "")
    )


def _bar(stream: Iterator[wire.Progress], target: str) -> wire.Progress | None:
    """Progress for a person: one line that moves."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    last = None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(target, total=None, text="walking")
        for last in stream:
            progress.update(task, total=last.bytes_total or None, completed=last.bytes, text=sentence(last))
    return last


def _as_json(p: wire.Progress) -> dict[str, Any]:
    return {
        "files": p.files, "files_total": p.files_total, "bytes": p.bytes, "bytes_total": p.bytes_total, "rate": round(p.rate),
        "eta": p.eta, "walked": p.walked, "finished": p.finished, "failed": p.failed, "error": p.error,
    }  # fmt: skip


def of_door(stream: Iterator[object]) -> Iterator[wire.Progress]:
    """A control door's progress as that of the worker's own door."""
    for p in stream:
        yield wire.Progress(**msgspec.structs.asdict(p))  # type: ignore[arg-type]
