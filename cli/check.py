"""`forebay check`: what admission would say to these files. No store is asked."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from forebay.cli.load import cache_option, file_option, read
from forebay.cli.output import emit_json, say


@click.command(
    epilog="""\b
Examples:
  forebay check -f dataset.yaml
  forebay check -f deploy/ -o json

\b
Exit code 0 with warnings, 1 with errors. Each finding is one sentence: file, line, field, value, remedy."""
)
@file_option
@cache_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def check(*, files: tuple[Path, ...], cache_dir: Path | None, output: str) -> None:
    """Validate YAML files without touching a store."""
    loaded, specs, found = read(files, cache_dir)
    # what only keeps a dataset from being served on this machine, now, is no fault of the file
    here = [msgspec.structs.replace(p, severity="warning") for p in found[len(loaded.problems) :]]
    problems = [*loaded.problems, *here]
    errors = sum(p.severity == "error" for p in problems)
    if output == "json":
        emit_json(
            {
                "problems": [msgspec.to_builtins(p) for p in problems],
                "datasets": [f"{d.namespace}/{d.name}" for d in loaded.datasets],
                "servable": [s.id for s in specs],
            }
        )
    else:
        for problem in problems:
            say(str(problem))
        counts = (counted(len(loaded.datasets), "dataset"), counted(errors, "error"), counted(len(problems) - errors, "warning"))
        click.echo(f"{counts[0]}, {len(specs)} of them can be served here; {counts[1]}, {counts[2]}")
    if errors:
        raise SystemExit(1)


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
