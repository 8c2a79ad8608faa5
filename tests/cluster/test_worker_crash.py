"""A worker that is killed at any moment, ends cleanly, or finds itself in another boot: right bytes, and what was kept."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes3 import FakeS3
from workerlab import MIB, Lab, Reader, eventually, file_mount, fill, s3_mount

from forebay.api import wire
from forebay.cache.client import DoorError
from forebay.cache.disk.index import FILE, Index, object_path, pack_object, unpack_object, unpack_row

pytestmark = pytest.mark.cluster
ROUNDS = 8


def fetched(lab: Lab) -> int:
    mounts = lab.stats()["mounts"]
    assert isinstance(mounts, list)
    return int(mounts[0]["bytes_fetched"])


def requests(server: FakeS3, key: str) -> int:
    return sum(r.method == "GET" and r.path.endswith(key) for r in server.requests)


def test_readers_outlive_a_worker_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Eight rounds of kill -9 under readers of large and small files: no error, no wrong byte, no pause beside the kills'."""
    sizes = {f"s/{i}": 1000 + 977 * i for i in range(150)} | {f"large{i}": 30 * MIB + i for i in range(3)}
    data = fill(tmp_path / "src", sizes)
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        inos = {name: lab.node(f"/{name}").ino for name in data}
        stop = threading.Event()
        slowest = [0.0]
        reads = [0]
        gave_up: list[DoorError] = []
        outages: list[float] = []

        def reader(seed: int) -> None:
            rng = random.Random(seed)
            names = list(data)
            while not stop.is_set():
                try:
                    read_some(rng, rng.choice(names))
                except DoorError as e:
                    if e.errno != errno.ENOTCONN:
                        raise
                    gave_up.append(e)

        def read_some(rng: random.Random, name: str) -> None:
            opened, fd = lab.door.open(inos[name], timeout=60)
            r = Reader(lab.door, inos[name], opened, fd)
            try:
                for _ in range(20):
                    offset = rng.randrange(len(data[name]))
                    length = min(rng.randrange(1, MIB), len(data[name]) - offset)
                    began = time.monotonic()
                    assert r.read(offset, length, 60) == data[name][offset : offset + length], name
                    slowest[0] = max(slowest[0], time.monotonic() - began)
                    reads[0] += 1
            finally:
                r.close()

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(reader, seed) for seed in range(4)]
            try:
                for round_ in range(0, ROUNDS, 2):
                    killed = 0.0
                    for wait in (False, True):  # so that it may be killed while it starts
                        time.sleep(random.Random(round_ + wait).uniform(0.2, 1.2))
                        killed = killed or time.monotonic()
                        lab.kill()
                        lab.start(wait=wait)
                    outages.append(time.monotonic() - killed)
                before = reads[0]
                eventually(lambda: reads[0] > before + 100 or any(r.done() for r in readers))
            finally:
                stop.set()
            for r in readers:
                r.result(60)
        assert slowest[0] < max(outages) + 10, "a reader waited longer than there was no worker"
        assert not gave_up or max(outages) > 9, f"readers wait 10 s for a worker, and it was there: {gave_up[0]}"
        for name, want in data.items():
            assert lab.read(f"/{name}") == want, name
        eventually(lambda: lab.stats()["reconciled"]["done"])  # type: ignore[index]


