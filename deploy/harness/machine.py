"""What clusters have on the machine itself: a folder and a lock each, a link with a route, cgroups. Claimed, found, removed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness import cgroups
from harness.layout import OCTETS, Net, Place

BASE = Path(os.environ.get("FOREBAY_CLUSTERS", "/var/tmp/forebay-clusters"))
"""Not below a folder that each node has for itself (node.sh): /var/lib, /var/log, /var/cache, /opt, /srv, /mnt, /run."""
FUSE = Path("/dev/fuse")
TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "nft": "nftables", "iptables": "iptables"}
"""Command to the Debian package that has it."""
ENDING = 120.0
"""Seconds until a cluster that was told to end must be gone. 2 are usual."""


class ClusterError(Exception):
    """There is no such cluster now; the sentence says why and what to do."""


def clear(base: Path = BASE) -> list[str]:
    """Removes what clusters left that are not alive: cgroups, links, folders. Returns their names."""
    with _one_at_a_time():
        names = sorted({each.stem for each in (base.iterdir() if base.exists() else ())})
        dead = [name for name in names if not held(Place(base / name))]
        for place in (Place(base / name) for name in dead):
            cgroups.remove(place.cgroup(""))
            if place.plan.exists():
                unlink(Net(json.loads(place.plan.read_text())["octet"]))
            if place.folder.exists():
                shutil.rmtree(place.folder)
            place.lock.unlink(missing_ok=True)
        if base.exists() and not any(base.iterdir()):
            base.rmdir()
    return dead


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Claims and clearances do not mix."""
    at = Path("/run/lock/forebay-clusters")  # the one thing that stays: an empty file, in memory
    at.parent.mkdir(parents=True, exist_ok=True)
    with at.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unlink(net: Net) -> None:
    """The link goes with the cluster's namespace, a moment after its last process; we do not wait for that."""
    if any(name == net.link for _, name in socket.if_nameindex()):
        subprocess.run(["ip", "link", "del", net.link], capture_output=True, check=False, timeout=120)  # it may go at this moment
    wait_until(lambda: all(name != net.link for _, name in socket.if_nameindex()), ENDING, f"link {net.link} stays")


def held(place: Place) -> bool:
    """Whether a keeper, or who is about to start one, holds the lock: the kernel lets go of it with its last holder."""
    try:
        with place.lock.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def alive(place: Place) -> bool:
    """Whether the cluster is there or is being started. Of one that was killed the lock is let go a moment after its end."""
    if not held(place):
        return False
    try:
        pid = (place.folder / "keeper").read_text()
        return str(place.folder) in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return not (place.folder / "keeper").exists()  # not yet; else it is dead


@contextmanager
def claimed(place: Place, nodes: list[str], programs: dict[str, str], flags: dict[str, list[str]]) -> Iterator[IO[str]]:
    """The folder with the plan in it, addresses of its own, and the lock, which the keeper inherits."""
    base = place.folder.parent
    with _one_at_a_time():
        base.mkdir(parents=True, exist_ok=True)
        if held(place):
            raise ClusterError(f"cluster {place.name!r} is up already ({place.folder}); `make cluster-down` ends it")
        for each in (place.folder, place.images, place.buckets):
            each.mkdir(exist_ok=True)
        lock = place.lock.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = {"octet": _free_octet(base), "nodes": nodes, "programs": programs, "snapshotter": _snapshotter(base), **flags}
        place.plan.write_text(json.dumps(plan, indent=1))
    with lock:
        yield lock


def _free_octet(base: Path) -> int:
    """A 10.X/16 that no cluster has and that the machine has no route to but the default one."""
    taken = {json.loads(plan.read_text())["octet"] for plan in base.glob("*/plan.json")}
    routes = json.loads(subprocess.run(["ip", "-j", "route"], capture_output=True, text=True, check=True, timeout=120).stdout)
    known = {route["dst"] for route in routes}
    for octet in OCTETS:
        if octet not in taken and not any(dst.startswith(f"10.{octet}.") or dst == "10.0.0.0/8" for dst in known):
            return octet
    raise ClusterError(
        f"no free network among 10.{OCTETS[0]}.0.0/16 to 10.{OCTETS[-1]}.0.0/16: the machine has routes to all of them"
    )


def _snapshotter(base: Path) -> str:
    """overlayfs, but not over an overlay, where the kernel refuses it."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(base)], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
    return "native" if kind == "overlayfs" else "overlayfs"


def check() -> None:
    """Whether this machine lets a cluster be. Raises ClusterError with what it forbids, before anything is built."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root: namespaces with networks, mounts, cgroups")
    try:
        os.close(os.open(FUSE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise ClusterError(
            f"a cluster needs {FUSE}, by which its nodes mount datasets ({error.strerror}): "
            "modprobe fuse, or give the device to this container"
        ) from None
    try:
        cgroups.probe()
    except OSError as error:
        raise ClusterError(
            f"a cluster needs to make cgroups, one for each node ({error.filename}: {error.strerror}): "
            f"mount {cgroups.ROOT} writable, in a container with all privileges"
        ) from None
    if missing := sorted(
        {package for tool, package in TOOLS.items() if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None}
    ):
        raise ClusterError(f"Debian packages are missing: apt-get install {' '.join(missing)}")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False, timeout=120
    )
    if tried.returncode:
        raise ClusterError(f"a cluster needs namespaces ({tried.stderr.strip()}): run with all privileges (CAP_SYS_ADMIN)")


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def ip(batch: str) -> None:
    done = subprocess.run(["ip", "-batch", "-"], input=batch, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise ClusterError(f"ip: {done.stderr.strip()}")


def wait_until(there: Callable[[], object], seconds: float, words: str) -> None:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            raise ClusterError(f"{words}: not after {seconds:.0f} s")
        time.sleep(0.02)
