"""The figure "gangs and datasets": ours beside FIFO with Fluid's affinity and beside strict affinity-first.

    .venv/bin/python -P bench/figures/jobs.py TRACE [--runs FILE] [--settings main,light] [--policies a,b] [--seeds 7301]

TRACE is a CSV with the columns arrival_s and scale_factor: `philly_jobs.csv`, merged from the traces of the public repository
stanford-futuredata/gavel (MIT). jobs_protocol.md says what is measured. FILE keeps one JSON line a run; what it has is not run
again. Each run takes one core for about ten seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from forebay.scheduler.jobs.measure import Interval, Result, comparisons, run
from forebay.scheduler.jobs.workload import Cluster, Shape, draw, read_trace

PROTOCOL = Path(__file__).with_name("jobs_protocol.json")
MOSTLY = 0.6
"""Local share of the baseline above which remote bytes are compared instead of local ones."""


def kept(path: Path | None) -> list[Result]:
    if path is None or not path.exists():
        return []
    return [msgspec.json.decode(line, type=Result) for line in path.read_bytes().splitlines() if line]


def measure(trace: Path, protocol: dict[str, Any], wanted: argparse.Namespace) -> list[Result]:
    arrivals, cluster = read_trace(trace), msgspec.convert(protocol["cluster"], Cluster)
    results = kept(wanted.runs)
    there = {(one.policy, one.sigma, one.load, one.seed) for one in results}
    for setting in protocol["settings"]:
        if setting["name"] not in wanted.settings.split(","):
            continue
        shape = msgspec.convert({**protocol["workload"], "sigma": setting["sigma"], "load": setting["load"]}, Shape)
        for seed in map(int, wanted.seeds.split(",")) if wanted.seeds else protocol["seeds"]:
            for policy in wanted.policies.split(",") if wanted.policies else protocol["policies"]:
                if (policy, shape.sigma, shape.load, seed) in there:
                    continue
                workload = draw(arrivals, cluster, shape, seed)
                times = {
                    "tick": protocol["tick_seconds"],
                    "hints": protocol["hint_seconds"],
                    "tail": protocol["tail_tick_seconds"],
                }
                found, _ = run(workload, policy, **times)
                results.append(found)
                delay = found.first_batch_seconds.mean
                print(
                    f"{setting['name']} {policy} {seed}: local {found.local_share:.3f}, {delay:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                if wanted.runs is not None:
                    with wanted.runs.open("ab") as file:
                        file.write(msgspec.json.encode(found) + b"\n")
    return results


def bounds(one: Interval) -> str:
    return f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


def show(name: str, found: dict[str, dict[int, Result]]) -> None:
    for policy, runs in found.items():
        local = Interval.of([run.local_share for run in runs.values()])
        remote = Interval.of([run.remote_bytes / run.read_bytes for run in runs.values()])
        delay = Interval.of([run.first_batch_seconds.mean for run in runs.values()])
        last = max(run.first_batch_seconds.most for run in runs.values())
        print(
            f"{name:<7} {policy:<13} {len(runs):>2} seeds  local {bounds(local)}  remote/read {bounds(remote)}  "
            f"first batch {delay.mean:.0f} s ({delay.low:.0f} to {delay.high:.0f}), last {last:.0f} s"
        )
    for one in comparisons([one for runs in found.values() for one in runs.values()]):
        which = "remote bytes" if one.baseline_local > MOSTLY else "local bytes"
        print(
            f"{name:<7} against {one.baseline:<13} local x {bounds(one.local)}  remote / {bounds(one.remote)}  "
            f"first batch x {bounds(one.delay)}  (bound on {which})"
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trace", type=Path)
    p.add_argument("--runs", type=Path)
    p.add_argument("--settings", default="main,narrow,wide,light")
    p.add_argument("--policies")
    p.add_argument("--seeds")
    args = p.parse_args()
    protocol = msgspec.json.decode(PROTOCOL.read_bytes())
    results = measure(args.trace, protocol, args)
    for setting in protocol["settings"]:
        found = dict[str, dict[int, Result]]()
        for one in results:
            if (one.sigma, one.load) == (setting["sigma"], setting["load"]):
                found.setdefault(one.policy, {})[one.seed] = one
        if found:
            show(setting["name"], found)


if __name__ == "__main__":
    main()
