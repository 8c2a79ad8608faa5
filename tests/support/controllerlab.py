"""The controller on a real API server: what is installed, who it runs as, and what kubelets would do, done by the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import yaml
from controlplane import ControlPlane
from controlplane_kit import until
from crd_admission import read_crds
from servers import free_port

from forebay.controller.install import parts as install
from forebay.controller.install import rights
from forebay.controller.kinds import RESOURCES
from forebay.controller.process import Controller, Options
from forebay.kube import resources as r
from forebay.kube.client import Client
from forebay.kube.config import Endpoint
from forebay.kube.errors import Conflict, NotFound
from forebay.kube.objects import Bare, Key, ObjectMeta
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport
from forebay.runtimes.engine import Installation

MANIFESTS = [
    path
    for folder in ("data/fluid-manifests", "unit/runtimes/manifests")
    for path in sorted((Path(__file__).resolve().parents[1] / folder).glob("*.yaml"))
]

Object = dict[str, Any]
SPACE = "forebay-system"
NATIVE = Installation(default_engine="native")
INSTALLED = {
    x.kind: x
    for x in (
        r.NAMESPACES,
        r.SERVICE_ACCOUNTS,
        r.CONFIG_MAPS,
        r.DEPLOYMENTS,
        r.DAEMON_SETS,
        r.SERVICES,
        r.SECRETS,
        r.MUTATING_WEBHOOKS,
        r.VALIDATING_WEBHOOKS,
        Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
        Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
        Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
        Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False),
        Resource(
            "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
        ),
        Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            namespaced=False,
        ),
        RESOURCES["CacheRuntimeClass"],
    )
}
CHILDREN = ("StatefulSet", "PersistentVolumeClaim", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy", "Secret")


def key_of(obj: Object) -> Key:
    resource = INSTALLED.get(obj["kind"]) or RESOURCES[obj["kind"]]
    meta = obj["metadata"]
    return Key(meta.get("namespace", "") if resource.namespaced else "", meta["name"])


SMALL = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: d, namespace: SPACE}
spec: {mounts: [{mountPoint: "https://h/x/", name: b}]}
---
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntime
metadata: {name: d, namespace: SPACE}
spec: {runtimeClassName: forebay, worker: {replicas: 2, tieredStore: {levels: [{emptyDir: {quota: 1Gi}}]}}}
"""
"""A dataset of two workers, with the namespace to be put in."""
SERVED = ("Dataset", "CacheRuntimeClass", "DatasetGrant", "ThinRuntime")


@contextlib.contextmanager
def installed(folder: Path, *flags: str) -> Iterator[ControlPlane]:
    """A server where forebay is installed. Nobody kills pods because their nodes are only names. `flags`: the manager's."""
    off = "--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller"
    with ControlPlane(folder, manager_flags=[off, *flags], controllers=False) as running:
        transport = Transport(running.endpoint)
        set_up(Client(transport, manager="admin"))
        running.start_controllers()
        wait_for_collector(Client(transport, manager="admin"))
        transport.close()
        yield running


def set_up(client: Client, *, workloads: bool = False) -> None:
    """CRDs and what `deploy/install` has; without its workloads, which nobody would run, and what would call them."""
    for crd in read_crds().values():
        client.apply(r.CRDS, Key("", crd["metadata"]["name"]), crd)
    until(lambda: all(_served(client, RESOURCES[kind]) for kind in SERVED))
    for objects in install.parts(install.Install()).values():
        for obj in objects:
            if workloads or obj["kind"] not in ("Deployment", "DaemonSet", r.MUTATING_WEBHOOKS.kind, r.VALIDATING_WEBHOOKS.kind):
                client.apply(INSTALLED[obj["kind"]], key_of(obj), obj, manager="admin")


def wait_for_collector(client: Client) -> None:
    """Until the garbage collector knows Datasets: new kinds it looks for every 30 s, and what they own stays until then."""
    owner = {"metadata": {"name": "owner", "namespace": "default"}, "apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset"}
    made = client.apply(RESOURCES["Dataset"], Key("default", "owner"), {**owner, "spec": {"mounts": [{"mountPoint": "s3://b/"}]}})
    reference = {"apiVersion": owner["apiVersion"], "kind": "Dataset", "name": "owner", "uid": made.metadata.uid}
    owned = {"metadata": {"name": "owned", "namespace": "default", "ownerReferences": [reference]}}
    client.create(r.CONFIG_MAPS, "default", {"apiVersion": "v1", "kind": "ConfigMap", **owned})
    client.delete(RESOURCES["Dataset"], Key("default", "owner"))

    def collected() -> bool:
        try:
            client.get(r.CONFIG_MAPS, Key("default", "owned"), Bare)
        except NotFound:
            return True
        return False

    until(collected, 120, "what a Dataset owns is collected")


def _served(client: Client, resource: Resource) -> bool:
    try:
        client.list_all(resource, Bare)
    except NotFound:
        return False
    return True


