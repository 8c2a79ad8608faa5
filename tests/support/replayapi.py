"""Answers as an API server does, from generated bodies: LIST in gzipped pages, WATCH, bindings. For what no server here holds.

    python replayapi.py --nodes 5000 --pods 150000 --waiting 1 --port 8001

The bodies are made before anything is served, each page gzipped once (level 1, as the API server does it): answering costs next
to nothing, and the client does all the work that it would do: unpacking, decoding, booking. Pods look as they do in a cluster:
managed fields, two tolerations, a projected volume with a name of its own, environment, conditions, container statuses with
resources; some 5 kB each. Of their templates (`--classes`) a tenth has anti-affinity by host, a tenth spread by zone, a fifth a
claim, a fifth asks for a share of a card and says in its annotations which one it got. A POST to `binding` is recorded with its
time (CLOCK_MONOTONIC, the same in all processes) and told to watches as the server would. No other write is kept. `GET /replay`
says what was bound and what was asked for.
"""

from __future__ import annotations

import argparse
import gzip
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

VERSION = "1000000"
MIB = 1 << 20
GPU_MEM = 60
"""GiB of card memory on every second node, on four cards."""
SERVED = {
    "/api/v1": ("pods", "nodes", "namespaces", "persistentvolumes", "persistentvolumeclaims"),
    "/apis/storage.k8s.io/v1": ("storageclasses", "csinodes"),
    "/apis/policy/v1": ("poddisruptionbudgets",),
    "/apis/scheduling.x-k8s.io/v1alpha1": ("podgroups",),
}
KINDS = {
    "pods": "Pod", "nodes": "Node", "namespaces": "Namespace", "persistentvolumes": "PersistentVolume",
    "persistentvolumeclaims": "PersistentVolumeClaim", "storageclasses": "StorageClass", "csinodes": "CSINode",
    "poddisruptionbudgets": "PodDisruptionBudget", "podgroups": "PodGroup",
}  # fmt: skip
MANAGER = {
    "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-01T00:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {
        "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:pod-template-hash": {}}},
        "f:spec": {
            "f:containers": {'k:{"name":"main"}': {n: {} for n in ("f:env", "f:image", "f:name", "f:resources")}},
            **{n: {} for n in ("f:dnsPolicy", "f:enableServiceLinks", "f:restartPolicy", "f:schedulerName", "f:securityContext")},
        },
    },
}  # fmt: skip
KUBELET = {
    **MANAGER, "manager": "kubelet", "subresource": "status",
    "fieldsV1": {"f:status": {
        "f:conditions": {f'k:{{"type":"{t}"}}': {n: {} for n in (".", "f:lastProbeTime", "f:lastTransitionTime", "f:status")}
                         for t in ("ContainersReady", "Initialized", "PodReadyToStartContainers", "Ready")},
        **{n: {} for n in ("f:containerStatuses", "f:hostIP", "f:hostIPs", "f:phase", "f:podIP", "f:podIPs", "f:startTime")}}},
}  # fmt: skip


@dataclass
class World:
    """What is served. `pages`: by collection path, gzipped answers in order; `template`: of the pods that wait, by name."""

    pages: dict[str, list[bytes]] = field(default_factory=dict)
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: int = 0
    raw_bytes: int = 0


