"""`forebay status`: what is up, gathered from the supervisor, the mounts and the worker at this moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from forebay.api import places, wire
from forebay.api.spec import Mount
from forebay.cli.machine import netns, preflight
from forebay.cli.machine.datasets import Running, find_all, running
from forebay.cli.machine.members import COLUMNS, RIGHT, clusters, not_asked, sentence, table_rows, told
from forebay.cli.output import duration, emit_json, size, table

STATS_LIMIT = 5.0
"""Seconds for the worker's numbers; `status` says so when they do not come."""


@click.command(
    epilog="""\b
Examples:
  forebay status
  forebay status imagenet
  forebay status imagenet@node-2       one node of several
  forebay status -o json | jq '.datasets[].processes'

\b
Exit code 1 when a dataset named is not up, or when one that is up has trouble."""
)
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def status(*, name: str | None, output: str) -> None:
    """Show what is up: mounts, processes, cache, trouble."""
    targets = find_all(name) if name else running()
    reports = [report_of(r) for r in targets]
    views = clusters([*reports, *elsewhere(targets, reports)])
    if output == "json":
        emit_json({"datasets": reports, "clusters": views})
    elif not reports:
        click.echo("nothing is up: `forebay up -f FILE` starts a dataset")
    for report in reports if output == "text" else ():
        _show(report)
    for view in views if output == "text" else ():
        _show_cluster(view)
    if any(r["phase"] != "up" or r["error"] for r in reports):
        raise SystemExit(1)


def report_of(target: Running) -> dict[str, Any]:
    """Everything known about one dataset, or one node of it. Secrets are in none of it."""
    spec, state = target.spec, target.state()
    stats, silence = stats_of(target) if state["phase"] != "dead" else ({}, "")
    points = [_point(target, row) for row in state["mounts"]]
    tiers = _tiers(target, stats)
    mounts = [_mount(m, seen) for m, seen in zip(spec.mounts, stats.get("mounts") or [{}] * len(spec.mounts), strict=False)]
    notes = [t["admission"] for t in tiers if t["admission"] != "open"]
    notes += [f"{p['path']}: {p['reason']}" for p in points if p.get("reason")]
    notes += [f"{m['path']}: {m['error']}" for m in mounts if m["error"]]
    tree = stats.get("tree") or {}
    if tree.get("walk_error"):
        notes.append(f"the walk of the tree: {tree['walk_error']}")
    place = netns.place_of(spec)
    error = state.get("error")
    if state["phase"] == "dead":
        error = f"its processes were killed: `forebay up -f FILE` starts it again, `forebay down {spec.name}` clears up"
    elif silence:
        error = error or silence
    return {
        "id": spec.id,
        "label": target.label,
        "name": spec.name,
        "namespace": spec.namespace,
        "node": target.node,
        "owns": spec.cluster is None or spec.cluster.owns,
        "listen": spec.cluster.listen if spec.cluster else "",
        "network": place._asdict() if place else None,
        "phase": state["phase"],
        "error": error,
        "notes": notes,
        "started": state.get("started"),
        "ready": state.get("ready"),
        "mounts": mounts,
        "mountpoints": points,
        "processes": state["processes"],
        "tiers": tiers,
        "index": spec.index_dir,
        "cached_bytes": sum(t["used"] or 0 for t in tiers) if stats else None,
        "walk": tree,
        "integrity": stats.get("integrity", ""),
        "worker": stats,
        "reports": state.get("reports", []),
        "run": str(target.run),
    }


