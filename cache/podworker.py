"""A worker in a pod: its spec comes from a ConfigMap and Secrets, its directories from the node, its orders from files.

    forebay worker run --config FILE --credentials DIR --run-dir DIR --address IP --data-port N --control-port N --node NAME

The spec stays in memory: it has credentials by then, and the node shares the run directory. Exit status: 0 after SIGTERM,
or once it was told to leave and owns nothing any more; 2 for what a restart does not heal, with one sentence last on stderr
(the kubelet shows it); anything else is a defect.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

import msgspec
import trio

from forebay.api.podconfig import LEAVING, ORDERS_DIR
from forebay.cache.disk.index import IndexError_
from forebay.cache.disk.tiers import CacheDirError
from forebay.cache.follow import EVERY, Followed, PodFiles
from forebay.cache.log import Lines, log
from forebay.cache.members.node import DRAINED
from forebay.cache.members.roster import join_address
from forebay.cache.peers import controlwire as c
from forebay.cache.peers.wire import Refused
from forebay.cache.stores.base import StoreError
from forebay.cache.telling import Telling
from forebay.cache.worker import CONFIGURATION, Worker, lean, serve, together

AGAIN = 10.0
"""Seconds until a drain that was refused is tried again: other workers may be up by then."""


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """What the pod says on the worker's command line."""

    config: str  # file
    credentials: str  # directory, `<secret>/<key>` below it; it may be missing
    run_dir: str
    address: str
    data_port: int
    control_port: int
    node: str
    orders: str = f"{ORDERS_DIR}/{LEAVING}"


def told_to_leave(path: str) -> str:
    """What the order says (when it was given), "" where there is none."""
    try:
        with open(path, "rb") as f:
            return f.read(256).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def run(pod: Pod) -> int:
    """Serve until SIGTERM, or until it was told to leave and has left."""
    logging.basicConfig(handlers=[Lines()], level=logging.WARNING)
    lean()
    os.umask(0o077)
    if told_to_leave(pod.orders) and not _stay_away(pod.orders):
        return 0
    files = PodFiles(
        pod.config, pod.credentials, node=pod.node,
        listen=join_address(pod.address, pod.data_port), control=join_address(pod.address, pod.control_port),
    )  # fmt: skip
    try:
        told = files.read()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the worker says what is wrong there
            os.unlink(os.path.join(told.spec.index_dir, DRAINED))
        worker = Worker(told.spec, pod.run_dir)
    except OSError as e:
        at = f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e)
        print(f"the worker cannot start: {at}", file=sys.stderr)  # noqa: T201 - what the pod's status shows
        return CONFIGURATION
    except (CacheDirError, ValueError, IndexError_) as e:
        print(e, file=sys.stderr)  # noqa: T201
        return CONFIGURATION
    gc.collect()
    gc.freeze()
    followed = Followed(worker, files, told)

    async def leave() -> None:
        await leaving(worker, pod.orders)

    serve(worker, together(followed.run, Telling(worker, pod.run_dir).run, leave))
    return 0


def _stay_away(orders: str) -> bool:
    """A worker that was told to leave serves nobody: wait until the order is taken back (True) or SIGTERM (False)."""
    ended = threading.Event()
    before = {n: signal.signal(n, lambda *_: ended.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    log("worker", "stays_away", order=told_to_leave(orders))
    while told_to_leave(orders) and not ended.wait(EVERY):
        pass
    for number, handler in before.items():
        signal.signal(number, handler)
    return not ended.is_set()


async def leaving(worker: Worker, orders: str) -> None:
    """When told to leave: give away what it owns, then end. A drain that is refused leaves it as it was, and is tried again."""
    while True:
        await trio.sleep(EVERY)
        order = told_to_leave(orders)
        if not order or worker.node is None or worker.node.orders is None:
            continue
        if worker.node.cluster.owns:
            log("worker", "told_to_leave", order=order)
            error = await trio.to_thread.run_sync(drained, worker.node.orders.drain, abandon_on_cancel=True)
            if error:
                log("worker", "not_drained", error=error, again_in=AGAIN)
                await trio.sleep(AGAIN)
                continue
        worker.ended.set()
        return


def drained(drain: Callable[[c.Drain], object]) -> str:
    """Carry a drain out to its end; why it was refused, "" when it was not."""
    try:
        for _ in drain(c.Drain()):  # type: ignore[attr-defined]
            pass
    except (StoreError, Refused, c.ControlError) as e:
        return str(e)
    return ""