def node(number: int) -> dict[str, Any]:
    name = f"n{number:05}"
    cards = {"aliyun.com/gpu-mem": str(GPU_MEM), "aliyun.com/gpu-count": "4"} if number % 2 else {}
    offered = {"cpu": "96", "memory": "384Gi", "pods": "110", "ephemeral-storage": "1Ti", **cards}
    labels = {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"z{number % 5}", "example.com/rack": f"r{number % 50}",
        **({"ack.node.gpu.schedule": "cgpu"} if cards else {}),
    }  # fmt: skip
    conditions = [
        {"type": t, "status": s, "lastHeartbeatTime": "2026-11-27T00:00:00Z", "lastTransitionTime": "2026-11-01T00:00:00Z",
         "reason": f"Kubelet{t}", "message": "as the kubelet says"}
        for t, s in (("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"), ("Ready", "True"))
    ]  # fmt: skip
    images = [{"names": [f"registry.example.com/app{i}@sha256:{i:064x}", f"registry.example.com/app{i}:v1"], "sizeBytes": 9 * MIB}
              for i in range(20)]  # fmt: skip
    return {
        "metadata": {"name": name, "uid": f"node-{number}", "resourceVersion": str(1000 + number), "labels": labels,
                     "creationTimestamp": "2026-10-01T00:00:00Z", "managedFields": [KUBELET]},
        "spec": {"podCIDR": f"10.{number // 256}.{number % 256}.0/24"},
        "status": {"capacity": offered, "allocatable": offered, "conditions": conditions, "images": images},
    }  # fmt: skip


