"""`forebay controller`: the process that keeps datasets of a cluster as their objects say."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from forebay.api.ending import end_on_signals
from forebay.cli.output import CommandError
from forebay.cli.processes.serving import connect, log_to_stderr
from forebay.controller import settings
from forebay.controller.process import Controller, Options
from forebay.runtimes.engine import Installation


@click.command(
    epilog="""\b
Examples:
  forebay controller                                     in a pod: its service account, the defaults
  forebay controller --config /etc/forebay/settings.yaml --listen :8080
  forebay controller --kubeconfig ~/.kube/config --no-leader-elect -v

\b
--config is YAML, such as `defaultEngine: native`; docs/controllers.md lists the fields. /metrics, /healthz and /readyz
are served on --listen. It ends with 0 on SIGTERM, and with 1 when the lease went to another replica.""",
)
@click.option("--config", "config", type=click.Path(dir_okay=False, path_type=Path), help="Settings of the installation.")
@click.option("--kubeconfig", default="", help="Which cluster; by default KUBECONFIG, then the pod's service account.")
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where health and metrics are served."
)
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Datasets that are worked on at once.")
@click.option(
    "--leader-elect/--no-leader-elect", default=True, show_default=True, help="Take the lease before anything is written."
)
@click.option("-v", "--verbose", is_flag=True, help="Log every decision.")
def controller(*, config: Path | None, kubeconfig: str, listen: str, workers: int, leader_elect: bool, verbose: bool) -> None:
    """Keep the datasets of a Kubernetes cluster as their objects say."""
    log_to_stderr(verbose=verbose)
    options = Options(
        installation=installation(config),
        identity=f"{socket.gethostname()}_{os.getpid()}",
        listen=address(listen),
        workers=workers,
        elect=leader_elect,
    )
    transport = connect(kubeconfig, "forebay-controller")
    try:
        running = Controller(transport, options)
    except OSError as error:
        raise CommandError(f"--listen {listen}: {error.strerror}; name another port") from None
    end_on_signals(running.end)
    running.start()
    why = running.wait()
    running.stop()
    transport.close()
    if why:
        raise CommandError(f"the lease is lost: {why}")


def installation(config: Path | None) -> Installation:
    """The settings of `--config`; the defaults without it."""
    if config is None:
        return Installation()
    try:
        return settings.read(config.read_text(), str(config))
    except settings.SettingsError as error:
        raise click.BadParameter(str(error), param_hint="'--config'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{config}: {getattr(error, 'strerror', None) or error}", param_hint="'--config'") from None


def address(text: str, option: str = "--listen") -> tuple[str, int]:
    """HOST:PORT of an option; without a host, all of the machine's addresses."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(
            f'"{text}" is no address: write host:port, such as 127.0.0.1:8080 or :8080', param_hint=f"'{option}'"
        )
    return host.strip("[]") or "0.0.0.0", int(port)
