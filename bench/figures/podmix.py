"""The cluster and the pods that `deciding.py` and `mix.py` measure: 200 classes, with the shares of a bound that was set before.

Nodes of 96 cores and 384 GiB in 50 racks of 5 zones, every other one with 8 cards of 15 GiB that are shared; a tenth, without
cards, is tainted. 40 datasets of 100 GB are each whole on 5 nodes by their NodeCaches. Of the pods 30 % ask for 7 GiB of a
card, 20 % are in gangs of ten, 20 % mount a dataset's claim, 5 % have anti-affinity by node and 5 % spread by zone. Which
classes have what is drawn for each apart, and all classes have equally many pods, so the shares are exact; `shares` counts them
on the pods themselves.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.api.hints.datasethints import DatasetHintsStatus
from forebay.api.hints.nodecache import NodeCacheStatus
from forebay.api.kubernetes.core import Node, Pod
from forebay.api.kubernetes.storage import PersistentVolume, PersistentVolumeClaim
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.live.nearness import Nearness

ZONE, RACK, HOST = "topology.kubernetes.io/zone", "example.com/rack", "kubernetes.io/hostname"
GROUP, LEAST = "pod-group.scheduling.sigs.k8s.io/name", "pod-group.scheduling.sigs.k8s.io/min-available"
CARD_MEMORY = "aliyun.com/gpu-mem"
GB = 10**9
NOW = 1_800_000_000
WAITED = 3600
"""Seconds that the first pods have waited: longer than any data is away, so nobody waits for room near it."""
DATASETS, HOLDERS, GANG = 40, 5, 10
SHARES = {"gpu": 0.3, "gang": 0.2, "data": 0.2, "apart or spread": 0.1}


def moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(number: int, *, shared: bool = True) -> Node:
    """`shared`: every other one has cards, said as ACK's device plugin does."""
    offered = {"cpu": "96", "memory": "384Gi", "pods": "110", "ephemeral-storage": "1Ti"}
    labels = {HOST: f"n{number}", ZONE: f"z{number % 5}", RACK: f"r{number % 50}"}
    if shared and number % 2:
        offered |= {CARD_MEMORY: "120", "aliyun.com/gpu-count": "8"}
        labels["ack.node.gpu.schedule"] = "cgpu"
    taints = [{"key": "team", "value": "a", "effect": "NoSchedule"}] if number % 10 == 0 else []
    status = {"allocatable": offered, "capacity": offered}
    return msgspec.convert(
        {"metadata": {"name": f"n{number}", "labels": labels}, "spec": {"taints": taints}, "status": status}, Node
    )


