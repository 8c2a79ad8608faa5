"""Which datasets are up on this machine, and how to reach one by the name a person typed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forebay.api import places
from forebay.api.spec import DatasetSpec, decode_spec
from forebay.cli.output import CommandError
from forebay.fuse import control

if TYPE_CHECKING:
    from forebay.cache.client import Door

LOCK_LIMIT = 120.0
"""Seconds to wait for another `up` or `down` of the same dataset."""


class Running:
    """A dataset with a run directory: it is up, on its way, or was killed with everything."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.spec: DatasetSpec = decode_spec((run / places.SPEC).read_bytes())

    @property
    def id(self) -> str:
        return self.spec.id

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
            from forebay.fuse import leftovers

            if not any(p.role != "worker" for p in leftovers.processes_of(str(self.run))) or time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def door(self) -> Door:
        from forebay.cache.client import Door

        return Door(self.run / places.WORKER_SOCK, "cli")


def running() -> list[Running]:
    """Every dataset of this run root; a spec that cannot be read is an error that names its file."""
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
    return found


def find(name: str) -> Running:
    """The dataset called `name` or `namespace/name`; a sentence when there is none or more than one."""
    everything = running()
    matching = [r for r in everything if name in (r.id, r.spec.name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        ids = ", ".join(r.id for r in matching)
        raise CommandError(f'"{name}" is up in several namespaces: say which, one of {ids}')
    known = f"up are: {', '.join(r.id for r in everything)}" if everything else "nothing is up"
    raise CommandError(f'dataset "{name}" is not up ({known}): start it with `forebay up -f FILE`')


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
def locked(namespace: str, name: str) -> Iterator[Path]:
    """Hold the dataset against another `up` or `down`; yields its run directory. Leaves no lock file behind."""
    run = places.run_dir(namespace, name)
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
