"""What a worker holds as one node of a cluster: who it is, whom it knows, what it serves to others."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from forebay.api.spec import Cluster as ClusterSpec
from forebay.api.spec import DatasetSpec, Mount
from forebay.cache.disk.reflag import Reflag
from forebay.cache.log import log
from forebay.cache.members.cluster import Cluster
from forebay.cache.members.discovery import open_source
from forebay.cache.members.membership import Watcher, identity
from forebay.cache.members.roster import Member, split_address
from forebay.cache.members.store import ClusterSource, ClusterStore
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.port import Port
from forebay.cache.peers.provide import EngineProvider
from forebay.cache.stores import open_store
from forebay.cache.stores.base import Store

if TYPE_CHECKING:
    from forebay.cache.disk.records import Records
    from forebay.cache.members.orders import NodeOrders
    from forebay.cache.peers.control import Control
    from forebay.cache.worker import Worker

DRAINED = "drained"
"""In the index directory of a node that gave its bytes away: it owns nothing until `up` removes the file."""
FIRST_LOOK = 1.0
"""Seconds a start waits for the member list to be read and its strangers to be greeted; then it serves with what is known."""


def free(address: str) -> None:
    """Raises `ValueError` with a sentence when nothing can listen at `address`."""
    host, port = split_address(address)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as e:
        raise ValueError(f"the data port {address} cannot be had ({e.strerror}): give another --listen, or end who has it") from e


class Node:
    """Everything of a cluster that one worker holds. Raises `ValueError` for what a person has to correct."""

    def __init__(self, spec: DatasetSpec) -> None:
        assert spec.cluster is not None
        self.spec: ClusterSpec = spec.cluster
        if self.spec.listen:
            free(self.spec.listen)
        me, _ = identity(spec.index_dir)
        self.key = Key(load_secret(self.spec.secret_file), spec.id)
        self.client = PeerClient(self.key)
        own = None
        owns = self.spec.owns and not os.path.exists(os.path.join(spec.index_dir, DRAINED))
        if owns:
            own = Member(me, self.spec.listen, self.spec.control, self.spec.weight, self.spec.node)
        self.list = open_source(self.spec.members)
        self.watcher = Watcher(self.list, self.client.greet, own=own)
        self.cluster = Cluster(
            spec.id, me, membership=self.watcher, client=self.client, owns=owns, returned=True,
            weight=self.spec.weight, node=self.spec.node, control=self.spec.control,
        )  # fmt: skip
        self.names: dict[str, int] = {}
        self.local: dict[str, Store] = {}
        self.stores: list[Store] = []
        self.remount(spec.mounts, self.opened(range(len(spec.mounts)), spec.mounts))
        self.port: Port | None = None
        self.control: Control | None = None
        self.orders: NodeOrders | None = None
        self.source = ClusterSource

    def opened(self, numbers: Iterable[int], mounts: Sequence[Mount]) -> dict[int, Store]:
        """Stores of some mounts, none of a client tier. Raises `ValueError` with a sentence, and then has opened none."""
        found: dict[int, Store] = {}
        try:
            for number in numbers if self.spec.owns else ():
                if not mounts[number].gone:
                    found[number] = open_store(mounts[number])
        except BaseException:
            for store in found.values():
                store.close()
            raise
        return found

    def remount(self, mounts: Sequence[Mount], opened: Mapping[int, Store]) -> list[Store]:
        """From now on `mounts`, by number; `opened` are the stores of those that are new or opened anew. Returns the stores
        whose place was taken: what is being read of them has to end before they are closed.

        Other threads read the tables meanwhile: a name never lacks in between.
        """
        replaced: list[Store] = []
        for number, mount in enumerate(mounts):
            if number == len(self.stores):
                self.stores.append(ClusterStore(mount.identity, self.cluster))
            store = self.stores[number]
            assert isinstance(store, ClusterStore)
            if number in opened:
                if store.local is not None:
                    replaced.append(store.local)
                store.local = opened[number]
            store.retired = mount.gone
            if not mount.gone:
                self.names[mount.identity] = number
                if store.local is not None:
                    self.local[mount.identity] = store.local
        live = {m.identity for m in mounts if not m.gone}
        for name in [n for n in self.names if n not in live]:
            del self.names[name]
            self.local.pop(name, None)
        return replaced

    def far(self, oid: bytes, segment: int) -> bool:
        """Whether another member fetches this segment from the store."""
        c = self.cluster
        if not c.owns:
            return True
        ranked = c.ranked(oid, segment)
        return bool(ranked) and ranked[0].id != c.me and not c.stands_in(oid, segment)

    async def start(self, worker: Worker) -> None:
        """Serve others, and know them, before anybody here is served. OSError when the data port cannot be had."""
        token = trio.lowlevel.current_trio_token()
        provider = EngineProvider(
            self.cluster, worker.engine, worker.scrubber, mounts=self.names, stores=self.local, token=token
        )  # fmt: skip
        if self.spec.listen:
            host, port = split_address(self.spec.listen)
            self.port = Port(provider, self.key, self.cluster.me, host, port)
            self.port.start()
        if self.spec.control:
            from forebay.cache.members.orders import NodeOrders  # grpc: 6 MB that a client tier does not need
            from forebay.cache.peers.control import Control

            self.orders = NodeOrders(worker, self, token)
            host, port = split_address(self.spec.control)
            self.control = Control(self.orders, self.key, self.cluster.me, host, port)
            self.control.start()
        looked = trio.Event()

        def look() -> None:
            until = time.monotonic() + FIRST_LOOK
            try:
                self.watcher.look()
                while self.watcher.roster.unknown() and time.monotonic() < until:
                    time.sleep(0.1)  # nodes that start together find each other before the first reader asks
                    self.watcher.look()
                self.watcher.start()
            finally:
                token.run_sync_soon(looked.set)

        threading.Thread(target=look, name="forebay-look", daemon=True).start()
        with trio.move_on_after(FIRST_LOOK):
            await looked.wait()
        self.cluster.start()
        log(
            "node",
            "serving",
            identity=self.cluster.me,
            node=self.spec.node,
            members=len(self.cluster.members()),
            data=self.spec.listen,
        )

    async def follow(self, records: Records) -> None:
        """Until cancelled: what counts as a copy follows the member list."""
        reflag = Reflag(records)
        self.watcher.subscribe(lambda _members: reflag.wake())
        await reflag.run()

    def close(self) -> None:
        if self.orders is not None:
            self.orders.close()
        if self.control is not None:
            self.control.close(0.2)
        if self.port is not None:
            self.port.close(0.5)
        self.cluster.close(0.2)
        self.watcher.close(0.2)
        self.client.close()

    def report(self) -> dict[str, object]:
        """What `status` shows of the cluster."""
        c, now = self.cluster, self.cluster.clock()
        port = self.port
        return {
            "me": c.me,
            "listen": self.spec.listen,
            "control_door": self.spec.control,
            "secret_file": self.spec.secret_file,
            "node": self.spec.node,
            "owns": c.owns,
            "epoch": f"{c.epoch():016x}",
            "members": [
                {
                    "id": m.id,
                    "node": m.node,
                    "data": m.data,
                    "control": m.control,
                    "weight": m.weight,
                    "down": c.health.down(m.id, now),
                }
                for m in c.members()
            ],
            "bytes": dict(c.bytes),
            "events": dict(c.events),
            "list_error": self.list.error,
            "control": None
            if self.control is None
            else {"requests": dict(self.control.requests), "refused": dict(self.control.refused)},
            "port": None
            if port is None
            else {
                "requests": dict(port.requests),
                "refused": dict(port.refused),
                "sent": port.sent,
                "cut": port.cut,
                "connections": port.connections,
            },
        }
