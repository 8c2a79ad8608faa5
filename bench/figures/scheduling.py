"""The openb experiment over workloads and policies: ports beside the published means, ours beside FGD on the same arrivals.

    .venv/bin/python -P bench/figures/scheduling.py DATA [--workloads a,b] [--policies fgd,forebay] [--seeds 42,43] [--json]

DATA is a folder with openb_node_list_gpu_node.csv, openb_pod_list_<workload>.csv, sequences/<workload>.jsonl.gz and perhaps
published_means.csv; docs/scheduler.md says where they come from. Runs one after the other, each on one core; five workloads, ten
seeds and seven policies take about fifteen minutes. Allocation in % of all GPUs, differences in percentage points.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from forebay.scheduler import openb, replay
from forebay.scheduler.policies import POLICIES

WORKLOADS = ("default", "cpu100", "gpushare60", "gpuspec33", "multigpu30")
PUBLISHED = {
    "random": "Random",
    "dotprod": "DotProd",
    "clustering": "GpuClustering",
    "packing": "GpuPacking",
    "bestfit": "BestFit",
    "fgd": "FGD",
}
MARKS = (100, 130)
STUDENT = (0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""0.975 quantile of Student's t by degrees of freedom."""

Runs = dict[int, tuple[float, float, float]]
"""Seed -> allocation at 100 % and 130 % of arrived demand, CPU seconds."""


def measure(data: Path, workload: str, policy: str, seeds: list[int]) -> Runs:
    nodes = openb.read_nodes(data / "openb_node_list_gpu_node.csv")
    pods = openb.read_pods(data / f"openb_pod_list_{workload}.csv")
    runs: Runs = {}
    for order in openb.read_arrivals(data / f"sequences/{workload}.jsonl.gz", len(pods), len(nodes)):
        if order.seed in seeds:
            began = time.process_time()
            points = replay.openb(nodes, pods, order, policy).points()
            runs[order.seed] = (points[MARKS[0]], points[MARKS[1]], time.process_time() - began)
            print(f"{workload} {policy} {order.seed}: {points[100]:.2f} {points[130]:.2f}", file=sys.stderr, flush=True)
    return runs


def paired(ours: Runs, theirs: Runs, mark: int) -> dict[str, float]:
    """Mean of the differences on equal seeds, and its lower 95 % bound (Student, two-sided)."""
    gaps = [ours[seed][mark] - theirs[seed][mark] for seed in ours]
    mean = statistics.fmean(gaps)
    if not 2 <= len(gaps) <= len(STUDENT):
        return {"mean": mean}
    return {"mean": mean, "lower": mean - STUDENT[len(gaps) - 1] * statistics.stdev(gaps) / len(gaps) ** 0.5}


def published(data: Path) -> dict[tuple[str, str], tuple[float, float]]:
    path = data / "published_means.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (row["workload"], row["policy"]): (float(row["alloc_at_100_mean"]), float(row["alloc_at_130_mean"]))
            for row in csv.DictReader(file)
        }


def summary(data: Path, found: dict[tuple[str, str], Runs]) -> list[dict[str, Any]]:
    known, rows = published(data), list[dict[str, Any]]()
    for (workload, policy), runs in found.items():
        row: dict[str, Any] = {"workload": workload, "policy": policy, "seeds": sorted(runs)}
        means = [statistics.fmean(run[at] for run in runs.values()) for at in range(len(MARKS))]
        row["allocation"] = dict(zip(map(str, MARKS), means, strict=True))
        row["cpu_seconds"] = max(run[2] for run in runs.values())
        if there := known.get((workload, PUBLISHED.get(policy, ""))):
            row["minus_published"] = {str(mark): means[at] - there[at] for at, mark in enumerate(MARKS)}
        if policy != "fgd" and set(runs) <= set(found.get((workload, "fgd"), ())):
            row["minus_fgd"] = {str(mark): paired(runs, found[workload, "fgd"], at) for at, mark in enumerate(MARKS)}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        text = f"{row['workload']:<11} {row['policy']:<11}" + " / ".join(f"{row['allocation'][str(m)]:.2f}" for m in MARKS)
        if "minus_published" in row:
            text += "   published " + " / ".join(f"{row['minus_published'][str(m)]:+.2f}" for m in MARKS)
        if "minus_fgd" in row:
            gaps = [row["minus_fgd"][str(m)] for m in MARKS]
            text += "   FGD " + " / ".join(f"{gap['mean']:+.2f} (> {gap.get('lower', float('nan')):+.2f})" for gap in gaps)
        print(f"{text}   {row['cpu_seconds']:.1f} s at most")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--workloads", default=",".join(WORKLOADS))
    p.add_argument("--policies", default=",".join(POLICIES))
    p.add_argument("--seeds", default=",".join(map(str, range(42, 52))))
    p.add_argument("--json", action="store_true", help="one JSON object a workload and policy, full precision")
    args = p.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    found = {
        (workload, policy): measure(args.data, workload, policy, seeds)
        for workload in args.workloads.split(",")
        for policy in args.policies.split(",")
    }
    rows = summary(args.data, found)
    if args.json:
        for row in rows:
            print(json.dumps(row))
    else:
        show(rows)


if __name__ == "__main__":
    main()
