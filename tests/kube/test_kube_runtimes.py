"""What our engine plans, on a real API server with its controllers: taken, applied twice without a change, bound, ready, gone.

No kubelet runs here: the test says that pods are ready. Pod Security admission enforces the restricted profile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from controlplane import ControlPlane
from controlplane_kit import until
from crd_admission import read_crds

from forebay.api.crd.kinds import KINDS, VERSION
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.errors import NotFound
from forebay.kube.objects import Bare, Key
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport
from forebay.runtimes import registry
from forebay.runtimes.engine import Found, Plan, Ref, Subject

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "runtimes"))
import runtime_worlds as worlds

RESOURCES = {k.kind: Resource(k.group, VERSION, k.plural, k.kind, k.scope == "Namespaced") for k in KINDS} | {
    x.kind: x
    for x in (
        r.CONFIG_MAPS, r.SECRETS, r.SERVICES, r.STATEFUL_SETS, r.VOLUMES, r.CLAIMS, r.PODS, r.NAMESPACES,
        Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    )
}  # fmt: skip
FILES = [path for folder in worlds.FOLDERS for path in sorted(folder.glob("*.yaml"))]
INSTALLATION = worlds.Installation(default_engine="native", network_policy=True)


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[Client]:
    """An administrator of a server that knows our CRDs."""
    transport = Transport(plane.endpoint)
    client = Client(transport, manager="forebay-test")
    for crd in read_crds().values():
        client.apply(r.CRDS, Key("", crd["metadata"]["name"]), crd)
    until(lambda: all(served(client, RESOURCES[k.kind]) for k in KINDS))
    yield client
    transport.close()


def served(client: Client, resource: Resource) -> bool:
    try:
        client.list_all(resource, Bare)
    except NotFound:
        return False
    return True


def key_of(obj: dict[str, Any]) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("namespace", "") if RESOURCES[obj["kind"]].namespaced else "", meta["name"])


def read(client: Client, kind: str, key: Key) -> dict[str, Any] | None:
    try:
        found = client.get(RESOURCES[kind], key, dict[str, Any])
    except NotFound:
        return None
    return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **found}


def pods_of(client: Client, namespace: str, name: str) -> tuple[dict[str, Any], ...]:
    listed, _ = client.list_all(r.PODS, Bare, namespace, labels=f"forebay.io/dataset={name}")
    found = [read(client, "Pod", Key(namespace, p.metadata.name)) for p in listed]
    return tuple(p for p in found if p is not None)


class World:
    """One Dataset on the server, with all that its manifest has."""

    def __init__(self, client: Client, objects: list[dict[str, Any]], key: tuple[str, str]) -> None:
        self.client, self.key = client, key
        self.objects = objects

    def subject(self) -> Subject:
        """As the server has it now."""
        now = [found for o in self.objects if (found := read(self.client, o["kind"], key_of(o))) is not None]
        return next(s for s in worlds.subjects(now, INSTALLATION) if s.key == self.key)

    def found(self, subject: Subject, **more: Any) -> Found:
        engine = registry.engines()["forebay"]
        objects = {
            ref: found
            for ref in engine.children(subject)
            if (found := read(self.client, ref.kind, Key(ref.namespace, ref.name))) is not None
        }
        pods = pods_of(self.client, *self.key)
        return Found(**{**{"objects": objects, "pods": pods, "fresh_secret": worlds.SECRET}, **more})

    def plan(self, **more: Any) -> Plan:
        subject = self.subject()
        return registry.plan(subject, {"forebay": self.found(subject, **more)}, worlds.NOW)

    def carry_out(self, planned: Plan) -> dict[Ref, str]:
        """Applies a plan; versions of the objects after it."""
        for obj in planned.create:
            self.client.create(RESOURCES[obj["kind"]], obj["metadata"]["namespace"], obj)
        versions = {}
        for obj in planned.apply:
            key = key_of(obj)
            made = self.client.apply(RESOURCES[obj["kind"]], key, obj)
            versions[Ref(obj["kind"], key.namespace, key.name)] = made.metadata.resource_version
        for ref in planned.delete:
            self.client.delete(RESOURCES[ref.kind], Key(ref.namespace, ref.name))
        return versions

    def applied(self) -> dict[Ref, Any]:
        """What the objects of the plan say, without what the server and its controllers write into them."""
        found = self.found(self.subject()).objects
        kept = ("name", "namespace", "labels", "annotations", "ownerReferences", "generation")
        return {
            ref: {**{k: v for k, v in obj.items() if k != "status"}, "metadata": {k: obj["metadata"].get(k) for k in kept}}
            for ref, obj in found.items()
        }

    def observe(self, **more: Any) -> Any:
        """Observes and writes both statuses."""
        subject = self.subject()
        observed = registry.observe(subject, {"forebay": self.found(subject, **more)}, worlds.NOW)
        for obj, status in ((subject.dataset, observed.dataset), (registry.bound_runtime(subject), observed.runtime)):
            if obj is not None and status is not None:
                self.client.apply_status(RESOURCES[obj["kind"]], key_of(obj), {
                    "apiVersion": obj["apiVersion"], "kind": obj["kind"],
                    "metadata": {"name": obj["metadata"]["name"], "namespace": obj["metadata"]["namespace"]},
                    "status": json.loads(msgspec.json.encode(status)),
                })  # fmt: skip
        return observed


def apply_manifest(client: Client, path: Path) -> list[dict[str, Any]]:
    """Everything of ours in a file, without what the tests' reader adds; its namespaces enforce the restricted profile."""
    objects = [o for o in worlds.documents(path.read_text()) if o["kind"] in RESOURCES and o["kind"] != "Pod"]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in {o["metadata"]["namespace"] for o in objects if "namespace" in o["metadata"]}:
        client.apply(
            r.NAMESPACES, Key("", name), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )
    for obj in objects:
        meta = {k: v for k, v in obj["metadata"].items() if k not in ("uid", "generation", "creationTimestamp")}
        obj = {k: v for k, v in obj.items() if k != "status"} | {"metadata": meta}
        client.apply(RESOURCES[obj["kind"]], key_of(obj), obj, manager="user")
    return objects


