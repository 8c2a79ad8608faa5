"""Three members with real ports over real files, and a node that asks them through `ClusterStore`."""

from __future__ import annotations

import threading
from pathlib import Path

from peerkit import DATASET, SOURCE, FileProvider, key
from servers import free_port
from storekit import drain

from forebay.cache.disk.index import object_id
from forebay.cache.members import placement
from forebay.cache.members.cluster import Cluster
from forebay.cache.members.membership import Fixed
from forebay.cache.members.roster import Member
from forebay.cache.members.store import ClusterStore
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port
from forebay.cache.peers.wire import Ref
from forebay.cache.stores.base import Body, Entry, NotFound, Page
from forebay.cache.stores.net.ranges import Held

IDS = [f"{i}0000000-0000-0000-0000-000000000000" for i in range(1, 4)]


class LocalStore:
    """A store in memory that counts what it is asked."""

    strong = True

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.reads: list[tuple[bytes, int, int]] = []
        self.lists = 0
        self.gate: threading.Event | None = None

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        self.lists += 1
        if self.gate is not None:
            assert self.gate.wait(60)
        found = [Entry(k[len(prefix) :], False, len(v), 0, b"v1") for k, v in self.data.items() if k.startswith(prefix)]
        if not found:
            raise NotFound("none")
        return Page(found, None)

    def stat(self, key: bytes) -> Entry:
        if key not in self.data:
            raise NotFound(f"no {key!r}")
        return Entry(key.rpartition(b"/")[2], False, len(self.data[key]), 0, b"v1")

    def is_dir(self, key: bytes) -> bool:
        return any(k.startswith(key + b"/") for k in self.data)

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        self.reads.append((key, offset, length))
        return Held(self.data[key][offset : offset + length])

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        return self.stat(key), Held(self.data[key])

    def probe(self) -> None:
        return

    def close(self) -> None:
        return


class World:
    """Three members with ports over files, and a node `me` that asks."""

    def __init__(self, folder: Path) -> None:
        self.providers: dict[str, FileProvider] = {}
        self.ports: dict[str, Port] = {}
        for i in IDS:
            sub = folder / i[:1]
            sub.mkdir()
            self.providers[i] = FileProvider(sub, i)
            self.ports[i] = Port(self.providers[i], key(), i, port=free_port())  # one that is free still when it comes back
            self.ports[i].start()
        self.members = [Member(i, p.address) for i, p in self.ports.items()]
        self.client = PeerClient(key())
        self.clusters: list[Cluster] = []
        self.local = LocalStore()

    def store(self, me: str = "client", *, local: bool = False, **more: bool) -> ClusterStore:
        c = Cluster(DATASET, me, membership=Fixed(self.members), client=self.client, owns=local, **more)
        self.clusters.append(c)
        return ClusterStore(SOURCE, c, self.local if local else None)

    def add(self, name: str, data: bytes) -> Ref:
        for p in self.providers.values():
            ref = p.add(name, data)
            p.have = set()  # nobody has copies, unless a test says so
        self.local.data[name.encode()] = data
        return ref

    def order(self, ref: Ref, segment: int = 0) -> list[FileProvider]:
        ranked = placement.rank(object_id(SOURCE, ref.key, ref.version), segment, self.members)
        return [self.providers[m.id] for m in ranked]

    def kill(self, provider: FileProvider) -> str:
        port = self.ports[provider.identity]
        port.close()
        return port.address

    def revive(self, provider: FileProvider, address: str) -> None:
        port = Port(provider, key(), provider.identity, port=int(address.rpartition(":")[2]))
        port.start()
        self.ports[provider.identity] = port

    def close(self) -> None:
        for c in self.clusters:
            c.close()
        self.client.close()
        for p in self.ports.values():
            p.close()


def read(store: ClusterStore, ref: Ref, offset: int = 0, length: int | None = None, piece: int = 1 << 20) -> bytes:
    return drain(store.read(ref.key, ref.version, offset, ref.size - offset if length is None else length, ref.size), piece)
