"""DataLoads on real workers: what was loaded is read without the store, whatever was killed meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.machine import ClusterError
from lakekit import SYSTEM, Lake
from podkit import Pods, until

NODES = ["node-1", "node-2"]
LISTINGS = 200_000
"""Bytes of names and headers that a store sends besides: dataset bytes are far more."""


@pytest.fixture
def large(installation: Any, words: None, pods: Pods) -> Lake:
    """Large enough for a load to be caught in the middle: 256 MiB in files of 4 MiB, and 200 small ones."""
    return Lake(pods, "large", sizes=[4 << 20] * 64 + [20_000] * 200)


class Load:
    def __init__(self, lake: Lake, name: str, **spec: Any) -> None:
        self.lake, self.pods, self.name = lake, lake.pods, name
        body = {"dataset": {"name": lake.name}, **spec}
        self.pods.apply({"apiVersion": "data.fluid.io/v1alpha1", "kind": "DataLoad", "metadata": {"name": name}, "spec": body})

    def status(self) -> dict[str, Any]:
        """{} where the API server is too busy to answer."""
        try:
            found = json.loads(self.pods.kubectl("get", "dataload", self.name, "-o", "json"))
        except ClusterError:
            return {}
        status: dict[str, Any] = found.get("status", {})
        return status

    @property
    def progress(self) -> dict[str, int]:
        found: dict[str, int] = self.status().get("progress") or {}
        return found

    def ended(self, phase: str = "Complete") -> dict[str, Any]:
        """Its status at the end, which must be `phase`."""
        try:
            until(lambda: self.status().get("phase") in ("Complete", "Failed"), "the load has not ended", 300)
            until(self.status, "the API server does not answer")
            found = self.status()
            assert found["phase"] == phase
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status(), indent=1)}\n{self.words()}") from None
        return found

    def pod_names(self) -> list[str]:
        label = f"batch.kubernetes.io/job-name={self.name}-loader-job"
        return self.pods.kubectl("get", "pods", "-l", label, "-o", "name").split()

    def words(self) -> str:
        logs = (self.pods.kubectl("logs", name, "--tail=20", check=False) for name in self.pod_names())
        return "\n".join([*logs, self.pods.kubectl("get", "pods", "-o", "wide", check=False)])


def signal_worker(pods: Pods, node: str, how: str) -> None:
    """To the worker's process on a node, which there is one of."""
    found = pods.cluster.run(node, ["pgrep", "-f", "bin/forebay worker run"]).split()
    pods.cluster.run(node, ["kill", f"-{how}", *found])


def all_serve(lake: Lake) -> None:
    """Bound says that one worker serves: waits until both do, and know each other."""
    lake.bound()
    for i in range(2):
        name = f"{lake.name}-worker-{i}"
        until(lambda name=name: '"members": 2' in lake.pods.kubectl("logs", name, check=False), f"{name} knows no other")


def read_everywhere(lake: Lake) -> None:
    for node in NODES:
        assert json.loads(lake.pods.run(lake.reader(f"reader-{node}", node))) == lake.hashes


def test_what_was_loaded_is_read_without_the_store(large: Lake, pods: Pods) -> None:
    before = pods.cluster.store_sent()
    large.apply()
    load = Load(large, "warm")  # made before there is anything to load
    large.bound()
    status = load.ended()
    progress = status["progress"]
    count = len(large.hashes)
    assert (progress["doneBytes"], progress["totalBytes"], progress["doneFiles"]) == (large.bytes, large.bytes, count)
    assert (progress["percent"], progress["failedFiles"], progress["etaSeconds"]) == (100, 0, 0)
    loaded = pods.cluster.store_sent()
    assert large.bytes < loaded - before < large.bytes * 1.02, "each byte left the store once; headers are 0.4 %"
    read_everywhere(large)
    more = pods.cluster.store_sent() - loaded
    assert more < LISTINGS, f"the store sent {more} bytes more"
    rate = progress["bytesPerSecond"]
    print(f"loaded {large.bytes} bytes in {status['duration']}, {rate} bytes/s; afterwards the store sent {more} bytes")
    assert "operationRef" not in large.status()


def test_whatever_is_killed_in_the_middle_it_ends_well(large: Lake, pods: Pods) -> None:
    """The load's pod, the controller, a worker; and before them all a first load is deleted in the middle."""
    large.apply()
    all_serve(large)
    before = pods.cluster.store_sent()
    signal_worker(pods, "node-2", "STOP")  # its half stands still, so that a load is in the middle for as long as need be
    gone = Load(large, "gone")
    until(lambda: gone.progress.get("doneBytes", 0) > 0, "nothing is loaded")
    pods.delete("dataload", "gone")
    until(lambda: not pods.kubectl("get", "job,role,rolebinding", "-o", "name").split(), "objects of the load stay")
    until(lambda: not gone.pod_names(), "its pod stays")

    load = Load(large, "warm")
    until(lambda: load.progress.get("doneBytes", 0) > 0, "nothing is loaded")
    assert load.progress.get("doneBytes", 0) < large.bytes
    until(lambda: large.status().get("operationRef") == {"DataLoad": "warm"}, "the dataset does not name the load")
    (first,) = load.pod_names()
    pods.kubectl("delete", first, "--grace-period=0", "--force")
    pods.cluster.kubectl("-n", SYSTEM, "delete", "pod", "-l", "forebay.io/component=controller", "--grace-period=0", "--force")
    until(lambda: [name for name in load.pod_names() if name != first], "the load has no new pod")
    signal_worker(pods, "node-2", "KILL")
    assert load.ended()["progress"]["doneBytes"] == large.bytes
    sent = pods.cluster.store_sent() - before
    assert sent < large.bytes * 1.2, "what was loaded is not loaded again"
    before = pods.cluster.store_sent()
    read_everywhere(large)
    assert pods.cluster.store_sent() - before < LISTINGS


def test_parts_names_copies_and_what_is_new(lake: Lake, pods: Pods) -> None:
    lake.apply()
    all_serve(lake)
    before = pods.cluster.store_sent()
    names = Load(lake, "names", options={"metadataOnly": "true"}).ended()["progress"]
    assert names["doneFiles"] == 2 * len(lake.hashes), "each of two workers knows them"
    assert names.get("doneBytes", 0) == 0
    assert pods.cluster.store_sent() - before < LISTINGS

    part = Load(lake, "part", target=[{"path": "/docs/d1"}, {"path": "docs/d2/*-2.bin", "replicas": 2}]).ended()["progress"]
    assert part["doneFiles"] == 4
    missing = Load(lake, "missing", target=[{"path": "/docs/d1"}, {"path": "/docs/nix"}])
    (refused,) = (x for x in missing.ended("Failed")["conditions"] if x["status"] == "True")
    assert refused["reason"] == "TargetNotFound"
    assert "/docs/nix" in refused["message"]

    pods.cluster.s3().put_object(Bucket=lake.bucket, Key="train/d1/new.bin", Body=b"n" * 70_000)
    fresh = Load(lake, "fresh", loadMetadata=True, target=[{"path": "/docs/d1/new.bin"}, {"path": "/"}]).ended()["progress"]
    assert fresh["doneFiles"] == len(lake.hashes) + 2
    assert fresh["doneBytes"] == lake.bytes + 2 * 70_000
    many = Load(lake, "many", target=[{"path": "/", "replicas": 5}], ttlSecondsAfterFinished=3600)
    ended = many.ended()
    assert ended["progress"]["doneBytes"] == 2 * (lake.bytes + 70_000), "there are two workers"
    assert "5 replicas were asked for, there are 2 workers" in str(ended["conditions"])
