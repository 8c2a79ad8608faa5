"""What tests of the whole line share: an installation on a real cluster, datasets over its store, pods that read and verify."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml
from harness.cluster import Cluster
from harness.keeper import S3_KEY, S3_SECRET
from harness.machine import ClusterError
from podkit import Pods, pod, until

from forebay.controller import settings
from forebay.controller.install import parts as install

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
STORE = "http://s3.stores.svc:9000"
SYSTEM = "forebay-system"
SIZES = (0, 1, 4095, 4096, 4097, 131_072, 1_000_003, 5_000_000)
"""Of the objects of a dataset: around a page, around the engine's blocks."""

VERIFY = """
import hashlib, json, os, sys
found = {}
for folder, _, files in os.walk("/data"):
    for name in files:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            found[os.path.relpath(path, "/data")] = hashlib.file_digest(file, "sha256").hexdigest()
print(json.dumps(found))
"""
"""Prints the sha256 of each file below /data."""

READ_ON = """
import hashlib, json, os, random, signal, sys, time
wanted, seed = json.loads(sys.argv[1]), int(sys.argv[2])
names, rng = sorted(wanted), random.Random(seed)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
reads = 0
while not ending:
    name = rng.choice(names)
    try:
        with open("/data/" + name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            said = hashlib.file_digest(file, "sha256").hexdigest()
        if said != wanted[name]:
            print("WRONG", name, said, flush=True)
    except OSError as error:
        print("ERROR", name, error, flush=True)
    reads += 1
    if reads % 20 == 0:
        print("reads", reads, flush=True)
    time.sleep(0.02)
"""
"""Reads whole files until told to end; each line that does not say `reads` is a failure."""


HOST_ROOT = "/srv/data"
"""Where `local://` mounts may read on nodes."""
IMAGES = "/srv/images"
"""The same, of one of Fluid's manifests."""
TIERS = ("/var/cache/ssd0", "/var/cache/ssd1", "/var/cache/jindo", "/var/cache/nvme0", "/var/cache/nvme1")
"""Directories of tiers in Fluid's manifests."""


def chosen() -> install.Install:
    """An installation with the image of this working tree. The disk of a test machine may be full but for a little."""
    return install.Install(
        installation=settings.read(yaml.safe_dump({"image": "forebay:dev", "freeSpaceFloor": "0.1%"}), "of the test"),
        host_roots=(HOST_ROOT, IMAGES),
        tier_roots=TIERS,
    )


def installed() -> str:
    """Everything that `deploy/install` has, as YAML."""
    return str(yaml.safe_dump_all([thing for part in install.parts(chosen()).values() for thing in part]))


def deploy(cluster: Cluster) -> None:
    """CRDs and all of `installed`; returns when it runs."""
    for node in cluster.nodes:
        for root in (HOST_ROOT, IMAGES):
            (cluster.root_of(node) / root[1:]).mkdir(parents=True, exist_ok=True)
    for where, text in ((str(DEPLOY / "crds"), None), ("-", installed())):
        apply = partial(cluster.kubectl, "apply", "--server-side", "-f", where, text=text)
        until(lambda apply=apply: apply() != "", f"the server does not take {where}")
    workloads = (
        "deployment/forebay-controller",
        "deployment/forebay-webhook",
        "daemonset/forebay-node",
        "daemonset/forebay-mounts",
    )
    for what in workloads:
        try:
            cluster.kubectl("-n", SYSTEM, "rollout", "status", what, "--timeout=240s", seconds=300)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{trouble(cluster)}") from None


