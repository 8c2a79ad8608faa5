"""`forebay worker load`: what the pod of a DataLoad runs. It asks workers at their control doors, and says how far they are."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from forebay.api import loadresult
from forebay.api.crd.kinds import KINDS, VERSION
from forebay.api.fluid.status import Progress
from forebay.api.loadresult import LoadResult
from forebay.cache.loader import Loader, LoadError, Order, Service, Target
from forebay.cache.log import log
from forebay.cache.peers import controlwire as c
from forebay.cache.peers.auth import Key as Secret
from forebay.cache.peers.auth import load_secret
from forebay.cache.peers.control_client import ControlClient
from forebay.kube.client import Client
from forebay.kube.config import ConfigError, find
from forebay.kube.errors import ApiError, Unreachable, Unusable
from forebay.kube.objects import Key
from forebay.kube.resources import Resource
from forebay.kube.transport import Transport

EVERY = 5.0
"""Seconds between two writes of the progress: a load of hours is worth no more of the API server."""
LONGEST = 120.0
"""Seconds until a write that failed is tried again, at most: the load does not need it."""
CALL = 5.0
ERROR_MOST = 500
"""Characters of an error in a status."""
_LOADS = next(Resource(k.group, VERSION, k.plural, k.kind) for k in KINDS if k.kind == "DataLoad")


class About(NamedTuple):
    """The DataLoad whose progress it is. Without a name nothing is written."""

    namespace: str
    name: str
    uid: str


class Reporter:
    """Writes `status.progress`, and nothing else of the object."""

    def __init__(self, client: Client, about: About, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._about, self._clock = client, about, clock
        self._next, self._failures = 0.0, 0
        self._said: Progress | None = None

    def say(self, progress: Progress, *, last: bool = False) -> None:
        now = self._clock()
        if progress == self._said or (now < self._next and not last):
            return
        namespace, name, uid = self._about
        body = {
            "apiVersion": _LOADS.api_version,
            "kind": _LOADS.kind,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": {"progress": msgspec.to_builtins(progress)},
        }
        try:
            self._client.apply_status(_LOADS, Key(namespace, name), body)
        except (ApiError, Unreachable, Unusable) as e:
            self._failures += 1
            log("load", "not_reported", error=str(e))
        else:
            self._failures, self._said = 0, progress
        self._next = now + min(EVERY * 2**self._failures, LONGEST)


def reporter(about: About) -> Reporter | None:
    """None where nobody is to be told, or can be."""
    if not about.name:
        return None
    try:
        return Reporter(Client(Transport(find(), agent="forebay-loader"), loadresult.MANAGER, deadline=CALL), about)
    except ConfigError as e:
        log("load", "not_reported", error=str(e))
        return None


def numbers(p: c.Progress) -> Progress:
    """Progress as a status has it."""
    percent = 100 if p.finished and not p.failed else min(99, p.bytes * 100 // p.bytes_total) if p.bytes_total else 0
    return Progress(
        total_bytes=p.bytes_total,
        done_bytes=p.bytes,
        total_files=p.files_total,
        done_files=p.files,
        failed_files=p.failed,
        bytes_per_second=round(p.rate),
        eta_seconds=0 if p.finished else msgspec.UNSET if p.eta is None else max(1, round(p.eta)),
        percent=percent,
        last_error=p.error[:ERROR_MOST],
    )


def carried_out(
    loader: Loader, tell: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic
) -> tuple[int, LoadResult]:
    """Loads to the end: (exit code, what is said then)."""
    begun, last = clock(), Progress()
    reason = message = ""
    code = 0
    try:
        for p in _steps(loader):
            last = numbers(p)
            tell(last)
    except LoadError as e:
        reason, message, code = e.reason, str(e), loadresult.FINAL if e.final else 1
    took = clock() - begun
    if not code and took > 0:  # a load that has ended shows its mean
        last = msgspec.structs.replace(last, bytes_per_second=round(last.done_bytes / took))
    notes = "; ".join(loader.notes)
    return code, LoadResult(reason=reason, message=message, notes=notes, milliseconds=round(took * 1000), progress=last)


def _steps(loader: Loader) -> Iterator[c.Progress]:
    for p in loader.run():
        log(
            "load",
            "progress",
            files=p.files,
            files_total=p.files_total,
            bytes=p.bytes,
            bytes_total=p.bytes_total,
            failed=p.failed,
        )
        yield p


def target(text: str) -> Target:
    """`REPLICAS:/PATH`. Raises `click.BadParameter`."""
    replicas, colon, path = text.partition(":")
    if not colon or not replicas.isdigit() or not int(replicas) or not path.startswith("/"):
        raise click.BadParameter(f'"{text}" is no target: write REPLICAS:/PATH, such as 1:/train', param_hint="--target")
    return Target(path.encode("utf-8", "surrogateescape"), int(replicas))


class Asked(NamedTuple):
    """What the command line says."""

    dataset: str
    workers: str
    control_port: int
    secret: str
    order: Order
    report_to: str
    uid: str
    result: str


def run(asked: Asked) -> int:
    """Load, tell, and leave the result; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of a container ignores it otherwise
    try:
        client = ControlClient(Secret(load_secret(asked.secret), asked.dataset))
    except ValueError as e:
        _said(asked.result, LoadResult(reason="SecretUnreadable", message=str(e)))
        return loadresult.FINAL
    told = reporter(About(asked.dataset.partition("/")[0], asked.report_to, asked.uid))
    loader = Loader(client, Service(asked.workers, asked.control_port).addresses, asked.order)
    try:
        code, found = carried_out(loader, told.say if told else lambda _: None)
    finally:
        client.close()
    if told is not None:
        told.say(found.progress, last=True)
    _said(asked.result, found)
    return code


def _said(file: str, found: LoadResult) -> None:
    text = loadresult.encode(found)
    if file:
        Path(file).write_bytes(text)
    else:
        click.echo(text)
    log("load", found.reason or "loaded", error=found.message, notes=found.notes, milliseconds=found.milliseconds)
