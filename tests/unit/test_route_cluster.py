"""ClusterStore over real ports: where names and bytes come from while members come, go, stall and lie."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peerkit import DATASET, SOURCE, FileProvider, key, soon
from storekit import drain

from forebay.cache import placement, route
from forebay.cache.cluster import Cluster, ClusterStore, Wanted
from forebay.cache.extents import checksum
from forebay.cache.index import BLOCK, SEGMENT, object_id
from forebay.cache.membership import Fixed, Member
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.desk import Desk
from forebay.cache.peers.port import Port
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Body, Changed, Entry, NotFound, Page, Unavailable
from forebay.cache.stores.ranges import Held

RNG = random.Random(3)
IDS = [f"{i}0000000-0000-0000-0000-000000000000" for i in range(1, 4)]


class LocalStore:
    """A store in memory that counts what it is asked."""

    strong = True

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.reads: list[tuple[bytes, int, int]] = []
        self.lists = 0
        self.gate: threading.Event | None = None

    def list(self, prefix: bytes, token: bytes | None = None, limit: int = 1000) -> Page:
        self.lists += 1
        if self.gate is not None:
            self.gate.wait(5)
        found = [Entry(k[len(prefix) :], False, len(v), 0, b"v1") for k, v in self.data.items() if k.startswith(prefix)]
        if not found:
            raise NotFound("none")
        return Page(found, None)

    def stat(self, key: bytes) -> Entry:
        if key not in self.data:
            raise NotFound(f"no {key!r}")
        return Entry(key.rpartition(b"/")[2], False, len(self.data[key]), 0, b"v1")

    def is_dir(self, key: bytes) -> bool:
        return any(k.startswith(key + b"/") for k in self.data)

    def read(self, key: bytes, version: bytes, offset: int, length: int) -> Body:
        self.reads.append((key, offset, length))
        return Held(self.data[key][offset : offset + length])

    def whole(self, key: bytes) -> tuple[Entry, Body]:
        return self.stat(key), Held(self.data[key])

    def probe(self) -> None:
        return

    def close(self) -> None:
        return


class World:
    """Three members with ports over files, and a node `me` that asks."""

    def __init__(self, folder: Path) -> None:
        self.providers: dict[str, FileProvider] = {}
        self.ports: dict[str, Port] = {}
        for i in IDS:
            sub = folder / i[:1]
            sub.mkdir()
            self.providers[i] = FileProvider(sub, i)
            self.ports[i] = Port(self.providers[i], key(), i)
            self.ports[i].start()
        self.members = [Member(i, p.address) for i, p in self.ports.items()]
        self.client = PeerClient(key())
        self.clusters: list[Cluster] = []
        self.local = LocalStore()

    def store(self, me: str = "client", *, local: bool = False, **more: bool) -> ClusterStore:
        c = Cluster(DATASET, me, membership=Fixed(self.members), client=self.client, owns=local, **more)
        self.clusters.append(c)
        return ClusterStore(SOURCE, c, self.local if local else None)

    def add(self, name: str, data: bytes) -> Ref:
        for p in self.providers.values():
            ref = p.add(name, data)
            p.have = set()  # nobody has copies, unless a test says so
        self.local.data[name.encode()] = data
        return ref

    def order(self, ref: Ref, segment: int = 0) -> list[FileProvider]:
        ranked = placement.rank(object_id(SOURCE, ref.key, ref.version), segment, self.members)
        return [self.providers[m.id] for m in ranked]

    def kill(self, provider: FileProvider) -> str:
        port = self.ports[provider.identity]
        port.close()
        return port.address

    def revive(self, provider: FileProvider, address: str) -> None:
        port = Port(provider, key(), provider.identity, port=int(address.rpartition(":")[2]))
        port.start()
        self.ports[provider.identity] = port

    def close(self) -> None:
        for c in self.clusters:
            c.close()
        self.client.close()
        for p in self.ports.values():
            p.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    w = World(tmp_path)
    yield w
    w.close()


def read(store: ClusterStore, ref: Ref, offset: int = 0, length: int | None = None, piece: int = 1 << 20) -> bytes:
    return drain(store.read(ref.key, ref.version, offset, ref.size - offset if length is None else length, ref.size), piece)


# --- the normal case


def test_bytes_come_from_the_owner_and_from_nobody_else(world: World) -> None:
    data = RNG.randbytes(5 * BLOCK + 77)
    ref = world.add("d/f", data)
    store = world.store()
    assert read(store, ref) == data
    owner, *others = world.order(ref)
    assert owner.asked == [("fetch", 0, 6)]
    assert not any(o.asked for o in others)
    assert store.cluster.bytes == {"owner": len(data)}


@pytest.mark.parametrize("piece", [1000, BLOCK, BLOCK + 1, 1 << 20])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (1, BLOCK), (BLOCK, BLOCK), (BLOCK - 1, 2), (3 * BLOCK + 5, 2 * BLOCK), (0, 0)]
)
def test_any_range_into_any_buffer(world: World, offset: int, length: int, piece: int) -> None:
    data = RNG.randbytes(6 * BLOCK + 1)
    ref = world.add("f", data)
    assert read(world.store(), ref, offset, length, piece) == data[offset : offset + length]


def test_the_owner_reads_its_store_and_asks_nobody(world: World) -> None:
    data = RNG.randbytes(BLOCK * 2)
    ref = world.add("f", data)
    me = world.order(ref)[0].identity
    store = world.store(me, local=True)
    assert read(store, ref) == data
    assert world.local.reads == [(b"f", 0, len(data))]
    assert not any(p.asked for p in world.providers.values())
    assert store.cluster.bytes == {"store": len(data)}


def test_segments_of_one_object_come_from_their_own_owners(world: World) -> None:
    size = 3 * SEGMENT + 100
    path = world.providers[IDS[0]].folder / "big"
    with open(path, "wb") as f:
        f.truncate(size)
    sums = [checksum(bytes(BLOCK))] * (size // BLOCK) + [checksum(bytes(100))]  # of a file of holes, without reading it
    ref = Ref(SOURCE, b"big", b"v1", size)
    for p in world.providers.values():
        p.objects[ref] = (path, sums)
    store = world.store()
    for segment in range(1, 4):
        at = segment * SEGMENT - BLOCK
        n = min(2 * BLOCK, size - at)
        assert read(store, ref, at, n) == bytes(n)
        before, after = world.order(ref, segment - 1)[0], world.order(ref, segment)[0]
        assert before.asked[-1 if before is not after else -2] == ("fetch", at // BLOCK, 1)
        assert after.asked[-1] == ("fetch", segment * SEGMENT // BLOCK, 1)


def test_errors_of_the_owners_store_are_the_readers(world: World) -> None:
    ref = world.add("f", b"123")
    owner, *others = world.order(ref)
    owner.error = Changed("the object has another version now")
    with pytest.raises(Changed, match="another version"):
        read(world.store(local=True), ref)
    owner.error = Unavailable("the store answers 503")
    with pytest.raises(Unavailable, match="503"):
        read(world.store(local=True), ref)
    assert not any(o.asked for o in others)
    assert world.local.reads == [], "a store in trouble is not asked by more nodes than before"


def test_a_size_that_is_not_known_is_asked_for(world: World) -> None:
    ref = world.add("d/f", b"12345")
    store = world.store()
    assert drain(store.read(b"d/f", b"v1", 1, 3)) == b"234"
    with pytest.raises(Changed):
        store.read(b"d/f", b"other", 0, 3)
    with pytest.raises(Changed, match="only 5 bytes"):
        store.read(b"d/f", b"v1", 0, 6)
    entry, body = store.whole(b"d/f")
    assert (entry.size, entry.version) == (5, b"v1")
    assert drain(body) == b"12345"
    assert ref.size == 5


# --- when the owner does not answer


def test_a_slow_owner_is_helped_by_a_copy_and_then_listened_to_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEDGE_AFTER", 0.3)
    data = RNG.randbytes(6 * BLOCK)
    ref = world.add("f", data)
    owner, first, second = world.order(ref)
    owner.delay = {1: 1.2, 4: 1.2}
    second.have = {1, 2}
    store = world.store()
    assert read(store, ref) == data
    assert second.asked[0] == ("cached", 1, 5)
    assert first.asked[0] == ("cached", 1, 5)
    assert store.cluster.bytes["cached"] == 2 * BLOCK
    assert store.cluster.bytes["owner"] == 4 * BLOCK
    assert "standin" not in {mode for p in world.providers.values() for mode, _, _ in p.asked}


def test_an_owner_that_stalls_in_the_middle_of_a_block(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy anywhere: the reader goes on with the very answer it had, half of a block already in its buffer."""
    monkeypatch.setattr(route, "HEDGE_AFTER", 0.2)
    data = RNG.randbytes(3 * BLOCK)
    ref = world.add("f", data)
    owner = world.order(ref)[0]
    port = world.ports[owner.identity]
    real = httpd.Exchange.send_file

    def halting(self: httpd.Exchange, fd: int, offset: int, length: int) -> None:
        if offset == BLOCK:
            real(self, fd, offset, 1000)
            time.sleep(0.7)
            real(self, fd, offset + 1000, length - 1000)
        else:
            real(self, fd, offset, length)

    monkeypatch.setattr(httpd.Exchange, "send_file", halting)
    store = world.store()
    assert read(store, ref) == data
    assert store.cluster.events["silent"] >= 1
    assert port.requests["/v1/blob"] == 1


