"""The entry point of the plugin: kubectl finds `kubectl-forebay` on PATH and calls it as `kubectl forebay`."""

from __future__ import annotations

import importlib

import click

import forebay
from forebay.cli.main import run

COMMANDS = {name: f"forebay.cli.kubectl.{name}" for name in ("status", "warm", "grant", "doctor")}


class _Commands(click.Group):
    """Imports a command to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  kubectl forebay status                    the datasets of the namespace, and what keeps one from serving
  kubectl forebay warm corpus:/train        load a part ahead, and watch it
  kubectl forebay grant corpus --to lab     let another namespace refer to it
  kubectl forebay doctor                    is all of it installed and well?

\b
Exit codes: 0 done, 1 error (one sentence on stderr), 2 wrong usage, 130 interrupted.""",
)
@click.version_option(forebay.__version__, "-V", "--version", prog_name="kubectl-forebay")
def cli() -> None:
    """Datasets of a Kubernetes cluster: what serves, what is cached, what to do about the rest."""


def main() -> None:
    run(cli)


if __name__ == "__main__":
    main()
