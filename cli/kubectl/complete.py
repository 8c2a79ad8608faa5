"""`kubectl_complete-forebay`: what kubectl asks for candidates, one a line, and last a directive, as Cobra has it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from click.shell_completion import ShellComplete

from forebay.cli.kubectl.main import cli

NO_FILES = ":4"
"""The shell is not to offer files."""


def candidates(arguments: Sequence[str]) -> list[str]:
    """`arguments`: the words after `kubectl forebay`, the last one unfinished. Each candidate may have a tab and its help."""
    *words, incomplete = arguments or [""]
    found = ShellComplete(cli, {}, "kubectl forebay", "_KUBECTL_FOREBAY").get_completions(list(words), incomplete)
    return [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in found if item.type == "plain"]


def main() -> None:
    for line in (*candidates(sys.argv[1:]), NO_FILES):
        print(line)


if __name__ == "__main__":
    main()
