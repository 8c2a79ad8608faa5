"""`kubectl forebay doctor`: whether all of an installation is there and well, and which datasets and loads are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click

from forebay.api.crd.kinds import KINDS, VERSION
from forebay.api.fluid.engine_class import NAME as CLASS
from forebay.cli.kubectl.reach import Cluster, Object, Where, output_option, reached, where_options
from forebay.cli.machine.doctor import Finding, Level, kernel_version
from forebay.cli.machine.doctor import show as shown
from forebay.cli.output import emit_json
from forebay.controller.install import rights
from forebay.controller.install.scheduler import NAME as SCHEDULER
from forebay.controller.kinds import Whole
from forebay.controller.process import LEASE
from forebay.kube import resources as r
from forebay.kube.errors import Forbidden, NotFound
from forebay.kube.objects import Key
from forebay.kube.resources import Resource
from forebay.runtimes.engine import Installation

PASSTHROUGH = (6, 9)
"""Since when kernels read cache files past the daemon."""
APPLY = "kubectl apply -f deploy/install, or helm upgrade"
SILENT = 60.0
"""Seconds without a renewed lease after which nobody leads: it lasts 15."""


@click.command(
    epilog="""\b
Examples:
  kubectl forebay doctor
  kubectl forebay doctor -o json
  kubectl forebay doctor --system-namespace storage

