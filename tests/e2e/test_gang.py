"""Gangs of pods that read a dataset and hold parts of cards, on real nodes: all at once, near their data, whatever breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gangkit import CARDS, GIB, Crew, give_cards, held, publish, scheduling
from harness.cluster import Cluster
from lakekit import Lake
from podkit import Pods, until


@pytest.fixture(scope="module")
def log(installation: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Our scheduler runs, and both nodes have cards that are only counted."""
    give_cards(installation)
    with scheduling(installation, tmp_path_factory.mktemp("scheduler")) as log:
        yield log


@pytest.fixture
def crews(pods: Pods) -> Iterator[None]:
    """Pods are gone before the next test counts cards."""
    yield
    pods.delete("pod", "--all")


@pytest.fixture
def warm(lake: Lake, log: Path, crews: None) -> Iterator[str]:
    """The node that holds all of the dataset; the other holds none. Both say so."""
    lake.apply(workers=1)
    lake.bound()
    lake.pods.run(lake.reader("first"))
    node = str(lake.pods.get("first")["spec"]["nodeName"])
    other = next(one for one in lake.cluster.nodes if one != node)
    worker = lake.pods.kubectl("get", "pods", "-l", "forebay.io/component=worker", "-o", "jsonpath={.items[0].spec.nodeName}")
    until(lambda: held(lake.cluster, worker, lake) >= lake.bytes, f"{worker} does not hold the dataset")
    for one in lake.cluster.nodes:
        publish(lake, one, held(lake.cluster, one, lake) if one == worker else 0)
    yield worker
    for one in (node, other):
        lake.cluster.kubectl("delete", "nodecache", one, "--ignore-not-found")


def test_a_gang_starts_at_once_where_its_data_is_and_its_cards_are_written_down(lake: Lake, warm: str, log: Path) -> None:
    crew = Crew(lake, "train", CARDS, gib=6)
    crew.apply()
    crew.all_run(log)
    assert crew.nodes() == [warm] * CARDS
    assert crew.hashes() == [lake.hashes] * CARDS
    assert sorted(crew.allocations(), key=lambda one: sorted(one[1])) == [(warm, {"0": 6}), (warm, {"1": 6})]
    for one in crew.objects():
        notes = one["metadata"]["annotations"]
        assert notes["ALIYUN_COM_GPU_MEM_POD"] == "6"
        assert notes["ALIYUN_COM_GPU_MEM_DEV"] == str(GIB)
        assert "forebay.io/devices" in notes
        told = "import os; print(os.environ['ALIYUN_COM_GPU_MEM_CONTAINER'])"
        assert lake.pods.exec(one["metadata"]["name"], "python3", "-c", told).strip() == "6"  # what the kubelet counted
    assert {one["metadata"]["annotations"]["ALIYUN_COM_GPU_MEM_IDX"] for one in crew.objects()} == {"0", "1"}


def test_a_gang_that_does_not_fit_holds_nothing_and_starts_when_it_does(lake: Lake, warm: str, log: Path) -> None:
    fits = CARDS * len(lake.cluster.nodes)
    crew = Crew(lake, "large", fits + 1, gib=6)
    crew.apply()
    crew.waits(f"needs {fits + 1} pods at once")
    between = Crew(lake, "between", fits, gib=GIB)  # whole cards: nothing is held for the gang that waits
    between.apply()
    between.all_run(log)
    assert between.nodes() == sorted(lake.cluster.nodes * CARDS)
    assert crew.nodes() == []
    crew.delete()
    after = Crew(lake, "after", fits, gib=6)
    after.apply()
    after.waits(f"needs {fits} pods at once, 0 fit")
    between.delete()
    after.all_run(log)
    assert after.nodes() == sorted(lake.cluster.nodes * CARDS)
    assert sorted((node, *cards) for node, cards in after.allocations()) == [
        (node, card) for node in lake.cluster.nodes for card in ("0", "1")
    ]


def test_a_node_that_vanishes_in_the_middle_leaves_all_or_nothing(lake: Lake, warm: str, log: Path) -> None:
    cluster = lake.cluster
    fits = CARDS * len(cluster.nodes)
    stays = [{"operator": "Exists", "effect": "NoExecute"}]  # nobody would make an evicted pod anew
    crew = Crew(lake, "train", fits, gib=6, tolerations=stays)
    crew.apply()
    cluster.cut("node-2")
    try:
        taints = ("get", "node", "node-2", "-o", "jsonpath={.spec.taints}")
        until(lambda: "node.kubernetes.io/unreachable" in cluster.kubectl(*taints), "node-2 is not tainted")
        until(lambda: crew.said() or len(crew.nodes()) == fits, "nothing is said of the gang")
        assert len(crew.nodes()) in (0, fits)
        late = Crew(lake, "late", fits, gib=2, tolerations=stays)  # decided while the node is away
        late.apply()
        until(lambda: late.said() or len(late.nodes()) == fits, "nothing is said of the late gang")
        assert len(late.nodes()) in (0, fits)
        late.delete()
    finally:
        cluster.mend("node-2")
    until(lambda: cluster.kubectl("get", "node", "node-2", "--no-headers").split()[1] == "Ready", "node-2 is not ready again")
    crew.all_run(log)
    assert crew.nodes() == sorted(cluster.nodes * CARDS)
    assert crew.hashes() == [lake.hashes] * fits


@pytest.mark.parametrize("lie", ["the cold node says that it has all", "a node that does not exist has it", "the hints are gone"])
def test_hints_that_lie_cost_no_byte_and_stop_no_gang(lake: Lake, warm: str, log: Path, lie: str) -> None:
    cold = next(one for one in lake.cluster.nodes if one != warm)
    if lie.startswith("the cold"):
        publish(lake, cold, 1 << 60, "2999-01-01T00:00:00Z")
        publish(lake, warm, 0)
    elif lie.startswith("a node"):
        publish(lake, "ghost", 1 << 40)
    else:
        lake.cluster.kubectl("delete", "nodecache", *lake.cluster.nodes)
    try:
        crew = Crew(lake, "train", CARDS, gib=6)
        crew.apply()
        crew.all_run(log)
        assert len(crew.nodes()) == CARDS
        if lie.startswith("the cold"):
            assert crew.nodes() == [cold] * CARDS  # the lie was believed, and only cost the way there
        assert crew.hashes() == [lake.hashes] * CARDS
    finally:
        lake.cluster.kubectl("delete", "nodecache", "ghost", "--ignore-not-found")
