"""What every figure needs: where things are, how long to measure, and where results go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import procs
import stores
from data import Data
from measure import Reader, Result
from peers.base import Peer, Place, unmount


@dataclass(frozen=True)
class Effort:
    rounds: int = 5
    cold_rounds: int = 3
    epoch_seconds: float = 6.0  # a slow thing's epoch is cut here and counted as a rate
    random_seconds: float = 0.6


QUICK = Effort(rounds=3, cold_rounds=1, epoch_seconds=3.0, random_seconds=0.3)


@dataclass
class Bench:
    build: Path
    folder: Path  # of this run; removed at the end
    token: str
    data: Data
    store: stores.Store
    reader: Reader
    effort: Effort
    figures: set[str]
    out: Path
    machine: dict[str, Any]
    results: list[Result] = field(default_factory=list)

    def wants(self, *figures: str) -> bool:
        return any(f in self.figures for f in figures)

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def probe(self) -> Result:
        return self.reader("probe")

    def record(self, figure: str, thing: str, row: Result, per: str = "copy") -> None:
        """Keep a row, with its rate as a quotient of what the machine itself does in the same minute.

        `per`: "copy" for bytes, "syscalls" or "wakeups" for small requests.
        """
        probe = self.probe()
        row = {"figure": figure, "thing": thing, **row, "probe": probe}
        if "rate" in row:
            row["per_probe"] = row["rate"] / probe[per]
        self.results.append(row)
        self.say(f"  {figure:<16} {thing:<16} {brief(row)}")
        self.save()

    def save(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps({"machine": self.machine, "results": self.results}, indent=1))
        part.replace(self.out)

    @contextmanager
    def guarded(self, figure: str, thing: str) -> Iterator[None]:
        """A peer that fails one figure keeps its others; the failure is a row."""
        try:
            yield
        except (RuntimeError, OSError, subprocess.SubprocessError) as e:
            if os.environ.get("BENCH_DEBUG"):
                traceback.print_exc()
            self.record(figure, thing, {"error": f"{type(e).__name__}: {e}"})

    @contextmanager
    def ready(self, kind: type[Peer], bucket: str, store: stores.Store | None = None) -> Iterator[Peer]:
        """A prepared, unmounted, cold peer in a folder of its own."""
        label = f"{kind.name}-{bucket.replace('+', '')}"
        place = Place(self.folder / label, self.build, f"{self.token}.{label}")
        peer = kind(place, store or self.store, bucket)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, place.folder, ignore_errors=True)
            undo.callback(procs.end, place.token)
            undo.callback(unmount, place.dir)
            undo.callback(_quietly, peer.finish)
            undo.callback(_quietly, peer.unmount)
            peer.prepare(self.data.plain(bucket))
            yield peer

    def reader_of(self, peer: Peer) -> Reader:
        return Reader(self.reader.binary, getattr(peer, "runner", ()), self.reader.timeout)


def _quietly(step: Any) -> None:
    """An undo step must not keep the following ones from running; what it leaves, they end."""
    with contextlib.suppress(RuntimeError, OSError, AttributeError, subprocess.SubprocessError):
        step()


def brief(row: Result) -> str:
    if "error" in row:
        return f"failed: {row['error'][:300]}"
    parts = []
    for key, form in (("rate", "{:,.4g}/s"), ("ratio", "ratio {:.3f}"), ("cpu_per_unit", "cpu/unit {:.3g}"), ("s", "{:.3f} s")):
        if row.get(key) is not None:
            parts.append(form.format(row[key]))
    if "rss" in row:
        parts.append(f"RssAnon {row['rss'] / 1e6:.1f} MB")
    if row.get("wrong"):
        parts.append(f"WRONG BYTES in {row['wrong']} of {row['compared']}")
    return ", ".join(parts)