def test_a_dead_owner_is_replaced_by_the_next_member_for_all_nodes(world: World) -> None:
    data = RNG.randbytes(3 * BLOCK)
    ref = world.add("f", data)
    owner, first, second = world.order(ref)
    world.kill(owner)
    stores = [world.store(), world.store(), world.store(second.identity, local=True)]
    results: list[bytes] = []
    began = time.monotonic()
    threads = [threading.Thread(target=lambda s=s: results.append(read(s, ref))) for s in stores]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert results == [data] * 3
    assert 2.0 <= time.monotonic() - began < 6
    assert [a for a in first.asked if a[0] == "standin"] == [("standin", 0, 3)] * 3
    assert not [a for a in second.asked if a[0] != "cached"]
    assert world.local.reads == [], "a node that is not the next one leaves the store alone"
    began = time.monotonic()
    assert read(stores[0], ref) == data
    assert time.monotonic() - began < 0.5, "only the first range pays for finding out"


def test_the_next_member_fetches_from_its_own_store(world: World) -> None:
    data = RNG.randbytes(2 * BLOCK)
    ref = world.add("f", data)
    owner, first, _ = world.order(ref)
    store = world.store(first.identity, local=True)
    store.cluster.stand_in(object_id(SOURCE, ref.key, ref.version), 0)
    assert store.cluster.stands_in(object_id(SOURCE, ref.key, ref.version), 0)
    assert not store.cluster.stands_in(object_id(SOURCE, ref.key, ref.version), 1)
    assert read(store, ref) == data
    assert world.local.reads == [(b"f", 0, len(data))]
    assert owner.asked == []


