"""The webhook as a process: copies, certificates and doors, from start to end in the right order. Every replica serves."""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Histogram

from forebay.controller.admission import objects, pods
from forebay.controller.admission.door import Door
from forebay.controller.admission.keeping import Keeper, Names
from forebay.controller.admission.knowledge import Knowledge
from forebay.controller.admission.manifests import OBJECTS, PODS
from forebay.controller.admission.preferences import Preferences
from forebay.controller.admission.review import Answer, Request
from forebay.controller.health import Door as HealthDoor
from forebay.controller.install import rights
from forebay.controller.process import STALE
from forebay.kube.client import Client
from forebay.kube.metrics import Collector
from forebay.kube.objects import Key
from forebay.kube.resources import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation

LOG = logging.getLogger(__name__)

DRAIN = 3.0
"""Seconds that it still serves after it was told to end: until API servers have heard that it is not ready."""


def hosts(namespace: str) -> tuple[str, ...]:
    """Names that API servers call the Service by."""
    named = f"{rights.WEBHOOK}.{namespace}"
    return f"{named}.svc", named, f"{named}.svc.cluster.local"


class Options(NamedTuple):
    """`serve`: of the HTTPS door; `listen`: of health and metrics. `hosts`: of the certificate."""

    installation: Installation = Installation()
    preferences: Preferences = Preferences()
    serve: tuple[str, int] = ("127.0.0.1", 0)
    listen: tuple[str, int] = ("127.0.0.1", 0)
    hosts: tuple[str, ...] = ()
    drain: float = DRAIN


class Webhook:
    """`start`, then `wait` until it is told to `end`, then `stop`. Not to be started twice."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self._options = options
        self._ended = threading.Event()
        self.knowledge = Knowledge(options.installation)
        self.informers = self.knowledge.informers(transport)
        self.client = Client(transport, rights.WEBHOOK)
        space = options.installation.namespace
        configurations = ((MUTATING_WEBHOOKS, rights.WEBHOOK), (VALIDATING_WEBHOOKS, rights.WEBHOOK))
        names = Names(Key(space, rights.CERTIFICATES), options.hosts or hosts(space), configurations)
        self.keeper = Keeper(self.client, names)
        self._registry, self._seconds = CollectorRegistry(), _seconds()
        self._fill()
        self.door = Door(options.serve, self.keeper.context, {PODS: self.pod, OBJECTS: self.object}, self._observe)
        self.health = HealthDoor(options.listen, self._registry, {"/healthz": self.unhealthy, "/readyz": self.unready})

    # --- life ---

    def start(self) -> None:
        self.health.start()
        for informer in self.informers.values():
            informer.start()
        self.keeper.start()
        threading.Thread(target=self._begin, name="begin", daemon=True).start()

    def _begin(self) -> None:
        """Answers begin with a certificate and whole copies: half of them would refuse what is right."""
        while not (self.keeper.ready.wait(0.1) and all(i.wait_synced(0.1) for i in self.informers.values())):
            if self._ended.is_set():
                return
        self.door.start()
        LOG.info("serving on port %d", self.door.port)

    def wait(self) -> None:
        """Returns when it is to end."""
        self._ended.wait()

    def end(self) -> None:
        self._ended.set()

    def stop(self) -> bool:
        """Not ready first, then no new calls, then everything. Whether all of it ended in time."""
        self._ended.set()
        time.sleep(self._options.drain)
        ended = [self.door.stop(), self.keeper.stop()]
        ended += [informer.stop() for informer in self.informers.values()]
        self.health.stop()
        return all(ended)

    # --- answers ---

    def pod(self, request: Request) -> Answer:
        if request.kind.kind != "Pod" or request.operation != "CREATE" or request.object is None:
            return Answer()
        return pods.admit(
            request.object,
            request.namespace,
            self._options.installation.driver,
            lambda claim: self.knowledge.locality(request.namespace, claim),
            self._options.preferences,
        )

    def object(self, request: Request) -> Answer:
        new = request.object
        if new is None or request.operation not in ("CREATE", "UPDATE"):
            return Answer()
        waits = self.knowledge.waits(new) if request.kind.kind == "Dataset" else ""
        return objects.judge(new, request.old_object, self.knowledge.around(new), waits)

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
        """What is missing until calls can be answered."""
        if self._ended.is_set():
            return "it is ending"
        missing = [kind for kind, informer in self.informers.items() if not informer.health().synced]
        if missing:
            return f"copies are not whole yet: {', '.join(missing)}"
        return "" if self.keeper.ready.is_set() else self.keeper.problem

    def _observe(self, path: str, outcome: str, seconds: float) -> None:
        self._seconds.labels(path.strip("/"), outcome).observe(seconds)

    def _fill(self) -> None:
        kube = Collector()
        for kind, informer in self.informers.items():
            kube.add(kind, informer)
        kube.add("webhook", self.client)
        self._registry.register(kube)
        self._registry.register(self._seconds)
        expiry = Gauge(
            "forebay_webhook_certificate_expiry_seconds", "When the serving certificate ends, Unix time.", registry=None
        )
        expiry.set_function(lambda: ends.timestamp() if (ends := self.keeper.expiry()) else 0.0)
        self._registry.register(expiry)


def _seconds() -> Histogram:
    return Histogram(
        "forebay_admission_seconds",
        "Answers of the webhook, by what is asked about and how it ended.",
        ("of", "outcome"),
        registry=None,
        buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
    )
