"""Decisions per second on a synthetic cluster with all filters: reading pods, and placing them one after the other.

    .venv/bin/python -P bench/figures/deciding.py [--nodes 5000] [--pods 10000] [--classes 1,200,2000] [--policy packing] [--json]

No API server and no binding: what is measured is `Cluster.request` (a pod's object to a request) and `Planner.place` (the request
to a node, the arrays changed). The cluster: nodes of 96 cores and 384 GiB, half of them with 8 GPUs, in 50 racks of 5 zones, a
tenth tainted. Of the pods 30 % ask for half a GPU, 20 % are in gangs of ten (placed in one transaction), 5 % have anti-affinity
by node, 5 % spread by zone, 5 % node affinity, 5 % tolerate the taint; `--classes 1` is one plain class. Seconds are CPU
seconds of one core; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from typing import Any

import msgspec

from forebay.api.corev1 import Node, Pod
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.arrays.state import Card
from forebay.scheduler.gang import Gang, Member, plan
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import POLICIES, Setting, make

ZONE, RACK, HOST = "topology.kubernetes.io/zone", "example.com/rack", "kubernetes.io/hostname"
CARDS = (Card("gpu"),) * 8
GANG = 10


def nodes(count: int) -> list[Node]:
    made = []
    for i in range(count):
        offered = {"cpu": "96", "memory": "384Gi", "pods": "110", "ephemeral-storage": "1Ti"}
        labels = {HOST: f"n{i}", ZONE: f"z{i % 5}", RACK: f"r{i % 50}", "disk": "ssd" if i % 3 else "hdd"}
        taints = [{"key": "team", "value": "a", "effect": "NoSchedule"}] if i % 10 == 0 else []
        body = {"metadata": {"name": f"n{i}", "labels": labels}, "spec": {"taints": taints}, "status": {"allocatable": offered}}
        made.append(msgspec.convert(body, Node))
    return made


def templates(count: int) -> list[dict[str, Any]]:
    """One pod specification a class."""
    made = []
    for i in range(count):
        labels = {"app": f"app{i}"}
        selector = {"matchLabels": labels}
        requests = {"cpu": f"{500 + 100 * (i % 30)}m", "memory": f"{1 + i % 7}Gi"}
        spec: dict[str, Any] = {}
        share = i % 20
        if count > 1 and share == 6:
            term = {"labelSelector": selector, "topologyKey": HOST}
            spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        elif count > 1 and share == 7:
            spread = {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
            spec["topologySpreadConstraints"] = [spread]
        elif count > 1 and share == 8:
            terms = [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
            spec["affinity"] = {"nodeAffinity": required}
        elif count > 1 and share == 9:
            spec["tolerations"] = [{"key": "team", "operator": "Exists"}]
        spec["containers"] = [{"name": "main", "resources": {"requests": requests}}]
        made.append(
            {"labels": labels, "spec": spec, "gang": count > 1 and share in (0, 1, 10, 11), "gpu": count > 1 and share < 6}
        )
    return made


def pods(count: int, classes: int, seed: int) -> list[tuple[Pod, int, bool]]:
    """Pods in the order of arrival with the number of their gang, -1 for none, and whether they ask for half a GPU.

    A gang's members follow each other.
    """
    rng, kinds = random.Random(seed), templates(classes)
    made = list[tuple[Pod, int, bool]]()
    gangs = 0
    while len(made) < count:
        kind = kinds[rng.randrange(classes)]
        members = GANG if kind["gang"] and rng.random() < 1 / 5 else 0 if kind["gang"] else 1
        number = -1
        if members == GANG:
            number, gangs = gangs, gangs + 1
        for _ in range(min(members, count - len(made))):
            name = f"p{len(made)}"
            body = {
                "metadata": {"name": name, "uid": name, "namespace": "default", "labels": kind["labels"]},
                "spec": kind["spec"],
            }
            made.append((msgspec.convert(body, Pod), number, kind["gpu"]))
    return made


def measure(node_count: int, pod_count: int, classes: int, policy: str, seed: int) -> dict[str, Any]:
    cluster = Cluster()
    began = time.process_time()
    for at, node in enumerate(nodes(node_count)):
        cluster.set_node(node, CARDS if at % 2 else ())
    loaded = time.process_time() - began
    waiting = pods(pod_count, classes, seed)
    began = time.process_time()
    requests = [cluster.request(pod) for pod, _, _ in waiting]
    read = time.process_time() - began
    requests = [replace(one, cards=1, milli=500) if gpu else one for one, (_, _, gpu) in zip(requests, waiting, strict=True)]
    planner = Planner(cluster, make(policy, Setting(seed=seed)))
    placed, at = 0, 0
    began = time.process_time()
    while at < len(waiting):
        number = waiting[at][1]
        if number < 0:
            planner.policy.observe(cluster, requests[at])
            placed += planner.place(requests[at]) is not None
            at += 1
            continue
        end = at
        while end < len(waiting) and waiting[end][1] == number:
            planner.policy.observe(cluster, requests[end])
            end += 1
        members = [Member(waiting[i][0].metadata.name, requests[i]) for i in range(at, end)]
        placed += len(plan(planner, Gang(f"g{number}", members, len(members))).placements)
        at = end
    spent = time.process_time() - began
    return {
        "nodes": node_count,
        "pods": pod_count,
        "classes": len(set(requests)),
        "policy": policy,
        "in gangs": sum(number >= 0 for _, number, _ in waiting),
        "placed": placed,
        "nodes read per second": round(node_count / loaded),
        "pods read per second": round(pod_count / read),
        "decisions per second": round(pod_count / spent),
    }


def gangs(node_count: int, count: int, size: int, policy: str, seed: int) -> dict[str, Any]:
    """Gangs of equal pods with a whole GPU each, placed one after the other, all of a gang or none."""
    cluster = Cluster()
    for node in nodes(node_count):
        cluster.set_node(node, CARDS)
    planner = Planner(cluster, make(policy, Setting(seed=seed)))
    placed, spent = 0, 0.0
    for number in range(count):
        spec = {"containers": [{"name": "main", "resources": {"requests": {"cpu": f"{4 + number % 4}", "memory": "16Gi"}}}]}
        names = [f"g{number}-{i}" for i in range(size)]
        one = msgspec.convert(
            {"metadata": {"name": names[0], "uid": names[0], "labels": {"job": f"j{number}"}}, "spec": spec}, Pod
        )
        began = time.process_time()
        request = replace(cluster.request(one), cards=1, milli=1000)
        for _ in names:
            planner.policy.observe(cluster, request)
        done = plan(planner, Gang(f"g{number}", [Member(name, request) for name in names], size))
        spent += time.process_time() - began
        placed += len(done.placements)
    return {
        "nodes": node_count,
        "gangs": count,
        "pods a gang": size,
        "policy": policy,
        "placed": placed,
        "seconds": round(spent, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10000)
    parser.add_argument("--classes", default="1,200,2000", help="how many different pods, several with commas")
    parser.add_argument("--policy", default="packing", choices=sorted(POLICIES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--gangs", type=int, default=0, help="instead of all that: so many gangs of equal pods")
    parser.add_argument("--gang-size", type=int, default=500, help="pods of each of --gangs")
    options = parser.parse_args()
    if options.gangs:
        found = gangs(options.nodes, options.gangs, options.gang_size, options.policy, options.seed)
        print(json.dumps(found) if options.json else ", ".join(f"{value} {key}" for key, value in found.items()))
        return
    for classes in options.classes.split(","):
        found = measure(options.nodes, options.pods, int(classes), options.policy, options.seed)
        print(json.dumps(found) if options.json else ", ".join(f"{value} {key}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