@pytest.mark.parametrize("mode", [Mode.FETCH, Mode.STANDIN])
def test_who_is_asked_to_fetch_does_so_itself_whoever_it_takes_for_the_owner(world: World, mode: Mode) -> None:
    """Or two nodes whose member lists differ would wait for each other."""
    data = RNG.randbytes(2 * BLOCK)
    ref = world.add("f", data)
    owner, first, _ = world.order(ref)
    store = world.store(first.identity, local=True)
    store.cluster.admit(ref, 0, 2, Mode.CACHED)
    assert read(store, ref) == data
    assert world.local.reads == []
    store.cluster.admit(ref, 0, 2, mode)
    assert read(store, ref) == data
    assert world.local.reads == [(b"f", 0, len(data))]
    mine = world.store(owner.identity, local=True).cluster
    mine.admit(ref, 0, 2, mode)
    assert not mine.stands_in(object_id(SOURCE, ref.key, ref.version), 0)
    with pytest.raises(wire.Absent, match="client tier"):
        world.store().cluster.admit(ref, 0, 2, mode)


def test_a_killed_owner_that_is_back_in_a_second_is_asked_again(world: World) -> None:
    data = RNG.randbytes(12 * BLOCK)
    ref = world.add("f", data)
    owner = world.order(ref)[0]
    owner.delay = dict.fromkeys(range(12), 0.05)
    store = world.store()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(store, ref)))
    reader.start()
    assert soon(lambda: store.cluster.bytes["owner"] >= 3 * BLOCK)
    address = world.kill(owner)
    time.sleep(0.8)
    world.revive(owner, address)
    reader.join(20)
    assert got == [data]
    assert "standin" not in {mode for p in world.providers.values() for mode, _, _ in p.asked}
    assert store.cluster.bytes["owner"] == len(data), "what had arrived was not asked for again"


