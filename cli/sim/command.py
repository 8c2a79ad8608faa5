"""`forebay sim`: recorded workloads through the planner under a virtual clock. Touches no cluster."""

from __future__ import annotations

import time
from pathlib import Path

import click

from forebay.cli.output import CommandError, emit_json, say, table
from forebay.cli.sim import jobs as sim_jobs

MARKS = (25, 50, 75, 90, 100, 110, 120, 130)
"""Demand in % that the table for a person shows."""


@click.group(
    # said here too: click keeps a command's help option from its first use, which need not be through `forebay`
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  forebay sim openb --nodes nodes.csv --pods pods.csv --sequences order.jsonl.gz --policy forebay
  forebay sim jobs --trace philly_jobs.csv
  forebay sim replay passes.jsonl.gz""",
)
def sim() -> None:
    """Replay recorded workloads through the planner, without a cluster."""


sim.add_command(sim_jobs.jobs)
sim.add_command(sim_jobs.replay)


def _file() -> click.Path:
    return click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """Comma-separated whole numbers, each once, in the order given."""
    del ctx, param
    if value is None:
        return None
    try:
        return list(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f'"{value}" is no list of seeds: write numbers with commas, such as 42,43') from None


@sim.command(
    epilog="""\b
Examples:
  forebay sim openb --nodes nodes.csv --pods pods.csv --sequences order.jsonl.gz --policy forebay
  forebay sim openb --nodes nodes.csv --pods pods.csv --sequences order.jsonl.gz --policy fgd --seeds 42,43 -o json

\b
One line a seed. Where the files come from, and what the figures mean: docs/scheduler.md."""
)
@click.option("--nodes", "nodes_file", type=_file(), required=True, help="Nodes: sn, cpu_milli, memory_mib, gpu, model.")
@click.option(
    "--pods", "pods_file", type=_file(), required=True, help="Pods: name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec."
)
@click.option(
    "--sequences", "orders_file", type=_file(), required=True, help="Arrival orders, one JSON object a line; may be gzipped."
)
@click.option("--policy", required=True, help="random, dotprod, clustering, packing, bestfit, fgd or forebay.")
@click.option("--seeds", callback=_seeds, help="Which of the orders, such as 42,43; all by default.")
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def openb(
    *,
    nodes_file: Path,
    pods_file: Path,
    orders_file: Path,
    policy: str,
    seeds: list[int] | None,
    report_file: Path | None,
    output: str,
) -> None:
    """Fill a cluster of GPU-sharing nodes until the demand is past what it has; how much of the GPUs is then allocated?"""
    try:
        from forebay.scheduler import openb as trace
        from forebay.scheduler import openb_report, policies, replay
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError("the planner needs NumPy, which is not installed: pip install 'forebay[scheduler]'") from None
    if policy not in policies.POLICIES:
        raise click.BadParameter(policies.unknown(policy), param_hint="'--policy'")
    try:
        nodes = trace.read_nodes(nodes_file)
        pods = trace.read_pods(pods_file)
        orders = {order.seed: order for order in trace.read_arrivals(orders_file, len(pods), len(nodes))}
        if missing := [seed for seed in seeds or () if seed not in orders]:
            known = ", ".join(map(str, orders))
            raise CommandError(f"{orders_file} has no seed {', '.join(map(str, missing))}: it has {known}")
        curves = list[tuple[int, dict[int, float], float]]()
        for seed in seeds or orders:
            began = time.perf_counter()
            points = replay.openb(nodes, pods, orders[seed], policy).points()
            took = time.perf_counter() - began
            curves.append((seed, points, took))
            if output == "json":
                shown = {str(at): round(value, 6) for at, value in points.items()}
                emit_json({"seed": seed, "allocation": shown, "seconds": round(took, 3)}, pretty=False)
    except ValueError as e:  # a trace that is wrong, a cluster without cards
        raise CommandError(str(e)) from None
    if report_file is not None:
        about = f"{len(pods)} pods of {pods_file.name} on {len(nodes)} nodes of {nodes_file.name}, orders of {orders_file.name}."
        report_file.write_text(openb_report.page(policy, curves, about), encoding="utf-8")
    if output == "text":
        _show(curves, policy)


def _show(curves: list[tuple[int, dict[int, float], float]], policy: str) -> None:
    marks = [mark for mark in MARKS if all(mark in points for _, points, _ in curves)]
    rows = [[str(seed), *(f"{points[mark]:.2f}" for mark in marks), f"{took:.1f} s"] for seed, points, took in curves]
    if len(curves) > 1:
        means = (f"{sum(points[mark] for _, points, _ in curves) / len(curves):.2f}" for mark in marks)
        rows.append(["mean", *means, f"{sum(took for *_, took in curves) / len(curves):.1f} s"])
    columns = ["seed", *(f"at {mark} %" for mark in marks), "time"]
    say(f"GPUs allocated by {policy}, in % of the cluster, against arrived demand in % of the cluster")
    table(columns, rows, right=columns)
