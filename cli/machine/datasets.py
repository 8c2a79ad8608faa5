"""Which datasets are up on this machine, on which nodes, and how to reach one by the name a person typed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forebay.api import places
from forebay.api.spec import DatasetSpec, decode_spec
from forebay.cli.output import CommandError
from forebay.fuse.supervision import control

if TYPE_CHECKING:
    from forebay.cache.client import Door

LOCK_LIMIT = 120.0
"""Seconds to wait for another `up` or `down` of the same dataset."""


class Running:
    """A dataset with a run directory: it is up, on its way, or was killed with everything. Of several nodes: one of them."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.spec: DatasetSpec = decode_spec((run / places.SPEC).read_bytes())

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def node(self) -> str:
        """Name of the node, "" for a dataset that has no others."""
        return self.spec.cluster.node if self.spec.cluster else ""

    @property
    def label(self) -> str:
        """How messages name it, and how a person may: `namespace/name`, with `@node` where there are several."""
        return label(self.spec)

    def state(self) -> dict[str, Any]:
        """The supervisor's own answer; its last state file with phase `dead` when no supervisor lives."""
        with contextlib.suppress(control.Silence):
            return control.ask(str(self.run / places.SUPERVISOR_SOCK), {"op": "status"}, 5.0)
        try:
            state: dict[str, Any] = json.loads((self.run / places.STATE).read_bytes())
        except (OSError, ValueError):
            state = {"dataset": self.id, "processes": [], "mounts": [], "reports": [], "started": None, "ready": None}
        state["phase"] = "dead"
        return state

    def alive(self) -> bool:
        """Whether a supervisor answers, or one is being made by a mount daemon at this moment."""
        deadline = time.monotonic() + 3.0
        while True:
            state = self.state()
            if state["phase"] != "dead":
                return True
            from forebay.fuse.supervision import leftovers

            if not any(p.role != "worker" for p in leftovers.processes_of(str(self.run))) or time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def door(self) -> Door:
        from forebay.cache.client import Door

        return Door(self.run / places.WORKER_SOCK, "cli")


def label(spec: DatasetSpec) -> str:
    """`namespace/name`, with `@node` where the dataset has several nodes."""
    return f"{spec.id}@{spec.cluster.node}" if spec.cluster else spec.id


def run_of(spec: DatasetSpec) -> Path:
    """The run directory of a dataset's node."""
    return places.run_dir(spec.namespace, spec.name, spec.cluster.node if spec.cluster else "")


def running() -> list[Running]:
    """Every dataset of this run root, its nodes in order; a spec that cannot be read is an error that names its file."""
    found = []
    for run in places.datasets_up():
        try:
            found.append(Running(run))
        except ValueError as e:
            raise CommandError(f"{run / places.SPEC}: {e}; `rm -r {run}` when nothing of it runs") from e
        except FileNotFoundError:
            continue  # went down meanwhile
        except PermissionError as e:
            raise CommandError(f"{run} belongs to another user: ask as that user, or as root") from e
    return sorted(found, key=lambda r: order(r.spec))


def order(spec: DatasetSpec) -> tuple[str, bool, list[tuple[int, str]]]:
    """Sorts datasets by id, and nodes of one: workers before client tiers, node-2 before node-10."""
    node, owns = (spec.cluster.node, spec.cluster.owns) if spec.cluster else ("", True)
    parts = [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", node)]
    return spec.id, not owns, parts


def of_dataset(namespace: str, name: str) -> list[Running]:
    """What is up of one dataset, its nodes in order; specs that cannot be read are somebody else's matter."""
    found = []
    for run in places.datasets_up():
        if run.parent.name == places.escape(namespace):
            with contextlib.suppress(ValueError, OSError):
                found.append(Running(run))
    mine = [r for r in found if (r.spec.namespace, r.spec.name) == (namespace, name)]
    return sorted(mine, key=lambda r: order(r.spec))


def find_all(name: str) -> list[Running]:
    """All nodes of the dataset called `name` or `namespace/name`, or the one of `name@node`, never none of them.

    Raises `CommandError` with a sentence when nothing is up by that name, or in more than one namespace.
    """
    everything = running()
    matching = [r for r in everything if name in (r.id, r.spec.name)]
    dataset, at, node = name.rpartition("@")
    if at and not matching:
        matching = [r for r in everything if dataset in (r.id, r.spec.name) and r.node == node]
        if not matching and (nodes := [r for r in everything if dataset in (r.id, r.spec.name)]):
            there = ", ".join(r.label for r in nodes)
            raise CommandError(f'node "{node}" of dataset "{dataset}" is not up here: say one of {there}')
    ids = sorted({r.id for r in matching})
    if len(ids) == 1:
        return matching
    if ids:
        raise CommandError(f'"{name}" is up in several namespaces: say which, one of {", ".join(ids)}')
    known = f"up are: {', '.join(r.label for r in everything)}" if everything else "nothing is up"
    raise CommandError(f'dataset "{name}" is not up ({known}): start it with `forebay up -f FILE`')


def find(name: str) -> Running:
    """The dataset called `name`, its first node where it has several, or that of `name@node`. Raises as `find_all`."""
    return find_all(name)[0]


def split(target: str) -> tuple[str, bytes]:
    """`NAME:PATH` as (name, absolute path); the path is bytes and `/` when it is left out."""
    name, _, path = target.partition(":")
    if not name:
        raise click.UsageError(f'"{target}" names no dataset: write NAME:PATH, for instance imagenet:/train')
    parts = [p for p in os.fsencode(path).split(b"/") if p not in (b"", b".")]
    if b".." in parts:
        raise click.UsageError(f'"{target}": a path from the root of the dataset has no ".."')
    return name, b"/" + b"/".join(parts)


def _try_lock(run: Path, path: Path) -> int | None:
    """The lock's descriptor, or None when another command has it, or just removed it with its directory."""
    try:
        places.make_private(run.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise CommandError(f"the run directory cannot be made: {e}; set FOREBAY_RUN_DIR to another") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


@contextlib.contextmanager
def locked(namespace: str, name: str, node: str = "") -> Iterator[Path]:
    """Hold a dataset, or one node of it, against another `up` or `down`; yields its run directory. Leaves no lock file."""
    run = places.run_dir(namespace, name, node)
    path = places.command_lock(run)
    deadline = time.monotonic() + LOCK_LIMIT
    while (fd := _try_lock(run, path)) is None:
        if time.monotonic() > deadline:
            raise CommandError(f"another command holds {path} for {LOCK_LIMIT:.0f} s: see `forebay status {name}`")
        time.sleep(0.05)
    try:
        yield run
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)
        with contextlib.suppress(OSError):
            os.rmdir(run.parent)
            if not os.environ.get("FOREBAY_RUN_DIR"):  # one that was given is not ours to remove
                os.rmdir(run.parent.parent)
