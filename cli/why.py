"""`forebay why`: what a gang waits for, what starting now would cost, what to free. Reads a dump of the planner's passes."""

from __future__ import annotations

from pathlib import Path

import click

from forebay.cli.output import CommandError, emit_json


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  forebay why job-00042 --dump passes.jsonl.gz
  forebay why job-00042 --dump passes.jsonl.gz --at 3600 -o json

\b
Without --at: the last pass in which the gang waits, else the last in which it runs.""",
)
@click.argument("gang")
@click.option(
    "--dump", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="Passes of the planner, as `forebay sim jobs --dump` writes them.",
)  # fmt: skip
@click.option("--at", type=float, help="The last pass up to this time, in seconds.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the answer.")
def why(*, gang: str, dump: Path, at: float | None, output: str) -> None:
    """Say why a gang waits: failed constraints, nearest plan, expected start, what to free."""
    try:
        import msgspec

        from forebay.scheduler import snapshot
        from forebay.scheduler import why as explain
    except ModuleNotFoundError as e:
        if e.name != "numpy":
            raise
        raise CommandError("the planner needs NumPy, which is not installed: pip install 'forebay[scheduler]'") from None
    best: tuple[int, snapshot.Snapshot] | None = None
    try:
        for record in snapshot.read(dump):
            seen = record.snapshot
            if at is not None and seen.now > at:
                break
            waits = any(one.ask.gang.name == gang for one in seen.waiting) or any(one.gang.name == gang for one in seen.asked)
            rank = 2 if waits else any(one.plan.gang == gang for one in seen.running)
            if best is None or at is not None or rank >= best[0]:
                best = int(rank), seen
        if best is None:
            raise CommandError(f"{dump} has no pass{'' if at is None else f' up to {at:.0f} s'}")
        answer = explain.why(best[1], gang)
    except ValueError as e:
        raise CommandError(str(e)) from None
    if output == "json":
        emit_json({"at": best[1].now, **msgspec.to_builtins(answer)}, pretty=False)
    else:
        click.echo(f"at {best[1].now:.0f} s")
        for line in explain.sentences(answer):
            click.echo(line)
    if answer.state == "unknown":
        raise click.exceptions.Exit(1)
