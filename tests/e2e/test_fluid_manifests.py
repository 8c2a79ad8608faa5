"""Every manifest of tests/data/fluid-manifests, unchanged, as somebody who comes from Fluid applies them.

First without an engine for their kinds: accepted, NotBound, and the condition names engine and remedy. Then the remedy itself,
the command that the condition has, word by word: what lies in stores that exist here is read by a pod and verified, the rest
says which store or scheme it is that fails. The S3 server of two buckets and two keys is two servers and a door before them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest
import yaml
from harness import build
from harness.cluster import Cluster
from harness.machine import ClusterError
from lakekit import IMAGES, VERIFY, trouble
from podkit import Pods, pod, until
from servers import free_port, nginx, running

MANIFESTS = Path(__file__).parents[1] / "data" / "fluid-manifests"
KEYS = {"gw-raw": ("AKEXAMPLERAW", "example-raw-secret"), "gw-curated": ("AKEXAMPLECURATED", "example-curated-secret")}
"""As the manifests' Secrets have them."""
BUCKETS = {"raw": "gw-raw", "models": "gw-raw", "curated": "gw-curated"}
OBJECTS = {
    "raw": {"2024/a.bin": 3_000_000, "2024/deep/b.bin": 5},
    "curated": {"c.bin": 100_000},
    "models": {"llama/w.bin": 2_000_000, "clip/w.bin": 70_000, "other.bin": 1},
}


