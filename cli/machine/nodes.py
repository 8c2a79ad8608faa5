"""Which nodes `forebay up` starts here: several of one dataset on this machine, or one that joins those of other machines.

Pure but for `prepare` and `in_the_way`: from specs and options to one `Start` a node.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from forebay.api.manifests.options import across_nodes
from forebay.api.spec import Cluster, DatasetSpec
from forebay.cli.output import CommandError

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 10240
EPHEMERAL = 32768
"""Where the kernel's own ports begin if it does not say."""
MOST_WORKERS = 64
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
DRAINED = "drained"
"""In the directory of the index of a node that gave its bytes away and left; `up` takes it back in."""


class Start(NamedTuple):
    """One node to be started."""

    spec: DatasetSpec
    mount: str  # "" = none


class Join(NamedTuple):
    """What `--join` and its company said."""

    members: str  # "file:PATH" or "dns:NAME:PORT"
    listen: str  # "" for a client tier
    secret_file: str
    node: str
    control: str
    weight: float
    client: bool

    def words(self) -> list[str]:
        """The options that say this again."""
        said = ["--join", self.members, "--secret-file", self.secret_file, "--node", self.node]
        if self.client:
            return [*said, "--client"]
        return [*said, "--listen", self.listen, "--control-listen", self.control, "--weight", f"{self.weight:g}"]


def names(workers: int, mounts: int) -> list[str]:
    """The nodes of one machine: a client tier for each mount beyond the workers."""
    return [f"node-{i + 1}" for i in range(workers)] + [f"client-{i + 1}" for i in range(mounts - workers)]


def several(
    spec: DatasetSpec, workers: int, mounts: Sequence[str], cache_dir: Path, addresses: Sequence[tuple[str, str]]
) -> list[Start]:
    """`workers` nodes of this machine and a client tier for each further mount; the i-th mount is the i-th node's view.

    `spec` is resolved below `cache_dir`; `addresses` holds those of data port and control door for each worker.
    """
    top = str(cache_dir.absolute())
    own = places_of(spec, cache_dir)
    starts = []
    for i, node in enumerate(names(workers, len(mounts))):
        owns = i < workers
        cluster = Cluster(
            members=f"file:{own.members}",
            secret_file=str(own.secret),
            node=node,
            listen=addresses[i][0] if owns else "",
            control=addresses[i][1] if owns else "",
            owns=owns,
        )
        starts.append(Start(of_node(moved(spec, top, node), cluster), mounts[i] if i < len(mounts) else ""))
    return starts


class Shared(NamedTuple):
    """Files that the nodes of one machine have in common."""

    members: Path
    secret: Path


def places_of(spec: DatasetSpec, cache_dir: Path) -> Shared:
    """Where the member list and the secret of a dataset with several nodes on this machine lie."""
    own = cache_dir.absolute() / spec.namespace / spec.name
    return Shared(own / "members.yaml", own / "secret")


def moved(spec: DatasetSpec, top: str, node: str) -> DatasetSpec:
    """The spec with everything below `top` moved to `top/node`."""

    def to(path: str) -> str:
        return os.path.join(top, node, os.path.relpath(path, top))

    tiers = [msgspec.structs.replace(t, path=to(t.path)) for t in spec.tiers]
    return msgspec.structs.replace(spec, tiers=tiers, index_dir=to(spec.index_dir))


def of_node(spec: DatasetSpec, cluster: Cluster) -> DatasetSpec:
    """The spec of one node. A client tier's has no credentials of the stores."""
    mounts = spec.mounts if cluster.owns else [msgspec.structs.replace(m, secrets={}) for m in spec.mounts]
    return msgspec.structs.replace(spec, mounts=mounts, cluster=cluster)


def joined(spec: DatasetSpec, join: Join, mount: str) -> Start:
    """This machine's node of a dataset that other machines serve too."""
    cluster = Cluster(
        members=join.members, secret_file=join.secret_file, node=join.node, listen=join.listen, control=join.control,
        weight=join.weight, owns=not join.client,
    )  # fmt: skip
    mounts = [msgspec.structs.replace(m, options=across_nodes(m.store, m.options)) for m in spec.mounts]
    return Start(of_node(msgspec.structs.replace(spec, mounts=mounts), cluster), mount)


def read_join(
    members: str, *, listen: str, secret_file: Path | None, node: str, control: str, weight: float, client: bool
) -> Join:
    """Check what was said with `--join` and fill in what was not. Raises `CommandError` with a sentence."""
    from forebay.cache.members.roster import join_address, split_address

    if secret_file is None:
        raise CommandError("--join needs --secret-file FILE: the dataset's secret, the same on every node (docs/cluster.md)")
    if client and (listen or control):
        raise CommandError("a client tier serves nobody: leave out --listen and --control-listen, or --client")
    if not client and not listen:
        raise CommandError(
            "--join needs --listen HOST:PORT, the address of this node in the member list; with --client it serves nobody"
        )
    if not 0 < weight < 1e18:
        raise CommandError(f"--weight {weight:g} is no share: write a number above 0, such as 1")
    node = node or own_name()
    if not _NODE.fullmatch(node):
        raise CommandError(f"--node {node!r} is no name of a node: use at most 63 of letters, digits, -, _ and .")
    port = 0
    if not client:
        host, port = _address("--listen", listen, split_address)
        if not control:
            if port == 65535:
                raise CommandError(f"--listen {listen} leaves no port for the control door: name one with --control-listen")
            control = join_address(host, port + 1)
        _address("--control-listen", control, split_address)
    return Join(_list(members, port), listen, str(secret_file.absolute()), node, control, weight, client)


