"""The measuring itself: the reader, interleaved rounds, ratios, the machine's own speed in the same minute."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import procs

Result = dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """`prefix` runs it as somebody else or on a given core."""

    binary: Path
    prefix: tuple[str, ...] = ()
    timeout: float = 600.0

    def __call__(self, *args: object) -> Result:
        command = [*self.prefix, str(self.binary), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.timeout, check=False)
        if done.returncode:
            raise RuntimeError(f"reader {' '.join(map(str, args[:2]))}: {done.stderr.strip()[-400:] or done.returncode}")
        result: Result = json.loads(done.stdout)
        return result

    def on(self, *prefix: str) -> Reader:
        return Reader(self.binary, (*self.prefix, *prefix), self.timeout)


@dataclass
class Rounds:
    """Interleaved rounds of one shape on a thing and on its bound. Rates in bytes/s or things/s."""

    thing: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # CPU seconds of thing and reader, one a round
    done: list[float] = field(default_factory=list)  # bytes or things, one a round

    @property
    def rate(self) -> float:
        return statistics.median(self.thing)

    @property
    def bound_rate(self) -> float:
        return statistics.median(self.bound)

    @property
    def ratio(self) -> float:
        """Median of the ratio of each round: what drifts in the machine drifts in both halves of a round."""
        return statistics.median(t / b for t, b in zip(self.thing, self.bound, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        ratios = [t / b for t, b in zip(self.thing, self.bound, strict=True)]
        return min(ratios), max(ratios)

    def row(self, **more: Any) -> Result:
        low, high = self.spread
        return {
            "rate": self.rate,
            "bound": self.bound_rate,
            "ratio": self.ratio,
            "ratio_min": low,
            "ratio_max": high,
            "rounds": len(self.thing),
            "cpu_per_unit": sum(self.cpu) / sum(self.done) if sum(self.done) else None,
            **more,
        }


def interleave(
    rounds: int,
    thing: Callable[[int], Result],
    bound: Callable[[int], Result],
    count: Callable[[Result], float],
) -> Rounds:
    """Thing, bound, bound, thing, thing ... so that neither always comes first."""
    out = Rounds()
    for i in range(rounds):
        order = ("thing", "bound") if i % 2 == 0 else ("bound", "thing")
        for side in order:
            if side == "thing":
                got = thing(i)
                out.cpu.append(got["cpu"])
                out.done.append(count(got))
                out.thing.append(count(got) / got["s"])
            else:
                got = bound(i)
                out.bound.append(count(got) / got["s"])
    return out


def charged(pids: Callable[[], Iterable[int]], read: Callable[[], Result]) -> Result:
    """A reader's result with the CPU time of the thing's processes added to the reader's own."""
    before = procs.cpu_seconds(pids())
    got = read()
    return {**got, "cpu": got["cpu"] + procs.cpu_seconds(pids()) - before}


def drop(paths: Sequence[Path]) -> None:
    """Push files (and all files below directories) out of the page cache. Written pages go to the disk first."""
    for top in paths:
        found = [top] if top.is_file() else [Path(d, f) for d, _, names in os.walk(top) for f in names]
        for path in found:
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:  # sockets, and what vanished meanwhile
                continue
            try:
                with contextlib.suppress(OSError):  # a read-only FUSE file may not know it, and has nothing to write
                    os.fdatasync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def settle(where: Path) -> None:
    """Write everything out, and forget the disk's own metadata pages.

    An ext4 without a journal (many virtual machines' root) gives no inode away again that was deleted in the last minutes:
    each new file looks at every such inode whose table is in memory. After thousands of deletions that was half of all CPU of
    a cold epoch, for everybody who keeps a file an object. What is not in memory it does not look at.
    """
    os.sync()
    device = os.stat(where).st_dev
    try:
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True).name
        fd = os.open(f"/dev/{name}", os.O_RDONLY)
    except OSError:  # not on a disk of its own, or not root: the cost is then everybody's
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
