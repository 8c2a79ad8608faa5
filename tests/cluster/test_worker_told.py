"""What workers in pods say of themselves to their nodes: the right bytes and counters, when they change, and a sign of life."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusterlab import S3Store, random_objects, s3_store
from podlab import PodLab, PodWorker, manifest, s3
from workerlab import MIB, eventually

from forebay.api import places, podconfig
from forebay.api.hints.said import Said, decode
from forebay.api.manifests.freshness import FLOOR
from forebay.cache.peers.auth import Key, load_secret
from forebay.cache.peers.control_client import ControlClient
from forebay.cache.telling import ALIVE

pytestmark = pytest.mark.cluster

OBJECTS = random_objects({**{f"one/{i:02}": 30_000 + i for i in range(40)}, "one/large": 9 * MIB + 7})
TOTAL = sum(map(len, OBJECTS.values()))
LONG = 120.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    with s3_store(tmp_path_factory.mktemp("s3"), OBJECTS) as found:
        yield found


@pytest.fixture
def lab(store: S3Store, tmp_path: Path) -> Iterator[PodLab]:
    with PodLab(tmp_path / "pods", manifest(s3(store.url, "/", "one/"))) as made:
        for node in ("node-a", "node-b"):
            made[node].start(wait=False)
        for node in ("node-a", "node-b"):
            made[node]._wait_for_it(made[node].process)  # type: ignore[arg-type]
        yield made
        for node in ("node-a", "node-b"):
            made[node].stop()


def said(worker: PodWorker) -> Said | None:
    try:
        return decode((worker.run_dir / places.SAID).read_bytes())
    except FileNotFoundError:
        return None


def told(worker: PodWorker, true: Callable[[Said], object]) -> Said:
    """The first of what it says for which something is true: what it says a moment later may be something else."""
    found: list[Said] = []

    def look() -> bool:
        now = said(worker)
        if now is None or not true(now):
            return False
        found.append(now)
        return True

    eventually(look, LONG)
    return found[-1]


def held(worker: PodWorker) -> int:
    found = said(worker)
    return sum(t.held for t in found.tiers) if found is not None else 0


def owned(*workers: PodWorker) -> int:
    return sum(t.held - t.copies for w in workers if (found := said(w)) is not None for t in found.tiers)


def test_bytes_reads_and_loads_are_what_they_are(lab: PodLab) -> None:
    a, b = lab["node-a"], lab["node-b"]
    for worker in (a, b):
        found = told(worker, lambda it: it.listed)
        assert (found.total, found.files, found.owns) == (TOTAL, len(OBJECTS), True)
        assert found.revision == podconfig.revision(worker.here(lab.planned.config))
        assert found.places == ("/",)
        assert [t.medium for t in found.tiers] == ["SSD"]
        assert found.tiers[0].quota == 2 << 30
        assert found.tiers[0].device == os.stat(worker.state / "tiers" / "0").st_dev
    assert held(a) + held(b) == 0, "nobody has read"

    for name, data in OBJECTS.items():
        assert a.read(f"/{name.removeprefix('one/')}") == data
    eventually(lambda: held(a) == TOTAL, LONG)
    eventually(lambda: owned(a, b) == TOTAL, LONG)
    eventually(lambda: sum(x.from_store for w in (a, b) if (x := said(w)) is not None) == TOTAL, LONG)
    eventually(lambda: (x := said(a)) is not None and (x.missed, x.loaded, x.from_peers) == (TOTAL, 0, held(b)), LONG)

    for name, data in OBJECTS.items():
        assert a.read(f"/{name.removeprefix('one/')}") == data

    client = ControlClient(Key(load_secret(str(b.secret)), "default/lab"))
    for _ in client.load(f"{b.address}:{b.ports[1]}", [b"/"]):
        pass
    client.close()
    eventually(lambda: held(b) == TOTAL, LONG)
    eventually(lambda: (x := said(b)) is not None and x.loaded > 0 and x.load is None, LONG)
    eventually(lambda: owned(a, b) == TOTAL, LONG)  # what b copied belongs to a
    again = said(a)
    assert again is not None
    assert again.missed == TOTAL, "it had all of it the second time"


def test_a_worker_with_nothing_new_touches_its_file_and_leaves_it_as_it_is(lab: PodLab) -> None:
    path = lab["node-a"].run_dir / places.SAID
    eventually(lambda: (x := said(lab["node-a"])) is not None and x.listed, LONG)
    before = path.read_bytes()
    os.utime(path, (1, 1))
    eventually(lambda: path.stat().st_mtime > 1e9, 3 * ALIVE + LONG)
    assert path.stat().st_mode & 0o777 == 0o600
    assert decode(path.read_bytes()).total == decode(before).total


def test_a_disk_that_others_have_filled_is_told(store: S3Store, tmp_path: Path) -> None:
    with PodLab(tmp_path / "pods", manifest(s3(store.url, "/", "one/"), **{FLOOR: "99.9%"})) as lab:
        worker = lab["node-a"]
        worker.start()
        found = told(worker, lambda it: it.full)
        assert found.full.startswith("others leave less than 100% of the disk of tier 0 (SSD) free, and that stays free: ")
        assert found.full.endswith("free some space, or lower the floor (annotation forebay.io/free-space-floor)")
        for name, data in OBJECTS.items():
            assert worker.read(f"/{name.removeprefix('one/')}") == data
        assert held(worker) == 0
        worker.stop()


def test_a_store_that_gives_nothing_is_told_without_what_secrets_hold(store: S3Store, tmp_path: Path) -> None:
    """Its address came from a Secret: others may read what a worker says. It is well again when the store is."""
    hidden = s3(store.url, "/", "one/")
    address = hidden["options"].pop("endpoint")
    at = {"name": "endpoint", "valueFrom": {"secretKeyRef": {"name": "cred", "key": "where"}}}
    hidden["encryptOptions"].append(at)
    with PodLab(tmp_path / "pods", manifest(hidden)) as lab:
        lab.secrets["cred/where"] = "http://127.0.0.1:9"
        worker = lab["node-a"]
        worker.credentials.write(lab.secrets)
        worker.start()
        found = told(worker, lambda it: it.trouble)
        assert found.trouble.startswith("/: ")
        assert "127.0.0.1" not in found.trouble
        assert "***" in found.trouble
        lab.secrets["cred/where"] = address
        worker.credentials.write(lab.secrets)
        eventually(lambda: (found := said(worker)) is not None and found.listed and not found.trouble, LONG)
        worker.stop()
