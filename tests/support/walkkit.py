"""What people, kubelets, nodes and the weather do to datasets, one random step at a time (`test_kube_controller_walk.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from controllerlab import SMALL, Cluster, Running
from controlplane import ControlPlane
from hintlab import MIB, HintNode, make_node, said
from kubeproxy import Asked, CutAfter, Fault, KubeProxy, Lose, Say, status

from forebay.api.loadresult import LoadResult, encode
from forebay.controller.copies import UNDRIVEN
from forebay.controller.kinds import RESOURCES
from forebay.kube import resources as r
from forebay.kube.errors import ApiError, Unreachable
from forebay.kube.objects import Bare, Key

NAMES, LOADS, READERS = 5, 4, 3
NODES = ("walk-a", "walk-b", "walk-c")
GROUP = "data.fluid.io/v1alpha1"
OPERATIONS: dict[str, dict[str, Any]] = {
    "DataMigrate": {"from": {"externalStorage": {"uri": "s3://b/x"}}, "to": {"dataset": {"name": "d0", "namespace": "SPACE"}}},
    "DataBackup": {"dataset": "d0", "backupPath": "pvc://c/x"},
    "DataProcess": {"dataset": {"name": "d0", "mountPath": "/d"}, "processor": {"script": {"source": "true"}}},
}


class Walk:
    """`space` has most datasets, `other` refers to some of them, `doomed` is deleted again and again."""

    def __init__(self, cluster: Cluster, site: ControlPlane, front: KubeProxy, space: str, seed: int) -> None:
        self.cluster, self.front, self.space = cluster, front, space
        self.other, self.doomed = f"{space}-other", f"{space}-doomed"
        self.random, self.faults, self.clock = Random(seed), False, 1000.0
        self.nodes = [HintNode(site, name, seed, lambda: self.clock) for name in NODES]
        for name in NODES:
            make_node(cluster, name, zone=f"zone-{name[-1]}")
        for name in (self.other, self.doomed):
            cluster.client.apply(
                r.NAMESPACES, Key("", name), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        front.plan = self.plan
        self.running = self.start()

    @property
    def spaces(self) -> tuple[str, ...]:
        return self.space, self.other, self.doomed

    def start(self) -> Running:
        running = Running(self.front.endpoint)
        running.controller.start()
        return running

    def stop(self) -> None:
        self.running.controller.stop()
        self.running.transport.close()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
            self.cluster.client.delete(r.NODES, Key("", node.name))

    def plan(self, asked: Asked) -> Fault | None:
        if not self.faults or time.monotonic_ns() % 10:
            return None
        kinds: list[Fault] = [Lose(), Say(500, body=status(500, "InternalError")), Say(409, body=status(409, "Conflict"))]
        return CutAfter(3) if asked.watch else kinds[time.monotonic_ns() // 1000 % 3]

    def step(self) -> str:
        what = self.random.choices(list(STEPS), [weight for weight, _ in STEPS.values()])[0]
        try:
            STEPS[what][1](self)
        except ApiError as error:
            return f"{what}: {error.code}"  # what it was about is not there, or is not taken
        except Unreachable:
            return f"{what}: unanswered"  # by a server that is slow: it may have been done
        time.sleep(self.random.choice((0.0, 0.0, 0.05, 0.3)))
        return what

    # --- what steps are about ---

    def any(self) -> Key:
        """A dataset with workers of its own."""
        if self.random.random() < 0.15:
            return Key(self.doomed, f"d{self.random.randrange(2)}")
        return Key(self.space, f"d{self.random.randrange(NAMES)}")

    def view(self) -> Key:
        return Key(self.other, f"v{self.random.randrange(2)}")

    def load(self) -> Key:
        return Key(self.any().namespace, f"l{self.random.randrange(LOADS)}")

    def put(self, kind: str, key: Key, spec: dict[str, Any], **meta: Any) -> None:
        head = {"name": key.name, "namespace": key.namespace, **meta}
        body = {"apiVersion": RESOURCES[kind].api_version, "kind": kind, "metadata": head, "spec": spec}
        self.cluster.client.apply(RESOURCES[kind], key, body, manager="user")

    def merge(self, kind: str, key: Key, body: dict[str, Any], sub: str = "") -> None:
        self.cluster.client.merge(RESOURCES[kind], key, body, sub=sub)

    def pods(self, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        listed, _ = self.cluster.client.list_all(r.PODS, Bare, namespace, labels=labels)
        found = [self.cluster.read("Pod", Key(namespace, p.metadata.name)) for p in listed]
        return [p for p in found if p is not None]

    # --- datasets and runtimes ---

    def make(self) -> None:
        key = self.any()
        text = SMALL.replace("SPACE", key.namespace).replace("name: d,", f"name: {key.name},")
        self.cluster.apply(text.replace("replicas: 2", f"replicas: {self.random.choice((1, 2, 2))}"))

    def delete(self) -> None:
        self.cluster.delete(self.random.choice(("Dataset", "Dataset", "CacheRuntime")), self.any())

    def second(self) -> None:
        """A runtime of another kind and the same name comes or goes."""
        if self.random.random() < 0.5:
            self.put("AlluxioRuntime", self.any(), {"replicas": 1})
        else:
            self.cluster.delete("AlluxioRuntime", self.any())

    def scale(self) -> None:
        self.merge("CacheRuntime", self.any(), {"spec": {"replicas": self.random.randrange(3)}}, sub="scale")

    def mounts(self) -> None:
        points = self.random.sample(("https://h/x/", "https://h/y/", "http://h/z/", "ftp://no/"), self.random.choice((1, 1, 2)))
        wanted = [{"mountPoint": point, "name": f"m{i}"} for i, point in enumerate(points)]
        self.merge("Dataset", self.any(), {"spec": {"mounts": wanted}})

    def engine(self) -> None:
        """An engine that is not here is asked for, or no more."""
        said_ = self.random.choice(("jindo", None, None))
        self.merge("Dataset", self.any(), {"metadata": {"annotations": {"forebay.io/engine": said_}}})

    def namespace(self) -> None:
        self.cluster.client.delete(r.NAMESPACES, Key("", self.doomed))

    # --- references, readers ---

    def refer(self) -> None:
        key = self.view()
        if self.random.random() < 0.3:
            self.cluster.delete("Dataset", key)
        else:
            self.put("Dataset", key, {"mounts": [{"mountPoint": f"dataset://{self.space}/d{key.name[1:]}"}]})

    def grant(self) -> None:
        at = self.random.randrange(2)
        key = Key(self.space, f"g{at}")
        if self.random.random() < 0.3:
            self.cluster.delete("DatasetGrant", key)
            return
        ends = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        expires = {"expires": ends} if self.random.random() < 0.3 else {}
        self.put("DatasetGrant", key, {"dataset": f"d{at}", "namespaces": [self.other], **expires})

    def reader(self) -> None:
        """A pod that names a claim comes, ends, or is taken away; some have a node, others wait."""
        key = self.random.choice((self.any(), self.view()))
        name = Key(key.namespace, f"reader-{self.random.randrange(READERS)}")
        what = self.random.random()
        if what < 0.4:
            volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": key.name}}]
            spec: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}], "volumes": volumes}
            if self.random.random() < 0.5:
                spec["nodeName"] = self.random.choice(NODES)
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.name, "namespace": name.namespace}, "spec": spec}
            self.cluster.client.create(r.PODS, name.namespace, body)
        elif what < 0.6:
            self.merge("Pod", name, {"status": {"phase": "Succeeded"}}, sub="status")
        else:
            self.cluster.kill(name)

    # --- operations ---

    def warm(self) -> None:
        key, of = self.load(), self.any()
        more: dict[str, Any] = self.random.choice(
            (
                {}, {}, {"ttlSecondsAfterFinished": 1}, {"policy": "Cron", "schedule": "1 2 * * *"}, {"policy": "OnEvent"},
                {"options": {"timeout": "soon"}}, {"runAfter": {"kind": "DataLoad", "name": f"l{self.random.randrange(LOADS)}"}},
            )
        )  # fmt: skip
        self.put("DataLoad", key, {"dataset": {"name": of.name}, "target": [{"path": "/"}], **more})

    def cool(self) -> None:
        self.cluster.delete("DataLoad", self.load())

    def job(self) -> None:
        self.cluster.delete("Job", Key((key := self.load()).namespace, f"{key.name}-loader-job"))

    def loaders(self) -> None:
        """Pods of loads end, well or not."""
        for pod in self.pods(self.any().namespace, "forebay.io/component=loader"):
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                continue
            code = self.random.choice((0, 0, 1, 2))
            words = encode(LoadResult() if code == 0 else LoadResult(reason="Incomplete", message="full")).decode()
            at = "2026-11-27T05:00:00Z"
            state = {"terminated": {"exitCode": code, "message": words, "startedAt": at, "finishedAt": at}}
            one = {"name": "loader", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
            said_ = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [one]}
            self.merge("Pod", Key(pod["metadata"]["namespace"], pod["metadata"]["name"]), {"status": said_}, sub="status")

    def operation(self) -> None:
        kind = self.random.choice(UNDRIVEN)
        if self.random.random() < 0.4:
            self.cluster.delete(kind, Key(self.space, "o"))
            return
        spec = OPERATIONS[kind] if kind != "DataMigrate" else {
            **OPERATIONS[kind], "to": {"dataset": {"name": "d0", "namespace": self.space}}
        }  # fmt: skip
        self.put(kind, Key(self.space, "o"), spec, finalizers=[f"fluid-{kind.lower()}-controller-finalizer"])

    # --- hands ---

    def child(self) -> None:
        """Something of ours is deleted by hand."""
        key = self.any()
        kind = self.random.choice([*_CHILDREN, "PersistentVolumeClaim", "DatasetHints"])
        self.cluster.delete(kind, Key(key.namespace, _CHILDREN.get(kind, "{}").format(key.name)))

    def edit(self) -> None:
        """Something of ours is edited by hand, or a status says what is not so."""
        key, lie = self.any(), {"phase": "Ready", "readyReplicas": 9}
        kind, name, body, sub = self.random.choice(
            (
                ("Service", f"svc-{key.name}-worker", {"metadata": {"labels": {"forebay.io/dataset": None}}}, ""),
                ("StatefulSet", f"{key.name}-worker", {"spec": {"replicas": self.random.randrange(4)}}, ""),
                ("ConfigMap", f"{key.name}-forebay", {"data": {"forebay.yaml": "no: good"}}, ""),
                ("PersistentVolumeClaim", key.name, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, ""),
                ("Dataset", key.name, {"status": {"phase": "Bound", "ufsTotal": "9PiB"}}, "status"),
                ("Dataset", key.name, {"status": {"phase": "Failed", "conditions": []}}, "status"),
                ("CacheRuntime", key.name, {"status": {"phase": "Ready", "worker": lie}}, "status"),
                ("DataLoad", f"l{self.random.randrange(LOADS)}", {"status": {"phase": "Pending"}}, "status"),
                ("Dataset", key.name, {"metadata": {"finalizers": None}}, ""),
                ("CacheRuntime", key.name, {"metadata": {"finalizers": None}}, ""),
            )
        )  # fmt: skip
        self.merge(kind, Key(key.namespace, name), body, sub)

    def watch(self) -> None:
        wanted = self.random.choice(("true", None))
        self.merge("Dataset", self.any(), {"metadata": {"annotations": {"forebay.io/watch": wanted}}})

    # --- nodes ---

    def kubelets(self) -> None:
        for pod in self.cluster.pods(self.any()):
            key = Key(pod["metadata"]["namespace"], pod["metadata"]["name"])
            if pod["metadata"].get("deletionTimestamp"):
                self.cluster.kill(key)
            else:
                self.cluster.run(pod, self.random.choice(NODES), ready=self.random.random() < 0.8)

    def say(self) -> None:
        """A node says something else of a dataset, and writes it."""
        node, key = self.random.choice(self.nodes), self.random.choice((self.any(), self.view()))
        what = self.random.random()
        if what < 0.3:
            node.held.pop(key, None)
        elif what < 0.7:
            node.holds(*key, worker=said(self.random.randrange(100) * MIB, revision=self.random.choice(("", "", "before"))))
        else:
            node.holds(*key, reader=said(MIB, owns=False), mounted=self.random.random() < 0.7, wanted=True)
        self.clock += 400.0
        node.publisher.look()

    def node(self) -> None:
        name = self.random.choice(NODES)
        if self.random.random() < 0.2:
            self.cluster.client.delete(r.NODES, Key("", name))
        else:
            make_node(self.cluster, name, zone=f"zone-{name[-1]}", ready=self.random.random() < 0.7)

    # --- weather ---

    def killed(self) -> None:
        """As a kill looks to the server: writes end in the middle of a pass."""
        self.front.plan = lambda asked: None if asked.verb == "GET" else Say(503, {"Retry-After": "60"}, status(503, "gone"))
        self.stop()
        self.front.plan = self.plan
        self.running = self.start()

    def weather(self) -> None:
        self.faults = not self.faults

    # --- the end ---

    def calm(self) -> None:
        """No faults any more, nodes are Ready, and kubelets end what is to end; workers stay as ready as they are."""
        self.faults = False
        for name in NODES:
            make_node(self.cluster, name, zone=f"zone-{name[-1]}")

    def reap(self) -> None:
        for space in self.spaces:
            for pod in self.pods(space):
                if pod["metadata"].get("deletionTimestamp"):
                    self.cluster.kill(Key(space, pod["metadata"]["name"]))


_CHILDREN = {"StatefulSet": "{}-worker", "Service": "svc-{}-worker", "ConfigMap": "{}-forebay"}
STEPS: dict[str, tuple[int, Callable[[Walk], None]]] = {
    "make": (22, Walk.make), "delete": (10, Walk.delete), "second": (4, Walk.second), "scale": (8, Walk.scale),
    "mounts": (6, Walk.mounts), "engine": (3, Walk.engine), "namespace": (2, Walk.namespace), "refer": (5, Walk.refer),
    "grant": (4, Walk.grant), "reader": (10, Walk.reader), "warm": (8, Walk.warm), "cool": (3, Walk.cool), "job": (2, Walk.job),
    "loaders": (6, Walk.loaders), "operation": (3, Walk.operation), "child": (8, Walk.child), "edit": (8, Walk.edit),
    "watch": (3, Walk.watch), "kubelets": (30, Walk.kubelets), "say": (8, Walk.say), "node": (4, Walk.node),
    "killed": (2, Walk.killed), "weather": (3, Walk.weather),
}  # fmt: skip
"""Name -> (weight, step)."""
