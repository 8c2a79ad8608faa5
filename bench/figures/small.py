"""Many small files: the first epoch, the epochs after it, after a remount, pinned to a core, and listing them."""

from __future__ import annotations

import os
from pathlib import Path

import procs
from context import Bench
from data import SMALL_SIZE, lists
from figures.big import remembered
from measure import Reader, Result, charged, interleave, settle
from peers.base import Peer

FOREVER = 3600.0


def count(result: Result) -> float:
    return float(result["n"])


def measure(bench: Bench, kind: type[Peer]) -> None:
    """`list-first`, `cold-epoch`, `verify-small`, `epoch`, `epoch-pinned`, `epoch-remount`, `list-*`, `rss-small`."""
    plain = bench.data.plain("small")
    ordered, shuffled = lists(bench.folder / "lists", bench.data.small_paths(), bench.effort.rounds + 2)
    with bench.ready(kind, "small") as peer:
        reader = bench.reader_of(peer)
        if bench.wants("list-first"):
            with bench.guarded("list-first", kind.name):
                peer.mount()
                got = reader("walk", peer.root / "tree")
                bench.record("list-first", kind.name, {"rate": count(got) / got["s"], "s": got["s"]}, per="wakeups")
                peer.unmount()
                peer.forget()
        peer.mount()
        if bench.wants("cold-epoch"):
            with bench.guarded("cold-epoch", kind.name):
                cold_epoch(bench, peer, reader, ordered, "cold-epoch")
        settle(peer.place.folder)
        filled = reader("files", peer.root, ordered, SMALL_SIZE, 8, FOREVER)
        bench.record("fill-8", kind.name, {"rate": count(filled) / filled["s"], "s": filled["s"]}, per="wakeups")
        got = reader("same", peer.root, plain, ordered)
        bench.record("verify-small", kind.name, {"compared": got["n"], "wrong": got["wrong"]})
        if bench.wants("epoch"):
            with bench.guarded("epoch", kind.name):
                epochs(bench, peer, reader, shuffled, "epoch")
        if bench.wants("epoch-pinned") and peer.ours:
            with bench.guarded("epoch-pinned", kind.name):
                pinned(bench, peer, reader, shuffled)
        if bench.wants("list-again"):
            with bench.guarded("list-again", kind.name):
                listing(bench, peer, reader, plain)
        if bench.wants("memory"):
            remembered(bench, peer, "rss-small")
        if peer.keeps_cache and bench.wants("epoch-remount"):
            with bench.guarded("epoch-remount", kind.name):
                remounted(bench, peer, reader, shuffled)
        if peer.keeps_cache and bench.wants("list-remount"):
            with bench.guarded("list-remount", kind.name):
                peer.unmount()
                peer.mount()
                got = reader("walk", peer.root / "tree")
                bench.record("list-remount", kind.name, {"rate": count(got) / got["s"], "s": got["s"]}, per="wakeups")


def cold_epoch(bench: Bench, peer: Peer, reader: Reader, ordered: Path, figure: str) -> None:
    """One reader in directory order, nothing cached."""
    if peer.jvm:  # 18 files/s at first, 190 later
        warmup = bench.folder / "warmup.txt"
        warmup.write_text("\n".join(bench.data.warmup_paths()))
        reader("files", peer.root, warmup, SMALL_SIZE, 1, 90)
    settle(peer.place.folder)
    limit = bench.effort.epoch_seconds * 2
    got = charged(peer.pids, lambda: reader("files", peer.root, ordered, SMALL_SIZE, 1, limit))
    row = {"rate": count(got) / got["s"], "files": got["n"], "cpu_per_unit": got["cpu"] / got["n"]}
    bench.record(figure, peer.name, row, per="wakeups")


def epochs(bench: Bench, peer: Peer, reader: Reader, shuffled: list[Path], figure: str, *, bound: Reader | None = None) -> None:
    """Open, read 16 KiB, close, every file once in a new order each round."""
    plain, seconds = bench.data.plain("small"), bench.effort.epoch_seconds
    reader("files", peer.root, shuffled[-1], SMALL_SIZE, 1, seconds)
    (bound or bench.reader)("files", plain, shuffled[-1], SMALL_SIZE, 1, FOREVER)
    rounds = interleave(
        bench.effort.rounds,
        lambda i: charged(peer.pids, lambda: reader("files", peer.root, shuffled[i], SMALL_SIZE, 1, seconds)),
        lambda i: (bound or bench.reader)("files", plain, shuffled[i], SMALL_SIZE, 1, FOREVER),
        count,
    )
    bench.record(figure, peer.name, rounds.row(), per="wakeups")


def pinned(bench: Bench, peer: Peer, reader: Reader, shuffled: list[Path]) -> None:
    """Session and reader on one core, and the plain tree's reader on the same."""
    every = os.sched_getaffinity(0)
    core = max(every)
    procs.pin(peer.pids(), {core})
    try:
        on = ("taskset", "-c", str(core))
        epochs(bench, peer, reader.on(*on), shuffled, "epoch-pinned", bound=bench.reader.on(*on))
    finally:
        procs.pin(peer.pids(), every)


def remounted(bench: Bench, peer: Peer, reader: Reader, shuffled: list[Path]) -> None:
    """Unmounted, mounted, nothing else: the first shuffled epoch."""
    plain, seconds = bench.data.plain("small"), bench.effort.epoch_seconds

    def thing(i: int) -> Result:
        peer.unmount()
        peer.mount()
        return charged(peer.pids, lambda: reader("files", peer.root, shuffled[i], SMALL_SIZE, 1, seconds))

    rounds = interleave(
        bench.effort.cold_rounds,
        thing,
        lambda i: bench.reader("files", plain, shuffled[i], SMALL_SIZE, 1, FOREVER),
        count,
    )
    bench.record("epoch-remount", peer.name, rounds.row(), per="wakeups")


def listing(bench: Bench, peer: Peer, reader: Reader, plain: Path) -> None:
    """List and stat everything again on a mount that has seen it."""
    rounds = interleave(
        bench.effort.rounds,
        lambda _: charged(peer.pids, lambda: reader("walk", peer.root / "tree")),
        lambda _: bench.reader("walk", plain / "tree"),
        count,
    )
    bench.record("list-again", peer.name, rounds.row(), per="syscalls")