def own_name() -> str:
    """This machine's name, for a node that was given none."""
    return socket.gethostname().partition(".")[0] or "node"


def _address(option: str, text: str, split: Callable[[str], tuple[str, int]]) -> tuple[str, int]:
    try:
        host, port = split(text)
    except ValueError as e:
        raise CommandError(f"{option}: {e}") from e
    if host in ("0.0.0.0", "::"):
        raise CommandError(f"{option} {text} is every address: write the one under which other nodes reach this one")
    return host, port


def _list(text: str, port: int) -> str:
    """`file:PATH` (absolute) or `dns:NAME:PORT` of what was written."""
    from forebay.cache.members.discovery import open_source

    kind, _, rest = text.partition(":")
    try:
        if kind == "dns":
            if ":" not in rest:
                if not port:
                    raise CommandError(
                        f"--join {text} names no port: write dns:{rest or 'NAME'}:PORT, the workers' --listen port"
                    )
                text = f"{text}:{port}"
            open_source(text)
            return text
        path = rest if kind == "file" else text
        open_source(f"file:{path}")
    except ValueError as e:
        raise CommandError(f"--join: {e}") from e
    return f"file:{os.path.abspath(path)}"


# --- ports


def lowest_ephemeral() -> int:
    """The first port that the kernel gives to connections; ours stay below, or one of them might be in the way."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return EPHEMERAL


def pick_ports(key: str, count: int, below: int, free: Callable[[int], bool]) -> list[int]:
    """`count` free ports in [LOWEST_PORT, below). The search begins where `key` says: the same dataset gets the same ports.

    Raises `CommandError` when there are not so many.
    """
    if below - LOWEST_PORT < 1024:  # a machine that gives nearly every port to connections
        below = EPHEMERAL
    span = below - LOWEST_PORT
    begin = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()) % span
    found: list[int] = []
    for n in range(span):
        port = LOWEST_PORT + (begin + n) % span
        if free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise CommandError(f"only {len(found)} of {count} ports between {LOWEST_PORT} and {below} are free: end what uses them")


def on_loopback(ports: Sequence[int]) -> list[tuple[str, str]]:
    """Two ports for each worker as its addresses."""
    return [(f"{LOOPBACK}:{a}", f"{LOOPBACK}:{b}") for a, b in zip(ports[::2], ports[1::2], strict=True)]


def free(port: int, host: str = LOOPBACK) -> bool:
    """Whether somebody could listen there now."""
    return in_the_way(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") is None


def in_the_way(address: str) -> str | None:
    """Why nobody can listen at `address` now, None when one can."""
    from forebay.cache.members.roster import split_address

    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family, backlog=1).close()
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            return f"{address} is in use: give another address, or end who listens there (`ss -ltnp`)"
        if e.errno == errno.EADDRNOTAVAIL:
            return f"{address} is no address of this machine: write one that it has (`ip addr`)"
        return f"nothing can listen at {address}: {e.strerror or e}"
    return None


# --- files


def member_list(starts: Sequence[Start]) -> bytes:
    """The list of the workers among nodes of this machine."""
    lines = ["# Made by `forebay up --workers`; made anew by the next.\n"]
    for start in starts:
        c = start.spec.cluster
        if c is not None and c.owns:
            lines.append(
                f"- data: {msgspec.json.encode(c.listen).decode()}\n  control: {msgspec.json.encode(c.control).decode()}\n"
                f"  node: {msgspec.json.encode(c.node).decode()}\n  weight: {c.weight!r}\n"
            )
    return "".join(lines).encode()


def prepare(starts: Sequence[Start], cache_dir: Path | None) -> None:
    """Files that must be there before the first node starts. `cache_dir` is None for a node that joins others.

    Raises `CommandError`.
    """
    for start in starts:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the worker says what is wrong there
            os.unlink(os.path.join(start.spec.index_dir, DRAINED))
    if cache_dir is None or starts[0].spec.cluster is None:
        return
    from forebay.cache.peers.auth import make_secret
    from forebay.fuse.supervision import rundir

    shared = places_of(starts[0].spec, cache_dir)
    try:
        shared.secret.parent.mkdir(parents=True, exist_ok=True)
        make_secret(str(shared.secret))
        rundir.replace_file(str(shared.members), member_list(starts))
    except OSError as e:
        raise CommandError(f"{e.filename or shared.members}: {e.strerror}; choose another --cache-dir") from e
    except ValueError as e:
        raise CommandError(str(e)) from e


def check_join(spec: DatasetSpec) -> tuple[list[str], list[str]]:
    """What keeps a node from joining, and what a person should know: (problems, warnings)."""
    from forebay.cache.members.discovery import FileSource, open_source
    from forebay.cache.members.roster import parse_members
    from forebay.cache.peers.auth import load_secret

    c = spec.cluster
    assert c is not None
    problems: list[str] = []
    warnings: list[str] = []
    try:
        load_secret(c.secret_file)
    except ValueError as e:
        problems.append(str(e))
    problems += [why for address in (c.listen, c.control) if address and (why := in_the_way(address))]
    source = open_source(c.members)
    if not isinstance(source, FileSource):
        if source.read() is None:
            warnings.append(f"{source.error}; the node starts alone and looks again")
        return problems, warnings
    try:
        listed = parse_members(Path(source.path).read_bytes())
    except (OSError, ValueError) as e:
        what = (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
        return [*problems, f"the member list {source.path}: {what}"], warnings
    if c.owns and c.listen not in {m.data for m in listed}:
        warnings.append(
            f"{c.listen} is not in the member list {source.path}: until it is, no node takes bytes from this one, "
            "and it owns none; add it there, written in the same way as --listen"
        )
    return problems, warnings