def as_account(endpoint: Endpoint, name: str = rights.CONTROLLER) -> Endpoint:
    """The same server with the rights of a service account, and no others."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{SPACE}", "system:authenticated")
    who = (("Impersonate-User", f"system:serviceaccount:{SPACE}:{name}"), *(("Impersonate-Group", group) for group in groups))
    return msgspec.structs.replace(endpoint, impersonate=who)


def may(client: Client, verb: str, what: str, space: str) -> bool:
    """Whether the client's account may do `verb` to `what` (`resource.group/sub`) in a namespace, as the server says."""
    named, _, sub = what.partition("/")
    resource, _, group = named.partition(".")
    attributes = {"namespace": space, "verb": verb, "resource": resource, "group": group, "subresource": sub}
    kind = "SelfSubjectAccessReview"
    body: Object = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {"resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = client.transport.request("POST", path, body=msgspec.json.encode(body), content="application/json")
    assert answer.code == 201, answer.body
    return bool(msgspec.json.decode(answer.body)["status"]["allowed"])


class Claimed(msgspec.Struct):
    """A volume, of which the claim counts."""

    metadata: ObjectMeta
    spec: Object = {}


class Said(msgspec.Struct):
    """An Event."""

    metadata: ObjectMeta
    regarding: Object = {}
    reason: str = ""
    type: str = ""
    note: str = ""


class Running:
    """A controller in this process, with its own rights."""

    def __init__(self, endpoint: Endpoint, installation: Installation = NATIVE, **options: Any) -> None:
        self.transport = Transport(as_account(endpoint))
        chosen = {"elect": False, "identity": "test", **options}
        self.controller = Controller(self.transport, Options(installation=installation, **chosen))

    def __enter__(self) -> Running:
        self.controller.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        ended = self.controller.stop()
        self.transport.close()
        assert ended or kind is not None, "the controller does not end"

    def idle(self) -> bool:
        """Whether no dataset waits for a pass now."""
        said = self.controller.workers.statistics()
        return not said.queued and not said.processing

    def settle(self, quiet: float = 1.0, seconds: float = 60.0, unless: Callable[[], bool] = lambda: False) -> None:
        """Until no pass was made for `quiet` seconds, or `unless` holds."""
        end, since, before = time.monotonic() + seconds, time.monotonic(), -1
        while time.monotonic() - since < quiet and not unless():
            assert time.monotonic() < end, "it does not come to rest"
            said = self.controller.workers.statistics()
            if said.handed_out != before or said.queued or said.processing:
                since, before = time.monotonic(), said.handed_out
            time.sleep(0.02)


class Cluster:
    """What a person and a kubelet do."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def read(self, kind: str, key: Key) -> Object | None:
        try:
            found = self.client.get(RESOURCES[kind], key, dict[str, Any])
        except NotFound:
            return None
        return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **found}

    def apply(self, text: str, *, only: Callable[[Object], bool] = lambda o: True) -> list[Object]:
        """The objects of a manifest as a person would apply them, with their namespaces."""
        objects = [o for o in yaml.safe_load_all(text) if o and o["kind"] in RESOURCES and o["kind"] not in ("Pod",) and only(o)]
        for obj in objects:
            if RESOURCES[obj["kind"]].namespaced:
                obj["metadata"].setdefault("namespace", "default")
        for name in sorted({o["metadata"]["namespace"] for o in objects if "namespace" in o["metadata"]}):
            self.client.apply(r.NAMESPACES, Key("", name), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for obj in objects:
            self.client.apply(RESOURCES[obj["kind"]], key_of(obj), obj, manager="user")
        return objects

    def status(self, key: Key) -> Object:
        found = self.read("Dataset", key)
        return {} if found is None else found.get("status") or {}

    def phase(self, key: Key) -> str:
        return str(self.status(key).get("phase", ""))

    def condition(self, key: Key, type_: str = "Ready") -> Object:
        return next((c for c in self.status(key).get("conditions", ()) if c["type"] == type_), {})

    def pods(self, key: Key) -> list[Object]:
        """Worker pods, by ordinal."""
        labels = f"forebay.io/dataset={key.name},forebay.io/component=worker"
        listed, _ = self.client.list_all(r.PODS, Bare, key.namespace, labels=labels)
        found = [self.read("Pod", Key(key.namespace, p.metadata.name)) for p in listed]
        return sorted((p for p in found if p), key=lambda p: (len(p["metadata"]["name"]), p["metadata"]["name"]))

    def run(self, pod: Object, node: str, *, ready: bool = True) -> None:
        """A scheduler's and a kubelet's part."""
        key = Key(pod["metadata"]["namespace"], pod["metadata"]["name"])
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            self.client.create_sub(r.PODS, key, "binding", {"target": target, "metadata": {"name": key.name}})
        self.ready(key, ready=ready)

    def ready(self, key: Key, *, ready: bool = True) -> None:
        said = {"Ready": ready, "ContainersReady": ready, "PodScheduled": True}
        conditions = [{"type": t, "status": str(holds)} for t, holds in said.items()]
        self.client.merge(r.PODS, key, {"status": {"phase": "Running", "conditions": conditions}}, sub="status")

    def kill(self, key: Key) -> None:
        """The kubelet says that a pod has ended."""
        self.client.delete(RESOURCES["Pod"], key, grace=0)

    def serve(self, key: Key, count: int, seconds: float = 60.0) -> None:
        """Waits for the worker pods and makes all of them ready."""
        until(lambda: len(self.pods(key)) == count, seconds, f"{count} pods of {key}")
        for i, pod in enumerate(self.pods(key)):
            self.run(pod, f"node-{i}")

    def serve_those(self, key: Key) -> None:
        """What kubelets do at this moment: pods that are told to end have ended, the others are ready."""
        for pod in self.pods(key):
            name = pod["metadata"]["name"]
            try:
                if pod["metadata"].get("deletionTimestamp"):
                    self.kill(Key(key.namespace, name))
                else:
                    self.run(pod, f"node-{name.rpartition('-')[2]}")
            except (Conflict, NotFound):
                continue  # it went, or was told to, meanwhile

    def delete(self, kind: str, key: Key) -> None:
        self.client.delete(RESOURCES[kind], key)

    def annotate(self, kind: str, key: Key, annotations: dict[str, str]) -> None:
        self.client.merge(RESOURCES[kind], key, {"metadata": {"annotations": annotations}})

    def strip(self, kind: str, key: Key) -> None:
        """Takes all finalizers, as people do who cannot wait."""
        try:
            self.client.merge(RESOURCES[kind], key, {"metadata": {"finalizers": None}})
        except NotFound:
            pass  # it went by itself

    def runtime(self, key: Key) -> Object:
        """The status of a CacheRuntime."""
        return (self.read("CacheRuntime", key) or {}).get("status") or {"worker": {}}

    def left_of(self, key: Key, kind: str) -> list[str]:
        listed, _ = self.client.list_all(RESOURCES[kind], Bare, key.namespace, labels=f"forebay.io/dataset={key.name}")
        return [o.metadata.name for o in listed]

    def clear(self, space: str) -> None:
        """Nothing stays of a namespace that a controller would go on working at, or that holds room on nodes: there is no kubelet
        that would end its pods."""
        for kind in ("DataLoad", "Dataset", "CacheRuntime", "AlluxioRuntime"):
            for one in self.client.list_all(RESOURCES[kind], Bare, space)[0]:
                key = Key(space, one.metadata.name)
                self.delete(kind, key)
                self.strip(kind, key)

        def left() -> list[str]:
            pods = [Key(space, one.metadata.name) for one in self.client.list_all(r.PODS, Bare, space)[0]]
            for key in pods:
                self.kill(key)
            return [key.name for key in pods]

        until(lambda: not left(), 60, left)

    def gone(self, kind: str, key: Key) -> bool:
        return self.read(kind, key) is None

    def left(self, key: Key) -> list[str]:
        """Everything that carries the dataset's label, and its volumes. Pods that ended are reaped on the way."""
        for pod in self.pods(key):
            self.kill(Key(key.namespace, pod["metadata"]["name"]))
        found: list[str] = []
        for kind in CHILDREN:
            found += [f"{kind} {name}" for name in self.left_of(key, kind)]
        volumes, _ = self.client.list_all(r.VOLUMES, Claimed, labels=f"forebay.io/dataset={key.name}")
        own = (v for v in volumes if v.spec.get("claimRef", {}).get("namespace") == key.namespace)
        found += [f"PersistentVolume {v.metadata.name}" for v in own]
        return [*found, *(f"Pod {p['metadata']['name']}" for p in self.pods(key))]

    def events(self, key: Key, kind: str = "Dataset") -> list[Object]:
        listed, _ = self.client.list_all(r.EVENTS, Said, key.namespace)
        return [msgspec.to_builtins(e) for e in listed if (e.regarding.get("kind"), e.regarding.get("name")) == (kind, key.name)]


class Command:
    """`forebay controller` (or `command`) as a process, with the rights of its service account."""

    def __init__(
        self,
        site: ControlPlane,
        folder: Path,
        command: str = "controller",
        account: str = rights.CONTROLLER,
        more: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        document = yaml.safe_load(site.kubeconfig.read_text())
        endpoint = as_account(site.endpoint, account)
        user = document["users"][0]["user"]
        user["as"] = endpoint.impersonate[0][1]
        user["as-groups"] = [value for header, value in endpoint.impersonate if header == "Impersonate-Group"]
        config, settings = folder / f"{self.port}.kubeconfig", folder / "settings.yaml"
        config.write_text(yaml.safe_dump(document))
        settings.write_text("defaultEngine: native\n")
        self.log = folder / f"{self.port}.log"
        arguments = [f"--config={settings}", f"--kubeconfig={config}", f"--listen=127.0.0.1:{self.port}", *more]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-P", "-m", "forebay.cli.main", command, *arguments],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leads(self) -> bool:
        return 'leader_election_master_status{name="forebay-controller"} 1.0' in self.ask("/metrics")[1]

    def kill(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)
