"""A scheduler of ours on a real API server, nodes and pods that are only objects, and another scheduler that binds by hand."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from controlplane import ControlPlane
from controlplane_kit import until

from forebay.api.kubernetes.core import Pod
from forebay.kube.client import Client
from forebay.kube.config import Endpoint
from forebay.kube.objects import Key
from forebay.kube.resources import CRDS, EVENTS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, Resource
from forebay.kube.transport import Transport
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.process import Options, Scheduler

QUOTAS = Resource("scheduling.x-k8s.io", "v1alpha1", "elasticquotas", "ElasticQuota")
PATIENCE = 60.0
NUMBERS = itertools.count()
GANG, MINIMUM = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"


class Site:
    """An administrator's hands: nodes (unique to the test), pods of one namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.nodes: list[str] = []

    def node(self, cpu: str = "4", pods: str = "110", labels: Mapping[str, str] = {}, **more: str) -> str:
        name = f"node-{next(NUMBERS):05}"  # the order of names is the order of making: node-10 would come before node-9
        label = {"kubernetes.io/hostname": name, **labels}
        self.client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": label}})
        self.offer(name, {"cpu": cpu, "memory": "64Gi", "pods": pods, **more})
        self.nodes.append(name)
        return name

    def offer(self, name: str, amounts: Mapping[str, str]) -> None:
        ready = [{"type": "Ready", "status": "True", "reason": "Test", "message": "is only an object"}]
        status = {"allocatable": amounts, "capacity": amounts, "conditions": ready}
        self.client.merge(NODES, Key("", name), {"status": status}, sub="status")

    def pod(
        self,
        name: str,
        cpu: str = "1",
        scheduler: str = "forebay",
        labels: Mapping[str, str] = {},
        limits: Mapping[str, str] = {},
        **spec: Any,
    ) -> Key:
        container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": cpu, **limits}, "limits": dict(limits)}}
        meta = {"name": name, "labels": dict(labels)}
        body = {"schedulerName": scheduler, "containers": [container], **spec}
        self.client.create(PODS, self.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body})
        return Key(self.namespace, name)

    def gang(self, name: str, count: int, minimum: int, **more: Any) -> list[Key]:
        labels = {GANG: name, MINIMUM: str(minimum)}
        return [self.pod(f"{name}-{n}", labels=labels, **more) for n in range(count)]

    def bind(self, key: Key, node: str) -> None:
        """As another scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": key.name}, "target": target}
        self.client.create_sub(PODS, key, "binding", body)

    def get(self, key: Key) -> Pod:
        return self.client.get(PODS, key, Pod)

    def where(self, keys: Iterable[Key]) -> list[str]:
        return [self.get(key).spec.node_name for key in keys]

    def all_bound(self, keys: Iterable[Key], seconds: float = PATIENCE) -> None:
        keys = list(keys)
        until(lambda: all(self.where(keys)), seconds, lambda: [self.said(key) for key in keys])

    def said(self, key: Key) -> str:
        """What the pod's condition says, "" while nothing."""
        found = [c for c in self.get(key).status.conditions if c.type == "PodScheduled" and c.status == "False"]
        return found[0].message if found else ""

    def waits(self, key: Key, word: str) -> None:
        until(lambda: word in self.said(key), PATIENCE, lambda: self.said(key))

    def event(self, key: Key, reason: str, word: str = "") -> None:
        def there() -> bool:
            return any(e["reason"] == reason and word in e["note"] for e in self.events(key.name))

        until(there, PATIENCE, lambda: self.events(key.name))

    def events(self, name: str) -> list[dict[str, Any]]:
        answer = self.client.transport.request("GET", EVENTS.path(self.namespace))
        return [one for one in json.loads(answer.body)["items"] if one["regarding"]["name"] == name]

    def pods(self) -> list[Pod]:
        return self.client.list_all(PODS, Pod, self.namespace)[0]

    def gone_or_leaving(self, key: Key) -> bool:
        found = [pod for pod in self.pods() if pod.metadata.name == key.name]
        return not found or found[0].metadata.deletion_timestamp is not None

    def clear(self) -> None:
        for one in self.pods():
            self.client.delete(PODS, Key(self.namespace, one.metadata.name), grace=0)
        for name in self.nodes:
            self.client.delete(NODES, Key("", name))


OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def serve(place: Site, resource: Resource, schema: dict[str, Any] = OPEN, *, subresources: Sequence[str] = ()) -> None:
    """Another project's kind, served from now on with the schema that matters here."""
    version: dict[str, Any] = {"name": resource.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    if subresources:
        version["subresources"] = {name: {} for name in subresources}
    kind = resource.kind
    names = {"plural": resource.plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"}
    spec = {"group": resource.group, "names": names, "scope": "Namespaced", "versions": [version]}
    meta = {"name": str(resource), "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": spec}
    place.client.apply(CRDS, Key("", str(resource)), crd)
    until(lambda: place.client.transport.request("GET", resource.path(place.namespace)).code == 200, PATIENCE)


@contextmanager
def live_plane(folder: Path, **more: Any) -> Iterator[ControlPlane]:
    """Nodes are only objects: nobody taints them or takes their pods away."""
    flags = ["--disable-admission-plugins=TaintNodesByCondition", *more.pop("api_flags", ())]
    off = "--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller"
    manager = [off, *more.pop("manager_flags", ())]
    with ControlPlane(folder, api_flags=flags, manager_flags=manager, **more) as plane:
        yield plane


def live_site(world: ControlPlane) -> Iterator[Site]:
    """A namespace of its own, cleared at the end."""
    transport = Transport(world.endpoint)
    client = Client(transport, manager="test")
    made = client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "s-"}})
    name = made.metadata.name
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    client.apply(SERVICE_ACCOUNTS, Key(name, "default"), account)
    place = Site(client, name)
    try:
        yield place
    finally:
        place.clear()
        client.delete(NAMESPACES, Key("", name))
        transport.close()


class Running:
    """One replica."""

    def __init__(self, endpoint: Endpoint, settings: Configuration = Configuration(), **options: Any) -> None:  # noqa: B008
        self._transport: Transport | None = Transport(endpoint, kept=32)
        given = {"elect": False, "identity": f"replica-{next(NUMBERS)}", "namespace": "default", **options}
        self.scheduler = Scheduler(self._transport, Options(settings=settings, **given))

    def __enter__(self) -> Running:
        self.scheduler.start()
        until(lambda: self.scheduler.ready, PATIENCE, self.scheduler.unready)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._transport is not None:
            self.stop(check=kind is None)

    def stop(self, *, check: bool = True) -> None:
        """In order, as on SIGTERM."""
        wrong = self.scheduler.unhealthy()
        ended = self.scheduler.stop()
        assert self._transport is not None
        self._transport.close()
        self._transport = None
        assert not check or (ended and not wrong), wrong or "it did not end in time"


def for_seconds(seconds: float, holds: Callable[[], bool]) -> None:
    """It holds all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert holds()
        time.sleep(0.05)


class Held:
    """Stands in the way of bindings: a scheduler's client through which what `stop` names does not go, until `let_go`."""

    def __init__(self, scheduler: Scheduler, stop: Callable[[str], bool]) -> None:
        self._stop = stop
        self.waiting: list[str] = []
        self._open = threading.Event()
        self._through = scheduler.client.create_sub
        scheduler.client.create_sub = self._call  # type: ignore[method-assign, assignment]

    def _call(self, resource: Any, key: Key, sub: str, body: Any, *, dry_run: bool = False) -> None:
        if not dry_run and self._stop(key.name):
            self.waiting.append(key.name)
            assert self._open.wait(PATIENCE)
        self._through(resource, key, sub, body, dry_run=dry_run)

    def let_go(self) -> None:
        self._open.set()
