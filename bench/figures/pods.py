"""What a pod sees: a dataset beside the node's disk in the same pod, and how long a pod takes to its first byte.

    .venv/bin/python -P bench/figures/pods.py [--quick] [--out FILE]

Starts a Kubernetes of two nodes with forebay on it (docs/harness.md; root), and ends it. The pod has the dataset at /data, an
emptyDir of the same files at /disk and the scoreboard's reader (bench/reader.c) at /tool. Rounds are in turns, figures medians of
the rounds' ratios; the time to the first byte is from before the pod is created to the pod's own look at the machine's clock,
less that of a pod with an emptyDir in the same round. Prints each row and the bounds; writes all rows as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import build, machine
from harness.cluster import Cluster
from lakekit import STORE, deploy, mounts_of
from measure import Reader, Result, interleave
from podkit import Pods, pod, until

from forebay.kube.client import Client
from forebay.kube.config import find
from forebay.kube.resources import PODS
from forebay.kube.transport import Transport

TOP = Path(__file__).resolve().parents[2]
NODE = "node-1"
MIB = 1 << 20
SMALL = 16 << 10
BUCKET = "bench"
BOUNDS = {"seq": 0.90, "rand": 0.85, "epoch": 0.08, "first-mounted": 1.0, "first-unmounted": 4.0}
"""Ratios to reach at least; seconds beyond a pod with an emptyDir at most."""


class Effort(NamedTuple):
    big: int  # bytes
    small: int  # files of 16 KiB
    rounds: int
    first: int  # rounds of pods
    epoch_seconds: float
    random_seconds: float


FULL = Effort(1 << 30, 10_000, 7, 7, 6.0, 0.6)
QUICK = Effort(256 << 20, 2_000, 5, 5, 3.0, 0.3)


class Stand:
    """The cluster, the files in its store and in `folder` (which pods see at /tool), and what was measured."""

    def __init__(self, cluster: Cluster, folder: Path, effort: Effort, out: Path) -> None:
        self.cluster, self.folder, self.effort, self.out = cluster, folder, effort, out
        self.pods = Pods(cluster, "bench")
        self.rows: list[Result] = []
        self.paths = [f"small/{i // 200:03d}/{i:05d}" for i in range(effort.small)]

    def record(self, figure: str, row: Result) -> None:
        row = {"figure": figure, **row, "bound": BOUNDS[figure], "load": os.getloadavg()[0]}
        self.rows.append(row)
        shown = row["ratio"] if "ratio" in row else row["beyond_s"]
        reached = shown >= row["bound"] if "ratio" in row else shown <= row["bound"]
        print(f"{figure:<16} {shown:.3f} (bound {row['bound']}, {'reached' if reached else 'MISSED'}) {row}", flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps({"machine": described(), "effort": self.effort._asdict(), "results": self.rows}, indent=1))

    # --- what is read

    def fill(self) -> None:
        """The same files in the store and in the folder; the reader and its lists beside them."""
        rng = Random(1)
        (self.folder / "files/big").mkdir(parents=True)
        with (self.folder / "files/big/object").open("wb") as file:
            for _ in range(self.effort.big // MIB):
                file.write(rng.randbytes(MIB))
        for path in self.paths:
            (self.folder / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / "files" / path).write_bytes(rng.randbytes(SMALL))
        reader = ["cc", "-O2", "-static", "-o", str(self.folder / "reader"), str(TOP / "bench/reader.c")]
        subprocess.run(reader, check=True, timeout=120)
        for i in range(self.effort.rounds + 1):
            order = sorted(self.paths) if i == 0 else rng.sample(self.paths, len(self.paths))
            (self.folder / f"order-{i}").write_text("\n".join(order))
        store = self.cluster.s3()
        store.create_bucket(Bucket=BUCKET)
        store.upload_file(str(self.folder / "files/big/object"), BUCKET, "big/object")
        with ThreadPoolExecutor(8) as several:
            put = lambda path: store.upload_file(str(self.folder / "files" / path), BUCKET, path)  # noqa: E731
            list(several.map(put, self.paths))

    def dataset(self, name: str, clean: str) -> None:
        """Applied and Bound. Immutable names, as the scoreboard's mounts have them."""
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cred"}}
        self.pods.apply({**secret, "stringData": {"id": "forebay", "key": "forebay-secret"}})
        keys = [("access_key", "id"), ("secret_key", "key")]
        mount = {
            "name": "b",
            "mountPoint": f"s3://{BUCKET}/",
            "options": {"endpoint": STORE, "region": "us-east-1", "forebay.io/freshness": "immutable"},
            "encryptOptions": [{"name": n, "valueFrom": {"secretKeyRef": {"name": "cred", "key": k}}} for n, k in keys],
        }
        tiers = {"levels": [{"hostPath": {"paths": ["/var/cache/forebay"], "quotas": ["8Gi"]}}]}
        spec = {
            "Dataset": {"mounts": [mount]},
            "CacheRuntime": {
                "runtimeClassName": "forebay",
                "worker": {"replicas": 1, "tieredStore": tiers},
                "client": {"cleanPolicy": clean},
            },
        }
        for kind, said in spec.items():
            meta = {"name": name, "annotations": {"forebay.io/free-space-floor": "0.1%"}}  # the disk may be as full as it likes
            self.pods.apply({"apiVersion": "data.fluid.io/v1alpha1", "kind": kind, "metadata": meta, "spec": said})
        phase = ("get", "dataset", name, "-o", "jsonpath={.status.phase}")
        until(lambda: self.pods.kubectl(*phase) == "Bound", f"dataset {name} is not Bound", 300)

    def cached(self) -> int:
        """Bytes in the cache of the reader's node, as its NodeCache says."""
        used = ("get", "nodecache", NODE, "-o", "jsonpath={.status.tiers[*].usedBytes}")
        return sum(int(n) for n in self.pods.kubectl(*used).split())

    def pod(self, name: str, command: list[str], claim: str = "") -> dict[str, Any]:
        """Of the restricted profile but for /tool; /disk is the node's own disk."""
        made = pod(name, command, node=NODE, image="busybox:dev")
        volumes: dict[str, dict[str, Any]] = {"disk": {"emptyDir": {}}, "tool": {"hostPath": {"path": str(self.folder)}}}
        if claim:
            volumes["data"] = {"persistentVolumeClaim": {"claimName": claim}}
        made["spec"]["volumes"] = [{"name": name, **volume} for name, volume in volumes.items()]
        made["spec"]["containers"][0]["volumeMounts"] = [{"name": name, "mountPath": f"/{name}"} for name in volumes]
        return made


