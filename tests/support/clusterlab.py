"""Several real workers of one dataset, a real S3 server behind a link with faults, and links with faults between nodes.

    with s3_store(tmp_path, objects) as store, ClusterLab(tmp_path, [store.mount()], workers=3, clients=1) as lab:
        lab.start()
        assert lab.nodes["node-1"].read("/name") == objects["name"]
        assert store.link.sent["object"] == ...

Nodes are `workerlab.Lab`s: readers go through their doors as a mount does. With `links` the member list names a `HttpLink` in
front of each data port, so that every byte between nodes passes one.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import yaml
from faultlink import HttpLink
from servers import KEY, SECRET, boto, moto, ports_for, versitygw
from workerlab import Lab, eventually

from forebay.api.spec import Cluster, Freshness, Mount, Tier, encode_spec
from forebay.cache.peers.auth import make_secret

BUCKET = "bucket"
BUILT = Path(__file__).resolve().parents[2] / ".build/bin/versitygw"


@dataclass
class S3Store:
    """A bucket, and the link that every byte of it passes."""

    link: HttpLink
    url: str  # of the link; the server's own where a test needs it is `direct`
    direct: str

    def mount(self, url: str = "", path: str = "/", freshness: Freshness | None = None, **options: str) -> Mount:
        return Mount(
            source=f"s3://{BUCKET}/",
            store="s3",
            path=path,
            name="data",
            options={"endpoint": url or self.url, "path_style": "true", "region": "us-east-1", **options},
            secrets={"access_key": KEY, "secret_key": SECRET},
            freshness=freshness or Freshness(),
        )


@contextmanager
def s3_server(folder: Path, objects: dict[str, bytes], *, any_key: bool = False) -> Iterator[str]:
    """A bucket with these objects on versitygw, or on moto where there is none (FOREBAY_VERSITYGW= is none). Yields its URL.

    `any_key`: of a server that takes other keys than its own; moto does. It reads the whole object for each range of it, which
    is why it is not the first choice.
    """
    gateway = os.environ.get("FOREBAY_VERSITYGW", shutil.which("versitygw") or (str(BUILT) if BUILT.exists() else ""))
    if any_key or not gateway:
        with moto() as url:
            client = boto(url)
            client.create_bucket(Bucket=BUCKET)
            for name, data in objects.items():
                client.put_object(Bucket=BUCKET, Key=name, Body=data)
            yield url
        return
    for name, data in objects.items():
        path = folder / "s3" / BUCKET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = os.environ.get("FOREBAY_VERSITYGW")
    os.environ["FOREBAY_VERSITYGW"] = gateway
    try:
        with versitygw(folder / "s3") as url:
            yield url
    finally:
        if before is None:
            del os.environ["FOREBAY_VERSITYGW"]


@contextmanager
def s3_store(folder: Path, objects: dict[str, bytes], *, any_key: bool = False) -> Iterator[S3Store]:
    with s3_server(folder, objects, any_key=any_key) as url, HttpLink(("127.0.0.1", int(url.rpartition(":")[2]))) as link:
        yield S3Store(link, link.url, url)


class NodeLab(Lab):
    """One node. `link`: what the member list has in the place of its data port, None without links or for a client tier."""

    def __init__(self, root: Path, mounts: list[Mount], tiers: list[Tier] | None, cluster: Cluster, **spec: object) -> None:
        super().__init__(root, mounts, tiers, cluster=cluster, **spec)
        self.cluster = cluster
        self.link: HttpLink | None = None
        self.address = cluster.listen

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        self._wait_for_it(self.process)

    def report(self) -> dict[str, Any]:
        """What its stats say of the cluster."""
        found = self.stats()["cluster"]
        assert isinstance(found, dict)
        return found

    def members(self) -> int:
        return len(self.report()["members"])

    def identity(self) -> str:
        return (self.index_dir / "identity").read_text().strip()

    def respec(self, **cluster: object) -> None:
        """Change the cluster part of its spec; it counts from the next start."""
        self.cluster = msgspec.structs.replace(self.cluster, **cluster)
        self.spec = msgspec.structs.replace(self.spec, cluster=self.cluster)
        (self.run_dir / "spec.json").write_bytes(encode_spec(self.spec))


class ClusterLab:
    """`workers` nodes "node-1" ... and `clients` client tiers "client-1" ... below `root`. `quota`: bytes of each one's tier."""

    def __init__(
        self,
        root: Path,
        mounts: list[Mount],
        *,
        workers: int = 3,
        clients: int = 0,
        links: bool = False,
        quota: int = 0,
        **spec: object,
    ) -> None:
        self.root = root
        self.list_path = root / "members.yaml"
        self.secret = root / "secret"
        make_secret(str(self.secret))
        self.nodes: dict[str, NodeLab] = {}
        self.links: dict[str, HttpLink] = {}
        ports = ports_for(workers)
        bare = [msgspec.structs.replace(m, secrets={}) for m in mounts]
        for i in range(workers + clients):
            owns = i < workers
            name = f"node-{i + 1}" if owns else f"client-{i + 1 - workers}"
            cluster = Cluster(
                f"file:{self.list_path}", str(self.secret), name, owns=owns, listen=f"127.0.0.1:{ports[i]}" if owns else ""
            )
            tiers = [Tier("SSD", str(root / name / "tier0"), quota)]
            self.nodes[name] = NodeLab(root / name, mounts if owns else bare, tiers, cluster, **spec)
            if links and owns:
                link = HttpLink(("127.0.0.1", ports[i]))
                self.links[name] = self.nodes[name].link = link
                self.nodes[name].address = link.address
        self.write_list()

    @property
    def workers(self) -> list[NodeLab]:
        return [n for n in self.nodes.values() if n.cluster.owns]

    @property
    def clients(self) -> list[NodeLab]:
        return [n for n in self.nodes.values() if not n.cluster.owns]

    def write_list(self, *more: dict[str, Any], without: str = "") -> None:
        """The member list: all workers but `without`, and what else a test wants in it."""
        found = [{"data": n.address} for n in self.workers if n.cluster.node != without]
        part = self.list_path.with_suffix(".part")
        part.write_text(yaml.safe_dump([*found, *more]))
        part.replace(self.list_path)

    def start(self, *names: str, members: int | None = None) -> None:
        """Start all nodes, or these, at once; returns when each knows `members` others and itself (default: all workers)."""
        started = [self.nodes[n] for n in names or self.nodes]
        for node in started:
            node.start(wait=False)
        for node in started:
            node.wait()
        want = len(self.workers) if members is None else members
        for node in started:
            eventually(lambda node=node: node.members() == want)

    def __enter__(self) -> ClusterLab:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for node in self.nodes.values():
            node.door.close()
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        for link in self.links.values():
            link.close()
        if kind is not None:
            for name, node in self.nodes.items():
                if node.log.exists():
                    print(f"--- {name}\n{node.text()[-4000:]}")

    def store_bytes(self) -> int:
        """Bytes that the workers say came from the store since they were started last."""
        return sum(n.report()["bytes"].get("store", 0) for n in self.workers)


def random_objects(sizes: dict[str, int], seed: int = 1) -> dict[str, bytes]:
    rng = random.Random(seed)
    return {name: rng.randbytes(size) for name, size in sizes.items()}


def holds(condition: Any, seconds: float, every: float = 0.1) -> bool:
    """Whether something stays true for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not condition():
            return False
        time.sleep(every)
    return True
