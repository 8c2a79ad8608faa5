"""`forebay webhook`: the process that API servers ask before they take a dataset's object, or a pod that mounts a dataset."""

from __future__ import annotations

from pathlib import Path

import click

from forebay.api.ending import end_on_signals
from forebay.cli.output import CommandError
from forebay.cli.processes.controller import address, installation
from forebay.cli.processes.serving import connect, log_to_stderr
from forebay.controller.admission import preferences
from forebay.controller.admission.preferences import Preferences
from forebay.controller.admission.process import Options, Webhook


@click.command(
    epilog="""\b
Examples:
  forebay webhook                                        in a pod: its service account, the defaults
  forebay webhook --config /etc/forebay/settings.yaml --preferences /etc/forebay-webhook/webhook.yaml --listen :8081

\b
It makes its certificates itself (Secret forebay-webhook-certificates), tells the API server of them, and makes them
anew before they end. Several replicas may run. docs/webhook.md says what is refused and what is done to pods.""",
)
@click.option("--config", "config", type=click.Path(dir_okay=False, path_type=Path), help="Settings of the installation.")
@click.option("--preferences", "weights", type=click.Path(dir_okay=False, path_type=Path), help="How near data shall be to pods.")
@click.option("--kubeconfig", default="", help="Which cluster; by default KUBECONFIG, then the pod's service account.")
@click.option("--serve", default=":9443", show_default=True, metavar="HOST:PORT", help="Where API servers call, by HTTPS.")
@click.option(
    "--listen", default="127.0.0.1:8081", show_default=True, metavar="HOST:PORT", help="Where health and metrics are served."
)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="What the certificate is for; by default the Service.")
@click.option("-v", "--verbose", is_flag=True, help="Log every call.")
def webhook(
    *, config: Path | None, weights: Path | None, kubeconfig: str, serve: str, listen: str, hosts: tuple[str, ...], verbose: bool
) -> None:
    """Answer the API server before it takes datasets' objects and pods."""
    log_to_stderr(verbose=verbose)
    options = Options(
        installation=installation(config),
        preferences=_preferences(weights),
        serve=address(serve, "--serve"),
        listen=address(listen),
        hosts=hosts,
    )
    transport = connect(kubeconfig, "forebay-webhook")
    try:
        running = Webhook(transport, options)
    except OSError as error:
        raise CommandError(f"--serve {serve} or --listen {listen}: {error.strerror}; name another port") from None
    end_on_signals(running.end)
    running.start()
    running.wait()
    running.stop()
    transport.close()


def _preferences(file: Path | None) -> Preferences:
    if file is None:
        return Preferences()
    try:
        return preferences.read(file.read_text(), str(file))
    except preferences.PreferenceError as error:
        raise click.BadParameter(str(error), param_hint="'--preferences'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file}: {getattr(error, 'strerror', None) or error}", param_hint="'--preferences'") from None