def described() -> Result:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    return {"cores": os.cpu_count(), "model": model, "kernel": platform.release(), "at": time.strftime("%Y-%m-%d %H:%M")}


def reads(stand: Stand) -> None:
    """Warm sequential, random 4 KiB and small files, beside the emptyDir of the same pod."""
    effort = stand.effort
    stand.pods.running(stand.pod("reader", ["sh", "-c", "cp -r /tool/files/. /disk/ && touch /disk/done && sleep 36000"], "lake"))
    until(lambda: "done" in stand.pods.exec("reader", "ls", "/disk"), "the files are not on the node's disk", 900)
    kubectl = (str(build.place("kubectl")), "--kubeconfig", str(stand.cluster.place.kubeconfig), "-n", "bench")
    reader = Reader(Path("/tool/reader"), (*kubectl, "exec", "reader", "--"), 1800)
    data, disk = Path("/data/b"), Path("/disk")
    reader("seq", data / "big/object", MIB)
    reader("files", data, "/tool/order-0", SMALL, 8, 3600)
    until(lambda: stand.cached() >= effort.big, "the object is not in the node's cache: is its disk full?", 300)
    for compared in ((data, disk, "/tool/order-0"), (data / "big/object", disk / "big/object", "-")):
        got = reader("same", *compared)
        assert got["n"], "nothing was compared"
        assert not got["wrong"], f"wrong bytes: {got}"
    os.sync()
    # What `cp` wrote lies in small folios, and is read at half the speed: read in anew, it lies in the largest. Ours stays as
    # it was filled: a drop through a passthrough mount does not reach the cache file, and no pod could do more.
    reader("drop", disk / "big/object")
    for side in (data, disk) * 3:
        reader("seq", side / "big/object", MIB)
    print(f"probe {reader('probe')}", flush=True)

    def compare(figure: str, count: Callable[[Result], float], read: Callable[[Path, int], Result]) -> None:
        rounds = interleave(effort.rounds, lambda i: read(data, i), lambda i: read(disk, i), count)
        row = rounds.row()
        row["disk_rate"] = row.pop("bound")
        stand.record(figure, row)

    compare("seq", lambda r: float(r["bytes"]), lambda side, _: reader("seq", side / "big/object", MIB))
    compare(
        "rand", lambda r: float(r["n"]), lambda side, i: reader("rand", side / "big/object", 4096, effort.random_seconds, i + 1)
    )
    for side in (data, disk):
        reader("files", side, "/tool/order-0", SMALL, 1, effort.epoch_seconds)
    seconds = effort.epoch_seconds
    compare("epoch", lambda r: float(r["n"]), lambda side, i: reader("files", side, f"/tool/order-{i + 1}", SMALL, 1, seconds))
    stand.pods.delete("pod", "reader")


