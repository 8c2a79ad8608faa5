"""The scoreboard: ours beside the disk, a raw client and the peers, in one run. `make bench` installs what it needs first.

bench/run.py                              everything (about 40 minutes on two cores)
bench/run.py --quick                      smaller data, fewer rounds
bench/run.py --things forebay,juicefs --figures seq,epoch
bench/run.py --json                       the results on stdout instead of tables
bench/run.py --render bench/out/FILE.json tables of an earlier run
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import data
import procs
import scoreboard
import stores
from context import QUICK, Bench, Effort
from figures import big, far, flat, memory, nodes, small
from measure import Reader
from peers.base import unmount
from peers.catalogue import ALL, OURS, PEERS

HERE = Path(__file__).resolve().parent

FIGURES = {
    "seq": "warm sequential",
    "rand": "warm random 4 KiB",
    "cold": "cold sequential beside curl",
    "remount-seq": "first sequential read after a remount",
    "epoch": "small files, warm",
    "epoch-pinned": "the same, session and reader on one core",
    "epoch-remount": "the same, after a remount",
    "cold-epoch": "small files, cold, one reader",
    "far-epoch": "the same, store 5 ms away",
    "list-first": "list + stat after a cold mount",
    "list-again": "list + stat once more",
    "list-remount": "list + stat after a remount",
    "flat": "one prefix of 100,000 objects: stat, first page, listing",
    "shaped": "cold sequential on a link of 500 MB/s",
    "memory": "RssAnon after reading everything",
    "amplify": "store bytes / dataset bytes: three workers, six cold readers",
    "amplify-kill": "the same, with a worker killed",
    "peer-link": "cold sequential out of another node on a link of 500 MB/s",
    "peer-raw": "the same unshaped, beside nginx to curl",
    "peer-epoch": "first epoch out of other nodes, beside eight connections to a store 5 ms away",
}
BIG = ("seq", "rand", "cold", "remount-seq", "memory")
SMALL = ("epoch", "epoch-pinned", "epoch-remount", "cold-epoch", "list-first", "list-again", "list-remount", "memory")


def machine() -> dict[str, Any]:
    """What the figures depend on; no names."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ""
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "cpu": model,
        "memory_gib": round(memory_kb / (1 << 20)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def file_system(path: Path) -> str:
    done = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def parse(argv: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--figures", help=f"comma-separated, of: {', '.join(FIGURES)}")
    p.add_argument("--things", help=f"comma-separated, of: {', '.join(ALL)}")
    p.add_argument("--peers", help="comma-separated peers beside ours; 'none' for none")
    p.add_argument("--quick", action="store_true", help="a quarter of the data, fewer and shorter rounds")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    p.add_argument("--render", type=Path, metavar="FILE", help="print the tables of an earlier run and stop")
    p.add_argument("--publish", action="store_true", help="with --render: write the figures into docs/performance.md")
    p.add_argument(
        "--hold", metavar="THING:BUCKET[:far|:shaped]", help="mount one thing, say where, wait for Ctrl-C: for profiling"
    )
    p.add_argument("--build", type=Path, default=HERE.parent / ".build", help="where the installer put things (.build)")
    p.add_argument("--where", type=Path, help="where data, caches and mounts go (default: BUILD/bench-data)")
    args = p.parse_args(argv)
    args.figures = _chosen(p, args.figures, FIGURES)
    if args.things:
        args.things = _chosen(p, args.things, ALL)
    else:
        peers = [k.name for k in PEERS] if args.peers is None else [] if args.peers == "none" else _chosen(p, args.peers, ALL)
        args.things = [*(k.name for k in OURS), *peers]
    return args


def _chosen(p: argparse.ArgumentParser, given: str | None, known: dict[str, Any]) -> list[str]:
    names = given.split(",") if given else list(known)
    if unknown := [n for n in names if n not in known]:
        p.error(f"no {', '.join(unknown)}: choose of {', '.join(known)}")
    return names


def compile_reader(build: Path) -> Path:
    source, binary = HERE / "reader.c", build / "bin/reader"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(binary), str(source)], check=True)
    return binary


