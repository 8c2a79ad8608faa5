"""Pods bound per second end to end: ours and kube-scheduler on one real API server, one after the other, in turns.

    .venv/bin/python -P bench/figures/binding.py [--nodes 1000] [--qps 50,5000] [--burst 100,5000] [--pods 600,3000] [--rounds 3]
    .venv/bin/python -P bench/figures/binding.py --restart 20000    # seconds from a start, with so many bound pods, to a binding

etcd and API server run beside the schedulers on the same machine; nodes are objects (8 cores, 110 pods), no kubelet, no
controllers. Pods are plain (100m CPU) and exist before the scheduler is started; what counts is the time from its first binding
to its last, as a watch sees them. Both run as processes with one replica and no election, with the same QPS and burst.
kube-scheduler runs with its default plugins and its own Events; ours with 50 Scheduled Events a second at most. `--json`: one
object a line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "deploy")]

from controlplane import ControlPlane, programs  # noqa: E402
from servers import free_port  # noqa: E402

from forebay.kube.client import Client  # noqa: E402
from forebay.kube.errors import Unreachable  # noqa: E402
from forebay.kube.objects import Bare, Key  # noqa: E402
from forebay.kube.resources import NAMESPACES, NODES, PODS  # noqa: E402
from forebay.kube.transport import Transport  # noqa: E402

FLAGS = ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition", "--max-requests-inflight=0"]
UID = re.compile(rb'"uid":"([0-9a-f-]{36})"')
PATIENCE = 900.0
NUMBERS = itertools.count(1)


class Bindings(threading.Thread):
    """When each pod of a namespace was first seen with a node."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        super().__init__(daemon=True)
        version = json.loads(transport.request("GET", PODS.path(namespace), [("limit", "1")]).body)["metadata"]["resourceVersion"]
        query = [("watch", "true"), ("resourceVersion", version), ("timeoutSeconds", "3000")]
        self._stream = transport.stream(PODS.path(namespace), query, longest=3000)
        self.seen: dict[bytes, float] = {}

    def run(self) -> None:
        kept = b""
        while True:
            try:
                piece = self._stream.read(3000)
            except Unreachable:
                return  # closed
            *lines, kept = (kept + piece).split(b"\n")
            now = time.monotonic()
            for line in lines:
                if b'"nodeName":"' in line and (uid := UID.search(line)):
                    self.seen.setdefault(uid.group(1), now)

    def close(self) -> None:
        self._stream.close()

    def rate(self) -> tuple[float, float]:
        """Pods a second between the first and the last, and the seconds."""
        times = sorted(self.seen.values())
        seconds = times[-1] - times[0]
        return (len(times) - 1) / seconds, seconds


def many(made: Sequence[Any], what: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(what, made))


def nodes(client: Client, count: int) -> None:
    offered = {"cpu": "8", "memory": "64Gi", "pods": "110"}
    status = {"allocatable": offered, "capacity": offered, "conditions": [{"type": "Ready", "status": "True"}]}

    def make(number: int) -> None:
        name = f"n{number:05}"
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name}}
        client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": meta})
        client.merge(NODES, Key("", name), {"status": status}, sub="status")

    many(range(count), make)


def pods(client: Client, namespace: str, count: int, scheduler: str, node: Any = None) -> None:
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}

    def make(number: int) -> None:
        spec = {"schedulerName": scheduler, "containers": [container], **({"nodeName": node(number)} if node else {})}
        meta = {"name": f"p{number:06}", "labels": {"app": f"a{number % 20}"}}
        client.create(PODS, namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})

    many(range(count), make)


def empty(client: Client, namespace: str) -> None:
    found, _ = client.list_all(PODS, Bare, namespace)
    many(found, lambda pod: client.delete(PODS, Key(namespace, pod.metadata.name), grace=0))


@contextmanager
def ours(plane: ControlPlane, folder: Path, qps: int, burst: int) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "forebay.yaml"
    file.write_text(yaml.safe_dump({"qps": qps, "burst": burst} if qps else {}))
    program = [sys.executable, "-P", "-c", "from forebay.cli.main import main; main()", "scheduler", "run", "--no-leader-elect"]
    arguments = [f"--config={file}", f"--kubeconfig={plane.kubeconfig}", f"--listen=127.0.0.1:{free_port()}"]
    with running([*program, *arguments], folder / "forebay.log") as process:
        yield process


