"""Decisions per second of the live scheduler's core on a mix of pods: everything that it decides by, and no call.

    .venv/bin/python -P bench/figures/mix.py [--nodes 5000] [--pods 10000] [--classes 200] [--json]

What is measured is `Core.decide` from 10,000 pods that wait to their bindings as instructions: quotas, order, gangs, devices,
claims, hints, books, sentences. The cluster: nodes of 96 cores and 384 GiB, half of them with 8 cards of 15 GiB that are shared,
in 50 racks of 5 zones; 40 datasets, each whole on 5 nodes by their NodeCaches. Of the pods 30 % ask for 7 GiB of a card
(`aliyun.com/gpu-mem`), 20 % are in gangs of ten, 20 % mount a dataset's claim, 5 % have anti-affinity by node, 5 % spread by
zone; who has what is drawn apart, a class at a time. `--plain`: one class of plain pods instead. Seconds are CPU seconds of one
core; what is placed is told to the core as bound between passes, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.api.corev1 import Node, Pod
from forebay.api.hints import DatasetHintsStatus
from forebay.api.nodecache import NodeCacheStatus
from forebay.api.storagev1 import PersistentVolume, PersistentVolumeClaim
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Bind

ZONE, RACK, HOST = "topology.kubernetes.io/zone", "example.com/rack", "kubernetes.io/hostname"
GB = 10**9
NOW = 1_800_000_000
DATASETS, HOLDERS, GANG = 40, 5, 10
HAS = {"gpu": 0.3, "gang": 0.2, "data": 0.2, "apart": 0.05, "spread": 0.05}


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(number: int) -> Node:
    offered = {"cpu": "96", "memory": "384Gi", "pods": "110"}
    labels = {HOST: f"n{number}", ZONE: f"z{number % 5}", RACK: f"r{number % 50}"}
    if number % 2:
        offered |= {"aliyun.com/gpu-mem": "120", "aliyun.com/gpu-count": "8"}
        labels["ack.node.gpu.schedule"] = "cgpu"
    body = {"metadata": {"name": f"n{number}", "labels": labels}, "status": {"allocatable": offered, "capacity": offered}}
    return msgspec.convert(body, Node)


def with_data(core: Core, count: int) -> None:
    """Datasets of 100 GB, the claims of namespace default that show them, and who holds them."""
    holds: dict[int, list[int]] = {}
    for dataset in range(DATASETS):
        name = f"d{dataset}"
        volume = {"name": f"default-{name}"}
        spec: dict[str, Any] = {
            "accessModes": ["ReadOnlyMany"],
            "csi": {"driver": "csi.forebay.io", "volumeHandle": name},
            "claimRef": {"namespace": "default", "name": name, "uid": name},
        }
        core.apply("PersistentVolume", None, msgspec.convert({"metadata": volume, "spec": spec, "status": {}}, PersistentVolume))
        meta = {"name": name, "namespace": "default", "uid": name, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
        claim = {"metadata": meta, "spec": {"volumeName": volume["name"], "accessModes": ["ReadOnlyMany"]}}
        core.apply("PersistentVolumeClaim", None, msgspec.convert(claim, PersistentVolumeClaim))
        said = {
            "observedTime": _time(NOW), "totalBytes": 100 * GB, "cachedBytes": 100 * GB, "total": "", "cached": "",
            "cachedPercent": 100, "nodeCount": HOLDERS,
        }  # fmt: skip
        core.nearness.set_hints(f"default/{name}", msgspec.convert(said, DatasetHintsStatus), NOW)
        for at in range(HOLDERS):
            holds.setdefault((dataset * 97 + at * 13) % count, []).append(dataset)
    for number, kept in holds.items():
        datasets = [
            {"namespace": "default", "name": f"d{one}", "role": "Owner", "tiers": [{"medium": "SSD", "bytes": 100 * GB}]}
            for one in kept
        ]
        status = {
            "observedTime": _time(NOW), "tiers": [], "cachedBytes": 100 * GB * len(kept), "capacityBytes": 9000 * GB,
            "cached": "", "capacity": "", "datasetCount": len(kept), "datasets": datasets,
        }  # fmt: skip
        core.nearness.set_node(f"n{number}", msgspec.convert(status, NodeCacheStatus), NOW)


def kinds(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Who has what: exactly the shares, drawn apart."""
    made: list[dict[str, Any]] = [{"has": set()} for _ in range(count)]
    for what, share in HAS.items():
        for one in rng.sample(range(count), round(count * share)):
            made[one]["has"].add(what)
    for number, one in enumerate(made):
        one["number"] = number
        one["dataset"] = f"d{rng.randrange(DATASETS)}"
    return made


