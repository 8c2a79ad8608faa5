"""docs/cli.md, made from the commands' own help: `python -P -m forebay.cli.reference > docs/cli.md`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click

from forebay.cli.kubectl.main import COMMANDS as PLUGIN
from forebay.cli.kubectl.main import cli as plugin
from forebay.cli.main import COMMANDS, cli

HEAD = """\
# Commands

Made by `python -P -m forebay.cli.reference`; a test holds it to the commands' own help.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 error (one sentence that says what to do next),
2 wrong usage, 130 interrupted. `-o json` prints JSON: one document, or one object a line where results stream (`ls`, `warm`).
"""


def text() -> str:
    """The whole page."""
    parts = [HEAD, _help("forebay", cli)]
    for name, (module, _) in COMMANDS.items():
        parts += _helps(f"forebay {name}", getattr(importlib.import_module(module), name))
    parts.append(_help("kubectl forebay", plugin))
    for name, module in PLUGIN.items():
        parts += _helps(f"kubectl forebay {name}", getattr(importlib.import_module(module), name))
    return "\n".join(parts)


def _helps(path: str, command: click.Command) -> Iterator[str]:
    """A command's help, then that of those below it."""
    yield _help(path, command)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _helps(f"{path} {name}", below)


def _help(path: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=path, terminal_width=110, max_content_width=110, help_option_names=["-h", "--help"]
    )
    return f"## {path}\n\n```\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    print(text(), end="")
