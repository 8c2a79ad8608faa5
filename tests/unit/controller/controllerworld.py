"""Copies that a test fills by hand, a server that a test looks into: a double of the API for decisions, nothing for its rules."""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.controller.copies import COPIED, Copies
from forebay.kube.objects import Key

Object = dict[str, Any]


def thing(obj: Object) -> Any:
    """An object as an informer decodes it."""
    type_ = COPIED[obj["kind"]].type_
    meta = {"resourceVersion": "1", "uid": f"uid-{obj['kind']}-{obj['metadata']['name']}", **obj["metadata"]}
    return msgspec.json.decode(msgspec.json.encode({**obj, "metadata": meta}), type=type_)


def put(copies: Copies, *objects: Object) -> None:
    for obj in objects:
        found = thing(obj)
        copies.stores[obj["kind"]].upsert(Key(found.metadata.namespace, found.metadata.name), found)


def drop(copies: Copies, kind: str, namespace: str, name: str) -> None:
    copies.stores[kind].remove(Key(namespace, name))


def dataset(name: str = "d", namespace: str = "ns", point: str = "https://h/x/", **meta: Any) -> Object:
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": namespace, "generation": 1, **meta},
        "spec": {"mounts": [{"mountPoint": point, "name": "m"}]},
    }


def runtime(name: str = "d", namespace: str = "ns", kind: str = "CacheRuntime", **meta: Any) -> Object:
    spec: Object = {
        "runtimeClassName": "forebay",
        "worker": {"replicas": 2, "tieredStore": {"levels": [{"emptyDir": {"quota": "1Gi"}}]}},
    }
    return {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "generation": 1, **meta},
        "spec": spec if kind == "CacheRuntime" else {},
    }


def worker(name: str, of: str = "d", namespace: str = "ns", node: str = "", *, ready: bool = True, **annotations: str) -> Object:
    labels = {"forebay.io/dataset": of, "forebay.io/component": "worker"}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 100, "volumes": [{"name": "state"}]},
        "status": {"phase": "Running", "conditions": conditions},
    }


def reader(name: str, claim: str = "d", namespace: str = "ns", phase: str = "Running") -> Object:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"volumes": volumes},
        "status": {"phase": phase},
    }


def node(name: str, *, ready: bool = True) -> Object:
    return {"kind": "Node", "metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def volume(claim: str, data: str) -> Object:
    namespace, _, name = claim.partition("/")
    labels = {"forebay.io/dataset": name, "app.kubernetes.io/managed-by": "forebay"}
    return {
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}", "labels": labels},
        "spec": {
            "claimRef": {"namespace": namespace, "name": name},
            "csi": {"driver": "forebay.io", "volumeHandle": claim, "volumeAttributes": {"forebay.io/dataset": data}},
        },
    }


def child(kind: str, name: str, of: str = "d", namespace: str = "ns") -> Object:
    labels = {"forebay.io/dataset": of, "app.kubernetes.io/managed-by": "forebay"}
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": labels}}


def event(kind: str, name: str, reason: str, at: str, namespace: str = "ns", note: str = "said") -> Object:
    return {
        "kind": "Event",
        "metadata": {"name": f"{name}.{reason}", "namespace": namespace},
        "regarding": {"kind": kind, "namespace": namespace, "name": name},
        "reason": reason,
        "note": note,
        "type": "Warning",
        "deprecatedLastTimestamp": at,
    }
