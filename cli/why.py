"""`forebay why`: what a pod or a gang waits for, and what would change it: on a cluster as it is, or in a dump of passes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forebay.cli.output import CommandError, emit_json

if TYPE_CHECKING:
    from forebay.scheduler.live.config import Configuration
    from forebay.scheduler.snapshot import Snapshot

NO_NUMPY = "the planner needs NumPy, which is not installed: pip install 'forebay[scheduler]'"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  forebay why train-0                                  a pod of the cluster, or the gang it is in
  forebay why team/train -o json
  forebay why job-00042 --dump passes.jsonl.gz --at 3600

\b
On a cluster it reads what the scheduler reads (so it needs get, list and watch of nodes, pods, volumes ... everywhere) and makes
the scheduler's next pass for itself; nothing is written. With --dump and without --at: the last pass in which the gang waits,
else the last in which it runs. It ends with 1 for a name that nobody knows.""",
)
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Of the name; by default the kubeconfig's.")
@click.option("--kubeconfig", default="", help="Which cluster; by default KUBECONFIG, then the pod's service account.")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="The scheduler's settings, if they are not the defaults."
)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds for reading the cluster.")
@click.option(
    "--dump", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Passes of the planner, as `forebay sim jobs --dump` writes them, in place of a cluster.",
)  # fmt: skip
@click.option("--at", type=float, help="With --dump: the last pass up to this time, in seconds.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the answer.")
def why(
    *,
    name: str,
    namespace: str,
    kubeconfig: str,
    config: Path | None,
    timeout: float,
    dump: Path | None,
    at: float | None,
    output: str,
) -> None:
    """Say why a pod or a gang waits: failed constraints, nearest plan, what to free."""
    if dump is None:
        if at is not None:
            raise click.UsageError("--at names a pass of a dump: give --dump FILE too")
        known = _of_cluster(name, namespace, kubeconfig, config=config, timeout=timeout, output=output)
    else:
        known = _of_dump(name, dump, at, output)
    if not known:
        raise click.exceptions.Exit(1)


def _of_cluster(name: str, namespace: str, kubeconfig: str, *, config: Path | None, timeout: float, output: str) -> bool:
    """Whether anybody knows the name."""
    try:
        import msgspec

        from forebay.scheduler.live.questions import why as explain
        from forebay.scheduler.live.questions.looking import NotWhole, look
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError(NO_NUMPY) from None
    from forebay.kube.config import ConfigError, find
    from forebay.kube.errors import Unreachable, Unusable
    from forebay.kube.transport import Transport

    settings = _settings(config)
    try:
        endpoint = find(kubeconfig)
        transport = Transport(endpoint, agent="forebay-why")
        view = look(transport, settings, timeout)
    except (ConfigError, Unreachable, Unusable, NotWhole) as e:
        raise CommandError(str(e)) from None
    transport.close()
    answer = explain.why(view, namespace or endpoint.namespace, name, time.monotonic(), time.time())
    if output == "json":
        emit_json(msgspec.to_builtins(answer), pretty=False)
    else:
        for line in explain.sentences(answer):
            click.echo(line)
    return answer.state != "unknown"


def _settings(config: Path | None) -> Configuration:
    from forebay.scheduler.live import config as configuration

    if config is None:
        return configuration.Configuration()
    try:
        return configuration.read(config.read_text(), str(config))
    except configuration.ConfigurationError as e:
        raise CommandError(str(e)) from None
    except (OSError, UnicodeDecodeError) as e:
        raise CommandError(f"{config}: {getattr(e, 'strerror', None) or e}") from None


def _of_dump(gang: str, dump: Path, at: float | None, output: str) -> bool:
    """Whether any pass has the gang."""
    try:
        import msgspec

        from forebay.scheduler import snapshot
        from forebay.scheduler import why as explain
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError(NO_NUMPY) from None
    best: tuple[int, Snapshot] | None = None
    try:
        for record in snapshot.read(dump):
            seen = record.snapshot
            if at is not None and seen.now > at:
                break
            waits = any(one.ask.gang.name == gang for one in seen.waiting) or any(one.gang.name == gang for one in seen.asked)
            rank = 2 if waits else any(one.plan.gang == gang for one in seen.running)
            if best is None or at is not None or rank >= best[0]:
                best = int(rank), seen
        if best is None:
            raise CommandError(f"{dump} has no pass{'' if at is None else f' up to {at:.0f} s'}")
        answer = explain.why(best[1], gang)
    except ValueError as e:
        raise CommandError(str(e)) from None
    if output == "json":
        emit_json({"at": best[1].now, **msgspec.to_builtins(answer)}, pretty=False)
    else:
        click.echo(f"at {best[1].now:.0f} s")
        for line in explain.sentences(answer):
            click.echo(line)
    return answer.state != "unknown"
