"""Several workers of one dataset: each byte leaves the store once, whoever asks and whoever dies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusterlab import ClusterLab, NodeLab, S3Store, random_objects, s3_store
from workerlab import MIB, Reader, eventually

pytestmark = pytest.mark.cluster


SIZES = (
    {f"s/{i:03}": 700 + 397 * i for i in range(60)} | {f"m/{i}": 9 * MIB + 77 * i for i in range(3)} | {"large": 130 * MIB + 5}
)
DATA = random_objects(SIZES)
TOTAL = sum(SIZES.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    with s3_store(tmp_path_factory.mktemp("store"), DATA) as store:
        yield store


def read_all(node: NodeLab, seed: int, data: dict[str, bytes] = DATA) -> None:
    """The whole dataset in an order of its own; a wrong byte fails."""
    names = list(data)
    random.Random(seed).shuffle(names)
    for name in names:
        assert node.read(f"/{name}") == data[name], f"{node.cluster.node}: {name}"


def epoch(nodes: list[NodeLab], data: dict[str, bytes] = DATA) -> None:
    """Two readers on each node at once."""
    with ThreadPoolExecutor(2 * len(nodes)) as pool:
        for done in [pool.submit(read_all, node, i, data) for i, node in enumerate([*nodes, *nodes])]:
            done.result(110)


def test_six_cold_readers_on_three_workers_take_each_byte_from_the_store_once(tmp_path: Path, store: S3Store) -> None:
    sent = store.link.sent["object"]
    with ClusterLab(tmp_path, [store.mount()]) as lab:
        lab.start()
        epoch(lab.workers)
        left = store.link.sent["object"] - sent
        assert left == TOTAL, f"{left / TOTAL:.4f} of the dataset left the store"
        assert lab.store_bytes() == TOTAL
        for node in lab.workers:
            by = node.report()["bytes"]
            assert by["store"] > 0, "it owns nothing"
            assert by["store"] + by.get("owner", 0) + by.get("cached", 0) == TOTAL, by
        assert len({n.report()["epoch"] for n in lab.workers}) == 1
        # all of it is here now, also when store and members are gone
        epoch(lab.workers[:1])
        assert store.link.sent["object"] - sent == TOTAL


@pytest.mark.parametrize(("away", "most"), [(0, 1.05), pytest.param(3, 1.15, marks=pytest.mark.long)])
def test_a_worker_killed_and_back_costs_little(tmp_path: Path, away: float, most: float) -> None:
    """Killed when a third has left the store: readers of all three nodes go on, no byte is wrong.

    Back at once, as its supervisor does it, it costs what was on its way: up to 20 MiB in the buffers of its connections,
    however large the dataset is. Away for longer than 2 s, others fetch from the store what only it had, until it is back:
    seconds times the store's rate, which is much of a dataset that is read in ten. A machine that takes longer than that to
    start a worker is allowed as much.
    """
    data = random_objects({f"b/{i}": 40 * MIB + i for i in range(15)})
    total = sum(map(len, data.values()))
    with s3_store(tmp_path, data) as store, ClusterLab(tmp_path, [store.mount()]) as lab:
        lab.start()
        victim = lab.nodes["node-2"]

        late = [0.0]

        def kill() -> None:
            eventually(lambda: store.link.sent["object"] > total / 3, 60, 0.01)
            victim.kill()
            killed = time.monotonic()
            time.sleep(away)
            victim.start()
            late[0] = max(0.0, time.monotonic() - killed - max(away, 2.0))

        killer = threading.Thread(target=kill)
        killer.start()
        began = time.monotonic()
        epoch(lab.workers, data)
        rate = total / (time.monotonic() - began)
        killer.join(60)
        left = store.link.sent["object"]
        said = f"{left / total:.4f} of the dataset left the store, {late[0]:.1f} s late, {rate / MIB:.0f} MiB/s"
        assert total <= left <= most * total + late[0] * rate, said


def test_the_second_node_is_fed_by_the_first(tmp_path: Path, store: S3Store) -> None:
    """Also when the store is gone: what node-1 has, node-2 gets, of objects that node-2 owns as well."""
    with ClusterLab(tmp_path, [store.mount()], workers=2) as lab:
        lab.start("node-1", members=1)  # alone: everything is its own
        first, second = lab.workers
        read_all(first, 1)
        sent = store.link.sent["object"]
        lab.start("node-2")
        eventually(lambda: first.members() == 2)
        read_all(second, 2)
        assert store.link.sent["object"] == sent, "a byte that node-1 had was fetched once more"


def test_a_client_tier_reads_everything_and_never_the_store(tmp_path: Path, store: S3Store) -> None:
    sent = store.link.sent["object"]
    with ClusterLab(tmp_path, [store.mount()], workers=2, clients=1) as lab:
        client = lab.nodes["client-1"]
        raw = (client.run_dir / "spec.json").read_text()
        assert "secret_key" not in raw
        lab.start()
        epoch(lab.clients)
        assert store.link.sent["object"] - sent == TOTAL
        by = client.report()["bytes"]
        assert "store" not in by
        assert sum(by.values()) == TOTAL
        assert client.report()["port"] is None
        assert client.identity() not in {m["id"] for m in lab.nodes["node-1"].report()["members"]}
        # what its cache lost comes back from the workers, which ask nobody
        client.kill()
        client.start()
        read_all(client, 3)
        assert store.link.sent["object"] - sent == TOTAL


def test_random_reads_of_a_large_object_on_all_nodes(tmp_path: Path, store: S3Store) -> None:
    """Three segments with owners of their own, read at random places by six readers: right bytes, and none fetched twice."""
    sent = store.link.sent["object"]
    want = DATA["large"]
    with ClusterLab(tmp_path, [store.mount()], clients=1) as lab:
        lab.start()

        def reader(node: NodeLab, seed: int) -> None:
            rng = random.Random(seed)
            ino = node.node("/large").ino
            opened, fd = node.door.open(ino)
            r = Reader(node.door, ino, opened, fd)
            try:
                for _ in range(30):
                    offset = rng.randrange(len(want))
                    length = min(rng.randrange(1, 300_000), len(want) - offset)
                    assert r.read(offset, length) == want[offset : offset + length]
            finally:
                r.close()

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(reader, n, i) for i, n in enumerate([*lab.nodes.values()] * 2)]:
                done.result(100)
        assert store.link.sent["object"] - sent <= len(want)
        for node in lab.workers[:2]:
            assert node.read("/large", order="random") == want
        assert store.link.sent["object"] - sent == len(want)
