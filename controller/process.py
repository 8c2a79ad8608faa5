"""The controller as a process: copies, leader, workers, Events and the health door, from start to end in the right order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry

from forebay.controller.copies import Copies
from forebay.controller.datasets.hinting import Hinter
from forebay.controller.datasets.leaving import Leaving
from forebay.controller.datasets.looking import Looker
from forebay.controller.datasets.mapping import datasets
from forebay.controller.datasets.reconciler import RESYNC, Reconciler
from forebay.controller.health import Door
from forebay.controller.loads.looking import LoadLooker
from forebay.controller.loads.mapping import loads
from forebay.controller.loads.reconciler import LoadReconciler
from forebay.controller.metrics import Collector, Passes
from forebay.controller.nodes.labelling import Labeller
from forebay.controller.nodes.labels import nodes
from forebay.controller.operations import OperationReconciler, operations
from forebay.controller.telling import Teller
from forebay.controller.writing import Writer
from forebay.kube.client import Client
from forebay.kube.leader import Leader
from forebay.kube.metrics import Collector as KubeCollector
from forebay.kube.objects import Key
from forebay.kube.recorder import Recorder
from forebay.kube.store import Change
from forebay.kube.transport import Transport
from forebay.kube.workers import Again, Workers
from forebay.runtimes.engine import Installation, Ref

LOG = logging.getLogger(__name__)
K = TypeVar("K")

LEASE = "forebay-controller"
MANAGER = "forebay-controller"
NAME = "forebay.io/controller"
"""The lease, the field manager, and who says Events."""
STALE = 900.0
"""Seconds without a word from the server after which a copy counts as dead: a quiet watch lives ten and a quarter minutes."""
LOAD_WORKERS = 2
"""DataLoads that are worked on at once."""
SYNC = 120.0
"""Seconds until the process is held to be stuck where the copies are not whole yet."""


class Options(NamedTuple):
    """`listen`: host and port of the health door. `elect` False: the only replica, and no lease is taken. `leaving`: everything
    is taken away instead of being kept."""

    installation: Installation = Installation()
    identity: str = ""
    listen: tuple[str, int] = ("127.0.0.1", 0)
    workers: int = 4
    elect: bool = True
    resync: float = RESYNC
    leaving: bool = False


@dataclass(frozen=True)
class Pool(Generic[K]):
    """Passes over the objects of one kind, and which of them a change is about."""

    workers: Workers[K]
    concerned: Callable[[str, Change[Any], Copies], Iterable[K]]


class Controller:
    """`start`, then `wait` until it is told to `end` or has lost the lease, then `stop`. Not to be started twice."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self._options = options
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._why = ""
        self.copies = Copies()
        self.informers = self.copies.informers(transport)
        self.leader = (
            Leader(
                transport,
                Key(options.installation.namespace, LEASE),
                options.identity,
                led=self._led,
                lost=self._lost,
            )
            if options.elect
            else None
        )
        self.client = Client(transport, MANAGER, gate=self.leader.check if self.leader else None)
        self._telling = Client(transport, MANAGER)
        self.recorder = Recorder(self._telling, NAME, options.identity)
        looker = Looker(self.copies, options.installation)
        self.reconciler = self._reconciler(looker)
        self.passes = Passes()
        self.pools: dict[str, Pool[Any]] = {"dataset": Pool(Workers[Key]("dataset", self._pass, options.workers), datasets)}
        if not options.leaving:
            self.pools |= self._beside(looker)
        for kind, store in self.copies.stores.items():
            store.subscribe(self._mapped(kind))
        self.door = Door(options.listen, self._registry(), {"/healthz": self.unhealthy, "/readyz": self.unready})

    # --- life ---

    def start(self) -> None:
        self.door.start()
        for informer in self.informers.values():
            informer.start()
        self.recorder.start()
        if self.leader is not None:
            self.leader.start()
        else:
            threading.Thread(target=self._led, name="start", daemon=True).start()

    def wait(self) -> str:
        """Returns when it is to end, and says why: "" where somebody asked for it."""
        self._ended.wait()
        return self._why

    def end(self) -> None:
        self._ended.set()

    def stop(self) -> bool:
        """Ends what runs: passes first, so that no write comes after the lease is given back. Whether all of it ended in time."""
        self._ended.set()
        ended = [pool.workers.stop(drain=False) for pool in self.pools.values()]
        if self.leader is not None:
            ended.append(self.leader.stop())
        ended += [informer.stop() for informer in self.informers.values()]
        ended.append(self.recorder.stop())
        self.door.stop()
        return all(ended)

    # --- parts ---

    def _reconciler(self, looker: Looker) -> Reconciler | Leaving:
        writer, teller = Writer(self.client), Teller(self.recorder.say)
        return (
            Leaving(looker, writer, teller)
            if self._options.leaving
            else Reconciler(looker, writer, teller, Hinter(self.client), resync=self._options.resync)
        )

    def _beside(self, looker: Looker) -> dict[str, Pool[Any]]:
        """Passes over other objects than datasets."""
        writer, teller = Writer(self.client), Teller(self.recorder.say)
        loading = LoadReconciler(LoadLooker(self.copies, looker), writer, teller, resync=self._options.resync)
        telling = OperationReconciler(self.copies, writer, teller)
        found: dict[str, Pool[Any]] = {
            "dataload": Pool(Workers[Key]("dataload", loading.reconcile, LOAD_WORKERS), loads),
            "operation": Pool(Workers[Ref]("operation", telling.reconcile, 1), operations),
        }
        if self._options.installation.fluid_node_labels:
            labeller = Labeller(self.copies, looker.subject, self.client)
            found["node-labels"] = Pool(Workers[str]("node-labels", labeller.reconcile, 1), nodes)
        return found

    def _led(self) -> None:
        """Passes begin once every copy is whole: what is missing from a half copy would be made or taken away."""
        threading.Thread(target=self._begin, name="begin", daemon=True).start()

    def _begin(self) -> None:
        while not all(informer.wait_synced(0.1) for informer in self.informers.values()):
            if self._ended.is_set():
                return
        LOG.info(
            "copies are whole after %.1f s: %d datasets", time.monotonic() - self._started, len(self.copies.stores["Dataset"])
        )
        for pool in self.pools.values():
            pool.workers.start()

    def _lost(self, why: str) -> None:
        self._why = why
        self._ended.set()

    def _mapped(self, kind: str) -> Callable[[Change[Any]], None]:
        def changed(change: Change[Any]) -> None:
            for pool in self.pools.values():
                for key in pool.concerned(kind, change, self.copies):
                    pool.workers.add(key)

        return changed

    def _pass(self, key: Key) -> Again | None:
        with self.passes:
            return self.reconciler.reconcile(key)

    def _registry(self) -> CollectorRegistry:
        registry, kube = CollectorRegistry(), KubeCollector()
        for kind, informer in self.informers.items():
            kube.add(kind, informer)
        for name, pool in self.pools.items():
            kube.add(name, pool.workers)
        kube.add("controller", self.client)
        kube.add("events", self._telling)
        kube.add("controller", self.recorder)
        if self.leader is not None:
            kube.add(LEASE, self.leader)
        registry.register(kube)
        registry.register(Collector(self.copies, self.passes))
        return registry

    @property
    def workers(self) -> Workers[Key]:
        """Those of datasets."""
        return self.pools["dataset"].workers

    # --- health ---

    def unhealthy(self) -> str:
        """What only a new start mends."""
        for kind, informer in self.informers.items():
            health = informer.health()
            if not health.alive:
                return f"the copy of {kind} is not kept any more: {health.problem or 'its thread has ended'}"
            if health.synced and health.age > STALE:
                return f"nothing was heard of {kind} for {health.age:.0f} s: {health.problem}"
        return ""

    def unready(self) -> str:
        """What is missing until passes can begin."""
        missing = {kind: i.health().problem for kind, i in self.informers.items() if not i.health().synced}
        return "; ".join(f"the copy of {kind} is not whole yet{f': {why}' if why else ''}" for kind, why in missing.items())
