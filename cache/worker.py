"""The worker: owns a dataset's index, cache directories and stores, and serves its door.

    python -P -m forebay.cache.worker --run-dir RUN [--metrics HOST:PORT]

Exit status: 0 after SIGTERM or SIGINT, 2 when the configuration or a cache directory cannot be used (one sentence on
stderr; starting again does not help), anything else is a defect or a lost disk (start it again).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from forebay.api import places, wire
from forebay.api.spec import DatasetSpec, Mount
from forebay.cache.disk.durable import Durability, Reconciler, by_tier, mark_clean, open_index
from forebay.cache.disk.index import IndexError_, boot_id
from forebay.cache.disk.records import Records
from forebay.cache.disk.scrub import INTERVAL, Scrubber
from forebay.cache.disk.tiers import CacheDirError, Lock, TierDir, state_of
from forebay.cache.door import Door
from forebay.cache.fetch.dispatch import FAR_LANES
from forebay.cache.fetch.engine import Engine
from forebay.cache.fetch.lanes import Meter, Source
from forebay.cache.fetch.machine import Machine
from forebay.cache.follow import Followed, Served, SpecFile, Told
from forebay.cache.log import Lines, log
from forebay.cache.report import report
from forebay.cache.service import DatasetService
from forebay.cache.stores import open_store
from forebay.cache.stores.base import Store
from forebay.cache.tree import numbering
from forebay.cache.tree.namespace import Namespace

CONFIGURATION = 2
"""Exit status for what a restart does not heal."""
END_DEADLINE = 1.0
"""Seconds for the last sync: a worker is gone within 2 s of SIGTERM."""
_M_ARENA_MAX, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -8, -1, -3


def lean() -> None:
    """Keep glibc from one heap a thread: lanes would each hold what they freed."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
    except (OSError, AttributeError):
        pass  # another C library: it has no such knobs, and none of this is needed for right answers


