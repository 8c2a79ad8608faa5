"""`forebay uninstall`: takes away what forebay made for datasets, so that its own parts can go without leaving anything stuck."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from forebay.cli.output import CommandError, say
from forebay.cli.processes.serving import connect, log_to_stderr
from forebay.controller.copies import OWNED, path
from forebay.controller.datasets.leaving import left, sweep
from forebay.controller.install.rights import CONTROLLER
from forebay.controller.kinds import RESOURCES, Pod
from forebay.controller.nodes.labelling import MANAGER
from forebay.controller.nodes.labels import APPLIED
from forebay.controller.process import Controller, Options
from forebay.controller.writing import Writer
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import ApiError, NotFound, Unreachable
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation

SHOWN = 8
"""Of a list in a message."""
LOOKS = 0.5
NODES, NODES_AT_MOST = 10.0, 60.0
"""Seconds that nodes get to take down mounts and caches once nothing names them: they look each second. Longer while a NodeCache
still names a dataset; what a dead node says is not waited for."""


class Cache(msgspec.Struct, frozen=True):
    """A NodeCache, of which the names count."""

    metadata: ObjectMeta
    status: Any = None


@click.command(
    epilog="""\b
Examples:
  forebay uninstall                      before `kubectl delete -f deploy/install`; `helm uninstall` calls it by itself
  forebay uninstall --timeout 600

\b
Datasets, runtimes and grants stay, without finalizers and NotBound: delete them, or install forebay again. Pods that read are
left alone: while there is one, the command ends with 1 and names it, and nothing was changed.""",
)
@click.option("--kubeconfig", default="", help="Which cluster; by default KUBECONFIG, then the pod's service account.")
@click.option("-n", "--namespace", default=Installation().namespace, show_default=True, help="Where forebay is installed.")
@click.option(
    "--timeout", type=click.IntRange(10, 86400), default=240, show_default=True, help="Seconds that all of it may take."
)
@click.option("-v", "--verbose", is_flag=True, help="Log every decision.")
def uninstall(*, kubeconfig: str, namespace: str, timeout: int, verbose: bool) -> None:
    """Take everything away that forebay made for datasets of a cluster, and let go of them."""
    log_to_stderr(verbose=verbose)
    transport = connect(kubeconfig, "forebay-uninstall")
    client, end = Client(transport, manager="forebay-uninstall"), time.monotonic() + timeout
    try:
        if reading := readers(client):
            raise CommandError(
                f"{_some(reading)} read datasets: end these pods first, because without forebay's parts on their nodes they "
                "could neither read nor end. Nothing was changed"
            )
        _stop_controller(client, namespace)
        _take_away(transport, namespace, end)
        _wait_for_nodes(client, end)
        _unlabel(client)
    except (ApiError, Unreachable) as error:
        raise CommandError(f"{error}; the command may be given again") from None
    finally:
        transport.close()
    say("nothing of forebay's is left around datasets; now its own parts may go")


def readers(client: Client) -> list[str]:
    """Pods that use a claim of ours and have not ended."""
    claims, _ = client.list_all(r.CLAIMS, Bare, labels=OWNED)
    ours = {path(claim.metadata.namespace, claim.metadata.name) for claim in claims}
    pods, _ = client.list_all(r.PODS, Pod)
    reading = (pod for pod in pods if not pod.ended and any(path(pod.metadata.namespace, name) in ours for name in pod.claims))
    return sorted(f"pod {path(pod.metadata.namespace, pod.metadata.name)}" for pod in reading)


def _stop_controller(client: Client, namespace: str) -> None:
    """It would make again what is taken away. Its lease says when the last of its writes is done."""
    try:
        client.merge(r.DEPLOYMENTS, Key(namespace, CONTROLLER), {"spec": {"replicas": 0}}, sub="scale")
    except NotFound:
        say(f"there is no Deployment {CONTROLLER} in namespace {namespace}: whoever has its lease is waited for")


def _take_away(transport: Transport, namespace: str, end: float) -> None:
    options = Options(
        installation=Installation(namespace=namespace), identity=f"{socket.gethostname()}_{os.getpid()}", leaving=True
    )
    controller = Controller(transport, options)
    controller.start()
    try:
        _until(lambda: [controller.unready()] if controller.unready() else [], end, "the cluster cannot be seen whole")
        _until(lambda: _not_leading(controller), end, "another controller writes still; stop it")
        writer = Writer(controller.client)

        def remaining() -> list[str]:
            sweep(controller.copies, writer)
            return left(controller.copies)

        _until(remaining, end, "not taken away in time; give the command again, and look at what is named")
    finally:
        controller.stop()


def _not_leading(controller: Controller) -> list[str]:
    leader = controller.leader
    return [] if leader is None or leader.leading else [f"lease {CONTROLLER} is held by {leader.holder or 'nobody yet'}"]


def _until(what: Callable[[], list[str]], end: float, trouble: str) -> None:
    """Until nothing is left of `what`; says how it goes on. Raises CommandError with what is left at the end."""
    said = -1
    while found := what():
        if len(found) != said:
            said = len(found)
            say(f"waiting for {_some(found)}")
        if time.monotonic() > end:
            raise CommandError(f"{_some(found)}: {trouble}")
        time.sleep(LOOKS)


def _wait_for_nodes(client: Client, end: float) -> None:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < NODES or (held(client) and waited < NODES_AT_MOST):
        if time.monotonic() > end + NODES:
            break
        time.sleep(LOOKS)
    if still := held(client):
        say(f"not taken away on nodes: {_some(still)}; their caches are removed when they run forebay again")


def _unlabel(client: Client) -> None:
    """Fluid's labels of nodes were applied by one manager, which now applies none."""
    nodes, _ = client.list_all(r.NODES, Bare)
    for node in nodes:
        if APPLIED in node.metadata.annotations:
            name = node.metadata.name
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            client.apply(r.NODES, Key("", name), body, manager=MANAGER)
            say(f"node {name} has no labels of datasets any more")


def held(client: Client) -> list[str]:
    """What nodes say that they hold."""
    try:
        caches, _ = client.list_all(RESOURCES["NodeCache"], Cache)
    except NotFound:
        return []
    return sorted(
        f"{item.get('namespace')}/{item.get('name')} on {cache.metadata.name}"
        for cache in caches
        for item in (cache.status or {}).get("datasets") or ()
    )


def _some(found: list[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
