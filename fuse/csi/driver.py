"""The driver as one process: its parts put together, started in order, stopped so that mounts live on."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from dataclasses import dataclass

from forebay.api.ending import end_on_signals
from forebay.cache.log import log
from forebay.fuse.csi import handover
from forebay.fuse.csi.health import Health
from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.publisher import Publisher
from forebay.fuse.csi.protocol.rpc import Server
from forebay.fuse.csi.services.controller import Controller
from forebay.fuse.csi.services.identity import Identity
from forebay.fuse.csi.services.node import Node
from forebay.fuse.csi.services.registration import Registration
from forebay.fuse.csi.tending import Tending
from forebay.fuse.csi.volumes.holder import Direct, Holder, Remote
from forebay.fuse.csi.volumes.inline import Inline
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.mounts import Mounts
from forebay.fuse.csi.volumes.roots import Roots
from forebay.fuse.csi.volumes.site import Layout
from forebay.fuse.csi.volumes.source import Source
from forebay.kube.client import Client

DRIVER = "forebay.io"
GRACE = 10.0


@dataclass(frozen=True)
class Settings:
    """What the command line says. `keeper` "": mounts are started by this process. `health` None: no liveness door."""

    node: str
    kubelet: str
    endpoint: str  # path of the socket
    layout: Layout
    tier_roots: tuple[str, ...]
    host_roots: tuple[str, ...] = ()
    quota: int = 10 << 30
    keeper: str = ""
    register: bool = True
    controller: bool = False
    health: tuple[str, int] | None = None


class Driver:
    """Everything of one plugin process. `hints`: where the node's NodeCache is published; None where there is no API server.

    Raises OSError where a socket or a directory cannot be had.
    """

    def __init__(self, settings: Settings, source: Source, hints: Client | None = None) -> None:
        self.settings = settings
        for folder in (settings.layout.base, os.path.dirname(settings.endpoint)):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        holder: Holder = Remote(settings.keeper) if settings.keeper else Direct()
        self.known = Known(settings.layout.state)
        self.mounts = Mounts(holder)
        volumes = Inline(Roots(settings.tier_roots, "--tier-root"), Roots(settings.host_roots, "--host-path-root"))
        self.node = Node(
            node=settings.node,
            kubelet=settings.kubelet,
            layout=settings.layout,
            source=source,
            mounts=self.mounts,
            volumes=volumes,
            known=self.known,
            quota=settings.quota,
        )
        self.tending = Tending(self.node, source, known=self.known, mounts=self.mounts, volumes=volumes, holder=holder)
        caches = Caches(self.known, self.mounts, settings.layout)
        self.publisher = Publisher(settings.node, caches, hints) if hints is not None else None
        identity = Identity(DRIVER, self.tending.problem, controller=settings.controller)
        methods = {**identity.methods(), **self.node.methods()}
        if settings.controller:
            methods |= Controller(source, f"{settings.layout.state}/volumes").methods()
        self.server = Server(settings.endpoint, methods)
        self.health = Health(*settings.health, settings.endpoint, self.tending.waiting) if settings.health else None
        self._over = threading.Event()
        self._code = 0
        self.registration = (
            Registration(DRIVER, settings.endpoint, f"{settings.kubelet}/plugins_registry", self._refused)
            if settings.register
            else None
        )

    def _refused(self, _: str) -> None:
        self._code = 1
        self._over.set()

    def start(self) -> None:
        """Serve; kubelet is told last."""
        if self.known.rebooted:
            clear(self)
        self.server.start()
        self.tending.start()
        if self.publisher is not None:
            self.publisher.start()
        if self.health is not None:
            self.health.start()
        if self.registration is not None:
            self.registration.start()
        log("csi", "ready", driver=DRIVER, node=self.settings.node, endpoint=self.settings.endpoint)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until kubelet refuses the driver; the exit code."""
        end_on_signals(self._over.set)
        self.start()
        self._over.wait()
        self._hand_over()
        self.stop()
        return self._code

    def _hand_over(self) -> None:
        """Serve on until `forebay mounts` has every mount that is held here; it may be told to end at the same moment."""
        if not self.settings.keeper:
            return  # supervisors are in sessions of their own
        sites = [self.settings.layout.site(kept.namespace, kept.dataset) for kept in self.known.kept.all()]
        held = [site for site in sites if self.mounts.holds(site)]
        if held:
            for pause in handover.turn(self.settings.layout.base, lambda: all(self.mounts.state(site) for site in held)):
                time.sleep(pause)

    def stop(self) -> None:
        """Mounts stay: who reads goes on reading, and the next process finds them."""
        if self.registration is not None:
            self.registration.stop()
        self.server.stop(GRACE)
        if self.publisher is not None:
            self.publisher.stop()
        self.tending.stop()
        if self.health is not None:
            self.health.stop()
        self.mounts.close()
        if not (self.known.kept.all() or self.known.staged.all() or self.known.published.all()):
            self._leave_nothing()
        log("csi", "ended")

    def _leave_nothing(self) -> None:
        """There is no dataset on this node: perhaps forebay is being uninstalled. The next start makes what it needs."""
        layout = self.settings.layout
        if not os.path.isdir(f"{layout.state}/volumes"):  # the Controller's, who may be somewhere else next time
            shutil.rmtree(layout.state, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(f"{layout.base}/{handover.LOCK}")
        for folder in (f"{layout.base}/datasets", f"{layout.base}/mounts", layout.runs, f"{layout.cache}/clients", layout.base):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def clear(driver: Driver) -> None:
    """After a reboot: what is left of the last boot's mounts. Caches stay, and are checked by whoever opens them."""
    for kept in driver.known.kept.all():
        site = driver.settings.layout.site(kept.namespace, kept.dataset)
        if problems := driver.mounts.stop(site):
            log("csi", "leftovers", dataset=kept.key, problems=problems)
