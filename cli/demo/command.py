"""`forebay demo`: three stores made for the occasion, one tree, mounted, read cold and warm, every byte verified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import xxhash

from forebay.cli.demo import stores
from forebay.cli.demo.stores import File, Origin
from forebay.cli.output import CommandError, emit_json, say, size, table

MANIFEST = """\
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata:
  name: demo
spec:
  mounts:
  - name: wheels
    mountPoint: s3://{bucket}/
    path: /wheels
    options:
      endpoint: {s3}
      region: us-east-1
    encryptOptions:
    - name: access_key
      valueFrom: {{secretKeyRef: {{name: demo-keys, key: id}}}}
    - name: secret_key
      valueFrom: {{secretKeyRef: {{name: demo-keys, key: secret}}}}
  - name: python
    mountPoint: {http}
    path: /python
  - name: docs
    mountPoint: local://{docs}
    path: /docs
    options:
      forebay.io/freshness: immutable
---
apiVersion: v1
kind: Secret
metadata:
  name: demo-keys
stringData:
  id: {key}
  secret: {secret}
"""
LOG_LINES = 20
"""Shown of each log when the demo fails."""
FULL = 300_000_000
SHARES = {"wheels": (0.30, 600), "python": (0.45, 1500), "docs": (0.25, 1200)}
"""Part of --size and, from FULL bytes on, most files of each store: moto answers some hundred requests a second, and a
demo should last a minute."""


class Pass(NamedTuple):
    """One reading of all files of one store."""

    what: str
    store: str
    seconds: float
    files: int
    bytes: int
    wrong: list[str]


@click.command(
    epilog="""\b
Examples:
  forebay demo
  forebay demo --size 1G --keep         look around in the mount; Ctrl-C takes it away
  forebay demo -o json