def make_ready(client: Client, pod: dict[str, Any], node: str) -> None:
    key = Key(pod["metadata"]["namespace"], pod["metadata"]["name"])
    client.create_sub(
        r.PODS, key, "binding", {"target": {"apiVersion": "v1", "kind": "Node", "name": node}, "metadata": {"name": key.name}}
    )
    conditions = [{"type": t, "status": "True"} for t in ("Ready", "ContainersReady", "PodScheduled")]
    client.merge(r.PODS, key, {"status": {"phase": "Running", "conditions": conditions}}, sub="status")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_life_of_every_dataset(server: Client, path: Path) -> None:
    objects = apply_manifest(server, path)
    lives = []
    for key in [key for s in worlds.subjects(objects, INSTALLATION) if (key := s.key)]:
        world = World(server, objects, key)
        planned = world.plan()
        world.observe()
        if not planned.apply:
            assert planned.findings, "nothing is planned and nothing is said"
            assert world.observe().dataset.phase in ("NotBound", "Failed")
            continue
        world.carry_out(planned)
        claim = Key(key[0], key[1])
        until(lambda: (read(server, "PersistentVolumeClaim", claim) or {}).get("status", {}).get("phase") == "Bound")  # noqa: B023 - called before the loop goes on
        sets = [o for o in planned.apply if o["kind"] == "StatefulSet"]
        if sets:
            wanted = sets[0]["spec"]["replicas"]
            until(lambda: len(pods_of(server, *key)) == wanted)  # noqa: B023 - called before the loop goes on
            assert not world.observe().mountable
            for i, pod in enumerate(pods_of(server, *key)):
                make_ready(server, pod, f"node-{i}")
        settled(world)
        observed = world.observe()
        assert (observed.dataset.phase, observed.mountable) == ("Bound", True), observed.dataset.conditions
        shown = read(server, "Dataset", claim)
        assert shown is not None
        assert shown["status"]["phase"] == "Bound"
        lives.append(world)
    for world in reversed(lives):
        end(world)


def settled(world: World) -> None:
    """A second pass and a third change no object: nothing is written where nothing is new. The server's controllers may write a
    status between the two, which is a new version as well: what was applied is the same then, and some passes later all is quiet.
    """
    until(lambda: world.plan().delete == ())

    def quiet() -> bool:
        first, was = world.carry_out(world.plan()), world.applied()
        again, now = world.carry_out(world.plan()), world.applied()
        assert now == was
        return again == first

    until(quiet)


def end(world: World) -> None:
    """Deleted while a pod reads, then when none does: nothing but what owner references hold is left."""
    dataset = Key(*world.key)
    world.client.delete(RESOURCES["Dataset"], dataset)
    held = world.plan(users=("reader",))
    assert [f.reason for f in held.findings] == ["InUse"]
    until(lambda: _ended(world))
    for pod in pods_of(world.client, *world.key):  # there is no kubelet to say that they ended
        world.client.delete(r.PODS, Key(pod["metadata"]["namespace"], pod["metadata"]["name"]), grace=0)
    for obj in (read(world.client, k, dataset) for k in ("Dataset", *worlds.fluidnames.TYPES)):
        if obj is not None:
            world.client.merge(RESOURCES[obj["kind"]], dataset, {"metadata": {"finalizers": None}})
    until(lambda: read(world.client, "Dataset", dataset) is None)


def _ended(world: World) -> bool:
    planned = world.plan()
    world.carry_out(planned)
    return planned.release