def elsewhere(targets: list[Running], reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports of members that are none of `targets`, as far as they answer."""
    found: list[dict[str, Any]] = []
    for dataset, target in {t.id: t for t in targets if t.spec.cluster}.items():
        others = [m for m in not_asked([r for r in reports if r["id"] == dataset and r["node"]]) if m["control"]]
        if others and target.spec.cluster:
            from forebay.cli.machine.far import ask

            answers = ask(dataset, target.spec.cluster.secret_file, [m["control"] for m in others])
            found += [told(dataset, m, stats) for m, stats in zip(others, answers, strict=True) if stats]
    return found


def _tiers(target: Running, stats: dict[str, Any]) -> list[dict[str, Any]]:
    """Each tier as the worker sees it; without a worker what the file system says."""
    seen = {t["path"]: t for t in stats.get("tiers") or []}
    rows = []
    for floor in preflight.floors(target.spec):
        tier, told = floor.tier, seen.get(floor.tier.path, {})
        admission = told.get("admission") or "open"
        rows.append(
            {
                "medium": tier.medium,
                "path": tier.path,
                "quota": tier.quota,
                "high": tier.high,
                "low": tier.low,
                "used": told.get("bytes_used"),
                "objects": told.get("objects"),
                "free": floor.free,
                "floor": floor.floor,
                "admission": floor.sentence() if floor.stopped else admission,
            }
        )
    return rows


def _mount(mount: Mount, seen: dict[str, Any]) -> dict[str, Any]:
    """A store of the tree; `error` is its last failure that nothing has succeeded after."""
    metadata = seen.get("metadata") or {}
    failing = metadata.get("error") and (
        metadata.get("ok_age") is None or (metadata.get("error_age") is not None and metadata["error_age"] < metadata["ok_age"])
    )
    freshness = f"ttl={mount.freshness.ttl:g}s" if mount.freshness.mode == "ttl" else mount.freshness.mode
    return {
        "name": mount.name,
        "path": mount.path,
        "source": mount.source,
        "store": mount.store,
        "freshness": freshness,
        "read_only": mount.read_only,
        "fetched": seen.get("bytes_fetched"),
        "requests": seen.get("requests"),
        "errors": (seen.get("errors") or 0) + (metadata.get("failed") or 0) if seen else None,
        "last_error": seen.get("last_error") or metadata.get("error") or "",
        "error": metadata["error"] if failing else "",
    }


def _point(target: Running, row: dict[str, Any]) -> dict[str, Any]:
    """One mount point: the supervisor's row and what the daemon wrote about its session."""
    try:
        session: dict[str, Any] = json.loads((target.run / places.mount_state(row["index"])).read_bytes())
    except (OSError, ValueError):
        session = {}
    session.setdefault("passthrough", None)
    session.setdefault("resend", None)
    shown = {key: row[key] for key in ("path", "state", "restarts", "trouble")}
    return {**session, **shown}


def stats_of(target: Running) -> tuple[dict[str, Any], str]:
    """The worker's numbers, or why there are none."""
    try:
        with target.door() as door:
            reply = door.call(wire.Stats(), STATS_LIMIT)
    except OSError as e:
        return {}, e.strerror or str(e)
    if not isinstance(reply, wire.Report):
        return {}, f"the worker answered Stats with {type(reply).__name__}"
    return dict(reply.values), ""


def _show(report: dict[str, Any]) -> None:
    since = report["ready"] or report["started"]
    age = f" for {duration(time.time() - since)}" if since and report["phase"] == "up" else ""
    click.echo(f"{report['label']}: {report['phase']}{age}")
    if report["error"]:
        click.echo(f"  error: {report['error']}")
    for note in report["notes"]:
        click.echo(f"  note: {note}")
    rows = [
        (p["path"], p["state"], _yes(p["passthrough"]), "kernel resends" if p["resend"] else "record", str(p["restarts"]))
        for p in report["mountpoints"]
    ]
    if rows:
        table(("mount point", "state", "passthrough", "after a crash", "restarts"), rows)
    table(
        ("in the tree", "store", "freshness", "fetched", "errors"),
        [(m["path"], m["source"], m["freshness"], _size(m["fetched"]), _count(m["errors"])) for m in report["mounts"]],
        right=("fetched", "errors"),
    )
    table(
        ("tier", "directory", "used", "quota", "free on disk", "new files"),
        [
            (t["medium"], t["path"], _size(t["used"]), size(t["quota"]) if t["quota"] else "to the floor", size(t["free"]),
             "cached" if t["admission"] == "open" else "not cached")
            for t in report["tiers"]
        ],
        right=("used", "quota", "free on disk"),
    )  # fmt: skip
    table(
        ("process", "pid", "state", "restarts", "trouble"),
        [(p["role"], str(p["pid"]), p["state"], str(p["restarts"]), p["trouble"]) for p in report["processes"]],
        right=("pid", "restarts"),
    )
    for line in _sentences(report):
        click.echo(f"  {line}")


def _show_cluster(view: dict[str, Any]) -> None:
    epochs = view["epochs"]
    click.echo(f"nodes of {view['id']}" + (f", epoch {epochs[0]}" if len(epochs) == 1 else ""))
    for note in view["notes"]:
        click.echo(f"  note: {note}")
    table(COLUMNS, table_rows(view), right=RIGHT)
    click.echo(f"  {sentence(view)}")


def _sentences(report: dict[str, Any]) -> Iterator[str]:
    """What the worker has to say, in words."""
    walk, stats = report["walk"], report["worker"]
    if walk:
        done = "whole tree known" if walk.get("walk_done") else "still walking the tree"
        yield f"tree: {walk.get('files', 0)} files, {size(walk.get('bytes', 0))} in {walk.get('dirs', 0)} directories, {done}"
    if stats:
        served = sum((stats.get("bytes_served") or {}).values())
        hits, misses = stats.get("hits", 0), stats.get("misses", 0)
        yield f"worker: {hits} opens found their file cached, {misses} did not; {size(served)} handed out"
    if report["integrity"]:
        yield f"integrity: {report['integrity']}"
    if report["reports"] and report["reports"][-1]["level"] != "info":
        yield f"last: {report['reports'][-1]['text']}"
    yield f"logs: {report['run']}/*.log"


def _size(count: int | None) -> str:
    return "?" if count is None else size(count)


def _count(count: int | None) -> str:
    return "?" if count is None else str(count)


def _yes(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, "?") if isinstance(value, bool) else "?"
