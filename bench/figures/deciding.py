"""Decisions per second on a synthetic cluster with all filters: reading pods, and placing them one after the other.

    .venv/bin/python -P bench/figures/deciding.py [--nodes 5000] [--pods 10000] [--classes 1,200,2000] [--policy forebay] [--json]

No API server, no binding, no queue and no quotas (`mix.py` has those): what is measured is `Books.request` (a pod's object to a
request) and the choice of a node, the arrays changed: `Nearness.place` for pods with a dataset, and for the others, and where
that leaves the choice to them, `Planner.place` or, for a gang, `gang.plan` in one transaction. `podmix.py` says what the cluster
and the pods are; their shares are counted and printed. `--classes 1` is one plain class. Seconds are CPU seconds of one core;
run it on an idle machine. `decisions` is a digest of all placements: equal ones, equal decisions.

    .venv/bin/python -P bench/figures/deciding.py --gangs 20 --gang-size 500

Gangs of equal pods with a whole GPU each instead, on nodes that all have 8.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

sys.path[:0] = [str(Path(__file__).parent)]

import podmix  # noqa: E402

from forebay.api.kubernetes.core import Pod  # noqa: E402
from forebay.scheduler.arrays.cluster import Cluster  # noqa: E402
from forebay.scheduler.arrays.state import Card  # noqa: E402
from forebay.scheduler.devices.ecosystems.inputs import Settings  # noqa: E402
from forebay.scheduler.gang import Gang, Member, plan  # noqa: E402
from forebay.scheduler.live.books import Books  # noqa: E402
from forebay.scheduler.live.nearness import Later, Nearness  # noqa: E402
from forebay.scheduler.plan import Placement, Plan  # noqa: E402
from forebay.scheduler.planner import Planner  # noqa: E402
from forebay.scheduler.pods.request import Request  # noqa: E402
from forebay.scheduler.policies import POLICIES, Setting, make  # noqa: E402

CARDS = (Card("gpu"),) * 8


def decide(planner: Planner, near: Nearness, pods: Sequence[Pod], requests: Sequence[Request]) -> Plan | Later:
    """One job, a pod or a gang, as the live core decides it once its turn has come."""
    members = [Member(pod.metadata.uid, request) for pod, request in zip(pods, requests, strict=True)]
    gang = Gang(pods[0].metadata.labels.get(podmix.GROUP, members[0].pod), members, len(members))
    dataset = near.dataset(pods[0])
    found = near.place(gang, dataset, podmix.WAITED, podmix.NOW) if dataset else None
    if found is not None:
        return found
    if len(members) > 1:
        return plan(planner, gang)
    choice = planner.place(requests[0])
    if choice is None:
        return Plan(gang.name, (), (members[0].pod,), "it fits nowhere")
    return Plan(gang.name, (Placement(members[0].pod, planner.state.names[choice.row], choice.cards, choice.parts),))


def shown(plans: Iterable[Plan]) -> list[str]:
    return [f"{one.pod} {one.node} {one.cards} {one.devices}" for plan in plans for one in plan.placements]


def measure(options: argparse.Namespace, classes: int) -> dict[str, Any]:
    books = Books(Settings(), 3600.0)
    began = time.process_time()
    for number in range(options.nodes):
        books.node(podmix.node(number))
    books.sync()
    loaded = time.process_time() - began
    near = Nearness(books.cluster)
    podmix.with_data(books.cluster, near, options.nodes)
    jobs = podmix.jobs(options.pods, classes, options.seed)
    began = time.process_time()
    requests = [[books.request(pod) for pod in job] for job in jobs]
    read = time.process_time() - began
    planner = Planner(books.cluster, make(options.policy, Setting(seed=options.seed)))
    plans = list[Plan | Later]()
    began = time.process_time()
    for job, asked in zip(jobs, requests, strict=True):
        for request in asked:
            planner.policy.observe(books.cluster, request)
        plans.append(decide(planner, near, job, asked))
    spent = time.process_time() - began
    placed = shown(one for one in plans if isinstance(one, Plan))
    return {
        "nodes": options.nodes,
        "pods": options.pods,
        "classes": classes,
        "policy": options.policy,
        **podmix.shares(jobs),
        "placed": len(placed),
        "wait for room near their data": sum(isinstance(one, Later) for one in plans),
        "nodes read per second": round(options.nodes / loaded),
        "pods read per second": round(options.pods / read),
        "seconds": round(spent, 2),
        "decisions": podmix.digest(placed),
        "decisions per second": round(options.pods / spent),
    }


def gangs(options: argparse.Namespace) -> dict[str, Any]:
    """Gangs of equal pods with a whole GPU each, placed one after the other, all of a gang or none."""
    cluster = Cluster()
    for number in range(options.nodes):
        cluster.set_node(podmix.node(number, shared=False), CARDS)
    planner = Planner(cluster, make(options.policy, Setting(seed=options.seed)))
    plans, spent = list[Plan](), 0.0
    for number in range(options.gangs):
        spec = {"containers": [{"name": "main", "resources": {"requests": {"cpu": f"{4 + number % 4}", "memory": "16Gi"}}}]}
        names = [f"g{number}-{i}" for i in range(options.gang_size)]
        one = msgspec.convert(
            {"metadata": {"name": names[0], "uid": names[0], "labels": {"job": f"j{number}"}}, "spec": spec}, Pod
        )
        began = time.process_time()
        request = replace(cluster.request(one), cards=1, milli=1000)
        for _ in names:
            planner.policy.observe(cluster, request)
        plans.append(plan(planner, Gang(f"g{number}", [Member(name, request) for name in names], len(names))))
        spent += time.process_time() - began
    placed = shown(plans)
    return {
        "nodes": options.nodes,
        "gangs": options.gangs,
        "pods a gang": options.gang_size,
        "policy": options.policy,
        "placed": len(placed),
        "decisions": podmix.digest(placed),
        "seconds": round(spent, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10000)
    parser.add_argument("--classes", default="1,200,2000", help="how many different pods, several with commas")
    parser.add_argument("--policy", default="forebay", choices=sorted(POLICIES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--gangs", type=int, default=0, help="instead of all that: so many gangs of equal pods")
    parser.add_argument("--gang-size", type=int, default=500, help="pods of each of --gangs")
    options = parser.parse_args()
    counts = [0] if options.gangs else [int(one) for one in options.classes.split(",")]
    for classes in counts:
        found = gangs(options) if options.gangs else measure(options, classes)
        print(json.dumps(found) if options.json else ", ".join(f"{value} {key}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
