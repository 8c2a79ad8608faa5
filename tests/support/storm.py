"""Readers that know every right byte, and what befalls the nodes they read from: faults on links, and kill -9."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from clusterlab import ClusterLab, NodeLab
from faultlink import Fault, HttpLink, Kind, Link
from faultserver import Request
from workerlab import MIB, Reader

from forebay.cache.client import DoorError
from forebay.cache.disk.index import BLOCK

HANG = 30.0
"""Seconds of one read from which it counts as hanging."""


@dataclass
class Findings:
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slow: list[str] = field(default_factory=list)  # each wait of over 10 s
    reads: Counter[str] = field(default_factory=Counter)  # by node
    nbytes: int = 0

    def assert_clean(self) -> None:
        assert not self.wrong, self.wrong[:5]
        assert not self.errors, self.errors[:5]
        assert self.slowest < HANG, self.slow


class Verifiers:
    """`per_node` threads on each node, which open, read and compare until `stop`. `files`: path -> its bytes."""

    def __init__(self, nodes: list[NodeLab], files: dict[str, bytes], *, per_node: int = 2, seed: int = 0) -> None:
        self.found = Findings()
        self._files = files
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._began: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(node, f"{node.cluster.node}.{i}", seed * 1000 + i), daemon=True)
            for node in nodes
            for i in range(per_node)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """A thread that does not end was hanging."""
        self._stop.set()
        until = time.monotonic() + 2 * HANG
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        now = time.monotonic()
        with self._lock:
            for who, began in self._began.items():
                self._waited(who, now - began)

    def _waited(self, what: str, seconds: float) -> None:
        self.found.slowest = max(self.found.slowest, seconds)
        if seconds > 10:
            self.found.slow.append(f"{what}: {seconds:.1f} s")

    def _timed(self, who: str, what: str, step: Callable[[], bytes]) -> bytes:
        began = time.monotonic()
        with self._lock:
            self._began[who] = began
        try:
            return step()
        finally:
            with self._lock:
                del self._began[who]
                self._waited(f"{who} {what}", time.monotonic() - began)

    def _run(self, node: NodeLab, who: str, seed: int) -> None:
        rng = random.Random(f"{who} {seed}")
        names = list(self._files)
        while not self._stop.is_set():
            name = rng.choice(names)
            try:
                self._one(node, who, name, rng)
            except DoorError as e:
                self.found.errors.append(f"{time.time():.1f} {who} {name}: {e}")
                self._stop.wait(0.5)
            except Exception as e:  # noqa: BLE001 - a verifier that died would find nothing any more
                self.found.errors.append(f"{time.time():.1f} {who} {name}: {type(e).__name__} {e}")
                self._stop.wait(0.5)

    def _one(self, node: NodeLab, who: str, name: str, rng: random.Random) -> None:
        want = self._files[name]
        reader: list[Reader] = []

        def open_it() -> bytes:
            ino = node.node(name).ino
            opened, fd = node.door.open(ino)
            reader.append(Reader(node.door, ino, opened, fd))
            return b""

        self._timed(who, f"open {name}", open_it)
        (r,) = reader
        try:
            whole = rng.random() < 0.3
            at = 0 if whole else rng.randrange(len(want))
            for _ in range(1 << 20 if whole else 8):
                length = min(rng.randrange(1, MIB), len(want) - at)
                data = self._timed(who, f"read {name} {at}+{length}", lambda at=at, n=length: r.read(at, n))  # type: ignore[misc]
                self.found.reads[node.cluster.node] += 1
                self.found.nbytes += length
                if data != want[at : at + length]:
                    self.found.wrong.append(f"{time.time():.1f} {who} {name} {at}+{length}: {described(data, want, at, r)}")
                at = at + length if whole else rng.randrange(len(want))
                if at >= len(want) or self._stop.is_set():
                    return
        finally:
            r.close()


def described(data: bytes, want: bytes, at: int, reader: Reader) -> str:
    """What wrong bytes look like, and where they were read from."""
    bad = [i for i in range(len(data)) if data[i] != want[at + i]]
    first, last = at + bad[0], at + bad[-1]
    zeros = sum(data[i] == 0 for i in bad) / len(bad)
    piece = data[bad[0] : bad[0] + 64]
    elsewhere = want.find(piece)
    again = os.pread(reader.fd, len(data), at) == want[at : at + len(data)]
    held = os.fstat(reader.fd)
    blocks = f"{first // BLOCK}..{last // BLOCK}"
    where = f"wrong {first}..{last} (blocks {blocks}), {len(bad)} bytes, {zeros:.0%} zeros, found at {elsewhere}"
    file = f"{os.readlink(f'/proc/self/fd/{reader.fd}')} of {held.st_size}, {held.st_blocks * 512} allocated"
    return f"{where}, {file}, opened as complete {reader.opened.complete}, {'right' if again else 'wrong'} when read again"


class Weather:
    """Plans of links: of each hundred requests `share` meet a fault of one of `kinds`, drawn by a seed."""

    def __init__(self, share: float, seed: int) -> None:
        self.share = share
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    def plan(self, *kinds: Kind, stall: float = 4.0) -> Callable[[object], Fault | None]:
        def plan(_: Request | object) -> Fault | None:
            with self._lock:
                rng = self._rng
                if rng.random() * 100 >= self.share:
                    return None
                kind = rng.choice(kinds)
                if kind == "delay":
                    return Fault(kind, seconds=rng.uniform(0.1, 2))
                at = rng.choice((-1, 0, rng.randrange(1 << 23))) if kind != "corrupt" else rng.randrange(1 << 23)
                return Fault(kind, at, seconds=rng.uniform(0.5, stall))

        return plan


ALL_BUT_CORRUPT: tuple[Kind, ...] = ("delay", "reset", "stall", "truncate", "busy")


class Storm:
    """For `seconds`: one node after the other is killed and started again at once, as its supervisor does it; now and then a
    link is cut, or refuses for up to 3 s. `log` has what was done."""

    def __init__(self, lab: ClusterLab, links: list[Link], *, every: float = 3.0, seed: int = 0) -> None:
        self.log: list[str] = []
        self.kills = 0
        self._lab = lab
        self._links = links
        self._every = every
        self._rng = random.Random(seed)

    def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        rng = self._rng
        while time.monotonic() < until:
            time.sleep(rng.uniform(0.5, 1.5) * self._every / 2)
            node = rng.choice(list(self._lab.nodes.values()))
            self._did(f"kill {node.cluster.node}")
            node.kill()
            self.kills += 1
            node.start(wait=False)
            node.wait()
            if rng.random() < 0.5:
                link = rng.choice(self._links)
                self._did(f"cut {link.address} to {link.target}")
                link.cut()
            elif rng.random() < 0.3:
                link = rng.choice(list(self._lab.links.values()))
                pause = rng.uniform(0.2, 3)
                self._did(f"refuse {link.address} to {link.target} for {pause:.1f} s")
                link.refuse()
                time.sleep(pause)
                link.resume()
        self._did("over")

    def _did(self, what: str) -> None:
        self.log.append(f"{time.time():.1f} {what}")


def calm(links: list[HttpLink]) -> None:
    for link in links:
        link.plan = lambda r: None
