"""A mount that is added to a running dataset: readers see it whole or not at all."""

from __future__ import annotations

import json
import time

import pytest
from harness.cluster import Cluster
from lakekit import Lake, deploy
from podkit import Pods, pod, until

ALWAYS = """
import os, time
while True:
    try:
        names = sorted(os.listdir("/data"))
        for name in names:
            for folder, _, files in os.walk("/data/" + name, onerror=lambda e: print("ERROR", e, flush=True)):
                for file in files:
                    open(os.path.join(folder, file), "rb").read()
        print("reads", *names, flush=True)
    except OSError as error:
        print("ERROR", error, flush=True)
    time.sleep(0.3)
"""


@pytest.fixture(scope="module", autouse=True)
def installation(cluster: Cluster) -> None:
    deploy(cluster)


def test_an_added_mount_is_shown_once_the_workers_serve_it(pods: Pods) -> None:
    lake = Lake(pods)
    lake.apply(workers=2)
    lake.bound()
    pods.running(lake._with_data(pod("steady", ["python3", "-c", ALWAYS], node="node-1")))
    until(lambda: "reads docs" in pods.log("steady"), "the pod does not read")
    changed = lake.dataset()
    changed["spec"]["mounts"].append(
        {**changed["spec"]["mounts"][0], "name": "more", "mountPoint": f"s3://{lake.bucket}/train/d1/"}
    )
    began = time.monotonic()
    pods.apply(changed)
    until(lambda: "reads docs more" in pods.log("steady"), "the mount does not appear")
    print(f"the added mount was shown after {time.monotonic() - began:.1f} s")
    assert not [line for line in pods.log("steady").splitlines() if not line.startswith("reads")]
    assert json.loads(pods.run(lake.reader("after", "node-2")))
