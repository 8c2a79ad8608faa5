"""From the options of `forebay up` to every node that is to be started: names, mount points, addresses."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click

from forebay.api import places
from forebay.api.spec import DatasetSpec
from forebay.cli.machine import netns
from forebay.cli.machine.nodes import Join, Start, free, joined, lowest_ephemeral, names, on_loopback, pick_ports, several
from forebay.cli.output import CommandError


def networks_for(specs: list[DatasetSpec], workers: int, mounts: int) -> dict[str, netns.Network]:
    """A network for the nodes of each dataset (by id). Raises `CommandError` where there can be none."""
    netns.can()
    netns.sweep({(s.namespace, s.name) for s in specs})  # of a start that was killed: its addresses are free again
    found: dict[str, netns.Network] = {}
    taken: set[str] = set()
    for spec in specs:
        network = netns.plan(
            spec.id, places.run_root(), names(workers, mounts), lambda subnet: subnet in taken or netns.in_use(subnet)
        )
        taken.add(network.subnet)
        found[spec.id] = network
    problems = [p for s in specs for p in netns.unreachable(s, found[s.id].address)]
    if problems:
        raise CommandError("\nforebay: ".join(problems))
    return found


def planned(
    specs: list[DatasetSpec],
    at: tuple[Path, ...],
    cache_dir: Path | None,
    *,
    workers: int | None,
    join: Join | None,
    no_mount: bool,
    networks: Mapping[str, netns.Network] = MappingProxyType({}),
) -> list[Start]:
    """Every node that is to be started, of all datasets."""
    if no_mount and at:
        raise click.UsageError("--no-mount and --mount exclude each other")
    points = [mount_points(specs, a.absolute()) for a in at] or [mount_points(specs, None)]
    if join is not None:
        if len(specs) > 1 or len(points) > 1:
            raise CommandError("--join starts one node of one dataset: start each with an `up` of its own, and one --mount")
        return [joined(specs[0], join, "" if no_mount else points[0][specs[0].id])]
    if (workers or 1) == 1 and len(points) == 1 and not networks:
        return [Start(s, points[0][s.id]) for s in specs]
    if cache_dir is None:
        raise CommandError("several nodes need --cache-dir DIR: each keeps cache and identity in DIR/<node>")
    starts: list[Start] = []
    taken: set[int] = set()
    for spec in specs:
        if networks:
            addresses = [(f"{p.address}:{netns.DATA_PORT}", f"{p.address}:{netns.CONTROL_PORT}") for p in networks[spec.id].nodes]
        else:
            ports = pick_ports(
                f"{spec.id} {cache_dir.absolute()}", 2 * (workers or 1), lowest_ephemeral(), lambda p: p not in taken and free(p)
            )
            taken.update(ports)
            addresses = on_loopback(ports)
        starts += several(spec, workers or 1, [p[spec.id] for p in points], cache_dir, addresses)
    return starts


def mount_points(specs: list[DatasetSpec], at: Path | None) -> dict[str, str]:
    """Where each dataset (by id) is mounted."""
    if at is None:
        root = Path("/mnt/forebay") if os.geteuid() == 0 else Path.home() / "forebay"
        return {s.id: str(root / s.namespace / s.name) for s in specs}
    if len(specs) == 1:
        return {specs[0].id: os.path.normpath(at)}
    twice = [name for name, n in Counter(s.name for s in specs).items() if n > 1]
    if twice:
        raise CommandError(f"several datasets are called {', '.join(twice)}: with --mount start each with an `up` of its own")
    return {s.id: os.path.normpath(at / s.name) for s in specs}
