"""One big object: cold, warm, at random, after a remount, and what it leaves in memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

import procs
from context import Bench
from measure import Reader, Result, charged, drop, interleave, settle
from peers.base import Peer

MIB = 1 << 20
GIB = 1 << 30


def measure(bench: Bench, kind: type[Peer]) -> None:
    """`cold`, `verify`, `seq`, `rand`, `remount-seq`, `rss-big` of one thing."""
    plain = bench.data.plain("big") / bench.data.big
    with bench.ready(kind, "big") as peer:
        reader = bench.reader_of(peer)
        through = peer.root / bench.data.big
        if bench.wants("cold"):
            with bench.guarded("cold", kind.name):
                cold(bench, peer, reader, through, plain)
        else:
            peer.mount()
            reader("seq", through, MIB)
        bench.record("verify-big", kind.name, verify(reader, through, plain))
        if bench.wants("seq"):
            with bench.guarded("seq", kind.name):
                warm_sequential(bench, peer, reader, through, plain)
        if bench.wants("rand"):
            with bench.guarded("rand", kind.name):
                warm_random(bench, peer, reader, through, plain)
        if bench.wants("memory"):
            remembered(bench, peer, "rss-big")
        if bench.wants("remount-seq") and peer.keeps_cache:
            with bench.guarded("remount-seq", kind.name):
                after_remount(bench, peer, reader, through, plain)


def verify(reader: Reader, through: Path, plain: Path) -> Result:
    got = reader("same", through, plain, "-")
    return {"compared": got["n"], "wrong": got["wrong"]}


def timed(command: list[str], size: int) -> Result:
    """A raw client's transfer as a reader's result."""
    before, t = os.times(), time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    s, after = time.monotonic() - t, os.times()
    return {
        "bytes": size,
        "s": s,
        "cpu": after.children_user + after.children_system - before.children_user - before.children_system,
    }


def cold(bench: Bench, peer: Peer, reader: Reader, through: Path, plain: Path, *, figure: str = "cold") -> None:
    """Emptied and mounted anew each round, beside one raw client that writes to the same disk. Leaves the last mount warm."""
    bench.reader("seq", plain, MIB)  # the store reads from its page cache
    size = plain.stat().st_size
    target = peer.place.folder / "curl.out"
    sent: list[float] = []
    mounted: list[float] = []

    def thing(i: int) -> Result:
        if i:
            peer.unmount()
            peer.forget()
        mounted.append(peer.mount())
        settle(peer.place.folder)
        before = procs.sent_bytes(peer.store.pid)
        got = charged(peer.pids, lambda: reader("seq", through, MIB))
        sent.append((procs.sent_bytes(peer.store.pid) - before) / size)
        return got

    def raw(_: int) -> Result:
        settle(peer.place.folder)
        got = timed(peer.store.curl(peer.bucket, bench.data.big, target), size)
        target.unlink()
        return got

    turns = 1 if peer.jvm else bench.effort.cold_rounds  # one takes minutes and shows enough
    rounds = interleave(turns, thing, raw, lambda r: float(r["bytes"]))
    row = rounds.row(sent=statistics.median(sent), mount_s=statistics.median(mounted))
    bench.record(figure, peer.name, per_gib(row))


def per_gib(row: Result) -> Result:
    """CPU seconds per GiB beside every throughput."""
    if row.get("cpu_per_unit") is not None:
        row["cpu_s_per_gib"] = row.pop("cpu_per_unit") * GIB
    return row


def warm_sequential(bench: Bench, peer: Peer, reader: Reader, through: Path, plain: Path) -> None:
    """Both dropped from the page cache, read in by read-ahead, read twice more, then timed in turns."""
    os.sync()
    reader("drop", through)  # by the reader: an ordinary user's mount lets nobody else in
    drop([peer.place.cache, plain])
    for _ in range(3):
        reader("seq", through, MIB)
        bench.reader("seq", plain, MIB)
    rounds = interleave(
        bench.effort.rounds,
        lambda _: charged(peer.pids, lambda: reader("seq", through, MIB)),
        lambda _: bench.reader("seq", plain, MIB),
        lambda r: float(r["bytes"]),
    )
    bench.record("seq", peer.name, per_gib(rounds.row()))


def warm_random(bench: Bench, peer: Peer, reader: Reader, through: Path, plain: Path) -> None:
    """4 KiB, one at a time, everything in the page cache already."""
    reader("seq", through, MIB)
    bench.reader("seq", plain, MIB)
    seconds = bench.effort.random_seconds
    rounds = interleave(
        bench.effort.rounds,
        lambda i: charged(peer.pids, lambda: reader("rand", through, 4096, seconds, i + 1)),
        lambda i: bench.reader("rand", plain, 4096, seconds, i + 1),
        lambda r: float(r["n"]),
    )
    bench.record("rand", peer.name, rounds.row(), per="syscalls")


def after_remount(bench: Bench, peer: Peer, reader: Reader, through: Path, plain: Path) -> None:
    """Unmounted and mounted, nothing else: the first sequential read, beside the plain file."""

    def thing(_: int) -> Result:
        peer.unmount()
        peer.mount()
        return charged(peer.pids, lambda: reader("seq", through, MIB))

    rounds = interleave(
        bench.effort.cold_rounds,
        thing,
        lambda _: bench.reader("seq", plain, MIB),
        lambda r: float(r["bytes"]),
    )
    bench.record("remount-seq", peer.name, per_gib(rounds.row()))


def remembered(bench: Bench, peer: Peer, figure: str) -> None:
    by_process = procs.rss_anon(peer.pids())
    bench.record(figure, peer.name, {"rss": sum(by_process.values()), "by_process": by_process})
