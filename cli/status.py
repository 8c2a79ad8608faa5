"""`forebay status`: what is up, gathered from the supervisor, the mounts and the worker at this moment."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from forebay.api import places, wire
from forebay.api.spec import Mount
from forebay.cli import preflight
from forebay.cli.datasets import Running, find, running
from forebay.cli.output import duration, emit_json, size, table

STATS_LIMIT = 5.0
"""Seconds for the worker's numbers; `status` says so when they do not come."""


@click.command(
    epilog="""\b
Examples:
  forebay status
  forebay status imagenet
  forebay status -o json | jq '.datasets[].processes'

\b
Exit code 1 when a dataset named is not up, or when one that is up has trouble."""
)
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def status(*, name: str | None, output: str) -> None:
    """Show what is up: mounts, processes, cache, trouble."""
    reports = [report_of(r) for r in ([find(name)] if name else running())]
    if output == "json":
        emit_json({"datasets": reports})
    elif not reports:
        click.echo("nothing is up: `forebay up -f FILE` starts a dataset")
    for report in reports if output == "text" else ():
        _show(report)
    if any(r["phase"] != "up" or r["error"] for r in reports):
        raise SystemExit(1)


def report_of(target: Running) -> dict[str, Any]:
    """Everything known about one dataset. Secrets are in none of it."""
    spec, state = target.spec, target.state()
    stats, silence = _stats(target) if state["phase"] != "dead" else ({}, "")
    notes = [floor.sentence() for floor in preflight.floors(spec) if floor.stopped]
    points = [_point(target, row) for row in state["mounts"]]
    notes += [f"{p['path']}: {p['reason']}" for p in points if p.get("reason")]
    error = state.get("error")
    if state["phase"] == "dead":
        error = f"its processes were killed: `forebay up -f FILE` starts it again, `forebay down {spec.name}` clears up"
    elif silence:
        error = error or silence
    return {
        "id": spec.id,
        "name": spec.name,
        "namespace": spec.namespace,
        "phase": state["phase"],
        "error": error,
        "notes": notes,
        "started": state.get("started"),
        "ready": state.get("ready"),
        "mounts": [_mount(m) for m in spec.mounts],
        "mountpoints": points,
        "processes": state["processes"],
        "tiers": [{"medium": t.medium, "path": t.path, "quota": t.quota, "high": t.high, "low": t.low} for t in spec.tiers],
        "index": spec.index_dir,
        "floor": [{"tier": f.tier.path, "free": f.free, "floor": f.floor, "stopped": f.stopped} for f in preflight.floors(spec)],
        "worker": stats,
        "reports": state.get("reports", []),
        "run": str(target.run),
    }


def _mount(mount: Mount) -> dict[str, Any]:
    freshness = f"ttl={mount.freshness.ttl:g}s" if mount.freshness.mode == "ttl" else mount.freshness.mode
    return {
        "name": mount.name, "path": mount.path, "source": mount.source, "store": mount.store,
        "freshness": freshness, "read_only": mount.read_only,
    }  # fmt: skip


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


def _stats(target: Running) -> tuple[dict[str, Any], str]:
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
    click.echo(f"{report['id']}: {report['phase']}{age}")
    if report["error"]:
        click.echo(f"  error: {report['error']}")
    for note in report["notes"]:
        click.echo(f"  note: {note}")
    table(
        ("mount point", "state", "passthrough", "survives a crash", "restarts"),
        [(p["path"], p["state"], _yes(p["passthrough"]), _yes(p["resend"]), str(p["restarts"])) for p in report["mountpoints"]],
    )
    table(("in the tree", "store", "freshness"), [(m["path"], m["source"], m["freshness"]) for m in report["mounts"]])
    table(
        ("process", "pid", "state", "restarts", "trouble"),
        [(p["role"], str(p["pid"]), p["state"], str(p["restarts"]), p["trouble"]) for p in report["processes"]],
        right=("pid",),
    )
    table(
        ("tier", "directory", "quota", "free on disk"),
        [
            (t["medium"], t["path"], size(t["quota"]) if t["quota"] else "to the floor", size(f["free"]))
            for t, f in zip(report["tiers"], report["floor"], strict=True)
        ],
    )
    values = report["worker"]
    if values:
        table(
            ("worker", "value"), [(key, _value(key, value)) for key, value in values.items() if value not in ("", None, [], {})]
        )


def _value(key: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and "bytes" in key:
        return size(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_value(f'{key}.{k}', v)}" for k, v in value.items())
    if isinstance(value, list):
        return "\n".join(_value(key, v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _yes(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, "?") if isinstance(value, bool) else "?"
