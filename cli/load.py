"""From the YAML files named on the command line to specs, with every finding shown."""

from __future__ import annotations

import os
from pathlib import Path

import click

from forebay.api.manifests.loaded import Loaded
from forebay.api.manifests.manifest import load
from forebay.api.manifests.resolve import resolve
from forebay.api.problem import Problem
from forebay.api.spec import DatasetSpec
from forebay.cli.output import CommandError, say

file_option = click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=True, exists=True, allow_dash=True),
    help="YAML file with Datasets, runtimes and Secrets; may be given several times, - is stdin.",
)  # fmt: skip
cache_option = click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Put every tier and the index below DIR, in place of the paths in the YAML.",
)  # fmt: skip


def default_cache() -> Path:
    """Where caches go when nothing says so: a place that outlives reboots."""
    if os.geteuid() == 0:
        return Path("/var/cache/forebay")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"


def read(files: tuple[Path, ...], cache_dir: Path | None) -> tuple[Loaded, list[DatasetSpec], list[Problem]]:
    """Documents, specs and all findings of these files; nothing is printed and no store is asked."""
    loaded = load([str(f) for f in files])
    specs, problems = resolve(
        loaded,
        cache_dir=str(cache_dir.absolute()) if cache_dir else None,
        default_cache=str(default_cache()),
        environ=os.environ,
        home=Path.home(),
    )
    return loaded, specs, [*loaded.problems, *problems]


REPLICAS = ("spec.replicas", "spec.worker.replicas")
"""Fields of the runtimes that say how many workers a cluster has; `--workers` takes their place."""


def specs_or_fail(files: tuple[Path, ...], cache_dir: Path | None, *, workers: int | None = None) -> list[DatasetSpec]:
    """Specs of valid files: findings go to stderr, an error ends the command. `workers`: how many were asked for."""
    _, specs, problems = read(files, cache_dir)
    if workers is not None:
        problems = [p for p in problems if p.field not in REPLICAS or p.severity == "error"]
    for problem in problems:
        say(str(problem))
    errors = sum(p.severity == "error" for p in problems)
    if errors:
        raise CommandError(f"{errors} error{'s' if errors > 1 else ''} in {', '.join(map(str, files))}: nothing was started")
    if not specs:
        raise CommandError(f"no Dataset in {', '.join(map(str, files))}: `forebay up` needs a document of kind Dataset")
    return specs