def with_data(cluster: Cluster, near: Nearness, nodes: int) -> None:
    """Datasets, the claims of namespace default that show them, and who holds them."""
    holds: dict[int, list[int]] = {}
    for dataset in range(DATASETS):
        name = f"d{dataset}"
        spec: dict[str, Any] = {
            "accessModes": ["ReadOnlyMany"],
            "csi": {"driver": "csi.forebay.io", "volumeHandle": name},
            "claimRef": {"namespace": "default", "name": name, "uid": name},
        }
        volume = {"metadata": {"name": f"default-{name}"}, "spec": spec, "status": {}}
        cluster.storage.set_volume(msgspec.convert(volume, PersistentVolume))
        meta = {"name": name, "namespace": "default", "uid": name, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
        claim = {"metadata": meta, "spec": {"volumeName": f"default-{name}", "accessModes": ["ReadOnlyMany"]}}
        cluster.storage.set_claim(msgspec.convert(claim, PersistentVolumeClaim))
        said = {
            "observedTime": moment(NOW), "totalBytes": 100 * GB, "cachedBytes": 100 * GB, "total": "", "cached": "",
            "cachedPercent": 100, "nodeCount": HOLDERS,
        }  # fmt: skip
        near.set_hints(f"default/{name}", msgspec.convert(said, DatasetHintsStatus), NOW)
        for at in range(HOLDERS):
            holds.setdefault((dataset * 97 + at * 13) % nodes, []).append(dataset)
    for number, kept in holds.items():
        datasets = [
            {"namespace": "default", "name": f"d{one}", "role": "Owner", "tiers": [{"medium": "SSD", "bytes": 100 * GB}]}
            for one in kept
        ]
        status = {
            "observedTime": moment(NOW), "tiers": [], "cachedBytes": 100 * GB * len(kept), "capacityBytes": 9000 * GB,
            "cached": "", "capacity": "", "datasetCount": len(kept), "datasets": datasets,
        }  # fmt: skip
        near.set_node(f"n{number}", msgspec.convert(status, NodeCacheStatus), NOW)


def _kinds(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """What the classes ask: one of them is plain."""
    made: list[dict[str, Any]] = [{"number": number, "dataset": "", "has": set()} for number in range(count)]
    for what, share in SHARES.items() if count > 1 else ():
        chosen = rng.sample(made, round(count * share))
        for at, one in enumerate(chosen):
            one["has"].add(what if what != "apart or spread" else ("apart", "spread")[at % 2])
    for one in made:
        if "data" in one["has"]:
            one["dataset"] = f"d{rng.randrange(DATASETS)}"
    return made


def _pod(kind: dict[str, Any], name: str, gang: str, size: int, at: int) -> Pod:
    number, has = kind["number"], kind["has"]
    labels = {"app": f"app{number}"}
    asked = {"cpu": f"{500 + 100 * (number % 30)}m", "memory": f"{1 + number % 7}Gi"}
    limits = {CARD_MEMORY: "7"} if "gpu" in has else {}
    spec: dict[str, Any] = {"schedulerName": "forebay"}
    spec["containers"] = [{"name": "main", "resources": {"requests": {**asked, **limits}, "limits": limits}}]
    selector = {"matchLabels": labels}
    if "apart" in has:
        term = {"labelSelector": selector, "topologyKey": HOST}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if "spread" in has:
        even = {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
        spec["topologySpreadConstraints"] = [even]
    if kind["dataset"]:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": kind["dataset"]}}]
    group = {GROUP: gang, LEAST: str(size)} if gang else {}
    meta = {"name": name, "uid": name, "namespace": "default", "labels": {**labels, **group}}
    return msgspec.convert({"metadata": {**meta, "creationTimestamp": moment(NOW - WAITED + at)}, "spec": spec}, Pod)


def jobs(count: int, classes: int, seed: int) -> list[list[Pod]]:
    """Pods in the order of arrival, a gang's together, the others alone. Ends the program where the shares cannot be exact."""
    each = count // classes
    size = min(GANG, each)
    if not each or count % classes or (classes > 1 and each % size):
        raise SystemExit(f"{count} pods of {classes} classes are not as many of each, in gangs of {GANG}: ask for 10,000 of 200")
    rng = random.Random(seed)
    drawn = [
        (kind, size if "gang" in kind["has"] else 1)
        for kind in _kinds(classes, rng)
        for _ in range(each // (size if "gang" in kind["has"] else 1))
    ]
    rng.shuffle(drawn)
    made, at = list[list[Pod]](), 0
    for kind, together in drawn:
        gang = f"g{at}" if "gang" in kind["has"] else ""
        made.append([_pod(kind, f"p{at + i}", gang, together, at // 10) for i in range(together)])
        at += together
    if classes > 1:
        _check(shares(made))
    return made


def shares(made: Sequence[Sequence[Pod]]) -> dict[str, float]:
    """Part of the pods that has each property, as the pods themselves say."""
    pods = [pod for job in made for pod in job]
    counts = {
        "gpu": sum(CARD_MEMORY in pod.spec.containers[0].resources.limits for pod in pods),
        "gang": sum(GROUP in pod.metadata.labels for pod in pods),
        "data": sum(bool(pod.spec.volumes) for pod in pods),
        "apart or spread": sum(pod.spec.affinity is not None or bool(pod.spec.topology_spread_constraints) for pod in pods),
    }
    return {what: count / len(pods) for what, count in counts.items()}


def _check(found: dict[str, float]) -> None:
    if found != SHARES:
        raise SystemExit(f"the pods have shares {found}, and {SHARES} are to be measured")


def digest(placements: Iterable[str]) -> str:
    """Of what was decided, in the order in which it was: equal ones are the same decisions."""
    return hashlib.sha256("\n".join(placements).encode()).hexdigest()[:16]