def content(name: str) -> bytes:
    bucket, _, key = name.partition("/")
    return Random(name).randbytes(OBJECTS[bucket][key])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def ready_cluster(installation: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What the manifests name and bring not along: a namespace, the store, a claim, a directory, a label, an image."""
    folder = tmp_path_factory.mktemp("storage")
    for above in (folder, *list(folder.parents)[:2]):
        above.chmod(0o755)
    with ExitStack() as stack:
        port = _store(stack, folder, installation.net.outside)
        installation.kubectl("apply", "-f", "-", text=yaml.safe_dump_all([*_named(installation.net.outside, port), *_claim()]))
        for node in installation.nodes:
            disk = installation.root_of(node)
            for path, text in ((f"{IMAGES}/one.jpg", "an image"), ("/srv/labels/train/one.txt", "a label")):
                (disk / path[1:]).parent.mkdir(parents=True, exist_ok=True)
                (disk / path[1:]).write_text(text)
                os.utime(disk / path[1:], (1_700_000_000, 1_700_000_000))  # each node has a copy: of one time
            for below in (disk / IMAGES[1:], disk / "srv/labels", disk / "srv/labels/train"):
                below.chmod(0o755)
            installation.kubectl("label", "node", node, "example.com/has-images=true", "--overwrite")
            images = [f"docker.io/library/busybox:{tag}" for tag in ("dev", "1.36")]
            installation.run(node, [str(build.place("ctr")), "-n", "k8s.io", "images", "tag", "--force", *images])
        yield installation
        installation.kubectl("delete", "namespace", "storage", "team-a", "--timeout=110s", "--ignore-not-found")
        installation.kubectl("delete", "pv", "labels", "--ignore-not-found", "--timeout=60s")
        for node in installation.nodes:
            installation.kubectl("label", "node", node, "example.com/has-images-")


def _store(stack: ExitStack, folder: Path, address: str) -> int:
    """Port of http://s3.storage.svc:9000: each bucket answers to its own key, and to no other."""
    ports = {name: free_port() for name in KEYS}
    for name, (access, secret) in KEYS.items():
        (folder / name).mkdir()
        words = ["--port", f"127.0.0.1:{ports[name]}", "--access", access, "--secret", secret, "posix", str(folder / name)]
        stack.enter_context(running([str(build.place("versitygw")), *words], ports[name]))
    for bucket, keys in OBJECTS.items():
        access, secret = KEYS[BUCKETS[bucket]]
        at = f"http://127.0.0.1:{ports[BUCKETS[bucket]]}"
        s3 = boto3.client("s3", endpoint_url=at, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret)
        s3.create_bucket(Bucket=bucket)
        for key in keys:
            s3.put_object(Bucket=bucket, Key=key, Body=content(f"{bucket}/{key}"))
    port = free_port()
    doors = "".join(
        f"location ~ ^/{bucket}(/|$) {{ proxy_pass http://127.0.0.1:{ports[name]}; proxy_set_header Host $http_host; }} "
        for bucket, name in BUCKETS.items()
    )
    stack.enter_context(nginx(folder, folder / "nginx", f"listen {address}:{port}; {doors}"))
    return port


def _named(address: str, port: int) -> list[dict[str, Any]]:
    of = {"name": "s3", "namespace": "storage"}
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    slice_ = {"metadata": {**of, "labels": {"kubernetes.io/service-name": "s3"}}, "addressType": "IPv4", "ports": ports}
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("storage", "team-a")),
        {"apiVersion": "v1", "kind": "Service", "metadata": of, "spec": {"ports": [{"name": "http", "port": 9000}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **slice_, "endpoints": [{"addresses": [address]}]},
    ]


def _claim() -> list[dict[str, Any]]:
    """`labels-claim`, which 02 mounts: a directory that each node has."""
    asked = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {**asked, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/srv/labels", "type": "DirectoryOrCreate"}}
    claim = {**asked, "volumeName": "labels", "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "labels"}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "labels-claim", "namespace": "team-a"},
            "spec": claim,
        },
    ]


class World:
    """Manifests that were applied."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.applied: list[Path] = []

    def apply(self, *numbers: int) -> None:
        for number in numbers:
            (path,) = MANIFESTS.glob(f"{number:02}-*.yaml")
            self.applied.append(path)
            self.cluster.kubectl("apply", "-f", str(path))

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        found = json.loads(self.cluster.kubectl("-n", namespace, "get", "dataset", name, "-o", "json"))
        status: dict[str, Any] = found.get("status") or {}
        return status

    def condition(self, namespace: str, name: str, type_: str = "Ready") -> dict[str, Any]:
        conditions = self.status(namespace, name).get("conditions") or []
        found: dict[str, Any] = next((c for c in conditions if c["type"] == type_), {})
        return found

    def because(self, namespace: str, name: str, reason: str, type_: str = "Ready") -> str:
        """The message, once the condition has this reason."""
        until(
            lambda: self.condition(namespace, name, type_).get("reason") == reason,
            f"{name} is not {reason}: {self.status(namespace, name)}",
        )
        return str(self.condition(namespace, name, type_)["message"])

    def remedy(self, namespace: str, name: str, engine: str) -> None:
        """Without an engine: NotBound, the engine named. Then the command of the message, as it stands there."""
        said = self.because(namespace, name, "EngineNotDriven")
        assert self.status(namespace, name)["phase"] == "NotBound"
        assert f"engine {engine} " in said
        program, *words = shlex.split(said.partition(": ")[2])
        assert program == "kubectl"
        self.cluster.kubectl(*words)

    def bound(self, namespace: str, name: str) -> None:
        try:
            until(lambda: self.status(namespace, name).get("phase") == "Bound", "is not Bound")
        except AssertionError as error:
            raise AssertionError(f"{name} {error}\n{self.status(namespace, name)}\n{trouble(self.cluster)}") from None

    def read(self, namespace: str, name: str) -> dict[str, str]:
        """What a pod finds there: path to hash."""
        reader = pod(f"verify-{name}", ["python3", "-c", VERIFY])
        reader["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
        reader["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        pods = Pods(self.cluster, namespace)
        found: dict[str, str] = json.loads(pods.run(reader))
        pods.delete("pod", f"verify-{name}")
        return found

    def clear(self) -> None:
        """Also after a failure: nothing stays in namespaces that others use."""
        for path in reversed(self.applied):
            documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
            for kind in ("Pod", "DataLoad", "Dataset"):  # runtimes go with their Dataset
                for document in documents:
                    if document["kind"] == kind:
                        meta = document["metadata"]
                        where = ("-n", meta.get("namespace", "default"))
                        self.cluster.kubectl(*where, "delete", kind, meta["name"], "--ignore-not-found", "--timeout=110s")
            self.cluster.kubectl("delete", "-f", str(path), "--ignore-not-found", "--timeout=110s", check=False)


@pytest.fixture
def world(ready_cluster: Cluster, words: None) -> Iterator[World]:
    made = World(ready_cluster)
    yield made
    made.clear()


def test_two_buckets_with_a_key_each(world: World) -> None:
    world.apply(3)
    world.remedy("default", "lake", "jindo")
    world.bound("default", "lake")
    wanted = {f"raw/{key.removeprefix('2024/')}": sha(content(f"raw/{key}")) for key in OBJECTS["raw"]}
    wanted |= {f"sets/curated/{key}": sha(content(f"curated/{key}")) for key in OBJECTS["curated"]}
    assert world.read("default", "lake") == wanted
    until(lambda: world.condition("default", "lake", "StoresAnswer").get("reason") == "Listed", "the stores are not listed")
    until(lambda: world.status("default", "lake")["fileNum"] == "3", f"other files: {world.status('default', 'lake')}")


def test_a_class_of_its_own_tiers_of_memory_and_disks_and_a_load(world: World) -> None:
    """The Secret that its credentials are in comes with another manifest: until then a worker does not start, and says why."""
    world.apply(6)
    world.remedy("default", "models", "demo-cache")
    assert 'secret "raw-cred" not found' in world.because("default", "models", "MountFailed")
    world.apply(3)
    world.bound("default", "models")
    wanted = {f"models/{key}": sha(content(f"models/{key}")) for key in OBJECTS["models"]}
    assert world.read("default", "models") == wanted
    load = ("get", "dataload", "models-warm", "-o", "jsonpath={.status.phase}")
    until(lambda: world.cluster.kubectl(*load) == "Complete", "the load is not complete")


def test_a_directory_of_nodes_and_a_claim(world: World) -> None:
    world.apply(2)
    world.remedy("team-a", "mixed", "alluxio")
    world.bound("team-a", "mixed")
    assert world.read("team-a", "mixed") == {"images/one.jpg": sha(b"an image"), "labels/one.txt": sha(b"a label")}
    assert world.condition("team-a", "mixed", "AccessReduced")["status"] == "True", "it asks for ReadWriteMany"


@pytest.mark.parametrize(
    ("number", "namespace", "name", "engine", "scheme"),
    [(4, "default", "scratch", "juicefs", '"juicefs"'), (5, "team-a", "homes", "thin", '"nfs"')],
)
def test_a_store_that_ours_does_not_serve_is_named(
    world: World, number: int, namespace: str, name: str, engine: str, scheme: str
) -> None:
    world.apply(number)
    world.remedy(namespace, name, engine)
    said = world.because(namespace, name, "SourceRefused")
    assert scheme in said
    assert "s3://" in said, "what is served instead"
    assert world.status(namespace, name)["phase"] == "Failed"
    with pytest.raises(ClusterError, match="NotFound"):
        world.cluster.kubectl("-n", namespace, "get", "persistentvolumeclaim", name)


def test_a_web_tree_that_cannot_be_reached_operations_on_it_and_a_reference_to_it(world: World) -> None:
    """downloads.apache.org is not reached from here: workers run, the pod mounts, and everybody says what fails."""
    world.apply(1, 7, 8)
    assert "engine alluxio " in world.because("team-b", "corpus-view", "EngineNotDriven"), "of what it refers to"
    world.remedy("default", "corpus", "alluxio")
    world.bound("default", "corpus")
    said = world.because("default", "corpus", "StoreFails", "StoresAnswer")
    assert "downloads.apache.org" in said
    assert "downloads.apache.org" in world.condition("default", "corpus")["message"], "beside what is well"
    reader = Pods(world.cluster, "default")
    until(lambda: reader.phase("corpus-reader") in ("Succeeded", "Failed"), "the manifest's own pod does not end")
    # readdir is EIO; busybox's `ls` does not look at that, and shows nothing

    def of(load: str) -> str:
        return world.cluster.kubectl("get", "dataload", load, "-o", "jsonpath={.status}")

    until(lambda: "Cron is not served" in of("corpus-refresh"), "the load by a schedule does not say that it waits")
    until(lambda: any(f'"phase":"{p}"' in of("corpus-load") for p in ("Executing", "Failed")), "the load does not begin")

    assert "DatasetGrant in namespace default" in world.because("team-b", "corpus-view", "NotGranted")
    granted = {"apiVersion": "forebay.io/v1alpha1", "kind": "DatasetGrant", "metadata": {"name": "corpus"}}
    grant = {**granted, "spec": {"dataset": "corpus", "namespaces": ["team-b"]}}
    world.cluster.kubectl("apply", "-f", "-", text=json.dumps(grant))
    world.bound("team-b", "corpus-view")
    world.cluster.kubectl("delete", "datasetgrant", "corpus")