def template(number: int) -> dict[str, Any]:
    """A pod's labels, specification and whether it asks for card memory: one of `--classes`."""
    labels = {"app": f"app{number}", "pod-template-hash": f"{number * 2654435761 % (1 << 32):08x}"}
    selector = {"matchLabels": {"app": labels["app"]}}
    share, spec = number % 10, dict[str, Any]()
    asks = {"cpu": f"{100 + 50 * (number % 17)}m", "memory": f"{128 * (1 + number % 9)}Mi"}
    gpu = share in (5, 6)
    limits = {**asks, "aliyun.com/gpu-mem": "1"} if gpu else asks
    if share == 1:
        term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if share == 2:
        spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
        spec["topologySpreadConstraints"] = [{**spread, "labelSelector": selector}]
    volumes = list[dict[str, Any]]()
    if share in (3, 4):
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": f"data{number}"}})
    env = [{"name": f"SETTING_{i}", "value": f"value {i} of application {number}"} for i in range(8)]
    spec |= {
        "volumes": volumes,
        "containers": [{"name": "main", "image": f"registry.example.com/team/app{number}:v1", "env": env,
                        "resources": {"requests": limits, "limits": limits}, "imagePullPolicy": "IfNotPresent",
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
        "serviceAccountName": "default", "schedulerName": "forebay", "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [{"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                        for k in ("not-ready", "unreachable")], "priority": 0,
    }  # fmt: skip
    return {"labels": labels, "spec": spec, "gpu": gpu}


def pod(number: int, form: dict[str, Any], where: str, cards: Callable[[str], str]) -> dict[str, Any]:
    """A pod of a template: bound and running, or (no `where`) waiting."""
    app = form["labels"]["app"]
    name, uid = f"{app}-{number:06}", f"{number:08x}-0000-4000-8000-000000000000"
    meta = {
        "name": name, "generateName": f"{app}-", "namespace": f"team{number % 40}", "uid": uid,
        "resourceVersion": str(100_000 + number), "creationTimestamp": "2026-11-01T00:00:00Z", "labels": form["labels"],
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": uid, "controller": True}],
        "managedFields": [MANAGER, KUBELET],
    }  # fmt: skip
    token, since = f"kube-api-access-{number:06}", "2026-11-01T00:00:03Z"  # such names differ from pod to pod
    sources = [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
               {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]  # fmt: skip
    mounts = [{"name": token, "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
    spec = {
        **form["spec"],
        "volumes": [{"name": token, "projected": {"defaultMode": 420, "sources": sources}}, *form["spec"]["volumes"]],
        "containers": [{**one, "volumeMounts": mounts} for one in form["spec"]["containers"]],
    }
    if not where:
        return {"metadata": meta, "spec": spec, "status": {"phase": "Pending", "qosClass": "Guaranteed"}}
    spec["nodeName"] = where
    if form["gpu"] and (card := cards(where)):
        own = {"IDX": card, "POD": "1", "DEV": str(GPU_MEM // 4), "ASSIGNED": "true", "ASSUME_TIME": "1700000000000000000"}
        meta["annotations"] = {f"ALIYUN_COM_GPU_MEM_{key}": value for key, value in own.items()}
    given = form["spec"]["containers"][0]["resources"]
    status = {
        "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "startTime": since,
        "qosClass": "Guaranteed",
        "conditions": [{"type": t, "status": "True", "lastProbeTime": None, "lastTransitionTime": since}
                       for t in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")],
        "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "started": True, "image": "app:v1",
                               "imageID": f"registry.example.com/team/app@sha256:{number:064x}",
                               "containerID": f"containerd://{number:064x}", "state": {"running": {"startedAt": since}},
                               "resources": given, "allocatedResources": given["requests"]}],
    }  # fmt: skip
    return {"metadata": meta, "spec": spec, "status": status}


def pods(count: int, waiting: int, nodes: int, classes: int) -> Iterator[dict[str, Any]]:
    """Bound ones on all nodes, those that ask for cards on every second; then those that wait, without claim or card."""
    forms = [template(number) for number in range(classes)]
    given = dict[str, int]()
    turn = {True: 0, False: 0}

    def card(where: str) -> str:
        given[where] = given.get(where, 0) + 1
        return str((given[where] - 1) % 4) if given[where] <= GPU_MEM else ""

    for number in range(count):
        form = forms[number % classes]
        at, turn[form["gpu"]] = turn[form["gpu"]], turn[form["gpu"]] + 1
        where = (2 * at + 1) % nodes if form["gpu"] and nodes > 1 else at % nodes
        yield pod(number, form, f"n{where:05}", card)
    plain = [form for number, form in enumerate(forms) if number % 10 in (0, 1, 2)]
    for number in range(count, count + waiting):
        yield pod(number, plain[number % len(plain)], "", card)


def world(nodes: int, bound: int, waiting: int, classes: int, page: int = 500) -> World:
    made = World()
    claims = [number for number in range(classes) if number % 10 in (3, 4)]
    listed: dict[str, Iterator[dict[str, Any]] | Sequence[dict[str, Any]]] = {
        "nodes": (node(number) for number in range(nodes)),
        "namespaces": [{"metadata": {"name": f"team{n}", "uid": f"team{n}", "resourceVersion": "5"}} for n in range(40)],
        "persistentvolumes": [_volume(n, s) for n in claims for s in range(40)],
        "persistentvolumeclaims": [_claim(n, s) for n in claims for s in range(40)],
        "pods": pods(bound, waiting, nodes, classes),
    }
    for folder, plurals in SERVED.items():
        for plural in plurals:
            made.pages[f"{folder}/{plural}"] = list(_pages(made, folder, plural, listed.get(plural, ()), page))
    return made


def _volume(number: int, space: int) -> dict[str, Any]:
    claim = {"namespace": f"team{space}", "name": f"data{number}"}
    spec = {
        "claimRef": claim,
        "accessModes": ["ReadWriteMany"],
        "capacity": {"storage": "1Ti"},
        "csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": "v"},
    }
    return {
        "metadata": {"name": f"pv-{space}-{number}", "uid": f"pv-{space}-{number}", "resourceVersion": "7"},
        "spec": spec,
        "status": {"phase": "Bound"},
    }


def _claim(number: int, space: int) -> dict[str, Any]:
    meta = {"name": f"data{number}", "namespace": f"team{space}", "uid": f"claim-{space}-{number}", "resourceVersion": "8"}
    spec = {"volumeName": f"pv-{space}-{number}", "accessModes": ["ReadWriteMany"], "storageClassName": ""}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Bound"}}


def _pages(made: World, folder: str, plural: str, objects: Any, size: int) -> Iterator[bytes]:
    """At least one page; each says which comes next."""
    held, number = list[bytes](), 0
    for one in objects:
        if plural == "pods" and not one["spec"].get("nodeName"):
            made.waiting[one["metadata"]["name"]] = one
        if len(held) == size:
            number += 1
            yield _page(made, folder, plural, held, str(number))
            held = []
        held.append(json.dumps(one, separators=(",", ":")).encode())
        made.objects += 1
    yield _page(made, folder, plural, held, "")


def _page(made: World, folder: str, plural: str, held: Sequence[bytes], more: str) -> bytes:
    head = {"kind": f"{KINDS[plural]}List", "apiVersion": folder.removeprefix("/apis/").removeprefix("/api/")}
    meta = {"resourceVersion": VERSION, **({"continue": more} if more else {})}
    body = json.dumps({**head, "metadata": meta}, separators=(",", ":")).encode()[:-1] + b',"items":[' + b",".join(held) + b"]}"
    made.raw_bytes += len(body)
    return gzip.compress(body, 1)


class Server(ThreadingHTTPServer):
    """`bound`: pod name -> (node, time); `asked`: requests by their first word and path without names."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, served: World) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.served = served
        self.lock = threading.Lock()
        self.bound: dict[str, tuple[str, float]] = {}
        self.asked: dict[str, int] = {}
        self.watches: list[queue.SimpleQueue[bytes]] = []
        self.first = 0.0
        self._version = int(VERSION)

    def bind(self, name: str, where: str) -> bool:
        """Whether it was free to be bound. Watches of pods are told."""
        with self.lock:
            if name in self.bound or name not in self.served.waiting:
                return False
            self.bound[name] = where, time.monotonic()
            self._version += 1
            one = self.served.waiting[name]
            meta = {**one["metadata"], "resourceVersion": str(self._version)}
            line = {"type": "MODIFIED", "object": {**one, "metadata": meta, "spec": {**one["spec"], "nodeName": where}}}
            for watch in self.watches:
                watch.put(json.dumps(line).encode() + b"\n")
        return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path, server = url.path.rstrip("/"), self.server
        with server.lock:
            server.asked[f"GET {path}"] = server.asked.get(f"GET {path}", 0) + 1
            server.first = server.first or time.monotonic()
        if path == "/replay":
            self._answer(200, {"bound": server.bound, "asked": server.asked, "first": server.first})
        elif path in SERVED:
            self._answer(200, {"kind": "APIResourceList", "resources": [{"name": name} for name in SERVED[path]]})
        elif path not in server.served.pages:
            self._answer(404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"{path} is not served"})
        elif query.get("watch") == "true":
            self._watch(pods=path == "/api/v1/pods")
        else:
            self._send(200, server.served.pages[path][int(query.get("continue", "0"))], packed=True)

    def _watch(self, *, pods: bool) -> None:
        lines = queue.SimpleQueue[bytes]()
        if pods:
            with self.server.lock:
                self.server.watches.append(lines)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while True:
            line = lines.get()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()

    def do_POST(self) -> None:
        body = self._body()
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[-1] == "binding" and "dryRun=All" not in self.path:
            done = self.server.bind(parts[-2], body["target"]["name"])
            self._answer(
                201 if done else 409, {"kind": "Status", "code": 201 if done else 409, "reason": "" if done else "Conflict"}
            )
        else:
            self._answer(201, body)

    def do_PATCH(self) -> None:
        self._answer(200, self._body())

    do_PUT = do_PATCH

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")

    def _answer(self, code: int, value: Any) -> None:
        self._send(code, json.dumps(value).encode())

    def _send(self, code: int, body: bytes, *, packed: bool = False) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=150_000, help="bound ones")
    parser.add_argument("--waiting", type=int, default=1)
    parser.add_argument("--classes", type=int, default=2000, help="different templates of pods")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    served = world(options.nodes, options.pods, options.waiting, options.classes)
    server = Server(options.port, served)
    told = {
        "objects": served.objects,
        "bytes": served.raw_bytes,
        "packed": sum(len(page) for pages in served.pages.values() for page in pages),
    }
    print(json.dumps(told), flush=True)
    sys.stdin.close()
    server.serve_forever()


if __name__ == "__main__":
    main()
