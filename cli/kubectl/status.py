"""`kubectl forebay status`: datasets by what their objects say, with what keeps one from serving and the loads on their way."""

from __future__ import annotations

from typing import Any

import click

from forebay.api.fluid.names import TYPES
from forebay.cli.kubectl.reach import Cluster, Object, Where, dataset_names, output_option, reached, where_options
from forebay.cli.output import duration, emit_json, size, table

COLUMNS = ("NAMESPACE", "NAME", "PHASE", "ENGINE", "WORKERS", "FILES", "TOTAL", "CACHED", "LOADS")
RIGHT = ("WORKERS", "FILES", "TOTAL", "CACHED")
TROUBLES = ("StoreFails", "DiskFull")
"""Reasons of conditions that a dataset may have which serves."""
_KINDS = {type_: kind for kind, type_ in TYPES.items()}


@click.command(
    epilog="""\b
Examples:
  kubectl forebay status
  kubectl forebay status corpus
  kubectl forebay status -A -o json | jq '.datasets[] | select(.phase != "Bound")'

\b
Exit code 1 when a dataset named is not there, or when one that is shown does not serve."""
)
@click.argument("name", required=False, shell_complete=dataset_names)
@click.option("-A", "--all-namespaces", is_flag=True, help="Datasets of all namespaces.")
@where_options
@output_option
def status(*, name: str | None, all_namespaces: bool, namespace: str, context: str, kubeconfig: str, output: str) -> None:
    """Show datasets: phase, workers, what is cached, loads on their way, trouble."""
    with reached(Where(kubeconfig, context, namespace)) as cluster:
        if name:
            datasets = [cluster.dataset(name)]
        else:
            datasets = cluster.all("Dataset", "" if all_namespaces else cluster.namespace)
        loads = cluster.all("DataLoad", "" if all_namespaces else cluster.namespace)
        reports = [report(d, loads, _runtime(cluster, d)) for d in sorted(datasets, key=_key)]
    if output == "json":
        emit_json({"datasets": reports})
    elif not reports:
        click.echo(f"no Dataset {'at all' if all_namespaces else f'in namespace {cluster.namespace}'}")
    else:
        table(COLUMNS, map(row, reports), right=RIGHT)
        for line in (line for each in reports for line in notes(each, whole=name is not None)):
            click.echo(line)
    if any(not r["serves"] for r in reports):
        raise SystemExit(1)


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _runtime(cluster: Cluster, dataset: Object) -> Object | None:
    """The one that serves it."""
    for bound in (dataset.get("status") or {}).get("runtimes") or ():
        kind = _KINDS.get(str(bound.get("type")))
        if kind is not None:
            return cluster.get(kind, dataset["metadata"]["name"], dataset["metadata"]["namespace"])
    return None


def report(dataset: Object, loads: list[Object], runtime: Object | None) -> dict[str, Any]:
    """One dataset as JSON. `workers` is (ready, asked for), None where no runtime serves it."""
    namespace, name = _key(dataset)
    said: Object = dataset.get("status") or {}
    conditions = said.get("conditions") or []
    ready: Object = next((c for c in conditions if c.get("type") == "Ready"), {})
    troubles = [f"{c['reason']}: {c.get('message', '')}" for c in conditions if c.get("reason") in TROUBLES]
    mine = [x for x in loads if _key(x)[0] == namespace and ((x.get("spec") or {}).get("dataset") or {}).get("name") == name]
    return {
        "namespace": namespace,
        "name": name,
        "phase": said.get("phase") or "New",
        "serves": said.get("phase") in ("Bound", "Updating"),
        "engine": said.get("engine", ""),
        "reason": ready.get("reason", ""),
        "message": ready.get("message", "") or "the controller has not looked at it: see `kubectl forebay doctor`" * (not ready),
        "trouble": " | ".join(troubles),
        "workers": workers(runtime),
        "measured": said.get("measured"),
        "conditions": conditions,
        "loads": [_load(x) for x in sorted(mine, key=_key)],
        "referrers": said.get("datasetRef") or [],
    }


