"""Several nodes: what leaves the store, how fast bytes come from another node, and a first epoch out of peers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import procs
import stores
from context import Bench
from data import SMALL_SIZE, lists
from figures.big import MIB, per_gib, timed, verify
from figures.far import DELAY_MS
from figures.small import FOREVER, count
from measure import Result, charged, interleave, settle
from pages import memory_at_hand
from peers.base import Place, unmount
from peers.nodes import Nodes

LINK = 500_000_000
STORE_ADDRESS = "198.18.92.1"
"""Of the range reserved for benchmarks, on the loopback device: nodes in namespaces of their own reach it, 127.0.0.1 not."""
CONNECTIONS = 8
FIGURES = ("amplify", "amplify-kill", "peer-link", "peer-raw", "peer-epoch")


def measure(bench: Bench, _: object) -> None:
    """Those of `FIGURES` that are wanted."""
    for figure, step in (
        ("amplify", amplify),
        ("amplify-kill", amplify_kill),
        ("peer-link", peer_link),
        ("peer-raw", peer_raw),
        ("peer-epoch", peer_epoch),
    ):
        if bench.wants(figure):
            with bench.guarded(figure, "forebay"):
                step(bench)


@contextmanager
def ready(
    bench: Bench, bucket: str, store: stores.Store, *, workers: int, views: int, flags: tuple[str, ...] = ()
) -> Iterator[Nodes]:
    """Nodes in a folder of their own, down and cold."""
    label = f"nodes-{bucket.replace('+', '')}"
    place = Place(bench.folder / label, bench.build, f"{bench.token}.{label}")
    nodes = Nodes(place, store, bucket, workers=workers, views=views, flags=flags)
    try:
        yield nodes
    finally:
        try:
            nodes.unmount()
        except (RuntimeError, OSError, subprocess.SubprocessError):
            pass  # what it leaves is ended below
        for view in nodes.views:
            unmount(view)
        procs.end(place.token)
        shutil.rmtree(place.folder, ignore_errors=True)


# --- what leaves the store


def epoch_of_all(bench: Bench, nodes: Nodes, *, meanwhile: Callable[[int], None] | None = None) -> Result:
    """Two cold readers on each node, one from the big object on, one from the small files on. Bytes, seconds, and what the
    store wrote. `meanwhile` is called in a thread with what the store had written before."""
    ordered, _ = lists(bench.folder / "lists", [f"small/{p}" for p in bench.data.small_paths()], 0)
    size = bench.data.size.big + bench.data.size.small * SMALL_SIZE

    def big(view: Path) -> int:
        return int(bench.reader("seq", view / "big" / bench.data.big, MIB)["bytes"])

    def small(view: Path) -> int:
        return int(bench.reader("files", view, ordered, SMALL_SIZE, 1, FOREVER)["bytes"])

    def all_of_it(steps: tuple[Callable[[Path], int], ...], view: Path) -> int:
        return sum(step(view) for step in steps)

    settle(nodes.place.folder)
    before, t = procs.sent_bytes(nodes.store.pid), time.monotonic()
    with ThreadPoolExecutor(2 * len(nodes.views) + 1) as pool:
        other = pool.submit(meanwhile, before) if meanwhile else None
        tasks = [pool.submit(all_of_it, steps, v) for v in nodes.views for steps in ((big, small), (small, big))]
        got = [t.result() for t in tasks]
        s = time.monotonic() - t
        if other is not None:
            other.result()
    if set(got) != {size}:
        raise RuntimeError(f"a reader did not get the whole dataset of {size} bytes: {got}")
    return {"bytes": size * len(got), "dataset": size, "s": s, "sent": procs.sent_bytes(nodes.store.pid) - before}


def check(bench: Bench, nodes: Nodes) -> Result:
    """Every byte on every view."""
    ordered, _ = lists(bench.folder / "lists", [f"small/{p}" for p in bench.data.small_paths()], 0)
    compared = wrong = 0
    for view in nodes.views:
        for got in (
            verify(bench.reader, view / "big" / bench.data.big, bench.data.plain("big") / bench.data.big),
            _same(bench, view, ordered),
        ):
            compared += got["compared"]
            wrong += got["wrong"]
    return {"compared": compared, "wrong": wrong}


def _same(bench: Bench, view: Path, ordered: Path) -> Result:
    got = bench.reader("same", view, bench.data.root, ordered)
    return {"compared": got["n"], "wrong": got["wrong"]}


def amplify(bench: Bench) -> None:
    """Store bytes / dataset bytes: three workers, six cold readers of everything."""
    with ready(bench, "big+small", bench.store, workers=3, views=3) as nodes:
        nodes.mount()
        got = charged(nodes.pids, lambda: epoch_of_all(bench, nodes) | {"cpu": 0.0})
        row = _amplified(got) | check(bench, nodes)
        # what the workers say came from the store; `sent` has the store's heads and listings as well
        row["amplification"] = round(nodes.cluster()["store_bytes"] / got["dataset"], 2)
        bench.record("amplify", "forebay", row)


def amplify_kill(bench: Bench) -> None:
    """The same, with one worker killed when a third of the dataset has left the store; its supervisor has it back."""
    with ready(bench, "big+small", bench.store, workers=3, views=3) as nodes:
        nodes.mount()
        third = (bench.data.size.big + bench.data.size.small * SMALL_SIZE) // 3
        away: list[float] = []

        def kill(before: int) -> None:
            deadline = time.monotonic() + 600
            victim = nodes.worker("node-2")
            while procs.sent_bytes(nodes.store.pid) - before < third and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)
            t = time.monotonic()
            while not _answers(nodes, victim):
                time.sleep(0.05)
            away.append(time.monotonic() - t)

        got = charged(nodes.pids, lambda: epoch_of_all(bench, nodes, meanwhile=kill) | {"cpu": 0.0})
        row = _amplified(got) | check(bench, nodes)
        # by what the store wrote: the killed worker's own count is gone
        row["amplification"] = round(got["sent"] / got["dataset"], 3)
        bench.record("amplify-kill", "forebay", row | {"away_s": away[0]})


def _answers(nodes: Nodes, before: int) -> bool:
    report = nodes.node("node-2")
    pid = next((int(p["pid"]) for p in report["processes"] if p["role"] == "worker"), before)
    return pid != before and bool(report["worker"])


def _amplified(got: Result) -> Result:
    rate = got["bytes"] / got["s"]
    return per_gib({"rate": rate, "s": got["s"], "sent": got["sent"] / got["dataset"], "cpu_per_unit": got["cpu"] / got["bytes"]})


# --- from another node


def peer_link(bench: Bench) -> None:
    """Cold sequential of a client tier, everything at the one worker, over a link of 500 MB/s, beside curl over the same."""
    if os.geteuid():
        raise RuntimeError("network namespaces take root")
    gateway, log = bench.build / "bin/versitygw", bench.folder / "link-store.log"
    with ExitStack() as undo:
        undo.enter_context(address(STORE_ADDRESS))
        store = undo.enter_context(stores.versitygw(gateway, bench.data.root, f"{bench.token}-link", log, host=STORE_ADDRESS))
        nodes = undo.enter_context(ready(bench, "big", store, workers=1, views=2, flags=("--netns",)))
        from_peer(bench, nodes, "peer-link", shape=True)


def peer_raw(bench: Bench) -> None:
    """The same on the loopback, beside nginx's sendfile to curl, which writes to the same tier."""
    with ready(bench, "big", bench.store, workers=1, views=2) as nodes:
        from_peer(bench, nodes, "peer-raw", shape=False)


