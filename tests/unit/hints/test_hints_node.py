"""What a node publishes: how many bytes it holds, what is news, when it writes, which rates it knows, whom it believes."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.api import places
from forebay.api.hints.nodecache import MAX_DATASETS, Bandwidth, HeldBytes, NodeCacheStatus, Served, TierBytes, Warming
from forebay.api.hints.said import MOST, Said, SaidError, SaidLoad, SaidTier, decode, encode
from forebay.api.hints.steps import LEAST
from forebay.api.spec import Medium
from forebay.fuse.csi.hints.collecting import Caches
from forebay.fuse.csi.hints.holding import Cached, held, status, total
from forebay.fuse.csi.hints.pacing import BUDGET, EVERY, SLOWER, SPREAD, News, Pacer, news, pause
from forebay.fuse.csi.hints.rates import Counters, Rates
from forebay.fuse.csi.volumes.known import Known
from forebay.fuse.csi.volumes.records import Kept, Published, Staged
from forebay.fuse.csi.volumes.site import Layout, Site

NOW = "2026-11-27T12:00:00Z"
GIB = 1 << 30


def said(*tiers: SaidTier, owns: bool = True, **more: Any) -> Said:
    return Said(owns=owns, tiers=tiers, **more)


def tier(bytes_: int, medium: Medium = "SSD", **more: Any) -> SaidTier:
    return SaidTier(medium=medium, used=bytes_, held=bytes_, **{"quota": 10 * GIB, "room": 100 * GIB, **more})


def cached(worker: Said | None = None, reader: Said | None = None, **more: Any) -> Cached:
    return Cached(**{"namespace": "ns", "name": "d", **more}, worker=worker, reader=reader)


def whole(*all_: Cached, bandwidth: Bandwidth | None = None) -> NodeCacheStatus:
    return status(all_, NOW, "1", bandwidth)


# --- bytes


@pytest.mark.parametrize(
    ("serves", "reads", "size", "node"),
    [
        (100, 0, 100, 100),  # a worker alone
        (0, 100, 100, 100),  # readers far from any worker
        (100, 100, 100, 100),  # both hold all: once
        (50, 100, 100, 100),  # a reader that has read all, half of it from its own node
        (100, 30, 100, 100),
        (50, 50, 100, 75),  # nobody knows which: half of what is read is what the worker has
        (50, 80, 0, 80),  # the size is not known: at least what one of them holds
        (50, 30, 0, 50),
        (120, 60, 100, 120),  # an object's old version still lies there: never negative
    ],
)
def test_what_lies_in_both_caches_of_a_node_counts_once(serves: int, reads: int, size: int, node: int) -> None:
    worker = said(tier(serves, "MEM"), total=size, listed=size > 0)
    reader = said(tier(reads), owns=False)
    one = held(cached(worker, reader))
    assert total(one) == node
    assert {t.medium: t.bytes for t in one.tiers}.get("MEM", 0) == serves


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_node_holds_at_least_the_larger_and_at_most_the_sum(serves: int, reads: int, size: int) -> None:
    one = held(cached(said(tier(serves), total=size, listed=True), said(tier(reads), owns=False)))
    assert serves <= total(one) <= serves + reads
    if size and max(serves, reads) <= size:
        assert max(serves, reads) - 1 <= total(one) <= size


def test_a_dataset_with_a_worker_and_one_that_is_only_read() -> None:
    worker = said(
        tier(30, copies=10), tier(5, "MEM"), total=200, files=7, listed=True, from_store=40, loaded=9, revision="r",
        places=("/a", "/b"), drain="Running", load=SaidLoad(remaining=101, rate=10),
    )  # fmt: skip
    one = held(cached(worker, wanted=True))
    assert one.role == "Owner"
    assert one.tiers == (HeldBytes(medium="MEM", bytes=5), HeldBytes(medium="SSD", bytes=30))
    assert one.warming == Warming(remaining_bytes=101, bytes_per_second=10, eta_seconds=11)
    assert one.worker == Served(
        owned_bytes=25, capacity_bytes=20 * GIB, total_bytes=200, files=7, listed=True, store_bytes=40, loaded_bytes=9,
        revision="r", places=("/a", "/b"), drain="Running",
    )  # fmt: skip
    assert (one.mounted, one.silent) == (False, True), "pods ask for it, and it does not answer"
    only = held(cached(reader=said(tier(8), owns=False, local=5, missed=3), wanted=True, mounted=True))
    assert (only.role, only.mounted, only.silent, only.worker) == ("Client", True, False, msgspec.UNSET)
    assert msgspec.to_builtins(only.reader) == {"bytes": 8, "localBytes": 5, "missedBytes": 3}
    many = held(cached(said(places=tuple(f"/{i}" for i in range(33)))))
    assert isinstance(many.worker, Served)
    assert many.worker.places == (), "too many to be told: none, not some of them"


def test_the_largest_datasets_stand_by_name_and_all_are_counted() -> None:
    some = [cached(said(tier(i)), name=f"d{i:04}") for i in range(MAX_DATASETS + 20)]
    said_ = whole(*some)
    assert len(said_.datasets) == MAX_DATASETS
    assert said_.datasets[0].name == f"d{MAX_DATASETS + 19:04}"
    assert said_.dataset_count == MAX_DATASETS + 19, "the one with 0 bytes holds none"
    assert said_.cached_bytes == sum(range(MAX_DATASETS + 20)), "those left out too"
    assert said_.cached == "137.94KiB"


def test_a_node_whose_workers_are_silent_still_names_a_tier() -> None:
    """The API server takes an empty list away, and requires it then."""
    said_ = whole(cached(wanted=True))
    assert said_.tiers == (TierBytes(medium="SSD", capacity_bytes=0, used_bytes=0),)
    assert said_.datasets[0].silent


def test_what_is_free_on_one_disk_is_counted_once() -> None:
    room = 30 * GIB
    full = whole(*(cached(said(tier(0, room=room, device=1, quota=20 * GIB)), name=n) for n in "ab"))
    assert full.tiers == (TierBytes(medium="SSD", capacity_bytes=30 * GIB, used_bytes=0),)
    apart = whole(*(cached(said(tier(0, room=room, device=i, quota=20 * GIB)), name=n) for i, n in enumerate("ab")))
    assert apart.capacity_bytes == 40 * GIB
    assert whole(cached(said(tier(5, room=-3)))).capacity_bytes == 2, "below the floor it holds more than it may"
    assert whole(cached(said(tier(5, room=7, quota=0)))).capacity_bytes == 12, "without a quota the disk is the limit"


# --- news


BASE = cached(said(tier(GIB), total=10 * GIB, listed=True, revision="a"), said(tier(50), owns=False), wanted=True, mounted=True)


def changed(**more: Any) -> Cached:
    return msgspec.structs.replace(BASE, **more)


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (changed(), News.NONE),
        (changed(worker=said(tier(GIB, room=99 * GIB), total=10 * GIB, listed=True, revision="a")), News.NONE),
        (changed(worker=said(tier(GIB + 4096), total=10 * GIB, listed=True, revision="a")), News.SMALL),
        (changed(worker=said(tier(GIB + GIB // 9), total=10 * GIB, listed=True, revision="a")), News.LARGE),
        (changed(worker=said(tier(GIB), total=10 * GIB, listed=True, revision="a", from_store=9 * GIB)), News.SMALL),
        (changed(worker=said(tier(GIB), total=20 * GIB, listed=True, revision="a")), News.LARGE),
        (changed(worker=said(tier(GIB), total=10 * GIB, listed=True, revision="b")), News.LARGE),
        (changed(worker=said(tier(GIB), total=10 * GIB, listed=True, revision="a", drain="Done")), News.LARGE),
        (changed(worker=said(tier(GIB, quota=GIB), total=10 * GIB, listed=True, revision="a")), News.SMALL),
        (changed(worker=said(tier(GIB), total=10 * GIB, listed=True, revision="a", trouble="no answer")), News.LARGE),
        (changed(worker=said(tier(GIB), total=10 * GIB, listed=True, revision="a", full="1 GiB is free")), News.LARGE),
        (changed(worker=None), News.LARGE),
        (changed(reader=said(tier(50), owns=False, local=7)), News.SMALL),
        (changed(reader=None), News.LARGE),
        (changed(mounted=False), News.LARGE),
    ],
)  # fmt: skip
def test_what_is_news(after: Cached, found: News) -> None:
    assert news(whole(BASE), whole(after)) is found


def test_the_words_of_a_store_are_no_news_while_it_fails() -> None:
    """They may name a request, or another directory each time."""
    fails, still = (whole(cached(said(tier(GIB), revision="a", trouble=text))) for text in ("no answer (1)", "no answer (2)"))
    assert news(fails, still) is News.NONE
    assert news(still, whole(cached(said(tier(GIB), revision="a")))) is News.LARGE
    full, fuller = (whole(cached(said(tier(GIB), revision="a", full=text))) for text in ("2 GiB free", "1 GiB free"))
    assert news(full, fuller) is News.NONE


def test_what_a_pod_says_of_a_store_is_one_line() -> None:
    one = held(cached(said(trouble="a\nb\x1b[31mc", full="d\ne")))
    assert isinstance(one.worker, Served)
    assert (one.worker.trouble, one.worker.full) == ("a b [31mc", "d e")


def test_more_that_is_news() -> None:
    assert news(None, whole()) is News.NONE, "a node with nothing has no object"
    assert news(None, whole(BASE)) is News.LARGE
    assert news(whole(BASE), whole()) is News.LARGE, "everything went"
    assert news(whole(), whole()) is News.NONE
    assert news(whole(BASE), whole(BASE, bandwidth=Bandwidth(read_bytes_per_second=9))) is News.NONE

    def step(before: int, after: int, total: int) -> News:
        return news(*(whole(cached(said(tier(n), total=total, listed=True))) for n in (before, after)))

    assert step(100, LEAST, 4 * LEAST) is News.SMALL, "less than a mebibyte never hurries"
    assert step(100, 100 + LEAST, 4 * LEAST) is News.LARGE
    assert step(100, LEAST, LEAST) is News.LARGE, "unless it is most of the dataset"
    assert step(100, LEAST // 3, LEAST) is News.SMALL
    loading = [cached(said(tier(GIB), load=SaidLoad(remaining=left, rate=left))) for left in (GIB, GIB - 1)]
    assert news(whole(cached(said(tier(GIB)))), whole(loading[0])) is News.LARGE, "a load begins"
    assert news(whole(loading[0]), whole(loading[1])) is News.SMALL


# --- when


def test_a_node_writes_news_at_once_and_then_at_most_every_ten_seconds() -> None:
    pacer = Pacer(Random(1), 0.0)
    assert not pacer.due(News.NONE, 1e9)
    assert pacer.due(News.LARGE, EVERY)
    pacer.wrote(100.0)
    assert not pacer.due(News.LARGE, 100.0 + EVERY - 0.1)
    assert pacer.due(News.LARGE, 100.0 + EVERY * SPREAD)
    assert not pacer.due(News.SMALL, 100.0 + EVERY * SLOWER - 0.1)
    assert pacer.due(News.SMALL, 100.0 + EVERY * SLOWER * SPREAD)


@pytest.mark.parametrize("nodes", [1, 200, 1000, 5000])
def test_all_nodes_together_stay_within_the_budget(nodes: int) -> None:
    """However much moves everywhere, all the time."""
    sample = [Pacer(Random(i), 0.0) for i in range(40)]
    writes, seconds = 0, 20 * pause(nodes)
    for pacer in sample:
        pacer.nodes, now = nodes, 0.0
        while now < seconds:
            if pacer.due(News.LARGE, now):
                pacer.wrote(now)
                writes += 1
            now += 0.5
    assert writes / len(sample) * nodes / seconds <= min(BUDGET, nodes / EVERY) * 1.05
    assert writes / len(sample) >= seconds / pause(nodes) / SPREAD * 0.9, "and they do write"


def test_nodes_that_start_together_part() -> None:
    first = []
    for i in range(100):
        pacer = Pacer(Random(i), 0.0)
        first.append(next(t for t in range(100) if pacer.due(News.LARGE, t / 5)) / 5)
    assert len({round(t) for t in first}) >= 8, first


def test_a_server_in_trouble_is_asked_less_and_less() -> None:
    pacer, now, tries = Pacer(Random(3), 0.0), 0.0, []
    while now < 3600:
        now += 1
        if pacer.due(News.LARGE, now):
            pacer.failed(now)
            tries.append(now)
    assert len(tries) < 20
    assert tries[-1] - tries[-2] >= Pacer.LAST_RETRY
    pacer.wrote(now)
    assert pacer.due(News.LARGE, now + EVERY * SPREAD), "all is as before"


# --- rates


def test_rates_are_the_best_of_real_traffic_and_fade_with_use_alone() -> None:
    rates = Rates()
    assert rates.bandwidth() is None
    rates.look(0.0, {"a": Counters(1000, 0, 0)})
    assert rates.bandwidth() is None, "what came before the first look came in unknown time"
    rates.look(5.0, {"a": Counters(1000 + 500_000, 0, 0), "b": Counters(10**12, 0, 0)})
    assert rates.bandwidth() == Bandwidth(store_bytes_per_second=100_000)
    for t in range(10, 5000, 5):
        rates.look(float(t), {"a": Counters(501_000, 0, 0), "b": Counters(10**12, 0, 0)})
    assert rates.bandwidth() == Bandwidth(store_bytes_per_second=100_000), "nothing was asked for"
    rates.look(5000.0, {"a": Counters(0, 0, 0), "b": Counters(10**12, 5_000_000, 0)})
    assert rates.bandwidth() == Bandwidth(store_bytes_per_second=100_000, peer_bytes_per_second=1_000_000), "a starts anew"
    for t in range(1, 400):
        rates.look(5000.0 + 5 * t, {"b": Counters(10**12 + t * 50_000, 5_000_000, 0)})
    assert rates.bandwidth() == Bandwidth(store_bytes_per_second=10_000, peer_bytes_per_second=1_000_000)


# --- whom it believes


class Shown:
    """Mounts of a test: those that answer."""

    def __init__(self, *answering: str) -> None:
        self.answering = set(answering)

    def holds(self, site: Site) -> bool:
        return site.id in self.answering


class World:
    """A node's records and folders, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(str(folder / "plugins"), str(folder / "cache"))
        os.makedirs(self.layout.state)
        self.known = Known(self.layout.state)
        self.mounts = Shown()
        self.now = 1_800_000_000.0
        self.folder = folder
        self.caches = Caches(self.known, self.mounts, self.layout, clock=lambda: self.now)  # type: ignore[arg-type]

    def worker(self, pod: str, word: Said | bytes, *, dataset: str = "d") -> Path:
        target = self.folder / pod
        (target / "run").mkdir(parents=True, exist_ok=True)
        self.known.published.put(Published(str(target), pod, "x", "worker", "ns", dataset))
        return self.say(target / "run", word)

    def reader(self, word: Said, dataset: str = "d") -> Path:
        site = self.layout.site("ns", dataset)
        os.makedirs(site.run, exist_ok=True)
        self.known.kept.put(Kept(site.id, "ns", dataset, "c", "s"))
        return self.say(Path(site.run), word)

    def say(self, folder: Path, word: Said | bytes) -> Path:
        path = folder / places.SAID
        path.write_bytes(word if isinstance(word, bytes) else encode(word))
        os.utime(path, (self.now, self.now))
        return path

    def look(self) -> list[Cached]:
        return self.caches.look()[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_look_puts_the_processes_of_a_dataset_together(world: World) -> None:
    assert world.look() == []
    serves, reads = said(tier(5), from_store=7), said(tier(3), owns=False)
    world.worker("pod-1", serves)
    world.reader(reads)
    world.known.staged.put(Staged("p", "v", "x", "ns", "d", "c", "s", ""))
    world.mounts.answering.add("ns/d")
    assert world.look() == [cached(serves, reads, wanted=True, mounted=True)]
    assert sorted(c.store for c in world.caches.look()[1].values()) == [0, 7]
    world.worker("pod-2", said(tier(1)), dataset="other")
    assert {c.name for c in world.look()} == {"d", "other"}
    world.known.published.drop(str(world.folder / "pod-2"))
    assert {c.name for c in world.look()} == {"d"}


def test_a_worker_that_was_silent_for_two_minutes_is_gone(world: World) -> None:
    path = world.worker("pod-1", said(tier(5)))
    world.now += 119
    assert world.look()
    world.now += 2
    assert world.look() == []
    os.utime(path, (world.now, world.now))
    assert world.look(), "it lives on, and said nothing new"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{}", b"[]", b'{"owns": true, "version": 2}', b'{"owns": true, "total": -1}', b'{"owns": true, "total": 1e300}',
        b'{"owns": true, "tiers": [{"medium": "TAPE"}]}', b'{"owns": true, "drain": "perhaps"}', b"\xff\xfe",
        b'{"owns": true, "revision": "' + b"x" * 65 + b'"}', b'{"owns": true, "x": "' + b"x" * MOST + b'"}',
    ],
)  # fmt: skip
def test_what_a_worker_may_not_say_is_not_heard_and_keeps_nobody_else_from_it(world: World, raw: bytes) -> None:
    world.worker("pod-1", raw)
    world.worker("pod-2", said(tier(1)), dataset="other")
    assert [c.name for c in world.look()] == ["other"]
    if len(raw) <= MOST:
        with pytest.raises(SaidError):
            decode(raw)


def test_nothing_in_a_pods_folder_is_followed_or_waited_for(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(encode(said(tier(GIB))))
    path = world.worker("pod-1", said(tier(1)))
    path.unlink()
    path.symlink_to(outside)
    assert world.look() == [], "a link"
    path.unlink()
    os.mkfifo(path)
    assert world.look() == [], "a pipe, which nobody writes to"
    path.unlink()
    path.mkdir()
    assert world.look() == []
    path.rmdir()
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path)
    assert world.look() == [], "a folder that is a link"


def test_what_is_said_is_read_once_until_it_changes(world: World) -> None:
    path = world.worker("pod-1", said(tier(1)))
    first = world.look()[0].worker
    assert world.look()[0].worker is first
    world.now += 1
    world.say(path.parent, said(tier(2)))
    assert world.look()[0].worker == said(tier(2))
