"""ClusterStore over real ports: where bytes come from while members come, go, stall and lie."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
from clusterworld import IDS, World, read
from peerkit import SOURCE, soon
from storekit import drain

from forebay.cache.disk import files
from forebay.cache.disk.extents import blocks_of, checksum
from forebay.cache.disk.index import BLOCK, SEGMENT, object_id
from forebay.cache.members import route
from forebay.cache.members.routed import RoutedBody
from forebay.cache.members.store import ClusterStore
from forebay.cache.peers import httpd, wire
from forebay.cache.peers.wire import Mode, Ref
from forebay.cache.stores.base import Body, Changed, Unavailable

RNG = random.Random(3)


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


def received(body: Body, ref: Ref, path: Path) -> tuple[bytes, bytes]:
    """What `files.receive` writes of a whole object, and the checksums it tells."""
    told: dict[int, bytes] = {}
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        buffer = memoryview(bytearray(4 * BLOCK))
        lock = threading.Lock()
        files.receive(body, fd, ref.size, 0, blocks_of(ref.size), buffer=buffer, lock=lock, arrived=told.__setitem__)
    finally:
        os.close(fd)
        body.close()
    return path.read_bytes(), b"".join(told[at] for at in sorted(told))


def test_what_a_member_sent_is_hashed_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = RNG.randbytes(9 * BLOCK + 77)
    ref = world.add("d/f", data)
    body = world.store().read(ref.key, ref.version, 0, ref.size, ref.size)
    monkeypatch.setattr(files, "checksum", lambda _: pytest.fail("its checksum came with it, and was compared"))
    assert received(body, ref, tmp_path / "f") == (data, sums_of(data))


def test_what_a_store_sent_in_between_is_hashed(world: World, tmp_path: Path) -> None:
    data = RNG.randbytes(9 * BLOCK + 77)
    ref = world.add("d/f", data)
    owner = world.order(ref)[0]
    body = world.store(owner.identity, local=True).read(ref.key, ref.version, 0, ref.size, ref.size)
    assert received(body, ref, tmp_path / "f") == (data, sums_of(data))


def sums_of(data: bytes) -> bytes:
    return b"".join(checksum(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))


@pytest.mark.parametrize("before", [1000, BLOCK, BLOCK + 1])
def test_a_part_of_a_block_proves_nothing(world: World, before: int) -> None:
    ref = world.add("d/f", RNG.randbytes(4 * BLOCK))
    body = world.store().read(ref.key, ref.version, BLOCK // 2, ref.size - BLOCK // 2, ref.size)
    assert isinstance(body, RoutedBody)
    view, done = memoryview(bytearray(4 * BLOCK)), 0
    while done < 2 * BLOCK:
        done += body.readinto(view[done : done + before])
    assert body.proved(blocks_of(done)) == b""
    body.close()


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
    monkeypatch.setattr(route, "HEDGE_AFTER", 1.0)
    data = RNG.randbytes(6 * BLOCK)
    ref = world.add("f", data)
    owner, first, second = world.order(ref)
    owner.gates = {1: threading.Event(), 4: threading.Event()}
    second.have = {1, 2}
    store = world.store()

    def slowly() -> None:
        for block in owner.gates:  # it has them when others were asked
            soon(lambda block=block: ("cached", block, 6 - block) in second.asked)
            owner.gates[block].set()

    slow = threading.Thread(target=slowly)
    slow.start()
    assert read(store, ref) == data
    slow.join()
    assert ("cached", 1, 5) in second.asked
    assert ("cached", 1, 5) in first.asked
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
            soon(lambda: store.cluster.events["silent"])
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
        t.join(60)
    assert results == [data] * 3
    assert 2.0 <= time.monotonic() - began < 20
    assert [a for a in first.asked if a[0] == "standin"] == [("standin", 0, 3)] * 3
    assert not [a for a in second.asked if a[0] != "cached"]
    assert world.local.reads == [], "a node that is not the next one leaves the store alone"
    took: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        assert read(stores[0], ref) == data
        took.append(time.monotonic() - began)
    assert min(took) < 1.5, "only the first range pays for finding out, and that is 2 s"


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
    assert not [a for a in owner.asked if a[0] != "cached"], "who has a copy is asked for it, nobody to fetch"


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


def test_a_killed_owner_that_is_back_in_a_second_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "REFUSING", 20.0)  # 2 s are little for the machine to take up a thread again
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
    reader.join(60)
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

    def well() -> bool:
        c.tend()  # who does not answer within a second is greeted again
        return not c.health.down(owner.identity, now[0])

    assert soon(well)
    c.start()
    c.close(60)
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
    assert soon(lambda: owner.suspects), "it was told, though its answer may have come too late"
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
        t.join(100)
    stop.set()
    disturber.join()
    assert not failures
    assert not any(t.is_alive() for t in threads)
