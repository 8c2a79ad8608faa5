"""Quotas, watermarks, floors, full disks: what is admitted, what goes, and that no reader ever hears of it."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from workerlab import MIB, Lab, eventually, file_mount, fill

from forebay.api import wire
from forebay.api.spec import Tier, encode_spec

pytestmark = pytest.mark.cluster


def tier(lab: Lab, i: int = 0) -> dict[str, object]:
    tiers = lab.stats()["tiers"]
    assert isinstance(tiers, list)
    return tiers[i]  # type: ignore[no-any-return]


def on_disk(path: str) -> int:
    """Bytes of the files there; some may go while this looks."""
    found = 0
    for at, _, files in os.walk(Path(path, "objects")):
        for name in files:
            with suppress(FileNotFoundError):
                found += os.lstat(os.path.join(at, name)).st_blocks * 512
    return found


def test_the_quota_is_a_ceiling_and_the_oldest_go(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {f"{i:03}": MIB for i in range(60)})
    place = str(tmp_path / "lab" / "t")
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], [Tier("SSD", place, 20 * MIB, 0.9, 0.5)]) as lab:
        lab.start()
        got: list[wire.Evicted | wire.Changed | None] = []
        listening = threading.Thread(target=lambda: got.extend(itertools.islice(lab.door.subscribe(), 2)), daemon=True)
        listening.start()
        eventually(lambda: lab.stats()["requests"].get("Subscribe"))  # type: ignore[attr-defined]
        inos = {name: lab.node(f"/{name}").ino for name in data}
        most = 0
        lab.read("/000")
        time.sleep(1.2)  # recency counts seconds: those of one second go in any order
        for name, want in list(data.items())[1:]:
            assert lab.read(f"/{name}") == want
            most = max(most, on_disk(place))
        assert most <= 20 * MIB
        eventually(lambda: int(str(tier(lab)["bytes_used"])) <= 18 * MIB)
        listening.join(60)
        assert got[0] is None
        assert isinstance(got[1], wire.Evicted)
        assert set(got[1].inos) <= set(inos.values())
        assert inos["000"] in got[1].inos, "the oldest did not go first"
        eventually(lambda: int(str(tier(lab)["bytes_used"])) == on_disk(place))
        eventually(lambda: lab.committed()[1] == on_disk(place))  # what is not recorded yet goes with a kill
        lab.kill()
        lab.start()
        assert int(str(tier(lab)["bytes_used"])) == on_disk(place)


def test_what_is_open_is_not_evicted(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {f"{i:03}": MIB for i in range(40)})
    place = str(tmp_path / "lab" / "t")
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], [Tier("SSD", place, 12 * MIB, 0.9, 0.5)]) as lab:
        lab.start()
        first = lab.node("/000").ino
        lab.read("/000")
        assert lab.door.touch([first], [first], [])
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        assert lab.node("/000").cached == MIB
        assert lab.door.touch([], [], [first])

        def gone() -> bool:
            for name in list(data)[1:]:
                lab.read(f"/{name}")
            return lab.node("/000").cached == 0

        eventually(gone)


def test_an_object_larger_than_the_tier_evicts_nothing(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 2 * MIB, "b": 2 * MIB, "huge": 40 * MIB})
    tiers = [Tier("SSD", str(tmp_path / "lab" / "t"), 10 * MIB)]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], tiers) as lab:
        lab.start()
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        assert lab.node("/a").cached == lab.node("/b").cached == 2 * MIB
        assert lab.stats()["evictions"] == {}


def test_tiers_fill_in_order(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {f"{i}": 2 * MIB for i in range(6)})
    memory, disk = Path(f"/dev/shm/forebay-test-{os.getpid()}"), tmp_path / "lab" / "ssd"
    tiers = [Tier("MEM", str(memory), 5 * MIB, 1.0, 0.5), Tier("SSD", str(disk), 50 * MIB)]
    try:
        with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], tiers) as lab:
            lab.start()
            for name, want in data.items():
                assert lab.read(f"/{name}") == want
            eventually(lambda: (tier(lab, 0)["objects"], tier(lab, 1)["objects"]) == (2, 4))
            assert tier(lab, 0)["filesystem"] == "tmpfs"
            assert lab.stats()["evictions"] == {}
    finally:
        subprocess.run(["rm", "-rf", str(memory)], check=True)


def test_the_floor_stops_admission_and_says_so(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 2 * MIB, "large": 20 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], floor_ratio=1.0, floor_bytes=1 << 60) as lab:
        lab.start()
        eventually(lambda: str(tier(lab)["admission"]).startswith("stopped"))
        assert "free some space" in str(tier(lab)["admission"])
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        assert on_disk(lab.tiers[0].path) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], check=False).returncode
    ):
        pytest.skip("needs root to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_memory_of_a_tiers_own_is_used_whole(tmp_path: Path, small_disk: Path) -> None:
    """As a node makes it for a worker's pod: a tmpfs of just the quota, from which nobody else needs a floor."""
    data = fill(tmp_path / "src", {f"{i:02}": MIB for i in range(14)})
    with Lab(
        tmp_path / "lab",
        [file_mount(tmp_path / "src")],
        [Tier("MEM", str(small_disk), 16 * MIB)],
        floor_ratio=0.5,
        floor_bytes=1 << 60,
    ) as lab:
        lab.start()
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        eventually(lambda: tier(lab)["objects"] == 14)
        assert tier(lab)["admission"] == "open"


