"""`up --netns`: each node of one machine in a network namespace of its own, all joined by a bridge.

The bridge, the links and the namespaces are named in a record beside the run directories, written before the first of them
is made, so that whatever is interrupted or killed the next `down` or `up` finds and removes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from forebay.api import places
from forebay.api.spec import DatasetSpec
from forebay.cli.machine.datasets import locked, of_dataset
from forebay.cli.output import CommandError
from forebay.fuse.supervision import rundir

RANGE = ipaddress.IPv4Network("198.19.0.0/16")
"""Half of the range that is reserved for benchmarks (RFC 2544): nobody's network lies there."""
FIRST_NODE = 11
DATA_PORT, CONTROL_PORT = 7401, 7402
SUFFIX = ".netns"


class Place(NamedTuple):
    """Where one node lives."""

    node: str
    namespace: str  # as `ip netns` names it
    link: str  # this machine's end of its link, a port of the bridge
    address: str


class Network(NamedTuple):
    """Of one dataset's nodes. The bridge's address is this machine's in it."""

    bridge: str
    address: str
    nodes: tuple[Place, ...]

    @property
    def subnet(self) -> str:
        return str(ipaddress.ip_network(f"{self.address}/24", strict=False))


def plan(dataset: str, root: Path, names: Sequence[str], taken: Callable[[str], bool]) -> Network:
    """Names and addresses for a dataset's nodes, the same each time as long as the addresses are free.

    `taken` says whether a network holds something already. Raises `CommandError` when all do.
    """
    digest = hashlib.blake2b(f"{root}\0{dataset}".encode("utf-8", "surrogateescape"), digest_size=5).digest()
    tag = digest[:4].hex()
    subnets = [ipaddress.IPv4Network((int(RANGE.network_address) + (n << 8), 24)) for n in range(256)]
    subnet = next((s for s in subnets[digest[4] :] + subnets[: digest[4]] if not taken(str(s))), None)
    if subnet is None:
        raise CommandError(f"every network of {RANGE} is in use here: remove what is left of them (`ip -br addr`)")
    places_ = tuple(Place(name, f"fb{tag}-{name}", f"fb{tag}-{i}", str(subnet[FIRST_NODE + i])) for i, name in enumerate(names))
    return Network(f"fb{tag}", str(subnet[1]), places_)


def unreachable(spec: DatasetSpec, address: str) -> list[str]:
    """Stores that no node can reach from a namespace of its own: those on this machine's loopback, one sentence each."""
    found = []
    for mount in spec.mounts:
        url = mount.options.get("endpoint") or mount.source
        host = urlsplit(url).hostname or "" if "://" in url and mount.store != "file" else ""
        if _loopback(host):
            found.append(
                f"mount {mount.called} of dataset {spec.id}: {url.split('?')[0]} is on this machine's loopback, out of reach "
                f"from a network namespace: let the store listen on another address of this machine ({address} is one), "
                "or leave out --netns"
            )
    return found


def _loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_use(subnet: str) -> bool:
    """Whether an interface or a route of this machine lies in a network."""
    done = subprocess.run(["ip", "-o", "route", "show", "root", subnet], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


def can() -> None:
    """Raises `CommandError` where namespaces cannot be made."""
    if os.geteuid() != 0:
        raise CommandError("--netns makes network namespaces, which takes root: leave it out, the nodes meet on the loopback")
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            raise CommandError(f"--netns needs `{tool}`: apt install {package}")


def place_of(spec: DatasetSpec) -> Place | None:
    """Where a node lives that has a namespace of its own."""
    network = read_record(record_of(spec.namespace, spec.name)) if spec.cluster else None
    return next((p for p in network.nodes if spec.cluster and p.node == spec.cluster.node), None) if network else None


# --- making and removing


def record_of(namespace: str, name: str) -> Path:
    """Where the network of a dataset is written down."""
    run = places.run_dir(namespace, name)
    return run.with_name(run.name + SUFFIX)


def read_record(path: Path) -> Network | None:
    """The network in a record, None when there is no such file."""
    try:
        tree = json.loads(path.read_bytes())
        return Network(tree["bridge"], tree["address"], tuple(Place(**p) for p in tree["nodes"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise CommandError(f"{path} is no record of a network: remove it, and what `ip -br link` shows of fb...") from e


def make(spec: DatasetSpec, network: Network) -> None:
    """Make a dataset's network. On failure, `CommandError`, nothing of it is left. The dataset is `locked` by the caller."""
    path = record_of(spec.namespace, spec.name)
    places.make_private(path.parent)
    tree = {"dataset": [spec.namespace, spec.name], "bridge": network.bridge, "address": network.address}
    nodes = [p._asdict() for p in network.nodes]
    rundir.replace_file(str(path), json.dumps(tree | {"nodes": nodes}, indent=1).encode())
    try:
        _ip("link", "add", network.bridge, "type", "bridge", "forward_delay", "0")
        _ip("addr", "add", f"{network.address}/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
        for p in network.nodes:
            _ip("netns", "add", p.namespace)
            _ip("link", "add", p.link, "type", "veth", "peer", "name", "eth0", "netns", p.namespace)
            _ip("link", "set", p.link, "master", network.bridge, "up")
            _ip("-n", p.namespace, "addr", "add", f"{p.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", p.namespace, "link", "set", device, "up")
            _ip("-n", p.namespace, "route", "add", "default", "via", network.address)
    except BaseException:
        clear(spec.namespace, spec.name)
        raise


def clear(namespace: str, name: str) -> list[str]:
    """Remove a dataset's network, if it has one; what could not be removed, in sentences."""
    path = record_of(namespace, name)
    network = read_record(path)
    if network is None:
        return []
    problems = _remove(network)
    if not problems:
        path.unlink(missing_ok=True)
        for folder in (path.parent, *([] if os.environ.get("FOREBAY_RUN_DIR") else [path.parent.parent])):
            with contextlib.suppress(OSError):  # others are up
                folder.rmdir()
    return problems


def sweep(only: set[tuple[str, str]] | None = None) -> list[str]:
    """Remove the networks of datasets of which no node is left; `only` these (namespace, name), or all of this run root.

    Returns sentences about what could not be removed.
    """
    problems = []
    for namespace, name in sorted(_recorded() if only is None else only):
        if record_of(namespace, name).exists():
            with locked(namespace, name):
                if not of_dataset(namespace, name):
                    problems += clear(namespace, name)
    return problems


def _recorded() -> set[tuple[str, str]]:
    found = set()
    for path in places.run_root().glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            namespace, name = json.loads(path.read_bytes())["dataset"]
            found.add((namespace, name))
    return found


def _remove(network: Network) -> list[str]:
    problems = []
    for p in network.nodes:
        # the near end first: a namespace lives on, and its link with it, while a process has it
        problems += _gone("link", p.link, "Cannot find device")
        problems += _gone("netns", p.namespace, "No such file")
    return problems + _gone("link", network.bridge, "Cannot find device")


def _gone(kind: str, name: str, absent: str) -> list[str]:
    done = subprocess.run(["ip", kind, "del", name], capture_output=True, text=True, check=False)
    if done.returncode == 0 or absent in done.stderr:
        return []
    return [f"{name} is left ({done.stderr.strip()}): ip {kind} del {name}"]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"--netns: `ip {' '.join(words)}` failed: {done.stderr.strip()}")


def entered(namespace: str, argv: list[str]) -> list[str]:
    """A command line whose process is in a network namespace, and otherwise the same: its pid and mounts stay."""
    return [shutil.which("nsenter") or "nsenter", f"--net=/run/netns/{namespace}", "--", *argv]
