"""`forebay ls`, `stat`, `cat`: a dataset through the worker's door. No mount is needed or touched."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from forebay.api import wire
from forebay.cache.client import Door
from forebay.cli.machine.datasets import find, split
from forebay.cli.output import CommandError, emit_json, json_name, size, table, text_of, write_all

PAGE = 500
WINDOW = 8 << 20
"""Bytes asked for at once by `cat` of a file that is not complete: one range of the store."""


@click.command(
    epilog="""\b
Examples:
  forebay ls imagenet
  forebay ls -l imagenet:/train
  forebay ls -o json imagenet:/train | jq -r .name"""
)
@click.argument("target", metavar="NAME[:PATH]")
@click.option("-l", "long", is_flag=True, help="Size, share cached, time and store beside each name.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object a line.")
def ls(*, target: str, long: bool, output: str) -> None:
    """List a directory of a dataset, in the order in which the store gave it."""
    name, path = split(target)
    with find(name).door() as door:
        node = _stat(door, name, path)
        nodes = iter([node]) if node.kind == "file" else _children(door, name, path)
        if output == "json":
            for child in nodes:
                emit_json(_as_json(child), pretty=False)
        elif long:
            rows = [(_size(n), _share(n), _time(n), _shown(n), n.store) for n in nodes]
            table(("size", "cached", "modified", "name", "store"), rows, right=("size", "cached"))
        else:
            for child in nodes:
                click.echo(_shown(child))


@click.command(
    epilog="""\b
Examples:
  forebay stat imagenet:/train/shard-000.tar
  forebay stat -o json imagenet:/train"""
)
@click.argument("target", metavar="NAME:PATH")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def stat(*, target: str, output: str) -> None:
    """Show one file: store, key, version, how much is cached."""
    name, path = split(target)
    with find(name).door() as door:
        node = _stat(door, name, path)
    if output == "json":
        emit_json({"path": os.fsdecode(path).encode("utf-8", "backslashreplace").decode(), **_as_json(node)})
        return
    rows = [
        ("path", text_of(path)), ("kind", node.kind), ("size", f"{node.size} ({size(node.size)})"),
        ("cached", f"{node.cached} ({_share(node)})"), ("modified", _time(node)), ("inode", str(node.ino)),
        ("store", node.store), ("key", text_of(node.key)), ("version", _version(node.version)),
    ]  # fmt: skip
    if node.kind == "dir":
        rows = [row for row in rows if row[0] in ("path", "kind", "inode", "store", "key")]
    for label, value in rows:
        click.echo(f"{label:<9} {value}")


@click.command(
    epilog="""\b
Examples:
  forebay cat imagenet:/labels.csv | head
  forebay cat logs:/2026/11/25.json.gz | zcat"""
)
@click.argument("targets", metavar="NAME:PATH...", nargs=-1, required=True)
def cat(*, targets: tuple[str, ...]) -> None:
    """Write files of a dataset to stdout, mount or no mount."""
    sys.stdout.flush()
    for target in targets:
        name, path = split(target)
        with find(name).door() as door:
            node = _stat(door, name, path)
            if node.kind != "file":
                raise CommandError(f"{target} is a directory: `forebay ls {target}` lists it")
            try:
                _copy(door, node.ino, sys.stdout.fileno())
            except BrokenPipeError:
                raise
            except OSError as e:
                raise CommandError(f"{target}: {e.strerror or e}") from e


def _copy(door: Door, ino: int, out: int) -> None:
    """Every byte of an object to a descriptor, by the kernel where it can."""
    opened, fd = door.open(ino)
    try:
        offset = 0
        while offset < opened.size:
            window = min(WINDOW, opened.size - offset)
            source, cached = fd, True
            if not opened.complete:
                window = min(window, WINDOW - offset % WINDOW)
                got = door.ensure(ino, offset, window, fd)
                if got is not None:
                    source, cached = got
            _send(out, source, offset, window)
            offset += window
            if source != fd:
                if cached:
                    os.close(fd)
                    fd = source
                else:
                    os.close(source)
    finally:
        os.close(fd)


def _send(out: int, source: int, offset: int, length: int) -> None:
    """Exactly [offset, offset+length) of `source`; `OSError` when it is shorter."""
    while length:
        try:
            done = os.sendfile(out, source, offset, length)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOSYS):  # a terminal in append mode, for one
                raise
            data = os.pread(source, min(length, 1 << 20), offset)
            write_all(out, data)
            done = len(data)
        if not done:
            raise OSError(errno.EIO, f"the cache file ends at {offset}, before the object does: try again, and report it")
        offset += done
        length -= done


def _stat(door: Door, name: str, path: bytes) -> wire.Node:
    try:
        reply = door.call(wire.Stat(path=path))
    except OSError as e:
        if e.errno == errno.ENOENT:
            parent = path.rpartition(b"/")[0] or b"/"
            raise CommandError(
                f"{name}:{text_of(path)} does not exist: `forebay ls {name}:{text_of(parent)}` shows what does"
            ) from e
        raise CommandError(f"{name}:{text_of(path)}: {e.strerror or e}") from e
    if not isinstance(reply, wire.Node):
        raise CommandError(f"the worker answered Stat with {type(reply).__name__}: its log may say why")
    return reply


def _children(door: Door, name: str, path: bytes) -> Iterator[wire.Node]:
    after = 0
    while True:
        try:
            reply = door.call(wire.Children(path=path, after=after, limit=PAGE))
        except OSError as e:
            raise CommandError(f"{name}:{text_of(path)}: {e.strerror or e}") from e
        if not isinstance(reply, wire.Page):
            raise CommandError(f"the worker answered Children with {type(reply).__name__}: its log may say why")
        yield from reply.nodes
        if reply.nodes:
            after = reply.nodes[-1].ino
        if reply.complete:
            return


def _as_json(node: wire.Node) -> dict[str, Any]:
    return {
        **json_name(node.name), "kind": node.kind, "size": node.size, "mtime_ns": node.mtime_ns, "cached": node.cached,
        "ino": node.ino, "store": node.store, "key": node.key.decode("utf-8", "backslashreplace"),
        "version": _version(node.version),
    }  # fmt: skip


def _version(version: bytes) -> str:
    """A tag as the store wrote it; a directory's files have packed numbers, which show as hexadecimal digits."""
    text = version.decode("ascii", "replace")
    return text if text.isprintable() and "\ufffd" not in text else version.hex()


def _shown(node: wire.Node) -> str:
    return text_of(node.name) + ("/" if node.kind == "dir" else "")


def _size(node: wire.Node) -> str:
    return "-" if node.kind == "dir" else size(node.size)


def _share(node: wire.Node) -> str:
    if node.kind == "dir":
        return "-"
    return f"{100 * node.cached // node.size if node.size else 100} %"


def _time(node: wire.Node) -> str:
    if not node.mtime_ns:
        return "-"
    return datetime.fromtimestamp(node.mtime_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
