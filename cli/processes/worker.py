"""`forebay worker`: what a worker's pod runs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from forebay.api import places, wire
from forebay.api.podconfig import LEAVING as LEAVE
from forebay.api.podconfig import ORDERS_DIR
from forebay.cli.output import CommandError, duration, size

LEAVING = "leaving"
"""Beside the member list, made by the node's plugin: the node is being emptied, or the worker is taken away for good."""


@click.group(
    epilog="""\b
Examples:
  forebay worker run --config=/etc/forebay/config/config.json --credentials=/etc/forebay/credentials \\
      --run-dir=/var/lib/forebay/run --address=10.0.0.7 --data-port=7401 --control-port=7402 --node=gpu-3
  forebay worker drain --if-leaving --run-dir=/var/lib/forebay/run
  forebay worker load --dataset=team/corpus --workers=svc-corpus-worker.team.svc --control-port=7402 \\
      --secret=/etc/forebay/secret/secret --target=1:/train"""
)
def worker() -> None:
    """What the pods of a dataset's workers, and of its loads, run (docs/engines.md)."""


@worker.command()
@click.option("--config", required=True, metavar="FILE", help="config.json of the dataset's ConfigMap.")
@click.option("--credentials", required=True, metavar="DIR", help="Mounted Secrets: DIR/<secret>/<key>.")
@click.option("--run-dir", required=True, metavar="DIR", help="Where the worker's door is made.")
@click.option("--address", required=True, metavar="IP", help="The pod's address, as members know it.")
@click.option("--data-port", required=True, type=click.IntRange(1, 65535), metavar="N", help="Where members read bytes.")
@click.option(
    "--control-port", required=True, type=click.IntRange(1, 65535), metavar="N", help="Where loads and drains are asked for."
)
@click.option("--node", required=True, metavar="NAME", help="The node's name.")
@click.option("--orders", default=f"{ORDERS_DIR}/{LEAVE}", metavar="FILE", help="Not empty: give everything away, then end.")
def run(
    *, config: str, credentials: str, run_dir: str, address: str, data_port: int, control_port: int, node: str, orders: str
) -> None:
    """Serve a dataset's cache until SIGTERM.

    The configuration and the credentials are read again when they change: mounts that came or went are taken over while
    files are open. Exit code 2: the configuration or a directory has to be corrected; the last line on stderr says what.
    """
    from forebay.cache.podworker import Pod
    from forebay.cache.podworker import run as serve

    pod = Pod(
        config=config, credentials=credentials, run_dir=run_dir, address=address,
        data_port=data_port, control_port=control_port, node=node, orders=orders,
    )  # fmt: skip
    sys.exit(serve(pod))


@worker.command()
@click.option("--run-dir", required=True, metavar="DIR", help="That of `forebay worker run`.")
@click.option("--if-leaving", is_flag=True, help="Only if `leaving` lies beside the member list; else return at once.")
def drain(*, run_dir: str, if_leaving: bool) -> None:
    """Give what this worker owns to the others; it then owns nothing until it starts again.

    What finds no taker is left: the worker is about to end either way, and tells the others that it goes.
    """
    if if_leaving and not (Path(run_dir).parent / "members" / LEAVING).exists():
        return
    from forebay.cache.client import Door
    from forebay.cache.peers.auth import Key, load_secret
    from forebay.cache.peers.control_client import ControlClient
    from forebay.cache.peers.controlwire import ControlError

    door = Door(os.path.join(run_dir, places.WORKER_SOCK), role="cli")
    try:
        report = door.call(wire.Stats(), timeout=10.0)
    except OSError as e:
        raise CommandError(f"no worker answers at {run_dir}: {e.strerror or e}") from e
    finally:
        door.close()
    values = report.values if isinstance(report, wire.Report) else {}
    cluster = values.get("cluster")
    if not isinstance(cluster, dict) or not cluster["control_door"]:
        raise CommandError(f"the worker at {run_dir} has no control door: it is none of a pod")
    if not cluster["owns"]:
        click.echo("it owns nothing any more")
        return
    begun = time.monotonic()
    try:
        client = ControlClient(Key(load_secret(cluster["secret_file"]), str(values["dataset"])))
        try:
            steps = list(client.drain(cluster["control_door"], force=True))
        finally:
            client.close()
    except (ControlError, ValueError) as e:
        raise CommandError(f"not drained: {e}") from e
    moved = f"{steps[-1].files} parts, {size(steps[-1].bytes)}, " if steps else ""
    click.echo(f"drained: {moved}in {duration(time.monotonic() - begun)}")


@worker.command()
@click.option("--dataset", required=True, metavar="NAMESPACE/NAME", help="Whose workers they are.")
@click.option("--workers", required=True, metavar="HOST", help="A name with the address of each of them.")
@click.option("--control-port", required=True, type=click.IntRange(1, 65535), metavar="N", help="Of their control doors.")
@click.option("--secret", required=True, metavar="FILE", help="The dataset's secret.")
@click.option(
    "--target", "targets", required=True, multiple=True, metavar="R:/PATH", help="What, on how many nodes (repeatable)."
)
@click.option("--refresh", is_flag=True, help="Ask the stores for names and versions first.")
@click.option("--metadata-only", is_flag=True, help="Walk the tree on every worker and fetch no file.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="A node whose worker takes all of it (repeatable).")
@click.option("--report-to", default="", metavar="NAME", help="The DataLoad whose status.progress is written.")
@click.option("--uid", default="", metavar="UID", help="Of the DataLoad.")
@click.option("--result", default="", metavar="FILE", help="Where the result goes at the end, as JSON.")
def load(
    *, dataset: str, workers: str, control_port: int, secret: str, targets: tuple[str, ...], refresh: bool, metadata_only: bool,
    nodes: tuple[str, ...], report_to: str, uid: str, result: str,
) -> None:  # fmt: skip
    """Have the workers of a dataset load paths of it, and say how far they are.

    Whatever ends in the middle, the same command goes on where it was. Exit code 2: another try meets the same.
    """
    from forebay.cache.loader import Order
    from forebay.cli.processes import loading  # not with `run`: a worker that serves needs none of it

    order = Order(tuple(loading.target(t) for t in targets), refresh=refresh, metadata_only=metadata_only, nodes=nodes)
    sys.exit(loading.run(loading.Asked(dataset, workers, control_port, secret, order, report_to, uid, result)))
