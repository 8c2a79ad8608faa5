"""`forebay up`: from YAML to mounts that answer. Everything half-started is taken back when something fails."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import click

from forebay.api import places
from forebay.api.spec import DatasetSpec, encode_spec
from forebay.cache.stores.base import Unavailable
from forebay.cli import preflight
from forebay.cli.datasets import Running, locked
from forebay.cli.down import stop
from forebay.cli.load import cache_option, file_option, specs_or_fail
from forebay.cli.output import CommandError, emit_json, say, table, warn
from forebay.fuse import control, leftovers, mounting, processes, rundir

START_LIMIT = 330.0
"""Seconds until a start that neither succeeded nor failed is given up; above the supervisor's own limit."""


@click.command(
    epilog="""\b
Examples:
  forebay up -f dataset.yaml
  forebay up -f dataset.yaml --mount ~/data --cache-dir /nvme/cache
  AWS_PROFILE=lab forebay up -f dataset.yaml -f secrets.yaml
  forebay up -f dataset.yaml --systemd > /etc/systemd/system/forebay-data.service

\b
Without --mount a dataset appears at /mnt/forebay/<namespace>/<name> (an ordinary user: ~/forebay/...).
With --mount DIR one dataset appears at DIR, several at DIR/<name> each.
The command returns once every mount answers. `forebay down` takes everything back and keeps the cache."""
)
@file_option
# no click.Path: it stats, and would hang with a dead mount
@click.option("--mount", "at", type=Path, metavar="DIR", help="Where to mount.")
@cache_option
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C or `forebay down`, then unmount.")
@click.option("--no-passthrough", is_flag=True, help="Let every read pass through the daemon, as on kernels before 6.9.")
@click.option("--offline-ok", is_flag=True, help="Start although a store cannot be reached, with an empty cache too.")
@click.option("--systemd", is_flag=True, help="Print a systemd unit that does this at every boot, and start nothing.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def up(
    *,
    files: tuple[Path, ...],
    at: Path | None,
    cache_dir: Path | None,
    foreground: bool,
    no_passthrough: bool,
    offline_ok: bool,
    systemd: bool,
    output: str,
) -> None:
    """Mount the datasets of YAML files and keep them cached."""
    specs = specs_or_fail(files, cache_dir)
    points = mount_points(specs, at.absolute() if at else None)
    if systemd:
        from forebay.cli.systemd import unit

        click.echo(unit(files, specs, at, cache_dir, no_passthrough=no_passthrough), nl=False)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: what was started is taken back
    check_all(specs, points, offline_ok=offline_ok)
    started: list[Running] = []
    try:
        for spec in specs:
            start(spec, points[spec.id], started, no_passthrough=no_passthrough)
        _tell(started, output)
        if not foreground:  # it is told, and stays: from here on an interruption comes too late
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    except BaseException:
        for running in reversed(started):
            stop(running)
        raise
    if foreground:
        stay(started)


def mount_points(specs: list[DatasetSpec], at: Path | None) -> dict[str, str]:
    """Where each dataset (by id) is mounted."""
    if at is None:
        root = Path("/mnt/forebay") if os.geteuid() == 0 else Path.home() / "forebay"
        return {s.id: str(root / s.namespace / s.name) for s in specs}
    if len(specs) == 1:
        return {specs[0].id: os.path.normpath(at)}
    twice = [name for name, n in Counter(s.name for s in specs).items() if n > 1]
    if twice:
        raise CommandError(f"several datasets are called {', '.join(twice)}: with --mount start each with an `up` of its own")
    return {s.id: os.path.normpath(at / s.name) for s in specs}


