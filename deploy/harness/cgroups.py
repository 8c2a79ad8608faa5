"""The cgroup of a node, in every hierarchy: made before it starts, removed after its end. They outlive everything else."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
KUBELET = ("cpu", "cpuset", "memory", "pids")
"""Controllers without which a kubelet does not start."""
PATIENCE = 10.0
"""Seconds until the processes of a dead node must have left."""


def hierarchies() -> list[Path]:
    """One folder with version 2, one for each controller with version 1 (and `unified` beside them)."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [each for each in sorted(ROOT.iterdir()) if each.is_dir() and not each.is_symlink()]


def probe() -> None:
    """Makes a cgroup and removes it. Raises OSError where that is not allowed, or where kubelet would miss a controller."""
    listed = ROOT / "cgroup.controllers"
    there = listed.read_text().split() if listed.exists() else [each.name for each in ROOT.iterdir()]
    for controller in KUBELET:
        if controller not in there:
            raise FileNotFoundError(errno.ENOENT, f"controller {controller} is not there", str(ROOT))
    name = f"forebay-probe-{os.getpid()}"
    try:
        make(name)
    finally:
        remove(name)


def make(name: str) -> None:
    for hierarchy in hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for each in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty in a new folder, and nothing may run there then
            above = hierarchy / each
            if above.exists():
                (folder / each).write_text(above.read_text())
        if hierarchy == ROOT:
            controllers = " ".join(f"+{each}" for each in (ROOT / "cgroup.controllers").read_text().split())
            (ROOT / "cgroup.subtree_control").write_text(controllers)


def remove(prefix: str) -> None:
    """Every cgroup whose name starts with `prefix`, deepest first. Raises OSError where a process stays in one."""
    until = time.monotonic() + PATIENCE
    for top in found(prefix):
        for folder in sorted((f for f in [top, *top.rglob("*")] if f.is_dir()), key=lambda f: -len(f.parts)):
            while True:
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # busy until the kernel has let go of the last process
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.02)


def found(prefix: str) -> list[Path]:
    """The topmost cgroups of that prefix."""
    return [folder for hierarchy in hierarchies() for folder in hierarchy.glob(f"{prefix}*") if folder.is_dir()]