@contextmanager
def theirs(plane: ControlPlane, folder: Path, qps: int, burst: int) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "kube-scheduler.yaml"
    body = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(plane.kubeconfig), "qps": qps, "burst": burst},
    }
    file.write_text(yaml.safe_dump(body))
    program = programs(["kube-scheduler"])["kube-scheduler"]
    flags = [f"--config={file}", f"--secure-port={free_port()}", f"--cert-dir={folder}"]
    with running([program, *flags], folder / "kube-scheduler.log") as process:
        yield process


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out, env=dict(os.environ))
        try:
            yield process
            assert process.poll() is None, log.read_text()[-3000:]
        finally:
            process.kill()
            process.wait()


def cpu(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process until now."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def once(plane: ControlPlane, client: Client, who: str, rate: tuple[int, int], count: int) -> dict[str, Any]:
    """`rate`: QPS and burst."""
    namespace, start = f"b{next(NUMBERS)}", ours if who == "ours" else theirs
    client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    pods(client, namespace, count, "forebay" if who == "ours" else "default-scheduler")
    watch = Bindings(client.transport, namespace)
    watch.start()
    with tempfile.TemporaryDirectory() as folder, start(plane, Path(folder), *rate) as process:
        until(
            lambda: len(watch.seen) >= count or process.poll() is not None,
            lambda: f"{len(watch.seen)} of {count} pods are bound",
        )
        spent = cpu(process)
    bound, seconds = watch.rate()
    watch.close()
    empty(client, namespace)
    told = {"who": who, "qps": rate[0], "burst": rate[1], "pods": count, "rate": round(bound, 1), "seconds": round(seconds, 2)}
    return told | {"cpu": round(spent, 2), "load": round(os.getloadavg()[0], 1)}


def until(condition: Any, what: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not after {PATIENCE:.0f} s: {what()}")
        time.sleep(0.05)


def restart(plane: ControlPlane, client: Client, count: int, node_count: int) -> dict[str, Any]:
    """From the start of the process, with so many bound pods, to its first binding."""
    client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}})
    pods(client, "full", count, "forebay", lambda number: f"n{number % node_count:05}")
    client.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}})
    pods(client, "new", 1, "forebay")
    watch = Bindings(client.transport, "new")
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with ours(plane, Path(folder), 0, 0) as process:
            until(lambda: watch.seen, lambda: "the pod is not bound")
            seconds, spent = time.monotonic() - began, cpu(process)
    watch.close()
    return {"restart with pods": count, "nodes": node_count, "seconds": round(seconds, 2), "cpu": round(spent, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--qps", default="50,5000")
    parser.add_argument("--burst", default="100,5000", help="for each of --qps")
    parser.add_argument("--pods", default="600,3000", help="for each of --qps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--restart", type=int, default=0, help="instead: bound pods at a restart")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder), api_flags=FLAGS, controllers=False) as plane:
        transport = Transport(plane.endpoint, kept=16)
        client = Client(transport, manager="bench", deadline=300)
        nodes(client, options.nodes)
        if options.restart:
            print(json.dumps(restart(plane, client, options.restart, options.nodes)))
            return
        listed_options = ([int(one) for one in each.split(",")] for each in (options.qps, options.burst, options.pods))
        for qps, burst, count in zip(*listed_options, strict=True):
            rates: dict[str, list[float]] = {"ours": [], "kube-scheduler": []}
            for _ in range(options.rounds):
                for who, listed in rates.items():
                    found = once(plane, client, who, (qps, burst), count)
                    listed.append(found["rate"])
                    print(json.dumps(found) if options.json else ", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
            mine, other = (statistics.median(listed) for listed in rates.values())
            print(f"QPS {qps}: ours {mine:.0f}/s, kube-scheduler {other:.0f}/s, quotient {mine / other:.2f}", flush=True)
        transport.close()


if __name__ == "__main__":
    main()
