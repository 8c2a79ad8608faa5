"""Kill -9 of any worker, and faults on every link, under readers who know every byte: none wrong, no error, no hang."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from clusterlab import ClusterLab, S3Store, random_objects, s3_store
from faultlink import Fault, RawLink
from storm import ALL_BUT_CORRUPT, Storm, Verifiers, Weather, calm
from tlskit import certificate, tls_front
from workerlab import MIB, eventually

from forebay.api.spec import Freshness

pytestmark = pytest.mark.cluster

SIZES = (
    {f"s/{i:02}": 500 + 1597 * i for i in range(40)} | {f"m/{i}": 4 * MIB + 77 * i for i in range(8)} | {"large": 70 * MIB + 5}
)
DATA = random_objects(SIZES)
SEED = int(os.environ.get("FOREBAY_SEED", "0")) or random.randrange(1, 1 << 30)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    with s3_store(tmp_path_factory.mktemp("store"), DATA) as store:
        yield store


def flipped(drawn: Callable[[object], Fault | None]) -> Callable[[object], Fault | None]:
    """A plan by which every fourth connection has a byte flipped early on: workers keep theirs, so few are drawn for."""
    numbers = count()
    return lambda one: Fault("corrupt", 100_000) if next(numbers) % 4 == 1 else drawn(one)


def storm(tmp_path: Path, store: S3Store, seconds: float, share: float) -> None:
    """Two mounts, one by TLS whose bytes are flipped on the way; caches that hold half of it; three workers and a client tier."""
    print(f"seed {SEED}: give it as FOREBAY_SEED to have the same faults drawn")
    with ExitStack() as undo:
        pem = certificate(tmp_path)
        tls = undo.enter_context(RawLink(("127.0.0.1", undo.enter_context(tls_front(store.url, tmp_path / "tls", pem)))))
        fresh = Freshness("ttl", 2.0)
        mounts = [
            store.mount(path="/plain", freshness=fresh),
            store.mount(f"https://{tls.address}", path="/tls", freshness=fresh, ca_file=str(pem)),
        ]
        lab = undo.enter_context(ClusterLab(tmp_path, mounts, clients=1, links=True, quota=96 * MIB))
        lab.start()
        files = {f"/{mount}/{name}": data for mount in ("plain", "tls") for name, data in DATA.items()}
        weather = Weather(share, SEED)
        store.link.plan = weather.plan(*ALL_BUT_CORRUPT)
        tls.plan = flipped(Weather(3 * share, SEED + 1).plan("corrupt", "reset", "truncate"))
        for link in lab.links.values():
            link.plan = weather.plan(*ALL_BUT_CORRUPT, "corrupt")
        verifiers = Verifiers(list(lab.nodes.values()), files, seed=SEED)
        raging = Storm(lab, [store.link, tls, *lab.links.values()], seed=SEED)
        verifiers.start()
        try:
            raging.rage(seconds)
        finally:
            verifiers.stop()
            print("\n".join(raging.log))
            calm([store.link, *lab.links.values()])
            tls.plan = lambda number: None
        counts = sum((link.counts for link in [store.link, *lab.links.values()]), Counter())
        found = verifiers.found
        print(
            f"{raging.kills} kills, faults {dict(counts)}, of TLS {dict(tls.counts)}; reads {dict(found.reads)}, "
            f"{found.nbytes / MIB:.0f} MiB, slowest {found.slowest:.1f} s {found.slow}"
        )
        found.assert_clean()
        assert raging.kills >= seconds / 12
        assert set(counts) == {*ALL_BUT_CORRUPT, "corrupt"}
        assert tls.counts["corrupt"]
        assert min(found.reads[n] for n in lab.nodes) > 50
        eventually(lambda: all(n.members() == 3 for n in lab.nodes.values()))
        for node in lab.nodes.values():
            for path, want in files.items():
                assert node.read(path) == want, f"{node.cluster.node}: {path}, after the storm"


@pytest.mark.timeout(300)
def test_a_minute_of_kills_and_faults(tmp_path: Path, store: S3Store) -> None:
    storm(tmp_path, store, 60, 4)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ten_minutes_of_kills_and_faults(tmp_path: Path, store: S3Store) -> None:
    storm(tmp_path, store, 600, 4)


@pytest.mark.parametrize("kind", ["corrupt", "reset", "truncate"])
def test_a_tls_link_that_breaks_records(tmp_path: Path, store: S3Store, kind: str) -> None:
    """Every second connection ends in the middle: TLS tells, the rest is asked for again, and no byte is wrong."""
    with ExitStack() as undo:
        pem = certificate(tmp_path)
        tls = undo.enter_context(RawLink(("127.0.0.1", undo.enter_context(tls_front(store.direct, tmp_path / "tls", pem)))))
        tls.plan = lambda n: Fault(kind, 20_000 + 300_007 * (n % 3)) if n % 2 else None  # type: ignore[arg-type]
        mount = store.mount(f"https://{tls.address}", ca_file=str(pem))
        lab = undo.enter_context(ClusterLab(tmp_path, [mount], workers=2))
        lab.start()
        for node in lab.workers:
            for name, want in DATA.items():
                assert node.read(f"/{name}") == want
        assert tls.counts[kind] > 0
