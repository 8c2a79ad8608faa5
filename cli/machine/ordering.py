"""From a dataset that is up here to the control door of its node, or of another member."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from forebay.api import wire
from forebay.cli.machine.datasets import Running
from forebay.cli.output import CommandError

if TYPE_CHECKING:
    from forebay.cache.peers.control_client import ControlClient


@contextlib.contextmanager
def orders(target: Running) -> Iterator[tuple[ControlClient, str]]:
    """A client with the dataset's secret and the address of the node's own control door, of a client tier that of a member.

    What the door says against an order ends the command with its sentence. Raises `CommandError`.
    """
    cluster = target.spec.cluster
    if cluster is None:
        raise CommandError(f"{target.label} has one node: start it with --workers or --join to have several")
    from forebay.cache.peers.auth import Key, load_secret
    from forebay.cache.peers.control_client import ControlClient
    from forebay.cache.peers.controlwire import ControlError

    try:
        client = ControlClient(Key(load_secret(cluster.secret_file), target.spec.id))
    except ValueError as e:
        raise CommandError(str(e)) from e
    try:
        yield client, cluster.control or _member(target)
    except ControlError as e:
        raise CommandError(str(e)) from e
    finally:
        client.close()


def _member(target: Running) -> str:
    """The control door of a member that is not known to be down."""
    try:
        with target.door() as door:
            report = door.call(wire.Stats())
    except OSError as e:
        raise CommandError(f"{target.label}: {e.strerror or e}") from e
    cluster = report.values.get("cluster") if isinstance(report, wire.Report) else None
    for member in cluster["members"] if isinstance(cluster, dict) else ():
        if member["control"] and not member["down"]:
            return str(member["control"])
    raise CommandError(f"{target.label} knows no member with a control door: see `forebay status {target.label}`")