def test_ill_members_are_greeted_until_they_are_well(world: World) -> None:
    ref = world.add("f", b"1" * 10)
    owner = world.order(ref)[0]
    address = world.kill(owner)
    store = world.store()
    c = store.cluster
    now = [1000.0]
    c.clock = lambda: now[0]
    c.health.refused(owner.identity, 998.0)
    c.health.refused(owner.identity, 1000.0)
    c.tend()
    assert c.health.down(owner.identity, now[0])
    assert read(store, ref) == b"1" * 10
    world.revive(owner, address)
    c.tend()
    assert not c.health.down(owner.identity, now[0])
    c.start()
    c.close()
    assert not [t for t in threading.enumerate() if t.name == "forebay-greet"]


def test_a_returned_owner_takes_what_was_fetched_in_its_place(world: World) -> None:
    data = RNG.randbytes(6 * BLOCK)
    ref = world.add("f", data)
    owner, first, _ = world.order(ref)
    first.have = {0, 1, 2}
    store = world.store(owner.identity, local=True, returned=True)
    assert read(store, ref) == data
    assert store.cluster.bytes == {"cached": 3 * BLOCK, "store": 3 * BLOCK}
    assert world.local.reads == [(b"f", 3 * BLOCK, 3 * BLOCK)]


def test_corrupt_bytes_are_told_to_their_member_and_taken_from_another(world: World) -> None:
    data = RNG.randbytes(4 * BLOCK)
    ref = world.add("f", data)
    owner, first, _ = world.order(ref)
    bad = bytearray(data)
    bad[2 * BLOCK + 9] ^= 0x40
    owner.objects[ref][0].write_bytes(bad)
    store = world.store()
    assert read(store, ref) == data
    assert store.cluster.bytes == {"owner": 2 * BLOCK, "standin": 2 * BLOCK}
    assert store.cluster.events["wrong_checksum"] == 1
    store.cluster.tend()
    assert [(a.key, a.block, a.version, a.size) for a in owner.suspects] == [(b"f", 2, b"v1", len(data))]
    assert first.asked[-1] == ("standin", 2, 2)


def test_everyone_dead_and_no_store_is_an_error_that_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "PATIENCE", 1.0)
    monkeypatch.setattr(route, "REFUSING", 0.3)
    ref = world.add("f", b"123")
    for p in world.providers.values():
        world.kill(p)
    with pytest.raises(Unavailable, match="no member serves block 0"):
        read(world.store(), ref)
    assert read(world.store(local=True), ref) == b"123", "a node with a store has a last resort"