def check_all(specs: list[DatasetSpec], points: dict[str, str], *, offline_ok: bool) -> None:
    """Everything that can be found out before a process starts. Raises `CommandError` with all that is wrong."""
    problems: list[str] = []
    table_ = list(mounting.entries())
    for spec in specs:
        run = places.run_dir(spec.namespace, spec.name)
        if (run / places.SPEC).exists():
            running = Running(run)
            if running.alive():
                where = ", ".join(m["path"] for m in running.state()["mounts"])
                problems.append(f"dataset {spec.id} is already up at {where}: `forebay down {spec.name}` first")
                continue
            leftovers.clear(str(run), spec.id)
            table_ = list(mounting.entries())
        if len(os.fsencode(run / places.SUPERVISOR_SOCK)) > places.SUN_PATH:
            problems.append(f"{run} is too long a path for a socket: set FOREBAY_RUN_DIR to a shorter one")
        point = points[spec.id]
        found = [preflight.mount_point(point, table_), preflight.cycles(spec, point), preflight.index_place(spec)]
        problems += [f for f in found if f]
    if problems:
        raise CommandError("\nforebay: ".join(problems))
    for spec in specs:
        for reach in preflight.reach(spec.mounts):
            if reach.problem is None:
                continue
            warm = os.path.isdir(os.path.join(spec.index_dir, "live"))
            if isinstance(reach.problem, Unavailable) and (warm or offline_ok):
                warn(f"{reach.problem}; dataset {spec.id} starts with what is cached")
            else:
                problems.append(f"mount {reach.mount.name} of dataset {spec.id}: {reach.problem}")
        for floor in preflight.floors(spec):
            if floor.stopped:
                warn(floor.sentence())
    if problems:
        raise CommandError("\nforebay: ".join(problems))


def start(spec: DatasetSpec, point: str, started: list[Running], *, no_passthrough: bool) -> None:
    """Start the supervisor of one dataset and wait until its mount answers; on failure nothing of it is left.

    It is in `started` from before its first process until it failed: an interruption at any instant finds it there.
    """
    with locked(spec.namespace, spec.name) as run:
        if (run / places.SPEC).exists():
            raise CommandError(f"dataset {spec.id} was started by another command meanwhile: see `forebay status`")
        children: list[int] = []
        try:
            places.make_private(run)
            rundir.replace_file(str(run / places.SPEC), encode_spec(spec))
            started.append(Running(run))
            _start(spec.id, point, run, children, no_passthrough=no_passthrough)
        except BaseException:
            # by pid first: in the instant of its exec a process has no command line to be known by
            leftovers.end([leftovers.Process(pid, "supervisor") for pid in children])
            leftovers.clear(str(run), spec.id)
            started[:] = [r for r in started if r.run != run]
            raise


def _start(dataset: str, point: str, run: Path, children: list[int], *, no_passthrough: bool) -> None:
    argv = processes.python("forebay.fuse.supervisor", "--run-dir", str(run), "--mount", point)
    if no_passthrough:
        argv.append("--no-passthrough")
    log = run / places.SUPERVISOR_LOG
    asked = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)  # whoever interrupts us finds the pid on record
    try:
        pid = processes.spawn(argv, str(log))
        children.append(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)
    pidfd = os.pidfd_open(pid)
    try:
        answer = _wait(run, pidfd)
        if answer is None:  # it died before anybody could ask: its log says why
            raise CommandError(
                f"dataset {dataset}: the supervisor failed: {processes.last_line(str(log)) or 'it said nothing'}"
            )
        if answer.get("done"):
            select.select([pidfd], [], [], 10)
            raise CommandError(f"dataset {dataset} did not start: {answer.get('error') or 'it was stopped meanwhile'}")
    finally:
        os.close(pidfd)


def _wait(run: Path, pidfd: int) -> dict[str, Any] | None:
    """The supervisor's word on the start; None when it died without one."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        try:
            return control.ask(str(run / places.SUPERVISOR_SOCK), {"op": "wait"}, deadline - time.monotonic())
        except control.Silence:
            if select.select([pidfd], [], [], 0.02)[0]:
                return None
    raise CommandError(f"the start took longer than {START_LIMIT:.0f} s: see {run / places.SUPERVISOR_LOG}")


def _tell(started: list[Running], output: str) -> None:
    from forebay.cli.status import report_of

    reports = [report_of(r) for r in started]
    if output == "json":
        emit_json({"datasets": reports})
        return
    rows = [
        (r["id"], point["path"], {True: "passthrough", False: "through the daemon", None: "?"}[point.get("passthrough")])
        for r in reports
        for point in r["mountpoints"]
    ]
    table(("dataset", "mounted at", "reads of cached files"), rows)
    for report in reports:
        for note in report["notes"]:
            say(f"{report['id']}: {note}")


def stay(started: list[Running]) -> None:
    """Wait for Ctrl-C, SIGTERM or a `down` from elsewhere, then stop what is left. Tells systemd when everything is up."""
    from forebay.cli.systemd import notify

    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    notify("READY=1")
    say("in the foreground: Ctrl-C unmounts")
    while not asked and any(r.run.exists() for r in started):
        time.sleep(0.2)
    notify("STOPPING=1")
    for running in reversed(started):
        if running.run.exists():
            stop(running)
    sys.stdout.flush()