class Worker:
    """Everything a dataset's worker holds. Raises `CacheDirError` or `ValueError` for what a restart does not heal."""

    def __init__(
        self, spec: DatasetSpec, run_dir: str, *, metrics: tuple[str, int] | None = None, scrub: float = INTERVAL
    ) -> None:
        self.started = time.time()
        self.metrics = metrics
        boot = boot_id()
        self.lock = Lock(spec.index_dir)
        self.tiers = [TierDir(i, t) for i, t in enumerate(spec.tiers)]
        self.index, self.ledger = open_index(spec.index_dir, boot)
        self.spec = spec = msgspec.structs.replace(spec, mounts=numbering.of(self.index, spec.mounts))
        self.records = Records(self.index, boot, len(self.tiers))
        self.meters = [Meter() for _ in spec.mounts]
        used, count = by_tier(self.index, len(self.tiers), self.records.held_copies)
        self.records.count.update(dict(enumerate(count)))
        node = None
        if spec.cluster is not None:
            from forebay.cache.members.node import Node  # megabytes that a node alone does not need

            node = Node(spec)
        self.node = node
        self.stores = [open_store(mount) for mount in spec.mounts] if node is None else node.stores
        if node is not None:
            self.records.is_copy = node.cluster.is_copy
        states = [state_of(t, spec, n) for t, n in zip(self.tiers, used, strict=True)]
        self.machine = Machine(states, rng=random.Random(), far=None if node is None else node.far)
        self.namespace = Namespace(spec, self.index, self.stores, on_changed=self._changed)
        self.engine = Engine(
            machine=self.machine,
            tiers=self.tiers,
            index=self.index,
            records=self.records,
            namespace=self.namespace,
            meters=self.meters,
            on_evicted=self._evicted,
            source=Source if node is None else node.source,
            far_lanes=0 if node is None else FAR_LANES,
        )
        self.durability = Durability(self.records, self.ledger, self.tiers)
        self.reconciler = Reconciler(self.engine, self.tiers)
        self.scrubber = Scrubber(self.engine, self.tiers, scrub)
        self.service = DatasetService(
            spec, index=self.index, namespace=self.namespace, engine=self.engine,
            report=self.report, suspect=self.scrubber.suspect,
        )  # fmt: skip
        self.namespace.reaper.held = self.service.holds
        self.door = Door(os.path.join(run_dir, places.WORKER_SOCK), self.service)
        self.served: Served | None = None  # what it says of its configuration, where that may change
        self.ended = trio.Event()  # set by who ends it from inside

    def report(self) -> dict[str, object]:
        """What `status` and the metrics show."""
        return report(self) | {
            "cluster": None if self.node is None else self.node.report(),
            "drain": None if self.node is None or self.node.orders is None else self.node.orders.drained.report(),
            "config": None if self.served is None else self.served.report(),
        }

    def take_over(self, wanted: DatasetSpec) -> list[Store]:
        """Serve the mounts of another spec of the dataset from now on, in the trio thread, while readers read.

        Returns stores to be closed once nothing is read of them. Raises `ValueError` with a sentence where a mount cannot be
        opened or more than mounts differs, and has changed nothing then.
        """
        node, mounts = self.node, self.spec.mounts
        if node is None:
            raise ValueError("a worker alone takes nothing over: start it again")
        if msgspec.structs.replace(wanted, mounts=[]) != msgspec.structs.replace(self.spec, mounts=[]):
            raise ValueError("more than the mounts differs from what this worker was started with: start it again")
        new = numbering.numbered(mounts, wanted.mounts)
        if not numbering.continues(mounts, new):
            raise ValueError("too many mounts came and went since this worker's index was made: start it again")
        if new == mounts:
            return []
        again = [n for n, m in enumerate(new) if n >= len(mounts) or reopens(mounts[n], m)]
        replaced = node.remount(new, node.opened(again, new))
        self.meters += [Meter() for _ in new[len(mounts) :]]
        mounts[:] = new
        self.namespace.remount()
        log("worker", "took_over", mounts=[m.path for m in mounts if not m.gone], opened=len(again), taken=len(replaced))
        return replaced

    def _changed(self, event: wire.Changed) -> None:
        self.service.publish(event)

    def _evicted(self, inos: list[int]) -> None:
        inos = [i for i in inos if i]  # of objects that only other nodes asked for no mount here knows
        self.service.reopened.evicted(inos)
        for i in range(0, len(inos), 4096):
            self.service.publish(wire.Evicted(inos[i : i + 4096]))

    async def run(self, follow: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve until SIGTERM or SIGINT. `follow` runs meanwhile: it brings what is to be taken over."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.namespace.run)
                await nursery.start(self.engine.run)
                if self.node is not None:
                    await self.node.start(self)
                    nursery.start_soon(self.node.follow, self.records)
                await nursery.start(self.door.serve)
                if self.metrics is not None:
                    from forebay.cache.metrics import exposition
                    from forebay.cache.metrics import serve as serve_metrics

                    port = await nursery.start(serve_metrics, self.metrics, lambda: exposition(self.report()))
                    log("worker", "metrics", port=port)
                for task in (self.namespace.run_walk, self.durability.run, self.reconciler.run, self.scrubber.run):
                    nursery.start_soon(task)
                log("worker", "ready", dataset=self.spec.id, pid=os.getpid(), took=round(time.time() - self.started, 3))
                if follow is not None:
                    nursery.start_soon(follow)
                nursery.start_soon(self._end_inside, nursery.cancel_scope)
                async for number in signals:
                    log("worker", "ending", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
                    break

    async def _end_inside(self, scope: trio.CancelScope) -> None:
        await self.ended.wait()
        log("worker", "ending", reason="it was drained and told to go")
        scope.cancel()

    def close(self) -> bool:
        """The clean end: everything committed, synced, and marked so. False when the disk was too slow for `END_DEADLINE`.

        Then the index is not marked, which costs nothing in this boot; in the next one the ledger is asked.
        """
        if self.node is not None:
            self.node.close()
        self.records.commit()
        marking = threading.Thread(target=mark_clean, args=(self.index,), daemon=True)
        marking.start()
        marking.join(END_DEADLINE)
        if marking.is_alive():
            log("worker", "not_marked_clean", reason="the disk did not sync in time")
            return False
        self.index.close()
        self.ledger.close()
        for store in self.stores:
            store.close()
        for tier in self.tiers:
            tier.close()
        self.lock.close()
        return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="forebay-worker", description="Serve one dataset's cache.")
    parser.add_argument("--run-dir", required=True, help="run directory of the dataset, with spec.json")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there (loopback only)")
    parser.add_argument(
        "--scrub-interval", type=float, default=INTERVAL, metavar="SECONDS", help="one pass over every checksum (default: 7 days)"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(handlers=[Lines()], level=logging.WARNING)
    lean()
    os.umask(0o077)
    try:
        file = SpecFile(args.run_dir)
        spec = file.read().spec
        metrics = None
        if args.metrics:  # 3 MB and 50 ms of start that most workers never need
            from forebay.cache.metrics import loopback

            metrics = loopback(args.metrics)
        worker = Worker(spec, args.run_dir, metrics=metrics, scrub=max(args.scrub_interval, 0.1))
    except (CacheDirError, ValueError, IndexError_) as e:
        print(e, file=sys.stderr)  # noqa: T201 - the one sentence a supervisor passes on
        return CONFIGURATION
    except OSError as e:
        print(f"the dataset cannot be read from {args.run_dir}: {e}", file=sys.stderr)  # noqa: T201
        return CONFIGURATION
    gc.collect()
    gc.freeze()
    follow = None
    if worker.node is not None:
        from forebay.cache.telling import Telling

        follow = together(Followed(worker, file, Told(spec)).run, Telling(worker, args.run_dir).run)
    serve(worker, follow)
    return 0


def together(*tasks: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """One task of several, none of which ends by itself."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)

    return run


def reopens(old: Mount, new: Mount) -> bool:
    """Whether a mount of the same number is read another way than before."""
    return not new.gone and (old.store, old.options, old.secrets) != (new.store, new.options, new.secrets)


def serve(worker: Worker, follow: Callable[[], Awaitable[None]] | None = None) -> None:
    """Until it ends, and its clean end."""
    trio.run(worker.run, follow)
    if not worker.close():
        os._exit(0)  # a thread sits in fsync: waiting for it would keep `down` waiting


if __name__ == "__main__":
    sys.exit(main())
