"""What the command says and how: one sentence for an error, a table for a person, JSON for a program."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

EXIT_ERROR = 1


class CommandError(click.ClickException):
    """Ends the command with exit code 1 and one sentence on stderr that says what to do next."""

    exit_code = EXIT_ERROR

    def show(self, file: Any = None) -> None:
        click.echo(f"forebay: {self.format_message()}", file=file or sys.stderr, err=True)


def say(text: str) -> None:
    """A line for a person, on stderr: stdout is for results."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    click.echo(f"forebay: warning: {text}", err=True)


def emit_json(value: Any, *, pretty: bool = True) -> None:
    click.echo(json.dumps(value, indent=2 if pretty else None, default=_plain))


def text_of(name: bytes) -> str:
    """A name for a terminal: what is not UTF-8 or not printable shows as an escape, so that it cannot steer the terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_name(name: bytes) -> dict[str, str]:
    """A name in JSON: `name`, and beside it `name_base64` where the bytes are not UTF-8."""
    try:
        return {"name": name.decode()}
    except UnicodeDecodeError:
        return {"name": name.decode("utf-8", "backslashreplace"), "name_base64": base64.b64encode(name).decode()}


def size(count: float) -> str:
    """Bytes in binary units, as the quotas are written: 1.5Gi."""
    value = float(count)
    for unit in ("B", "Ki", "Mi", "Gi", "Ti"):
        if abs(value) < 1024 or unit == "Ti":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86400}d{total % 86400 // 3600:02d}h"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, right: Iterable[str] = (), title: str = "") -> None:
    """A table as wide as its content, readable in a log as well."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, show_edge=False)
    aligned = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in aligned else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(made)


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write everything to a descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} is no JSON")