@pytest.mark.parametrize("seed", range(4))
def test_right_bytes_whatever_one_member_does(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Faults at random, a reader at each node: every byte right."""
    monkeypatch.setattr(route, "HEDGE_AFTER", 0.1)
    monkeypatch.setattr(route, "HEDGE_WAIT", 0.1)
    monkeypatch.setattr(route, "SILENT", 0.6)
    monkeypatch.setattr(route, "REFUSING", 0.3)
    rng = random.Random(seed)
    refs = [(world.add(f"f{i}", d := rng.randbytes(rng.randrange(1, 8 * BLOCK))), d) for i in range(6)]
    victim = world.providers[rng.choice(IDS)]
    for p in world.providers.values():
        p.have = {b for b in range(8) if rng.random() < 0.5}
    stop = threading.Event()

    def trouble() -> None:
        while not stop.is_set():
            victim.delay = {rng.randrange(8): rng.choice([0.05, 0.3, 0.9])}
            victim.stop_at = rng.choice([None, None, rng.randrange(8)])
            if rng.random() < 0.3:
                address = world.kill(victim)
                stop.wait(rng.random() * 0.5)
                world.revive(victim, address)
            stop.wait(0.05)

    failures: list[object] = []

    def reader(store: ClusterStore, seed: int) -> None:
        mine = random.Random(seed)
        for _ in range(12):
            ref, data = mine.choice(refs)
            offset = mine.randrange(ref.size)
            length = mine.randrange(ref.size - offset) + 1
            try:
                got = read(store, ref, offset, length, mine.choice([1000, BLOCK, 1 << 20]))
                assert got == data[offset : offset + length]
            except BaseException as e:  # noqa: BLE001 - told to the test's own thread
                failures.append(e)

    stores = [world.store(), world.store(local=True)]
    threads = [threading.Thread(target=reader, args=(s, seed * 10 + n)) for n, s in enumerate(stores * 2)]
    for c in world.clusters:
        c.start()
    disturber = threading.Thread(target=trouble)
    disturber.start()
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    stop.set()
    disturber.join()
    assert not failures
    assert not any(t.is_alive() for t in threads)


# --- small files


def test_small_files_of_one_owner_come_in_one_exchange(world: World) -> None:
    content = [RNG.randbytes(n) for n in [0, 1, 5000, 16 << 10, BLOCK + 1] * 20]
    refs = [world.add(f"d/{i}", d) for i, d in enumerate(content)]
    store = world.store()
    got = {i: drain(b) for i, b in store.read_many([Wanted(r.key, r.version, r.size) for r in refs])}  # type: ignore[arg-type]
    assert [got[i] for i in range(len(refs))] == content
    assert sum(p.batches for p in world.providers.values()) == 3
    assert not any(p.asked for p in world.providers.values())


def test_what_a_batch_does_not_bring_is_read_by_itself(world: World) -> None:
    content = [bytes([i]) * 3000 for i in range(60)]
    refs = [world.add(f"d/{i}", d) for i, d in enumerate(content)]
    owner = world.order(refs[0])[0]
    owner.objects[refs[0]][0].write_bytes(b"?" * 3000)  # corrupt at its owner
    other = next(p for p in world.providers.values() if p is not owner)
    other.stop_at = 5  # its batches break off
    third = next(p for p in world.providers.values() if p not in (owner, other))
    world.kill(third)
    gone = Ref(SOURCE, b"d/gone", b"v1", 10)
    wanted = [Wanted(r.key, r.version, r.size) for r in [*refs, gone]]
    store = world.store(local=True)
    world.local.data[b"d/gone"] = b"0123456789"
    got = {}
    for i, body in store.read_many(wanted):
        assert i not in got
        got[i] = body
    for i, d in enumerate(content):
        body = got[i]
        assert not isinstance(body, Exception)
        assert drain(body) == d
    assert len(got) == 61
    assert store.cluster.events["batch_failed"] >= 2
    store.cluster.tend()
    assert [a.key for a in owner.suspects] == [b"d/0"]


def test_my_own_small_files_are_left_to_my_store(world: World) -> None:
    refs = [world.add(f"d/{i}", bytes([i]) * 100) for i in range(30)]
    me = IDS[0]
    store = world.store(me, local=True)
    got = {i: drain(b) for i, b in store.read_many([Wanted(r.key, r.version, r.size) for r in refs])}  # type: ignore[arg-type]
    assert [got[i] for i in range(30)] == [bytes([i]) * 100 for i in range(30)]
    mine = {r.key for r in refs if world.order(r)[0].identity == me}
    assert {k for k, _, _ in world.local.reads} == mine
    assert mine


# --- names


def test_names_come_from_the_owner_of_their_directory(world: World) -> None:
    world.add("d/f", b"123")
    page = Page([Entry(b"f", False, 3, 0, b"v1")], None)
    for p in world.providers.values():
        p.pages[b"d/"] = page
    store = world.store()
    assert not store.strong
    assert store.list(b"d/") == page
    assert store.strong
    assert store.stat(b"d/f").size == 3
    assert store.is_dir(b"d")
    assert not store.is_dir(b"x")
    with pytest.raises(NotFound):
        store.stat(b"d/none")
    with pytest.raises(NotFound):
        store.list(b"none/")
    store.probe()
    owner = placement.prefix_owner(DATASET, SOURCE, b"d/", world.members)
    assert owner is not None
    assert world.ports[owner.id].requests["/v1/meta"] >= 4


def test_a_dead_owner_of_a_directory_costs_nothing_but_time(world: World) -> None:
    world.add("d/f", b"123")
    ranked = placement.rank_prefix(DATASET, SOURCE, b"d/", world.members)
    world.kill(world.providers[ranked[0].id])
    store = world.store()
    assert store.stat(b"d/f").size == 3
    assert world.ports[ranked[1].id].requests["/v1/meta"] == 1
    for m in ranked[1:]:
        world.kill(world.providers[m.id])
    with pytest.raises(Unavailable, match="no member answers"):
        store.stat(b"d/f")
    with pytest.raises(Unavailable):
        store.probe()
    assert world.store(local=True).stat(b"d/f").size == 3


def test_my_own_directories_are_listed_by_me(world: World) -> None:
    world.add("d/f", b"123")
    me = placement.prefix_owner(DATASET, SOURCE, b"d/", world.members)
    assert me is not None
    store = world.store(me.id, local=True)
    assert store.strong
    assert [e.name for e in store.list(b"d/").entries] == [b"f"]
    assert world.local.lists == 1
    assert sum(p.requests["/v1/meta"] for p in world.ports.values()) == 0


def test_a_member_with_wrong_bytes_in_its_answer_to_a_name_is_passed_over(world: World) -> None:
    world.add("d/f", b"123")
    ranked = placement.rank_prefix(DATASET, SOURCE, b"d/", world.members)
    world.providers[ranked[0].id].error = RuntimeError("a defect")
    store = world.store()
    assert store.stat(b"d/f").size == 3
    assert store.cluster.events["names_unanswered"] == 1


def test_equal_listings_at_one_time_are_one_listing() -> None:
    local = LocalStore()
    local.data[b"d/f"] = b"1"
    local.gate = threading.Event()
    desk = Desk({SOURCE: local})
    pages: list[Page | None] = []
    threads = [threading.Thread(target=lambda: pages.append(desk.answer(wire.Ask("list", SOURCE, b"d/")).page)) for _ in range(6)]
    for t in threads:
        t.start()
    assert soon(lambda: desk.shared == 5)
    local.gate.set()
    for t in threads:
        t.join(5)
    assert len(pages) == 6
    assert all(p == pages[0] for p in pages)
    assert local.lists == 1
    assert desk.answer(wire.Ask("list", SOURCE, b"d/")).page == pages[0]
    assert local.lists == 2, "a listing asked for later is made anew"
    with pytest.raises(NotFound):
        desk.answer(wire.Ask("list", SOURCE, b"e/"))
    with pytest.raises(wire.Absent, match="no mount"):
        desk.answer(wire.Ask("stat", "s3://other", b"d/f"))
    assert desk.answer(wire.Ask("stat", SOURCE, b"d/f")).entry == Entry(b"f", False, 1, 0, b"v1")
    assert desk.answer(wire.Ask("is_dir", SOURCE, b"d")).is_dir


# --- what belongs here


def test_owned_bytes_and_copies() -> None:
    members = [Member(i, "h:1") for i in IDS]
    c = Cluster(DATASET, IDS[0], membership=Fixed(members), client=PeerClient(key()))
    rng = random.Random(1)
    owned = total = 0
    for _ in range(200):
        oid, size = rng.randbytes(16), rng.randrange(1, 4 * SEGMENT)
        n = c.owned(oid, size)
        assert 0 <= n <= size
        assert c.is_copy(oid, size) is (2 * n < size)
        owned, total = owned + n, total + size
    assert owned / total == pytest.approx(1 / 3, abs=0.06)
    alone = Cluster(DATASET, "x", membership=Fixed([]), client=PeerClient(key()))
    assert not alone.is_copy(bytes(16), 100)
    assert alone.hello() == wire.Hello("x", 1, DATASET, 1.0, "", placement.epoch([]), True)


def test_a_changed_list_makes_owners_look_around_for_a_while() -> None:
    told: list[object] = []

    class Moving(Fixed):
        def subscribe(self, changed: object) -> None:
            told.append(changed)

    now = [0.0]
    one = Member(IDS[0], "h:1")
    c = Cluster(DATASET, IDS[0], membership=Moving([one]), client=PeerClient(key()), clock=lambda: now[0])
    assert not c.returned()
    told[0]((one,))  # type: ignore[operator]
    assert not c.returned(), "the same list"
    told[0]((one, Member(IDS[1], "h:2")))  # type: ignore[operator]
    assert c.returned()
    assert len(c.members()) == 2
    now[0] += 601
    assert not c.returned()


def test_no_descriptor_is_left(world: World) -> None:
    ref = world.add("f", RNG.randbytes(4 * BLOCK))
    store = world.store()
    read(store, ref)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        body = store.read(ref.key, ref.version, 0, ref.size, ref.size)
        body.readinto(memoryview(bytearray(BLOCK)))
        body.close()
    assert soon(lambda: all(p.connections <= 1 for p in world.ports.values()))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
