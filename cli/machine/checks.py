"""What `forebay up` finds out before a process starts, for all nodes at once."""

from __future__ import annotations

import os

from forebay.api import places
from forebay.api.spec import DatasetSpec
from forebay.cache.stores.base import Unavailable
from forebay.cli.machine import preflight
from forebay.cli.machine.datasets import of_dataset, run_of
from forebay.cli.machine.nodes import Start, check_join
from forebay.cli.output import CommandError, warn
from forebay.fuse import mounting
from forebay.fuse.supervision import leftovers


def clear_the_way(specs: list[DatasetSpec], node: str = "") -> None:
    """Nothing of these datasets is up here, for one that joins others nothing of `node`; what a killed one left is removed.

    Raises `CommandError` that names what is up.
    """
    problems: list[str] = []
    for spec in specs:
        for running in of_dataset(spec.namespace, spec.name):
            if node and running.node not in ("", node):
                continue  # another node, on the same machine
            if running.alive():
                where = ", ".join(m["path"] for m in running.state()["mounts"]) or "no mount"
                problems.append(f"dataset {running.label} is already up at {where}: `forebay down {spec.name}` first")
            else:
                leftovers.clear(str(running.run), running.id)
    if problems:
        raise CommandError("\nforebay: ".join(problems))


def check_places(starts: list[Start], *, joining: bool) -> None:
    """Every directory and address can be had. Raises `CommandError` with all that is wrong."""
    problems: list[str] = []
    table_ = list(mounting.entries())
    points = [s.mount for s in starts if s.mount]
    problems += preflight.nested(points)
    for spec, mount in starts:
        run = run_of(spec)
        if len(os.fsencode(run / places.SUPERVISOR_SOCK)) > places.SUN_PATH:
            problems.append(f"{run} is too long a path for a socket: set FOREBAY_RUN_DIR to a shorter one")
        found = [preflight.mount_point(mount, table_)] if mount else []
        own = [s.mount for s in starts if s.mount and s.spec.id == spec.id]
        found += [*(preflight.cycles(spec, point) for point in own), preflight.index_place(spec)]
        problems += [f for f in found if f and f not in problems]
        if joining:
            wrong, known = check_join(spec)
            problems += wrong
            for text in known:
                warn(text)
    if problems:
        raise CommandError("\nforebay: ".join(problems))


def check_stores(starts: list[Start], *, offline_ok: bool) -> None:
    """Each store is asked once, and for one dataset's nodes by one of them. Raises `CommandError`."""
    problems: list[str] = []
    for one in {s.spec.id: s for s in reversed(starts)}.values():
        spec = one.spec
        client = spec.cluster is not None and not spec.cluster.owns
        warm = any(os.path.isdir(os.path.join(s.spec.index_dir, "live")) for s in starts if s.spec.id == spec.id)
        for reach in () if client else preflight.reach(spec.mounts):
            if reach.problem is None:
                continue
            if isinstance(reach.problem, Unavailable) and (warm or offline_ok):
                warn(f"{reach.problem}; dataset {spec.id} starts with what is cached")
            else:
                problems.append(f"mount {reach.mount.called} of dataset {spec.id}: {reach.problem}")
        for floor in preflight.floors(spec):
            if floor.stopped:
                warn(floor.sentence())
    if problems:
        raise CommandError("\nforebay: ".join(problems))