def pod(kind: dict[str, Any], name: str, gang: str, at: int) -> Pod:
    number, has = kind["number"], kind["has"]
    labels = {"app": f"app{number}"}
    asked = {"cpu": f"{500 + 100 * (number % 30)}m", "memory": f"{1 + number % 7}Gi"}
    limits = {"aliyun.com/gpu-mem": "7"} if "gpu" in has else {}
    spec: dict[str, Any] = {"schedulerName": "forebay"}
    spec["containers"] = [{"name": "main", "resources": {"requests": {**asked, **limits}, "limits": limits}}]
    selector = {"matchLabels": labels}
    if "apart" in has:
        term = {"labelSelector": selector, "topologyKey": HOST}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if "spread" in has:
        one = {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
        spec["topologySpreadConstraints"] = [one]
    if "data" in has:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": kind["dataset"]}}]
    group = {"pod-group.scheduling.sigs.k8s.io/name": gang, "pod-group.scheduling.sigs.k8s.io/min-available": str(GANG)}
    meta = {"name": name, "uid": name, "namespace": "default", "labels": {**labels, **(group if gang else {})}}
    return msgspec.convert({"metadata": {**meta, "creationTimestamp": _time(NOW - 3600 + at)}, "spec": spec}, Pod)


def pods(count: int, classes: int, plain: bool, seed: int) -> list[Pod]:
    """In the order of arrival; a gang's members follow each other."""
    rng = random.Random(seed)
    known = [{"has": set(), "number": 0, "dataset": "d0"}] if plain else kinds(classes, rng)
    lone, together = [one for one in known if "gang" not in one["has"]], [one for one in known if "gang" in one["has"]]
    made = list[Pod]()
    while len(made) < count:
        if together and rng.random() < HAS["gang"] / GANG / (1 - HAS["gang"] + HAS["gang"] / GANG):
            kind, gang = rng.choice(together), f"g{len(made)}"
            made += [pod(kind, f"p{len(made) + i}", gang, len(made) // 10) for i in range(min(GANG, count - len(made)))]
        else:
            made.append(pod(rng.choice(lone), f"p{len(made)}", "", len(made) // 10))
    return made


def measure(options: argparse.Namespace) -> dict[str, Any]:
    core = Core(Configuration(policy=options.policy), Groups(), lambda: NOW * 10**9)
    for number in range(options.nodes):
        core.apply("Node", None, node(number))
    with_data(core, options.nodes)
    waiting = {one.metadata.uid: one for one in pods(options.pods, options.classes, options.plain, options.seed)}
    for one in waiting.values():
        core.apply("Pod", None, one)
    now, spent, passes, placed = 0.0, 0.0, 0, 0
    while core.queue.jobs and now < 600.0:
        began = time.process_time()
        done = core.decide(now)
        spent += time.process_time() - began
        passes += 1
        bound = [one for one in done if isinstance(one, Bind)]
        placed += len(bound)
        for bind in bound:
            old = waiting[bind.pod.uid]
            meta = msgspec.structs.replace(old.metadata, annotations={**old.metadata.annotations, **bind.annotations})
            new = msgspec.structs.replace(old, metadata=meta, spec=msgspec.structs.replace(old.spec, node_name=bind.node))
            core.apply("Pod", old, new)
        if not bound:
            now += 1.0
    has = {what: sum(1 for one in waiting.values() if _is(one, what)) for what in ("gpu", "gang", "data")}
    return {
        "nodes": options.nodes,
        "pods": len(waiting),
        "classes": 1 if options.plain else options.classes,
        "policy": options.policy,
        **has,
        "placed": placed,
        "passes": passes,
        "seconds": round(spent, 2),
        "decisions per second": round(placed / spent),
    }


def _is(one: Pod, what: str) -> bool:
    if what == "gpu":
        return "aliyun.com/gpu-mem" in one.spec.containers[0].resources.limits
    return bool(one.spec.volumes) if what == "data" else "pod-group.scheduling.sigs.k8s.io/name" in one.metadata.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--plain", action="store_true", help="one class of plain pods")
    parser.add_argument("--policy", default="forebay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found) if options.json else ", ".join(f"{value} {key}" for key, value in found.items()))


if __name__ == "__main__":
    main()