class Lake:
    """A dataset over a bucket of its own, in the namespace of `pods`."""

    def __init__(self, pods: Pods, name: str = "lake", seed: int = 1, sizes: Sequence[int] = SIZES) -> None:
        self.pods, self.cluster, self.name = pods, pods.cluster, name
        self.bucket = f"{pods.namespace}-{name}"
        rng = Random(seed)
        self._objects = {f"d{i % 3}/object-{i}.bin": rng.randbytes(size) for i, size in enumerate(sizes)}
        store = self.cluster.s3()
        store.create_bucket(Bucket=self.bucket)
        for key, data in self._objects.items():
            store.put_object(Bucket=self.bucket, Key=f"train/{key}", Body=data)

    @property
    def bytes(self) -> int:
        return sum(map(len, self._objects.values()))

    @property
    def hashes(self) -> dict[str, str]:
        """By path below the mount."""
        return {f"docs/{key}": hashlib.sha256(data).hexdigest() for key, data in self._objects.items()}

    def secret(self) -> dict[str, Any]:
        data = {"id": S3_KEY, "key": S3_SECRET}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{self.name}-cred"}, "stringData": data}

    def dataset(self) -> dict[str, Any]:
        of = [("access_key", "id"), ("secret_key", "key")]
        encrypted = [{"name": n, "valueFrom": {"secretKeyRef": {"name": f"{self.name}-cred", "key": key}}} for n, key in of]
        mount = {
            "name": "docs",
            "mountPoint": f"s3://{self.bucket}/train/",
            "options": {"endpoint": STORE, "region": "us-east-1"},
            "encryptOptions": encrypted,
        }
        return self._object("Dataset", {"mounts": [mount]})

    def runtime(self, workers: int = 2) -> dict[str, Any]:
        tiers = {"levels": [{"hostPath": {"paths": ["/var/cache/forebay"], "quotas": ["1Gi"]}}]}
        worker = {"replicas": workers, "tieredStore": tiers}
        return self._object("CacheRuntime", {"runtimeClassName": "forebay", "worker": worker})

    def mounts_also(self, *mounts: dict[str, Any]) -> dict[str, Any]:
        """The dataset with further mounts."""
        changed = self.dataset()
        changed["spec"]["mounts"] += mounts
        return changed

    def _object(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        notes = {"forebay.io/free-space-floor": "0"}  # the disk below the test may be nearly full already
        meta = {"name": self.name, **({"annotations": notes} if kind == "Dataset" else {})}
        return {"apiVersion": "data.fluid.io/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}

    def apply(self, workers: int = 2) -> None:
        for thing in (self.secret(), self.dataset(), self.runtime(workers)):
            self.pods.apply(thing)

    def status(self) -> dict[str, Any]:
        found = json.loads(self.pods.read(f"/apis/data.fluid.io/v1alpha1/NAMESPACE/datasets/{self.name}"))
        status: dict[str, Any] = found.get("status", {})
        return status

    def bound(self) -> None:
        """Waits until it is."""
        try:
            until(lambda: self.status().get("phase") == "Bound", "the dataset is not Bound")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status(), indent=1)}\n{trouble(self.cluster)}") from None

    def reader(self, name: str, node: str = "") -> dict[str, Any]:
        """A pod that says the hash of every file."""
        return self._with_data(pod(name, ["python3", "-c", VERIFY], node=node))

    def steady(self, name: str, node: str, seed: int) -> dict[str, Any]:
        """A pod that reads and verifies until it is ended."""
        return self._with_data(pod(name, ["python3", "-c", READ_ON, json.dumps(self.hashes), str(seed)], node=node))

    def _with_data(self, thing: dict[str, Any]) -> dict[str, Any]:
        thing["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": self.name}}]
        thing["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        return thing


def trouble(cluster: Cluster) -> str:
    """What the installation says, for a test that fails."""
    said = [cluster.kubectl("get", "pods", "-A", "-o", "wide", check=False)]
    for label in ("controller", "webhook", "node", "mounts"):
        chosen = ("-n", SYSTEM, "logs", "-l", f"forebay.io/component={label}", "--prefix", "--tail=15")
        said.append(cluster.kubectl(*chosen, check=False))
    return "\n".join(said)


def mounts_of(cluster: Cluster, node: str) -> list[str]:
    """The FUSE mounts of ours on a node."""
    return [line for line in cluster.run(node, ["cat", "/proc/mounts"]).splitlines() if " fuse.forebay " in line]


def caches_of(cluster: Cluster, node: str) -> list[str]:
    """Files that hold or name data in a node's cache directories."""
    try:
        return cluster.run(node, ["find", "/var/cache/forebay", "-type", "f"]).split()
    except ClusterError:
        return []  # the directory is gone with the last of them