def from_peer(bench: Bench, nodes: Nodes, figure: str, *, shape: bool) -> None:
    name, size = bench.data.big, bench.data.size.big
    plain = bench.data.plain("big") / name
    nodes.mount()
    bench.reader("seq", nodes.views[0] / name, MIB)  # the worker has it all now
    wrong: Result = {}

    def again() -> None:
        """Worker warm, client tier cold, the link as it should be."""
        nodes.unmount()
        nodes.forget_node("client-1")
        nodes.mount()
        if shape:
            nodes.shape("client-1", LINK)
        settle(nodes.place.folder)

    def thing(_: int) -> Result:
        again()
        before = procs.sent_bytes(nodes.store.pid)
        with memory_at_hand(bench.folder):
            bench.reader("seq", nodes.views[0] / name, MIB)  # what was just filled may have pushed the worker's pages out
            got = charged(nodes.pids, lambda: bench.reader("seq", nodes.views[1] / name, MIB))
        if procs.sent_bytes(nodes.store.pid) - before > size // 100:
            raise RuntimeError("the store was asked for what the worker has")
        wrong.update(verify(bench.reader, nodes.views[1] / name, plain))
        return got

    def raw(_: int) -> Result:
        again()
        target = nodes.tier("client-1") / "curl.out"
        host = nodes.node("node-1")["network"]["address"] if shape else "127.0.0.1"
        prefix, there = (nodes.inside("client-1"), nodes.inside("node-1")) if shape else ((), ())
        with nginx(bench, plain.parent, host, there) as url, memory_at_hand(bench.folder):
            bench.reader("seq", plain, MIB)
            got = timed([*prefix, "curl", "-sSf", "-o", str(target), f"{url}/{name}"], size)
        target.unlink()
        return got

    rounds = interleave(bench.effort.cold_rounds, thing, raw, lambda r: float(r["bytes"]))
    bench.record(figure, "forebay", per_gib(rounds.row(**wrong)) | ({"of_link": rounds.rate / LINK} if shape else {}))


