"""`forebay sim jobs` and `forebay sim replay`: gangs that read datasets under a virtual clock; dumped passes once more."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forebay.cli.output import CommandError, emit_json, say, table

if TYPE_CHECKING:
    from forebay.scheduler.jobs.measure import Comparison, Interval, Result
    from forebay.scheduler.jobs.simulation import Outcome

POLICIES = ("forebay", "fluid", "fluid-spread", "affinity", "affinity-passing")
TB = 1e12
NUMPY = "the planner needs NumPy, which is not installed: pip install 'forebay[scheduler]'"


def _seeds(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Comma-separated whole numbers, each once, in the order given."""
    del ctx, param
    try:
        return list(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f'"{value}" is no list of seeds: write numbers with commas, such as 1,2') from None


def _policies(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    del ctx, param
    names = list(dict.fromkeys(value.split(",")))
    if unknown := [name for name in names if name not in POLICIES]:
        raise click.BadParameter(f'there is no policy "{unknown[0]}": choose of {", ".join(POLICIES)}')
    return names


@click.command(
    epilog="""\b
Examples:
  forebay sim jobs --trace philly_jobs.csv
  forebay sim jobs --trace philly_jobs.csv --policy forebay,affinity --seeds 1,2,3 --load 0.5 -o json
  forebay sim jobs --trace philly_jobs.csv --policy forebay --dump passes.jsonl.gz --report jobs.html

\b
One line a policy and seed. What is modelled and how: docs/locality.md."""
)
@click.option(
    "--trace", "trace_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="Jobs, a CSV with the columns arrival_s and scale_factor.",
)  # fmt: skip
@click.option(
    "--policy", "policies", callback=_policies, default="forebay,fluid,affinity", show_default=True,
    help="forebay, fluid, fluid-spread, affinity, affinity-passing; several with commas.",
)  # fmt: skip
@click.option("--seeds", callback=_seeds, default="1", show_default=True, help="What is drawn: such as 1,2,3.")
@click.option("--sigma", type=float, default=1.0, show_default=True, help="Of the datasets' lognormal sizes.")
@click.option("--load", type=float, default=0.9, show_default=True, help="Cards' time asked for, of what the cluster has.")
@click.option("--jobs", "count", type=click.IntRange(min=0), default=3000, show_default=True, help="Jobs in a row; 0 for all.")
@click.option(
    "--nodes", type=click.IntRange(min=1), default=64, show_default=True, help="Nodes of 8 cards, 2 TB cache, 100 Gb/s."
)
@click.option("--datasets", type=click.IntRange(min=1), default=200, show_default=True, help="Datasets, by Zipf rank.")
@click.option("--median", type=click.IntRange(min=1), default=200, show_default=True, help="Median size of a dataset in GB.")
@click.option("--dump", "dump_file", type=click.Path(dir_okay=False, path_type=Path), help="Write passes of forebay; one seed.")
@click.option(
    "--dump-every", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Virtual seconds between them."
)
@click.option("--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def jobs(
    *,
    trace_file: Path,
    policies: list[str],
    seeds: list[int],
    sigma: float,
    load: float,
    count: int,
    nodes: int,
    datasets: int,
    median: int,
    dump_file: Path | None,
    dump_every: float,
    report_file: Path | None,
    output: str,
) -> None:
    """Run recorded gangs that read datasets on a modelled cluster: how much is read near, how long until the first batch?"""
    try:
        from forebay.scheduler import snapshot
        from forebay.scheduler.jobs import measure, report, workload
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError(NUMPY) from None
    if dump_file is not None and (len(seeds) > 1 or "forebay" not in policies):
        raise click.UsageError("--dump writes the passes of one run of forebay: give one seed, and forebay among the policies")
    found: list[tuple[Result, Outcome]] = []
    try:
        trace = workload.read_trace(trace_file)
        shape = workload.Shape(datasets=datasets, median_bytes=median * 10**9, sigma=sigma, load=load, jobs=count)
        for seed in seeds:
            work = workload.draw(trace, workload.Cluster(nodes=nodes), shape, seed)
            for policy in policies:
                with contextlib.ExitStack() as stack:
                    dump = None
                    if dump_file is not None and policy == "forebay":
                        dump = stack.enter_context(snapshot.Writer(dump_file, f"sim jobs, seed {seed}"))
                    result, outcome = measure.run(work, policy, dump=dump, every=dump_every)
                found.append((result, outcome))
                if output == "json":
                    emit_json(_plain(result), pretty=False)
    except ValueError as e:  # a trace, a workload or a cluster that is wrong
        raise CommandError(str(e)) from None
    results = [result for result, _ in found]
    if report_file is not None:
        report_file.write_text(report.page(found, measure.comparisons(results)), encoding="utf-8")
    if output == "text":
        _show(results, measure.comparisons(results))


def _plain(result: Result) -> object:
    import msgspec

    return msgspec.to_builtins(result, str_keys=True)


def _show(results: list[Result], compared: list[Comparison]) -> None:
    rows = [
        [
            one.policy,
            str(one.seed),
            f"{one.local_share:.1%}",
            f"{one.remote_bytes / one.read_bytes:.1%}",
            f"{(one.prefetch_peer_bytes + one.prefetch_store_bytes) / TB:.1f}",
            f"{one.first_batch_seconds.mean:.0f}",
            f"{one.first_batch_seconds.p50:.0f}",
            f"{one.first_batch_seconds.p99:.0f}",
            f"{one.first_batch_seconds.most:.0f}",
            f"{one.seconds:.1f} s",
        ]
        for one in results
    ]
    say("Read from the own node's cache; moved to nodes, of what was read; of it prefetched; seconds from arrival to first batch")
    columns = ["policy", "seed", "local", "moved", "ahead TB", "mean", "median", "99 %", "last", "time"]
    table(columns, rows, right=columns[1:])
    for one in compared:
        say(
            f"forebay against {one.baseline}: local bytes x {_bounds(one.local)}, moved bytes / {_bounds(one.remote)}, "
            f"mean time to first batch x {_bounds(one.delay)}"
        )


def _bounds(one: Interval) -> str:
    return f"{one.mean:.2f}" if one.low == one.high else f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})"


@click.command(
    epilog="""\b
Examples:
  forebay sim replay passes.jsonl.gz
  forebay sim replay passes.jsonl.gz -o json

\b
Exit code 1 if a pass decides otherwise than it did."""
)
@click.argument("dump", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def replay(*, dump: Path, output: str) -> None:
    """Decide dumped passes once more; each must come out the same, byte for byte."""
    try:
        from forebay.scheduler import snapshot
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError(NUMPY) from None
    passes, plans, other = 0, 0, list[float]()
    try:
        for record in snapshot.read(dump):
            passes += 1
            plans += len(record.decision.plans)
            if not snapshot.again(record):
                other.append(record.snapshot.now)
    except ValueError as e:  # no dump, or books that do not add up
        raise CommandError(str(e)) from None
    if output == "json":
        emit_json({"passes": passes, "plans": plans, "different_at": other}, pretty=False)
    if other:
        times = ", ".join(f"{at:.0f}" for at in other[:5])
        raise CommandError(f"{dump}: {len(other)} of {passes} passes decide otherwise, at {times} s: the planner is another one")
    if output == "text":
        say(f"{passes} passes with {plans} plans decide the same, byte for byte")