\b
Needs the demo extra (pip install 'forebay[demo]'), and nginx for a fast HTTP server.
Exit code 1 when a byte differs from its origin."""
)
@click.option("--size", "volume", default="300M", metavar="BYTES", help="How much to fill the stores with (300M).")
@click.option("--keep", is_flag=True, help="Leave everything up until Ctrl-C.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result.")
def demo(*, volume: str, keep: bool, output: str) -> None:
    """Show all of it on this machine, with stores made for the occasion."""
    total = parse_size(volume)
    # a disk rather than what is often a tmpfs: the point is a cache on a disk
    base = "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else None
    work = Path(tempfile.mkdtemp(prefix="forebay-demo-", dir=base))
    if shutil.disk_usage(work).free < 3 * total + (256 << 20):
        work.rmdir()
        raise CommandError(f"{work.parent} has too little room for the demo ({size(3 * total)}): give a smaller --size")
    servers = stores.Servers(work)
    ours = Command(work)
    try:
        wrong = _show(work, servers, ours, total, keep=keep, output=output)
    except CommandError:
        for log in Path(ours.run).glob("*/*/*.log"):
            say(f"--- {log.name}\n" + "".join(log.read_text("utf-8", "replace").splitlines(keepends=True)[-LOG_LINES:]))
        raise
    finally:
        ours.quietly("down")
        servers.close()
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(ours.run, ignore_errors=True)
    if wrong:
        raise CommandError(f"{len(wrong)} files differ from their origin, the first: {wrong[0]}")


class Command:
    """Our own command, with a run directory of its own and shown as typed."""

    def __init__(self, work: Path) -> None:
        self._work = work
        # not below `work`: a socket's address has 107 bytes, $TMPDIR may be long
        self.run = tempfile.mkdtemp(prefix="forebay-demo-", dir="/tmp")
        self._env = {**os.environ, "FOREBAY_RUN_DIR": self.run}

    def __call__(self, *args: str) -> str:
        """Run it, echo it, return its stdout."""
        say(f"$ forebay {' '.join(args)}")
        done = subprocess.run(self._argv(args), env=self._env, cwd=self._work, stdout=subprocess.PIPE, check=False, timeout=120)
        if done.returncode:
            raise CommandError(f"forebay {args[0]} ended with exit code {done.returncode}: see above")
        return done.stdout.decode()

    def quietly(self, *args: str) -> None:
        """Run it for the end of the demo, whatever state that is in."""
        subprocess.run(
            self._argv(args),
            env=self._env,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=120,
        )

    def _argv(self, args: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "forebay.cli.main", *args]


def parse_size(text: str) -> int:
    """Bytes of "300M", "1Gi", "1.5G"; decimal and binary units."""
    from forebay.api.quantity import QuantityError, parse_quantity

    try:
        found = int(parse_quantity(text))
    except QuantityError as e:
        raise click.UsageError(f"--size {text}: {e}") from e
    if found < 1 << 20:
        raise click.UsageError(f"--size {text} is too small to show anything: at least 1M")
    return found


def _show(work: Path, servers: stores.Servers, ours: Command, total: int, *, keep: bool, output: str) -> list[str]:
    begun = time.monotonic()
    origins = _fill(work, servers, total)
    files = sum(len(o.files) for o in origins)
    say(f"three stores with {files} files, {size(sum(o.bytes for o in origins))}, filled in {time.monotonic() - begun:.1f} s\n")
    urls = {o.name: o.url for o in origins}
    manifest = work / "demo.yaml"
    endpoint = urls["wheels"].rsplit("/", 1)[0]
    manifest.write_text(
        MANIFEST.format(
            bucket=stores.BUCKET,
            s3=endpoint,
            http=urls["python"],
            docs=urls["docs"],
            key=stores.ACCESS_KEY,
            secret=stores.SECRET_KEY,
        )
    )
    if output == "text":
        click.echo(manifest.read_text())
    mount = work / "mnt"
    echoed = ours("up", "-f", "demo.yaml", "--mount", str(mount), "--cache-dir", str(work / "cache"))
    if output == "text":
        click.echo(echoed)
    passes = [_read("from the store", o, _straight(o)) for o in origins]
    passes += [_read("mount, cold", o, _tree(mount / o.name)) for o in origins]
    passes += [_read("mount, warm", o, _tree(mount / o.name)) for o in origins]
    passes += [_read("plain disk", o, _tree(o.root)) for o in origins]
    status = json.loads(ours("status", "-o", "json"))
    if output == "text":
        _print_tree(mount, origins)
        _print(passes)
    else:
        emit_json({"passes": [p._asdict() for p in passes], "status": status})
    wrong = [w for p in passes for w in p.wrong]
    if not wrong:
        verified = sum(p.bytes for p in passes if "mount" in p.what)
        took = time.monotonic() - begun
        say(f"every byte read through the mount ({size(verified)}) is the one its origin has; {took:.0f} s in all")
    if keep:
        _stay(ours.run, mount)
    return wrong


def _fill(work: Path, servers: stores.Servers, total: int) -> list[Origin]:
    origins: dict[str, list[File]] = {}
    roots: dict[str, Path] = {}
    for name, top, skip in stores.sources():
        share, count = SHARES[name]
        roots[name] = work / "origin" / name
        roots[name].mkdir(parents=True)
        count = int(count * min(1.0, max(0.05, total / FULL)))
        origins[name] = stores.collect(top, roots[name], int(share * total), count, skip)
    s3 = servers.start_s3()
    stores.upload(s3, roots["wheels"], origins["wheels"])
    port, server = servers.start_http(roots["python"])
    return [
        Origin("wheels", roots["wheels"], "S3 (moto)", f"http://127.0.0.1:{s3}/{stores.BUCKET}", origins["wheels"]),
        Origin("python", roots["python"], f"HTTP ({server})", f"http://127.0.0.1:{port}/", origins["python"]),
        Origin("docs", roots["docs"], "directory", str(roots["docs"]), origins["docs"]),
    ]


Reader = Callable[[list[File]], Iterator[tuple[File, bytes | memoryview]]]


def _straight(origin: Origin) -> Reader:
    return lambda files: stores.straight(origin, files)


def _tree(top: Path) -> Reader:
    """Reads files below a directory, as any program does: open, read, close."""

    def read(files: list[File]) -> Iterator[tuple[File, bytes | memoryview]]:
        buffer = memoryview(bytearray(max((f.size for f in files), default=0) + 1))
        for file in files:
            got = 0
            try:
                with open(top / file.name, "rb", buffering=0) as f:
                    while count := f.readinto(buffer[got:]):
                        got += count
            except OSError as e:
                raise CommandError(f"{top / file.name} cannot be read at byte {got}: {e.strerror}") from e
            yield file, buffer[:got]

    return read


def _read(what: str, origin: Origin, reader: Reader) -> Pass:
    """One pass over a store's files, each hashed and compared with what was put there."""
    wrong = []
    read = 0
    begun = time.perf_counter()
    for file, data in reader(origin.files):
        read += len(data)
        if xxhash.xxh3_128_digest(data) != file.digest:
            wrong.append(f"{what}: {origin.name}/{file.name} {_difference(origin, file, data)}")
    return Pass(what, f"{origin.name}: {origin.kind}", time.perf_counter() - begun, len(origin.files), read, wrong)