\b
What you may not look at is said, and is no error. Exit code 1 when something prevents work."""
)
@click.option("--system-namespace", default=Installation().namespace, show_default=True, metavar="NS", help="Where forebay runs.")
@where_options
@output_option
def doctor(*, system_namespace: str, namespace: str, context: str, kubeconfig: str, output: str) -> None:
    """Look for what would keep datasets of the cluster from serving."""
    findings: list[Finding] = []
    with reached(Where(kubeconfig, context, namespace)) as cluster:
        for look in (server, kinds, installed, controller, webhook, scheduler, nodes, datasets, loads):
            try:
                findings += look(cluster, system_namespace)
            except Forbidden as e:
                findings.append(Finding("info", look.__name__, f"not looked at: {e}"))
    if output == "json":
        emit_json({"findings": [f._asdict() for f in findings], "ok": not any(f.level == "error" for f in findings)})
    else:
        shown(findings)
    if any(f.level == "error" for f in findings):
        raise SystemExit(1)


def server(cluster: Cluster, _: str) -> Iterator[Finding]:
    answer = cluster.transport.request("GET", "/version")
    version = (
        str(json.loads(answer.body).get("gitVersion", "?")) if answer.code == 200 else f"answers /version with {answer.code}"
    )
    yield Finding("ok", "API server", version)


def kinds(cluster: Cluster, _: str) -> Iterator[Finding]:
    """By what the server offers: everybody may ask that."""
    for group in dict.fromkeys(k.group for k in KINDS):
        answer = cluster.transport.request("GET", f"/apis/{group}/{VERSION}")
        served = {x["name"] for x in json.loads(answer.body)["resources"]} if answer.code == 200 else set[str]()
        missing = [k.kind for k in KINDS if k.group == group and k.plural not in served]
        if missing:
            text = f"group {group} lacks {', '.join(missing)}"
            yield Finding("error", "kinds", text, "kubectl apply --server-side -f deploy/crds")
        else:
            yield Finding("ok", "kinds", f"group {group} is served")


def installed(cluster: Cluster, system: str) -> Iterator[Finding]:
    driver = Installation().driver
    for what, resource, name in (("CSI driver", r.CSI_DRIVERS, driver), ("class", None, CLASS)):
        there = cluster.get("CacheRuntimeClass", name) if resource is None else _get(cluster, resource, Key("", name))
        if there is None:
            yield Finding("error", what, f"{name} is not there", APPLY)
        else:
            yield Finding("ok", what, f"{name} is there")
    for name in (rights.NODE, rights.MOUNTS):
        found = _get(cluster, r.DAEMON_SETS, Key(system, name))
        if found is None:
            yield Finding(
                "error", f"DaemonSet {name}", f"is not in namespace {system}", f"{APPLY}; --system-namespace names another"
            )
            continue
        said: Object = found.get("status") or {}
        ready, wanted = said.get("numberReady", 0), said.get("desiredNumberScheduled", 0)
        if ready < wanted or not wanted:
            remedy = f"kubectl -n {system} describe pods -l forebay.io/component={name.removeprefix('forebay-')}"
            yield Finding("error", f"DaemonSet {name}", f"{ready} of {wanted} nodes have it ready", remedy)
        else:
            yield Finding("ok", f"DaemonSet {name}", f"ready on all {wanted} nodes")


def controller(cluster: Cluster, system: str) -> Iterator[Finding]:
    found = _get(cluster, r.DEPLOYMENTS, Key(system, rights.CONTROLLER))
    if found is None:
        yield Finding("error", "controller", f"Deployment {rights.CONTROLLER} is not in namespace {system}", APPLY)
        return
    logs = _logs(system, "controller")
    yield _replicas(found, "controller", "error", "nothing is carried out", logs)
    lease = _get(cluster, r.LEASES, Key(system, LEASE))
    yield leading(lease, datetime.now(UTC), logs)


def webhook(cluster: Cluster, system: str) -> Iterator[Finding]:
    """It may be left out or down, and pods run all the same; but whoever counts on being steered wants to know."""
    found = _get(cluster, r.DEPLOYMENTS, Key(system, rights.WEBHOOK))
    if found is None:
        text = "is not installed: pods are not steered to their data, and some mistakes show in conditions alone"
        yield Finding("info", "webhook", text, "value webhook: true")
        return
    yield _replicas(found, "webhook", "warning", "pods are not steered to their data", _logs(system, "webhook"))
    for resource in (r.MUTATING_WEBHOOKS, r.VALIDATING_WEBHOOKS):
        told = _get(cluster, resource, Key("", rights.WEBHOOK))
        if told is None:
            text = f"{resource.kind} {rights.WEBHOOK} is not there: the API server does not call it"
            yield Finding("warning", "webhook", text, APPLY)
        elif any(not hook.get("clientConfig", {}).get("caBundle") for hook in told.get("webhooks") or ()):
            text = f"{resource.kind} {rights.WEBHOOK} has no authority yet: the API server cannot call it"
            yield Finding("warning", "webhook", text, _logs(system, "webhook"))


def scheduler(cluster: Cluster, system: str) -> Iterator[Finding]:
    found = _get(cluster, r.DEPLOYMENTS, Key(system, SCHEDULER))
    if found is not None:  # else pods are another's, as in most clusters
        yield _replicas(found, "scheduler", "error", "pods that name it wait", _logs(system, "scheduler"))


def _replicas(deployment: Object, subject: str, none: Level, then: str, logs: str) -> Finding:
    """How many are ready. `none`, `then`: how bad it is that nobody is, and what follows."""
    ready = (deployment.get("status") or {}).get("readyReplicas", 0)
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    if not ready:
        return Finding(none, subject, f"0 of {wanted} replicas are ready: {then}", logs)
    return Finding(
        "ok" if ready >= wanted else "warning", subject, f"{ready} of {wanted} replicas are ready", logs * (ready < wanted)
    )


def _logs(system: str, component: str) -> str:
    return f"kubectl -n {system} logs -l forebay.io/component={component}"


def leading(lease: Object | None, now: datetime, logs: str) -> Finding:
    """Whether somebody leads, by when the lease was renewed; clocks may differ by less than a minute."""
    spec: Object = (lease or {}).get("spec") or {}
    try:
        age = (now - datetime.fromisoformat(str(spec.get("renewTime") or ""))).total_seconds()
    except ValueError:
        return Finding("error", "leader", "nobody ever led: nothing is carried out", logs)
    if not spec.get("holderIdentity") or age > SILENT:
        return Finding("error", "leader", f"nobody has led for {age:.0f} s: nothing is carried out", logs)
    return Finding("ok", "leader", str(spec["holderIdentity"]))


def nodes(cluster: Cluster, _: str) -> Iterator[Finding]:
    listed = cluster.client.list_all(r.NODES, Whole)[0]
    kernels = {n.metadata.name: str(((n.status or {}).get("nodeInfo") or {}).get("kernelVersion", "")) for n in listed}
    yield from by_kernel(kernels)


def by_kernel(kernels: dict[str, str]) -> Iterator[Finding]:
    """Which nodes read warm files past the daemon."""
    old = sorted(name for name, release in kernels.items() if kernel_version(release) < PASSTHROUGH)
    if old:
        text = f"{len(old)} of {len(kernels)} have a kernel before 6.9 ({_few(old)}): warm reads go through the daemon"
        yield Finding("warning", "nodes", text, "a newer kernel reads cache files at the disk's own speed")
    elif kernels:
        yield Finding("ok", "nodes", f"all {len(kernels)} read cache files past the daemon")


def datasets(cluster: Cluster, _: str) -> Iterator[Finding]:
    from forebay.cli.kubectl.status import report

    listed = [report(d, [], None) for d in cluster.all("Dataset")]
    for each in listed:
        at = f"Dataset {each['namespace']}/{each['name']}"
        if not each["serves"]:
            yield Finding("warning", at, f"{each['phase']}: {each['reason']}: {each['message']}")
        elif each["trouble"]:
            yield Finding("warning", at, each["trouble"])
    yield Finding("ok", "datasets", f"{sum(d['serves'] for d in listed)} of {len(listed)} serve")


def loads(cluster: Cluster, _: str) -> Iterator[Finding]:
    for load in cluster.all("DataLoad"):
        said: Object = load.get("status") or {}
        holds: Object = next((c for c in said.get("conditions") or () if c.get("status") == "True"), {})
        if said.get("phase") in ("Failed", "Pending", None):
            at = f"DataLoad {load['metadata']['namespace']}/{load['metadata']['name']}"
            yield Finding("warning", at, f"{said.get('phase') or 'New'}: {holds.get('message') or 'nobody has looked at it'}")


def _get(cluster: Cluster, resource: Resource, key: Key) -> Object | None:
    try:
        found: Object = cluster.client.get(resource, key, dict[str, Any])
    except NotFound:
        return None
    return found


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
