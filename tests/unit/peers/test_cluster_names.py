"""ClusterStore over real ports: small files, names, and which bytes belong to a node."""

from __future__ import annotations

import os
import random
import threading

import pytest
from clusterworld import IDS, LocalStore, World, read
from peerkit import DATASET, SOURCE, key, soon
from storekit import drain

from forebay.cache.disk.index import BLOCK, SEGMENT
from forebay.cache.members import placement
from forebay.cache.members.cluster import LOOKS, Cluster
from forebay.cache.members.membership import Fixed
from forebay.cache.members.roster import Member
from forebay.cache.members.store import Wanted
from forebay.cache.peers import wire
from forebay.cache.peers.client import PeerClient
from forebay.cache.peers.desk import Desk
from forebay.cache.peers.wire import Ref
from forebay.cache.stores.base import Entry, NotFound, Page, Unavailable

RNG = random.Random(3)


# --- small files


def test_small_files_of_one_owner_come_in_one_exchange(world: World) -> None:
    content = [RNG.randbytes(n) for n in [0, 1, 5000, 16 << 10, BLOCK + 1] * 20]
    refs = [world.add(f"d/{i}", d) for i, d in enumerate(content)]
    store = world.store()
    got = {i: drain(b) for i, b in filter(None, store.read_many([Wanted(r.key, r.version, r.size) for r in refs]))}  # type: ignore[arg-type]
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
    for i, body in filter(None, store.read_many(wanted)):
        assert i not in got
        got[i] = body
    for i, d in enumerate(content):
        body = got[i]
        assert not isinstance(body, Exception)
        assert drain(body) == d
    assert len(got) == 61
    assert store.cluster.events["batch_failed"] >= 2
    store.cluster.tend()
    assert soon(lambda: owner.suspects), "it was told, though its answer may have come too late"
    assert [a.key for a in owner.suspects] == [b"d/0"]


def test_my_own_small_files_are_left_to_my_store(world: World) -> None:
    refs = [world.add(f"d/{i}", bytes([i]) * 100) for i in range(30)]
    me = IDS[0]
    store = world.store(me, local=True)
    got = {i: drain(b) for i, b in filter(None, store.read_many([Wanted(r.key, r.version, r.size) for r in refs]))}  # type: ignore[arg-type]
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
        t.join(60)
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


def test_where_nobody_has_copies_few_are_asked_for(world: World) -> None:
    c = world.store(IDS[0], local=True, returned=True).cluster
    for _ in range(LOOKS):
        assert c.returned()
        c.looked(found=False)
    assert 0 < sum(c.returned() for _ in range(100 * LOOKS)) < 300, "about one in so many goes on looking"
    c.looked(found=True)
    assert all(c.returned() for _ in range(100))


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
