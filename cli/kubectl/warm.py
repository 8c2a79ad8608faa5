"""`kubectl forebay warm`: makes a DataLoad, and shows how far it is until it has ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import click

from forebay.api.fluid.names import shorten
from forebay.api.wire import Progress
from forebay.cli.kubectl.reach import Cluster, Object, Where, dataset_names, output_option, reached, where_options
from forebay.cli.output import CommandError, emit_json, say, size
from forebay.cli.progress import shown
from forebay.controller.kinds import RESOURCES

EVERY = 1.0
TTL = 3600
"""Seconds that a load made here stays after its end, for who looks at it; then it goes by itself."""


@click.command(
    epilog="""\b
Examples:
  kubectl forebay warm corpus
  kubectl forebay warm corpus:/train corpus:/val
  kubectl forebay warm --replicas 2 'corpus:/train/*.tar'
  kubectl forebay warm --refresh corpus:/2026/11      ask the stores for new and changed files first
  kubectl forebay warm --no-wait corpus               kubectl get dataloads tells the rest

\b
It makes a DataLoad, which goes on whatever becomes of this command: Ctrl-C ends the watching.
Exit code 1 when it has failed."""
)
@click.argument("targets", nargs=-1, required=True, metavar="NAME[:PATH]...", shell_complete=dataset_names)
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True, help="Workers that hold each part.")
@click.option("--refresh", is_flag=True, help="Ask the stores for names and versions first.")
@click.option("--metadata-only", is_flag=True, help="Walk the tree and fetch no file.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Watch it until it has ended.")
@where_options
@output_option
def warm(
    *, targets: tuple[str, ...], replicas: int, refresh: bool, metadata_only: bool, wait: bool, namespace: str, context: str,
    kubeconfig: str, output: str,
) -> None:  # fmt: skip
    """Load a dataset, or parts of it, ahead of its readers."""
    name, paths = _split(targets)
    with reached(Where(kubeconfig, context, namespace)) as cluster:
        cluster.dataset(name)
        load = manifest(cluster.namespace, name, paths, replicas=replicas, refresh=refresh, metadata_only=metadata_only)
        cluster.client.create(RESOURCES["DataLoad"], cluster.namespace, load)
        made = load["metadata"]["name"]
        if not wait:
            emit_json({"namespace": cluster.namespace, "name": made}) if output == "json" else click.echo(
                f"dataload {made} is made"
            )
            return
        try:
            last = shown(watched(lambda: _status(cluster, made), lambda: time.sleep(EVERY)), f"dataload {made}", output)
        except KeyboardInterrupt:
            say(f"dataload {made} goes on; `kubectl delete dataload {made} -n {cluster.namespace}` ends it, what came stays")
            raise
        ended = _status(cluster, made)
    if output == "text" and last is not None:
        click.echo(f"{name}: {last.files} files, {size(last.bytes)} loaded in {ended.get('duration', '?')}")


def _split(targets: tuple[str, ...]) -> tuple[str, list[str]]:
    """The dataset's name and the paths. Raises `click.UsageError`."""
    split = [target.partition(":") for target in targets]
    names = list(dict.fromkeys(name for name, _, _ in split))
    if len(names) != 1 or not names[0]:
        raise click.UsageError("one load is of one dataset: write NAME or NAME:/PATH, each with the same name")
    return names[0], ["/" + path.lstrip("/") for _, _, path in split]


def manifest(namespace: str, dataset: str, paths: list[str], *, replicas: int, refresh: bool, metadata_only: bool) -> Object:
    name = shorten("warm-", dataset, f"-{secrets.token_hex(3)}", 52)
    spec: Object = {
        "dataset": {"name": dataset, "namespace": namespace},
        "target": [{"path": path, "replicas": replicas} for path in paths],
        "loadMetadata": refresh,
        "ttlSecondsAfterFinished": TTL,
    }
    if metadata_only:
        spec["options"] = {"metadataOnly": "true"}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": RESOURCES["DataLoad"].api_version, "kind": "DataLoad", "metadata": meta, "spec": spec}


def _status(cluster: Cluster, name: str) -> Object:
    load = cluster.get("DataLoad", name)
    if load is None:
        raise CommandError(f"dataload {name} is gone: somebody deleted it, or its Dataset; what came stays")
    found: Object = load.get("status") or {}
    return found


def watched(status: Callable[[], Object], pause: Callable[[], None]) -> Iterator[Progress]:
    """Progress of a load until it is Complete. What it waits for is said on stderr, once. Raises `CommandError` if it fails."""
    told = ""
    while True:
        now = status()
        phase, holds = now.get("phase") or "Pending", _holds(now)
        if phase == "Failed":
            raise CommandError(f"the load has failed: {holds}")
        if phase == "Pending" and holds not in ("", told):
            told = holds
            say(f"it waits: {holds}")
        yield progress(now.get("progress") or {}, finished=phase == "Complete")
        if phase == "Complete":
            return
        pause()


def _holds(status: Object) -> str:
    return next((str(c.get("message", "")) for c in status.get("conditions") or () if c.get("status") == "True"), "")


def progress(p: Object, *, finished: bool) -> Progress:
    """As the commands of one machine show it."""
    eta = p.get("etaSeconds")
    return Progress(
        p.get("doneFiles", 0), p.get("totalFiles", 0), p.get("doneBytes", 0), p.get("totalBytes", 0),
        float(p.get("bytesPerSecond", 0)), None if eta is None else float(eta), finished or eta is not None, finished,
        p.get("failedFiles", 0), "",
    )  # fmt: skip
