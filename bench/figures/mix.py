"""Decisions per second of the live scheduler's core on a mix of pods: everything that it decides by, and no call.

    .venv/bin/python -P bench/figures/mix.py [--nodes 5000] [--pods 10000] [--classes 200] [--json]

What is measured is `Core.decide` from 10,000 pods that wait to their bindings as instructions: quotas, order, gangs, devices,
claims, hints, books, sentences. `podmix.py` says what the cluster and the pods are; their shares are counted and printed.
`--plain`: one class of plain pods instead. Seconds are CPU seconds of one core; what is placed is told to the core as bound
between passes, which is not counted. `decisions` is a digest of all placements: equal ones, equal decisions. `--profile` adds
where the time goes, and takes longer.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

sys.path[:0] = [str(Path(__file__).parent)]

import podmix  # noqa: E402

from forebay.scheduler.groups import Groups  # noqa: E402
from forebay.scheduler.live.config import Configuration  # noqa: E402
from forebay.scheduler.live.core import Core  # noqa: E402
from forebay.scheduler.live.instructions import Bind  # noqa: E402


def measure(options: argparse.Namespace, profile: cProfile.Profile | None) -> dict[str, Any]:
    core = Core(Configuration(policy=options.policy), Groups(), lambda: podmix.NOW * 10**9)
    for number in range(options.nodes):
        core.apply("Node", None, podmix.node(number))
    podmix.with_data(core.books.cluster, core.nearness, options.nodes)
    core.decide(0.0)  # nothing waits: the pass that takes in the nodes' cards
    jobs = podmix.jobs(options.pods, 1 if options.plain else options.classes, options.seed)
    waiting = {one.metadata.uid: one for job in jobs for one in job}
    for one in waiting.values():
        core.apply("Pod", None, one)
    now, spent, passes, placed = 0.0, 0.0, 0, list[str]()
    while core.queue.jobs and now < 600.0:
        if profile:
            profile.enable()
        began = time.process_time()
        done = core.decide(now)
        spent += time.process_time() - began
        if profile:
            profile.disable()
        passes += 1
        bound = [one for one in done if isinstance(one, Bind)]
        placed += [f"{bind.pod.name} {bind.node} {sorted(bind.annotations.items())}" for bind in bound]
        for bind in bound:
            old = waiting[bind.pod.uid]
            meta = msgspec.structs.replace(old.metadata, annotations={**old.metadata.annotations, **bind.annotations})
            new = msgspec.structs.replace(old, metadata=meta, spec=msgspec.structs.replace(old.spec, node_name=bind.node))
            core.apply("Pod", old, new)
        if not bound:
            now += 1.0
    return {
        "nodes": options.nodes,
        "pods": len(waiting),
        "classes": 1 if options.plain else options.classes,
        "policy": options.policy,
        **podmix.shares(jobs),
        "placed": len(placed),
        "passes": passes,
        "seconds": round(spent, 2),
        "decisions": podmix.digest(placed),
        "decisions per second": round(len(placed) / spent),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--plain", action="store_true", help="one class of plain pods")
    parser.add_argument("--policy", default="forebay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="also where the time goes, the most expensive first")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    profile = cProfile.Profile() if options.profile else None
    found = measure(options, profile)
    print(json.dumps(found) if options.json else ", ".join(f"{value} {key}" for key, value in found.items()))
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
