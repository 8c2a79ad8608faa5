"""The entry point. Commands are imported when they are called: `forebay --help` loads none of them."""

from __future__ import annotations

import importlib
import sys

import click

import forebay

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("forebay.cli.machine.up", "Mount the datasets of YAML files and keep them cached."),
    "down": ("forebay.cli.machine.down", "Unmount datasets and stop their processes; the cache stays."),
    "status": ("forebay.cli.machine.status", "Show what is up: mounts, processes, cache, trouble."),
    "ls": ("forebay.cli.machine.look", "List a directory of a dataset."),
    "stat": ("forebay.cli.machine.look", "Show one file: store, key, version, how much is cached."),
    "cat": ("forebay.cli.machine.look", "Write a file of a dataset to stdout, mount or no mount."),
    "warm": ("forebay.cli.machine.warm", "Fetch a dataset or a part of it into the cache."),
    "worker": ("forebay.cli.processes.worker", "What the pods of a dataset's workers run."),
    "drain": ("forebay.cli.machine.drain", "Move what a node owns to the other nodes, then stop it."),
    "refresh": ("forebay.cli.machine.warm", "Ask the store again at the next look."),
    "check": ("forebay.cli.check", "Validate YAML files without touching a store."),
    "doctor": ("forebay.cli.machine.doctor", "Look for what would keep forebay from working, or from being fast."),
    "csi": ("forebay.cli.processes.csi", "Serve this node's kubelet as CSI driver forebay.io."),
    "mounts": ("forebay.cli.processes.csi", "Keep the mounts of this node for the CSI driver."),
    "sim": ("forebay.cli.sim.command", "Replay recorded workloads through the planner, without a cluster."),
    "controller": ("forebay.cli.processes.controller", "Keep the datasets of a Kubernetes cluster as their objects say."),
    "scheduler": ("forebay.cli.processes.scheduler", "Place pods of a Kubernetes cluster."),
    "uninstall": ("forebay.cli.uninstall", "Let go of the datasets of a Kubernetes cluster, before forebay leaves it."),
    "webhook": ("forebay.cli.processes.webhook", "Answer the API server before it takes datasets' objects and pods."),
    "why": ("forebay.cli.why", "Say why a pod or a gang waits, and what would change it."),
    "completion": ("forebay.cli.completion", "Print the completion script of bash, zsh or fish."),
    "demo": ("forebay.cli.demo.command", "Show all of it on this machine, with stores made for the occasion."),
}


class Lazy(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "`forebay --help` lists the commands."
            raise click.UsageError(f'there is no command "{args[0]}": {hint}', ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  forebay check -f dataset.yaml        is the file right?
  forebay up -f dataset.yaml           mount it at /mnt/forebay/<namespace>/<name>
  forebay status                       what is up, what is cached
  forebay warm imagenet:/train         fetch a part ahead
  forebay down                         unmount everything; the cache stays warm

\b
Exit codes: 0 done, 1 error (one sentence on stderr), 2 wrong usage, 130 interrupted.""",
)
@click.version_option(forebay.__version__, "-V", "--version", prog_name="forebay")
def cli() -> None:
    """Data from any store as one local tree, at the local disk's speed.

    A dataset is declared in YAML (Fluid's Dataset): object stores, HTTP trees and directories, merged into one tree.
    forebay caches it on local disks and shows it through a mount.
    """


def main() -> None:
    run(cli)


def run(command: click.Command) -> None:
    """Run a program's command; a broken pipe of the reader ends it quietly."""
    try:
        code = command.main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.Abort:
        click.echo("forebay: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as e:  # the system's sentence; a defect of ours keeps its traceback
        click.echo(f"forebay: {e.strerror or e}{f': {e.filename}' if e.filename else ''}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
