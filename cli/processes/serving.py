"""What commands that run in a cluster until they are told to end have in common: their log, their API server."""

from __future__ import annotations

import logging
import sys

from forebay.cli.output import CommandError
from forebay.kube.config import ConfigError, find
from forebay.kube.transport import Transport


def log_to_stderr(*, verbose: bool) -> None:
    """A line a decision with `verbose`, else those of note."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def connect(kubeconfig: str, agent: str, *, kept: int | None = None) -> Transport:
    """The API server that `--kubeconfig` names. Raises `CommandError` with the sentence of what is wrong with it."""
    try:
        endpoint = find(kubeconfig)
        return Transport(endpoint, agent=agent) if kept is None else Transport(endpoint, agent=agent, kept=kept)
    except ConfigError as error:
        raise CommandError(str(error)) from None
