"""The worker: owns a dataset's index, cache directories and stores, and serves its door.

    python -P -m forebay.cache.worker --run-dir RUN [--metrics HOST:PORT]

Exit status: 0 after SIGTERM or SIGINT, 2 when the configuration or a cache directory cannot be used (one sentence on
stderr; starting again does not help), anything else is a defect or a lost disk (start it again).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import lmdb
import trio

from forebay.api import places, wire
from forebay.api.spec import DatasetSpec, decode_spec
from forebay.cache.door import Door
from forebay.cache.engine import Engine
from forebay.cache.fetch import Meter
from forebay.cache.index import Index, IndexError_, boot_id
from forebay.cache.log import log
from forebay.cache.machine import Machine
from forebay.cache.namespace import Namespace
from forebay.cache.records import Records
from forebay.cache.service import DatasetService
from forebay.cache.stores import open_store
from forebay.cache.tiers import CacheDirError, Lock, TierDir, state_of

CONFIGURATION = 2
"""Exit status for what a restart does not heal."""
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

    def __init__(self, spec: DatasetSpec, run_dir: str) -> None:
        self.spec = spec
        self.run_dir = run_dir
        self.started = time.time()
        self.boot = boot_id()
        self.lock = Lock(spec.index_dir)
        self.tiers = [TierDir(i, t) for i, t in enumerate(spec.tiers)]
        self.index = self._open_index()
        self.stores = [open_store(mount) for mount in spec.mounts]
        self.records = Records(self.index, self.boot)
        self.meters = [Meter() for _ in spec.mounts]
        self.machine = Machine([state_of(t, spec) for t in spec.tiers], rng=random.Random())
        self.namespace = Namespace(spec, self.index, self.stores, on_changed=self._changed)
        self.engine = Engine(
            machine=self.machine,
            tiers=self.tiers,
            index=self.index,
            records=self.records,
            namespace=self.namespace,
            meters=self.meters,
            on_evicted=self._evicted,
        )
        self.service = DatasetService(spec, index=self.index, namespace=self.namespace, engine=self.engine, report=self._report)
        self.door = Door(os.path.join(run_dir, places.WORKER_SOCK), self.service)

    def _open_index(self) -> Index:
        live = os.path.join(self.spec.index_dir, "live")
        try:
            index = Index(live)
            with index.env.begin(write=True) as txn:
                index.check_schema(txn)
                raw = txn.get(b"boot", db=index.meta)
                same = raw is not None and int.from_bytes(raw, "big") == self.boot
                clean = txn.get(b"clean", db=index.meta) == b"1"
                txn.delete(b"clean", db=index.meta)
                txn.put(b"boot", self.boot.to_bytes(4, "big"), db=index.meta)
            if raw is not None and not same and not clean:
                index.close()
                shutil.rmtree(live)
                return self._open_index()
            index.env.reader_check()
            return index
        except lmdb.Error as e:
            raise CacheDirError(f"the index {live} cannot be opened ({e}): remove it, or give another --cache-dir") from e

    def _changed(self, event: wire.Changed) -> None:
        self.service.publish(event)

    def _evicted(self, inos: list[int]) -> None:
        for i in range(0, len(inos), 4096):
            self.service.publish(wire.Evicted(inos[i : i + 4096]))

    def _report(self) -> dict[str, object]:
        return {"dataset": self.spec.id, "pid": os.getpid(), "uptime": time.time() - self.started, **self.machine.load()}

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.namespace.run)
                await nursery.start(self.engine.run)
                await nursery.start(self.door.serve)
                nursery.start_soon(self.namespace.run_walk)
                log("worker", "ready", dataset=self.spec.id, pid=os.getpid(), took=round(time.time() - self.started, 3))
                async for number in signals:
                    log("worker", "ending", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
                    break

    def close(self) -> None:
        """The clean end: everything committed and synced, and marked so."""
        self.records.commit()
        self.index.env.sync(True)
        with self.index.env.begin(write=True) as txn:
            txn.put(b"clean", b"1", db=self.index.meta)
        self.index.env.sync(True)
        self.index.close()
        for store in self.stores:
            store.close()
        for tier in self.tiers:
            tier.close()
        self.lock.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="forebay-worker", description="Serve one dataset's cache.")
    parser.add_argument("--run-dir", required=True, help="run directory of the dataset, with spec.json")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there (loopback only)")
    args = parser.parse_args(argv)
    lean()
    os.umask(0o077)
    try:
        spec = decode_spec(Path(args.run_dir, places.SPEC).read_bytes())
        worker = Worker(spec, args.run_dir)
    except (CacheDirError, ValueError, IndexError_) as e:
        print(e, file=sys.stderr)  # noqa: T201 - the one sentence a supervisor passes on
        return CONFIGURATION
    except OSError as e:
        print(f"the dataset cannot be read from {args.run_dir}: {e}", file=sys.stderr)  # noqa: T201
        return CONFIGURATION
    gc.collect()
    gc.freeze()
    trio.run(worker.run)
    worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
