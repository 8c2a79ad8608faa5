"""Pods with a claim on one device each, decision only: pods per second of one process.

    .venv/bin/python -P bench/figures/claims.py [--nodes 500] [--devices 8] [--pods 1000] [--policy forebay]

Every pod has a ResourceClaim of its own, made as from one template: a selector of its class, one of the request. Devices differ
in their uuid. CPU seconds of this process; the first decision, which looks at every node, apart.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import msgspec

from forebay.api.kubernetes.core import Node, Pod
from forebay.api.kubernetes.resource import DeviceClass, ResourceClaim, ResourceSlice
from forebay.scheduler.arrays.cluster import Cluster
from forebay.scheduler.planner import Planner
from forebay.scheduler.policies import Setting, make

DRIVER = "gpu.example.com"


def cel(expression: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": expression}}]


def cluster(nodes: int, devices: int) -> Cluster:
    made = Cluster()
    offered = {"cpu": "64", "memory": "512Gi", "pods": "110"}
    spec = {"selectors": cel(f"device.driver == '{DRIVER}'")}
    made.claims.set_class(msgspec.convert({"metadata": {"name": "gpu"}, "spec": spec}, DeviceClass))
    for at in range(nodes):
        name = f"node-{at}"
        made.set_node(msgspec.convert({"metadata": {"name": name}, "status": {"allocatable": offered}}, Node))
        listed = [
            {"name": f"d{n}", "attributes": {"model": {"string": "big"}, "uuid": {"string": f"{at}-{n}"}}} for n in range(devices)
        ]
        content = {"driver": DRIVER, "nodeName": name, "pool": {"name": name}, "devices": listed}
        made.claims.set_slice(msgspec.convert({"metadata": {"name": f"s-{at}"}, "spec": content}, ResourceSlice))
    return made


def pod(made: Cluster, name: str) -> Pod:
    """And its claim."""
    exactly = {"deviceClassName": "gpu", "selectors": cel(f"device.attributes['{DRIVER}'].model == 'big'")}
    spec = {"devices": {"requests": [{"name": "card", "exactly": exactly}]}}
    made.claims.set_claim(
        msgspec.convert({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec}, ResourceClaim)
    )
    container = {"name": "main", "resources": {"requests": {"cpu": "1"}}}
    used = [{"name": "c", "resourceClaimName": name}]
    meta = {"name": name, "namespace": "n", "uid": name}
    return msgspec.convert({"metadata": meta, "spec": {"containers": [container], "resourceClaims": used}}, Pod)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--policy", default="forebay")
    given = parser.parse_args()
    made = cluster(given.nodes, given.devices)
    planner = Planner(made, make(given.policy, Setting()))
    pods = [pod(made, f"p{n}") for n in range(given.pods)]
    placed, first, began = 0, 0.0, time.process_time()
    for one in pods:
        request = made.request(one)
        placed += planner.place(request) is not None
        first = first or time.process_time() - began
    seconds = time.process_time() - began
    assert max(made.claims.taken.values()) == 1, "a device was given twice"
    print(f"first {first:.3f} s; {placed} of {given.pods} placed in {seconds:.2f} s: {given.pods / seconds:.0f}/s")


if __name__ == "__main__":
    main()