def measure(bench: Bench, names: list[str]) -> None:
    """One thing after the other: two mounted at once would share the cores and the page cache."""
    for name in names:
        kind = ALL[name]
        if why := kind.missing(bench.build):
            bench.say(f"{name}: left out ({why})")
            continue
        bench.say(f"{name} (trusts names and attributes: {kind.ttl})")
        ours = any(kind is k for k in OURS)
        for figure, wanted, step in (
            ("big", bench.wants(*BIG), big.measure),
            ("small", bench.wants(*SMALL), small.measure),
            ("far-epoch", bench.wants("far-epoch") and (not ours or kind is OURS[0]), far.delayed),
            ("shaped", bench.wants("shaped") and kind is OURS[0], far.shaped),
            ("flat", bench.wants("flat") and kind is OURS[0], flat.measure),
            ("rss", bench.wants("memory") and kind is OURS[0], memory.measure),
            ("nodes", bench.wants(*nodes.FIGURES) and kind is OURS[0], nodes.measure),
        ):
            if wanted:
                with bench.guarded(figure, name):
                    step(bench, kind)


def run(args: argparse.Namespace) -> Bench:
    where = args.where or args.build / "bench-data"
    where.mkdir(parents=True, exist_ok=True)
    reader = Reader(compile_reader(args.build))
    gateway = args.build / "bin/versitygw"
    if not gateway.exists():
        sys.exit("bench: no store: bench/install.sh brings versitygw")
    token = f"forebay-bench-{procs.new_token()}"
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=where))
        folder.chmod(0o755)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        undo.callback(_unmount_below, folder)
        undo.callback(procs.end, token)
        size = data.QUICK if args.quick else data.FULL
        made = data.make(where / ("data-quick" if args.quick else "data"), size)
        store = undo.enter_context(stores.versitygw(gateway, made.root, f"{token}-store", folder / "store.log"))
        about = {**machine(), "file_system": file_system(where), "quick": args.quick, **asdict(size)}
        out = HERE / "out" / time.strftime("%Y%m%d-%H%M%S.json")
        effort = QUICK if args.quick else Effort()
        bench = Bench(args.build, folder, token, made, store, reader, effort, set(args.figures), out, about)
        if args.json:
            bench.say = lambda text: print(text, file=sys.stderr, flush=True)  # type: ignore[method-assign]
        if args.hold:
            hold(bench, *args.hold.split(":"))
        else:
            measure(bench, args.things)
    return bench


def hold(bench: Bench, thing: str, bucket: str, link: str = "near") -> None:
    """Mount and wait, so that a profiler can look at it. Ctrl-C or SIGTERM takes everything back."""
    with ExitStack() as undo:
        store = bench.store
        if link == "far":
            store = undo.enter_context(stores.further(store, far.DELAY_MS, f"{bench.token}-delay", bench.folder / "delay.log"))
        elif link == "shaped":
            gateway, log = bench.build / "bin/versitygw", bench.folder / "shaped.log"
            store = undo.enter_context(stores.shaped(gateway, bench.data.root, f"{bench.token}-shaped", log))
        peer = undo.enter_context(bench.ready(ALL[thing], bucket, store))
        seconds = peer.mount()
        paths = bench.data.small_paths()
        ordered, _ = data.lists(bench.folder / "lists", paths, 3)
        bench.say(f"{thing} up in {seconds:.2f} s at {peer.root}, processes {peer.pids()}, lists in {ordered.parent}")
        signal.pause()


def _unmount_below(folder: Path) -> None:
    """Whatever is still mounted in the run's folder, deepest first: removing the folder must not reach into a mount."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), key=len, reverse=True):
        unmount(Path(point))


def _once(number: int, _: FrameType | None) -> NoReturn:
    """The first signal takes everything back; later ones must not interrupt that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(argv: list[str]) -> int:
    args = parse(argv)
    signal.signal(signal.SIGTERM, _once)
    signal.signal(signal.SIGINT, _once)
    if args.render:
        run_ = json.loads(args.render.read_text())
        print(scoreboard.board(run_["results"]))
        if args.publish:
            page = HERE.parent / "docs/performance.md"
            page.write_text(scoreboard.publish(page.read_text(), run_["machine"], run_["results"]))
        return 0
    try:
        bench = run(args)
    except KeyboardInterrupt:
        print("interrupted; everything was taken back", file=sys.stderr)
        return 130  # as a shell reports Ctrl-C
    if args.json:
        print(json.dumps({"machine": bench.machine, "results": bench.results}, indent=1))
    else:
        print()
        for row in scoreboard.matrix(bench.results):
            print("  ".join(f"{cell:<{42 if i == 0 else 20}}" for i, cell in enumerate(row)).rstrip())
        print()
        print(scoreboard.board(bench.results))
        print(f"\n{bench.machine}\nresults: {bench.out}")
    failed = [line for line in scoreboard.judge(bench.results) if line.ok is False and not line.text.startswith("ahead")]
    return 1 if failed else 0