def test_a_killed_worker_keeps_what_it_had(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 3 * MIB, "b": 40 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        for name in data:
            lab.read(f"/{name}")
        eventually(lambda: lab.committed() == (2, 43 * MIB))
        assert all(lab.node(f"/{n}").cached == len(d) for n, d in data.items())
        lab.kill()
        shutil.rmtree(tmp_path / "src")  # nothing more can come from the store
        (tmp_path / "src").mkdir()
        lab.start()
        with lab.door:
            for ino, want in [(n.ino, data[n.name.decode()]) for n in nodes_of(lab)]:
                opened, fd = lab.door.open(ino)
                assert opened.complete
                assert os.pread(fd, len(want), 0) == want
                os.close(fd)
            assert fetched(lab) == 0


def nodes_of(lab: Lab) -> list[wire.Node]:
    """The files of the root by the index alone."""
    index = Index(lab.index_dir / "live", readonly=True)
    try:
        with index.env.begin() as txn:
            rows = [unpack_row(raw) for raw in index.scan(txn, 1, 0)]
        return [wire.Node(r.ino, "file", r.size, 0, "", b"", r.version, 0, r.name) for r in rows if r.kind == FILE]
    finally:
        index.close()


def test_what_arrived_of_a_large_file_is_not_fetched_again(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"large": 64 * MIB})["large"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        ino = lab.node("/large").ino
        _, fd = lab.door.open(ino)
        for offset in range(0, 64 * MIB, 4 * MIB):  # a block of each 4 MiB, none of them in a row
            lab.door.ensure(ino, offset, 4096, fd)
        os.close(fd)
        eventually(lambda: lab.committed()[1] >= 16 * (256 << 10))
        lab.kill()
        lab.start()
        assert lab.read("/large", order="random") == data
        assert fetched(lab) <= 64 * MIB - 16 * (256 << 10)


def test_sigterm_ends_at_once_even_while_fetching(tmp_path: Path) -> None:
    with FakeS3({b"slow": bytes(64 * MIB)}) as server:
        started = threading.Event()

        def stall(request: object, w: object) -> bool:
            if getattr(request, "method", "") == "GET" and "slow" in getattr(request, "path", ""):
                started.set()
                w.stall()  # type: ignore[attr-defined]
            return False

        server.before = stall
        with Lab(tmp_path / "lab", [s3_mount(server.url)]) as lab:
            lab.start()
            ino = lab.node("/slow").ino
            _, fd = lab.door.open(ino)

            def wait_for_it() -> None:
                with pytest.raises(DoorError):
                    lab.door.ensure(ino, 0, 4096, fd, timeout=60)

            waiting = threading.Thread(target=wait_for_it)
            waiting.start()
            assert started.wait(60)
            took = lab.stop()
            waiting.join()
            os.close(fd)
            assert took < 8, "it waited for the store, which is given up after 10 s of silence"
            assert not (lab.run_dir / "worker.sock").exists()


def another_boot(lab: Lab, *, clean: bool) -> None:
    """Make the index look as if the machine had been started anew since."""
    index = Index(lab.index_dir / "live")
    with index.env.begin(write=True) as txn:
        txn.put(b"written.boot", struct.pack(">I", 12345), db=index.meta)
        if not clean:
            txn.delete(b"written.clean", db=index.meta)
        for key, raw in list(txn.cursor(db=index.objects)):
            o = unpack_object(raw)
            txn.put(bytes(key), pack_object(o._replace(boot=12345)), db=index.objects)
    index.close()


@pytest.mark.parametrize("clean", [True, False])
def test_in_another_boot_bytes_are_checked_before_they_are_believed(tmp_path: Path, clean: bool) -> None:
    """The ledger (or a cleanly ended index) brings the cache back; good blocks are not fetched again, a bad one is."""
    objects = {b"a": os.urandom(3 * MIB), b"b": os.urandom(40 * MIB), b"c": os.urandom(5000), b"s/x": os.urandom(70_000)}
    with FakeS3(objects) as server, Lab(tmp_path / "lab", [s3_mount(server.url)]) as lab:
        lab.start()
        assert lab.warm().failed == 0
        if clean:
            lab.stop()
        else:
            warmed = time.time()
            eventually(lambda: lab.stats()["ledger"]["durable_until"] > warmed)  # type: ignore[index]
            lab.kill()
        another_boot(lab, clean=clean)
        big = max((p for p in Path(lab.tiers[0].path, "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        with big.open("r+b") as f:  # one bit of block 60
            f.seek(60 * (256 << 10) + 99)
            byte = f.read(1)
            f.seek(60 * (256 << 10) + 99)
            f.write(bytes((byte[0] ^ 4,)))
        server.requests.clear()
        lab.start()
        for key, want in objects.items():
            assert lab.read("/" + key.decode()) == want, key
        assert requests(server, "/a") == requests(server, "/c") == requests(server, "/s/x") == 0
        assert requests(server, "/b") == 1
        assert fetched(lab) == 256 << 10
        eventually(lambda: lab.node("/b").cached == 40 * MIB)
        os.close(lab.whole("/b"))
        assert ("index_rebuilt" in lab.text().split("ready")[1]) is not clean


def test_a_lost_boot_without_a_ledger_costs_fetches_and_no_wrong_byte(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 3 * MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        lab.read("/a")
        lab.kill()
        another_boot(lab, clean=False)
        shutil.rmtree(lab.index_dir / "ledger")
        lab.start()
        eventually(lambda: lab.stats()["reconciled"]["done"])  # type: ignore[index]
        assert lab.stats()["reconciled"]["orphans"] == 1  # type: ignore[index]
        assert lab.read("/a") == data["a"]


def test_what_lies_in_the_directory_is_compared_with_the_index(tmp_path: Path) -> None:
    """Orphans go, files that were cut or vanished are fetched again, strangers' files are left alone."""
    data = fill(tmp_path / "src", {"cut": MIB, "gone": MIB, "kept": MIB})
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        lab.warm()
        lab.stop()
        index = Index(lab.index_dir / "live", readonly=True)
        with index.env.begin() as txn:
            oids = {name: index.find(txn, 1, name.encode()).oid for name in data}  # type: ignore[union-attr]
        index.close()
        tier = lab.tiers[0].path
        os.truncate(object_path(tier, oids["cut"]), 1000)
        os.unlink(object_path(tier, oids["gone"]))
        orphan = Path(object_path(tier, bytes(range(16))))
        orphan.write_bytes(b"of nobody")
        stranger = orphan.with_name("README")
        stranger.write_text("hello")
        lab.start()
        eventually(lambda: lab.stats()["reconciled"]["done"])  # type: ignore[index]
        assert not orphan.exists()
        assert stranger.exists()
        assert lab.stats()["reconciled"] == {"done": True, "orphans": 1, "dropped": 2}
        for name, want in data.items():
            assert lab.read(f"/{name}") == want
        assert fetched(lab) == 2 * MIB


def test_the_scrubber_finds_a_flipped_bit_and_mends_the_file_in_place(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 12 * MIB})["a"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start("--scrub-interval", "1")
        assert lab.read("/a") == data
        fd = lab.whole("/a")
        cached = next(p for p in Path(lab.tiers[0].path, "objects").rglob("*") if p.is_file())
        assert lab.process is not None
        lab.process.send_signal(signal.SIGSTOP)  # it would mend the file before anybody has looked
        os.waitpid(lab.process.pid, os.WUNTRACED)
        with cached.open("r+b") as f:
            f.seek(9 * MIB)
            f.write(b"\0" * 10)
        assert os.pread(fd, len(data), 0) != data
        lab.process.send_signal(signal.SIGCONT)
        eventually(lambda: os.pread(fd, len(data), 0) == data)
        os.close(fd)
        assert lab.stats()["scrub"]["bad_blocks"] >= 1  # type: ignore[index]
        eventually(lambda: fetched(lab) == len(data) + (256 << 10))
        eventually(lambda: lab.node("/a").cached == len(data))


def test_a_block_a_mount_suspects_is_compared_and_fetched_anew(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"a": 12 * MIB})["a"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        assert lab.read("/a") == data
        os.close(lab.whole("/a"))
        ino = lab.node("/a").ino
        block = 256 << 10
        assert isinstance(lab.door.call(wire.Suspect(ino, 9 * MIB, block), 10), wire.Done)
        assert lab.node("/a").cached == len(data), "a block that matches its checksum was thrown away"
        cached = next(p for p in Path(lab.tiers[0].path, "objects").rglob("*") if p.is_file())
        with cached.open("r+b") as f:
            f.seek(9 * MIB)
            f.write(b"\0" * 10)
        assert isinstance(lab.door.call(wire.Suspect(ino, 9 * MIB, block), 10), wire.Done)
        assert lab.node("/a").cached == len(data) - block
        assert lab.read("/a") == data
        assert fetched(lab) == len(data) + block
        for wrong in (wire.Suspect(ino, -1, 5), wire.Suspect(ino, 1 << 40, 5)):
            assert isinstance(lab.door.call(wrong, 10), wire.Done)
        with pytest.raises(DoorError):
            lab.door.call(wire.Suspect(1 << 40, 0, 5), 10)


def test_a_cache_file_that_vanishes_under_a_worker_is_made_anew(tmp_path: Path) -> None:
    data = fill(tmp_path / "src", {"large": 40 * MIB})["large"]
    with Lab(tmp_path / "lab", [file_mount(tmp_path / "src")]) as lab:
        lab.start()
        ino = lab.node("/large").ino
        opened, fd = lab.door.open(ino)
        reader = Reader(lab.door, ino, opened, fd)
        assert reader.read(0, 4096) == data[:4096]
        for p in Path(lab.tiers[0].path, "objects").rglob("*"):
            if p.is_file():
                p.unlink()
        out = bytearray()
        for offset in range(0, len(data), MIB):
            for attempt in range(20):
                try:
                    out += reader.read(offset, min(MIB, len(data) - offset))
                    break
                except DoorError:
                    assert attempt < 19
                    time.sleep(0.1)
        reader.close()
        assert bytes(out) == data
        assert lab.read("/large") == data
