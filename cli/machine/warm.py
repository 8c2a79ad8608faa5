"""`forebay warm` and `refresh`: fetch ahead, and ask the store again."""

from __future__ import annotations

import time

import click

from forebay.api import wire
from forebay.cli.machine.datasets import find, find_all, split
from forebay.cli.output import CommandError, duration, size, text_of
from forebay.cli.progress import of_door, shown


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
        from forebay.cli.machine.ordering import orders

        with orders(node) as (client, address):
            stream = client.load(address, [path], metadata_only=metadata_only, replicas=replicas or 0, nodes=nodes)
            last = shown(of_door(stream), target, output)
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
