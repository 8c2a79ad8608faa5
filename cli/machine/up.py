"""`forebay up`: from YAML to mounts that answer. Everything half-started is taken back when something fails."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from forebay.api import places
from forebay.api.spec import encode_spec
from forebay.cli.load import cache_option, file_option, specs_or_fail
from forebay.cli.machine import netns
from forebay.cli.machine.checks import check_places, check_stores, clear_the_way
from forebay.cli.machine.datasets import Running, label, locked, run_of
from forebay.cli.machine.down import stop_all
from forebay.cli.machine.members import members_known
from forebay.cli.machine.nodes import MOST_WORKERS, Start, prepare, read_join
from forebay.cli.machine.planning import networks_for, planned
from forebay.cli.output import CommandError, emit_json, say, table, warn
from forebay.fuse.supervision import control, leftovers, processes, rundir

START_LIMIT = 330.0
"""Seconds until a start that neither succeeded nor failed is given up; above the supervisor's own limit."""
ACQUAINTED = 5.0
"""Seconds for nodes that start together to know each other: each looks at the list every second."""


@click.command(
    epilog="""\b
Examples:
  forebay up -f dataset.yaml
  forebay up -f dataset.yaml --mount ~/data --cache-dir /nvme/cache
  AWS_PROFILE=lab forebay up -f dataset.yaml -f secrets.yaml
  forebay up -f dataset.yaml --systemd > /etc/systemd/system/forebay-data.service
  forebay up -f dataset.yaml --workers 3 --mount /a --mount /b --cache-dir /nvme/cache
  forebay up -f dataset.yaml --mount /data --join file:/etc/forebay/members.yaml \\
      --listen 10.0.0.11:7401 --secret-file /etc/forebay/demo.secret

\b
Without --mount a dataset appears at /mnt/forebay/<namespace>/<name> (an ordinary user: ~/forebay/...).
With --mount DIR one dataset appears at DIR, several at DIR/<name> each.
The command returns once every mount answers. `forebay down` takes everything back and keeps the cache.

\b
Several nodes (docs/cluster.md): --workers N makes node-1 to node-N here, each with a cache of its own in
DIR/<node> of --cache-dir DIR; the i-th --mount shows what the i-th node sees. More mounts than workers make
client-1 and so on: they own nothing and have no credentials. --join makes this machine one node of several."""
)
@file_option
# no click.Path: it stats, and would hang with a dead mount
@click.option("--mount", "at", type=Path, metavar="DIR", multiple=True, help="Where to mount; one for each node.")
@cache_option
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), metavar="N", help="Make N nodes on this machine.")
@click.option("--netns", "apart", is_flag=True, help="With --workers: a network namespace for each node (root).")
@click.option("--join", metavar="LIST", help="Be a node among those of a member list: file:PATH or dns:NAME[:PORT].")
@click.option("--listen", default="", metavar="HOST:PORT", help="With --join: this node's address in the list.")
@click.option(
    "--control-listen", default="", metavar="HOST:PORT", help="With --join: where loads and drains are asked for (port + 1)."
)
@click.option("--secret-file", type=Path, metavar="FILE", help="With --join: the dataset's secret, the same on every node.")
@click.option("--node", default="", metavar="NAME", help="With --join: this node's name (the machine's).")
@click.option("--weight", type=float, metavar="W", help="With --join: this node's share of the bytes (1).")
@click.option("--client", is_flag=True, help="With --join: own nothing, serve nobody, have no credentials.")
@click.option("--no-mount", is_flag=True, help="With --join: serve other nodes only.")
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C or `forebay down`, then unmount.")
@click.option("--no-passthrough", is_flag=True, help="Let every read pass through the daemon, as on kernels before 6.9.")
@click.option("--offline-ok", is_flag=True, help="Start although a store cannot be reached, with an empty cache too.")
@click.option("--systemd", is_flag=True, help="Print a systemd unit that does this at every boot, and start nothing.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def up(
    *,
    files: tuple[Path, ...],
    at: tuple[Path, ...],
    cache_dir: Path | None,
    workers: int | None,
    apart: bool,
    join: str | None,
    listen: str,
    control_listen: str,
    secret_file: Path | None,
    node: str,
    weight: float | None,
    client: bool,
    no_mount: bool,
    foreground: bool,
    no_passthrough: bool,
    offline_ok: bool,
    systemd: bool,
    output: str,
) -> None:
    """Mount the datasets of YAML files and keep them cached."""
    if join is None and (listen or control_listen or secret_file or node or weight is not None or client or no_mount):
        raise click.UsageError("--listen, --secret-file and the like go with --join: --workers N chooses them itself")
    if apart and (workers is None or join is not None):
        raise click.UsageError("--netns goes with --workers N: it gives each node of this machine a network namespace")
    joining = None
    if join is not None:
        if workers is not None:
            raise click.UsageError("--workers makes all nodes on this machine, --join one among those of others: choose one")
        joining = read_join(
            join, listen=listen, secret_file=secret_file, node=node, control=control_listen,
            weight=1.0 if weight is None else weight, client=client,
        )  # fmt: skip
    specs = specs_or_fail(files, cache_dir, workers=workers)
    networks: dict[str, netns.Network] = {}
    if not systemd:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: what was started is taken back
        clear_the_way(specs, joining.node if joining else "")
        networks = networks_for(specs, workers, len(at)) if apart and workers else {}
    starts = planned(specs, at, cache_dir, workers=workers, join=joining, no_mount=no_mount, networks=networks)
    if systemd:
        from forebay.cli.machine.systemd import unit

        words = ["--workers", str(workers), *["--netns"] * apart] if workers is not None else joining.words() if joining else []
        words += ["--no-mount"] * no_mount + ["--no-passthrough"] * no_passthrough
        click.echo(unit(files, specs, at, cache_dir, words), nl=False)
        return
    check_places(starts, joining=joining is not None)
    shared = None if joining else cache_dir
    started: list[Running] = []
    try:
        for spec in specs if networks else ():
            with locked(spec.namespace, spec.name):
                netns.make(spec, networks[spec.id])
        check_stores(starts, offline_ok=offline_ok)
        for spec in specs:
            mine = [s for s in starts if s.spec.id == spec.id]
            start(mine, started, shared, networks.get(spec.id), no_passthrough=no_passthrough)
            acquainted([r for r in started if r.id == spec.id])
        _tell(started, output)
        asked: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            # told, it stays up: from here on an interruption comes too late, or is what the foreground waits for
            signal.signal(number, (lambda n, _: asked.append(n)) if foreground else signal.SIG_IGN)
    except BaseException:
        stop_all(list(reversed(started)))
        if networks:
            netns.sweep({(s.namespace, s.name) for s in specs})
        raise
    if foreground:
        stay(started, asked)


