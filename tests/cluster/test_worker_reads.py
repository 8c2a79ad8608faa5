"""A worker over a directory: every shape of file, by every way of reading, and the tree beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from workerlab import MIB, Lab, eventually, file_mount, fill

from forebay.api import wire
from forebay.api.spec import Tier
from forebay.cache.client import DoorError

pytestmark = pytest.mark.cluster
BLOCK = 256 << 10
SIZES = {
    "empty": 0,
    "one": 1,
    "d/block": BLOCK,
    "d/block1": BLOCK + 1,
    "d/e/small": 8 * MIB,
    "d/e/large": 8 * MIB + 1,
    "big": 70 * MIB + 12345,
}


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_every_byte_cold_and_warm(tmp_path: Path, order: str) -> None:
    data = fill(tmp_path / "src", SIZES)
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        for name, want in data.items():
            assert lab.read(f"/{name}", order=order) == want, name
        for name, want in data.items():
            os.close(lab.whole(f"/{name}"))
            opened, fd = lab.door.open(lab.node(f"/{name}").ino)
            assert opened.complete
            assert opened.cached
            os.close(fd)
            assert lab.read(f"/{name}", order=order, step=100_000) == want, name
        eventually(lambda: lab.node("/big").cached == len(data["big"]))


def test_small_files_are_complete_when_open_answers_and_large_ones_are_not_waited_for(tmp_path: Path) -> None:
    fill(tmp_path / "src", {"small": 8 * MIB, "large": 200 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        opened, fd = lab.door.open(lab.node("/small").ino)
        os.close(fd)
        assert opened.complete
        opened, fd = lab.door.open(lab.node("/large").ino)
        assert not opened.complete
        assert os.fstat(fd).st_blocks * 512 < 100 * MIB, "the whole file was fetched before OPEN was answered"
        os.close(fd)


def test_a_random_read_fetches_only_its_blocks(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"large": 64 * MIB})["large"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        ino = lab.node("/large").ino
        _, fd = lab.door.open(ino)
        for offset in (40 * MIB + 5, 11 * MIB, 57 * MIB + 4096, 25 * MIB):
            assert lab.door.ensure(ino, offset, 4096, fd) is None
            assert os.pread(fd, 4096, offset) == data[offset : offset + 4096]
        os.close(fd)
        mounts = lab.stats()["mounts"]
        assert isinstance(mounts, list)
        assert mounts[0]["bytes_fetched"] <= 8 * BLOCK


def test_neighbours_of_small_files_come_ahead(tmp_path: Path) -> None:
    fill(tmp_path / "src", {f"s/{i:04}": 3000 for i in range(120)})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        page = lab.door.call(wire.Children(b"/s", 0, 200))
        assert isinstance(page, wire.Page)
        for node in page.nodes[:3]:
            os.close(lab.door.open(node.ino)[1])

        def here() -> int:
            again = lab.door.call(wire.Children(b"/s", 0, 200))
            assert isinstance(again, wire.Page)
            return sum(n.cached == 3000 for n in again.nodes)

        eventually(lambda: here() >= 8)
        assert here() < 120, "three opens in order are no reason to fetch everything"


def test_warm_up_fetches_everything_and_says_how_far_it_is(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", SIZES | {f"m/{i}": 5000 for i in range(300)})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        last = lab.warm()
        assert (last.files, last.failed, last.walked) == (len(data), 0, True)
        assert last.bytes == last.bytes_total == sum(map(len, data.values()))
        before = lab.stats()["mounts"]
        assert lab.warm(b"/d").files == 4
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        assert lab.stats()["mounts"][0]["bytes_fetched"] == before[0]["bytes_fetched"], "warm bytes were fetched again"  # type: ignore[index]


def test_bytes_that_are_not_admitted_are_right_all_the_same(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"tiny": 1000, "small": 5 * MIB, "large": 90 * MIB + 77, "huge": 270 * MIB})
    tiers = [Tier("SSD", str(tmp_path / "lab" / "t"), quota=4096)]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], tiers) as lab:
        lab.start()
        for name, want in data.items():
            for order, step in (("sequential", MIB), ("sequential", 777_777), ("random", 3 * MIB)):
                if name == "huge" and step != MIB:
                    continue
                assert lab.read(f"/{name}", order=order, step=step) == want, (name, order, step)
        opened, fd = lab.door.open(lab.node("/small").ino)
        os.close(fd)
        assert not opened.cached
        last = lab.warm()
        assert last.failed
        assert "not admitted" in last.error
        load = lab.stats()["load"]
        assert isinstance(load, dict)
        assert load["slot_bytes"] <= 256 * MIB


def test_many_readers_of_one_cold_file_cost_one_fetch(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = fill(tmp_path / "src", {"large": 48 * MIB})["large"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda i: lab.read("/large", order="random" if i % 2 else "sequential", seed=i), range(8)))
        assert all(g == data for g in got)
        mounts = lab.stats()["mounts"]
        assert isinstance(mounts, list)
        assert mounts[0]["bytes_fetched"] == len(data)


def test_the_tree_and_its_errors(tmp_path: Path) -> None:
    fill(tmp_path / "src", {"a/b/c": 5})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        node = lab.node("/a/b/c")
        assert (node.kind, node.size, node.key) == ("file", 5, b"a/b/c")
        for path, code in (("/a/x", errno.ENOENT), ("/a/b/c/d", errno.ENOTDIR)):
            with pytest.raises(DoorError) as e:
                lab.node(path)
            assert e.value.errno == code
        with pytest.raises(DoorError) as e:
            lab.door.open(lab.node("/a").ino)
        assert e.value.errno == errno.EISDIR
        with pytest.raises(DoorError) as e:
            lab.door.open(10**9)
        assert e.value.errno == errno.ESTALE
