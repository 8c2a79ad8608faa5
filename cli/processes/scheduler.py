"""`forebay scheduler`: the process that places pods of its own scheduler name."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import click
import msgspec

from forebay.api.ending import end_on_signals
from forebay.cli.output import CommandError, emit_json, say, warn
from forebay.cli.processes.controller import address as listening
from forebay.cli.processes.serving import connect, log_to_stderr
from forebay.controller.health import Door
from forebay.scheduler.live import config as configuration
from forebay.scheduler.live.journal import JournalError
from forebay.scheduler.live.journal import replay as replayed
from forebay.scheduler.live.process import Options, Scheduler


@click.group(
    epilog="""\b
Examples:
  forebay scheduler run --config /etc/forebay/scheduler.yaml"""
)
def scheduler() -> None:
    """Place pods of a Kubernetes cluster."""


@scheduler.command(
    epilog="""\b
Examples:
  forebay scheduler run                                   in a pod: its service account, the defaults
  forebay scheduler run --config /etc/forebay/scheduler.yaml --listen :8080
  forebay scheduler run --kubeconfig ~/.kube/config --no-leader-elect -v

\b
--config is YAML, such as `schedulerName: forebay`; docs/scheduler.md lists the fields. It is read again when it changes; a
file with a mistake changes nothing. /metrics, /healthz and /readyz are served on --listen. It ends with 0 on SIGTERM, and
with 1 when the lease went to another replica.""",
)
@click.option("--config", "config", type=click.Path(dir_okay=False, path_type=Path), help="Settings of the scheduler.")
@click.option("--kubeconfig", default="", help="Which cluster; by default KUBECONFIG, then the pod's service account.")
@click.option("--namespace", default="forebay-system", show_default=True, help="Where the lease is.")
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where health and metrics are served."
)
@click.option(
    "--leader-elect/--no-leader-elect", default=True, show_default=True, help="Take the lease before anything is decided."
)
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a journal, from which all is decided again.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log every decision.")
def run(
    *, config: Path | None, kubeconfig: str, namespace: str, listen: str, leader_elect: bool, record: Path | None, verbose: bool
) -> None:
    """Bind pods whose spec.schedulerName is ours: gangs at once, cards and quotas booked, until told to end."""
    log_to_stderr(verbose=verbose)
    settings, text = _settings(config)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    gc.disable()  # until the cluster is taken in: all of it stays, and walking it again and again took a third of a restart
    options = Options(settings, config, text, namespace, identity, leader_elect, _keep_what_is_there, record)
    address = listening(listen)
    transport = connect(kubeconfig, "forebay-scheduler", kept=settings.bind_threads + 16)
    try:
        running = Scheduler(transport, options)
    except OSError as error:
        raise CommandError(f"--record {record}: {error.strerror}; name a file that can be written") from None
    try:
        door = Door(address, running.registry, {"/healthz": running.unhealthy, "/readyz": running.unready})
    except OSError as error:
        raise CommandError(f"--listen {listen}: {error.strerror}; name another port") from None
    end_on_signals(running.end)
    door.start()
    running.start()
    why = running.wait()
    running.stop()
    door.stop()
    transport.close()
    if why:
        raise CommandError(why)


@scheduler.command(
    epilog="""\b
Examples:
  forebay scheduler run --record journal.jsonl.gz         then, also elsewhere and later:
  forebay scheduler replay journal.jsonl.gz

\b
Exit code 1 if a pass decides otherwise than it did."""
)
@click.argument("journal", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def replay(*, journal: Path, output: str) -> None:
    """Decide everything of a recorded run once more; each pass must come out the same, byte for byte."""
    try:
        _, found = replayed(journal)
    except JournalError as error:
        raise CommandError(str(error)) from None
    if output == "json":
        emit_json(msgspec.to_builtins(found), pretty=False)
    if found.cut:
        warn(found.cut)
    if found.different:
        first = found.different[0]
        raise CommandError(
            f"{journal}: {len(found.different)} of {found.passes} passes decide otherwise: another version wrote it, or a "
            f"defect; pass {first.number} said {'; '.join(first.was) or 'nothing'} and says {'; '.join(first.now) or 'nothing'}"
        )
    if output == "text":
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(found.said.items())) or "nothing"
        say(f"{found.passes} passes over {found.told} changes and outcomes decide the same, byte for byte: {said}")


def _keep_what_is_there() -> None:
    """What the copies hold is walked by no collection any more: one of 150,000 pods would stop all threads for a second."""
    gc.freeze()
    gc.enable()


def _settings(config: Path | None) -> tuple[configuration.Configuration, str]:
    if config is None:
        return configuration.Configuration(), ""
    try:
        text = config.read_text()
        return configuration.read(text, str(config)), text
    except configuration.ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="'--config'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{config}: {getattr(error, 'strerror', None) or error}", param_hint="'--config'") from None