def start(
    starts: list[Start],
    started: list[Running],
    cache_dir: Path | None,
    network: netns.Network | None = None,
    *,
    no_passthrough: bool,
) -> None:
    """Start the nodes of one dataset and wait until each answers; on failure nothing of any of them is left.

    Each is in `started` from before its first process until all failed: an interruption at any instant finds it there.
    They start together, because a node waits a moment for those that its member list has.
    """
    children: dict[Path, list[int]] = {}
    spaces = {p.node: p.namespace for p in network.nodes} if network else {}
    with contextlib.ExitStack() as held:
        try:
            for spec, _ in starts:
                run = held.enter_context(locked(spec.namespace, spec.name, spec.cluster.node if spec.cluster else ""))
                if (run / places.SPEC).exists():
                    raise CommandError(f"dataset {label(spec)} was started by another command meanwhile: see `forebay status`")
            prepare(starts, cache_dir)
            for spec, mount in starts:
                run = run_of(spec)
                children[run] = []
                places.make_private(run)
                rundir.replace_file(str(run / places.SPEC), encode_spec(spec))
                started.append(Running(run))
                space = spaces.get(spec.cluster.node, "") if spec.cluster else ""
                _spawn(run, mount, space, children[run], no_passthrough=no_passthrough)
            for spec, _ in starts:
                _await(label(spec), run_of(spec), children[run_of(spec)][0])
        except BaseException:
            _take_back(starts[0].spec.id, children)
            started[:] = [r for r in started if r.run not in children]
            raise


def _take_back(dataset: str, children: dict[Path, list[int]]) -> None:
    """End what a failed start had started, by pid first: in the instant of its exec a process has no command line to be
    known by."""
    pids = [pid for found in children.values() for pid in found]
    for pid in pids:  # all at once: each takes seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    leftovers.end([leftovers.Process(pid, "supervisor") for pid in pids])
    for run in children:
        leftovers.clear(str(run), dataset)


def _spawn(run: Path, mount: str, space: str, children: list[int], *, no_passthrough: bool) -> None:
    argv = processes.python("forebay.fuse.supervision.supervisor", "--run-dir", str(run))
    argv += ["--mount", mount] if mount else []
    argv += ["--no-passthrough"] if no_passthrough else []
    if space:
        argv = netns.entered(space, argv)
    asked = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)  # whoever interrupts us finds the pid on record
    try:
        children.append(processes.spawn(argv, str(run / places.SUPERVISOR_LOG)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)


def _await(dataset: str, run: Path, pid: int) -> None:
    """Wait for the word of a supervisor that was started. Raises `CommandError` when it is no good one."""
    pidfd = os.pidfd_open(pid)
    try:
        answer = _wait(run, pidfd)
        if answer is None:  # it died before anybody could ask: its log says why
            said = processes.last_line(str(run / places.SUPERVISOR_LOG))
            raise CommandError(f"dataset {dataset}: the supervisor failed: {said or 'it said nothing'}")
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
    from forebay.cli.machine.status import report_of

    reports = [report_of(r) for r in started]
    if output == "json":
        emit_json({"datasets": reports})
        return
    how = {True: "passthrough", False: "through the daemon", None: "?"}
    rows = [
        (r["label"], point["path"], how[point.get("passthrough")])
        for r in reports
        for point in r["mountpoints"] or [{"path": "-", "passthrough": None}]
    ]
    table(("dataset", "mounted at", "reads of cached files"), rows)
    for report in reports:
        for note in report["notes"]:
            say(f"{report['label']}: {note}")


def acquainted(nodes: list[Running]) -> None:
    """Wait until nodes that were started together know each other: before that two may fetch the same bytes."""
    from forebay.cli.machine.status import stats_of

    workers = {r.node for r in nodes if r.spec.cluster and r.spec.cluster.owns}
    left = nodes if len(nodes) > 1 else []
    deadline = time.monotonic() + ACQUAINTED
    while left and time.monotonic() < deadline:
        left = [r for r in left if not workers <= members_known(stats_of(r)[0])]
        time.sleep(0.05 if left else 0)
    for r in left:
        warn(f"{r.label} does not know every other node yet: some bytes may be fetched twice, see `forebay status {r.id}`")


def stay(started: list[Running], asked: list[int]) -> None:
    """Wait for a signal in `asked` or a `down` from elsewhere, then stop what is left. Tells systemd when everything is up."""
    from forebay.cli.machine.systemd import notify

    notify("READY=1")
    say("in the foreground: Ctrl-C unmounts")
    while not asked and any(r.run.exists() for r in started):
        time.sleep(0.2)
    notify("STOPPING=1")
    stop_all([r for r in reversed(started) if r.run.exists()])
    sys.stdout.flush()
