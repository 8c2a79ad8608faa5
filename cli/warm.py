"""`forebay warm` and `refresh`: fetch ahead, and ask the store again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from forebay.api import wire
from forebay.cli.datasets import find, find_all, split
from forebay.cli.output import CommandError, duration, emit_json, say, size, text_of

PLAIN_EVERY = 2.0
"""Seconds between lines where stderr is no terminal."""


@click.command(
    epilog="""\b
Examples:
  forebay warm imagenet
  forebay warm imagenet:/train
  forebay warm --metadata-only imagenet        names, sizes and versions only
  forebay warm -o json imagenet | tail -1      one JSON object a line
  forebay warm --node node-2 --node node-3 imagenet:/train
  forebay warm --replicas 2 'imagenet:/train/*.tar'

\b
Ctrl-C ends the command; what was fetched stays. Exit code 1 when a file could not be fetched."""
)
@click.argument("target", metavar="NAME[:PATH]")
@click.option("--metadata-only", is_flag=True, help="Walk the tree and fetch no file.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="A node that takes all of it; may be given several times.")
@click.option("--replicas", type=click.IntRange(1), metavar="R", help="Put each part on its owner and the next nodes, R in all.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
def warm(*, target: str, metadata_only: bool, nodes: tuple[str, ...], replicas: int | None, output: str) -> None:
    """Fetch a dataset or a part of it into the cache, with bytes, files, rate and ETA."""
    name, path = split(target)
    if nodes and replicas:
        raise click.UsageError("--node says on which nodes, --replicas on how many: give one of them")
    begun = time.monotonic()
    node = find(name)
    if nodes or replicas:
        from forebay.cli.drain import progress
        from forebay.cli.ordering import orders

        with orders(node) as (client, address):
            stream = client.load(address, [path], metadata_only=metadata_only, replicas=replicas or 0, nodes=nodes)
            last = shown(progress(stream), target, output)
    else:
        with node.door() as door:
            try:
                last = shown(door.warm(path, metadata_only=metadata_only), target, output)
            except OSError as e:
                raise CommandError(f"{name}:{text_of(path)}: {e.strerror or e}") from e
    if last is None or not last.finished:
        raise CommandError(f"warming {target} ended without a result: see `forebay status {name}`")
    if last.failed or last.error:
        raise CommandError(
            f"{last.failed} files of {target} could not be fetched, the last: {last.error or 'see the worker log'}"
        )
    if output == "text":
        took = time.monotonic() - begun
        click.echo(f"{target}: {last.files} files, {size(last.bytes)} cached, in {duration(took)}")


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


@click.command(
    epilog="""\b
Examples:
  forebay refresh logs
  forebay refresh logs:/2026/11

\b
The next look at a name below PATH asks the store. Files that did not change keep their cached bytes.
Of several nodes all on this machine are told, or the one of NAME@NODE."""
)
@click.argument("target", metavar="NAME[:PATH]")
def refresh(*, target: str) -> None:
    """Ask the store again at the next look, whatever the freshness of the mount says."""
    name, path = split(target)
    nodes = find_all(name)
    failed = []
    for node in nodes:  # each has names of its own
        try:
            with node.door() as door:
                door.call(wire.Refresh(path=path))
        except OSError as e:
            failed.append(f"{name if len(nodes) == 1 else node.label}:{text_of(path)}: {e.strerror or e}")
    if failed:
        raise CommandError("\nforebay: ".join(failed))