def _difference(origin: Origin, file: File, data: bytes | memoryview) -> str:
    """Where wrong bytes begin, for whoever has to find out why."""
    right = (origin.root / file.name).read_bytes()
    at = next((i for i, (a, b) in enumerate(zip(right, data, strict=False)) if a != b), min(len(right), len(data)))
    zeros = "zeros" if not any(data[at:]) else "other bytes"
    return f"({len(data)} bytes of {file.size}, {zeros} from byte {at})"


def _print_tree(mount: Path, origins: list[Origin]) -> None:
    """The mounted tree as the kernel shows it: two levels, files and bytes below each folder."""
    click.echo(f"{mount}")
    for origin in origins:
        click.echo(f"├── {origin.name}/  {origin.kind}")
        entries = sorted(os.scandir(mount / origin.name), key=lambda e: (not e.is_dir(), e.name))
        for entry in entries[:6]:
            click.echo(f"│   ├── {entry.name}{'/' if entry.is_dir() else f'  {size(entry.stat().st_size)}'}")
        rest = f"… {len(entries) - 6} more; " if len(entries) > 6 else ""
        click.echo(f"│   └── {rest}{len(origin.files)} files, {size(origin.bytes)} in all")
    click.echo("")


def _print(passes: list[Pass]) -> None:
    """MB/s and files/s of each store and of all together, one column for each way of reading."""
    ways = list(dict.fromkeys(p.what for p in passes))
    groups = {name: [p for p in passes if p.store == name] for name in dict.fromkeys(p.store for p in passes)}
    groups["all three"] = passes
    rows = []
    for name, group in groups.items():
        cells = []
        for way in ways:
            these = [p for p in group if p.what == way]
            seconds = sum(p.seconds for p in these)
            cells.append(f"{sum(p.bytes for p in these) / seconds / 1e6:.0f} · {sum(p.files for p in these) / seconds:.0f}")
        of_one = [p for p in group if p.what == ways[0]]
        rows.append((name, str(sum(p.files for p in of_one)), size(sum(p.bytes for p in of_one)), *cells))
    columns = ("MB/s · files/s", "files", "bytes", *ways)
    table(columns, rows, right=columns[1:])


def _stay(run: str, mount: Path) -> None:
    say(f"\nkept: {mount}; with FOREBAY_RUN_DIR={run} every command works. Ctrl-C takes it all away.")
    try:
        signal.pause()  # until Ctrl-C; the caller takes everything away
    except KeyboardInterrupt:
        say("")
