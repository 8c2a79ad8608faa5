"""Gangs of pods that read a dataset and hold parts of cards, on real nodes: all at once, near their data, whatever breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gangkit import CARDS, GIB, NAME, Crew, give_cards, publish, scheduling, told
from harness.cluster import Cluster
from lakekit import Lake
from podkit import Pods, until


@pytest.fixture(scope="module")
def log(installation: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Our scheduler runs, and both nodes have cards that are only counted."""
    give_cards(installation)
    with scheduling(installation, tmp_path_factory.mktemp("scheduler"), "gates: true\n") as log:
        yield log


@pytest.fixture
def crews(pods: Pods) -> Iterator[None]:
    """Pods are gone before the next test counts cards."""
    yield
    pods.delete("pod", "-l", NAME)


@pytest.fixture
def warm(lake: Lake, log: Path, crews: None) -> str:
    """The node that holds all of the dataset, and says so; the other holds none."""
    dataset = lake.dataset()
    dataset["metadata"]["annotations"] = {"forebay.io/free-space-floor": "0.1%"}  # the disk of a test machine may be full
    for thing in (lake.secret(), dataset, lake.runtime(workers=1)):
        lake.pods.apply(thing)
    lake.bound()
    worker = str(lake.pods.get(f"{lake.name}-worker-0")["spec"]["nodeName"])
    lake.pods.run(lake.reader("first", worker))
    what = f"the NodeCache of {worker} does not tell of {lake.bytes} bytes"
    until(lambda: told(lake, worker) == lake.bytes, what, 300.0)  # small news wait a minute
    return worker


def test_gangs_start_at_once_where_their_data_is_and_their_cards_are_written_down(lake: Lake, warm: str, log: Path) -> None:
    crew = Crew(lake, "train", CARDS, gib=6)
    crew.apply()
    crew.all_run(log)
    near_and_whole(crew, warm)
    for one in crew.objects():
        notes = one["metadata"]["annotations"]
        assert notes["ALIYUN_COM_GPU_MEM_POD"] == "6"
        assert notes["ALIYUN_COM_GPU_MEM_DEV"] == str(GIB)
        assert "forebay.io/devices" in notes
        say = "import os; print(os.environ['ALIYUN_COM_GPU_MEM_CONTAINER'])"
        assert lake.pods.exec(one["metadata"]["name"], "python3", "-c", say).strip() == "6"  # what the kubelet counted
    assert {one["metadata"]["annotations"]["ALIYUN_COM_GPU_MEM_IDX"] for one in crew.objects()} == {"0", "1"}
    crew.delete()

    gate = {"schedulerName": "default-scheduler", "schedulingGates": [{"name": "forebay.io/placement"}]}
    theirs = Crew(lake, "theirs", CARDS, gib=6, **gate)  # kube-scheduler's pods, through our gate
    first, *others = theirs.manifests
    lake.pods.apply(first)
    until(lambda: f"1 of {CARDS} pods exist" in theirs.said(), f"the first one does not wait: {theirs.said()!r}")
    assert theirs.nodes() == []
    for other in others:
        lake.pods.apply(other)
    theirs.all_run(log)
    near_and_whole(theirs, warm)


def near_and_whole(crew: Crew, node: str) -> None:
    """All on the node, a card each, and every byte right."""
    assert crew.nodes() == [node] * CARDS
    assert crew.hashes() == [crew.lake.hashes] * CARDS
    assert sorted(crew.allocations(), key=lambda one: sorted(one[1])) == [(node, {str(card): 6}) for card in range(CARDS)]


def test_all_or_nothing_by_room_and_when_a_node_vanishes_in_the_middle(lake: Lake, warm: str, log: Path) -> None:
    cluster = lake.cluster
    fits = CARDS * len(cluster.nodes)
    crew = Crew(lake, "large", fits + 1, gib=6)
    crew.apply()
    crew.waits(f"needs {fits + 1} pods at once")
    between = Crew(lake, "between", fits, gib=GIB)  # whole cards: nothing is held for the gang that waits
    between.apply()
    between.all_run(log)
    assert between.nodes() == sorted(cluster.nodes * CARDS)
    assert crew.nodes() == []
    crew.delete()
    between.delete()

    stays = [{"operator": "Exists", "effect": "NoExecute"}]  # nobody would make an evicted pod anew
    crew = Crew(lake, "train", fits, gib=6, tolerations=stays)
    crew.apply()
    cluster.cut("node-2")
    try:
        taints = ("get", "node", "node-2", "-o", "jsonpath={.spec.taints}")
        until(lambda: "node.kubernetes.io/unreachable" in cluster.kubectl(*taints), "node-2 is not tainted")
        until(lambda: crew.said() or len(crew.nodes()) == fits, "nothing is said of the gang")
        until(lambda: len(crew.nodes()) in (0, fits), "a part of the gang is bound")  # each binding is a call
        late = Crew(lake, "late", fits, gib=2, tolerations=stays)  # decided while the node is away
        late.apply()
        until(lambda: late.said() or len(late.nodes()) == fits, "nothing is said of the late gang")
        until(lambda: len(late.nodes()) in (0, fits), "a part of the late gang is bound")
        late.delete()
    finally:
        cluster.mend("node-2")
    until(lambda: cluster.kubectl("get", "node", "node-2", "--no-headers").split()[1] == "Ready", "node-2 is not ready again")
    crew.all_run(log)
    assert crew.nodes() == sorted(cluster.nodes * CARDS)
    assert crew.hashes() == [lake.hashes] * fits
    assert sorted((node, *cards) for node, cards in crew.allocations()) == [
        (node, str(card)) for node in cluster.nodes for card in range(CARDS)
    ]


def test_hints_that_lie_or_vanish_cost_no_byte_and_stop_no_gang(lake: Lake, warm: str, log: Path) -> None:
    cold = next(one for one in lake.cluster.nodes if one != warm)

    def starts(name: str) -> list[str]:
        crew = Crew(lake, name, CARDS, gib=6)
        crew.apply()
        crew.all_run(log)
        assert crew.hashes() == [lake.hashes] * CARDS
        nodes = crew.nodes()
        crew.delete()
        return nodes

    publish(lake, cold, 1 << 60, "2999-01-01T00:00:00Z")
    publish(lake, warm, 0)
    # the lie is believed, if its publisher has not put it right before: it only costs the way there
    assert starts("all-is-cold") in ([cold] * CARDS, [warm] * CARDS)
    publish(lake, "ghost", 1 << 40)
    try:
        assert len(starts("of-no-node")) == CARDS
    finally:
        lake.cluster.kubectl("delete", "nodecache", "ghost")
    lake.cluster.kubectl("delete", "nodecache", *lake.cluster.nodes, "--ignore-not-found")
    assert len(starts("gone")) == CARDS