@contextmanager
def address(text: str) -> Iterator[None]:
    """One more address of this machine."""
    subprocess.run(["ip", "addr", "add", f"{text}/32", "dev", "lo"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "addr", "del", f"{text}/32", "dev", "lo"], check=False, capture_output=True)


@contextmanager
def nginx(bench: Bench, root: Path, host: str, prefix: tuple[str, ...]) -> Iterator[str]:
    """A plain server of `root` by sendfile, in a namespace where `prefix` says so."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    folder, port = bench.folder / "nginx", stores.free_port()
    folder.mkdir(exist_ok=True)
    temp = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temp} sendfile on; tcp_nopush on; default_type application/octet-stream;\n"
        f"server {{ listen {host}:{port}; root {root}; }} }}\n"
    )
    command = [*prefix, binary, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    server = stores.launch(command, f"{bench.token}-nginx", folder / "log")
    try:
        stores.wait_port(host, port, server)
        yield f"http://{host}:{port}"
    finally:
        stores.stop(server)


# --- small files


def peer_epoch(bench: Bench) -> None:
    """A client tier's first epoch out of two workers, eight readers, beside a bare client that has eight connections to the
    store: which is 5 ms away for both."""
    paths = bench.data.small_paths()
    ordered, _ = lists(bench.folder / "lists", paths, 0)
    with (
        stores.further(bench.store, DELAY_MS, f"{bench.token}-delay", bench.folder / "delay.log") as store,
        ready(bench, "small", store, workers=2, views=3) as nodes,
    ):
        nodes.mount()
        for view in nodes.views[:2]:
            bench.reader("files", view, ordered, SMALL_SIZE, CONNECTIONS, FOREVER)
        wrong: Result = {}

        def thing(_: int) -> Result:
            nodes.unmount()
            nodes.set_aside("client-1")
            nodes.mount()
            settle(nodes.place.folder)
            before = nodes.cluster()["store_bytes"]
            got = charged(nodes.pids, lambda: bench.reader("files", nodes.views[2], ordered, SMALL_SIZE, CONNECTIONS, FOREVER))
            if nodes.cluster()["store_bytes"] != before:
                raise RuntimeError("the store was asked for what the workers have")
            same = bench.reader("same", nodes.views[2], bench.data.plain("small"), ordered)
            wrong.update(compared=same["n"], wrong=same["wrong"])
            return got

        rounds = interleave(bench.effort.cold_rounds, thing, lambda _: bare(bench, store, paths), count)
        bench.record("peer-epoch", "forebay", rounds.row(**wrong), per="wakeups")


def bare(bench: Bench, store: stores.Store, paths: list[str]) -> Result:
    """`CONNECTIONS` curls at once, each with one connection and its share of the files, which it throws away."""
    folder = bench.folder / "bare"
    folder.mkdir(exist_ok=True)
    commands = []
    for i in range(CONNECTIONS):
        config = folder / f"{i}.curl"
        config.write_text("".join(f'url = "{store.url}/small/{p}"\noutput = "/dev/null"\n' for p in paths[i::CONNECTIONS]))
        signed = ("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{store.key}:{store.secret}")
        commands.append(["curl", "-sSf", *signed, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-K", str(config)])
    failed: list[int] = []

    def run(command: list[str]) -> None:
        failed.append(subprocess.run(command, check=False, capture_output=True, timeout=600).returncode)

    threads = [threading.Thread(target=run, args=(c,)) for c in commands]
    t = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(failed):
        raise RuntimeError(f"curl ended with {failed}")
    return {"n": len(paths), "s": time.monotonic() - t, "cpu": 0.0}
