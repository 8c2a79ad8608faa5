"""`kubectl forebay grant`: who may refer to a dataset from another namespace."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from forebay.api.fluid.names import mark, shorten
from forebay.api.moments import rfc3339
from forebay.cli.kubectl.reach import (
    Cluster,
    Object,
    Where,
    dataset_names,
    namespace_names,
    output_option,
    reached,
    where_options,
)
from forebay.cli.output import CommandError, emit_json, table
from forebay.controller.kinds import RESOURCES
from forebay.kube.objects import Key

KIND = "DatasetGrant"
_SPAN = re.compile(r"(\d{1,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@click.command(
    epilog="""\b
Examples:
  kubectl forebay grant corpus --to lab                    namespace lab may refer to all of it
  kubectl forebay grant corpus --to lab --path /public --for 30d
  kubectl forebay grant corpus                             who may?
  kubectl forebay grant corpus --to lab --revoke

\b
In namespace lab a Dataset with `mountPoint: dataset://<namespace>/corpus` shows it then, from the same caches.
A grant that is taken back lets pods that read go on to their end, and no other begin."""
)
@click.argument("dataset", shell_complete=dataset_names)
@click.option("--to", "spaces", multiple=True, metavar="NS", help="A namespace (repeatable).", shell_complete=namespace_names)
@click.option("--path", "paths", multiple=True, metavar="PATH", help="A part of the tree that is given; default: all of it.")
@click.option("--for", "span", metavar="TIME", help="Until when, from now: 90m, 12h, 30d.")
@click.option("--revoke", is_flag=True, help="Take back what was given to --to.")
@where_options
@output_option
def grant(
    *, dataset: str, spaces: tuple[str, ...], paths: tuple[str, ...], span: str | None, revoke: bool,
    namespace: str, context: str, kubeconfig: str, output: str,
) -> None:  # fmt: skip
    """Let other namespaces refer to a dataset, take it back, or list who may."""
    if not spaces and (revoke or paths or span):
        raise click.UsageError("--revoke, --path and --for go with --to: name a namespace")
    if revoke and (paths or span):
        raise click.UsageError("--revoke takes back all that was given to a namespace: leave out --path and --for")
    with reached(Where(kubeconfig, context, namespace)) as cluster:
        cluster.dataset(dataset)
        if revoke:
            say_revoked(cluster, dataset, spaces)
        elif spaces:
            made = manifest(cluster.namespace, dataset, spaces, paths, _expires(span))
            cluster.client.apply(RESOURCES[KIND], Key(cluster.namespace, made["metadata"]["name"]), made)
        found = [g for g in cluster.all(KIND, cluster.namespace) if g["spec"].get("dataset") == dataset]
    if output == "json":
        emit_json({"grants": [listed(g) for g in found]})
        return
    if spaces and not revoke:
        click.echo(f"granted: mountPoint dataset://{cluster.namespace}/{dataset} may be used in {', '.join(spaces)}")
    elif not found:
        click.echo(f"nobody else may refer to {dataset}")
    else:
        rows = [listed(g) for g in found]
        shown = [
            (r["name"], ", ".join(r["namespaces"]) or "by labels", ", ".join(r["paths"]) or "/", r["expires"] or "never")
            for r in rows
        ]
        table(("GRANT", "TO", "PATHS", "EXPIRES"), shown)


def _expires(span: str | None, now: datetime | None = None) -> str:
    """RFC 3339, "" for never. Raises `click.BadParameter`."""
    if span is None:
        return ""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise click.BadParameter(f'"{span}" is no time: write such as 90m, 12h or 30d', param_hint="--for")
    end = (now or datetime.now(UTC)) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    return rfc3339(end)


def manifest(namespace: str, dataset: str, spaces: tuple[str, ...], paths: tuple[str, ...], expires: str) -> Object:
    """The same words give the same grant: given again it changes nothing but its end."""
    given = "\0".join((*sorted(set(spaces)), "", *sorted(set(paths))))
    spec: Object = {"dataset": dataset, "namespaces": sorted(set(spaces))}
    if paths:
        spec["paths"] = sorted(set(paths))
    if expires:
        spec["expires"] = expires
    meta = {"name": shorten("", dataset, f"-{mark(given, 8)}", 63), "namespace": namespace}
    return {"apiVersion": RESOURCES[KIND].api_version, "kind": KIND, "metadata": meta, "spec": spec}


def listed(grant_: Object) -> Object:
    spec = grant_["spec"]
    return {
        "name": grant_["metadata"]["name"],
        "namespaces": spec.get("namespaces") or [],
        "namespaceSelector": spec.get("namespaceSelector"),
        "paths": spec.get("paths") or [],
        "expires": spec.get("expires", ""),
    }


def say_revoked(cluster: Cluster, dataset: str, spaces: tuple[str, ...]) -> None:
    """Takes the namespaces out of every grant of the dataset; one that names nobody else goes. Raises `CommandError`."""
    left = set(spaces)
    for each in cluster.all(KIND, cluster.namespace):
        spec, meta = each["spec"], each["metadata"]
        named = spec.get("namespaces") or []
        kept = [space for space in named if space not in spaces]
        if spec.get("dataset") != dataset or kept == named:
            continue
        left -= set(named)
        at = Key(cluster.namespace, meta["name"])
        if kept or spec.get("namespaceSelector") is not None:
            change = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "spec": {"namespaces": kept}}
            cluster.client.merge(RESOURCES[KIND], at, change)
        else:
            cluster.client.delete(RESOURCES[KIND], at, uid=meta["uid"])
    if left:
        raise CommandError(
            f"nothing of {dataset} was given to {', '.join(sorted(left))} by name: see `kubectl forebay grant {dataset}`"
        )
