"""`forebay down`: unmount, stop, leave nothing behind but the cache."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import click

from forebay.api import places
from forebay.cli.machine import netns
from forebay.cli.machine.datasets import Running, find_all, locked, running
from forebay.cli.output import CommandError, emit_json, say, warn
from forebay.fuse.supervision import control, leftovers

STOP_LIMIT = 45.0
"""Seconds for a clean end: 3 for a busy mount, 5 for the daemon, 30 for the worker, and room."""
AT_ONCE = 16


class Stopped(NamedTuple):
    """What a stop has to say."""

    id: str  # namespace/name, with @node where there are several
    notes: list[str]  # for a person to know
    problems: list[str]  # what could not be taken away


@click.command(
    epilog="""\b
Examples:
  forebay down                      everything of this user
  forebay down imagenet logs        two datasets
  forebay down research/imagenet    one of several with the same name
  forebay down imagenet@node-2      one node of several

\b
The cache stays, and the next `forebay up` finds it. A mount in use is given 3 seconds, then it is
detached under its users, who are named."""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def down(names: tuple[str, ...], output: str) -> None:
    """Unmount datasets and stop their processes; the cache stays."""
    named = (r for name in dict.fromkeys(names) for r in find_all(name))
    targets = list({r.run: r for r in named}.values()) if names else running()
    results = stop_all(targets)
    left = [] if names else netns.sweep()  # what a start that was killed left
    if output == "json":
        emit_json({"datasets": [r._asdict() for r in results]})
    elif not targets:
        say("nothing is up")
    for result in results:
        for note in result.notes:
            warn(note)
        if output == "text" and not result.problems:
            click.echo(f"{result.id} is down")
    problems = [p for r in results for p in r.problems] + left
    if problems:
        raise CommandError("\nforebay: ".join(problems))


def stop_all(targets: list[Running]) -> list[Stopped]:
    """Stop several at once: each may take seconds, and nodes of one dataset need not wait for each other."""
    if len(targets) < 2:
        results = [stop(target) for target in targets]
    else:
        with ThreadPoolExecutor(min(len(targets), AT_ONCE)) as pool:
            results = list(pool.map(stop, targets))
    left = netns.sweep({(t.spec.namespace, t.spec.name) for t in targets if t.node})
    if left:
        results[-1].problems.extend(left)
    return results


def stop(target: Running) -> Stopped:
    """Stop one dataset, or one node of it, whatever state it is in."""
    with locked(target.spec.namespace, target.spec.name, target.node) as run:
        deadline = time.monotonic() + STOP_LIMIT
        notes: list[str] = []
        while (run / places.SPEC).exists() and target.alive() and time.monotonic() < deadline:
            try:
                pids = [p["pid"] for p in target.state()["processes"]]
                answer = control.ask(str(run / places.SUPERVISOR_SOCK), {"op": "stop"}, deadline - time.monotonic())
            except control.Silence:
                continue  # killed meanwhile: the next one made by the daemon is asked
            notes += answer.get("notes", [])
            _gone(pids, deadline)
            break
        problems = leftovers.clear(str(run), target.id)
    return Stopped(target.label, notes, problems)


def _gone(pids: list[int], deadline: float) -> None:
    """Wait until processes are no more, so that who looks after `down` finds none."""
    from forebay.fuse.supervision.processes import start_ticks

    while any(start_ticks(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
