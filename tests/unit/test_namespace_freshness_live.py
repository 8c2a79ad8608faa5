"""Freshness over stores in memory: refresh, stale answers, names without versions, restarts."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from forebay.api.spec import Freshness
from forebay.cache.disk.index import ROOT, UNRESOLVED
from forebay.cache.stores.base import Denied, NotFound, StoreError, Unavailable
from forebay.cache.tree import listing, namespace, orphans

sys.path.insert(0, str(Path(__file__).parent))
from namespace_world import MemoryStore, World, run

EVENT = Freshness("event")
IMMUTABLE = Freshness("immutable")


def objects(*keys: bytes) -> dict[bytes, bytes]:
    return {key: b"v1-" + key for key in keys}


def down(op: str, key: bytes, token: bytes | None) -> StoreError | None:
    return Unavailable("the store is down")


# freshness


@pytest.mark.parametrize("mode", [IMMUTABLE, EVENT])
def test_what_never_expires_is_asked_again_only_after_a_refresh(tmp_path: Path, mode: Freshness) -> None:
    store = MemoryStore(objects(b"a", b"d/b", b"e/f/g"))

    async def body(w: World) -> None:
        before = await w.tree()
        n = len(store.calls)
        w.clock.now += 10**7
        assert await w.tree() == before
        with pytest.raises(NotFound):
            await w.ns.lookup(ROOT, b"new")
        assert len(store.calls) == n
        store.objects |= {b"a": b"v2", b"new": b"v", b"e/f/g": b"v2"}
        await w.ns.refresh(b"/")
        while w.ns.lister.flights or not {b"a", b"g"} <= {e.name for e in w.events}:  # changes are told without a reader
            await trio.sleep(0.01)
        assert {e.name for e in w.events} == {b"a", b"g"}
        after = await w.tree()
        assert set(after) == set(before) | {b"/new"}
        assert after[b"/d/b"].ino == before[b"/d/b"].ino
        n = len(store.calls)
        await w.tree()
        assert len(store.calls) == n

    run(World(tmp_path, store, freshness=mode), body)


def test_refresh_of_one_file_and_of_one_directory(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"d/b", b"e/c"))

    async def body(w: World) -> None:
        before = await w.tree()
        store.objects = dict.fromkeys(store.objects, b"v2")
        await w.ns.refresh(b"/a")
        assert [e.name for e in w.events] == [b"a"]
        await w.ns.refresh(b"/d")
        assert (await w.ns.path(b"/d/b")).version == b"v2"
        assert (await w.ns.path(b"/e/c")) == before[b"/e/c"]
        with pytest.raises(NotFound):
            await w.ns.refresh(b"/nothing")

    run(World(tmp_path, store), body)


def test_a_listing_under_way_at_a_refresh_vouches_for_nothing(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"), page=1)
    store.gate = threading.Event()

    async def body(w: World) -> None:
        await w.ns.list_dir(ROOT)
        await w.ns.refresh(b"/")
        assert store.gate is not None
        store.gate.set()
        await w.drain(ROOT)
        n = store.count("list")
        await w.drain(ROOT)
        assert store.count("list") == n + 2

    run(World(tmp_path, store), body)


def test_without_a_time_to_live_every_look_asks(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))

    async def body(w: World) -> None:
        for n in (1, 2, 3):
            await w.drain(ROOT)
            assert store.count("list") == n
            store.objects[b"a"] = b"v%d" % n
            assert (await w.ns.path(b"/a")).version == b"v%d" % n

    run(World(tmp_path, store, freshness=Freshness("ttl", 0.0)), body)


def test_a_known_name_is_shown_stale_while_its_store_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(objects(b"a", b"d/b"))
    monkeypatch.setattr(namespace, "STALE_GRACE", 600.0)

    def wait_it_out(w: World) -> None:
        w.ns._grace = dict.fromkeys(w.ns._grace, 0.0)

    async def body(w: World) -> None:
        a = await w.ns.lookup(ROOT, b"a")
        d = await w.ns.lookup(ROOT, b"d")
        store.fault = down
        w.clock.now += 61
        store.calls.clear()
        assert await w.ns.lookup(ROOT, b"a") == a
        assert await w.ns.lookup(ROOT, b"d") == d
        asked = len(store.calls)
        for _ in range(20):
            assert await w.ns.lookup(ROOT, b"a") == a
            assert await w.ns.validate(a) == a
        assert len(store.calls) == asked  # not hammered
        assert w.ns.core.stale_answers == 42
        with pytest.raises(Unavailable):
            await w.ns.lookup(ROOT, b"unknown")
        asked = len(store.calls)
        wait_it_out(w)
        await w.ns.lookup(ROOT, b"a")
        assert len(store.calls) > asked
        assert w.row(a).checked < w.clock.now - 60  # a stale answer confirms nothing
        store.fault = lambda op, key, token: None
        wait_it_out(w)
        await w.ns.lookup(ROOT, b"a")
        assert w.row(a).checked == int(w.clock.now)

    run(World(tmp_path, store), body)


def test_a_refused_name_is_an_error_not_a_stale_answer(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))

    async def body(w: World) -> None:
        ino = await w.ns.lookup(ROOT, b"a")
        store.fault = lambda op, key, token: Denied("the key was revoked")
        w.clock.now += 61
        with pytest.raises(Denied):
            await w.ns.lookup(ROOT, b"a")
        assert w.row(ino).version == b"v1-a"  # dropped nothing

    run(World(tmp_path, store), body)


def test_a_long_relisting_shows_the_old_one_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(objects(b"a", b"b", b"c"), page=1)
    monkeypatch.setattr(listing, "RELIST_WAIT", 0.05)

    async def body(w: World) -> None:
        await w.drain(ROOT)
        w.clock.now += 61
        store.gate = threading.Event()
        store.objects[b"d"] = b"v"
        assert [r.name for r in await w.drain(ROOT)] == [b"a", b"b", b"c"]
        assert w.ns.core.stale_answers == 1
        store.gate.set()
        while w.ns.lister.flights:
            await trio.sleep(0.01)
        assert [r.name for r in await w.drain(ROOT)] == [b"a", b"b", b"c", b"d"]

    run(World(tmp_path, store), body)


# names without versions (web servers)


def test_names_without_versions_are_resolved_in_parallel_and_keep_their_inodes(tmp_path: Path) -> None:
    store = MemoryStore(objects(*(b"f%02d" % i for i in range(40))), versions=False)

    async def body(w: World) -> None:
        rows = await w.drain(ROOT)
        assert all(r.flags & UNRESOLVED and r.version == b"" for r in rows)
        del store.objects[b"f07"]
        store.fault = lambda op, key, token: Denied("403") if op == "stat" and key == b"f08" else None
        await w.ns.resolve(ROOT, [r.ino for r in rows])
        now = {name: w.row(r.ino) for r in rows if (name := r.name) != b"f07"}
        assert all(bool(r.flags & UNRESOLVED) == (name == b"f08") for name, r in now.items())
        assert now[b"f00"].version == b"v1-f00"
        assert now[b"f00"].ino == rows[0].ino
        assert b"f07" not in w.names()
        assert [(e.name, e.new) for e in w.events] == [(b"f07", 0)]
        store.calls.clear()
        await w.ns.resolve(ROOT, [r.ino for r in rows])
        assert store.calls == [("stat", b"f08")]

    run(World(tmp_path, store), body)


def test_resolving_says_so_when_the_store_is_down(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"), versions=False)

    async def body(w: World) -> None:
        rows = await w.drain(ROOT)
        store.fault = down
        with pytest.raises(Unavailable):
            await w.ns.resolve(ROOT, [r.ino for r in rows])
        with pytest.raises(Unavailable):
            await w.ns.lookup(ROOT, b"a")  # a name without a size is no stale answer

    run(World(tmp_path, store), body)


def test_a_listing_without_versions_vouches_for_no_version(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b"), versions=False)

    async def body(w: World) -> None:
        b = await w.ns.lookup(ROOT, b"b")  # known before the listing
        rows = await w.drain(ROOT)
        await w.ns.resolve(ROOT, [r.ino for r in rows])
        w.clock.now += 61
        store.objects = {b"a": b"v2", b"b": b"v2"}
        again = {r.name: r for r in await w.drain(ROOT)}
        assert again[b"b"].ino == b  # the name is confirmed
        assert (await w.ns.path(b"/a")).version == b"v2"
        assert (await w.ns.path(b"/b")).version == b"v2"
        assert {e.name for e in w.events} == {b"a", b"b"}

    run(World(tmp_path, store), body)


# restarts


def test_a_restart_knows_every_inode_and_drops_what_no_name_points_to(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"d/b", b"d/e/c"))
    olds: list[int] = []
    tree: dict[bytes, int] = {}

    async def first(w: World) -> None:
        before = await w.tree()
        store.objects = {b"a": b"v2"}
        w.clock.now += 61
        tree.update({p: r.ino for p, r in (await w.tree()).items()})
        olds.extend(r.ino for r in before.values())
        assert all(w.row(ino) for ino in olds)

    async def kept(w: World) -> None:
        assert {p: r.ino for p, r in (await w.tree()).items()} == tree
        assert [w.row(ino).ino for ino in olds] == olds

    async def dropped(w: World) -> None:
        assert {p: r.ino for p, r in (await w.tree()).items()} == tree
        with w.index.env.begin() as txn:
            assert [w.index.row(txn, ino) for ino in olds] == [None] * len(olds)
            assert txn.stat(w.index.orphans)["entries"] == 0
            assert w.index.counts(txn) == (1, 1, 102)

    run(World(tmp_path, store), first)
    run(World(tmp_path, store), kept)  # a mount of this boot may hold them
    world = World(tmp_path, store)
    world.ns.start(keep_orphans=False)
    run(world, dropped)


def test_after_another_boot_nobody_holds_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore({b"a": b"v1"})

    async def change(w: World) -> None:
        await w.ns.path(b"/a")
        store.objects[b"a"] = b"v2"
        w.clock.now += 61
        await w.ns.path(b"/a")
        with w.index.env.begin() as txn:
            assert txn.stat(w.index.orphans)["entries"] == 1

    async def look(w: World) -> None:
        with w.index.env.begin() as txn:
            assert txn.stat(w.index.orphans)["entries"] == 0

    run(World(tmp_path, store), change)
    monkeypatch.setattr(orphans, "boot_id", lambda: 1)
    run(World(tmp_path, store), look)


async def gone(w: World, ino: int) -> None:
    while True:
        with w.index.env.begin() as txn:
            if w.index.row(txn, ino) is None:
                return
        await trio.sleep(0.01)


def test_what_nobody_can_hold_is_reaped_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore({b"a": b"v1", b"b": b"v1"})
    monkeypatch.setattr(orphans, "EVERY", 0.01)

    async def body(w: World) -> None:
        a, b = await w.ns.lookup(ROOT, b"a"), await w.ns.lookup(ROOT, b"b")
        store.objects = {b"a": b"v2", b"b": b"v2"}
        w.clock.now += 61
        await w.ns.path(b"/a")
        await w.ns.path(b"/b")
        w.clock.now += orphans.AGE + 1
        await trio.sleep(0.05)
        assert w.row(a).version == b"v1"  # without `held` a day must pass
        w.ns.reaper.held = lambda ino: ino == a
        await gone(w, b)
        assert w.row(a).version == b"v1"
        w.ns.reaper.held = None
        w.clock.now += orphans.AGE_UNTOLD
        await gone(w, a)

    run(World(tmp_path, store), body)


def test_other_mounts_than_last_time_begin_a_new_tree_with_new_inodes(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a"))
    inos: list[int] = []

    async def look(w: World) -> None:
        tree = await w.tree()
        inos.append(next(row.ino for path, row in tree.items() if path.endswith(b"/a")))

    run(World(tmp_path, store), look)
    run(World(tmp_path, store, paths=["/sub"]), look)
    assert inos[1] > inos[0]


def test_held_versions_outlive_the_reaper(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"b", b"d/x", b"d/y"))

    async def body(w: World) -> None:
        before = {p: r.ino for p, r in (await w.tree()).items()}
        store.objects = {b"c": b"v"}
        w.clock.now += 61
        await w.tree()
        held = {before[b"/a"], before[b"/d/y"]}
        later = w.clock.now + 10
        while w.ns.reaper.reap(later, held.__contains__):
            w.sound()
        with w.index.env.begin() as txn:
            alive = {p for p, ino in before.items() if w.index.row(txn, ino) is not None}
        assert alive >= {b"/a", b"/d/y"}
        assert alive.isdisjoint({b"/b", b"/d/x"})
        assert w.ns.locate(before[b"/a"]).key == b"a"
        while w.ns.reaper.reap(later):
            pass
        with w.index.env.begin() as txn:
            assert txn.stat(w.index.orphans)["entries"] == 0

    run(World(tmp_path, store), body)


def test_numbers_for_status(tmp_path: Path) -> None:
    store = MemoryStore(objects(b"a", b"d/b"))

    async def body(w: World) -> None:
        await w.tree()
        store.fault = lambda op, key, token: Denied("bucket0: 403: check the access key")
        w.clock.now += 100
        with pytest.raises(Denied):
            await w.ns.lookup(ROOT, b"a")
        s = w.ns.stats()
        assert (s["dirs"], s["files"], s["bytes"]) == (2, 2, 200 + len(b"v1-a") + len(b"v1-d/b"))
        (mount,) = s["mounts"]  # type: ignore[misc]
        assert mount["error"] == "bucket0: 403: check the access key"
        assert mount["error_age"] == 0.0
        assert mount["ok_age"] == 100.0

    run(World(tmp_path, store), body)


def test_a_namespace_that_does_not_run_says_so(tmp_path: Path) -> None:
    w = World(tmp_path, MemoryStore())
    w.ns.start()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="not running"):
            await w.ns.lookup(ROOT, b"a")

    trio.run(main)
    w.index.close()