def fill_up(path: Path) -> None:
    """Write until the disk is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while os.write(fd, bytes(64 << 10)):
            pass
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)


def test_a_full_disk_is_not_the_readers_trouble(tmp_path: Path, small_disk: Path) -> None:
    """The disk is smaller than anyone told, and somebody else fills it: readers get their bytes from the next place."""
    data = fill(tmp_path / "src", {f"{i:02}": MIB for i in range(30)} | {"large": 30 * MIB})
    tiers = [Tier("SSD", str(small_disk / "t")), Tier("HDD", str(tmp_path / "lab" / "hdd"), 12 * MIB, 0.9, 0.5)]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], tiers, floor_bytes=0) as lab:
        lab.start()
        filler = small_disk / "filler"
        for i, (name, want) in enumerate(data.items()):
            if i == 5:
                fill_up(filler)
            assert lab.read(f"/{name}") == want, name
        for name, want in data.items():
            assert lab.read(f"/{name}", order="random") == want, name
        filler.unlink()
        eventually(lambda: tier(lab)["admission"] == "open")
        lab.stop()


def test_a_full_disk_alone(tmp_path: Path, small_disk: Path) -> None:
    data = fill(tmp_path / "src", {"a": 3 * MIB, "large": 40 * MIB, "b": 3 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")], [Tier("SSD", str(small_disk / "t"))], floor_bytes=0) as lab:
        lab.start()
        (small_disk / "filler").write_bytes(bytes(9 * MIB))
        for _ in range(2):
            for name, want in data.items():
                assert lab.read(f"/{name}") == want, name
        lab.stop()


def test_a_full_index_disk_stops_no_reader(tmp_path: Path, small_disk: Path) -> None:
    """Rows wait in memory until there is room again; then they are written, and the next worker knows them."""
    # each part in a folder of its own that look-ahead does not reach from another, or all rows are written before the disk is
    # full again; some hundred files, or LMDB finds room in its old pages
    data = fill(tmp_path / "src", {f"{i // 400}/in/{i:04}": 20_000 + i for i in range(1200)} | {"large": 20 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.index_dir = small_disk / "index"
        spec = msgspec.structs.replace(lab.spec, index_dir=str(lab.index_dir))
        (lab.run_dir / "spec.json").write_bytes(encode_spec(spec))
        lab.start()
        eventually(lambda: lab.stats()["tree"]["walk_done"])  # type: ignore[index]
        fill_up(small_disk / "filler")
        names = list(data)
        for round_ in range(3):
            for name in names[round_ * 400 : round_ * 400 + 400]:
                assert lab.read(f"/{name}") == data[name], name
            fill_up(small_disk / f"filler{round_}")
        assert lab.read("/large") == data["large"]
        eventually(lambda: "cannot be written" in str(lab.stats()["index"]))
        for name, want in data.items():
            assert lab.read(f"/{name}") == want, name
        for filler in small_disk.glob("filler*"):
            filler.unlink()
        eventually(lambda: lab.stats()["index"] == "written")
        eventually(lambda: lab.node("/large").cached == len(data["large"]))
        lab.kill()
        lab.start()
        assert lab.node("/0/in/0000").cached == len(data["0/in/0000"])
        for name, want in data.items():
            assert lab.read(f"/{name}") == want, name
        lab.stop()