def first_bytes(stand: Stand) -> None:
    """From before a pod is created to its first byte.

    Of an emptyDir; of a dataset that the node has mounted; of one that it has not.
    """
    transport = Transport(find(str(stand.cluster.place.kubeconfig)))
    client = Client(transport, manager="bench")
    kinds = {"plain": "", "mounted": "lake", "unmounted": "fleeting"}
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    number = 0

    def once(kind: str) -> float:
        nonlocal number
        number += 1
        claim, name = kinds[kind], f"first-{number}"
        look = "head -c 1 /data/b/small/000/00000" if claim else "echo x > /disk/x; head -c 1 /disk/x"
        made = stand.pod(name, ["sh", "-c", f"{look} > /dev/null && cat /proc/uptime"], claim)
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        client.create(PODS, "bench", made)
        until(lambda: stand.pods.phase(name) in ("Succeeded", "Failed"), f"pod {name} has not ended", 300)
        said = stand.pods.log(name).split()
        assert stand.pods.phase(name) == "Succeeded", stand.pods.trouble(name)
        stand.pods.delete("pod", name)
        if kind == "unmounted":
            gone = lambda: not [m for m in mounts_of(stand.cluster, NODE) if "/bench/fleeting" in m]  # noqa: E731
            until(gone, "the mount stays although its last pod is gone", 300)
        return float(said[0]) - began

    once("mounted")
    once("unmounted")  # its cache may be filled by this; what counts is the mount
    for i in range(stand.effort.first):
        order = list(kinds)
        for kind in order[i % 3 :] + order[: i % 3]:
            took[kind].append(once(kind))
    for kind in ("mounted", "unmounted"):
        beyond = [ours - plain for ours, plain in zip(took[kind], took["plain"], strict=True)]
        row = {
            "beyond_s": statistics.median(beyond),
            "beyond_min": min(beyond),
            "beyond_max": max(beyond),
            "s": statistics.median(took[kind]),
            "plain_s": statistics.median(took["plain"]),
            "rounds": len(beyond),
        }
        stand.record(f"first-{kind}", row)
    transport.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=TOP / "bench/out/pods.json")
    asked = parser.parse_args()
    try:
        machine.check()
    except machine.ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="forebay-bench-pods-", dir="/var/tmp"))  # below /var/tmp nodes see the machine's files
    folder.chmod(0o755)
    try:
        with Cluster(f"bench{os.getpid()}") as cluster:
            stand = Stand(cluster, folder, QUICK if asked.quick else FULL, asked.out)
            print(f"cluster ready after {cluster.took:.1f} s", flush=True)
            deploy(cluster)
            cluster.kubectl("create", "namespace", "bench")
            account = ("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
            until(lambda: stand.pods.kubectl(*account).strip(), "no default service account")
            stand.fill()
            stand.dataset("lake", "OnRuntimeDeleted")
            stand.dataset("fleeting", "OnDemand")
            reads(stand)
            first_bytes(stand)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