def workers(runtime: Object | None) -> dict[str, int] | None:
    """Ready and desired, by either form of a runtime's status."""
    if runtime is None:
        return None
    said: Object = runtime.get("status") or {}
    if runtime["kind"] == "CacheRuntime":
        worker: Object = said.get("worker") or {}
        return {"ready": worker.get("readyReplicas", 0), "desired": worker.get("desiredReplicas", 0)}
    return {"ready": said.get("workerNumberReady", 0), "desired": said.get("desiredWorkerNumberScheduled", 0)}


def _load(load: Object) -> dict[str, Any]:
    said: Object = load.get("status") or {}
    holds: Object = next((c for c in said.get("conditions") or () if c.get("status") == "True"), {})
    return {
        "name": load["metadata"]["name"],
        "phase": said.get("phase") or "Pending",
        "duration": said.get("duration", ""),
        "reason": holds.get("reason", ""),
        "message": holds.get("message", ""),
        "progress": said.get("progress") or {},
    }


def row(report_: dict[str, Any]) -> tuple[str, ...]:
    measured: Object = report_["measured"] or {}
    count = report_["workers"]
    running = [x for x in report_["loads"] if x["phase"] == "Executing"]
    more = "" if measured.get("listed", True) else "+"
    return (
        report_["namespace"],
        report_["name"],
        report_["phase"],
        report_["engine"] or "-",
        "-" if count is None else f"{count['ready']}/{count['desired']}",
        f"{measured['files']}{more}" if "files" in measured else "-",
        f"{size(measured['totalBytes'])}{more}" if "totalBytes" in measured else "-",
        size(measured.get("cachedBytes", 0)) if measured else "-",
        ", ".join(f"{x['name']} {x['progress'].get('percent', 0)}%" for x in running) or "-",
    )


def notes(report_: dict[str, Any], *, whole: bool) -> list[str]:
    """What is to be said below the table. `whole`: of one dataset everything."""
    at = f"{report_['namespace']}/{report_['name']}"
    lines = [f"{at}: {report_['reason'] or report_['phase']}: {report_['message']}"] if whole or not report_["serves"] else []
    if report_["trouble"] and not lines:
        lines.append(f"{at}: {report_['trouble']}")
    for load in report_["loads"]:
        if load["phase"] == "Executing":
            lines.append(f"{at}: load {load['name']}: {moving(load['progress'])}")
        elif load["phase"] in ("Pending", "Failed"):
            lines.append(f"{at}: load {load['name']} {load['phase'].lower()}: {load['message']}")
        elif whole:
            lines.append(f"{at}: load {load['name']} complete in {load['duration']}: {load['message']}")
    if whole:
        said = [c for c in report_["conditions"] if c.get("message") and c.get("type") != "Ready"]
        lines += [f"{at}: {c['type']} is {c['status']} ({c.get('reason', '')}): {c['message']}" for c in said]
        lines += [f"{at}: {who} refers to it" for who in report_["referrers"]]
    return lines


def moving(p: Object) -> str:
    """`120 of 400 files, 1.2 Gi of 4.0 Gi (30%), 310.0 Mi/s, 9s left`."""
    left = duration(p["etaSeconds"]) if "etaSeconds" in p else "?"
    moved = f"{size(p.get('doneBytes', 0))} of {size(p.get('totalBytes', 0))} ({p.get('percent', 0)}%)"
    rate = size(p.get("bytesPerSecond", 0))
    failing = f"; {p['failedFiles']} failed, the last: {p.get('lastError', '?')}" if p.get("failedFiles") else ""
    return f"{p.get('doneFiles', 0)} of {p.get('totalFiles', 0)} files, {moved}, {rate}/s, {left} left{failing}"
