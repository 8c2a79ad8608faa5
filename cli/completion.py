"""`forebay completion`: what a shell is to read so that TAB completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class


@click.command(
    epilog="""\b
Examples:
  source <(forebay completion bash)                                          for this shell
  forebay completion bash > /etc/bash_completion.d/forebay                   for everybody
  forebay completion zsh > "${fpath[1]}/_forebay"
  forebay completion fish > ~/.config/fish/completions/forebay.fish

\b
`kubectl forebay` is completed by kubectl itself: it finds kubectl_complete-forebay on PATH."""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the completion script of a shell."""
    from forebay.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, "forebay", "_FOREBAY_COMPLETE")
    click.echo(ShellComplete.source(made))  # bash's own begins by running bash, to look at its version
