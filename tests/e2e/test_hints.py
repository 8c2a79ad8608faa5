"""What nodes say of their caches on real kubelets: the right bytes after a pod has read, and nothing while nothing changes."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from typing import Any

import pytest
from lakekit import Lake
from podkit import Pods, pod
from podkit import until as wait_until

from forebay.api.quantity import format_bytes

until = partial(wait_until, seconds=300.0)  # small news wait a minute on the node, and a minute in the controller
IDLE = 60.0
"""Seconds in which an idle cluster writes leases and nothing else of ours."""
WRITE = re.compile(
    r'^apiserver_request_total\{(?=[^}]*group="(?:forebay\.io|data\.fluid\.io)")(?=[^}]*verb="(?:APPLY|PATCH|POST|PUT|DELETE)")'
)
"""A line of the API server's own count: requests to change objects of our kinds and Fluid's, also those that changed nothing."""


def get(pods: Pods, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pods.cluster.kubectl("get", *what, "-o", "json"))
    return found


def held(pods: Pods, node: str, lake: Lake) -> dict[str, Any]:
    """What a node says of the dataset, {} for nothing."""
    items = [i for i in get(pods, "nodecaches")["items"] if i["metadata"]["name"] == node]
    said = items[0].get("status", {}).get("datasets", []) if items else []
    return next((d for d in said if (d["namespace"], d["name"]) == (pods.namespace, lake.name)), {})


def on(pods: Pods, node: str, lake: Lake) -> int:
    return sum(t["bytes"] for t in held(pods, node, lake).get("tiers", []))


def versions(pods: Pods) -> dict[str, str]:
    """resourceVersion of everything of ours in the cluster, and of what we might write beside it."""
    kinds = "nodecaches,datasethints,datasets,cacheruntimes,statefulsets,services,configmaps,persistentvolumeclaims,nodes,pods,pv"
    found = {}
    for item in get(pods, kinds, "-A")["items"]:
        meta = item["metadata"]
        ours = [e for e in meta.get("managedFields", []) if e.get("manager", "").startswith("forebay")]
        found[f"{item['kind']} {meta.get('namespace', '')}/{meta['name']}"] = json.dumps([meta["uid"], ours], sort_keys=True)
    return found


def writes(pods: Pods) -> dict[str, str]:
    lines = pods.cluster.kubectl("get", "--raw", "/metrics").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if WRITE.match(line))


@pytest.mark.timeout(1200)
def test_a_pod_that_reads_on_a_node_is_seen_in_the_hints_and_then_nothing_is_written(lake: Lake, pods: Pods) -> None:
    dataset = lake.dataset()
    dataset["metadata"]["annotations"] = {"forebay.io/free-space-floor": "0.1%"}  # the disk of a test machine may be full
    for thing in (lake.secret(), dataset, lake.runtime(workers=1)):
        pods.apply(thing)
    lake.bound()
    worker = pods.get(f"{lake.name}-worker-0")["spec"]["nodeName"]
    other = next(node for node in ("node-1", "node-2") if node != worker)
    until(lambda: held(pods, worker, lake).get("worker", {}).get("listed"), f"{worker} does not say that it is listed")
    said = held(pods, worker, lake)
    assert (said["role"], said["worker"]["totalBytes"], said["worker"]["files"]) == ("Owner", lake.bytes, len(lake.hashes))
    until(lambda: lake.status().get("ufsTotal") == format_bytes(lake.bytes), f"sizes: {lake.status().get('ufsTotal')}")
    assert lake.status()["fileNum"] == str(len(lake.hashes))
    assert on(pods, worker, lake) == on(pods, other, lake) == 0, "nobody has read"

    # a pod far from the worker: both nodes hold all of it, and it counts once
    assert json.loads(pods.run(lake.reader("far", other))) == lake.hashes
    until(lambda: on(pods, other, lake) == on(pods, worker, lake) == lake.bytes, "not all bytes on both nodes")
    assert held(pods, other, lake)["role"] == "Client"
    assert held(pods, other, lake)["reader"]["missedBytes"] >= lake.bytes
    until(lambda: lake.status().get("measured", {}).get("cachedBytes") == lake.bytes, f"measured: {lake.status()}")
    until(lambda: lake.status()["cacheStates"].get("cachedPercentage") == "100.0%", f"{lake.status()}")
    assert json.loads(pods.run(lake.reader("near", worker))) == lake.hashes
    until(
        lambda: held(pods, worker, lake).get("reader", {}).get("bytes") == lake.bytes, "the readers' cache of the worker's node"
    )
    assert on(pods, worker, lake) == lake.bytes, "in two caches of one node, counted once"

    # hints: with a pod that waits for a node. The readers waited too, for a moment, so there may be some already
    waiting = lake._with_data(pod("waits", ["true"]))
    waiting["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    pods.apply(waiting)

    def hinted() -> dict[str, Any]:
        found = json.loads(pods.kubectl("get", "datasethints", "-o", "json"))["items"]
        said: dict[str, Any] = found[0].get("status", {}) if found else {}
        return said

    both = {"node-1": lake.bytes, "node-2": lake.bytes}
    until(lambda: {n["name"]: n["bytes"] for n in hinted().get("nodes", [])} == both, f"hints: {hinted()}")
    assert (hinted()["totalBytes"], hinted()["cachedBytes"], hinted()["cachedPercent"]) == (lake.bytes, lake.bytes, 100)

    # idle: counters of the last reads are told within two minutes or so, and then nobody writes
    end, since, before, changed = time.monotonic() + 500.0, time.monotonic(), versions(pods) | writes(pods), [""]
    assert any(WRITE.match(name) for name in before), "the server's count is not read"
    while time.monotonic() - since < IDLE:
        assert time.monotonic() < end, f"an idle cluster writes: {changed}"
        time.sleep(5.0)
        after = versions(pods) | writes(pods)
        if after != before:
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            since, before = time.monotonic(), after

    # everything goes with the dataset
    pods.delete("pod", "waits", "far", "near")
    pods.delete("dataset", lake.name)
    until(lambda: not pods.kubectl("get", "datasethints", "-o", "name").strip(), "hints stay")
    for node in (worker, other):
        until(lambda node=node: not held(pods, node, lake), f"{node} still speaks of the dataset")  # type: ignore[misc]
