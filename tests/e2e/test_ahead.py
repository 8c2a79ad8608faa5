"""What a queued gang will read lies on the node where it will run, before it starts, and it waits for that node rather than go to
another: the whole line, on real nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gangkit import CARDS, GIB, UNTIL_DELETED, Crew, give_cards, scheduling, told
from harness import cards
from harness.cluster import Cluster
from lakekit import Lake
from podkit import Pods, pod, until

from forebay.api.hints.datasethints import LOAD_ON
from forebay.controller.loads.ahead import AHEAD

SETTINGS = """
schedulerName: forebay
locality: {nodeBytesPerSecond: 1000, longestWaitSeconds: 3600}
"""
"""Links so slow that the few MB of the test are worth hours of waiting."""


@pytest.fixture(scope="module")
def log(installation: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Our scheduler runs, and both nodes have cards that are only counted."""
    give_cards(installation)
    with scheduling(installation, tmp_path_factory.mktemp("scheduler"), SETTINGS) as log:
        yield log


@pytest.fixture
def lake(installation: Cluster, words: None, pods: Pods) -> Lake:
    """Many files alike: each node owns some. Of few files one worker may own nearly all, and its node is near the data then."""
    return Lake(pods, sizes=[150_000] * 40)


def busy(node: str, at: int) -> dict[str, Any]:
    """A pod that holds a whole card of the node until it is deleted, and reads nothing."""
    selector = {"nodeSelector": {"kubernetes.io/hostname": node}}
    made = pod(f"busy-{node}-{at}", ["python3", "-c", UNTIL_DELETED], schedulerName="forebay", **selector)
    made["spec"]["containers"][0]["resources"] = {"limits": {cards.MEMORY: str(GIB)}}
    return made


def wish(lake: Lake) -> str:
    found = lake.cluster.kubectl("-n", lake.pods.namespace, "get", "datasethints", lake.name, "--ignore-not-found", "-o", "json")
    return str((json.loads(found)["metadata"].get("annotations") or {}).get(LOAD_ON, "")) if found else ""


def loads(lake: Lake) -> list[dict[str, Any]]:
    listed = json.loads(lake.pods.kubectl("get", "dataloads", "-l", AHEAD, "-o", "json"))["items"]
    return [one for one in listed if one["spec"]["dataset"]["name"] == lake.name]


def test_a_queued_gangs_data_is_on_its_node_before_it_starts(lake: Lake, log: Path) -> None:
    dataset = lake.dataset()
    dataset["metadata"]["annotations"] = {"forebay.io/free-space-floor": "0.1%"}  # the disk of a test machine may be full
    for thing in (lake.secret(), dataset, lake.runtime(workers=2)):
        lake.pods.apply(thing)
    lake.bound()
    nodes = lake.cluster.nodes
    pods = [busy(node, at) for node in nodes for at in range(CARDS)]
    for one in pods:
        lake.pods.apply(one)
    names = [one["metadata"]["name"] for one in pods]
    until(lambda: all(lake.pods.is_ready(name) for name in names), "the cards are not held")

    crew = Crew(lake, "train", CARDS, gib=6)
    crew.apply()
    crew.waits("it is reserved on ")
    until(lambda: wish(lake) in nodes, f"no wish stands on the hints: {crew.said()}")
    node = wish(lake)
    assert f"reserved on {node}," in crew.said()
    until(lambda: [one["spec"]["options"]["nodes"] for one in loads(lake)] == [node], "no load is made, or not one")
    until(lambda: told(lake, node) == lake.bytes, f"{node} does not hold all of the data", 300.0)  # small news wait a minute
    assert crew.nodes() == []
    until(lambda: wish(lake) == "", "the wish stands though the node has the data")

    lake.pods.delete("pod", *(name for name in names if not name.startswith(f"busy-{node}-")))  # there is room, far from its data
    crew.waits(f"its data {lake.pods.namespace}/{lake.name} is on {node} ")
    assert "where there is no room now" in crew.said()
    assert crew.nodes() == []
    lake.pods.delete("pod", *(name for name in names if name.startswith(f"busy-{node}-")))
    crew.all_run(log)
    assert crew.nodes() == [node] * CARDS
    assert crew.hashes() == [lake.hashes] * CARDS
    crew.delete()
