"""`forebay drain`: a node gives the bytes it owns to the others, leaves, and ends."""

from __future__ import annotations

import time

import click

from forebay.cli.machine.datasets import Running, find_all
from forebay.cli.machine.down import stop_all
from forebay.cli.machine.ordering import orders
from forebay.cli.output import CommandError, duration, size, warn
from forebay.cli.progress import of_door, shown


@click.command(
    epilog="""\b
Examples:
  forebay drain imagenet@node-2
  forebay drain --keep imagenet@node-2     its mount stays, and takes every byte from the others
  forebay drain --force imagenet@node-2    leave though some bytes found no taker

\b
What the node owns and has cached goes to the members that own it next, so that no store is asked for it again. If a
part finds no taker the node stays what it was, and the exit code is 1. Ctrl-C ends the drain; what was moved stays moved.
A drained node owns nothing until the next `forebay up` of it."""
)
@click.argument("target", metavar="NAME[@NODE]")
@click.option("--keep", is_flag=True, help="Leave the node's processes and mount up.")
@click.option("--force", is_flag=True, help="Leave even if some bytes could not be moved.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
def drain(*, target: str, keep: bool, force: bool, output: str) -> None:
    """Move what a node owns to the other nodes, then stop it."""
    node = _one(target)
    begun = time.monotonic()
    with orders(node) as (client, address):
        if node.spec.cluster is None or not node.spec.cluster.control:
            raise CommandError(f"{node.label} is a client tier and owns nothing: `forebay down {node.label}`")
        last = shown(of_door(client.drain(address, force=force)), node.label, output)
    if last is None or not last.finished:
        raise CommandError(f"draining {node.label} ended without a result: see `forebay status {node.label}`")
    if last.error:
        warn(f"{node.label}: {last.error}")
    if output == "text":
        took = duration(time.monotonic() - begun)
        click.echo(f"{node.label} owns nothing any more: {last.files} parts, {size(last.bytes)} moved, in {took}")
    if keep:
        return
    stopped = stop_all([node])[0]
    for note in stopped.notes:
        warn(note)
    if stopped.problems:
        raise CommandError("\nforebay: ".join(stopped.problems))
    if output == "text":
        click.echo(f"{node.label} is down")


def _one(target: str) -> Running:
    found = find_all(target)
    if len(found) > 1:
        raise CommandError(f'"{target}" has several nodes here: say which, one of {", ".join(r.label for r in found)}')
    return found[0]
