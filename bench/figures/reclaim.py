"""Seconds to find who goes when a queue reclaims its share of a full cluster: 1,000 nodes x 8 cards, 8,000 pods of 40 queues.

    .venv/bin/python -P bench/figures/reclaim.py [--nodes 1000] [--queues 40] [--rounds 3] [--live] [--json]

All cards are used by pods of one card each, of 39 queues; the 40th uses nothing and has a min of half the cluster. Cases:
- `singles`: it wants half of all cards, one by one, out of pods of no gang;
- `large gangs`: half of all nodes, whole, out of gangs of 8 to 256 pods;
- `small gangs`: three tenths of all nodes, whole, out of gangs of 1 to 8.
Gangs lie on neighbouring nodes, their queues are drawn. What is measured is `Quotas.reclaim` with the room of equal pods on plain
nodes (`NodeRoom`). `--live`: a pass of the live scheduler's core that finds no room, asks its planner and says whom to delete;
4,000 pods in a gang for the singles, one pod of 8 cards a node in the others. CPU seconds of one core, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from forebay.api.kubernetes.core import Node, Pod
from forebay.scheduler.groups import Groups
from forebay.scheduler.live.config import Configuration
from forebay.scheduler.live.core import Core
from forebay.scheduler.live.instructions import Delete
from forebay.scheduler.quota.inputs.check import Findings, build
from forebay.scheduler.quota.ledger import Charge, Ledger
from forebay.scheduler.quota.quotas import Quotas
from forebay.scheduler.quota.reclaim.entitled import Ask
from forebay.scheduler.quota.reclaim.pods import Gang, Running
from forebay.scheduler.quota.reclaim.rooms import NodeRoom
from forebay.scheduler.quota.tree import Queue

GPU, CARDS, NOW = "nvidia.com/gpu", 8, 1_800_000_000
GROUP, MINIMUM, QUEUE = (
    "pod-group.scheduling.sigs.k8s.io/name",
    "pod-group.scheduling.sigs.k8s.io/min-available",
    "quota.scheduling.koordinator.sh/name",
)


@dataclass(frozen=True)
class Case:
    """Pods of `each` cards wanted as a part of all cards; sizes of the gangs that run."""

    part: float
    each: int
    sizes: tuple[int, int]


CASES = {"singles": Case(0.5, 1, (1, 1)), "large gangs": Case(0.5, CARDS, (8, 256)), "small gangs": Case(0.3, CARDS, (1, 8))}


@dataclass(frozen=True)
class Holder:
    """One pod of one card."""

    name: str
    gang: str
    queue: str
    node: str
    started: int


def full(case: Case, nodes: int, queues: int, seed: int) -> Iterator[Holder]:
    """Pods on all cards, gang after gang."""
    rng, at, number = random.Random(seed), 0, 0
    while at < nodes * CARDS:
        size, queue, started = rng.randint(*case.sizes), f"q{rng.randrange(1, queues)}", NOW - rng.randrange(600, 86400)
        for i in range(min(size, nodes * CARDS - at)):
            yield Holder(f"p{at}", f"g{number}" if case.sizes != (1, 1) else "", queue, f"n{at // CARDS}", started + i)
            at += 1
        number += 1


def mins(nodes: int, queues: int) -> dict[str, int]:
    """Half for q0, the rest for all others alike."""
    half = nodes * CARDS // 2
    return {"q0": half} | {f"q{i}": half // (queues - 1) for i in range(1, queues)}


def pure(case: Case, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    quotas = Quotas()
    tree = [Queue(name=name, min={GPU: least}) for name, least in mins(options.nodes, options.queues).items()]
    quotas.ledger = Ledger(build(tree, Findings()))
    there, gangs = list(full(case, options.nodes, options.queues, seed)), dict[str, Gang]()
    running = [Running(p.name, p.queue, p.node, {GPU: 1}, p.gang, started=p.started, cards=1) for p in there]
    for one in there:
        quotas.ledger.add(one.name, Charge("", {GPU: 1}, label=one.queue, gang=one.gang or one.name))
        if one.gang:
            gangs[one.gang] = Gang(gangs.get(one.gang, Gang(0)).minimum + 1)
    count = int(options.nodes * CARDS * case.part) // case.each
    room = NodeRoom({f"n{i}": {} for i in range(options.nodes)}, {GPU: case.each}, count)
    began = time.process_time()
    found = quotas.reclaim(
        Ask("job", "q0", {GPU: count * case.each}, jobs=1),
        running,
        room,
        NOW,
        gangs=gangs,
        totals={GPU: options.nodes * CARDS},
    )
    spent = time.process_time() - began
    assert found.feasible, found.reason
    return {"wanted": count, "evicted": len(found.pods), "seconds": spent}


def _time(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def pod(one: Holder, size: int, cards: int = 1) -> Pod:
    """Of a gang of so many, if of any; without a node it waits."""
    asked = {"cpu": str(cards), GPU: str(cards)}
    labels = {QUEUE: one.queue} | ({GROUP: one.gang, MINIMUM: str(size)} if one.gang else {})
    meta = {"name": one.name, "uid": one.name, "namespace": "default", "labels": labels, "creationTimestamp": _time(one.started)}
    container = {"name": "main", "resources": {"requests": asked, "limits": {GPU: str(cards)}}}
    spec = {"schedulerName": "forebay", "nodeName": one.node, "containers": [container]}
    status = {"phase": "Running" if one.node else "Pending", "startTime": _time(one.started)}
    return msgspec.convert({"metadata": meta, "spec": spec, "status": status}, Pod)


def live(case: Case, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    core = Core(Configuration(), Groups(), lambda: NOW * 10**9)
    for number in range(options.nodes):
        offered = {"cpu": "96", "memory": "384Gi", "pods": "110", GPU: str(CARDS)}
        body = {"metadata": {"name": f"n{number}"}, "status": {"allocatable": offered, "capacity": offered}}
        core.apply("Node", None, msgspec.convert(body, Node))
    for name, least in mins(options.nodes, options.queues).items():
        meta = {"name": name, "namespace": "default", "uid": name}
        body = {
            "apiVersion": "scheduling.sigs.k8s.io/v1alpha1",
            "kind": "ElasticQuota",
            "metadata": meta,
            "spec": {"min": {GPU: str(least)}},
        }
        core.apply("Quota", None, body)
    there = list(full(case, options.nodes, options.queues, seed))
    sizes = dict[str, int]()
    for one in there:
        sizes[one.gang] = sizes.get(one.gang, 0) + 1
    for one in there:
        core.apply("Pod", None, pod(one, sizes[one.gang]))
    core.decide(0.0)
    count = int(options.nodes * CARDS * case.part) // case.each
    for number in range(count):
        core.apply("Pod", None, pod(Holder(f"job-{number}", "job", "q0", "", NOW), count, case.each))
    began = time.process_time()
    done = core.decide(1.0)
    spent = time.process_time() - began
    gone = [one for one in done if isinstance(one, Delete)]
    assert gone, [job.reason for job in core.queue.jobs.values()]
    return {"wanted": count, "evicted": len(gone), "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--queues", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    for name in options.cases.split(","):
        rounds = [(live if options.live else pure)(CASES[name], options, seed) for seed in range(options.rounds)]
        times = [one["seconds"] for one in rounds]
        told = {
            "case": name,
            "live": options.live,
            "nodes": options.nodes,
            **rounds[0],
            "seconds": round(statistics.median(times), 2),
        }
        told |= {"worst": round(max(times), 2), "load": round(os.getloadavg()[0], 1)}
        print(json.dumps(told) if options.json else ", ".join(f"{key} {value}" for key, value in told.items()), flush=True)


if __name__ == "__main__":
    main()
